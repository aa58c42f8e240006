"""Host and controller against each other, without I/O."""

import itertools
import struct

import pytest

from nvmf_tcp.connection import RECEIVE_BUFFER_BYTES
from nvmf_tcp.host import HostConnection
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import COMMON, LAST_PDU, SUCCESS, DataHeader, PduType
from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.errors import (
    ConfigError,
    ConnectionLostError,
    LocalProtocolError,
    RemoteProtocolError,
)
from nvmf_transport.fabrics import ConnectCommand, FabricsCommand, FabricsType
from nvmf_transport.interfaces import HostQueueParams
from nvmf_transport.status import SGL_TYPE_INVALID, TRANSIENT_TRANSPORT_ERROR

from .pair import (
    Pair,
    data_specific,
    drain,
    established_host,
    feed,
    forever,
    pdu,
    read_command,
    write_command,
)

DIGESTS = list(itertools.product([False, True], repeat=2))


def pattern(length):
    return bytes(i * 7 % 251 for i in range(length))


def pdu_types(stream):
    """Types and FLAGS of the PDUs in a stream."""
    types, position = [], 0
    while position < len(stream):
        word, plen = COMMON.unpack_from(stream, position)
        types.append((PduType(word & 0xFF), word >> 8 & 0xFF, stream[position : position + plen]))
        position += plen
    return types


def exercise(pair):
    """A read, a write in the capsule, a write by R2T and a command without data."""
    data = pattern(100_003)
    target = bytearray(len(data))
    command = pair.command(read_command(1, memoryview(target)))
    assert command.transfer_bytes == len(data)
    assert not pair.controller.send_data(command, [data[:4096], data[4096:]], complete=False)
    response = pair.respond(1)
    assert (response.status, response.data_bytes, response.digest_error) == (0, len(data), False)
    assert target == data

    command = pair.command(write_command(2, data[:4096]))
    assert command.in_capsule_data == data[:4096]
    pair.respond(2)

    command = pair.command(write_command(3, data))
    transfer = pair.controller.request_data(command)
    pair.run()
    assert pair.transfers == [transfer]
    assert (transfer.buffer, transfer.digest_error) == (data, False)
    pair.respond(3)

    command = pair.command(read_command(4, None))
    assert (command.transfer_bytes, command.fault) == (0, None)
    assert pair.respond(4, status=0x4002).status == 0x4002
    assert pair.host.outstanding == pair.controller.outstanding == 0
    assert pair.host.unsent_bytes == pair.controller.unsent_bytes == 0


@pytest.mark.parametrize(("header_digest", "data_digest"), DIGESTS)
@pytest.mark.parametrize("size", [None, 1, 3, 1000, 40_000])
def test_everything_works_at_any_segmentation(header_digest, data_digest, size):
    exercise(
        Pair.make(
            header_digest=header_digest,
            data_digest=data_digest,
            cuts=lambda: () if size is None else forever(size),
        )
    )


@pytest.mark.parametrize(("header_digest", "data_digest"), DIGESTS)
@pytest.mark.parametrize(("hpda", "cpda"), [(0, 31), (31, 0), (6, 2)])
def test_alignment_is_honoured_both_ways(header_digest, data_digest, hpda, cpda):
    exercise(
        Pair.make(
            header_digest=header_digest,
            data_digest=data_digest,
            host_options=TcpOptions(pda=hpda),
            controller_options=TcpOptions(pda=cpda),
        )
    )


@pytest.mark.parametrize("maxr2t", [0, 1, 3])
def test_a_write_is_asked_for_by_as_many_r2ts_as_the_host_allows(maxr2t):
    pair = Pair.make(
        host_options=TcpOptions(maxr2t=maxr2t),
        controller_options=TcpOptions(r2t_bytes=10_000, maxr2t=7),
        maxh2cdata_bytes=4096,
    )
    data = pattern(95_001)
    command = pair.command(write_command(1, data))
    transfer = pair.controller.request_data(command)
    drained = drain(pair.controller)
    r2ts = pdu_types(drained)
    assert [kind for kind, *_ in r2ts] == [PduType.R2T] * (maxr2t + 1)
    pair.to_host(drained)
    pair.run()
    assert transfer.buffer == data
    pair.respond(1)


