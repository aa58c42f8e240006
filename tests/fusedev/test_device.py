"""The device: exact answers, and what is passed on to pyfuse3 and back."""

import errno
import io
import logging
import os
import socket

import pytest
import trio
import trio.testing

from fusedev.device import Device, open_devices

from .kernel import GETATTR, LOOKUP, Kernel, answer, playing, written


@pytest.fixture
def kernel():
    with playing() as kernel:
        yield kernel


def pass_on(kernel: Kernel, count: int) -> list[bytes]:
    """Makes requests, and passes them on."""
    requests = []
    for number in range(count):
        kernel.request(GETATTR, bytes([number]) * number)
        buffer = memoryview(bytearray(4096))
        length = kernel.device.read_into(buffer)
        assert length
        requests.append(bytes(buffer[:length]))
        kernel.device.pass_on(requests[-1])
    return requests


def test_answers_are_those_of_the_kernels_header(kernel):
    device = kernel.device
    device.written(2**63 + 1, 2**20)
    device.has_read(3, b"data")
    device.has_read(4, bytearray(b""))
    device.done(5)
    device.done(6, errno.ENXIO)
    assert kernel.waiting() == [
        written(2**63 + 1, 2**20),
        answer(3, b"data"),
        answer(4),
        answer(5),
        answer(6, error=errno.ENXIO),
    ]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_nothing_is_said_of_an_answer_that_nobody_waits_for(kernel, monkeypatch, caplog, number):
    def fails(*_: object) -> int:
        raise OSError(number, "on purpose")

    monkeypatch.setattr(os, "write", fails)
    monkeypatch.setattr(os, "writev", fails)
    kernel.device.done(2)
    kernel.device.written(2, 1)
    kernel.device.has_read(2, b"x")
    assert not caplog.records


def test_any_other_failure_is_said_and_goes_no_further(kernel, monkeypatch, caplog):
    def fails(*_: object) -> int:
        raise OSError(errno.EINVAL, "on purpose")

    monkeypatch.setattr(os, "write", fails)
    monkeypatch.setattr(os, "writev", fails)
    with caplog.at_level(logging.CRITICAL + 1, "fusedev.device"):
        kernel.device.done(2)
        kernel.device.has_read(2, b"x")


def test_four_at_a_time_are_passed_on_in_their_order(kernel):
    requests = pass_on(kernel, 10)
    assert kernel.passed_on() == requests[:4]
    assert kernel.device.has_passed_on


async def test_each_answer_is_passed_back_and_lets_another_request_come(kernel):
    requests = pass_on(kernel, 10)
    numbers = [int.from_bytes(request[8:16], "little") for request in requests]
    under_way: list[bytes] = []
    seen: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.device.pass_back)
        while len(seen) < len(requests):
            got = kernel.passed_on()
            seen += got
            under_way += got
            assert len(under_way) <= 4
            # The last first: what is answered in what order is pyfuse3's business.
            unique = int.from_bytes(under_way.pop()[8:16], "little")
            kernel.theirs.send(answer(unique, b"x" * 100))
            await trio.testing.wait_all_tasks_blocked()
        for request in under_way:
            kernel.theirs.send(answer(int.from_bytes(request[8:16], "little"), b"x" * 100))
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == requests
    assert sorted(kernel.waiting()) == sorted(answer(number, b"x" * 100) for number in numbers)
    assert not kernel.device.has_passed_on


async def test_long_requests_and_long_answers_are_not_lost(kernel):
    """As those of setxattr(2) and getxattr(2): 64 KiB each."""
    value = bytes(range(256)) * 256
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.device.pass_back)
            for _ in range(20):
                kernel.request(LOOKUP, value)
                buffer = bytearray(len(value) + 100)
                length = kernel.device.read_into(buffer)
                kernel.device.pass_on(bytes(buffer[:length]))
            answered = 0
            while answered < 20:
                got = kernel.passed_on()
                for request in got:
                    assert request[40:] == value
                    # All of the answers to what is under way fit: pyfuse3 does not ask.
                    kernel.theirs.send(answer(int.from_bytes(request[8:16], "little"), value))
                await trio.testing.wait_all_tasks_blocked()
                back = kernel.waiting()
                assert all(message[16:] == value for message in back)
                answered += len(back)
            nursery.cancel_scope.cancel()
    assert not kernel.device.has_passed_on


def test_a_request_that_waits_for_room_is_passed_on_later(kernel, monkeypatch):
    first = pass_on(kernel, 1)
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise BlockingIOError

        patch.setattr(socket.socket, "send", full)
        kernel.device.pass_on(first[0])
    assert kernel.passed_on() == first
    kernel.device._pass_on_more()
    assert kernel.passed_on() == first
    assert not kernel.waiting()


def test_what_pyfuse3_takes_no_more_fails(kernel, caplog):
    kernel.theirs.close()
    with caplog.at_level(logging.CRITICAL + 1, "fusedev.device"):
        [request] = pass_on(kernel, 1)
    unique = int.from_bytes(request[8:16], "little")
    assert kernel.waiting() == [answer(unique, error=errno.EIO)]
    assert not kernel.device.has_passed_on


async def test_passing_back_ends_with_pyfuse3(kernel):
    kernel.theirs.close()
    with trio.fail_after(5):
        await kernel.device.pass_back()


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_the_device_is_taken_from_under_a_descriptor_and_given_back():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with near, far:
        before, theirs = _descriptors(), near.fileno()
        inode = os.fstat(theirs).st_ino
        with Device.instead_of(theirs) as device:
            far.send(b"request")
            buffer = memoryview(bytearray(100))
            assert device.read_into(buffer) == 7
            assert device.read_into(buffer) is None
            device.pass_on(b"\0" * 40)
            assert os.read(theirs, 100) == b"\0" * 40
            assert not os.get_inheritable(theirs)
            assert not os.get_inheritable(device.number)
            number = device.number
        assert os.fstat(theirs).st_ino == inode
        assert not os.get_inheritable(theirs)
        assert _descriptors() == before
        # Another file may have the number by now.
        os.dup2(writer, number)
        try:
            device.done(2)
            device.has_read(2, b"x")
            os.set_blocking(reader, False)
            with pytest.raises(BlockingIOError):
                os.read(reader, 100)
        finally:
            for each in (reader, writer, number):
                os.close(each)


def test_as_many_of_the_longest_answers_as_there_may_be_fit():
    """pyfuse3 writes them without asking, and the loop that would make room is its own."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, Device.instead_of(near.fileno()):
        os.set_blocking(near.fileno(), False)
        # And one to spare.
        for unique in range(5):
            os.write(near.fileno(), answer(unique, bytes(64 << 10)))


def test_it_is_given_back_after_an_error_too():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        before = _descriptors()
        inode = os.fstat(near.fileno()).st_ino
        with pytest.raises(ValueError, match="on purpose"), Device.instead_of(near.fileno()):
            raise ValueError("on purpose")
        assert os.fstat(near.fileno()).st_ino == inode
        assert _descriptors() == before


@pytest.mark.fuse
def test_open_devices_are_found():
    before = open_devices()
    with io.FileIO("/dev/fuse", "r+") as device:
        assert open_devices() - before == {device.fileno()}
    assert open_devices() == before
