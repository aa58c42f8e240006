"""paused."""

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.text.paused import paused_lines
from nvmf_host.messages import PausedRequest, PausedResult


@click.command("paused", cls=Command)
@click.argument("device", metavar="[nvmeX|nvmeXnsY]", required=False)
@pass_session
def paused(session: Session, /, device: str | None) -> None:
    """List the requests that wait, oldest first, and LBAs in quarantine: of nvmeX, or of all.

    PID and UID are those of the process that opened the node.  HELD is the memory that a request
    takes up while it waits.  A request that was sent is listed once it has no answer for a second.
    """
    name = None if device is None else session.device(device)
    answer = session.request(PausedRequest(device=name))
    if session.json:
        session.show(answer)
    else:
        click.echo("\n".join(paused_lines(structure(PausedResult, answer))))
