"""set."""

from typing import Any

import click

from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import usage
from nvmf_host.messages import SetRequest

from .connect import limit_options


@click.command("set", cls=Command)
@click.argument("device", metavar="nvmeX")
@pass_session
def set(session: Session, /, device: str, **limits: Any) -> None:  # noqa: A001  # the command's name
    """Change how long a controller is waited for; it holds at once, connected or lost.

    Limits count from the loss.  What is not given stays as it is; `devlist --json` shows it.
    """
    name = session.device(device)
    given = {field: value for field, value in limits.items() if value is not None}
    if not given:
        raise usage(
            "none; give -r, -l, --fast-io-fail-tmo, --replay-limit or --command-age",
            field="parameter",
            label="OPTIONS",
        )
    answer = session.request(SetRequest(device=name, **given))
    if session.json:
        session.show(answer)


set.params += limit_options(lambda _: " [default: as it was]", kept=True)
