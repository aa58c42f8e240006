"""A thousand requests of every kind that wait for one controller, and another that must not mind.

    python -m tests.reliability.isolation

measures nine rounds; each has a second without and a second with those that wait.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from tests import programs
from tests.programs import Mount

from .aio import Aio
from .proxying import ProxyProcess, proxy
from .rig import eventually

#: Asynchronous: newer writes over LBAs in quarantine, reads, writes.
QUARANTINED, READS, WRITES = 100, 400, 200
#: Each of a thread: reads, synchronous writes, fsyncs (see tests.fusedev.waiters).
SYNCHRONOUS: Final = {"read": 200, "write": 50, "fsync": 50}
PROMPT_S: Final = 0.1
#: Cross-Controller Reset does not lift the fence, and without Keep Alive time does not either.
_PLAN: Final = """
[[rule]]
opcode = 0x38
action = { do = "status", sct = 0, sc = 1, dnr = true }
"""


@attrs.frozen
class Speed:
    """Requests a second; and a second of the daemon's CPU, whatever else runs on this machine."""

    per_s: float
    per_cpu_s: float


@attrs.define(eq=False)
class Neighbours:
    """nvme0, whose requests are to wait, and nvme1, which is measured."""

    mount: Mount
    proxy: ProxyProcess
    folder: Path

    def state(self, name: str = "nvme0") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.mount.path / name).read_text())
        return found

    def _waiting(self, nsid: int) -> int:
        return int(self.state()["namespaces"][nsid - 1]["waiting_requests"])

    def _in_flight(self) -> int:
        return sum(int(queue["outstanding"]) for queue in self.state()["queues"] if queue["qid"])

    def _is(self, state: str) -> Callable[[], bool]:
        return lambda: bool(self.state()["state"] == state)

    def _cut(self) -> None:
        self.proxy.shut()
        self.proxy.cut()
        self.proxy.thaw()
        eventually(self._is("lost"), "lost")

    @contextlib.contextmanager
    def waiting(self) -> Iterator[int]:
        """Lets them wait for as long as the block lasts; gives how many.  All end well."""
        path = self.mount.path
        one, two, three = (Aio(path / f"nvme0ns{nsid}") for nsid in (1, 2, 3))
        # Writes that are under way when the connection is cut, and are sent again.
        self.proxy.freeze()
        one.submit(QUARANTINED, write=True)
        eventually(lambda: self._in_flight() >= QUARANTINED, "sent")
        self._cut()
        self.proxy.open()
        self.mount.nvmecontrol("reconnect", "nvme0")
        assert set(one.wait()) == {4096}
        ranges = self.state()["namespaces"][0]["quarantined_ranges"]
        assert ranges == QUARANTINED, ranges
        one.submit(QUARANTINED, write=True)
        eventually(lambda: self._waiting(1) == QUARANTINED, "quarantine holds the newer ones")
        self._cut()
        two.submit(READS)
        three.submit(WRITES, write=True)
        threads = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.fusedev.waiters"),
                    *(f"{path}/nvme0ns4", kind, str(count)),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, count in SYNCHRONOUS.items()
        ]
        for process in threads:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
        eventually(lambda: self._waiting(2) == READS, "reads wait")
        eventually(lambda: self._waiting(3) == WRITES, "writes wait")
        # One write or fsync comes as far as the daemon; the others wait behind it in the kernel.
        eventually(lambda: self._waiting(4) > SYNCHRONOUS["read"], "threads wait")
        yield QUARANTINED + READS + WRITES + sum(SYNCHRONOUS.values())
        self.proxy.open()
        self.mount.nvmecontrol("reconnect", "--fenced", "nvme0")
        for aio in (one, two, three):
            assert set(aio.wait()) == {4096}
            aio.close()
        for process, count in zip(threads, SYNCHRONOUS.values(), strict=True):
            assert process.communicate(timeout=30)[0] == f"{count} []\n"

    def throughput(self, seconds: float) -> "Speed":
        """4 KiB requests of nvme1, eight at a time."""
        before_s = self._cpu_s()
        with contextlib.closing(Aio(self.mount.path / "nvme1ns1")) as aio:
            aio.submit(8)
            done, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                got = len(aio.wait(1))
                done += got
                aio.submit(got)
            aio.wait()
        return Speed(done / seconds, done / max(self._cpu_s() - before_s, 0.01))

    def _cpu_s(self) -> float:
        """CPU time that the daemon has used."""
        stat = Path(f"/proc/{self.mount.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def slowest_s(self) -> dict[str, float]:
        """How long each takes that must answer at once: the median of five, others run too."""
        path = self.mount.path
        calls: dict[str, Callable[[], object]] = {
            "stat": (path / "nvme0ns1").stat,
            "stat of another": (path / "nvme1ns1").stat,
            "ls": lambda: [entry.stat() for entry in os.scandir(path)],
            "open": lambda: os.close(os.open(path / "nvme0ns1", os.O_RDONLY)),
            "state": (path / "nvme0").read_text,
            "xattr": lambda: os.getxattr(path / "nvme0ns1", "user.nvme.state"),
            "control file": self._devlist,
        }
        return {what: _median_s(call) for what, call in calls.items()}

    def _devlist(self) -> None:
        fd = os.open(self.mount.path / "nvmf", os.O_RDWR)
        try:
            os.write(fd, b'{"id": 1, "command": "devlist"}\n')
            while not os.read(fd, 1 << 20).endswith(b"\n"):
                pass
        finally:
            os.close(fd)


def _median_s(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        before = time.monotonic()
        call()
        taken.append(time.monotonic() - before)
    return statistics.median(taken)


@contextlib.contextmanager
def neighbours(folder: Path) -> Iterator[Neighbours]:
    """Two controllers of two targets, on one mount."""
    plan = folder / "plan.toml"
    plan.write_text(_PLAN)
    disks = ["ramdisk:4M"] * 4
    with (
        programs.nvmfd("--faults", plan, *disks, log=folder / "first.log") as first,
        programs.nvmfd("ramdisk:4M", log=folder / "second.log") as second,
        proxy(first.address) as between,
        programs.fusedev(folder / "dev", log=folder / "fusedev.log") as mount,
    ):
        assert mount.connect(between.address, first.subnqn, "-r", "0", "-k", "0") == "nvme0"
        assert mount.connect(second.address, second.subnqn) == "nvme1"
        yield Neighbours(mount, between, folder)


@attrs.frozen
class Round:
    """One comparison, and what answered slowest meanwhile."""

    without: tuple[Speed, Speed]
    with_waiting: Speed
    slowest_s: dict[str, float]

    @property
    def ratio(self) -> float:
        """Of the throughput."""
        return self.with_waiting.per_s / statistics.mean(each.per_s for each in self.without)

    @property
    def cpu_ratio(self) -> float:
        """Of the throughput for the same CPU time."""
        without = statistics.mean(each.per_cpu_s for each in self.without)
        return self.with_waiting.per_cpu_s / without


def one_round(both: Neighbours, seconds: float) -> Round:
    """Without, with, with, without: whatever else grows or shrinks meanwhile cancels out."""
    before = both.throughput(seconds / 2)
    with both.waiting() as count:
        assert count >= 1000
        during = both.throughput(seconds)
        slowest_s = both.slowest_s()
    after = both.throughput(seconds / 2)
    return Round((before, after), during, slowest_s)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="isolation-") as folder, neighbours(Path(folder)) as on:
        rounds = [one_round(on, 1.0) for _ in range(9)]
    for number, each in enumerate(rounds, 1):
        slowest = max(each.slowest_s.values()) * 1000
        print(
            f"round {number}: {each.with_waiting.per_s:.0f}/s with those that wait, "
            f"ratio {each.ratio:.2f}, for the same CPU time {each.cpu_ratio:.2f}; "
            f"slowest answer {slowest:.0f} ms"
        )
    ratio = statistics.median(each.ratio for each in rounds)
    cpu_ratio = statistics.median(each.cpu_ratio for each in rounds)
    print(f"median ratio {ratio:.2f}, for the same CPU time {cpu_ratio:.2f}")
    return 0 if ratio >= 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
