"""Each row of the validation tables: what breaks it, and the FES and FEI that answer it."""

import attrs
import pytest

from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.host import HostConnection
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import DDGSTF, HDGSTF, LAST_PDU, SUCCESS, PduType, TermReq
from nvmf_tcp.validate import HEADER_CHECKS
from nvmf_tcp.validate_specific import (
    C2H_DATA_CHECKS,
    H2C_DATA_CHECKS,
    IC_CHECKS,
    R2T_CHECKS,
)
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConnectionTerminatedError,
    HandshakeError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams
from nvmf_transport.nvme import SglId, SubmissionEntry

from .pair import (
    ENTRIES,
    Pair,
    data_specific,
    drain,
    established_controller,
    established_host,
    feed,
    ic_req,
    ic_resp,
    outcome,
    pdu,
    read_command,
    sent_term_req,
    write_command,
)

CMD, RESP, R2T = PduType.CAPSULE_CMD, PduType.CAPSULE_RESP, PduType.R2T
C2H, H2C = PduType.C2H_DATA, PduType.H2C_DATA


def new_host():
    host = HostConnection(HostQueueParams())
    drain(host)
    return host


def new_controller():
    return ControllerConnection(ControllerQueueParams())


def reading_host(**agreed):
    """A host with a read of 100 bytes outstanding as CID 1."""
    host = established_host(**agreed)
    host.send_command(read_command(1, memoryview(bytearray(100))))
    drain(host)
    return host


def writing_host(**agreed):
    """A host with a write of 10,000 bytes outstanding as CID 1, and one R2T at a time."""
    host = established_host(options=TcpOptions(maxr2t=0), **agreed)
    host.send_command(write_command(1, bytes(10_000)))
    drain(host)
    return host


def asking_controller():
    """A controller that has asked for 10,000 bytes for CID 1, TTAG 0."""
    controller = established_controller(params=ControllerQueueParams(maxh2cdata_bytes=4096))
    (command,) = feed(controller, capsule(1, 10_000))
    controller.request_data(command)
    drain(controller)
    return controller


def capsule(cid, length=0, data=b"", sgl=SglId.TRANSPORT_DATA_BLOCK, sqe=(), **header):
    entry = SubmissionEntry(opc=1, cid=cid, sgl_length=length, sgl_id=sgl)
    return pdu(CMD, attrs.evolve(entry, **dict(sqe)).pack(), data, **header)


def c2h(cid=1, offset=0, length=100, data=None, flags=LAST_PDU, **header):
    data = bytes(length) if data is None else data
    return pdu(C2H, data_specific(cid, 0, offset, length), data, flags=flags, **header)


def h2c(cid=1, ttag=0, offset=0, length=4096, data=None, flags=0, **header):
    data = bytes(length) if data is None else data
    return pdu(H2C, data_specific(cid, ttag, offset, length), data, flags=flags, **header)


def r2t(cid=1, offset=0, length=1000, **header):
    return pdu(R2T, data_specific(cid, 7, offset, length), **header)


