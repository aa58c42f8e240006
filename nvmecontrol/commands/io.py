"""flush, dsm and write-zeroes: I/O commands that wait and are replayed like any other I/O."""

from typing import Any

import click

from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import Failure, usage
from nvmecontrol.options import U32_MAX, U64_MAX, Number, bad_value, parse_number
from nvmf_host.messages import DeallocateRequest, FlushRequest, WriteZeroesRequest

#: NVM Command Set 1.1, section 3.2.3.
MAX_RANGES = 256


def namespace_name(session: Session, device: str) -> str:
    """The name of a namespace, given by name or path; a controller is refused."""
    name = session.device(device)
    if "ns" not in name:
        raise Failure(
            "a controller; give a namespace, as nvmeXnsY",
            kind="usage",
            field="device",
            value=device,
        )
    return name


def _done(session: Session) -> None:
    if session.json:
        session.show({})


@click.command("flush", cls=Command)
@click.argument("device", metavar="nvmeXnsY")
@pass_session
def flush(session: Session, /, device: str) -> None:
    """Make all that was written to a namespace durable.

    Waits while the namespace is not live.
    """
    session.request(FlushRequest(device=namespace_name(session, device)))
    _done(session)


def _numbers(high: int) -> Any:
    def convert(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
        numbers = []
        for text in value.split(","):
            number = parse_number(text.strip())
            if number is None or not 0 <= number <= high:
                raise bad_value(
                    parameter, text, f"not a number in range; give 0 to {high}, between commas"
                )
            numbers.append(number)
        return tuple(numbers)

    return convert


def _refuse_hint(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise bad_value(parameter, "", "not offered: only deallocation is; leave it out")


@click.command("dsm", cls=Command)
@click.option("-d", "--ad", is_flag=True, help="Deallocate, which is all it does. [default: on]")
@click.option(
    "-s",
    "--slbs",
    required=True,
    metavar="LBA[,LBA]...",
    callback=_numbers(U64_MAX),
    help="First LBA of each range.",
)
@click.option(
    "-b",
    "--blocks",
    required=True,
    metavar="N[,N]...",
    callback=_numbers(U32_MAX),
    help="Length of each range in LBAs.",
)
@click.option("-w", "--idw", is_flag=True, hidden=True, expose_value=False, callback=_refuse_hint)
@click.option("-r", "--idr", is_flag=True, hidden=True, expose_value=False, callback=_refuse_hint)
@click.argument("device", metavar="nvmeXnsY")
@pass_session
def dsm(
    session: Session, /, device: str, slbs: tuple[int, ...], blocks: tuple[int, ...], **_: Any
) -> None:
    """Deallocate up to 256 ranges of a namespace (Dataset Management).

    What is read from them later is zeroes, or as before, as the controller has it.
    """
    name = namespace_name(session, device)
    if len(slbs) != len(blocks):
        raise usage(
            f"{len(blocks)} lengths for {len(slbs)} ranges; give as many as with --slbs",
            field="blocks",
            label="--blocks",
        )
    if 0 in blocks:
        raise usage("out of range; give at least 1 LBA", field="blocks", value=0, label="--blocks")
    if len(slbs) > MAX_RANGES:
        raise usage(f"{len(slbs)} ranges; give at most {MAX_RANGES}", field="slbs", label="--slbs")
    session.request(DeallocateRequest(device=name, ranges=tuple(zip(slbs, blocks, strict=True))))
    _done(session)


@click.command("write-zeroes", cls=Command)
@click.option(
    "-s",
    "--start-block",
    "slba",
    type=Number(0, U64_MAX),
    required=True,
    metavar="LBA",
    help="First LBA.",
)
@click.option(
    "-b", "--blocks", type=Number(1, U64_MAX, "LBAs"), metavar="N", help="Number of LBAs."
)
@click.option(
    "-c",
    "--block-count",
    type=Number(0, U64_MAX - 1, "LBAs"),
    metavar="N",
    help="Number of LBAs less one, as nvme-cli counts; instead of -b.",
)
@click.option("-d", "--deac", is_flag=True, help="Ask to deallocate the LBAs. [default: off]")
@click.option(
    "-f",
    "--force-unit-access",
    "fua",
    is_flag=True,
    help="Return once it is durable. [default: off]",
)
@click.argument("device", metavar="nvmeXnsY")
@pass_session
def write_zeroes(
    session: Session,
    /,
    device: str,
    slba: int,
    blocks: int | None,
    block_count: int | None,
    **flags: bool,
) -> None:
    """Zero a range of LBAs of a namespace.

    One of -b and -c must be given.
    """
    name = namespace_name(session, device)
    if (blocks is None) == (block_count is None):
        raise usage(
            "one of --blocks and --block-count; give exactly one", field="blocks", label="--blocks"
        )
    length = block_count + 1 if block_count is not None else blocks or 0
    session.request(
        WriteZeroesRequest(
            device=name,
            slba=slba,
            length_lbas=length,
            fua=flags["fua"],
            deallocate=flags["deac"],
        )
    )
    _done(session)
