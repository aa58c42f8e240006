"""A ghost in a Linux kernel's target: a write arrives there after its host has let go of it.

The proxy holds the write back, breaks the host's connections and keeps the target's, and hands the
write over later.  The kernel executes it: its old controller knows of no loss yet.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import fusedev
from tests.reliability.proxying import proxy
from tests.reliability.rig import eventually

from .guests import TARGET_NQN, TARGET_NSIDS, Target

pytestmark = [pytest.mark.peer, pytest.mark.fuse, pytest.mark.timeout(400)]

_SIZE = 4096
_KATO_S = 3
_LATE_S = 1.5


def _write(node: Path, data: bytes) -> threading.Thread:
    def write() -> None:
        with node.open("r+b", buffering=0) as file:
            file.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _read(node: Path) -> bytes:
    fd = os.open(node, os.O_RDONLY)
    try:
        return os.pread(fd, _SIZE, 0)
    finally:
        os.close(fd)


def test_a_newer_write_survives_a_ghost(target: Target, tmp_path: Path):
    with (
        proxy(target.address) as between,
        fusedev(tmp_path / "dev", log=tmp_path / "fusedev.log") as mount,
    ):
        name = mount.connect(between.address, TARGET_NQN, "-r", "1", "-k", str(_KATO_S))
        node = mount.path / f"{name}ns{TARGET_NSIDS[512]}"

        def state() -> dict[str, Any]:
            found: dict[str, Any] = json.loads((mount.path / name).read_text())
            return found

        between.freeze()
        older = _write(node, b"A" * _SIZE)
        eventually(
            lambda: any(queue["outstanding"] for queue in state()["queues"] if queue["qid"]),
            "the write is on its way",
        )
        # Until it has reached the proxy.
        time.sleep(0.2)
        between.strand(_LATE_S)
        older.join(30)
        assert not older.is_alive()
        assert between.counts()["ghosts"] == 0, "too late to see anything"
        newer = _write(node, b"B" * _SIZE)
        eventually(lambda: between.counts()["ghosts"] == 1, "the kernel has executed the ghost")
        assert newer.is_alive(), "the newer write was let onto LBAs in quarantine"
        newer.join(3 * _KATO_S + 10)
        assert not newer.is_alive()
        assert _read(node) == b"B" * _SIZE
        mount.nvmecontrol("disconnect", name)
