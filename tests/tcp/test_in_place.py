"""Waits in place: who may, what ends them, and that a receiver finds all that is not for others."""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from nvmf_tcp import inside_trio, poll_short_waits
from nvmf_tcp.in_place import MOST_NS, InPlace
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import LAST_PDU, SUCCESS, PduType
from nvmf_tcp.qpair import TcpHostQueuePair
from nvmf_tcp.short_waits import LIMIT_NS, SMALL_TURNS, STREAK
from nvmf_tcp.turn import Turn
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.fabrics import AddressFamily
from nvmf_transport.interfaces import Endpoint, HostQueueParams

from .pair import data_specific, ic_resp, pdu, read_command, write_command


def expect_short_waits() -> None:
    """As after some short waits with little sent."""
    turn = Turn.current()
    assert turn is not None
    for _ in range(SMALL_TURNS):
        turn.at_end(lambda: None)
        turn.send()
    for _ in range(STREAK):
        turn._short.note(LIMIT_NS // 2)


@pytest.fixture
async def in_place(monkeypatch: pytest.MonkeyPatch) -> InPlace:
    """That of this loop."""
    monkeypatch.delenv("NVMF_NO_POLLING", raising=False)
    monkeypatch.delenv("NVMF_SENDING_TASKS", raising=False)
    found = poll_short_waits()
    assert found is not None
    await trio.lowlevel.checkpoint()
    expect_short_waits()
    return found


@contextlib.contextmanager
def pipe():
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


async def test_what_is_there_is_found_and_nothing_is_waited_for_a_moment_only(in_place):
    with pipe() as (reader, writer):
        poll = in_place.poll_of(reader)
        os.write(writer, b"x")
        assert in_place.wait(poll, reader)
        os.read(reader, 1)
        began_ns = time.monotonic_ns()
        assert not in_place.wait(poll, reader)
        assert time.monotonic_ns() - began_ns >= LIMIT_NS
        os.write(writer, b"x")
        assert not in_place.wait(poll, reader), "the last wait was long: the next ones sleep"


async def test_nobody_waits_in_place_while_another_task_can_run(in_place):
    async def other() -> None:
        await trio.lowlevel.checkpoint()

    with pipe() as (reader, writer):
        os.write(writer, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            assert not in_place.wait(in_place.poll_of(reader), reader), "it runs in the next pass"
            await trio.lowlevel.checkpoint()
            assert not in_place.wait(in_place.poll_of(reader), reader), "or in this one"
        await trio.testing.wait_all_tasks_blocked()
        await trio.lowlevel.checkpoint()
        assert in_place.wait(in_place.poll_of(reader), reader)


async def test_a_task_that_need_not_run_is_no_obstacle_until_it_does(in_place):
    async def other() -> None:
        seen.append(in_place.wait(in_place.poll_of(reader), reader))
        in_place.spare -= 1
        in_place.share()
        seen.append(in_place.wait(in_place.poll_of(reader), reader))

    seen: list[bool] = []
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            in_place.spare += 1
            assert in_place.wait(in_place.poll_of(reader), reader)
    assert seen == [True, False]


async def test_one_that_runs_in_this_pass_does_not_hide_another_that_is_woken_in_it(in_place):
    inside = in_place._inside
    runnable = deque([trio.lowlevel.current_task()] * 2)
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        poll = in_place.poll_of(reader)
        in_place._inside = attrs.evolve(inside, runnable=runnable)
        in_place.spare = 1
        in_place.begin()
        runnable.clear()
        assert in_place.wait(poll, reader)
        runnable.append(trio.lowlevel.current_task())
        assert not in_place.wait(poll, reader)


async def test_waits_are_of_the_loop_again_after_a_while(in_place):
    with pipe() as (reader, writer):
        poll = in_place.poll_of(reader)
        os.write(writer, b"x")
        ends_ns = time.monotonic_ns() + 100 * MOST_NS
        times = 0
        while in_place.wait(poll, reader):
            times += 1
            assert time.monotonic_ns() < ends_ns
        assert times
        await trio.lowlevel.checkpoint()
        assert in_place.wait(poll, reader)


async def test_whatever_trio_waits_for_ends_it(in_place):
    """Here somebody calls from another thread; sockets and signals are in the same epoll."""
    token, called = trio.lowlevel.current_trio_token(), trio.Event()
    with pipe() as (reader, _):
        poll = in_place.poll_of(reader)
        thread = threading.Thread(target=token.run_sync_soon, args=(called.set,))
        thread.start()
        thread.join()
        began_ns = time.monotonic_ns()
        assert not in_place.wait(poll, reader)
        assert time.monotonic_ns() - began_ns < LIMIT_NS
    await called.wait()


async def test_a_watched_descriptor_ends_every_wait(in_place):
    with pipe() as (reader, _), pipe() as (watched, writer):
        in_place.watch(watched)
        in_place.watch(watched)
        os.write(writer, b"x")
        began_ns = time.monotonic_ns()
        assert not in_place.wait(in_place.poll_of(reader), reader)
        assert not in_place.wait(in_place.poll_of())
        assert time.monotonic_ns() - began_ns < LIMIT_NS


def _write(writer: int) -> None:
    os.write(writer, b"x")


async def test_what_is_queued_is_sent_first(in_place):
    turn = Turn.current()
    assert turn is not None
    with pipe() as (reader, writer):
        turn.at_end(partial(_write, writer))
        assert in_place.wait(in_place.poll_of(reader), reader)


@pytest.mark.parametrize("switch", ["NVMF_NO_POLLING", "NVMF_SENDING_TASKS"])
async def test_there_are_none_where_the_environment_says_so(switch, monkeypatch):
    monkeypatch.setenv(switch, "1")
    assert poll_short_waits() is None


async def test_there_are_none_where_trio_keeps_its_parts_elsewhere(monkeypatch):
    monkeypatch.setattr(inside_trio, "of_this_run", lambda: None)
    assert poll_short_waits() is None


async def test_inside_trio_is_what_its_loop_waits_in_and_runs():
    inside = inside_trio.of_this_run()
    assert inside is not None
    poll = select.poll()
    poll.register(inside.epoll_fd, select.POLLIN)
    await trio.testing.wait_all_tasks_blocked()
    assert not poll.poll(0)
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
    assert poll.poll(0)
    async with trio.open_nursery() as nursery:
        before = len(inside.runnable)
        nursery.start_soon(trio.lowlevel.checkpoint)
        assert len(inside.runnable) == before + 1


# Responses that are received by whoever waits for them.


@attrs.define(eq=False)
class Line:
    """A host's qpair, whose receiver is parked, and the socket of its peer."""

    qpair: TcpHostQueuePair
    peer: socket.socket
    #: What the receiver has got.
    received: list[ResponseCapsule | TransportError] = attrs.field(factory=list)
    taken: list[ResponseCapsule] = attrs.field(factory=list)

    async def receive(self) -> None:
        try:
            while True:
                self.received.append(await self.qpair.receive())
        except TransportError as error:
            self.received.append(error)

    def take_in_place(self) -> bool:
        return self.qpair.receive_in_place(self.taken.append)


@contextlib.asynccontextmanager
async def line(in_place: InPlace):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        endpoint = Endpoint(Address("127.0.0.1", 4420), AddressFamily.IPV4)
        qpair = TcpHostQueuePair(near, endpoint, endpoint, HostQueueParams(), TcpOptions())
        async with qpair.driver.running():
            far.sendall(ic_resp())
            await qpair.driver.handshake(deadline=trio.current_time() + 5, waiting_for="ICResp")
            await trio.testing.wait_all_tasks_blocked()
            assert len(far.recv(4096)) == 128
            one = Line(qpair, far)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.receive)
                await trio.testing.wait_all_tasks_blocked()
                await trio.lowlevel.checkpoint()
                expect_short_waits()
                yield one
                nursery.cancel_scope.cancel()


def response(cid: int) -> bytes:
    return pdu(PduType.CAPSULE_RESP, struct.pack("<QHHHH", 0, 0, 0, cid, 0))


async def sent(line: Line) -> bytes:
    """What the host has sent."""
    await trio.lowlevel.checkpoint()
    expect_short_waits()
    line.peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return line.peer.recv(1 << 20)
    return b""


async def test_a_response_is_taken_by_whoever_waits_for_it_and_the_receiver_sleeps_on(in_place):
    async with line(in_place) as on:
        data = bytes(range(256)) * 16
        for cid in range(3):
            target = bytearray(len(data))
            on.qpair.transmit(read_command(cid, memoryview(target)))
            await sent(on)
            on.peer.sendall(
                pdu(
                    PduType.C2H_DATA,
                    data_specific(cid, 0, 0, len(data)),
                    data,
                    flags=SUCCESS | LAST_PDU,
                )
            )
            assert on.take_in_place()
            assert [taken.cid for taken in on.taken] == [cid]
            on.taken.clear()
            assert target == data
        assert not on.received
        # And it is still there for what comes when nobody waits in place.
        on.qpair.transmit(write_command(7, b"x" * 512))
        await sent(on)
        on.peer.sendall(response(7))
        await trio.testing.wait_all_tasks_blocked()
        assert [taken.cid for taken in on.received] == [7]


async def test_a_capsule_leaves_before_its_response_is_waited_for_and_an_r2t_is_answered(in_place):
    data = bytes(range(256)) * 64

    def control() -> None:
        """The controller, which asks for the data in two parts and then completes."""
        on.peer.setblocking(True)
        assert len(on.peer.recv(72, socket.MSG_WAITALL)) == 72
        for offset in (0, 8192):
            on.peer.sendall(pdu(PduType.R2T, data_specific(3, 9, offset, 8192)))
            got = on.peer.recv(24 + 8192, socket.MSG_WAITALL)
            assert got[24:] == data[offset : offset + 8192]
        on.peer.sendall(response(3))

    async with line(in_place) as on:
        thread = threading.Thread(target=control)
        thread.start()
        on.qpair.transmit(write_command(3, data))
        while not on.taken and not on.received:
            on.take_in_place()
            await trio.lowlevel.checkpoint()
        thread.join()
        assert [taken.cid for taken in [*on.taken, *on.received]] == [3]


async def test_half_a_pdu_is_gone_on_with_by_the_receiver(in_place):
    async with line(in_place) as on:
        on.qpair.transmit(write_command(1, b"x" * 512))
        await sent(on)
        whole = response(1)
        on.peer.sendall(whole[:10])
        assert not on.take_in_place()
        assert not on.taken
        on.peer.sendall(whole[10:])
        await trio.testing.wait_all_tasks_blocked()
        assert [taken.cid for taken in on.received] == [1]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(lambda peer: peer.close(), ConnectionLostError, id="closed"),
        pytest.param(lambda peer: peer.sendall(response(5)), RemoteProtocolError, id="unknown CID"),
        pytest.param(lambda peer: peer.sendall(b"\xff" * 64), RemoteProtocolError, id="garbage"),
        pytest.param(
            lambda peer: peer.sendall(pdu(PduType.C2H_TERM_REQ, struct.pack("<HI", 1, 0))),
            ConnectionTerminatedError,
            id="TermReq",
        ),
    ],
)
async def test_every_error_is_the_receivers(in_place, fault, error):
    async with line(in_place) as on:
        on.qpair.transmit(write_command(1, b"x" * 512))
        await sent(on)
        fault(on.peer)
        assert not on.take_in_place()
        assert not on.take_in_place()
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()
        assert [type(got) for got in on.received] == [error]
        assert not on.taken


