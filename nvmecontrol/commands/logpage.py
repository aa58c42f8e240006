"""logpage."""

import base64
import binascii
import sys
from typing import Any

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import NO_SUCH_LOG_PAGE, Failure, usage
from nvmecontrol.options import U16_MAX, U64_MAX, Number, bad_value, parse_number
from nvmecontrol.pages import BY_LID, BY_NAME, PAGES, UNKNOWN_BYTES, Page, page_table, unknown_page
from nvmecontrol.text.discovery import discovery_lines
from nvmecontrol.text.dump import hex_lines
from nvmecontrol.text.labels import as_json
from nvmf_host.messages import DataResult, LogPageRequest
from nvmf_transport.fabrics import DiscoveryLogEntry, DiscoveryLogHeader
from nvmf_transport.logs import LogId
from nvmf_transport.nvme import NSID_ALL

from .identify import identify_controller

MAX_LOG_BYTES = 64 << 20
#: Entries of a discovery log that are asked for at most, as `discover` has it.
MAX_DISCOVERY_ENTRIES = 1024


def _check_page(context: click.Context, parameter: click.Parameter, value: str) -> Page:
    if value == "help":
        session = context.find_object(Session)
        if session is not None and session.json:
            session.show(
                {"pages": [{"lid": p.lid, "name": p.name, "title": p.title} for p in PAGES]}
            )
        else:
            click.echo("\n".join(page_table()))
        context.exit(0)
    if value.lower() in BY_NAME:
        return BY_NAME[value.lower()]
    lid = parse_number(value)
    if lid is None or not 0 <= lid <= 0xFF:
        raise bad_value(
            parameter, value, "not a log page; give 0 to 0xff, or a name that `-p help` lists"
        )
    return BY_LID.get(lid) or unknown_page(lid)


