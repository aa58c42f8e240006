"""connect and reconnect."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import Failure, usage
from nvmecontrol.options import (
    MAX_DELAY_S,
    MAX_IO_QUEUES,
    MAX_KATO_S,
    MAX_LIMIT_S,
    MAX_QUEUE_ENTRIES,
    Number,
    Seconds,
    bad_value,
    parse_number,
    refused_options,
)

if TYPE_CHECKING:
    from nvmf_host.messages import ConnectResult

TRANSPORTS: Final = ("tcp",)
CNTLID_MAX: Final = 0xFFEF


def check_transport(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Takes the name of a transport."""
    if value.lower() not in TRANSPORTS:
        raise Failure(
            f"unknown transport; available: {', '.join(TRANSPORTS)}",
            kind="unavailable",
            field="transport",
            value=value,
            label="--transport",
        )
    return value.lower()


def check_nqn(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Takes an NQN."""
    from nvmf_transport.nqn import check_nqn

    return None if value is None else check_nqn(value, parameter.name or "")


def _check_cntlid(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value.lower() in {"dynamic", "static"}:
        return value.lower()
    number = parse_number(value)
    if number is None or not 0 <= number <= CNTLID_MAX:
        raise bad_value(
            parameter, value, f"not a controller ID; give dynamic, static or 0 to {CNTLID_MAX:#x}"
        )
    return str(number)


def transport_option() -> click.Option:
    """-t."""
    return click.Option(
        ["transport", "-t", "--transport"],
        default="tcp",
        show_default=True,
        metavar="NAME",
        callback=check_transport,
        help="Transport: tcp.",
    )


def identity_options(default: str = "see `nvmecontrol hostnqn`") -> list[click.Parameter]:
    """-q and -I."""
    return [
        click.Option(
            ["hostnqn", "-q", "--hostnqn"],
            metavar="NQN",
            callback=check_nqn,
            help=f"Host NQN. [default: {default}]",
        ),
        click.Option(
            ["hostid", "-I", "--hostid"],
            metavar="UUID",
            help=f"Host ID, a UUID: the other half of the identity. [default: {default}]",
        ),
    ]


def path_options() -> list[click.Parameter]:
    """-w and -f."""
    return [
        click.Option(
            ["host_traddr", "-w", "--host-traddr"],
            metavar="ADDRESS",
            help="Local address to connect from. [default: the system's choice]",
        ),
        click.Option(
            ["host_iface", "-f", "--host-iface"],
            metavar="INTERFACE",
            help="Network interface to connect through. [default: the system's choice]",
        ),
    ]


def limit_options(default: Callable[[str], str], *, kept: bool) -> list[click.Parameter]:
    """-r, -l and the others that say how long something waits; `default` words a default.

    With `kept`, "never" is a value of its own: what is not given stays as it is.
    """

    def never(zero: bool) -> Callable[[click.Context, click.Parameter, float | None], float | None]:
        def taken(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
            means_never = value is not None and (value < 0 or (zero and value == 0))
            return (-1.0 if kept else None) if means_never else value

        return taken

    return [
        click.Option(
            ["reconnect_delay_s", "-r", "--reconnect-delay"],
            type=Seconds(0, MAX_DELAY_S),
            metavar="SECONDS",
            help="Longest wait in seconds between two attempts to reconnect; 0: by hand only."
            + default("10"),
        ),
        click.Option(
            ["ctrl_loss_tmo_s", "-l", "--ctrl-loss-tmo", "--ctrl_loss_tmo"],
            type=Seconds(0, MAX_LIMIT_S, also=-1),
            metavar="SECONDS",
            callback=never(zero=True),
            help="Disconnect a controller that is lost for so long: its nodes go, and I/O that "
            "waits is lost with them. 0 or -1: never." + default("never"),
        ),
        click.Option(
            [
                "fast_io_fail_s",
                "--fast-io-fail-tmo",
                "--fast_io_fail_tmo",
                "--fast-io-fail",
            ],
            type=Seconds(0, MAX_LIMIT_S, also=-1),
            metavar="SECONDS",
            callback=never(zero=False),
            help="So long after the loss, I/O that waits and I/O that comes fails until the "
            "controller is back; 0: at once, -1: never." + default("never"),
        ),
        click.Option(
            ["replay_limit_s", "--replay-limit", "--replay_limit"],
            type=Seconds(0, MAX_LIMIT_S),
            metavar="SECONDS",
            help="After a longer loss, writes that wait go on by themselves only where no other "
            "host can have written meanwhile." + default("600"),
        ),
        click.Option(
            ["command_age_s", "--command-age"],
            type=Seconds(1, MAX_LIMIT_S, also=0),
            metavar="SECONDS",
            help="A command that is not answered for so long ends the connection, which is then "
            "made again; 0: never." + default("60"),
        ),
    ]


def connect_options(*, reconnect: bool = False) -> list[click.Parameter]:
    """The options of connect, connect-all and reconnect; what reconnect is not told, it keeps."""
    kept = reconnect

    def default(text: str) -> str:
        return " [default: as it was]" if kept else f" [default: {text}]"

    options: list[click.Parameter] = [transport_option()]
    if not reconnect:
        options.append(
            click.Option(
                ["cntlid", "-c", "--cntlid"],
                default="dynamic",
                show_default=True,
                metavar="ID",
                callback=_check_cntlid,
                help=f"Controller ID: dynamic, static, or 0 to {CNTLID_MAX:#x}.",
            )
        )
    options += [
        click.Option(
            ["nr_io_queues", "-i", "--nr-io-queues"],
            type=Number(1, MAX_IO_QUEUES, "queues"),
            metavar="N",
            help="I/O queues; refused (76) where the controller grants fewer."
            + default("4, or one a CPU if those are fewer, and what is granted"),
        ),
        click.Option(
            ["queue_size", "-Q", "--queue-size"],
            type=Number(2, MAX_QUEUE_ENTRIES, "entries", also=0),
            metavar="N",
            help="Entries of each I/O queue; 0: the controller's maximum." + default("0"),
        ),
        click.Option(
            ["kato_s", "-k", "--keep-alive-tmo"],
            type=Seconds(1, MAX_KATO_S, also=0),
            metavar="SECONDS",
            help="Keep-alive timeout in seconds; 0: no keep-alive." + default("15"),
        ),
        *limit_options(default, kept=kept),
        *(identity_options("as it was") if reconnect else identity_options()),
        click.Option(
            ["sq_flow_control", "-F", "--flow_control", "--flow-control"],
            is_flag=True,
            help="Use SQ flow control." + default("off"),
        ),
        click.Option(
            ["disable_sqflow", "-d", "--disable-sqflow", "--disable_sqflow"],
            is_flag=True,
            help="Do without SQ flow control." + default("on"),
        ),
        click.Option(
            ["header_digests", "-g", "--hdr_digests", "--hdr-digest"],
            is_flag=True,
            help="Protect the headers of PDUs by a CRC32C." + default("off"),
        ),
        click.Option(
            ["data_digests", "-G", "--data_digests", "--data-digest"],
            is_flag=True,
            help="Protect the data of PDUs by a CRC32C." + default("off"),
        ),
    ]
    if not reconnect:
        options += [
            *path_options(),
            click.Option(
                ["duplicate", "-D", "--duplicate-connect"],
                is_flag=True,
                help="Allow the same connection a second time.",
            ),
            click.Option(
                ["read_only", "--read-only"],
                is_flag=True,
                help="Serve the namespaces read-only.",
            ),
        ]
    else:
        options.append(
            click.Option(
                ["fenced", "--fenced"],
                is_flag=True,
                help="Vouch that controllers of earlier connections execute nothing any more "
                "(they are off, or have been reset): writes in quarantine go on.",
            )
        )
    return options + refused_options()


def parameters(options: dict[str, Any]) -> dict[str, Any]:
    """What was given of the options, as fields of a request."""
    flow_control, disable = options.pop("sq_flow_control"), options.pop("disable_sqflow")
    if flow_control and disable:
        raise usage(
            "given together with --disable-sqflow; give one of them",
            field="flow_control",
            label="--flow_control",
        )
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    if flow_control or disable:
        given["flow_control"] = flow_control
    return given


def parse_address(text: str) -> str:
    """An address with its port; raises `ConfigError`."""
    from nvmf_transport.address import Address

    return str(Address.parse(text))


def tell_connected(session: Session, result: "ConnectResult") -> None:
    """Names the device, and on standard error what it does not serve."""
    for refused in result.refused:
        session.note(f"{result.device} NSID {refused.nsid}: not served: {refused.reason}")
    for namespace in result.namespaces:
        if namespace.reason:
            session.note(f"{namespace.name}: {namespace.state}: {namespace.reason}")


def _command(
    name: str, arguments: list[click.Parameter], **settings: Any
) -> Callable[[Callable[..., Any]], Command]:
    def decorate(function: Callable[..., Any]) -> Command:
        return Command(
            name,
            callback=pass_session(function),
            params=[*arguments, *connect_options(reconnect=name == "reconnect")],
            help=function.__doc__,
            **settings,
        )

    return decorate


@_command(
    "connect",
    [
        click.Argument(["address"], metavar="ADDRESS:PORT"),
        click.Argument(["subnqn"], metavar="SUBNQN", callback=check_nqn),
    ],
)
def connect(session: Session, address: str, subnqn: str, **options: Any) -> None:
    """Connect to the controller of SUBNQN at ADDRESS:PORT, and print the name of its device.

    ADDRESS is a host name, an IPv4 or an [IPv6] address; the port must be given.  Returns once
    every active namespace has its node.
    """
    from nvmecontrol.answers import structure
    from nvmf_host.messages import ConnectRequest, ConnectResult

    session.subject = ("address", address)
    request = ConnectRequest(address=parse_address(address), subnqn=subnqn, **parameters(options))
    answer = session.request(request)
    result = structure(ConnectResult, answer)
    tell_connected(session, result)
    if session.json:
        session.show(answer)
    else:
        click.echo(result.device)


@_command(
    "reconnect",
    [
        click.Argument(["device"], metavar="nvmeX"),
        click.Argument(["address"], metavar="[ADDRESS:PORT]", required=False),
    ],
)
def reconnect(session: Session, device: str, address: str | None, **options: Any) -> None:
    """Connect the lost controller nvmeX again, at once, at ADDRESS:PORT if given.

    The options hold for all later attempts, the address once it has connected.  With --fenced also
    while it is connected: then only the quarantine ends.  Returns once the I/O that
    waited goes on, where it may.  Prints nothing unless a namespace does not go on; `devlist` says
    why it does not, and what to do.
    """
    from nvmecontrol.answers import structure
    from nvmf_host.messages import ConnectResult, ReconnectRequest

    name = session.device(device)
    options.pop("transport")
    request = ReconnectRequest(
        device=name,
        address=None if address is None else parse_address(address),
        **parameters(options),
    )
    answer = session.request(request)
    tell_connected(session, structure(ConnectResult, answer))
    if session.json:
        session.show(answer)
