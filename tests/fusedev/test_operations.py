"""The handlers, called as pyfuse3 calls them, without a mount."""

import errno
import json
import logging
import os
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from fusedev.nodes import ROOT_INODE, NodeTable
from fusedev.operations import Operations
from nvmf_host.io_request import Opener
from nvmf_transport.errors import (
    CommandError,
    ConnectionLostError,
    NamespaceGoneError,
    OutcomeUnknownError,
)
from nvmf_transport.status import INTERNAL_ERROR, RESERVATION_CONFLICT, WRITE_PROTECTED
from tests.fusedev.fakes import FakeControl, FakeHost

CONTEXT: Any = pyfuse3.RequestContext()


class Fixture:
    """Operations over a fake host with one namespace of 1 MiB."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.namespace = self.host.add("nvme0ns1", 1 << 20)
        self.control = FakeControl(self.host)
        self.truncated: list[str] = []
        self.nodes = NodeTable(lambda name: None)
        self.nodes.follow(self.host)
        self.operations = Operations(self.nodes, self.control, self.truncated.append)

    async def inode(self, name: str) -> Any:
        entry = await self.operations.lookup(
            pyfuse3.ROOT_INODE, pyfuse3.FileNameT(name.encode()), CONTEXT
        )
        return entry.st_ino

    async def open(self, name: str, flags: int = os.O_RDWR) -> Any:
        inode = await self.inode(name)
        return (await self.operations.open(inode, pyfuse3.FlagT(flags), CONTEXT)).fh


@pytest.fixture
def mount():
    return Fixture()


class refused_with:  # noqa: N801  # reads as `pytest.raises` does
    """Like `pytest.raises`, for a FUSEError with this errno."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> bool:
        assert isinstance(error, pyfuse3.FUSEError), error
        assert errno.errorcode[error.errno] == errno.errorcode[self._number]
        return True


async def test_what_is_written_is_read(mount):
    fh = await mount.open("nvme0ns1")
    assert await mount.operations.write(fh, 1000, b"hello") == 5
    assert bytes(await mount.operations.read(fh, 998, 9)) == b"\0\0hello\0\0"
    assert mount.namespace.calls == [("write", 1000, 5, False), ("read", 998, 9)]


async def test_reading_ends_at_the_end_and_writing_is_cut_there(mount):
    fh = await mount.open("nvme0ns1")
    size = 1 << 20
    assert len(await mount.operations.read(fh, size - 3, 10)) == 3
    assert len(await mount.operations.read(fh, size, 10)) == 0
    assert await mount.operations.write(fh, size - 3, b"0123456789") == 3
    with refused_with(errno.ENOSPC):
        await mount.operations.write(fh, size, b"x")


@pytest.mark.parametrize(
    ("flags", "fua"),
    [
        (os.O_WRONLY, False),
        (os.O_WRONLY | os.O_DSYNC, True),
        (os.O_RDWR | os.O_SYNC, True),
    ],
)
async def test_a_handle_opened_for_synchronous_writing_writes_with_fua(mount, flags, fua):
    fh = await mount.open("nvme0ns1", flags)
    await mount.operations.write(fh, 0, b"x")
    assert mount.namespace.calls == [("write", 0, 1, fua)]


async def test_fsync_flushes_and_close_does_not(mount):
    fh = await mount.open("nvme0ns1")
    await mount.operations.fsync(fh, False)
    await mount.operations.fsync(fh, True)
    await mount.operations.release(fh)
    assert mount.namespace.calls == [("flush",), ("flush",)]


async def test_a_loss_is_told_by_the_next_fsync_of_every_open_file_once(mount):
    first, second = await mount.open("nvme0ns1"), await mount.open("nvme0ns1", os.O_RDONLY)
    await mount.operations.fsync(first, False)
    mount.namespace.losses += 1
    for fh in (first, second):
        with refused_with(errno.EIO):
            await mount.operations.fsync(fh, False)
        await mount.operations.fsync(fh, False)
    mount.namespace.losses += 2
    with refused_with(errno.EIO):
        await mount.operations.fsync(first, False)
    await mount.operations.fsync(first, False)