# (id, who receives, what, requirement that is broken, FES, FEI)
BREACHES = [
    ("unknown type", reading_host, pdu(RESP, pdu_type=0x48), "no PDU that may come", 1, 0),
    ("host's own type", reading_host, h2c(), "no PDU that may come", 1, 0),
    ("controller's own type", established_controller, c2h(), "no PDU that may come", 1, 0),
    ("a second ICResp", reading_host, ic_resp(), "no PDU that may come", 1, 0),
    ("a second ICReq", established_controller, ic_req(), "no PDU that may come", 1, 0),
    ("reserved flag", reading_host, pdu(RESP, flags=0x10), "a bit that is reserved", 1, 1),
    ("DDGSTF on R2T", writing_host, r2t(flags=DDGSTF), "a bit that is reserved", 1, 1),
    ("LAST on a capsule", established_controller, capsule(1, flags=4), "reserved for", 1, 1),
    ("SUCCESS on H2CData", asking_controller, h2c(flags=8), "a bit that is reserved", 1, 1),
    ("HDGSTF unasked", reading_host, pdu(RESP, flags=HDGSTF), "HDGSTF is not as agreed", 1, 1),
    (
        "HDGSTF missing",
        lambda: reading_host(header_digest=True),
        pdu(RESP),
        "HDGSTF is not as agreed",
        1,
        1,
    ),
    ("DDGSTF unasked", reading_host, c2h(flags=6), "DDGSTF is not as agreed", 1, 1),
    (
        "DDGSTF missing",
        lambda: reading_host(data_digest=True),
        c2h(),
        "DDGSTF is not as agreed",
        1,
        1,
    ),
    (
        "DDGSTF missing on in-capsule data",
        lambda: established_controller(data_digest=True),
        capsule(1, 4, b"data", SglId.DATA_BLOCK_OFFSET),
        "DDGSTF is not as agreed",
        1,
        1,
    ),
    (
        "DDGSTF without data",
        lambda: established_controller(data_digest=True),
        capsule(1, flags=DDGSTF, plen=72),
        "DDGSTF is not as agreed",
        1,
        1,
    ),
    ("SUCCESS alone", reading_host, c2h(flags=SUCCESS), "SUCCESS without LAST_PDU", 1, 1),
    ("HLEN", reading_host, pdu(RESP, hlen=28), "not the length of this PDU's header", 1, 2),
    ("PDO on R2T", writing_host, r2t(pdo=24), "reserved for this PDU", 1, 3),
    ("PDO inside the header", reading_host, c2h(pdo=20), "not where data may start", 1, 3),
    ("PDO past PLEN", reading_host, c2h(pdo=128), "not where data may start", 1, 3),
    ("PDO 0 with data", reading_host, c2h(pdo=0), "not where data may start", 1, 3),
    ("PDO unaligned", reading_host, c2h(pdo=26), "not where data may start", 1, 3),
    (
        "PDO not as aligned as asked",
        lambda: established_controller(options=TcpOptions(pda=31)),
        capsule(1, 4, b"data", SglId.DATA_BLOCK_OFFSET),
        "not where data may start",
        1,
        3,
    ),
    ("PLEN below HLEN", reading_host, pdu(RESP, plen=23), "shorter than the header", 1, 4),
    ("PLEN above", reading_host, pdu(RESP, plen=28), "longer than this PDU can be", 1, 4),
    ("C2HData without data", reading_host, c2h(length=0), "no data follows", 1, 4),
    (
        "only a digest",
        lambda: reading_host(data_digest=True),
        c2h(flags=6, data=b"", pdo=24),
        "no data follows",
        1,
        4,
    ),
    (
        "too much in the capsule",
        established_controller,
        capsule(1, 8196, bytes(8196), SglId.DATA_BLOCK_OFFSET),
        "more data than the receiver takes",
        1,
        4,
    ),
    (
        "PLEN of 4 GiB",
        established_controller,
        capsule(1, 4, b"data", plen=0xFFFFFFFF),
        "more data than the receiver takes",
        1,
        4,
    ),
    ("PFV", new_controller, ic_req(pfv=1), "no known PDU Format Version", 6, 8),
    ("HPDA", new_controller, ic_req(hpda=32), "more than 31", 1, 10),
    ("CPDA", new_host, ic_resp(cpda=32), "more than 31", 1, 10),
    ("DGST", new_controller, ic_req(dgst=4), "a reserved bit is set", 1, 11),
    ("digest unasked", new_host, ic_resp(dgst=1), "the host did not ask for", 6, 11),
    ("MAXH2CDATA small", new_host, ic_resp(maxh2cdata=4092), "below 4096", 1, 12),
    ("MAXH2CDATA odd", new_host, ic_resp(maxh2cdata=4098), "below 4096", 1, 12),
    ("ICReq HLEN", new_controller, ic_req(hlen=24), "not the length", 1, 2),
    ("ICReq flags", new_controller, ic_req(flags=1), "a bit that is reserved", 1, 1),
    ("ICReq PDO", new_controller, ic_req(pdo=4), "reserved for this PDU", 1, 3),
    ("ICResp PLEN", new_host, ic_resp(plen=132), "longer than this PDU can be", 1, 4),
    ("a capsule first", new_controller, capsule(1), "does not speak NVMe/TCP", 1, 0),
    ("C2HData, unknown CID", reading_host, c2h(cid=2), "no outstanding command", 1, 8),
    ("C2HData for a write", writing_host, c2h(), "no outstanding command", 1, 8),
    ("C2HData DATAL", reading_host, c2h(length=96, data=bytes(100)), "not the length of", 1, 16),
    ("C2HData too long", reading_host, c2h(length=104), "reaches past the end", 4, 0),
    ("C2HData order", reading_host, c2h(offset=4, length=96), "not where the data", 2, 0),
    ("C2HData early LAST", reading_host, c2h(length=96), "LAST_PDU must be set", 2, 0),
    ("C2HData no LAST", reading_host, c2h(flags=0), "LAST_PDU must be set", 2, 0),
    ("R2T, unknown CID", writing_host, r2t(cid=2), "no outstanding command", 1, 8),
    ("R2T for a read", reading_host, r2t(), "no outstanding command", 1, 8),
    ("R2T of nothing", writing_host, r2t(length=0), "asks for nothing", 1, 16),
    ("R2T order", writing_host, r2t(offset=4), "not where the R2T before", 2, 0),
    ("R2T too long", writing_host, r2t(length=10_004), "reaches past the end of the", 4, 0),
    ("R2T too many", writing_host, r2t() + r2t(offset=1000), "allowed no more R2Ts", 5, 0),
    ("H2CData too long", asking_controller, h2c(length=4100), "more than MAXH2CDATA", 5, 0),
    ("H2CData TTAG", asking_controller, h2c(ttag=1), "no outstanding R2T", 1, 10),
    ("H2CData CCCID", asking_controller, h2c(cid=2), "not the command that the R2T", 1, 8),
    ("H2CData DATAL", asking_controller, h2c(length=4, data=bytes(8)), "not the length", 1, 16),
    ("H2CData range", asking_controller, h2c(offset=8000), "reaches past the end", 4, 0),
    ("H2CData order", asking_controller, h2c(offset=4), "not where the data", 2, 0),
    ("H2CData early LAST", asking_controller, h2c(flags=LAST_PDU), "LAST_PDU must be", 2, 0),
    (
        "H2CData no LAST",
        asking_controller,
        h2c() + h2c(offset=4096) + h2c(offset=8192, length=1808),
        "LAST_PDU must be",
        2,
        0,
    ),
    ("CapsuleResp, unknown CID", reading_host, pdu(RESP), "CID 0: no outstanding", 1, 20),
    (
        "CapsuleCmd, CID in use",
        established_controller,
        capsule(1) + capsule(1),
        "is still outstanding",
        1,
        10,
    ),
    (
        "CapsuleCmd, queue full",
        established_controller,
        b"".join(map(capsule, range(ENTRIES + 1))),
        "more commands outstanding",
        5,
        0,
    ),
]


