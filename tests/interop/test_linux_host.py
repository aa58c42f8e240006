"""A Linux kernel's host, with nvme-cli, against our controller."""

from pathlib import Path

import pytest

from tests.programs import nvmfd

from .capture import capture
from .conftest import MIB
from .guests import HERE, kernel_host

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

#: nvme-cli's letters for the digest modes.
SHORT = "n gG"
FULL = "n g G gG"


@pytest.mark.parametrize(
    ("modes", "options"),
    [
        # Its writes come in their capsules ...
        (SHORT, ()),
        pytest.param(FULL, (), marks=pytest.mark.full),
        # ... or by R2T, but for the shortest.
        pytest.param(SHORT, ("--in-capsule", "8192"), marks=pytest.mark.full),
    ],
)
def test_a_kernel_uses_our_controller_without_complaint(
    kernel: str, modes: str, options: tuple[str, ...], tmp_path: Path
):
    medium = tmp_path / "medium"
    with medium.open("wb") as file:
        file.truncate(96 << 20)
    devices: list[str | Path] = ["ramdisk:96M:512", "ramdisk:96M:4096", medium]
    with (
        nvmfd(*options, *devices, log=tmp_path / "nvmfd.log") as controller,
        capture(controller.port, tmp_path / "capture.pcapng") as packets,
    ):
        settings = {
            "NQN": controller.subnqn,
            "DISCOVERY_PORT": str(controller.discovery_port),
            "NSIDS": "1 2 3",
            "MODES": modes,
            "MIB": str(MIB),
        }
        host = kernel_host(
            kernel,
            controller.port,
            HERE / "scripts/linux-host.sh",
            tmp_path,
            settings=settings,
            programs=("fio", "e2fsck"),
            timeout_s=500,
        )
        assert controller.stop() == 0

    assert "\n".join(host.faults()) == ""
    assert host.exit_code == 0
    assert controller.log.read_text().count("Traceback") == 0
    for shown in (
        f"subnqn:  {controller.subnqn}",
        "traddr:  127.0.0.1",
        f"NQN={controller.subnqn}",
    ):
        assert shown in host.output
    seen = packets.read()
    assert seen.faults == []
    assert seen.pdus["H2CTermReq"] == seen.pdus["C2HTermReq"] == 0
    assert seen.good_header_digests > 0
    assert seen.good_data_digests > 0