async def test_a_loss_that_nobody_was_told_of_is_told_to_the_next_opener(mount):
    writer = await mount.open("nvme0ns1")
    await mount.operations.write(writer, 0, b"x")
    await mount.operations.release(writer)
    mount.namespace.losses += 1
    first, second = await mount.open("nvme0ns1"), await mount.open("nvme0ns1")
    for fh in (first, second):
        with refused_with(errno.EIO):
            await mount.operations.fsync(fh, False)
    later = await mount.open("nvme0ns1")
    await mount.operations.fsync(later, False)


async def test_a_loss_is_told_even_where_the_flush_fails_first(mount):
    fh = await mount.open("nvme0ns1")
    mount.namespace.losses += 1
    mount.namespace.fails_with = CommandError(INTERNAL_ERROR, "Flush")
    with refused_with(errno.EIO):
        await mount.operations.fsync(fh, False)
    mount.namespace.fails_with = None
    with refused_with(errno.EIO):
        await mount.operations.fsync(fh, False)
    await mount.operations.fsync(fh, False)


async def test_a_synchronous_write_tells_what_an_fsync_would(mount):
    synchronous = await mount.open("nvme0ns1", os.O_WRONLY | os.O_DSYNC)
    plain = await mount.open("nvme0ns1", os.O_WRONLY)
    mount.namespace.losses += 1
    with refused_with(errno.EIO):
        await mount.operations.write(synchronous, 0, b"x")
    assert await mount.operations.write(synchronous, 0, b"x") == 1
    assert await mount.operations.write(plain, 0, b"x") == 1


async def test_a_request_belongs_to_whoever_opened_the_file(mount, monkeypatch):
    monkeypatch.setattr("fusedev.processes.opener_of", lambda pid, uid: Opener(4711, 1000))
    fh = await mount.open("nvme0ns1")
    mount.namespace.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.operations.read, fh, 0, 512)
        nursery.start_soon(mount.operations.write, fh, 0, b"x")
        nursery.start_soon(mount.operations.fsync, fh, False)
        await trio.testing.wait_all_tasks_blocked()
        assert [wait.request.opener for wait in mount.namespace.waits()] == [Opener(4711, 1000)] * 3
        mount.namespace.resume()


async def test_who_is_killed_gets_eintr(mount):
    fh = await mount.open("nvme0ns1")
    mount.namespace.pause()

    async def read() -> None:
        with refused_with(errno.EINTR):
            await mount.operations.read(fh, 0, 512)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        [wait] = mount.namespace.waits()
        mount.namespace.kill(wait.request)


async def test_a_read_only_namespace_opens_for_reading_alone(mount):
    mount.namespace.read_only = True
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with refused_with(errno.EROFS):
            await mount.open("nvme0ns1", flags)
    fh = await mount.open("nvme0ns1", os.O_RDONLY)
    assert len(await mount.operations.read(fh, 0, 512)) == 512


async def test_a_namespace_that_becomes_read_only_refuses_open_handles_too(mount):
    fh = await mount.open("nvme0ns1")
    mount.namespace.read_only = True
    with refused_with(errno.EROFS):
        await mount.operations.write(fh, 0, b"x")


async def test_a_truncating_open_has_the_attributes_asked_for(mount):
    await mount.open("nvme0ns1", os.O_RDONLY)
    assert mount.truncated == []
    await mount.open("nvme0ns1", os.O_WRONLY | os.O_TRUNC)
    assert mount.truncated == ["nvme0ns1"]
    assert mount.namespace.size_bytes == 1 << 20


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (CommandError(RESERVATION_CONFLICT), errno.EBADE),
        (CommandError(WRITE_PROTECTED), errno.EROFS),
        (CommandError(INTERNAL_ERROR), errno.EIO),
        (NamespaceGoneError("gone"), errno.ENXIO),
        (ConnectionLostError("lost"), errno.EIO),
        (OutcomeUnknownError("who knows"), errno.EIO),
    ],
)
async def test_errors_of_the_stack_become_errnos(mount, error, number):
    fh = await mount.open("nvme0ns1")
    mount.namespace.fails_with = error
    with refused_with(number):
        await mount.operations.read(fh, 0, 512)
    with refused_with(number):
        await mount.operations.fsync(fh, False)


