"""Our host, mounted, against the target of a Linux kernel."""

import inspect
from pathlib import Path

import hypothesis
import pytest
import trio

from tests.programs import Mount, run

from .capture import capture
from .conftest import MIB
from .files import DIGEST_OPTIONS, WRITERS, fio, loop_device, mounted, random_file, sha256
from .guests import TARGET_NQN, TARGET_NSIDS, Target

pytestmark = [pytest.mark.peer, pytest.mark.fuse, pytest.mark.timeout(400)]

SIZE_BYTES = MIB << 20


def connect(mount: Mount, target: Target, digests: str, lba_bytes: int) -> Path:
    """Connects and returns the node of the namespace with this LBA size."""
    controller = mount.connect(target.address, TARGET_NQN, *DIGEST_OPTIONS[digests])
    return mount.path / f"{controller}ns{TARGET_NSIDS[lba_bytes]}"


@pytest.mark.parametrize("lba_bytes", sorted(TARGET_NSIDS))
def test_what_one_mount_writes_another_reads(
    target: Target, mounts: tuple[Mount, Mount], digests: str, lba_bytes: int, tmp_path: Path
):
    one, two = (connect(mount, target, digests, lba_bytes) for mount in mounts)
    for name, (write, offset_bytes) in WRITERS.items():
        # A length that is no multiple of the LBA size: the end is read, changed and written.
        size_bytes = SIZE_BYTES - 1 if offset_bytes else SIZE_BYTES
        source = random_file(tmp_path / "source", size_bytes)
        write(source, one)
        back = sha256(two, size_bytes, offset_bytes=offset_bytes)
        assert back == sha256(source, size_bytes), name
    odd_bytes = 1 << 20
    assert sha256(two, odd_bytes, bs="12345") == sha256(one, odd_bytes)


@pytest.mark.parametrize("lba_bytes", sorted(TARGET_NSIDS))
def test_every_pdu_to_and_from_a_kernel_is_well_formed(
    target: Target, mounts: tuple[Mount, Mount], digests: str, lba_bytes: int, tmp_path: Path
):
    # Little data: a capture that loses packets under load says nothing.
    size_bytes = 2 << 20
    source = random_file(tmp_path / "source", size_bytes)
    with capture(target.port, tmp_path / "capture.pcapng") as packets:
        mount = mounts[0]
        node = connect(mount, target, digests, lba_bytes)
        for name, (write, offset_bytes) in WRITERS.items():
            write(source, node)
            back = sha256(node, size_bytes, offset_bytes=offset_bytes)
            assert back == sha256(source, size_bytes), name
        mount.nvmecontrol("disconnect", "nvme0")

    seen = packets.read()
    assert seen.faults == []
    assert seen.pdus["H2CTermReq"] == seen.pdus["C2HTermReq"] == 0
    assert min(seen.pdus[name] for name in ("CapsuleCmd", "C2HData", "R2T", "H2CData")) > 0
    assert (seen.good_header_digests > 0) == (digests in {"header", "both"})
    assert (seen.good_data_digests > 0) == (digests in {"data", "both"})


@pytest.mark.parametrize("lba_bytes", sorted(TARGET_NSIDS))
def test_fio_verifies_what_it_writes(
    target: Target, mounts: tuple[Mount, Mount], digests: str, lba_bytes: int
):
    node = connect(mounts[0], target, digests, lba_bytes)
    fio(node, MIB, "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16")
    fio(node, MIB, "--bs=128k", "--direct=0", "--ioengine=psync", "--fsync=16")
    # Neither the blocks nor their places are whole LBAs.
    fio(node, MIB, "--bs=7000", "--direct=0", "--ioengine=psync")


@pytest.mark.parametrize("lba_bytes", sorted(TARGET_NSIDS))
def test_a_file_system_on_a_loop_device_stays_whole(
    target: Target, mounts: tuple[Mount, Mount], lba_bytes: int, tmp_path: Path
):
    one, two = (connect(mount, target, "both", lba_bytes) for mount in mounts)
    trees = [Path(inspect.getfile(module)).parent for module in (trio, hypothesis)]
    with loop_device(one) as device:
        run("mkfs.ext4", "-q", "-F", device)
        with mounted(device, tmp_path / "fs") as folder:
            run("cp", "-r", *trees, folder)
        run("fsck.ext4", "-f", "-n", device)
    with loop_device(two, "--read-only") as device:
        run("fsck.ext4", "-f", "-n", device)
        with mounted(device, tmp_path / "fs", "ro,noload") as folder:
            for tree in trees:
                run("diff", "-r", tree, folder / tree.name)
