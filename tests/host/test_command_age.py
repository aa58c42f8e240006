"""A command that is never answered ends its association, whatever else goes on."""

import pytest
import trio

from nvmf_host import command_age
from nvmf_host.admin import sqe
from nvmf_host.io_path import io_sqe
from nvmf_host.qpair import Command, HostQueue
from nvmf_transport.nvme import AdminOpcode, NvmOpcode

from .medium import FakeQueuePair


def queue_with(qid: int, opcode: int) -> HostQueue:
    queue = HostQueue(FakeQueuePair(4), qid=qid, entries=4)
    entry = io_sqe(opcode, 1, 0) if qid else sqe(opcode)
    queue.submit(Command(entry, lambda _command: None))
    return queue


async def test_a_command_that_is_too_old_is_named(autojump_clock, announce):
    announce(r"queue 3: a command \(opcode 02h\) is unanswered for 1\d s")
    queues = [queue_with(3, NvmOpcode.READ)]

    said = await command_age.watch("nvme0", lambda: queues, lambda: 60.0)

    assert said == "queue 3: a command (opcode 02h) is unanswered for 60 s (command age)"
    assert trio.current_time() == pytest.approx(60, abs=1)


async def test_the_limit_may_change_while_it_waits(autojump_clock):
    limit_s = 0.0
    async with trio.open_nursery() as nursery:

        async def change() -> None:
            nonlocal limit_s
            await trio.sleep(4.5)
            limit_s = 2.0

        nursery.start_soon(change)
        queues = [queue_with(1, NvmOpcode.WRITE)]
        await command_age.watch("nvme0", lambda: queues, lambda: limit_s)

    assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_requests_for_events_may_be_as_old_as_they_like(autojump_clock):
    queues = [queue_with(0, AdminOpcode.ASYNC_EVENT_REQUEST)]
    with trio.move_on_after(10_000) as scope:
        await command_age.watch("nvme0", lambda: queues, lambda: 60.0)

    assert scope.cancelled_caught


async def test_no_limit_means_never_and_still_a_warning(autojump_clock, announce):
    announce("is unanswered for 10 s")
    queues = [queue_with(1, NvmOpcode.WRITE)]
    with trio.move_on_after(1000) as scope:
        await command_age.watch("nvme0", lambda: queues, lambda: 0.0)

    assert scope.cancelled_caught
