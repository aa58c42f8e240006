"""nsid, and the commands of `ns`."""

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, SubGroup, need_command, pass_session
from nvmecontrol.options import U32_MAX, Number
from nvmf_host.messages import NsidRequest, NsidResult
from nvmf_transport.identify import MAX_ACTIVE_NAMESPACES, unpack_namespace_list
from nvmf_transport.nvme import Cns

from .identify import identify_data, show_namespace


@click.command("nsid", cls=Command)
@click.argument("device", metavar="nvmeX|nvmeXnsY")
@pass_session
def nsid(session: Session, device: str) -> None:
    """Show which controller and NSID a node stands for; the NSID of a controller is 0."""
    answer = session.request(NsidRequest(device=session.device(device)))
    result = structure(NsidResult, answer)
    if session.json:
        session.show(answer)
    else:
        click.echo(f"{result.controller}\t{result.nsid}")


@click.group("ns", cls=SubGroup)
@click.pass_context
def ns(context: click.Context) -> None:
    """List and identify the namespaces of a controller."""
    need_command(context)


@ns.command("active")
@click.argument("device", metavar="nvmeX")
@pass_session
def active(session: Session, device: str) -> None:
    """List the NSIDs of the active namespaces of a controller."""
    name = session.device(device)
    found: list[int] = []
    while True:
        last = found[-1] if found else 0
        data = identify_data(session, name, Cns.ACTIVE_NAMESPACES, last)
        # Ascending, all above `last` (Base 2.1, section 5.1.13.2.2); else there is no end.
        page = sorted(each for each in unpack_namespace_list(data) if each > last)
        found += page
        if len(page) < MAX_ACTIVE_NAMESPACES:
            break
    if session.json:
        session.show({"nsids": found})
        return
    click.echo("Active namespaces:")
    for each in found:
        click.echo(f"{each:10d}")


@ns.command("identify")
@click.option("-x", "--hex", "as_hex", is_flag=True, help="Print as a hex dump. [default: text]")
@click.option(
    "-v", "--verbose", is_flag=True, help="With -x: all bytes. [default: not the reserved end]"
)
@click.option(
    "-n",
    "--nsid",
    type=Number(1, U32_MAX - 1),
    metavar="NSID",
    help="The namespace. [default: what DEVICE is]",
)
@click.argument("device", metavar="nvmeX|nvmeXnsY")
@pass_session
def identify(session: Session, device: str, as_hex: bool, verbose: bool, nsid: int | None) -> None:
    """Show the identify data of a namespace of a controller."""
    name = session.device(device)
    if nsid is None and "ns" not in name:
        raise click.MissingParameter(
            param=next(each for each in identify.params if each.name == "nsid"),
            ctx=click.get_current_context(),
        )
    show_namespace(session, name, nsid, as_hex=as_hex, verbose=verbose)
