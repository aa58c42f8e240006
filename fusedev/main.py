"""The command `fusedev`: mounts NVMe controllers and namespaces as files."""

import gc
import logging
import os
import sys
from collections.abc import Sequence

import click
import trio

import nvmf_transport.interfaces
from nvmf_host import identity as host_identity
from nvmf_host.config import ConnectParams
from nvmf_host.control import open_control
from nvmf_host.host import Host, open_host
from nvmf_host.identity import HostIdentity
from nvmf_host.messages import ConnectRequest
from nvmf_tcp import TcpTransport, poll_short_waits
from nvmf_transport.errors import ConfigError, NvmfError

from . import held, mount
from .daemon import Daemon
from .mount import EX_USAGE, MountPoint, StartError

_PROGRAM = "fusedev"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--connect",
    "connects",
    multiple=True,
    metavar="ADDRESS:PORT/SUBNQN",
    help="Connect to this controller at the start, and go on trying. May be given again.",
)
@click.option("--allow-other", is_flag=True, help="Let other users see the mount, by its modes.")
@click.option(
    "--max-held",
    metavar="SIZE",
    help="Memory that waiting asynchronous writes may hold, with K, M, G or T; more of them wait "
    "in the kernel. Root only: else it is 24M. [default: half of the memory, at most 8G]",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on standard error.")
@click.version_option(package_name="nvmf-fuse", prog_name=_PROGRAM)
@click.argument("directory", metavar="[DIR]", required=False)
def command(
    connects: tuple[str, ...],
    allow_other: bool,
    max_held: str | None,
    verbose: bool,
    directory: str | None,
) -> int:
    """Serve NVMe namespaces of remote controllers as files in DIR.

    DIR is $NVMF_DEV where it is left out, else /run/nvmf for root and $XDG_RUNTIME_DIR/nvmf for
    others; this last one is made, and removed at the end. Prints `ready DIR`, and runs until
    SIGTERM, SIGINT or `fusermount3 -u DIR`. Connect with nvmecontrol.
    """
    _log_to_stderr(verbose)
    identity = host_identity.resolve()
    targets = [parse_target(text, identity) for text in connects]
    max_held_bytes = held.default_bytes() if max_held is None else held.parse(max_held)
    point = mount.choose(directory, os.environ, os.getuid())
    mount.prepare(point)
    nvmf_transport.interfaces.register(TcpTransport())
    _tune_garbage_collector()
    try:
        return trio.run(_run, point, allow_other, max_held_bytes, identity, targets)
    finally:
        if point.temporary:
            mount.remove(point)


def _tune_garbage_collector() -> None:
    """Has full collections be cheap, and come often enough to keep the memory of a daemon level.

    What has been imported lives for ever and need not be looked at again.  A dead association is
    full of cycles; by default hundreds of them pile up before the oldest generation is collected.
    """
    gc.collect()
    gc.freeze()
    # The size of what was looked at last decides when to look at all again: now it is nothing.
    gc.collect()
    gc.set_threshold(700, 10, 1)


def parse_target(text: str, identity: HostIdentity) -> ConnectParams:
    """Parses ADDRESS:PORT/SUBNQN.  Raises `ConfigError`."""
    address, slash, subnqn = text.partition("/")
    if not slash:
        raise ConfigError("no SUBNQN; write ADDRESS:PORT/SUBNQN", field="--connect", value=text)
    return ConnectParams.from_request(ConnectRequest(address=address, subnqn=subnqn), identity)


async def _run(
    point: MountPoint,
    allow_other: bool,
    max_held_bytes: int,
    identity: HostIdentity,
    targets: Sequence[ConnectParams],
) -> int:
    loop = poll_short_waits()
    async with open_host(identity=identity) as host, open_control(host) as control:

        async def connect_all() -> None:
            async with trio.open_nursery() as nursery:
                for params in targets:
                    nursery.start_soon(_connect, host, params)
                    # It has its name before the next one begins.
                    await trio.lowlevel.checkpoint()

        daemon = Daemon(
            host,
            control,
            point,
            allow_other,
            connect_all,
            max_held_bytes=max_held_bytes,
            loop=loop,
        )
        ending = await daemon.run()
        if ending.host_hangs:
            # It has had its time.  The mount is gone, and leaving the host would wait again.
            if point.temporary:
                mount.remove(point)
            logging.shutdown()
            os._exit(ending.exit_code)
        return ending.exit_code


async def _connect(host: Host, params: ConnectParams) -> None:
    """One first attempt; names it where it fails, and the host goes on trying."""
    target = f"--connect {params.address}/{params.subnqn}"
    try:
        controller = await host.connect(params, keep_trying=True)
    except NvmfError as error:
        _complain(f"{target}: {error}; not connected")
        return
    info = controller.info()
    if info.state != "live":
        _complain(f"{target}: {info.last_error}; {info.name} goes on trying")


def _complain(text: str) -> None:
    click.echo(f"{_PROGRAM}: {text}", err=True)


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO, format=f"{_PROGRAM}: %(levelname)s: %(message)s", stream=sys.stderr
    )
    # pyfuse3 says several lines for each request at DEBUG.
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    if verbose:
        for package in ("fusedev", "nvmf_host", "nvmf_tcp", "nvmf_transport"):
            logging.getLogger(package).setLevel(logging.DEBUG)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: every refusal is one line and an exit code."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        result = command.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        _complain(f"{error.format_message()}; see {_PROGRAM} --help")
        return EX_USAGE
    except click.Abort:
        return 1
    except ConfigError as error:
        what = f"{error.field}: {error.value}" if error.value else error.field
        _complain(f"{what}: {error}")
        return EX_USAGE
    except StartError as error:
        _complain(str(error))
        return error.exit_code
    return int(result or 0)


if __name__ == "__main__":
    main()