@pytest.mark.parametrize(
    ("receiver", "stream", "requirement", "fes", "fei"),
    [case[1:] for case in BREACHES],
    ids=[case[0] for case in BREACHES],
)
def test_a_breach_ends_the_connection_with_its_fes_and_fei(receiver, stream, requirement, fes, fei):
    connection = receiver()
    _, error = outcome(connection, stream)
    assert isinstance(error, RemoteProtocolError)
    assert requirement in str(error)
    assert (error.fes, error.fei) == (fes, fei)
    sent = sent_term_req(connection)
    assert sent.pdu_type in {PduType.H2C_TERM_REQ, PduType.C2H_TERM_REQ}
    assert (sent.fes, sent.fei) == (fes, fei)
    with pytest.raises(RemoteProtocolError) as again:
        connection.get_buffer()
    assert again.value is error


def test_every_row_of_the_tables_is_broken_by_some_case():
    rows = {
        check.requirement
        for table in (HEADER_CHECKS, IC_CHECKS, C2H_DATA_CHECKS, H2C_DATA_CHECKS, R2T_CHECKS)
        for check in table
    }
    messages = [str(outcome(receiver(), stream)[1]) for _, receiver, stream, *_ in BREACHES]
    assert {row for row in rows if not any(row in message for message in messages)} == set()


