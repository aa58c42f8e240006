"""What an outage takes: to be found, to be over, to let what waited go."""

import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from tests.programs import Mount

from .aio import Aio
from .rig import Rig, eventually

WAITING: Final = 1000


@attrs.frozen
class Times:
    """How long it took, each time."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99_s(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]

    def __str__(self) -> str:
        return f"median {self.median_s:.2f} s, p99 {self.p99_s:.2f} s, n={len(self.seconds)}"


@attrs.define(eq=False)
class Reader(threading.Thread):
    """Reads all the time, and remembers when the last read was answered."""

    node: Path
    answered_at: float = 0.0
    error: OSError | None = None
    _ends: bool = False

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        fd = os.open(self.node, os.O_RDONLY)
        try:
            while not self._ends:
                os.pread(fd, 4096, 0)
                self.answered_at = time.monotonic()
                time.sleep(0.002)
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)

    def end(self) -> None:
        self._ends = True
        self.join(30)


@contextmanager
def reading(node: Path) -> Iterator[Reader]:
    """One reader, for as long as the block lasts."""
    reader = Reader(node)
    reader.start()
    try:
        yield reader
    finally:
        reader.end()
    assert reader.error is None


def answered_after(reader: Reader, at: float) -> bool:
    """Whether a read was answered after that."""
    return reader.answered_at > at


def first_byte(
    node: Path,
    lose: Callable[[], None],
    heal: Callable[[], None],
    outages_s: list[float],
    *,
    settle_s: float = 1.1,
) -> Times:
    """How long after each healing the first read is answered."""
    taken = []
    with reading(node) as reader:
        for outage_s in outages_s:
            eventually(lambda: time.monotonic() - reader.answered_at < 0.5, "I/O runs", within_s=60)
            # An association that ends at once counts as an attempt that failed.
            time.sleep(settle_s)
            lose()
            time.sleep(outage_s)
            healed_at = time.monotonic()
            heal()
            eventually(partial(answered_after, reader, healed_at), "the first byte", within_s=60)
            taken.append(reader.answered_at - healed_at)
    return Times(tuple(taken))


def refused(on: Rig, outages_s: list[float]) -> Times:
    """Outages in which the target refuses connections."""

    def lose() -> None:
        on.proxy.shut()
        on.proxy.cut()

    return first_byte(on.node, lose, on.proxy.open, outages_s)


def detection_s(mount: Mount, lose: Callable[[], None], *, within_s: float) -> float:
    """How long until nvme0 is not live any more."""
    node = mount.path / "nvme0"
    associations = json.loads(node.read_text())["associations"]

    def found() -> bool:
        state = json.loads(node.read_text())
        # It may be back before anybody looks.
        return bool(state["state"] != "live" or state["associations"] != associations)

    before = time.monotonic()
    lose()
    eventually(found, "the loss", within_s=within_s)
    return time.monotonic() - before


def drain(on: Rig) -> tuple[float, float]:
    """Requests a second: of a thousand that waited, from the first answer on, and as ever."""
    aio = Aio(on.node)
    try:
        aio.submit(WAITING)
        before = time.monotonic()
        aio.wait()
        normal = WAITING / (time.monotonic() - before)
        on.proxy.shut()
        on.proxy.cut()
        eventually(lambda: on.state()["state"] != "live", "lost")
        aio.submit(WAITING)
        eventually(lambda: on.namespace()["waiting_requests"] == WAITING, "all wait")
        on.proxy.open()
        first = len(aio.wait(1))
        before = time.monotonic()
        results = aio.wait()
        rate = (WAITING - first) / (time.monotonic() - before)
        assert set(results) == {4096}
        eventually(on.is_live, "live")
        return rate, normal
    finally:
        aio.close()


def spread(count: int, low_s: float, high_s: float, seed: int = 1) -> list[float]:
    """Lengths of outages."""
    chance = random.Random(seed)
    return [chance.uniform(low_s, high_s) for _ in range(count)]
