"""Our host against our controller, as a dissector of somebody else's reads the wire."""

from pathlib import Path

import pytest

from tests.programs import Mount, nvmfd, run

from .capture import capture
from .files import DIGEST_OPTIONS, WRITERS, fio, random_file, sha256

pytestmark = [pytest.mark.peer, pytest.mark.fuse, pytest.mark.timeout(200)]

WRITE_OPCODE = "0x01"


@pytest.mark.parametrize("lba_bytes", [512, 4096])
def test_every_pdu_is_well_formed(
    mounts: tuple[Mount, Mount], digests: str, lba_bytes: int, tmp_path: Path
):
    size_bytes = 2 << 20
    # Writes come in their capsules; with one of the LBA sizes the longer ones are asked for by R2T.
    by_r2t = lba_bytes == 512
    options = ("--in-capsule", "8192") if by_r2t else ()
    device = f"ramdisk:16M:{lba_bytes}"
    with (
        nvmfd(*options, device, log=tmp_path / "nvmfd.log") as controller,
        capture(controller.port, tmp_path / "capture.pcapng") as packets,
    ):
        for mount in mounts:
            mount.connect(controller.address, controller.subnqn, *DIGEST_OPTIONS[digests])
        one, two = (mount.path / "nvme0ns1" for mount in mounts)
        source = random_file(tmp_path / "source", size_bytes)
        for name, (write, offset_bytes) in WRITERS.items():
            write(source, one)
            back = sha256(two, size_bytes, offset_bytes=offset_bytes)
            assert back == sha256(source, size_bytes), name
        for mount in mounts:
            mount.nvmecontrol("disconnect", "nvme0")
        assert controller.stop() == 0

    seen = packets.read()
    assert seen.faults == []
    assert seen.pdus["H2CTermReq"] == seen.pdus["C2HTermReq"] == 0
    assert min(seen.pdus[name] for name in ("CapsuleCmd", "C2HData")) > 0
    assert [seen.pdus[name] > 0 for name in ("R2T", "H2CData")] == [by_r2t] * 2
    assert (seen.good_header_digests > 0) == (digests in {"header", "both"})
    assert (seen.good_data_digests > 0) == (digests in {"data", "both"})


def test_synchronous_writes_carry_fua(mounts: tuple[Mount, Mount], tmp_path: Path):
    with (
        nvmfd("ramdisk:16M", log=tmp_path / "nvmfd.log") as controller,
        capture(controller.port, tmp_path / "capture.pcapng") as packets,
    ):
        mount = mounts[0]
        node = mount.path / f"{mount.connect(controller.address, controller.subnqn)}ns1"
        run("dd", "if=/dev/urandom", f"of={node}", "bs=4k", "count=8", "oflag=dsync")
        fio(node, 1, "--bs=4k", "--sync=1", "--ioengine=psync")
        mount.nvmecontrol("disconnect", "nvme0")

    shown = f"nvme.cmd.opc == {WRITE_OPCODE} && nvme.cmd.fua"
    flags = [
        flag
        for (flags,) in packets.fields("nvme.cmd.fua", display_filter=shown)
        for flag in flags.split(",")
    ]
    assert len(flags) > 8
    assert all(int(flag, 16) for flag in flags)
