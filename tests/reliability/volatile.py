"""A target that loses its volatile cache when it is killed: every loss is found, none is silent.

Writers know of each block of theirs which versions were acknowledged, and which of these an fsync
made durable.  After each kill the namespace either goes on, and then nothing is lost, or is paused
and says where.  By turns it is then written again (`--rewrite`: nothing may be lost) or taken as it
is (`--accept`: each open file's next fsync fails once, and what was durable is there).
"""

import errno
import os
import random
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from .cutter import Cutter, Tally
from .rig import Rig, eventually, rig

if TYPE_CHECKING:
    from .soak import Options

_BLOCK_BYTES: Final = 4096
_BLOCKS: Final = 512
_EXTRA_S: Final = 30.0
_TAG: Final = struct.Struct("<8sIIQ")
_MAGIC: Final = b"reliable"


def _block(writer: int, index: int, version: int) -> bytes:
    return _TAG.pack(_MAGIC, writer, index, version) * (_BLOCK_BYTES // _TAG.size) + bytes(
        _BLOCK_BYTES % _TAG.size
    )


def _version(writer: int, index: int, data: bytes) -> int:
    """The version that a block holds, 0 if none; raises where it is not one whole block of ours."""
    if not any(data):
        return 0
    version: int = _TAG.unpack_from(data)[3]
    assert data == _block(writer, index, version), f"block {index} of writer {writer} is garbled"
    return version


@attrs.define(eq=False)
class Writer(threading.Thread):
    """Writes blocks of its own, and asks for durability now and then, or with every write."""

    node: Path
    number: int
    sync_always: bool
    seed: int
    #: Of each block: the last version begun, acknowledged, and known durable.
    begun: list[int] = attrs.field(init=False)
    acknowledged: list[int] = attrs.field(init=False)
    durable: list[int] = attrs.field(init=False)
    writes: int = 0
    fsyncs: int = 0
    fsyncs_failed: int = 0
    #: Losses that were accepted, and that an fsync has told this writer of.
    accepted: int = 0
    told: int = 0
    error: str = ""
    stopping: threading.Event = attrs.field(init=False, factory=threading.Event)

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def __attrs_post_init__(self) -> None:
        self.begun, self.acknowledged, self.durable = ([0] * _BLOCKS for _ in range(3))

    def run(self) -> None:
        chance = random.Random(self.seed)
        flags = os.O_RDWR | (os.O_DSYNC if self.sync_always else 0)
        fd = os.open(self.node, flags)
        try:
            while not self.stopping.is_set():
                self._write(fd, chance.randrange(_BLOCKS))
                if not self.sync_always and chance.random() < 0.01:
                    self._fsync(fd)
                if chance.random() < 0.05:
                    # What another one may use meanwhile.
                    time.sleep(0.002)
            if not self.sync_always:
                self._fsync(fd)
                if self.durable != self.acknowledged:
                    self._fsync(fd)
        except (OSError, AssertionError) as error:
            self.error = f"writer {self.number}: {error!r}"
        finally:
            os.close(fd)

    def _at(self, index: int) -> int:
        return (self.number * _BLOCKS + index) * _BLOCK_BYTES

    def _write(self, fd: int, index: int) -> None:
        version = self.begun[index] = self.begun[index] + 1
        try:
            os.pwrite(fd, _block(self.number, index, version), self._at(index))
        except OSError as error:
            # A write that is durable by itself tells of losses as fsync does.
            if not self.sync_always:
                raise
            self._told(fd, error)
            return
        self.acknowledged[index] = version
        if self.sync_always:
            self.durable[index] = version
        self.writes += 1

    def _fsync(self, fd: int) -> None:
        covered = list(self.acknowledged)
        owed_before = self.accepted
        try:
            os.fsync(fd)
        except OSError as error:
            self._told(fd, error)
            return
        assert self.told >= owed_before, "an fsync succeeded over an accepted loss"
        self.fsyncs += 1
        self.durable = covered

    def _told(self, fd: int, error: OSError) -> None:
        assert error.errno == errno.EIO
        self.fsyncs_failed += 1
        assert self.told < self.accepted, "an fsync failed, and no loss was accepted"
        self.told = self.accepted
        # As a program has to: looks at what is there, and takes it from there.
        found = self.look(fd)
        self.begun, self.acknowledged = list(found), list(found)

    def look(self, fd: int, at: int | None = None) -> list[int]:
        """The version of each block; none may be older than what is durable, or never written."""
        found = []
        start = self._at(0) if at is None else at
        for index in range(_BLOCKS):
            data = os.pread(fd, _BLOCK_BYTES, start + index * _BLOCK_BYTES)
            version = _version(self.number, index, data)
            assert self.durable[index] <= version <= self.begun[index], (
                f"block {index} has version {version}; durable is {self.durable[index]}, "
                f"acknowledged {self.acknowledged[index]}"
            )
            found.append(version)
        return found