def test_h2c_data_is_cut_by_maxh2cdata_with_last_on_the_final_one_of_each_r2t():
    pair = Pair.make(maxh2cdata_bytes=4096, controller_options=TcpOptions(r2t_bytes=10_000))
    pair.controller.request_data(pair.command(write_command(1, bytes(20_000))))
    pair.to_host(drain(pair.controller))
    sent = [(flags, DataHeader.unpack(raw)) for _, flags, raw in pdu_types(drain(pair.host))]
    assert [(flags, header.datao, header.datal) for flags, header in sent] == [
        (0, 0, 4096),
        (0, 4096, 4096),
        (4, 8192, 1808),
        (0, 10_000, 4096),
        (0, 14_096, 4096),
        (4, 18_192, 1808),
    ]


def test_success_completes_a_read_without_sq_flow_control_only():
    pair = Pair.make(sq_flow_control=False)
    target = bytearray(4096)
    command = pair.command(read_command(1, memoryview(target)))
    assert pair.controller.send_data(command, [pattern(4096)], complete=True)
    pair.run()
    (response,) = pair.responses
    assert (response.cid, response.status, response.sqhd) == (1, 0, None)
    assert response.data_bytes == 4096
    assert pair.controller.outstanding == 0

    pair = Pair.make(sq_flow_control=True)
    command = pair.command(read_command(1, memoryview(target)))
    assert not pair.controller.send_data(command, [pattern(4096)], complete=True)


def test_a_long_read_is_cut_into_pdus_with_last_and_success_on_the_final_one():
    pair = Pair.make(controller_options=TcpOptions(data_pdu_bytes=4096), sq_flow_control=False)
    target = bytearray(10_000)
    command = pair.command(read_command(1, memoryview(target)))
    pair.controller.send_data(command, [pattern(5000), pattern(5000)], complete=True)
    stream = drain(pair.controller)
    assert [(flags, len(raw) - 24) for _, flags, raw in pdu_types(stream)] == [
        (0, 4096),
        (0, 4096),
        (12, 1808),
    ]
    pair.to_host(stream)
    assert target == pattern(5000) * 2


def flip(stream, position):
    return stream[:position] + bytes([stream[position] ^ 1]) + stream[position + 1 :]


@pytest.mark.parametrize("success", [False, True])
def test_a_bad_data_digest_fails_one_read_and_nothing_else(success):
    pair = Pair.make(
        data_digest=True,
        sq_flow_control=not success,
        controller_options=TcpOptions(data_pdu_bytes=4096),
    )
    target = bytearray(12_000)
    command = pair.command(read_command(1, memoryview(target)))
    completed = pair.controller.send_data(command, [pattern(12_000)], complete=True)
    if not completed:
        pair.controller.send_response(ResponseCapsule(1))
    pair.to_host(flip(drain(pair.controller), 100))
    (response,) = pair.responses
    assert (response.cid, response.status, response.digest_error) == (1, 0, True)
    assert response.data_bytes == 12_000
    assert pair.host.counters.data_digest_errors == 1
    pair.responses.clear()
    exercise(pair)


def test_a_bad_data_digest_in_h2c_data_fails_one_write_when_all_its_data_is_in():
    pair = Pair.make(data_digest=True, maxh2cdata_bytes=4096)
    transfer = pair.controller.request_data(pair.command(write_command(1, pattern(10_000))))
    pair.to_host(drain(pair.controller))
    pair.to_controller(flip(drain(pair.host), 100))
    assert pair.transfers == [transfer]
    assert transfer.digest_error
    pair.transfers.clear()
    pair.respond(1, TRANSIENT_TRANSPORT_ERROR.to_field())
    exercise(pair)


def test_a_bad_digest_of_in_capsule_data_is_a_fault_of_the_command():
    pair = Pair.make(data_digest=True)
    pair.host.send_command(write_command(1, pattern(512)))
    pair.to_controller(flip(drain(pair.host), 200))
    (command,) = pair.commands
    assert command.fault == TRANSIENT_TRANSPORT_ERROR
    assert command.in_capsule_data is None
    pair.respond(1, TRANSIENT_TRANSPORT_ERROR.to_field())
    exercise(pair)