def test_a_term_req_carries_the_offending_header():
    host = reading_host()
    stream = r2t()
    outcome(host, stream)
    sent = drain(host)
    assert TermReq.unpack(sent).plen == len(sent) == 48
    assert sent[24:] == stream


def test_what_is_queued_does_not_delay_a_term_req():
    host = writing_host()
    feed(host, r2t())
    host.send_command(read_command(9, None))
    outcome(host, pdu(RESP, hlen=28))
    assert sent_term_req(host).pdu_type == PduType.H2C_TERM_REQ
    host.send_command(read_command(10, None))
    assert not host.wants_to_send


def test_events_before_a_breach_are_returned_first():
    host = reading_host()
    stream = c2h(flags=LAST_PDU | SUCCESS) + pdu(RESP, hlen=1)
    buffer = host.get_buffer()
    buffer[: len(stream)] = stream
    (response,) = host.buffer_updated(len(stream))
    assert response.cid == 1
    with pytest.raises(RemoteProtocolError):
        host.buffer_updated(0)


@pytest.mark.parametrize(
    ("receiver", "term_type"),
    [
        (new_host, PduType.C2H_TERM_REQ),
        (reading_host, PduType.C2H_TERM_REQ),
        (lambda: reading_host(header_digest=True), PduType.C2H_TERM_REQ),
        (new_controller, PduType.H2C_TERM_REQ),
        (established_controller, PduType.H2C_TERM_REQ),
    ],
)
def test_a_received_term_req_is_told_in_words_and_not_answered(receiver, term_type):
    connection = receiver()
    drain(connection)
    term = TermReq(pdu_type=term_type, hlen=24, plen=24 + 60, fes=1, fei=8).pack() + bytes(60)
    _, error = outcome(connection, term)
    assert isinstance(error, ConnectionTerminatedError)
    assert (error.fes, error.fei) == (1, 8)
    assert "Invalid PDU Header Field, at byte 8" in str(error)
    assert not connection.wants_to_send


@pytest.mark.parametrize("plen", [0, 23, 153, 0xFFFFFFFF])
def test_a_term_req_of_impossible_length_is_not_answered_either(plen):
    host = reading_host()
    term = TermReq(pdu_type=PduType.C2H_TERM_REQ, hlen=24, plen=plen, fes=1).pack()
    _, error = outcome(host, term)
    assert isinstance(error, RemoteProtocolError)
    assert error.fes is None
    assert not host.wants_to_send


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "sent b'HTTP/1.1 400 Bad'"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "sent b'SSH-2.0-OpenSSH_'"),
        (b"\x15\x03\x03\x00\x02\x02\x50\x00", "speaks TLS"),
    ],
)
def test_another_protocol_is_recognised(answer, text):
    _, error = outcome(new_host(), answer)
    assert isinstance(error, RemoteProtocolError)
    assert "does not speak NVMe/TCP" in str(error)
    assert text in str(error)


@pytest.mark.parametrize(
    ("receiver", "stream", "text"),
    [
        (new_host, b"", "during initialisation"),
        (new_host, ic_resp()[:100], "during initialisation"),
        (new_host, b"220\r\n", "does not speak NVMe/TCP"),
        (reading_host, b"", "between PDUs"),
        (reading_host, b"\x07", "inside a PDU"),
        (reading_host, c2h()[:-1], "inside a PDU"),
    ],
)
def test_the_end_of_the_stream_says_where_it_came(receiver, stream, text):
    connection = receiver()
    feed(connection, stream)
    with pytest.raises(TransportError, match=text) as info:
        connection.eof_received()
    with pytest.raises(TransportError) as again:
        connection.get_buffer()
    assert again.value is info.value