def _vendor(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value == "help":
        click.echo("There are no vendors' log pages; -x dumps pages C0h to FFh.")
        context.exit(0)
    if value is not None:
        raise bad_value(parameter, value, "no vendors' log pages are known; use -x instead")


@click.command("logpage", cls=Command)
@click.option(
    "-p",
    "--page",
    required=True,
    metavar="PAGE",
    callback=_check_page,
    help="Log page by number or name; `-p help` lists them.",
)
@click.option("-x", "--hex", "as_hex", is_flag=True, help="Print as a hex dump. [default: text]")
@click.option("-b", "--binary", is_flag=True, help="Write the bytes as they are. [default: text]")
@click.option(
    "-v",
    "--vendor",
    metavar="VENDOR",
    expose_value=False,
    callback=_vendor,
    help="Vendor whose page it is; none is known.",
)
@click.option(
    "-f",
    "--lsp",
    type=Number(0, 0x7F),
    default=0,
    show_default=True,
    metavar="LSP",
    help="Log Specific Parameter, 0 to 0x7f.",
)
@click.option(
    "-i",
    "--lsi",
    type=Number(0, U16_MAX),
    default=0,
    show_default=True,
    metavar="LSI",
    help="Log Specific Identifier, 0 to 0xffff.",
)
@click.option(
    "-r",
    "--rae",
    is_flag=True,
    help="Retain Asynchronous Event: leave the event that points at the page. [default: off]",
)
@click.option(
    "-l",
    "--log-len",
    "length_bytes",
    type=Number(4, MAX_LOG_BYTES, "bytes"),
    metavar="BYTES",
    help="How much to read, a multiple of 4 bytes. "
    f"[default: the whole page, {UNKNOWN_BYTES} of one of unknown length]",
)
@click.option(
    "-o",
    "--offset",
    "offset_bytes",
    type=Number(0, U64_MAX, "bytes"),
    default=0,
    show_default=True,
    metavar="BYTES",
    help="Where to begin, a multiple of 4 bytes.",
)
@click.argument("device", metavar="nvmeX|nvmeXnsY")
@pass_session
def logpage(
    session: Session,
    /,
    device: str,
    page: Page,
    as_hex: bool,
    binary: bool,
    **request: Any,
) -> None:
    """Show a log page of a controller.

    Of a namespace there is page 02h alone, where the controller keeps one for each.  A page that
    is not known here, and one of which only a part was asked for, is shown as a hex dump.
    """
    if as_hex and binary:
        raise usage("given together with --hex; give one of them", field="binary", label="--binary")
    if binary and session.json:
        raise usage(
            "given together with --json; give one of them", field="binary", label="--binary"
        )
    for name, label in (("length_bytes", "--log-len"), ("offset_bytes", "--offset")):
        if (request[name] or 0) % 4:
            raise usage(
                "not a multiple of 4; round it up", field=name, value=request[name], label=label
            )
    name = session.device(device)
    nsid = _nsid(session, name, page)
    part = request["length_bytes"] is not None or request["offset_bytes"] != 0
    if page.lid == LogId.DISCOVERY and not part:
        data = _read_discovery(session, name, page, nsid, request)
    else:
        length = request.pop("length_bytes") or _length(session, name, page)
        data = _read(session, name, page, nsid, {**request, "length_bytes": length})
    if binary:
        sys.stdout.buffer.write(data)
    elif session.json:
        session.show({"lid": page.lid, **_as_json(page, data, raw=as_hex or part)})
    else:
        click.echo("\n".join(_lines(page, data, raw=as_hex or part)))


def _nsid(session: Session, name: str, page: Page) -> int | None:
    if "ns" not in name:
        return NSID_ALL
    if page.lid != LogId.HEALTH:
        raise usage(
            f"not a page of a namespace; give the controller, {name.partition('ns')[0]}",
            field="page",
            value=page.name,
            label="--page",
        )
    # LPA bit 0 (Base 2.1, section 5.1.13.2.1).
    if not identify_controller(session, name).lpa & 1:
        raise Failure(
            "the controller keeps no such page for each namespace; "
            f"give the controller, {name.partition('ns')[0]}",
            kind="unavailable",
            field="page",
            value=page.name,
            label="--page",
        )
    return None


def _length(session: Session, name: str, page: Page) -> int:
    length = page.length_bytes
    return length if isinstance(length, int) else length(identify_controller(session, name))


def _read(
    session: Session, name: str, page: Page, nsid: int | None, request: dict[str, Any]
) -> bytes:
    try:
        answer = session.request(LogPageRequest(device=name, lid=page.lid, nsid=nsid, **request))
    except Failure as failure:
        plain = not (request["lsp"] or request["lsi"] or request["offset_bytes"])
        if plain and failure.status in NO_SUCH_LOG_PAGE:
            raise Failure(
                f"the controller has no such log page ({failure.message}); ask for another",
                kind="unavailable",
                field="page",
                value=page.name,
                status=failure.status,
                label="--page",
            ) from None
        raise
    try:
        return base64.b64decode(structure(DataResult, answer).data, validate=True)
    except binascii.Error as error:
        raise Failure(f"the daemon's answer is not base64 ({error})") from None


def _read_discovery(
    session: Session, name: str, page: Page, nsid: int | None, request: dict[str, Any]
) -> bytes:
    header = DiscoveryLogHeader.SIZE
    head = _read(session, name, page, nsid, {**request, "length_bytes": header})
    entries = min(DiscoveryLogHeader.unpack(head).numrec, MAX_DISCOVERY_ENTRIES)
    length = header + entries * DiscoveryLogEntry.SIZE
    return _read(session, name, page, nsid, {**request, "length_bytes": length})


def _discovery_entries(data: bytes) -> list[DiscoveryLogEntry]:
    count = DiscoveryLogHeader.unpack(data).numrec
    size = DiscoveryLogEntry.SIZE
    held = len(data) // size - 1
    return [DiscoveryLogEntry.unpack(data, size * (1 + n)) for n in range(min(count, held))]


def _lines(page: Page, data: bytes, *, raw: bool) -> list[str]:
    if not raw and page.lid == LogId.DISCOVERY:
        return discovery_lines(_discovery_entries(data))
    return hex_lines(data) if raw or page.lines is None else page.lines(data)


def _as_json(page: Page, data: bytes, *, raw: bool) -> dict[str, Any]:
    if not raw and page.lid == LogId.DISCOVERY:
        header = DiscoveryLogHeader.unpack(data)
        return {"genctr": header.genctr, "entries": [as_json(e) for e in _discovery_entries(data)]}
    return {"data": data.hex()} if raw or page.as_json is None else page.as_json(data)
