"""What the kernel is told of nodes, byte by byte, beside what pyfuse3 would be told."""

import ctypes
import errno
import os
from typing import Any, ClassVar

import pyfuse3
import pytest

from fusedev.inquiries import Inquiries
from fusedev.nodes import ROOT_INODE, NodeTable
from fusedev.operations import Operations

from .fakes import FakeControl, FakeHost
from .kernel import GETATTR, LOOKUP, InHeader

CONTEXT: Any = pyfuse3.RequestContext()
GETXATTR, OPEN = 22, 14
HEADER = bytes(ctypes.sizeof(InHeader))
NAMES = ["nvmf", "nvme0", "nvme0ns1"]


class Attr(ctypes.Structure):
    """struct fuse_attr."""

    _fields_: ClassVar[Any] = (
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("atime", ctypes.c_int64),
        ("mtime", ctypes.c_int64),
        ("ctime", ctypes.c_int64),
        ("atimensec", ctypes.c_uint32),
        ("mtimensec", ctypes.c_uint32),
        ("ctimensec", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("rdev", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class AttrOut(ctypes.Structure):
    """struct fuse_attr_out."""

    _fields_: ClassVar[Any] = (
        ("attr_valid", ctypes.c_uint64),
        ("attr_valid_nsec", ctypes.c_uint32),
        ("dummy", ctypes.c_uint32),
        ("attr", Attr),
    )


class EntryOut(ctypes.Structure):
    """struct fuse_entry_out."""

    _fields_: ClassVar[Any] = (
        ("nodeid", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("entry_valid", ctypes.c_uint64),
        ("attr_valid", ctypes.c_uint64),
        ("entry_valid_nsec", ctypes.c_uint32),
        ("attr_valid_nsec", ctypes.c_uint32),
        ("attr", Attr),
    )


class Both:
    """The same table behind both."""

    def __init__(self) -> None:
        self.host = FakeHost()
        namespace = self.host.add("nvme0ns1", 512)
        # Of so many bytes, for all that anybody here looks at.
        namespace.data = range((5 << 32) + 512)  # type: ignore[assignment]
        self.nodes = NodeTable(lambda name: None, uid=1001, gid=1002)
        self.nodes.follow(self.host)
        self.operations = Operations(self.nodes, FakeControl(self.host), lambda name: None)
        self.inquiries = Inquiries(self.nodes)

    def ask(self, opcode: int, body: bytes, number: int = ROOT_INODE) -> bytes | int | None:
        return self.inquiries.answer(opcode, number, memoryview(HEADER + body))

    def look_up(self, name: str) -> bytes | int | None:
        return self.ask(LOOKUP, name.encode() + b"\0")


@pytest.fixture
def both():
    return Both()


def same(said: Attr, entry: pyfuse3.EntryAttributes) -> None:
    assert said.ino == entry.st_ino
    assert said.size == entry.st_size
    assert said.blocks == entry.st_blocks
    assert said.atime * 10**9 + said.atimensec == entry.st_atime_ns
    assert said.mtime * 10**9 + said.mtimensec == entry.st_mtime_ns
    assert said.ctime * 10**9 + said.ctimensec == entry.st_ctime_ns
    assert said.mode == entry.st_mode
    assert said.nlink == entry.st_nlink
    assert (said.uid, said.gid) == (entry.st_uid, entry.st_gid)
    assert said.rdev == entry.st_rdev
    assert said.blksize == entry.st_blksize
    assert said.flags == 0


@pytest.mark.parametrize("name", NAMES)
async def test_a_lookup_tells_what_pyfuse3_would(both, name):
    expected = await both.operations.lookup(
        pyfuse3.ROOT_INODE, pyfuse3.FileNameT(name.encode()), CONTEXT
    )
    answer = both.look_up(name)
    assert isinstance(answer, bytes)
    assert len(answer) == ctypes.sizeof(EntryOut)
    said = EntryOut.from_buffer_copy(answer)
    assert said.nodeid == expected.st_ino
    assert said.generation == expected.generation
    assert (said.entry_valid, said.entry_valid_nsec) == (0, 0)
    assert (said.attr_valid, said.attr_valid_nsec) == (0, 0)
    same(said.attr, expected)


@pytest.mark.parametrize("name", [*NAMES, None])
@pytest.mark.parametrize("modified_ns", [1_700_000_000_999_999_999, 0, -1])
async def test_attributes_are_those_that_pyfuse3_would_tell(both, name, modified_ns):
    node = both.nodes.root if name is None else both.nodes.lookup(name.encode())
    node.modified_ns = modified_ns
    answer = both.ask(GETATTR, bytes(16), node.inode)
    assert isinstance(answer, bytes)
    assert len(answer) == ctypes.sizeof(AttrOut)
    said = AttrOut.from_buffer_copy(answer)
    assert (said.attr_valid, said.attr_valid_nsec) == (0, 0)
    same(said.attr, await both.operations.getattr(node.inode, CONTEXT))


def test_a_lookup_is_counted_until_it_is_forgotten(both):
    both.look_up("nvme0ns1")
    both.look_up("nvme0ns1")
    node = both.nodes.lookup(b"nvme0ns1")
    assert node.lookups == 2
    both.host.remove("nvme0ns1")
    both.nodes.forget(node.inode, 1)
    answer = both.ask(GETATTR, bytes(16), node.inode)
    assert isinstance(answer, bytes)
    assert AttrOut.from_buffer_copy(answer).attr.nlink == 0, "gone, and still open"
    both.nodes.forget(node.inode, 1)
    assert both.ask(GETATTR, bytes(16), node.inode) == errno.ESTALE


@pytest.mark.parametrize("name", ["", "nvme", "nvme0ns12", "nvme0ns1\0", os.fsdecode(b"\xff")])
def test_there_is_no_other_name(both, name):
    assert both.ask(LOOKUP, os.fsencode(name) + b"\0") == errno.ENOENT


@pytest.mark.parametrize("name", [b"security.capability", b"system.posix_acl_access", b"user.nvm"])
@pytest.mark.parametrize("size", [0, 100])
def test_attributes_of_others_are_not_there(both, name, size):
    body = size.to_bytes(4, "little") + bytes(4) + name + b"\0"
    assert both.ask(GETXATTR, body) == errno.ENODATA


def test_all_else_is_for_pyfuse3(both):
    assert both.ask(GETXATTR, bytes(8) + b"user.nvme.state\0") is None
    assert both.ask(OPEN, bytes(8)) is None
