"""identify, and what `ns identify` shares with it."""

import base64

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import Failure
from nvmecontrol.options import U32_MAX, Number
from nvmecontrol.text.controller import controller_lines
from nvmecontrol.text.dump import hex_lines
from nvmecontrol.text.labels import as_json
from nvmecontrol.text.namespace import namespace_lines
from nvmf_host.messages import DataResult, IdentifyRequest
from nvmf_transport.identify import IDENTIFY_BYTES, IdentifyController, IdentifyNamespace
from nvmf_transport.nvme import Cns


def identify_data(session: Session, device: str, cns: Cns, nsid: int | None = None) -> bytes:
    """The 4096 bytes that IDENTIFY returns."""
    answer = session.request(IdentifyRequest(device=device, cns=cns, nsid=nsid))
    data = base64.b64decode(structure(DataResult, answer).data)
    if len(data) != IDENTIFY_BYTES:
        raise Failure(
            f"{len(data)} bytes of identify data, there are {IDENTIFY_BYTES}; "
            "use a fusedev and nvmecontrol of the same version"
        )
    return data


def identify_controller(session: Session, device: str) -> IdentifyController:
    """Identify Controller of the controller that `device` is or belongs to."""
    return IdentifyController.unpack(identify_data(session, device, Cns.CONTROLLER, 0))


def show(
    session: Session,
    data: bytes,
    kind: type[IdentifyController] | type[IdentifyNamespace],
    *,
    as_hex: bool,
    verbose: bool,
) -> None:
    """Prints identify data as JSON, hex or text."""
    decoded = kind.unpack(data)
    if session.json:
        session.show(as_json(decoded))
    elif as_hex:
        # Whole lines, up to the last field that is not reserved.
        end = len(data) if verbose else -(-kind.reserved_ranges()[-1][0] // 16) * 16
        click.echo("\n".join(hex_lines(data[:end])))
    elif isinstance(decoded, IdentifyController):
        click.echo("\n".join(controller_lines(decoded)))
    else:
        click.echo("\n".join(namespace_lines(decoded)))


def show_namespace(
    session: Session, device: str, nsid: int | None, *, as_hex: bool, verbose: bool
) -> None:
    """Prints the identify data of a namespace."""
    data = identify_data(session, device, Cns.NAMESPACE, nsid)
    if not any(data):
        raise Failure(
            "an inactive namespace; `nvmecontrol ns active` lists the active ones",
            kind="command",
            field="nsid",
            value=None if nsid is None else str(nsid),
            label="NSID",
        )
    show(session, data, IdentifyNamespace, as_hex=as_hex, verbose=verbose)


@click.command("identify", cls=Command)
@click.option("-x", "--hex", "as_hex", is_flag=True, help="Print as a hex dump. [default: text]")
@click.option(
    "-v", "--verbose", is_flag=True, help="With -x: all bytes. [default: not the reserved end]"
)
@click.option(
    "-n",
    "--nsid",
    type=Number(0, U32_MAX),
    metavar="NSID",
    help="Identify this namespace; 0: the controller. [default: what DEVICE is]",
)
@click.argument("device", metavar="nvmeX|nvmeXnsY")
@pass_session
def identify(session: Session, device: str, as_hex: bool, verbose: bool, nsid: int | None) -> None:
    """Show the identify data of a controller or namespace."""
    name = session.device(device)
    if nsid == 0 or (nsid is None and "ns" not in name):
        data = identify_data(session, name, Cns.CONTROLLER, 0)
        show(session, data, IdentifyController, as_hex=as_hex, verbose=verbose)
    else:
        show_namespace(session, name, nsid, as_hex=as_hex, verbose=verbose)
