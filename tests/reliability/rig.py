"""A mount, a proxy, and a target behind it that can be killed and started again."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import attrs

from tests import programs
from tests.interop.guests import TARGET_NQN, TARGET_NSIDS, kernel_target
from tests.programs import Mount, Nvmfd

from .proxying import ProxyProcess, proxy

SUBNQN: Final = "nqn.2024-01.org.example:reliability"
TARGETS: Final = ("nvmfd-file", "nvmfd-ramdisk", "nvmfd-volatile", "linux")
DIGESTS: Final = ("-g", "-G")


def eventually(condition: Callable[[], object], what: str, *, within_s: float = 20) -> float:
    """Waits for another process to get somewhere; returns how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + within_s, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - begin


@attrs.define(eq=False)
class Rig:
    """What a workload runs on: `node`, on `nvme0`, through `proxy`."""

    folder: Path
    mount: Mount
    proxy: ProxyProcess
    #: The backing file, where there is one.
    disk: Path | None
    nsid: int
    subnqn: str
    _stack: ExitStack
    _arguments: tuple[str, ...]
    target: Nvmfd | None

    @property
    def node(self) -> Path:
        return self.mount.path / f"nvme0ns{self.nsid}"

    def state(self) -> dict[str, Any]:
        """What the controller's node says."""
        found: dict[str, Any] = json.loads((self.mount.path / "nvme0").read_text())
        return found

    def namespace(self) -> dict[str, Any]:
        found: dict[str, Any] = next(
            each for each in self.state()["namespaces"] if each["nsid"] == self.nsid
        )
        return found

    def is_live(self) -> bool:
        state = self.state()
        return state["state"] == "live" and all(
            namespace["state"] == "live" for namespace in state["namespaces"]
        )

    def connect(self, *options: str) -> None:
        assert self.mount.connect(self.proxy.address, self.subnqn, *options) == "nvme0"

    def kill_target(self) -> None:
        """As a crash: SIGKILL."""
        assert self.target is not None
        self.target.kill()

    def start_target(self) -> None:
        """Starts it again on another port; the proxy forwards there from now on."""
        self.target = self._stack.enter_context(
            programs.nvmfd("-n", SUBNQN, *self._arguments, log=self.folder / "nvmfd.log")
        )
        host, _, port = self.target.address.rpartition(":")
        self.proxy.set(target=[host, int(port)])

    def warnings(self) -> str:
        return self.mount.log.read_text()


@contextlib.contextmanager
def rig(
    folder: Path, kind: str = "nvmfd-file", *, mib: int = 64, lba_bytes: int = 512, options=()
) -> Iterator[Rig]:
    """Starts all of it; `options` are more of nvmfd's."""
    with ExitStack() as stack:
        nvmfd: Nvmfd | None = None
        disk: Path | None = None
        arguments: tuple[str, ...] = ()
        nsid = 1
        if kind == "linux":
            guest = stack.enter_context(kernel_target("6.12", folder))
            address, subnqn, nsid = guest.address, TARGET_NQN, TARGET_NSIDS[lba_bytes]
        else:
            device = f"ramdisk:{mib}M"
            if kind != "nvmfd-ramdisk":
                disk = folder / "disk"
                with disk.open("wb") as file:
                    file.truncate(mib << 20)
                device = str(disk)
            volatile = ("--volatile-cache",) if kind == "nvmfd-volatile" else ()
            # With one LBA size longer writes are asked for by R2T, with the other none are.
            in_capsule = ("--in-capsule", "4096") if lba_bytes == 512 else ()
            arguments = (*volatile, *in_capsule, *map(str, options), f"{device}:{lba_bytes}")
            nvmfd = stack.enter_context(
                programs.nvmfd("-n", SUBNQN, *arguments, log=folder / "nvmfd.log")
            )
            address, subnqn = nvmfd.address, SUBNQN
        between = stack.enter_context(proxy(address))
        mount = stack.enter_context(programs.fusedev(folder / "dev", log=folder / "fusedev.log"))
        try:
            yield Rig(folder, mount, between, disk, nsid, subnqn, stack, arguments, nvmfd)
        except BaseException as error:
            said = "".join(f"\n{log.name}:\n{log.read_text()}" for log in folder.glob("*.log"))
            error.add_note(said)
            raise
