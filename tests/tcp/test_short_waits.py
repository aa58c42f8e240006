"""When waits of the event loop are polled through."""

from nvmf_tcp import short_waits
from nvmf_tcp.short_waits import LIMIT_NS, STREAK, ShortWaits
from nvmf_tcp.turn import Turn

SHORT_NS = LIMIT_NS // 5


class Loop:
    """An event loop whose waits last as long as a test says."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.ready_at_ns = 0
        self.looks = 0
        self.waits = ShortWaits(clock_ns=lambda: self.now_ns, let_others_run=self._pass_time)

    def poll(self, timeout: int, /) -> list[tuple[int, int]]:
        assert timeout == 0
        self.looks += 1
        return [(3, 1)] if self.now_ns >= self.ready_at_ns else []

    def _pass_time(self) -> None:
        self.now_ns += 1000

    def wait(self, length_ns: int, *, few: bool = True) -> int:
        """One wait; returns how often it looked for something to do instead of sleeping."""
        self.looks = 0
        began_ns = self.now_ns
        self.ready_at_ns = began_ns + length_ns
        found = self.waits.poll_through(self, few=few)
        assert (found is None) == (self.looks == 0)
        assert not found or self.now_ns == self.ready_at_ns
        self.now_ns = max(self.now_ns, self.ready_at_ns)
        self.waits.note(self.now_ns - began_ns)
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


def test_a_turn_tells_what_it_sent():
    turn = Turn()

    def send(buffers: int, size: int) -> None:
        turn.sent_buffers += buffers
        turn.sent_bytes += size

    def end(buffers: int, size: int) -> bool:
        turn.at_end(lambda: send(buffers, size))
        return turn.send()

    few = [end(2, 4096 + 24) for _ in range(short_waits.SMALL_TURNS)]
    assert few == [False] * (short_waits.SMALL_TURNS - 1) + [True]
    assert turn.send(), "a turn that sends nothing changes nothing"
    assert not end(6, 72), "three responses"
    for _ in range(short_waits.SMALL_TURNS):
        end(1, 72)
    assert turn.send()
    assert not end(2, 1 << 20), "a long transfer"
