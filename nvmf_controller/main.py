"""nvmfd: serves RAM disks, files and block devices to NVMe/TCP hosts."""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final, NoReturn

import attrs
import click
import trio

from nvmf_tcp import TcpTransport, poll_short_waits
from nvmf_transport import heap
from nvmf_transport.errors import NvmfError
from nvmf_transport.interfaces import Transport, lookup, register

from .devices import open_namespace
from .identity import default_subnqn
from .options import DEFAULT_ADDRESS, Options, check
from .server import Server, ServerConfig, serve
from .subsystem import ControllerConfig, NvmSubsystem
from .subsystem_faults import lose_caches

_log = logging.getLogger(__name__)

_EX_USAGE: Final = 64
_EX_FAILURE: Final = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-l",
    "--listen",
    "listen",
    multiple=True,
    metavar="ADDRESS",
    help="Address to listen on, with or without :PORT; may be given again.  "
    f"[default: {DEFAULT_ADDRESS}]",
)
@click.option(
    "-p",
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=4420,
    show_default=True,
    help="Port of the subsystem; 0 for any free one.",
)
@click.option(
    "-P",
    "--discovery-port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8009,
    show_default=True,
    help="Port of the discovery subsystem, which answers on every port; 0 for any free one.",
)
@click.option(
    "-n",
    "--subnqn",
    metavar="NQN",
    help="NQN of the subsystem.  [default: one that is made once and kept in the state folder]",
)
@click.option(
    "-t", "--transport", metavar="NAME", default="tcp", show_default=True, help="Transport: tcp."
)
@click.option("--read-only", is_flag=True, help="Write-protect every namespace.")
@click.option(
    "--volatile-cache",
    is_flag=True,
    help="Keep writes in this process until Flush or FUA: for tests, what kill -9 takes is lost.",
)
@click.option(
    "--faults",
    metavar="FILE",
    help="Misbehave as a fault plan (TOML) says: for tests of hosts.",
)
@click.option(
    "-H",
    "--max-h2cdata",
    type=int,
    default=256 * 1024,
    show_default=True,
    metavar="BYTES",
    help="Most data in one PDU of a write (MAXH2CDATA).",
)
@click.option(
    "--in-capsule",
    type=int,
    default=ControllerConfig().in_capsule_bytes,
    show_default=True,
    metavar="BYTES",
    help="Most data of a write in its capsule; a host is asked for more by R2T (IOCCSZ).",
)
@click.option("-v", "--verbose", count=True, help="Say more: connections; -vv: every command.")
@click.version_option(package_name="nvmf-fuse", prog_name="nvmfd")
@click.argument("device", nargs=-1, required=True)
def command(
    listen: tuple[str, ...],
    port: int,
    discovery_port: int,
    subnqn: str | None,
    transport: str,
    read_only: bool,
    volatile_cache: bool,
    faults: str | None,
    max_h2cdata: int,
    in_capsule: int,
    verbose: int,
    device: tuple[str, ...],
) -> None:
    """Serve each DEVICE as a namespace (NSID 1, 2, ...) until SIGTERM or SIGINT.

    DEVICE is ramdisk:SIZE[:512|:4096] or the path of a file or block device, with :512 or :4096
    after it; SIZE takes K, M, G and T.  The LBA size is 512 by default, a block device's own for
    that.  SIGUSR1 writes what was served to standard error; SIGUSR2 drops what --volatile-cache
    holds.  Standard output is one line, once connections are accepted:

    \b
        ready io=ADDRESS:PORT... discovery=ADDRESS:PORT subnqn=NQN
    """
    _set_up_logging(verbose)
    register(TcpTransport())
    kind = lookup(transport)
    options = check(
        listen,
        port,
        discovery_port,
        subnqn,
        device,
        read_only=read_only,
        volatile_cache=volatile_cache,
        faults=faults,
        max_h2cdata=max_h2cdata,
        in_capsule=in_capsule,
    )
    try:
        trio.run(_run, kind, options)
    except BaseExceptionGroup as group:
        expected, others = group.split((NvmfError, OSError))
        if expected is None or others is not None:
            raise
        raise StartupError(_first(expected)) from None