@attrs.frozen(kw_only=True)
class VolatileReport:
    """What it went through."""

    tally: Tally
    writes: int
    fsyncs: int
    found: int
    rewritten: int
    accepted: int
    fsyncs_failed: int
    replayed: int
    quarantined: int
    error: str

    def __str__(self) -> str:
        return (
            f"{self.tally}; {self.writes} writes, {self.fsyncs} fsyncs; {self.found} losses of the "
            f"cache found: {self.rewritten} rewritten, {self.accepted} accepted, "
            f"{self.fsyncs_failed} fsyncs failed for them; {self.replayed} writes replayed, "
            f"{self.quarantined} quarantined; {self.error or 'no silent loss'}"
        )


def soak(options: "Options", folder: Path) -> VolatileReport:
    """Kills the target again and again under the writers."""
    with rig(folder, "nvmfd-volatile", mib=options.mib, lba_bytes=options.lba_bytes) as on:
        on.connect("-r", "1", *(("-g", "-G") if options.digests else ()))
        return _soak(options, on)


def _soak(options: "Options", on: Rig) -> VolatileReport:
    chance = random.Random(options.seed)
    cutter = Cutter(on, chance)
    writers = [Writer(on.node, n, n == 2, options.seed + n) for n in range(3)]
    for writer in writers:
        writer.start()
    error = ""
    found = rewritten = accepted = 0
    deadline = time.monotonic() + options.seconds
    while (
        time.monotonic() < deadline
        # A short run goes on until each has happened.
        or (not accepted and time.monotonic() < deadline + _EXTRA_S)
    ) and not any(writer.error for writer in writers):
        time.sleep(options.every_s * chance.uniform(0.3, 1.2))
        cutter.kill()
        eventually(lambda: _settled(on), "live or paused", within_s=30)
        namespace = on.namespace()
        if namespace["state"] != "paused":
            continue
        found += 1
        reason = namespace["reason"]
        if "does not have what was acknowledged, at LBA" not in reason:
            error = f"paused without saying what and where: {reason}"
            break
        # Nothing goes on before it is decided.
        before = [writer.writes for writer in writers]
        time.sleep(0.1)
        assert before == [writer.writes for writer in writers]
        if found % 2:
            on.mount.nvmecontrol("resume", "--rewrite", on.node)
            rewritten += 1
            # What was acknowledged is there, and is durable.
        else:
            for writer in writers:
                writer.accepted += 1
            on.mount.nvmecontrol("resume", "--accept", on.node)
            accepted += 1
        eventually(on.is_live, "live again")
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(60)
        error = error or writer.error or ("a writer hangs" if writer.is_alive() else "")
    namespace = on.namespace()
    error = error or _check_end(on, writers)
    if not error and not (rewritten and accepted):
        error = f"too few losses of the cache: {rewritten} rewritten, {accepted} accepted"
    return VolatileReport(
        tally=cutter.tally(),
        writes=sum(writer.writes for writer in writers),
        fsyncs=sum(writer.fsyncs for writer in writers),
        found=found,
        rewritten=rewritten,
        accepted=accepted,
        fsyncs_failed=sum(writer.fsyncs_failed for writer in writers),
        replayed=namespace["replayed_writes"],
        quarantined=namespace["quarantined_writes"],
        error=error,
    )


def _settled(on: Rig) -> bool:
    state = on.state()
    return state["state"] == "live" and on.namespace()["state"] in {"live", "paused"}


def _check_end(on: Rig, writers: list[Writer]) -> str:
    """Through the mount, and on the medium once all have ended, is what was acknowledged."""
    assert on.disk is not None
    assert on.target is not None
    for path in (on.node, on.disk):
        if path == on.disk:
            on.mount.nvmecontrol("disconnect", "nvme0")
            if code := on.target.stop():
                return f"nvmfd: exit code {code}"
        fd = os.open(path, os.O_RDONLY)
        try:
            for writer in writers:
                if writer.look(fd) != writer.acknowledged:
                    return f"{path.name}: writer {writer.number} misses what was acknowledged"
        except AssertionError as error:
            return f"{path.name}: {error}"
        finally:
            os.close(fd)
    return ""
