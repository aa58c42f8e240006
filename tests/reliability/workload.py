"""Rounds of fio that write everywhere, with every kind of request, and verify every byte."""

import subprocess
import threading
from pathlib import Path
from typing import Final

import attrs

_MIB: Final = 1 << 20


@attrs.frozen
class Job:
    """One of fio's: a region of its own, one block size, one way to ask for it."""

    name: str
    share: float
    options: tuple[str, ...]


def jobs(lba_bytes: int) -> list[Job]:
    """What runs side by side; a `share` is a part of the namespace."""
    aio = ("--ioengine=libaio", "--direct=1")
    return [
        Job("lba", 0.03, (f"--bs={lba_bytes}", "--iodepth=8", *aio)),
        Job("4k", 0.17, ("--bs=4k", "--iodepth=16", *aio)),
        Job("64k", 0.3, ("--bs=64k", "--iodepth=4", *aio)),
        Job("1m", 0.3, ("--bs=1m", "--ioengine=psync", "--direct=1")),
        # Neither the blocks nor their places are whole LBAs: read, merged and written.
        Job("unaligned", 0.08, ("--bs=7000", "--ioengine=psync", "--fsync=32")),
        Job("dsync", 0.05, ("--bs=4k", "--ioengine=psync", "--sync=dsync")),
    ]


@attrs.define(eq=False)
class Workload:
    """Runs until it is told to stop; an error or a difference ends it, and stays in `error`."""

    node: Path
    mib: int
    lba_bytes: int
    folder: Path
    rounds: int = 0
    error: str = ""
    _seed: int = attrs.field(init=False, default=1000)
    _stop: threading.Event = attrs.field(init=False, factory=threading.Event)
    _thread: threading.Thread | None = attrs.field(init=False, default=None)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, *, within_s: float) -> None:
        """Ends after the round that runs."""
        assert self._thread is not None
        self._stop.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self.error = self.error or f"a round was not over after {within_s} s"

    def _run(self) -> None:
        while not self._stop.is_set() and not self.error:
            self.write(self.node)
            if not self.error:
                # What was verified when it was fresh may have been overwritten by a ghost since.
                self.verify(self.node)
            self.rounds += not self.error

    def write(self, node: Path) -> None:
        self._seed += 1
        self._fio(node, "--do_verify=1", "--verify_backlog=64")

    def verify(self, node: Path) -> None:
        """Reads what the last round wrote."""
        self._fio(node, "--verify_only=1")

    def _fio(self, node: Path, *options: str) -> None:
        argv = [
            *("fio", f"--filename={node}", "--rw=randwrite", "--verify=crc32c"),
            *("--verify_fatal=1", "--verify_state_save=0", "--allow_file_create=0"),
            *("--fallocate=none", "--thread", "--group_reporting", "--exitall_on_error"),
            f"--randseed={self._seed}",
            *options,
        ]
        at = 0
        for job in jobs(self.lba_bytes):
            size = max(1, int(self.mib * job.share)) * _MIB
            argv += [f"--name={job.name}", f"--offset={at}", f"--size={size}", *job.options]
            at += size
        assert at <= self.mib * _MIB
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.folder
        )
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            self.error = f"fio: exit code {done.returncode}: " + "\n".join(said[:12])
