"""The thread that looks at the mount: its calls, its descriptors, and what it does not keep."""

# ruff: noqa: PTH123

import contextlib
import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import trio

from fusedev.bystander import Bystander
from tests.fusedev.mounted import running, until


@pytest.fixture
async def bystander():
    return Bystander()


async def test_calls_are_made_in_their_order_and_errors_come_back(bystander):
    def fails() -> None:
        raise FileNotFoundError

    assert await bystander.run(lambda: 3) == 3
    with pytest.raises(FileNotFoundError):
        await bystander.run(fails)
    assert await bystander.run(threading.get_ident) != threading.get_ident()


async def test_it_has_none_of_the_descriptors_that_came_later(bystander):
    reader, writer = os.pipe()
    os.close(writer)

    def closed() -> int:
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            os.fstat(reader)
        assert raised.value.errno == errno.EBADF
        return reader

    assert await bystander.run(closed) == reader
    os.close(reader)


async def test_a_cancelled_call_is_not_waited_for(bystander):
    gate = threading.Event()
    with trio.move_on_after(0.05) as scope:
        await bystander.run(gate.wait)
    assert scope.cancelled_caught
    gate.set()
    assert await bystander.run(lambda: 1) == 1


@pytest.mark.fuse
def test_a_daemon_that_is_killed_while_it_looks_at_its_mount_is_gone(tmp_path):
    """Its own look waits for an answer that nobody gives any more."""
    for turn in range(6):
        directory = tmp_path / str(turn)
        directory.mkdir()
        with running(directory) as daemon:
            daemon.do("add", name="nvme2ns1", size_bytes=1 << 20)
            path = daemon.path("nvme2ns1")

            def truncate(path: str = path) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        open(path, "wb").close()

            opener = threading.Thread(target=truncate, daemon=True)
            opener.start()
            time.sleep(0.02 + turn * 0.0007)
            # Stopped first: whatever it has read and not answered, it never will.
            daemon.process.send_signal(signal.SIGSTOP)
            daemon.process.send_signal(signal.SIGKILL)
            assert daemon.process.wait(5) == -signal.SIGKILL
            opener.join(5)
            assert not opener.is_alive()

            def dead(directory: Path = directory) -> bool:
                try:
                    directory.stat()
                except OSError as error:
                    return error.errno == errno.ENOTCONN
                return False

            until(dead)
