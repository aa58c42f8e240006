"""Which directory is mounted on, and what is refused."""

import os

import pyfuse3
import pytest

from fusedev import mount, mountinfo
from fusedev.mount import MountPoint, StartError

_MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:40 / /mnt/a\040b rw,nosuid,nodev - fuse.nvmf nvmf rw,user_id=0
41 27 0:41 / /mnt/a\040b rw,nosuid shared:7 master:1 - tmpfs tmpfs rw,size=4k
42 27 254:1 / /mnt/\134x rw - ext4 /dev/vda rw
nonsense
"""


def test_mountinfo_is_parsed_with_optional_fields_and_escapes():
    assert mountinfo.parse(_MOUNTINFO) == [
        mountinfo.Mount("/proc", "proc", 21),
        mountinfo.Mount("/mnt/a b", "fuse.nvmf", 40),
        mountinfo.Mount("/mnt/a b", "tmpfs", 41),
        mountinfo.Mount("/mnt/\\x", "ext4", 1),
    ]


def test_this_systems_mountinfo_has_a_root():
    assert mountinfo.mounts_at("/")


def test_directory_is_the_argument_then_the_environment_then_the_default(tmp_path):
    tmp = str(tmp_path.resolve())
    environment = {"NVMF_DEV": f"{tmp}/env", "XDG_RUNTIME_DIR": f"{tmp}/run"}

    def chosen(argument: str | None, names: str, uid: int) -> tuple[str, bool]:
        point = mount.choose(argument, {name: environment[name] for name in names.split()}, uid)
        return point.path, point.temporary

    assert chosen(f"{tmp}/arg", "NVMF_DEV XDG_RUNTIME_DIR", 0) == (f"{tmp}/arg", False)
    assert chosen(None, "NVMF_DEV XDG_RUNTIME_DIR", 0) == (f"{tmp}/env", False)
    assert chosen(None, "XDG_RUNTIME_DIR", 0) == ("/run/nvmf", True)
    assert chosen(None, "XDG_RUNTIME_DIR", 1000) == (f"{tmp}/run/nvmf", True)


def test_no_default_without_a_runtime_directory():
    with pytest.raises(StartError, match="XDG_RUNTIME_DIR is not set; name one") as raised:
        mount.choose(None, {}, 1000)
    assert raised.value.exit_code == 64


def test_links_and_dots_are_resolved(tmp_path, monkeypatch):
    tmp = tmp_path.resolve()
    (tmp / "real").mkdir()
    (tmp / "one").symlink_to("real")
    (tmp / "two").symlink_to(tmp / "one")
    monkeypatch.chdir(tmp)
    for path in ("real", "one", "two", "./real/", "real/../two", f"{tmp}//real"):
        assert mount.resolve(path) == str(tmp / "real")


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StartError, match="too many links") as raised:
        mount.resolve(str(tmp_path / "a"))
    assert raised.value.exit_code == 72


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A stand-in for /dev/fuse that can be opened."""
    device = tmp_path / "fuse"
    device.touch()
    monkeypatch.setattr(mount, "_DEV_FUSE", device)
    return device


def test_a_missing_directory_is_named(tmp_path, device):
    with pytest.raises(StartError, match="/none: no such directory; make it") as raised:
        mount.prepare(MountPoint(f"{tmp_path}/none", temporary=False))
    assert raised.value.exit_code == 72


def test_a_file_is_no_directory(tmp_path, device):
    with pytest.raises(StartError, match="not a directory") as raised:
        mount.prepare(MountPoint(str(device), temporary=False))
    assert raised.value.exit_code == 72


def test_no_device_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(mount, "_DEV_FUSE", tmp_path / "fuse")
    with pytest.raises(StartError, match="fuse: No such file or directory; load") as raised:
        mount.prepare(MountPoint(str(tmp_path), temporary=False))
    assert raised.value.exit_code == 72


def test_the_default_directory_is_made_and_removed(tmp_path, device):
    point = MountPoint(f"{tmp_path}/nvmf", temporary=True)
    mount.prepare(point)
    mount.prepare(point)
    assert os.listdir(point.path) == []  # noqa: PTH208
    mount.remove(point)
    assert not os.path.lexists(point.path)
    mount.remove(point)


def test_a_default_directory_that_cannot_be_made_is_refused(tmp_path, device):
    with pytest.raises(StartError, match="cannot be made: No such file") as raised:
        mount.prepare(MountPoint(f"{tmp_path}/none/nvmf", temporary=True))
    assert raised.value.exit_code == 72


def test_another_file_system_there_is_refused(device):
    with pytest.raises(StartError, match="/proc: busy: a file system of type proc") as raised:
        mount.prepare(MountPoint("/proc", temporary=False))
    assert raised.value.exit_code == 73


def test_a_request_timeout_is_warned_of(tmp_path, announce):
    announce("fs.fuse.max_request_timeout is 300: the kernel ends this mount")
    (tmp_path / "max_request_timeout").write_text("300\n")
    (tmp_path / "default_request_timeout").write_text("0\n")
    mount.warn_of_request_timeout(tmp_path)


def test_a_kernel_without_request_timeouts_is_not(tmp_path):
    mount.warn_of_request_timeout(tmp_path)


@pytest.mark.fuse
def test_a_mount_that_fails_says_what_libfuse_says(tmp_path, capfd):
    point = MountPoint(f"{tmp_path}/none", temporary=False)
    with (
        pytest.raises(StartError, match=r"/none: mount failed: .*No such file") as raised,
        mount.mounted(pyfuse3.Operations(), point, allow_other=False),
    ):
        pytest.fail("mounted")
    assert raised.value.exit_code == 71
    assert capfd.readouterr().err == ""