class StartupError(Exception):
    """What kept nvmfd from serving, other than its command line."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(transport: Transport, options: Options) -> None:
    heap.keep_freed()
    poll_short_waits()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            ending = trio.Event()
            nursery.start_soon(_watch_signals, signals, ending)
            await _serve(transport, options, ending, nursery)
            nursery.cancel_scope.cancel()


async def _watch_signals(signals: AsyncIterator[int], ending: trio.Event) -> None:
    async for number in signals:
        if ending.is_set():
            _log.warning("%s again: ending at once", signal.Signals(number).name)
            logging.shutdown()
            os._exit(_EX_FAILURE)
        ending.set()


async def _show_counters(
    server: Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGUSR1: what was served, as one line of JSON on standard error."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started()
        async for _ in signals:
            sys.stderr.write(f"{_counters(server)}\n")
            sys.stderr.flush()


async def _lose_caches(
    subsystem: NvmSubsystem, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGUSR2: the volatile caches lose what they hold, as in a power failure."""
    with trio.open_signal_receiver(signal.SIGUSR2) as signals:
        task_status.started()
        async for _ in signals:
            lose_caches(subsystem)


def _counters(server: Server) -> str:
    return json.dumps(attrs.asdict(server.statistics))


async def _serve(
    transport: Transport, options: Options, ending: trio.Event, nursery: trio.Nursery
) -> None:
    async with AsyncExitStack() as stack:
        subsystem = NvmSubsystem(options.subnqn or default_subnqn(), config=options.config)
        stack.callback(subsystem.close)
        for nsid, device in enumerate(options.devices, start=1):
            namespace = await open_namespace(
                nsid,
                device,
                read_only=options.read_only,
                volatile_cache=options.volatile_cache,
            )
            subsystem.add_namespace(namespace)
            _log.info(
                "namespace %d: %s, %d blocks of %d bytes, UUID %s%s",
                nsid,
                device.text,
                namespace.size_lbas,
                namespace.lba_bytes,
                namespace.uuid,
                ", read-only" if namespace.read_only else "",
            )
        config = ServerConfig(maxh2cdata_bytes=options.maxh2cdata_bytes)
        async with serve(
            transport,
            subsystem,
            options.addresses,
            discovery_addresses=options.discovery_addresses,
            config=config,
            faults=options.faults,
        ) as server:
            await nursery.start(_show_counters, server)
            await nursery.start(_lose_caches, subsystem)
            _announce(server)
            await ending.wait()
            _log.info("ending; %s", _counters(server))


def _announce(server: Server) -> None:
    io = " ".join(f"io={endpoint}" for endpoint in server.endpoints)
    discovery = (server.discovery_endpoints or server.endpoints)[0]
    click.echo(f"ready {io} discovery={discovery} subnqn={server.subsystem.nqn}")
    _notify_ready()


def _notify_ready() -> None:
    """Tells the service manager, as sd_notify(3) describes."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.sendto(b"READY=1", address)
        except OSError as error:
            _log.warning("NOTIFY_SOCKET %s: %s", path, error)


def _set_up_logging(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _refuse(code: int, what: str) -> NoReturn:
    sys.stderr.write(f"nvmfd: {' '.join(what.split())}\n")
    sys.stderr.flush()
    sys.exit(code)


def _describe(error: BaseException) -> str:
    if isinstance(error, NvmfError) and error.field:
        what = f"{error.field} {error.value}" if error.value else error.field
        return f"{what}: {error}"
    if isinstance(error, OSError):
        return f"{error.filename or 'start-up'}: {error.strerror or error}"
    return str(error)


def main() -> NoReturn:
    """The console script: 0 after an orderly end, 64 for a bad command line, 1 for the rest."""
    try:
        command.main(prog_name="nvmfd", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _refuse(_EX_USAGE, f"{error.format_message().rstrip('.')}; see nvmfd --help")
    except NvmfError as error:
        _refuse(_EX_USAGE, _describe(error))
    except StartupError as error:
        _refuse(_EX_FAILURE, _describe(error.cause))
    except click.Abort:
        sys.exit(_EX_FAILURE)
    sys.exit(0)


if __name__ == "__main__":
    main()
