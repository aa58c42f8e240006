"""DEVICE, files as stores, and identity that is kept."""

import os
import shutil
import stat
import subprocess
import uuid
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from nvmf_controller import Device, FileStore, default_subnqn, file_uuid, open_namespace
from nvmf_controller.budget import MemoryBudget
from nvmf_controller.identity import FILE_XATTR, UUID_XATTR, state_folder
from nvmf_transport.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "path", "ram_bytes", "lba_bytes"),
    [
        ("ramdisk:64M", None, 64 << 20, None),
        ("ramdisk:1g:4096", None, 1 << 30, 4096),
        ("ramdisk:8192:512", None, 8192, 512),
        ("ramdisk:512", None, 512, None),
        ("ramdisk:4096", None, 4096, None),
        ("ramdisk:2T", None, 2 << 40, None),
        ("/a/disk.img", "/a/disk.img", 0, None),
        ("/a/disk.img:4096", "/a/disk.img", 0, 4096),
        ("/a:b:c", "/a:b:c", 0, None),
        ("/a:512:4096", "/a:512", 0, 4096),
        ("/a:1024", "/a:1024", 0, None),
        ("relative", "relative", 0, None),
        ("./ramdisk:512", "./ramdisk", 0, 512),
    ],
)
def test_device(text, path, ram_bytes, lba_bytes):
    assert Device.parse(text) == Device(text, path, ram_bytes, lba_bytes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty"),
        ("ramdisk:", "not a size"),
        ("ramdisk:12Q", "not a size"),
        ("ramdisk:-5", "not a size"),
        ("ramdisk:0", "size is 0"),
        ("ramdisk:1000", "1000 bytes.*512 bytes.*1024 bytes"),
        ("ramdisk:512:4096", "512 bytes.*4096 bytes"),
        ("ramdisk:100000T", "too large"),
        ("ramdisk:1M:520", "not a size"),
    ],
)
def test_device_that_is_refused(text, names):
    with pytest.raises(ConfigError, match=names) as caught:
        Device.parse(text)
    assert caught.value.field == "device"


async def test_file_whose_size_does_not_fit(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(5120))
    with pytest.raises(ConfigError, match=r"5120 bytes.*4096 bytes.*make it 8192"):
        await open_namespace(1, Device.parse(f"{path}:4096"))
    namespace = await open_namespace(1, Device.parse(f"{path}"))
    assert namespace.size_lbas == 10
    namespace.store.close()


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "empty"])
async def test_paths_that_are_refused(tmp_path, kind):
    path = tmp_path / "thing"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case _:
            pass
    with trio.fail_after(5), pytest.raises(ConfigError) as caught:
        await open_namespace(1, Device.parse(str(path)))
    assert caught.value.value == str(path)
    assert "; " in str(caught.value)


async def test_file_is_served_once_at_a_time(tmp_path, autojump_clock):
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    store = await FileStore.open(str(path))
    with pytest.raises(ConfigError, match="another process"):
        await FileStore.open(str(path))
    store.close()
    (await FileStore.open(str(path))).close()