async def test_a_bug_is_logged_and_ends_as_eio_not_the_mount(mount, announce, caplog):
    announce("read failed; the caller gets EIO")
    fh = await mount.open("nvme0ns1")
    mount.namespace.fails_with = ZeroDivisionError("a bug")
    with refused_with(errno.EIO):
        await mount.operations.read(fh, 0, 512)
    assert caplog.records[-1].levelno == logging.ERROR
    assert caplog.records[-1].exc_info is not None


async def test_cancelling_a_handler_is_no_error_of_it(mount, autojump_clock):
    fh = await mount.open("nvme0ns1")
    mount.namespace.pause()
    with trio.move_on_after(1) as scope:
        await mount.operations.read(fh, 0, 512)
    assert scope.cancelled_caught


async def test_a_node_that_goes_while_open_answers_enxio_and_disappears(mount):
    fh = await mount.open("nvme0ns1")
    inode = await mount.inode("nvme0ns1")
    mount.namespace.pause()
    async with trio.open_nursery() as nursery:

        async def wait_for_data() -> None:
            with refused_with(errno.ENXIO):
                await mount.operations.read(fh, 0, 512)

        nursery.start_soon(wait_for_data)
        await trio.testing.wait_all_tasks_blocked()
        mount.host.remove("nvme0ns1")
    for call in (
        mount.operations.read(fh, 0, 1),
        mount.operations.write(fh, 0, b"x"),
        mount.operations.fsync(fh, False),
        mount.operations.open(inode, os.O_RDONLY, CONTEXT),
    ):
        with refused_with(errno.ENXIO):
            await call
    with refused_with(errno.ENOENT):
        await mount.inode("nvme0ns1")
    assert (await mount.operations.getattr(inode, CONTEXT)).st_nlink == 0
    await mount.operations.release(fh)
    await mount.operations.forget([(inode, 2)])
    with refused_with(errno.ESTALE):
        await mount.operations.getattr(inode, CONTEXT)


async def test_a_controllers_node_gives_its_state_as_it_was_at_the_open(mount):
    fh = await mount.open("nvme0", os.O_RDONLY)
    mount.host.controllers["nvme0"].state = "lost"
    text = bytes(await mount.operations.read(fh, 0, 1 << 20))
    halves = [bytes(await mount.operations.read(fh, at, 100)) for at in (0, 100)]
    state = json.loads(text)
    assert (state["schema"], state["name"], state["state"]) == (1, "nvme0", "live")
    assert state["namespaces"][0]["name"] == "nvme0ns1"
    assert text.startswith(b"".join(halves))
    assert await mount.operations.read(fh, len(text), 100) == b""
    await mount.operations.fsync(fh, False)


async def test_a_controllers_node_is_not_written(mount):
    with refused_with(errno.EACCES):
        await mount.open("nvme0", os.O_WRONLY)


async def test_each_open_of_the_control_node_is_a_session(mount):
    one = await mount.open("nvmf")
    two = await mount.open("nvmf")
    assert await mount.operations.write(one, 0, b'{"do":"echo","text":"one"}\n') == 27
    assert await mount.operations.write(two, 0, b'{"do":"echo","text":"two"}\n') == 27
    assert bytes(await mount.operations.read(one, 27, 4096)) == b'"one"\n'
    assert bytes(await mount.operations.read(two, 0, 3)) == b'"tw'
    assert bytes(await mount.operations.read(two, 0, 4096)) == b'o"\n'
    await mount.operations.release(one)
    assert [session.closed for session in mount.control.sessions] == [True, False]


async def test_a_read_of_the_control_node_waits_a_tenth_of_a_second(mount, autojump_clock):
    fh = await mount.open("nvmf")
    before = trio.current_time()
    assert await mount.operations.read(fh, 0, 4096) == b""
    assert trio.current_time() - before == pytest.approx(0.1)


async def test_nothing_is_opened_once_the_end_has_begun(mount):
    fh = await mount.open("nvme0ns1")
    mount.operations.refuse_opens()
    for name in ("nvmf", "nvme0", "nvme0ns1"):
        with refused_with(errno.EIO):
            await mount.open(name, os.O_RDONLY)
    assert len(await mount.operations.read(fh, 0, 512)) == 512


