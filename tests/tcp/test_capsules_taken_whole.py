"""Command capsules taken in one go, against the general way: the same events, bytes and errors."""

import itertools
import struct
from typing import Any

import attrs
from hypothesis import example, given
from hypothesis import strategies as st

from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.pdu import DDGSTF, HDGSTF, PduType
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule

from .pair import drain, established_controller, outcome, pdu

_ENTRIES = 3
_IN_CAPSULE_BYTES = 4096
_MOST_BYTES = 1 << 20
_OFFSET, _TRANSPORT = 0x01, 0x5A
_READ, _WRITE, _FABRICS = 0x02, 0x01, 0x7F


class GeneralController(ControllerConnection):
    """Takes nothing in one go."""

    def _take(self, *_):
        return False


@attrs.frozen
class Capsule:
    """A command capsule, truthful or not; afterwards it is answered, or its data is asked for."""

    cid: int = 1
    opcode: int = _READ
    flags: int = 0x40
    sgl: int = _TRANSPORT
    address: int = 0
    length: int = 512
    sent: int = 0
    asks: bool = False
    answers: bool = True
    #: Its last byte is another: that of the digest of its data, where it has one.
    spoiled: bool = False

    def pack(self, *, header_digest: bool, data_digest: bool) -> bytes:
        head = struct.pack("<BBH20x", self.opcode, self.flags, self.cid)
        sgl = struct.pack("<QI3xB", self.address, self.length, self.sgl)
        sqe = head + sgl + bytes(number % 251 for number in range(24))
        flags = (HDGSTF if header_digest else 0) | (DDGSTF if data_digest and self.sent else 0)
        data = bytes((self.cid + number) % 251 for number in range(self.sent))
        packed = bytearray(pdu(PduType.CAPSULE_CMD, sqe, data, flags=flags))
        packed[-1] ^= self.spoiled and self.sent > 0
        return bytes(packed)


def write(length: int = 512, **fields: Any) -> Capsule:
    """A Write with its data."""
    return Capsule(opcode=_WRITE, sgl=_OFFSET, length=length, sent=length, **fields)


capsules = st.builds(
    Capsule,
    cid=st.sampled_from([1, 2, 3, 4]),
    opcode=st.sampled_from([_READ, _WRITE, _WRITE, _FABRICS, 0x00, 0x05]),
    flags=st.sampled_from([0x40, 0x40, 0x40, 0x41, 0x00, 0x80]),
    sgl=st.sampled_from([_TRANSPORT, _OFFSET, _OFFSET, 0x11]),
    address=st.sampled_from([0, 0, 0, 4]),
    length=st.sampled_from([0, 512, 512, 4096, 8192, _MOST_BYTES, _MOST_BYTES + 1]),
    sent=st.sampled_from([0, 512, 512, 4096, 8192]),
    asks=st.booleans(),
    answers=st.booleans(),
    spoiled=st.sampled_from([False, False, False, True]),
)


def seen_of(kind, bursts, header_digest, data_digest):
    """Everything that can be seen of a controller which receives this."""
    controller = established_controller(header_digest=header_digest, data_digest=data_digest)
    controller.__class__ = kind
    controller.configure(
        entries=_ENTRIES, sq_flow_control=False, in_capsule_bytes=_IN_CAPSULE_BYTES
    )
    seen: list[Any] = []
    for burst in bursts:
        stream = b"".join(
            each.pack(header_digest=header_digest, data_digest=data_digest) for each in burst
        )
        events, error = outcome(controller, stream)
        commands = [event for event in events if isinstance(event, ReceivedCommand)]
        seen += [
            (event.cid, event.sqe, event.transfer_bytes, event.in_capsule_data, event.fault)
            for event in commands
        ]
        seen.append((str(error), getattr(error, "fes", None), getattr(error, "fei", None)))
        if error is None:
            for command, capsule in zip(commands, burst, strict=True):
                if capsule.asks and command.transfer_bytes and command.in_capsule_data is None:
                    controller.request_data(command)
                if capsule.answers:
                    controller.send_response(ResponseCapsule(command.cid))
        seen.append(drain(controller))
        seen.append((controller.outstanding, controller.counters, sorted(controller._r2ts)))
        if error is not None:
            break
    return seen


@given(
    st.lists(st.lists(capsules, min_size=1, max_size=3), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
@example([[Capsule(), write(cid=2)]], False, False)
@example([[Capsule(length=0)]], False, False)
@example([[Capsule(length=_MOST_BYTES)], [Capsule(length=_MOST_BYTES + 1)]], False, False)
@example([[Capsule(flags=0)], [Capsule(flags=0x80)], [Capsule(flags=0x41)]], False, False)
@example([[Capsule(address=4)], [write(address=4)]], False, False)
@example([[Capsule(answers=False)], [Capsule()]], False, False)
@example([[Capsule(answers=False), write(cid=2), Capsule(3), Capsule(4)]], False, False)
@example([[write(4096)], [write(8192)]], False, False)
@example([[write(spoiled=True), write(cid=2)]], False, True)
@example([[Capsule(opcode=_READ, sgl=_OFFSET, sent=512)]], False, False)
@example([[Capsule(opcode=_FABRICS, sgl=_OFFSET, sent=512)]], False, False)
@example([[Capsule(opcode=_WRITE, sgl=_OFFSET, length=4096, sent=512)]], False, False)
@example([[Capsule(opcode=_WRITE, sgl=_TRANSPORT, sent=512)]], False, False)
# An R2T that was answered early, whose CID comes again: it is forgotten then.
@example(
    [[Capsule(opcode=_WRITE, asks=True)], [Capsule(2)], [Capsule()], [Capsule()]], False, False
)
def test_what_is_taken_in_one_go_is_what_the_general_way_makes_of_it(
    bursts, header_digest, data_digest
):
    expected = seen_of(GeneralController, bursts, header_digest, data_digest)

    assert seen_of(ControllerConnection, bursts, header_digest, data_digest) == expected


def test_a_read_and_a_write_with_its_data_are_taken_in_one_go(monkeypatch):
    taken = []
    take = ControllerConnection._take

    def noting(self, *arguments):
        taken.append(take(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(ControllerConnection, "_take", noting)
    for header_digest, data_digest in itertools.product((False, True), repeat=2):
        seen_of(ControllerConnection, [[Capsule(), write(cid=2)]], header_digest, data_digest)
    assert taken == [True] * 8
    # What is not what was sent goes the general way.
    seen_of(ControllerConnection, [[write(spoiled=True)]], False, True)
    assert taken == [True] * 8 + [False]