async def test_store_closes_after_what_is_under_way(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    store = await FileStore.open(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.read, 0, 4096)
        await trio.testing.wait_all_tasks_blocked()
        store.close()
    assert store.fd == -1
    with pytest.raises(OSError, match="closed"):
        await store.read(0, 512)


async def test_write_never_makes_a_file_longer(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    store = await FileStore.open(str(path))
    with pytest.raises(OSError, match="grow"):
        await store.write(4000, bytes(512), fua=False)
    store.close()
    assert path.stat().st_size == 4096


async def test_zeroes_where_the_file_system_has_no_holes(tmp_path, monkeypatch):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (3 << 20))
    store = await FileStore.open(str(path))

    def refuse(fd, mode, offset, length):
        raise OSError(95, "not supported")

    monkeypatch.setattr("nvmf_controller.libc.fallocate", refuse)
    await store.write_zeroes(512, 2 << 20, deallocate=True, fua=True)
    await store.deallocate(0, 512)
    store.close()
    content = path.read_bytes()
    assert content == b"x" * 512 + bytes(2 << 20) + b"x" * ((1 << 20) - 512)


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "nvmf"


def uuid_of(path) -> uuid.UUID:
    fd = os.open(path, os.O_RDWR)
    try:
        return file_uuid(fd, str(path))
    finally:
        os.close(fd)


def no_xattrs(*args):
    raise OSError(95, "not supported")


@pytest.mark.parametrize("xattrs", [True, False])
def test_uuid_stays_with_the_file(tmp_path, state, monkeypatch, xattrs):
    if not xattrs:
        monkeypatch.setattr(os, "listxattr", no_xattrs)
    path = tmp_path / "disk"
    path.write_bytes(b"1")
    first = uuid_of(path)
    path.write_bytes(b"2")
    assert uuid_of(path) == first
    moved = path.rename(tmp_path / "moved")
    assert uuid_of(moved) == first
    # Another file of the same name is another namespace.
    path.write_bytes(b"1")
    assert uuid_of(path) != first


def test_uuid_is_an_attribute_of_the_file(tmp_path, state):
    path = tmp_path / "disk"
    path.write_bytes(b"1")
    kept = uuid_of(path)
    assert uuid.UUID(os.getxattr(path, UUID_XATTR).decode()) == kept
    assert not state.exists()


def test_copy_gets_a_uuid_of_its_own(tmp_path, state, announce):
    announce("a copy of the file")
    path = tmp_path / "disk"
    path.write_bytes(b"1")
    original = uuid_of(path)
    copy = tmp_path / "copy"
    shutil.copy2(path, copy)
    assert os.getxattr(copy, FILE_XATTR) == os.getxattr(path, FILE_XATTR)
    assert uuid_of(copy) != original
    assert uuid_of(path) == original


def test_state_that_cannot_be_kept(tmp_path, monkeypatch, announce):
    announce("cannot be kept")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert default_subnqn() != default_subnqn()


def test_subsystem_nqn_is_made_once(state):
    assert default_subnqn() == default_subnqn()
    assert state_folder() == state
    assert [path.name for path in state.iterdir()] == ["subsystem.uuid"]


def test_damaged_state_is_replaced(state):
    state.mkdir(parents=True)
    (state / "subsystem.uuid").write_text("nonsense")
    made = default_subnqn()
    assert default_subnqn() == made


@pytest.fixture
def loop_device(tmp_path):
    path = tmp_path / "backing"
    path.write_bytes(bytes(1 << 20))
    command = ["losetup", "--find", "--show", "--sector-size", "4096", str(path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0 or not stat.S_ISBLK(Path(made.stdout.strip()).stat().st_mode):
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


async def test_block_device(loop_device, state, announce):
    announce("no lasting identity", optional=True)
    namespace = await open_namespace(1, Device.parse(loop_device))
    assert (namespace.lba_bytes, namespace.size_lbas) == (4096, 256)
    await namespace.store.write(8192, b"x" * 4096, fua=True)
    await namespace.store.write_zeroes(8192, 4096, deallocate=True, fua=False)
    assert bytes(await namespace.store.read(4096, 8192)) == bytes(8192)
    namespace.store.close()
    with pytest.raises(ConfigError, match="4096 bytes"):
        await open_namespace(1, Device.parse(f"{loop_device}:512"))


async def test_budget_is_given_in_the_order_of_asking():
    budget = MemoryBudget(100)
    order = []

    async def take(name, length, hold):
        async with budget.reserve(length):
            order.append(name)
            await hold.wait()

    async with trio.open_nursery() as nursery:
        holds = {name: trio.Event() for name in "abcd"}
        # d would fit beside a, but b asked first; and b is more than there is.
        for name, length in (("a", 60), ("b", 1000), ("c", 10), ("d", 10)):
            nursery.start_soon(take, name, length, holds[name])
            await trio.testing.wait_all_tasks_blocked()
        assert order == ["a"]
        holds["a"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["a", "b"]
        holds["b"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(order) == ["a", "b", "c", "d"]
        for hold in holds.values():
            hold.set()
    assert budget.used_bytes == 0


async def test_waiter_that_gives_up_holds_nobody_up():
    budget = MemoryBudget(100)
    passed = trio.Event()

    async def wait_for_all(scope):
        with scope:
            async with budget.reserve(100):
                raise AssertionError

    async def wait_for_some():
        async with budget.reserve(40):
            passed.set()

    async with trio.open_nursery() as nursery, budget.reserve(60):
        scope = trio.CancelScope()
        nursery.start_soon(wait_for_all, scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait_for_some)
        await trio.testing.wait_all_tasks_blocked()
        assert not passed.is_set()
        scope.cancel()
        await passed.wait()
    assert budget.used_bytes == 0