def test_a_bad_header_digest_ends_the_connection():
    pair = Pair.make(header_digest=True)
    pair.host.send_command(read_command(1, None))
    stream = flip(drain(pair.host), 40)
    with pytest.raises(RemoteProtocolError, match="header digest") as info:
        pair.to_controller(stream)
    assert (info.value.fes, info.value.fei) == (3, struct.unpack_from("<I", stream, 72)[0])
    assert pair.controller.counters.header_digest_errors == 1


def test_an_early_response_drops_unsent_data_between_pdus_and_the_cid_can_be_used_again():
    pair = Pair.make(maxh2cdata_bytes=65536)
    pair.controller.request_data(pair.command(write_command(1, pattern(4 << 18))))
    pair.host.send_command(write_command(2, pattern(4 << 18)))
    pair.to_host(drain(pair.controller))
    # The controller fails the write while its data is still with the host.
    pair.controller.send_response(ResponseCapsule(1, status=2))
    pair.to_host(drain(pair.controller))
    assert [response.cid for response in pair.responses] == [1]
    stream = drain(pair.host)
    assert [kind for kind, *_ in pdu_types(stream)] == [PduType.CAPSULE_CMD]
    pair.to_controller(stream)
    pair.responses.clear()
    pair.commands.clear()
    data = pattern(50_000)
    transfer = pair.controller.request_data(pair.command(write_command(1, data)))
    pair.run()
    assert transfer.buffer == data


@pytest.mark.parametrize("success_flag", [False, True])
def test_a_completion_of_what_has_not_left_ends_the_connection(success_flag):
    """Else a peer that reads nothing and completes everything has us queue without a bound."""
    host = established_host()
    host.send_command(read_command(1, memoryview(bytearray(512))))
    if success_flag:
        flags = LAST_PDU | SUCCESS
        answer = pdu(PduType.C2H_DATA, data_specific(1, 0, 0, 512), bytes(512), flags=flags)
    else:
        answer = pdu(PduType.CAPSULE_RESP, struct.pack("<QHHHH", 0, 0, 0, 1, 0))
    with pytest.raises(RemoteProtocolError, match="CID 1: no outstanding command"):
        feed(host, answer)


def test_data_for_a_command_answered_early_is_swallowed():
    pair = Pair.make(maxh2cdata_bytes=4096)
    pair.controller.request_data(pair.command(write_command(1, pattern(20_000))))
    pair.to_host(drain(pair.controller))
    in_flight = drain(pair.host)
    pair.controller.send_response(ResponseCapsule(1, status=2))
    pair.to_controller(in_flight)
    assert pair.transfers == []
    pair.run()
    pair.responses.clear()
    exercise(pair)


def test_data_for_an_abandoned_transfer_is_swallowed():
    pair = Pair.make(controller_options=TcpOptions(r2t_bytes=5000))
    transfer = pair.controller.request_data(pair.command(write_command(1, pattern(90_000))))
    pair.controller.abandon(transfer)
    pair.run()
    assert pair.transfers == []
    pair.respond(1)
    exercise(pair)


def test_many_leftover_r2ts_are_forgotten_the_oldest_first(monkeypatch):
    monkeypatch.setattr("nvmf_tcp.controller._MAX_OPEN_R2TS", 10)
    pair = Pair.make()
    for cid in range(100):
        pair.controller.request_data(pair.command(write_command(cid, bytes(10_000))))
        pair.controller.send_response(ResponseCapsule(cid, status=2))
        drain(pair.controller)
        pair.host._commands.clear()
    assert len(pair.controller._r2ts) <= 11


def test_data_of_fabrics_commands_is_in_the_capsule_on_every_queue():
    pair = Pair.make(in_capsule_bytes=0)
    sqe = bytearray(ConnectCommand(cid=1, qid=1).pack())
    command = pair.command(CommandCapsule(sqe, 1, data_out=bytes(1024)))
    assert (command.fault, command.in_capsule_data) == (None, bytes(1024))
    assert pair.command(write_command(2, bytes(512))).in_capsule_data is None


def test_a_fabrics_command_that_reads_has_no_data_in_its_capsule():
    pair = Pair.make()
    sqe = bytearray(FabricsCommand(cid=1, fctype=FabricsType.AUTHENTICATION_RECEIVE).pack())
    command = pair.command(CommandCapsule(sqe, 1, data_out=bytes(1024)))
    assert command.fault == SGL_TYPE_INVALID.with_dnr()


