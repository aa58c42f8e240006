"""Capsules taken in one go, against the general way: the same commands, bytes and errors."""

import attrs
from hypothesis import example, given
from hypothesis import strategies as st

from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.pdu import DDGSTF, HDGSTF, SGL, SGL_OFFSET, PduType
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import RemoteProtocolError
from nvmf_transport.nvme import SubmissionEntry

from .pair import drain, established_controller, feed, pdu

FABRICS = 0x7F
IN_CAPSULE, TRANSPORT = 0x01, 0x5A
ENTRIES = 4


class GeneralController(ControllerConnection):
    """Takes nothing in one go."""

    def _take(self, *_):
        return False


@attrs.frozen
class Capsule:
    """A CapsuleCmd, sensible or not."""

    cid: int = 1
    opcode: int = 1
    flags: int = 0x40
    sgl_id: int = IN_CAPSULE
    address: int = 0
    length: int = 512
    sent: int = 512

    def pack(self, *, header_digest: bool, data_digest: bool) -> bytes:
        entry = bytearray(SubmissionEntry(opc=self.opcode, flags=self.flags, cid=self.cid).pack())
        SGL.pack_into(entry, SGL_OFFSET, self.address, self.length, self.sgl_id << 24)
        flags = HDGSTF if header_digest else 0
        if data_digest and self.sent:
            flags |= DDGSTF
        data = bytes((self.cid + number) % 251 for number in range(self.sent))
        return pdu(PduType.CAPSULE_CMD, bytes(entry), data, flags=flags)


READ = Capsule(opcode=2, sgl_id=TRANSPORT, length=4096, sent=0)
WRITE = Capsule()

lengths = st.sampled_from([0, 512, 512, 512, 513, 4096, 8192, 8196])
capsules = st.lists(
    st.builds(
        Capsule,
        cid=st.integers(1, 5),
        opcode=st.sampled_from([0, 1, 2, 5, FABRICS]),
        flags=st.sampled_from([0x40, 0x40, 0x40, 0x41, 0x80, 0]),
        sgl_id=st.sampled_from([IN_CAPSULE, IN_CAPSULE, TRANSPORT, TRANSPORT, 0x00, 0x40]),
        address=st.sampled_from([0, 0, 0, 8]),
        length=lengths,
        sent=lengths,
    ),
    min_size=1,
    max_size=6,
)


def outcome(kind, stream, cuts, header_digest, data_digest):
    """Everything that can be seen of a controller which receives this, and answers the first."""
    controller = established_controller(header_digest=header_digest, data_digest=data_digest)
    controller.configure(entries=ENTRIES, sq_flow_control=False, in_capsule_bytes=8192)
    controller.__class__ = kind
    events, error = [], None
    try:
        events = feed(controller, stream, cuts)
    except RemoteProtocolError as raised:
        error = (str(raised), raised.fes, raised.fei)
    seen = [
        (
            bytes(event.sqe),
            event.cid,
            event.transfer_bytes,
            None if event.in_capsule_data is None else bytes(event.in_capsule_data),
            event.fault,
        )
        for event in events
    ]
    if events:
        controller.send_response(ResponseCapsule(events[0].cid))
    later = str(controller.error)
    return seen, error, later, controller.outstanding, controller.counters, drain(controller)


@given(capsules, st.booleans(), st.booleans(), st.lists(st.integers(1, 5000), max_size=6))
@example([READ, attrs.evolve(WRITE, cid=2)], False, False, [])
@example([READ, READ], False, False, [])
@example([attrs.evolve(WRITE, cid=cid) for cid in range(1, 7)], False, False, [])
@example([attrs.evolve(WRITE, opcode=FABRICS)], False, False, [])
@example([attrs.evolve(WRITE, opcode=2)], False, False, [])
@example([attrs.evolve(WRITE, length=4096)], False, False, [])
@example([attrs.evolve(WRITE, length=8196, sent=8196)], False, False, [])
@example([attrs.evolve(WRITE, sgl_id=TRANSPORT)], False, False, [])
@example([attrs.evolve(READ, sgl_id=IN_CAPSULE)], False, False, [])
@example([attrs.evolve(READ, flags=0)], False, False, [])
@example([attrs.evolve(WRITE, address=8)], False, False, [])
def test_what_is_taken_in_one_go_is_what_the_general_way_makes_of_it(
    sent, header_digest, data_digest, cuts
):
    stream = b"".join(
        each.pack(header_digest=header_digest, data_digest=data_digest) for each in sent
    )
    expected = outcome(GeneralController, stream, cuts, header_digest, data_digest)

    assert outcome(ControllerConnection, stream, cuts, header_digest, data_digest) == expected


def test_reads_and_writes_that_are_whole_are_taken_in_one_go(monkeypatch):
    taken = []
    take = ControllerConnection._take

    def noting(self, *arguments):
        taken.append(take(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(ControllerConnection, "_take", noting)
    for header_digest in (False, True):
        for capsule in (READ, WRITE):
            stream = capsule.pack(header_digest=header_digest, data_digest=False)
            outcome(ControllerConnection, stream, (), header_digest, False)
            if capsule.sent:
                # In two pieces it goes the general way.
                outcome(ControllerConnection, stream, (100,), header_digest, False)
    assert taken == [True, True, True, True]
