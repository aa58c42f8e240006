"""disconnect and disconnect-all."""

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import EX_IOERR
from nvmecontrol.node import is_device_name
from nvmf_host.messages import DisconnectRequest, DisconnectResult


def _disconnect(session: Session, device: str | None) -> None:
    answer = session.request(DisconnectRequest(device=device))
    result = structure(DisconnectResult, answer)
    if session.json:
        session.show(answer)
    for name, problem in result.problems.items():
        session.note(f"{name}: {problem}")
    if result.problems:
        raise SystemExit(EX_IOERR)


@click.command("disconnect", cls=Command)
@click.argument("device", metavar="nvmeX|nvmeXnsY|SUBNQN")
@pass_session
def disconnect(session: Session, device: str) -> None:
    """Shut down a controller, or all controllers of SUBNQN, and remove the nodes.

    A namespace stands for its controller: all of that one's nodes go.  Returns once the
    controller has shut down and the nodes are gone.  I/O that waits fails.
    """
    # An NQN may have slashes in it; the path of a node ends in the name of one.
    is_path = "/" in device and is_device_name(device.rpartition("/")[2])
    if is_device_name(device) or (is_path and not device.startswith("nqn.")):
        name = session.device(device)
    else:
        name = device
        session.subject = ("device", device)
    _disconnect(session, name)


@click.command("disconnect-all", cls=Command)
@pass_session
def disconnect_all(session: Session) -> None:
    """Shut down all controllers and remove their nodes.

    Returns once they have shut down and the nodes are gone.  I/O that waits fails.
    """
    _disconnect(session, None)