@pytest.mark.parametrize(
    ("asked", "granted", "text"),
    [((1, 0), 0, "the header digest"), ((0, 1), 0, "the data digest"), ((1, 1), 1, "data digest")],
)
def test_a_digest_that_is_not_granted_is_no_connection(asked, granted, text):
    host = HostConnection(HostQueueParams(header_digest=asked[0], data_digest=asked[1]))
    drain(host)
    with pytest.raises(HandshakeError, match=text):
        feed(host, ic_resp(dgst=granted))
    assert not host.wants_to_send


@pytest.mark.parametrize("allowed", [(True, True), (True, False), (False, True), (False, False)])
def test_the_controller_grants_what_both_want(allowed):
    params = ControllerQueueParams(header_digest=allowed[0], data_digest=allowed[1])
    controller = ControllerConnection(params)
    feed(controller, ic_req(dgst=3))
    assert drain(controller)[11] == allowed[0] | allowed[1] << 1
    assert (controller.header_digest, controller.data_digest) == allowed


FAULTS = [
    ({"flags": 0x00}, b"", "Invalid Field"),
    ({"flags": 0x80}, b"", "Invalid Field"),
    ({"sgl_length": (1 << 20) + 1}, b"", "Invalid Field"),
    ({"sgl_address": 8}, b"", "Invalid Field"),
    ({"sgl_length": 4}, b"data", "SGL Descriptor Type Invalid"),
    ({"sgl_id": 0x00}, b"", "SGL Descriptor Type Invalid"),
    ({"sgl_id": 0x01, "sgl_length": 4, "opc": 2}, b"data", "SGL Descriptor Type Invalid"),
    ({"sgl_id": 0x01, "sgl_length": 8}, b"data", "Data SGL Length Invalid"),
    ({"sgl_id": 0x01, "sgl_length": 9000}, b"data", "Data SGL Length Invalid"),
    ({"sgl_id": 0x01, "sgl_address": 2, "sgl_length": 4}, b"data", "Data SGL Length Invalid"),
    ({"sgl_id": 0x01, "sgl_address": 5}, b"data", "SGL Offset Invalid"),
]


@pytest.mark.parametrize(("fields", "data", "fault"), FAULTS)
def test_a_bad_sgl_is_a_fault_of_its_command_only(fields, data, fault):
    controller = established_controller()
    stream = capsule(1, data=data, sqe=fields.items())
    (command, following) = feed(controller, stream + capsule(2))
    assert fault in str(command.fault)
    assert command.fault.dnr
    assert following.fault is None


def test_in_capsule_data_may_start_at_an_offset():
    controller = established_controller()
    fields = {"sgl_id": 1, "sgl_address": 2, "sgl_length": 5}
    (command,) = feed(controller, capsule(1, data=b"..hello.", sqe=fields.items()))
    assert (command.fault, bytes(command.in_capsule_data)) == (None, b"hello")


def test_before_connect_one_command_is_taken():
    controller = ControllerConnection(ControllerQueueParams())
    feed(controller, ic_req())
    _, error = outcome(controller, capsule(1) + capsule(2))
    assert "more commands outstanding than the 1 entries" in str(error)


def test_data_that_comes_after_a_completed_read_is_a_breach():
    pair = Pair.make(sq_flow_control=False)
    command = pair.command(read_command(1, memoryview(bytearray(100))))
    pair.controller.send_data(command, [bytes(100)], complete=True)
    pair.run()
    _, error = outcome(pair.host, c2h())
    assert isinstance(error, RemoteProtocolError)
    assert (error.fes, error.fei) == (1, 8)


def test_an_answered_command_can_be_sent_again_at_once():
    controller = established_controller()
    feed(controller, capsule(1))
    controller.send_response(ResponseCapsule(1))
    assert [command.cid for command in feed(controller, capsule(1))] == [1]
