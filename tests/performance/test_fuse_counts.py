"""What one request of FUSE takes, by the kernel's own counts of the daemon, and their bounds."""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fusedev import mounted
from tests.fusedev.mounted import Daemon
from tests.fusedev.test_fuse_end_to_end import SUBNQN, nvmfd
from tests.reliability.aio import BLOCK_BYTES, Aio

pytestmark = pytest.mark.fuse

_NODE: Final = "nvme0ns1"
_COUNT: Final = 300
#: Beside what is counted, the daemon looks at itself a few times a second, and other loads of the
#: machine may take the processor from it.
_ROOM: Final = 0.1


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A mount of a namespace over TCP: what is served without tasks."""
    directory = tmp_path_factory.mktemp("mount") / "dev"
    directory.mkdir()
    with nvmfd("ramdisk:16M") as (_, port):
        arguments = [f"--connect=127.0.0.1:{port}/{SUBNQN}", str(directory)]
        environment = {"XDG_STATE_HOME": str(directory.parent / "state")}
        with mounted.running(
            directory, ("-m", "fusedev.main"), environment=environment, arguments=arguments
        ) as running:
            yield running


def _system_calls(daemon: Daemon) -> int:
    """Reads and writes so far (proc_pid_io(5)): of /dev/fuse, and what pyfuse3 has instead of it.

    Those of sockets are not among them: see `test_counts`.
    """
    lines = Path(f"/proc/{daemon.process.pid}/io").read_text().splitlines()
    fields = dict(line.split(": ") for line in lines)
    return int(fields["syscr"]) + int(fields["syscw"])


def _sleeps(daemon: Daemon) -> int:
    """How often the daemon had nothing to do and let go of the processor."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def _taken(daemon: Daemon, work: Callable[[], object], count: int) -> tuple[float, float]:
    """System calls and sleeps of one operation, of `count` that `work` does."""
    work()
    calls, sleeps = _system_calls(daemon), _sleeps(daemon)
    work()
    return (_system_calls(daemon) - calls) / count, (_sleeps(daemon) - sleeps) / count


@pytest.mark.parametrize("kind", ["read", "write"])
def test_one_at_a_time_takes_two_reads_one_write_and_no_sleep(daemon, kind):
    node = os.open(daemon.path(_NODE), os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, BLOCK_BYTES)

    def work() -> None:
        for _ in range(_COUNT):
            if kind == "read":
                os.preadv(node, [memory], 0)
            else:
                os.pwrite(node, memory, 0)

    calls, sleeps = _taken(daemon, work, _COUNT)
    os.close(node)
    # The second read finds that there are no more.
    assert calls <= 3 + _ROOM
    # It polls through the wait for the response and the next request.  On a machine that is busy
    # some of those take longer.
    assert sleeps <= 0.5


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_many_at_a_time_take_no_more_and_hardly_a_sleep(daemon, write):
    aio = Aio(Path(daemon.path(_NODE)))

    def work() -> None:
        for _ in range(10):
            aio.submit(64, write=write)
            assert set(aio.wait()) == {BLOCK_BYTES}

    calls, sleeps = _taken(daemon, work, 640)
    aio.close()
    assert calls <= 2 + _ROOM
    # A sleep for every request would mean that requests are taken one by one.
    assert sleeps <= 0.1


def test_a_look_at_a_file_takes_two_lookups_at_most_and_its_attributes(daemon):
    node = Path(daemon.path(_NODE))

    def work() -> None:
        for _ in range(_COUNT):
            node.stat()

    calls, _ = _taken(daemon, work, _COUNT)
    # The root's attributes, the name, the node's: nothing is kept in the kernel.  Each is read,
    # in vain once more, and answered; where it was not found by polling, in vain twice.  By way of
    # pyfuse3 it would be five calls at the least.
    assert calls <= 3 * 4 + _ROOM


def test_attributes_that_ls_asks_for_take_no_more(daemon):
    node = daemon.path(_NODE)

    def work() -> None:
        for _ in range(_COUNT):
            with pytest.raises(OSError, match="No data available"):
                os.getxattr(node, "security.selinux")

    calls, _ = _taken(daemon, work, _COUNT)
    # The directory may be looked through, the name, the attribute: as above.
    assert calls <= 3 * 4 + _ROOM
