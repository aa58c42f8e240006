"""The reader of kernel messages: faults are found, everyday lines are not."""

import pytest

from tests.interop.console import faults

EVERYDAY = """\
[    0.000000] Linux version 6.12.95+deb12-cloud-amd64
[    0.512000] ACPI: bus type PCI registered
[    2.160000] nvme nvme0: creating 2 I/O queues.
[    2.170000] nvme nvme0: mapped 2/0/0 default/read/poll queues.
[    2.180000] nvme nvme0: new ctrl: NQN "nqn.2014-08.org.example:open", addr 10.0.2.2:4420
[    3.100000] nvme nvme0: resetting controller
[    4.000000] EXT4-fs (nvme0n1): mounted filesystem with ordered data mode. Quota mode: none.
[    5.000000] nvme nvme0: Removing ctrl: NQN "nqn.2014-08.org.example:open"
"""


def test_everyday_lines_are_not_faults():
    assert faults(EVERYDAY) == []


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 61 at drivers/nvme/host/tcp.c:1291 nvme_tcp_try_send+0x1",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "Kernel panic - not syncing: Fatal exception",
        "INFO: task nvme:72 blocked for more than 120 seconds.",
        "nvme nvme0: queue 1: data digest error: recv 0xdeadbeef expected 0xcafef00d",
        "nvme nvme0: I/O tag 3 (1003) type 4 opcode 0x2 (I/O Cmd) QID 1 timeout",
        "nvme nvme0: starting error recovery",
        "nvme nvme0: Reconnecting in 10 seconds...",
        "nvme nvme0: Connect Invalid SQE Parameter, qid 0",
        "nvme nvme0: Identify Descriptors failed (nsid=1, status=0x2)",
        "nvme nvme0: globally duplicate IDs for nsid 1",
        "nvme0n1: Write(0x1) @ LBA 8, 8 blocks, Invalid Field in Command (sct 0x0 / sc 0x2)",
        "I/O error, dev nvme0n1, sector 64 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "Buffer I/O error on dev nvme0n1, logical block 0, lost async page write",
        "EXT4-fs error (device nvme0n1): ext4_lookup:1787: inode #2: comm ls",
        "nvmet_tcp: queue 1: failed to receive icreq",
    ],
)
def test_a_fault_is_found_among_everyday_lines(line):
    stamped = f"[    2.990000] {line}"
    assert faults(EVERYDAY + stamped + "\n" + EVERYDAY) == [stamped]