def test_many_capsules_with_data_pass_through_the_receive_buffer():
    pair = Pair.make(data_digest=True)
    data = [pattern(8000 + cid) for cid in range(100)]
    for cid in range(100):
        pair.host.send_command(write_command(cid, data[cid]))
    pair.run()
    assert [command.in_capsule_data for command in pair.commands] == data


def test_a_header_cut_by_the_end_of_the_receive_buffer_is_taken_whole():
    pair = Pair.make()
    lengths = [8192] * 7 + [7576]
    for cid, length in enumerate(lengths):
        pair.host.send_command(write_command(cid, bytes(length)))
    assert sum(72 + length for length in lengths) == RECEIVE_BUFFER_BYTES - 40
    pair.host.send_command(read_command(99, None))
    pair.run()
    assert [command.cid for command in pair.commands] == [*range(len(lengths)), 99]


def test_large_payload_is_received_in_place():
    pair = Pair.make()
    target = bytearray(1 << 20)
    command = pair.command(read_command(1, memoryview(target)))
    pair.controller.send_data(command, [pattern(1 << 20)], complete=False)
    stream = drain(pair.controller)
    head = pair.host.get_buffer()
    head[:100] = stream[:100]
    pair.host.buffer_updated(100)
    rest = pair.host.get_buffer()
    assert len(rest) == (1 << 20) - 76
    rest[:] = stream[100:]
    assert pair.host.buffer_updated(len(rest)) == []
    assert target == pattern(1 << 20)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda pair: pair.host.send_command(read_command(1, None)), "outstanding"),
        (lambda pair: pair.controller.send_response(ResponseCapsule(9)), "not outstanding"),
        (
            lambda pair: pair.controller.send_data(pair.commands[0], [b"x"], complete=True),
            "1 bytes for a command that reads 0",
        ),
        (lambda pair: pair.controller.request_data(pair.commands[0]), "none"),
    ],
)
def test_misuse_is_a_local_error(misuse, message):
    pair = Pair.make()
    pair.host.send_command(read_command(1, None))
    pair.run()
    with pytest.raises(LocalProtocolError, match=message):
        misuse(pair)


def test_a_command_has_data_in_one_direction():
    capsule = write_command(1, b"data")
    capsule.data_in = memoryview(bytearray(4))
    with pytest.raises(LocalProtocolError, match="both directions"):
        Pair.make().host.send_command(capsule)


def test_data_is_neither_sent_nor_asked_for_where_it_came_in_the_capsule():
    pair = Pair.make()
    command = pair.command(write_command(1, b"data"))
    with pytest.raises(LocalProtocolError, match="in its capsule"):
        pair.controller.send_data(command, [b"data"], complete=False)
    with pytest.raises(LocalProtocolError, match="in the capsule"):
        pair.controller.request_data(command)


def test_on_a_dead_connection_everything_is_dropped():
    pair = Pair.make()
    command = pair.command(read_command(1, memoryview(bytearray(4))))
    lost = ConnectionLostError("gone")
    pair.host.connection_lost(lost)
    pair.controller.connection_lost(lost)
    pair.host.send_command(read_command(2, None))
    assert not pair.controller.send_data(command, [b"data"], complete=True)
    pair.controller.send_response(ResponseCapsule(1))
    assert not pair.host.wants_to_send
    assert not pair.controller.wants_to_send
    with pytest.raises(ConnectionLostError):
        pair.host.eof_received()


@pytest.mark.parametrize("maxh2cdata_bytes", [0, 4092, 4098])
def test_an_illegal_maxh2cdata_of_our_own_is_refused(maxh2cdata_bytes):
    with pytest.raises(ConfigError, match="at least 4096"):
        Pair.make(maxh2cdata_bytes=maxh2cdata_bytes)


def test_commands_before_initialisation_and_with_a_wrong_cid_are_refused():
    with pytest.raises(LocalProtocolError, match="before ICResp"):
        HostConnection(HostQueueParams()).send_command(read_command(1, None))
    capsule = read_command(1, None)
    capsule.cid = 2
    with pytest.raises(LocalProtocolError, match="does not hold CID 2"):
        Pair.make().host.send_command(capsule)