async def test_what_comes_before_an_error_is_taken(in_place):
    async with line(in_place) as on:
        on.qpair.transmit(write_command(1, b"x" * 512))
        await sent(on)
        on.peer.sendall(response(1) + b"\xff" * 64)
        assert on.take_in_place()
        assert [taken.cid for taken in on.taken] == [1]
        await trio.testing.wait_all_tasks_blocked()
        assert [type(got) for got in on.received] == [RemoteProtocolError]


async def test_a_response_that_whoever_takes_it_complains_about_is_the_receivers(in_place):
    def refuse(_: ResponseCapsule) -> None:
        raise RemoteProtocolError("on purpose")

    async with line(in_place) as on:
        for cid in (1, 2):
            on.qpair.transmit(write_command(cid, b"x" * 512))
        await sent(on)
        on.peer.sendall(response(1) + response(2))
        assert not on.qpair.receive_in_place(refuse)
        await trio.testing.wait_all_tasks_blocked()
        assert [getattr(got, "cid", None) for got in on.received] == [1, 2]


async def test_nothing_is_received_for_a_receiver_that_does_not_wait(in_place):
    async with line(in_place) as on:
        on.qpair.transmit(write_command(1, b"x" * 512))
        await sent(on)
        on.peer.sendall(response(1))
        # It has been woken, and has not run yet.
        on.qpair.driver.wake_receiver()
        assert not on.take_in_place()
        await trio.testing.wait_all_tasks_blocked()
        assert [taken.cid for taken in on.received] == [1]
