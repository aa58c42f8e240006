"""What a caller sees of the nodes, through a real mount of a fake host."""

# ruff: noqa: PTH101, PTH116, PTH123, PTH208

import concurrent.futures
import contextlib
import errno
import filecmp
import itertools
import json
import mmap
import os
import random
import stat
import subprocess

import pytest

from tests.fusedev.mounted import control, known_size, running, until

pytestmark = pytest.mark.fuse

MIB = 1 << 20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def daemon(way, tmp_path_factory):
    """One mount for all tests here, served in either way; each test takes other nodes."""
    directory = tmp_path_factory.mktemp("mount")
    with running(directory, environment=way) as daemon:
        yield daemon
        assert daemon.end() == 0
        assert "Traceback" not in daemon.errors.read_text()


@pytest.fixture
def node(daemon):
    """A namespace of 1 MiB that is no other test's, by path."""
    name = f"nvme2ns{next(_numbers)}"
    daemon.do("add", name=name, size_bytes=MIB)
    yield daemon.path(name)
    if name in os.listdir(daemon.directory):
        daemon.do("remove", name=name)


@contextlib.contextmanager
def opened(path, flags):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def fails_with(number, call, *arguments):
    with pytest.raises(OSError) as raised:  # noqa: PT011
        call(*arguments)
    assert errno.errorcode[raised.value.errno or 0] == errno.errorcode[number]


