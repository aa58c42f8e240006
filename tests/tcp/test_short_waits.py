"""When waits of the event loop are polled through."""

import select

import pytest
import trio

from nvmf_tcp import short_waits
from nvmf_tcp.short_waits import LIMIT_NS, STREAK, SWITCH, ShortWaits, of_this_run
from nvmf_tcp.turn import Turn

SHORT_NS = LIMIT_NS // 5


class Loop:
    """An event loop whose waits last as long as a test says."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.ready_at_ns = 0
        self.looks = 0
        self.waits = ShortWaits(
            ready=self._ready, clock_ns=lambda: self.now_ns, let_others_run=self._pass_time
        )

    def _ready(self) -> bool:
        self.looks += 1
        return self.now_ns >= self.ready_at_ns

    def _pass_time(self) -> None:
        self.now_ns += 1000

    def wait(self, length_ns: int, *, few: bool = True) -> int:
        """One wait; returns how often it looked for something to do instead of sleeping."""
        self.looks = 0
        self.ready_at_ns = self.now_ns + length_ns
        self.waits.before(few=few)
        self.now_ns = max(self.now_ns, self.ready_at_ns)
        self.waits.after()
        return self.looks


def test_a_wait_is_polled_through_after_some_short_ones():
    loop = Loop()
    assert [loop.wait(SHORT_NS) > 0 for _ in range(STREAK + 3)] == [False] * STREAK + [True] * 3
    # It looks until there is something to do.
    assert loop.wait(10_000) == 11


def test_a_long_wait_is_polled_for_a_while_and_then_slept_through_as_are_those_after_it():
    loop = Loop()
    for _ in range(STREAK):
        loop.wait(SHORT_NS)
    began_ns = loop.now_ns
    assert loop.wait(100 * LIMIT_NS) == LIMIT_NS // 1000 + 1
    assert loop.now_ns == began_ns + 100 * LIMIT_NS
    assert [loop.wait(100 * LIMIT_NS) for _ in range(10)] == [0] * 10


def test_single_commands_with_pauses_between_them_are_never_polled_for():
    loop = Loop()
    for _ in range(10):
        assert loop.wait(SHORT_NS) == 0
        assert loop.wait(100 * LIMIT_NS) == 0


def test_much_at_a_time_is_not_polled_for():
    loop = Loop()
    assert [loop.wait(SHORT_NS, few=False) for _ in range(10)] == [0] * 10
    assert loop.wait(SHORT_NS) > 0


async def test_it_looks_where_trio_waits(monkeypatch: pytest.MonkeyPatch):
    """Ready is what would wake the event loop: here somebody calls from another thread."""
    monkeypatch.delenv(SWITCH, raising=False)
    waits = of_this_run()
    assert waits is not None
    await trio.lowlevel.checkpoint()
    assert not waits._ready()
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
    assert waits._ready()
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert not waits._ready()


async def test_it_is_not_done_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SWITCH, "1")
    assert of_this_run() is None


async def test_it_is_not_done_where_trio_waits_in_something_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(short_waits, "_epoll_of_trio", lambda: None)
    assert of_this_run() is None


async def test_a_turn_tells_what_it_sent(monkeypatch: pytest.MonkeyPatch):
    told: list[bool] = []

    class Waits(ShortWaits):
        def before(self, *, few: bool) -> None:
            told.append(few)

    turn = Turn()
    turn._waits = Waits(ready=bool)

    def send(buffers: int, size: int) -> None:
        turn.sent_buffers += buffers
        turn.sent_bytes += size

    def end(buffers: int, size: int) -> bool:
        turn.at_end(lambda: send(buffers, size))
        turn.before_io_wait(1.0)
        return told[-1]

    few = [end(2, 4096 + 24) for _ in range(short_waits.SMALL_TURNS)]
    assert few == [False] * (short_waits.SMALL_TURNS - 1) + [True]
    turn.before_io_wait(1.0)
    assert told[-1], "a turn that sends nothing changes nothing"
    assert not end(6, 72), "three responses"
    for _ in range(short_waits.SMALL_TURNS):
        end(1, 72)
    assert told[-1]
    assert not end(2, 1 << 20), "a long transfer"
    before = len(told)
    turn.before_io_wait(0)
    assert len(told) == before, "trio is not going to wait"


def test_polling_is_of_what_a_loop_of_trio_waits_in():
    async def main() -> bool:
        return isinstance(short_waits._epoll_of_trio(), select.epoll)

    assert trio.run(main)
