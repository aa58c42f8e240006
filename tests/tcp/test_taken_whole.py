"""C2HData taken in one go, against the general way: the same events, bytes and errors."""

import itertools

import attrs
from hypothesis import example, given
from hypothesis import strategies as st

from nvmf_tcp.host import HostConnection
from nvmf_tcp.pdu import DDGSTF, HDGSTF, LAST_PDU, SUCCESS, PduType
from nvmf_transport.errors import RemoteProtocolError

from .pair import data_specific, drain, established_host, feed, pdu, read_command, write_command

#: What the host asks for with CID 1 and CID 2; CID 3 reads nothing, CID 4 has not left.
_LENGTHS = {1: 512, 2: 4096}


class GeneralHost(HostConnection):
    """Takes nothing in one go."""

    def _take(self, *_):
        return False


@attrs.frozen
class Data:
    """A C2HData, truthful or not."""

    cid: int = 1
    offset: int = 0
    length: int = 512
    sent: int = 512
    flags: int = LAST_PDU | SUCCESS
    #: Its last byte is another: that of the digest of its data, where it has one.
    spoiled: bool = False

    def pack(self, *, header_digest: bool, data_digest: bool) -> bytes:
        flags = self.flags | (HDGSTF if header_digest else 0) | (DDGSTF if data_digest else 0)
        specific = data_specific(self.cid, 0, self.offset, self.length)
        data = bytes((self.cid + number) % 251 for number in range(self.sent))
        packed = bytearray(pdu(PduType.C2H_DATA, specific, data, flags=flags))
        packed[-1] ^= self.spoiled
        return bytes(packed)


lengths = st.sampled_from([512, 512, 512, 256, 513, 4096])
pdus = st.lists(
    st.builds(
        Data,
        cid=st.integers(1, 5),
        offset=st.sampled_from([0, 0, 256, 512]),
        length=lengths,
        sent=lengths,
        flags=st.sampled_from([0, LAST_PDU, LAST_PDU | SUCCESS, LAST_PDU | SUCCESS]),
        spoiled=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=4,
)


def outcome(kind, stream, cuts, header_digest, data_digest):
    """Everything that can be seen of a host which receives this."""
    host = established_host(header_digest=header_digest, data_digest=data_digest)
    host.__class__ = kind
    targets = {cid: bytearray(length) for cid, length in _LENGTHS.items()}
    for cid, target in targets.items():
        host.send_command(read_command(cid, memoryview(target)))
    host.send_command(write_command(3, b"in the capsule"))
    drain(host)
    unsent = bytearray(512)
    host.send_command(read_command(4, memoryview(unsent)))
    events, error = [], None
    try:
        events = feed(host, stream, cuts)
    except RemoteProtocolError as raised:
        error = (str(raised), raised.fes, raised.fei)
    seen = [(event.cid, event.status, event.data_bytes, event.retired) for event in events]
    later = str(host.error)
    return seen, error, later, targets, unsent, host.outstanding, host.counters, drain(host)


@given(
    pdus,
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 5000), max_size=6),
)
@example([Data(), Data(2, 0, 4096, 4096)], False, False, [])
@example([Data(), Data()], False, False, [])
@example([Data(spoiled=True), Data(2, 0, 4096, 4096)], True, True, [])
@example([Data(), Data(2, 0, 4096, 4096, spoiled=True)], False, True, [])
@example([Data(4)], False, False, [])
@example([Data(length=4096)], False, False, [])
@example([Data(length=4096, sent=4096)], False, False, [])
@example([Data(length=256, sent=256)], False, False, [])
@example([Data(offset=256)], False, False, [])
@example([Data(sent=256)], False, False, [])
@example([Data(sent=513)], False, False, [])
@example([Data(flags=LAST_PDU), Data()], False, False, [])
@example([Data(2, 0, 512, 512, 0), Data(2, 0, 4096, 4096)], False, False, [])
def test_what_is_taken_in_one_go_is_what_the_general_way_makes_of_it(
    data, header_digest, data_digest, cuts
):
    stream = b"".join(
        each.pack(header_digest=header_digest, data_digest=data_digest) for each in data
    )
    expected = outcome(GeneralHost, stream, cuts, header_digest, data_digest)

    assert outcome(HostConnection, stream, cuts, header_digest, data_digest) == expected


def test_a_read_in_one_pdu_is_taken_in_one_go(monkeypatch):
    taken = []
    take = HostConnection._take

    def noting(self, *arguments):
        taken.append(take(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(HostConnection, "_take", noting)
    for header_digest, data_digest in itertools.product((False, True), repeat=2):
        stream = Data().pack(header_digest=header_digest, data_digest=data_digest)
        outcome(HostConnection, stream, (), header_digest, data_digest)
        # In two pieces it goes the general way.
        outcome(HostConnection, stream, (100,), header_digest, data_digest)
    assert taken == [True] * 4
    # So does what is not what was sent.
    stream = Data(spoiled=True).pack(header_digest=False, data_digest=True)
    outcome(HostConnection, stream, (), False, True)
    assert taken == [True] * 4 + [False]
