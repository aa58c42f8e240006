"""I/O through any mix of losses, late executions, bad statuses and cancelled callers.

The oracle: writes that overlap take effect in the order of their arrival, each at most once as far
as anybody can tell.  A byte that is read was written by the newest write that was acknowledged, or
seen by another reader, before the read began, or by a newer one.
"""

import itertools
import random

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nvmf_host.namespace import Namespace
from nvmf_transport import status as s
from nvmf_transport.capsule import CommandCapsule
from nvmf_transport.errors import CommandError, DataDigestError
from nvmf_transport.nvme import NvmOpcode

from .medium import CHANGING, Link, Medium, controller_data, describe, lbas_of, opcode, open_link

LBAS, LBA = 5, 16
SIZE = LBAS * LBA
_MAX_LOSSES, _MAX_FAULTS = 5, 10


@attrs.define(eq=False)
class Write:
    """One call that changes bytes, and when it was acknowledged."""

    value: int
    start: int
    end: int
    began: int
    acknowledged: int | None = None
    given_up: bool = False

    def covers(self, byte: int) -> bool:
        return self.start <= byte < self.end


@attrs.define(eq=False)
class Read:
    """One call that has returned."""

    start: int
    data: bytes
    began: int
    ended: int


class World:
    """A namespace, its medium, and the history of what was called."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.medium = Medium(LBAS, LBA)
        self.namespace = Namespace(
            "nvme0ns1",
            describe(size_lbas=LBAS, lba_bytes=LBA),
            read_only=False,
            on_recheck=self._recheck,
        )
        self.clock = itertools.count()
        #: In the order of arrival; the first stands for what was there.
        self.writes = [Write(0, 0, SIZE, -1, -1)]
        self.reads: list[Read] = []
        self.flushed_at = -1
        self.ghosts: list[CommandCapsule] = []
        self.losses = self.faults = 0
        self.recheck = False

    def _recheck(self, _namespace: Namespace, _reason: str) -> None:
        self.recheck = True

    # What callers do.

    async def call(self, operation: "Operation", value: int) -> None:
        await trio.sleep(operation.delay_s)
        with trio.move_on_after(operation.patience_s) as scope:
            match operation.kind:
                case "read":
                    await self._read(operation)
                case "flush":
                    await self._flush()
                case kind:
                    await self._change(kind, operation, value, scope)

    async def _read(self, operation: "Operation") -> None:
        began = next(self.clock)
        try:
            data = await self.namespace.read(operation.offset, operation.length)
        except (CommandError, DataDigestError):
            return
        self.reads.append(Read(operation.offset, bytes(data), began, next(self.clock)))

    async def _flush(self) -> None:
        began = next(self.clock)
        before = [write for write in self.writes if not write.given_up]
        try:
            await self.namespace.flush()
        except CommandError:
            return
        assert self.flushed_at > began, "no Flush was executed"
        for write in before:
            if not write.given_up:
                assert write.acknowledged is not None
                assert write.acknowledged < self.flushed_at

    async def _change(
        self, kind: str, operation: "Operation", value: int, scope: trio.CancelScope
    ) -> None:
        namespace = self.namespace
        start, end = operation.offset, min(SIZE, operation.offset + operation.length)
        slba, nlb = start // LBA, -(-end // LBA) - start // LBA
        whole = kind in ("zeroes", "deallocate") and namespace.engine.path is not None
        if whole:
            # Without a path these find their place in line only when there is one.
            start, end, value = slba * LBA, (slba + nlb) * LBA, 0
        write = Write(value, start, end, next(self.clock))
        self.writes.append(write)
        try:
            if whole and kind == "zeroes":
                await namespace.write_zeroes(slba, nlb)
            elif whole:
                await namespace.deallocate([(slba, nlb)])
            else:
                data = bytes([value]) * (end - start)
                assert await namespace.write(start, data, fua=kind == "fua") == end - start
        except (CommandError, DataDigestError):
            write.given_up = True
        else:
            write.acknowledged = next(self.clock)
        finally:
            if scope.cancel_called and write.acknowledged is None:
                write.given_up = True

    # What the controller and the network do.

    async def be_a_controller(self) -> None:
        """One association after the other."""
        while True:
            draw = self.random
            async with open_link(
                queues=draw.choice([1, 2, 3]),
                entries=draw.choice([2, 3, 8]),
                max_transfer_bytes=LBA * draw.choice([1, 2, 4, 100]),
            ) as link:
                await self._serve(link)
            await trio.sleep(draw.choice([0, 0.1, 40]))
            while self.ghosts and draw.random() < 0.5:
                self.medium.execute(self.ghosts.pop(0))

    async def _serve(self, link: Link) -> None:
        """Until the association is lost."""
        draw = self.random
        noiob = draw.choice([0, 0, 1, 3])
        engine = self.namespace.engine
        path = link.path(controller_data(), noiob_lbas=noiob)
        path = attrs.evolve(path, max_lbas=draw.choice([1, 2, LBAS]))
        engine.resume(path)
        while True:
            await trio.sleep(draw.choice([0, 0, 0.001, 0.01]))
            self._check_outstanding(link)
            if self.recheck and draw.random() < 0.3:
                self.recheck = False
                engine.hold("being identified")
                engine.resume(path)
            if self.losses < _MAX_LOSSES and draw.random() < 0.03:
                self._lose(link)
                return
            if link.sent:
                self._end(link, draw.choice(link.sent))
            else:
                with trio.move_on_after(1):
                    await link.transmitted()

    def _check_outstanding(self, link: Link) -> None:
        taken: set[int] = set()
        for capsule in link.sent:
            if opcode(capsule) in CHANGING:
                for slba, nlb in lbas_of(capsule):
                    lbas = set(range(slba, slba + nlb))
                    assert not taken & lbas, "two writes of one LBA are outstanding"
                    taken |= lbas

    def _end(self, link: Link, capsule: CommandCapsule) -> None:
        draw = self.random
        fault = draw.random()
        if self.faults >= _MAX_FAULTS or fault > 0.2:
            self._execute(capsule)
            if opcode(capsule) == NvmOpcode.FLUSH:
                self.flushed_at = next(self.clock)
            link.answer(capsule)
            return
        self.faults += 1
        if draw.random() < 0.5:
            self._execute(capsule)
        if capsule.data_in is not None:
            capsule.data_in[:] = bytes([255]) * len(capsule.data_in)
        if fault < 0.05 and capsule.data_in is not None:
            link.answer(capsule, digest_error=True)
        else:
            link.answer(
                capsule,
                draw.choice(
                    [
                        s.TRANSIENT_TRANSPORT_ERROR,
                        s.INTERNAL_ERROR,
                        s.ANA_TRANSITION,
                        s.INVALID_NAMESPACE,
                        s.WRITE_FAULT.with_dnr(),
                    ]
                ),
            )

    def _execute(self, capsule: CommandCapsule) -> None:
        if opcode(capsule) in CHANGING:
            # Late executions against newer writes are the quarantine's business, not tested here.
            for ghost in self.ghosts:
                self.medium.execute(ghost)
            self.ghosts.clear()
        if opcode(capsule) != NvmOpcode.FLUSH:
            self.medium.execute(capsule)

    def _lose(self, link: Link) -> None:
        self.losses += 1
        self.recheck = False
        for capsule in link.lose(self.namespace):
            if opcode(capsule) in CHANGING:
                match self.random.choice(["executed", "not executed", "later"]):
                    case "executed":
                        self.medium.execute(capsule)
                    case "later":
                        self.ghosts.append(capsule)
                    case _:
                        pass

    # The oracle.

    def check(self) -> None:
        for ghost in self.ghosts:
            self.medium.execute(ghost)
        end = next(self.clock)
        history = [*self.reads, Read(0, bytes(self.medium.data), end, end + 1)]
        history.sort(key=lambda read: read.began)
        for byte in range(SIZE):
            self._check_byte(byte, [read for read in history if self._has(read, byte)])

    def _has(self, read: Read, byte: int) -> bool:
        return read.start <= byte < read.start + len(read.data)

    def _check_byte(self, byte: int, reads: list[Read]) -> None:
        writes = [(i, write) for i, write in enumerate(self.writes) if write.covers(byte)]
        seen: list[tuple[int, int]] = []
        for read in reads:
            known = [
                i
                for i, write in writes
                if write.acknowledged is not None and write.acknowledged < read.began
            ]
            known += [i for ended, i in seen if ended < read.began]
            value = read.data[byte - read.start]
            possible = [
                i
                for i, write in writes
                if i >= max(known) and write.began < read.ended and write.value == value
            ]
            assert possible, (
                f"byte {byte} is {value}, at least write {max(known)} was known: {writes}"
            )
            seen.append((read.ended, min(possible)))


@attrs.frozen
class Operation:
    """One call, when it is made, and when its caller gives up."""

    kind: str
    offset: int
    length: int
    delay_s: float
    patience_s: float


KINDS = ["read", "read", "write", "write", "write", "fua", "zeroes", "deallocate", "flush"]
DELAYS_S = [0, 0, 0.002, 0.005, 0.01, 0.05]
PATIENCE_S = [float("inf")] * 4 + [0, 0.004, 0.02, 0.3]

OPERATIONS = st.lists(
    st.builds(
        Operation,
        st.sampled_from(KINDS),
        st.integers(0, SIZE - 1),
        st.integers(1, 4 * LBA),
        st.sampled_from(DELAYS_S),
        st.sampled_from(PATIENCE_S),
    ),
    min_size=1,
    max_size=20,
)


def play(operations: list[Operation], seed: int) -> None:
    """Lives through one scenario, and judges it."""
    world = World(seed)

    async def main() -> None:
        with trio.fail_after(3600):
            async with trio.open_nursery() as outer:
                outer.start_soon(world.be_a_controller)
                async with trio.open_nursery() as callers:
                    for value, operation in enumerate(operations, start=1):
                        callers.start_soon(world.call, operation, value)
                # Whatever was abandoned ends, and leaves nothing behind.
                world.losses, world.faults = _MAX_LOSSES, _MAX_FAULTS
                with trio.fail_after(100):
                    await world.namespace.flush()
                await trio.sleep(10)
                assert world.namespace.engine.waiting == 0
                assert world.namespace.engine.ambiguous == []
                outer.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    world.check()


@given(OPERATIONS, st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=60)
def test_nothing_acknowledged_is_lost_and_nothing_old_comes_back(operations, seed):
    play(operations, seed)


@pytest.mark.parametrize("seed", range(80))
def test_nor_is_it_when_many_call_at_once(seed):
    """Denser than what is drawn above, where few calls meet."""
    draw = random.Random(seed)
    operations = [
        Operation(
            draw.choice(KINDS),
            draw.randrange(SIZE),
            draw.randint(1, 4 * LBA),
            draw.choice(DELAYS_S),
            draw.choice(PATIENCE_S),
        )
        for _ in range(draw.randint(15, 40))
    ]
    play(operations, seed)
