"""One Flush for many writers: who flushes, who waits, who is killed."""

import pytest
import trio
import trio.testing

from nvmf_host.errors import KilledError
from nvmf_host.io_request import IoRequest, Kind, Opener
from nvmf_host.relief import Relief
from nvmf_transport.errors import NotConnectedError


async def test_one_flushes_and_the_others_wait_for_it(autojump_clock):
    relief, flushes, ended = Relief(), [], []

    async def flush() -> None:
        flushes.append(trio.current_time())
        await trio.sleep(1)

    async def write(number: int) -> None:
        await relief.join(IoRequest(Kind.FLUSH, number, opener=Opener(7, 0)), flush)
        ended.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(write, number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(relief.waiting()) == 2
        assert {request.opener for request in relief.waiting()} == {Opener(7, 0)}

    assert len(flushes) == 1
    assert sorted(ended) == [0, 1, 2]
    assert relief.waiting() == []


async def test_who_waits_can_be_killed_and_the_flush_goes_on(autojump_clock):
    relief = Relief()
    request = IoRequest(Kind.FLUSH, 2)
    flushed = False

    async def flush() -> None:
        nonlocal flushed
        await trio.sleep(1)
        flushed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relief.join, IoRequest(Kind.FLUSH, 1), flush)
        await trio.testing.wait_all_tasks_blocked()

        async def waits() -> None:
            with pytest.raises(KilledError):
                await relief.join(request, flush)

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        relief.kill(request)
        relief.kill(IoRequest(Kind.FLUSH, 3))
        await trio.testing.wait_all_tasks_blocked()
        assert not flushed
        assert relief.waiting() == []

    assert flushed


async def test_after_a_flush_that_failed_the_next_one_flushes(autojump_clock):
    relief = Relief()

    async def fails() -> None:
        raise NotConnectedError("lost")

    async def works() -> None:
        pass

    with pytest.raises(NotConnectedError):
        await relief.join(IoRequest(Kind.FLUSH, 1), fails)
    await relief.join(IoRequest(Kind.FLUSH, 2), works)