async def test_extended_attributes_tell_what_is_known(mount):
    inode = await mount.inode("nvme0ns1")
    names = await mount.operations.listxattr(inode, CONTEXT)
    values = {name: await mount.operations.getxattr(inode, name, CONTEXT) for name in names}
    assert values == {
        b"user.nvme.nsid": b"1",
        b"user.nvme.uuid": b"7f1c5c1e-55f4-4d3a-a1a1-000000000001",
        b"user.nvme.eui64": b"0011223344556677",
        b"user.nvme.lba_bytes": b"512",
        b"user.nvme.size_lbas": b"2048",
        b"user.nvme.subnqn": b"nqn.2024-01.org.example:one",
        b"user.nvme.address": b"127.0.0.1:4420",
        b"user.nvme.state": b"live",
        b"user.nvme.last_error": b"none yet",
    }


async def test_a_second_path_says_whose_it_is(mount):
    mount.host.add("nvme1ns1", 1 << 20, same_as="nvme0ns1")
    inode = await mount.inode("nvme1ns1")
    state = await mount.operations.getxattr(inode, b"user.nvme.state", CONTEXT)
    assert state == b"same as nvme0ns1"


async def test_extended_attributes_of_other_nodes(mount):
    assert set(await mount.operations.listxattr(await mount.inode("nvme0"), CONTEXT)) == {
        b"user.nvme.subnqn",
        b"user.nvme.address",
        b"user.nvme.state",
        b"user.nvme.last_error",
    }
    assert list(await mount.operations.listxattr(ROOT_INODE, CONTEXT)) == []


async def test_extended_attributes_that_are_not_there_or_not_ours(mount):
    inode = await mount.inode("nvme0ns1")
    for name in (b"user.nvme.nguid", b"user.nvme.", b"security.capability", b"user.x"):
        with refused_with(pyfuse3.ENOATTR):
            await mount.operations.getxattr(inode, name, CONTEXT)
    with refused_with(errno.EPERM):
        await mount.operations.setxattr(inode, b"user.nvme.nsid", b"2", CONTEXT)
    with refused_with(errno.EPERM):
        await mount.operations.removexattr(inode, b"user.nvme.nsid", CONTEXT)


async def test_the_control_node_shows_what_waiting_requests_hold(mount):
    control = await mount.inode("nvmf")
    fh = await mount.open("nvme0ns1")

    async def shown() -> tuple[bytes, ...]:
        return tuple(
            [
                await mount.operations.getxattr(control, name, CONTEXT)
                for name in (b"user.nvme.waiting_requests", b"user.nvme.waiting_write_bytes")
            ]
        )

    mount.namespace.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.operations.read, fh, 0, 512)
        nursery.start_soon(mount.operations.write, fh, 0, bytes(1000))
        nursery.start_soon(mount.operations.fsync, fh, False)
        await trio.testing.wait_all_tasks_blocked()
        assert await shown() == (b"3", b"1000")
        mount.namespace.resume()
    assert await shown() == (b"0", b"0")


async def test_nodes_are_neither_made_nor_unmade_by_hand(mount):
    root, operations = ROOT_INODE, mount.operations
    for call in (
        operations.create(root, b"x", 0o600, os.O_RDWR, CONTEXT),
        operations.mknod(root, b"x", 0o600, 0, CONTEXT),
        operations.mkdir(root, b"x", 0o700, CONTEXT),
        operations.symlink(root, b"x", b"y", CONTEXT),
        operations.unlink(root, b"nvme0ns1", CONTEXT),
        operations.rmdir(root, b"nvme0ns1", CONTEXT),
        operations.rename(root, b"nvme0ns1", root, b"x", 0, CONTEXT),
        operations.link(await mount.inode("nvmf"), root, b"x", CONTEXT),
    ):
        with refused_with(errno.EPERM):
            await call


async def test_kernel_caches_neither_names_nor_attributes(mount):
    entry = await mount.operations.lookup(ROOT_INODE, b"nvme0ns1", CONTEXT)
    assert (entry.entry_timeout, entry.attr_timeout) == (0, 0)
    assert (entry.st_uid, entry.st_gid) == (os.getuid(), os.getgid())


async def test_statfs_counts_the_nodes(mount):
    stats = await mount.operations.statfs(CONTEXT)
    assert (stats.f_files, stats.f_blocks, stats.f_namemax) == (3, 0, 255)
