"""Linux kernels in qemu, as NVMe/TCP target and as host."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from tests.programs import ProgramError, free_port, run, running

from .console import faults

HERE = Path(__file__).parent
PEERS = HERE / "peers"

#: The kernel's subsystem, as LAYOUT has it.
TARGET_NQN = "nqn.2014-08.org.example:open"
#: NSID by LBA size in bytes.  The identifiers are given, or nvmet would make up new ones.
TARGET_NSIDS = {512: 1, 4096: 2}
LAYOUT = f"""\
port @ADDR@ @PORT@
subsys {TARGET_NQN} any attr_serial=OPEN0001 attr_model=kernel-open
ns 1 null 96 512 device_uuid=6d8a4ba4-0b5f-4c5c-9a39-0c1f5c8e0001
ns 2 null 96 4096 device_uuid=6d8a4ba4-0b5f-4c5c-9a39-0c1f5c8e0002
"""

#: What separates a script's output from the kernel's log, in what a host guest prints.
KERNEL_LOG = "=== kernel log ==="


@attrs.frozen
class Target:
    """A kernel's target, on this machine's loopback."""

    kernel: str
    port: int
    console: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def faults(self) -> list[str]:
        """Returns what its kernel complained of so far."""
        return faults(self.console.read_text(errors="replace"))


@contextlib.contextmanager
def kernel_target(
    kernel: str, folder: Path, *, layout: str = LAYOUT, options: Sequence[str] = ()
) -> Iterator[Target]:
    """Boots a kernel that serves a layout, for as long as the block lasts."""
    layout_file = folder / "layout"
    layout_file.write_text(layout)
    target = Target(kernel, free_port(), folder / "console")
    argv: list[str | Path] = [
        *(PEERS / "nvmet-guest", "--port", str(target.port), "--kernel", kernel),
        *("--layout", layout_file, "--console", target.console),
        *options,
    ]
    with running(argv, folder / "guest.log", ready="READY ", ready_within_s=240):
        yield target


@attrs.frozen
class HostRun:
    """What a script in a kernel's host said."""

    exit_code: int
    output: str
    kernel_log: str

    def faults(self) -> list[str]:
        """Returns the steps that failed and what the kernel complained of."""
        failed = [line for line in self.output.splitlines() if line.startswith("STEP ")]
        return failed + faults(self.kernel_log)


def kernel_host(
    kernel: str,
    port: int,
    script: Path,
    folder: Path,
    *,
    settings: Mapping[str, str],
    programs: Sequence[str] = (),
    timeout_s: int = 300,
) -> HostRun:
    """Boots a kernel with nvme-cli and runs a script there, against a port of this machine.

    The guest sees this machine as 127.0.0.1, so that addresses in a discovery log hold there too.
    """
    console = folder / "console"
    argv: list[str | Path] = [PEERS / "nvme-host-guest", "--loopback", "--kernel", kernel]
    argv += ["--port", str(port), "--console", console, "--timeout", str(timeout_s)]
    for name, value in settings.items():
        argv += ["--set", f"{name}={value}"]
    for program in programs:
        argv += ["--with", program]
    # The console shows errors only; the log has the warnings as well.
    whole = folder / "script"
    whole.write_text(f"{script.read_text()}\necho '{KERNEL_LOG}'\ndmesg\n")
    done = run(*argv, whole, check=False, timeout_s=timeout_s + 60)
    output, found, log = done.stdout.partition(KERNEL_LOG)
    if not found:
        raise ProgramError(f"the guest did not come to its end: {done.stdout}{done.stderr}")
    return HostRun(done.returncode, output, console.read_text(errors="replace") + log)
