"""Reads of files that the page cache answers, and those that go to a thread."""

import errno
import os

import pytest
import trio

from nvmf_controller import FileStore, Namespace
from tests.controller.raw_host import target

CONTENT = bytes(range(256)) * 256
LBAS = len(CONTENT) // 512


class Kernel:
    """preadv(2), whose answers to RWF_NOWAIT a test can choose, and how often a thread is asked."""

    def __init__(self, monkeypatch) -> None:
        self.answer: OSError | int | None = None
        self.tries = self.threads = 0
        self._preadv = os.preadv
        self._run_sync = trio.to_thread.run_sync
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(trio.to_thread, "run_sync", self.run_sync)

    def preadv(self, fd, buffers, offset, flags=0):
        if not flags:
            return self._preadv(fd, buffers, offset)
        assert flags == os.RWF_NOWAIT
        self.tries += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        count = self._preadv(fd, buffers, offset)
        return count if self.answer is None else self.answer

    async def run_sync(self, *args, **kwargs):
        self.threads += 1
        return await self._run_sync(*args, **kwargs)


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


@pytest.fixture
async def store(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    return await FileStore.open(str(path))


async def test_what_is_cached_is_read_without_a_thread(kernel, store):
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        assert (await io.read(3, 5))[1] == CONTENT[3 * 512 : 8 * 512]
        assert t.server.statistics.read_bytes == 5 * 512
        assert (kernel.tries, kernel.threads) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [BlockingIOError(errno.EAGAIN, ""), OSError(errno.EIO, ""), 0, 512],
    ids=["nothing cached", "an error", "an end", "a part"],
)
async def test_what_is_not_cached_is_read_by_a_thread(kernel, store, answer):
    kernel.answer = answer
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        for _ in range(2):
            assert (await io.read(0, LBAS))[1] == CONTENT
        assert t.server.statistics.read_bytes == 2 * len(CONTENT)
        assert (kernel.tries, kernel.threads) == (2, 2)


async def test_file_system_that_cannot_tell_is_asked_once(kernel, store):
    kernel.answer = OSError(errno.EOPNOTSUPP, "")
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        for _ in range(3):
            assert (await io.read(0, LBAS))[1] == CONTENT
        assert (kernel.tries, kernel.threads) == (1, 3)


async def test_closed_file_is_not_read(kernel, store):
    store.close()
    assert store.read_now(0, 512) is None
    assert kernel.tries == 0