def test_listing_and_attributes(daemon):
    entries = {entry.name: entry.stat() for entry in os.scandir(daemon.directory)}
    assert {"nvmf", "nvme0", "nvme0ns1", "nvme0ns2", "nvme1", "nvme1ns1"} <= set(entries)
    namespace = entries["nvme0ns1"]
    assert stat.filemode(namespace.st_mode) == "-rw-------"
    assert (namespace.st_size, namespace.st_blocks) == (MIB, MIB // 512)
    assert (namespace.st_uid, namespace.st_gid) == (os.getuid(), os.getgid())
    assert stat.filemode(entries["nvmf"].st_mode) == "-rw-------"
    assert stat.filemode(entries["nvme0"].st_mode) == "-r--------"
    assert len({each.st_ino for each in entries.values()}) == len(entries)


def test_odd_offsets_and_lengths(node):
    source = random.Random(1)
    copy = bytearray(MIB)
    with opened(node, os.O_RDWR) as fd:
        for _ in range(100):
            offset = source.randrange(MIB)
            data = source.randbytes(source.randrange(1, 9000))
            written = os.pwrite(fd, data, offset)
            assert written == min(len(data), MIB - offset)
            copy[offset : offset + written] = data[:written]
            offset = source.randrange(MIB)
            length = source.randrange(20000)
            assert os.pread(fd, length, offset) == copy[offset : offset + length]
        assert os.pread(fd, 2 * MIB, 0) == copy


def test_the_end(node):
    with opened(node, os.O_RDWR) as fd:
        assert os.pread(fd, 10, MIB - 4) == bytes(4)
        assert os.pread(fd, 10, MIB) == b""
        assert os.pwrite(fd, b"0123456789", MIB - 4) == 4
        fails_with(errno.ENOSPC, os.pwrite, fd, b"x", MIB)
        assert os.lseek(fd, 0, os.SEEK_END) == MIB


@pytest.mark.parametrize("bs", ["1M", "4k", "12345"])
def test_dd_there_and_back(node, tmp_path, bs):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(random.Random(bs).randbytes(MIB))
    subprocess.run(["dd", f"if={source}", f"of={node}", f"bs={bs}", "status=none"], check=True)
    subprocess.run(["dd", f"if={node}", f"of={back}", f"bs={bs}", "status=none"], check=True)
    assert filecmp.cmp(source, back, shallow=False)


def test_cp_tar_and_direct_dd(node, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(random.Random(2).randbytes(MIB))
    subprocess.run(["cp", source, node], check=True)
    subprocess.run(["cp", node, back], check=True)
    assert filecmp.cmp(source, back, shallow=False)

    # With too few blocks, `-S` would take the data for holes.
    archive = tmp_path / "archive"
    directory, name = os.path.split(node)
    subprocess.run(["tar", "-S", "-C", directory, "-cf", archive, name], check=True)
    data = subprocess.run(["tar", "-xOf", archive], check=True, capture_output=True).stdout
    assert data == source.read_bytes()

    direct = ["bs=64k", "iflag=direct", "oflag=direct", "conv=notrunc", "status=none"]
    subprocess.run(["dd", f"if={node}", f"of={node}", *direct], check=True)
    assert filecmp.cmp(source, node, shallow=False)


def test_a_synchronous_handle_is_seen_as_fua_and_fsync_as_flush(daemon, node):
    name = name_of(node)
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={node}", "bs=4k", "count=2", "oflag=dsync", "status=none"],
        check=True,
    )
    with opened(node, os.O_WRONLY) as fd:
        os.pwrite(fd, b"x" * 512, 512)
        os.fsync(fd)
        os.fdatasync(fd)
    with opened(node, os.O_WRONLY | os.O_SYNC) as fd:
        os.pwrite(fd, b"x", 1)
    assert daemon.do("calls", name=name) == [
        ["write", 0, 4096, True],
        ["write", 4096, 4096, True],
        ["write", 512, 512, False],
        ["flush"],
        ["flush"],
        ["write", 1, 1, True],
    ]


def test_truncating_changes_no_size(node):
    with opened(node, os.O_RDWR | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == MIB
        os.ftruncate(fd, 0)
        os.ftruncate(fd, 2 * MIB)
        assert os.fstat(fd).st_size == MIB
        assert len(os.pread(fd, 2 * MIB, 0)) == MIB
    os.truncate(node, 7)
    assert os.stat(node).st_size == MIB


def test_after_a_truncating_open_the_kernel_soon_knows_the_size_unasked(node):
    with opened(node, os.O_RDONLY) as other:
        for _ in range(5):
            with opened(node, os.O_WRONLY | os.O_TRUNC):
                until(lambda: known_size(other) == MIB, 2)


def test_mapping_shared_is_refused(node):
    with opened(node, os.O_RDWR) as fd:
        fails_with(errno.ENODEV, mmap.mmap, fd, 4096, mmap.MAP_SHARED)


def test_extended_attributes(daemon):
    node = daemon.path("nvme0ns2")
    values = {name: os.getxattr(node, name).decode() for name in os.listxattr(node)}
    assert values["user.nvme.nsid"] == "2"
    assert values["user.nvme.lba_bytes"] == "4096"
    assert values["user.nvme.state"] == "live"
    fails_with(errno.ENODATA, os.getxattr, node, "user.nvme.nguid")
    fails_with(errno.EPERM, os.setxattr, node, "user.nvme.nsid", b"3")
    fails_with(errno.EPERM, os.removexattr, node, "user.nvme.nsid")


def test_a_controllers_node_is_its_state(daemon):
    with open(daemon.path("nvme0"), encoding="utf-8") as file:
        state = json.load(file)
    assert (state["name"], state["state"]) == ("nvme0", "live")
    copied = subprocess.run(["cat", daemon.path("nvme0")], check=True, capture_output=True)
    assert json.loads(copied.stdout)["name"] == "nvme0"


def test_names_are_not_ours_to_change(daemon, node):
    inside = daemon.path("other")
    fails_with(errno.EPERM, os.open, inside, os.O_CREAT | os.O_RDWR)
    fails_with(errno.EPERM, os.mkdir, inside)
    fails_with(errno.EPERM, os.rename, node, inside)
    fails_with(errno.EPERM, os.unlink, node)
    fails_with(errno.EPERM, os.symlink, "x", inside)
    fails_with(errno.EPERM, os.link, node, inside)
    fails_with(errno.ENOENT, os.stat, inside)
    fails_with(errno.EPERM, os.chmod, node, 0o666)
    fails_with(errno.EPERM, os.chown, node, 1234, 1234)


def test_setting_what_is_so_already_and_times_is_accepted(node):
    os.chmod(node, 0o600)
    os.chown(node, os.getuid(), os.getgid())
    os.utime(node, (1000, 2000))
    result = os.stat(node)
    assert (result.st_atime, result.st_mtime) == (1000, 2000)
    with opened(node, os.O_WRONLY) as fd:
        os.pwrite(fd, b"x", 0)
    assert os.stat(node).st_mtime > 2000


def test_a_read_only_namespace(daemon, node):
    daemon.do("read_only", name=name_of(node))
    assert stat.filemode(os.stat(node).st_mode) == "-r--------"
    fails_with(errno.EROFS, os.open, node, os.O_RDWR)
    fails_with(errno.EROFS, os.truncate, node, 0)
    with opened(node, os.O_RDONLY) as fd:
        assert len(os.pread(fd, 512, 0)) == 512


def test_a_reservation_conflict(daemon, node):
    daemon.do("conflict", name=name_of(node))
    with opened(node, os.O_WRONLY) as fd:
        fails_with(errno.EBADE, os.pwrite, fd, b"x", 0)
        fails_with(errno.EBADE, os.fsync, fd)


def test_a_new_size_is_seen_at_once(daemon, node):
    with opened(node, os.O_RDWR) as fd:
        for size in (2 * MIB, MIB // 2, 3 * MIB):
            daemon.do("resize", name=name_of(node), size_bytes=size)
            assert os.stat(node).st_size == size
            assert os.fstat(fd).st_size == size
            assert len(os.pread(fd, 4 * MIB, 0)) == size
        assert os.pwrite(fd, b"end", 3 * MIB - 3) == 3


def test_a_removed_namespace_answers_enxio_to_open_files_and_disappears(daemon, node):
    name = name_of(node)
    daemon.do("pause", name=name)
    with opened(node, os.O_RDWR) as fd, concurrent.futures.ThreadPoolExecutor(4) as threads:
        calls: list[concurrent.futures.Future[object]] = [
            threads.submit(os.pread, fd, 512, 0),
            threads.submit(os.pwrite, fd, b"x", 0),
            threads.submit(os.fsync, fd),
        ]
        # The fsync waits in the kernel, behind the write.
        until(lambda: daemon.do("waiting", name=name) == 2)
        daemon.do("remove", name=name)
        for call in calls:
            fails_with(errno.ENXIO, call.result)
        assert name not in os.listdir(daemon.directory)
        fails_with(errno.ENOENT, os.stat, node)
        fails_with(errno.ENXIO, os.pread, fd, 512, 0)
        fails_with(errno.ENXIO, os.pwrite, fd, b"x", 0)
        fails_with(errno.ENXIO, os.fsync, fd)
        assert os.fstat(fd).st_nlink == 0
        daemon.do("add", name=name, size_bytes=4096)
        # A new node of the same name is another one.
        assert os.stat(node).st_ino != os.fstat(fd).st_ino
        fails_with(errno.ENXIO, os.pread, fd, 512, 0)


def test_control_sessions_do_not_mix(daemon):
    with control(daemon.path("nvmf")) as one, control(daemon.path("nvmf")) as two:
        assert one({"do": "echo", "text": "a" * 5000}) == "a" * 5000
        assert two({"do": "echo", "text": "b"}) == "b"
        assert one({"do": "echo", "text": "c"}) == "c"


def test_statfs_is_answered(daemon):
    assert os.statvfs(daemon.directory).f_namemax == 255
    subprocess.run(["df", str(daemon.directory)], check=True, capture_output=True)
