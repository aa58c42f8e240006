"""devlist."""

from typing import Any

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import EX_UNAVAILABLE
from nvmecontrol.text.devlist import devlist_lines
from nvmf_host.messages import DevlistRequest, DevlistResult


@click.command("devlist", cls=Command)
@click.option("-h", "--human", is_flag=True, help="Sizes in the unit that fits. [default: MB]")
@pass_session
def devlist(session: Session, /, **options: Any) -> None:
    """List controllers and their namespaces, with what keeps them waiting and the cure.

    Sizes are in units of powers of 1024.  Exits with 69 where there are no controllers.
    """
    answer = session.request(DevlistRequest())
    controllers = structure(DevlistResult, answer).controllers
    if session.json:
        session.show(answer)
    elif controllers:
        click.echo("\n".join(devlist_lines(controllers, human=options["human"])))
    else:
        click.echo("No NVMe controllers found.")
    if not controllers:
        raise SystemExit(EX_UNAVAILABLE)
