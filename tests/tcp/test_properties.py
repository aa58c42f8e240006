"""Whatever the bytes and however they are cut: documented errors only, and the same ones."""

from hypothesis import given
from hypothesis import strategies as st

from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.layout import TcpOptions, layout_of
from nvmf_tcp.pdu import PduType
from nvmf_tcp.validate import HEADER_CHECKS, Expectation, ReceivedHeader, first_breach
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    RemoteProtocolError,
)
from nvmf_transport.interfaces import ControllerQueueParams

from .pair import (
    Pair,
    drain,
    established_controller,
    established_host,
    feed,
    outcome,
    read_command,
    write_command,
)

DOCUMENTED = (RemoteProtocolError, ConnectionTerminatedError, ConnectionLostError)
sizes = st.lists(st.integers(1, 300), max_size=40)
digests = st.tuples(st.booleans(), st.booleans())


def host_with_commands(header_digest, data_digest):
    host = established_host(header_digest=header_digest, data_digest=data_digest)
    host.send_command(read_command(1, memoryview(bytearray(5000))))
    host.send_command(write_command(2, bytes(20_000)))
    host.send_command(read_command(3, None))
    drain(host)
    return host


def conversation(header_digest, data_digest):
    """What each side sends in a typical exchange: (to the host, to the controller)."""
    pair = Pair.make(
        header_digest=header_digest,
        data_digest=data_digest,
        maxh2cdata_bytes=8192,
        controller_options=TcpOptions(r2t_bytes=9000, data_pdu_bytes=3000),
    )
    to_host = to_controller = b""
    pair.host.send_command(read_command(1, memoryview(bytearray(5000))))
    pair.host.send_command(write_command(2, bytes(range(200)) * 100))
    pair.host.send_command(write_command(3, b"in the capsule"))
    while pair.host.wants_to_send or pair.controller.wants_to_send:
        sent = drain(pair.host)
        to_controller += sent
        pair.to_controller(sent)
        react(pair.controller, [*pair.commands, *pair.transfers])
        pair.commands.clear()
        pair.transfers.clear()
        sent = drain(pair.controller)
        to_host += sent
        pair.to_host(sent)
    assert sorted(response.cid for response in pair.responses) == [1, 2, 3]
    return to_host, to_controller


def react(controller, events):
    """Answers like a controller that succeeds in everything."""
    for event in events:
        if not isinstance(event, ReceivedCommand):
            controller.send_response(ResponseCapsule(event.command.cid))
        elif event.fault is None and event.in_capsule_data is None and event.transfer_bytes:
            if event.sqe[0] & 1:
                controller.request_data(event)
                continue
            controller.send_data(event, [bytes(event.transfer_bytes)], complete=False)
            controller.send_response(ResponseCapsule(event.cid))
        else:
            controller.send_response(ResponseCapsule(event.cid))


def replay(connection, stream, cuts):
    """Feeds a stream, reacting to events as they come; returns what can be seen from outside."""
    seen: list[tuple[object, ...]] = []
    pieces = iter(cuts)
    error = None
    while stream and error is None:
        size = next(pieces, len(stream))
        events, error = outcome(connection, stream[:size])
        stream = stream[size:]
        if isinstance(connection, ControllerConnection):
            if connection.error is None:
                react(connection, events)
            seen += [(type(event).__name__, getattr(event, "cid", None)) for event in events]
        else:
            seen += [(event.cid, event.status, event.digest_error) for event in events]
        drain(connection)
    return seen, error


@given(data=st.binary(max_size=2000), cuts=sizes, agreed=digests)
def test_garbage_raises_only_documented_errors(data, cuts, agreed):
    for connection in (
        host_with_commands(*agreed),
        established_controller(header_digest=agreed[0], data_digest=agreed[1]),
        ControllerConnection(ControllerQueueParams()),
    ):
        _, error = outcome(connection, data, cuts)
        assert error is None or isinstance(error, DOCUMENTED)


@st.composite
def mutated(draw, stream):
    """A valid stream with a few bytes changed, inserted, removed or moved."""
    data = bytearray(stream)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["set", "insert", "remove", "repeat"])):
            case "set":
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del data[at : at + draw(st.integers(1, 32))]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
        if not data:
            break
    return bytes(data)


STREAMS = {agreed: conversation(*agreed) for agreed in [(False, False), (True, True)]}


@given(st.data())
def test_a_mutated_stream_raises_only_documented_errors(data):
    agreed = data.draw(st.sampled_from(sorted(STREAMS)))
    to_host, to_controller = STREAMS[agreed]
    # Mutations of headers are the interesting ones, and the start is dense in them.
    cut = data.draw(st.sampled_from([300, 2000, 1 << 20]))
    cuts = data.draw(sizes)
    _, error = replay(host_with_commands(*agreed), data.draw(mutated(to_host[128:][:cut])), cuts)
    assert error is None or isinstance(error, DOCUMENTED)
    controller = established_controller(header_digest=agreed[0], data_digest=agreed[1], maxr2t=3)
    _, error = replay(controller, data.draw(mutated(to_controller[128:][:cut])), cuts)
    assert error is None or isinstance(error, DOCUMENTED)


@given(st.data())
def test_events_and_errors_do_not_depend_on_segmentation(data):
    agreed = data.draw(st.sampled_from(sorted(STREAMS)))
    stream = STREAMS[agreed][0][128:]
    if data.draw(st.booleans()):
        stream = data.draw(mutated(stream))
    cuts = data.draw(sizes)
    results = []
    for pieces in ((), cuts):
        host = host_with_commands(*agreed)
        host._options = TcpOptions()
        events, error = outcome(host, stream, pieces)
        results.append(
            (
                [(event.cid, event.status, event.digest_error) for event in events],
                type(error),
                str(error),
            )
        )
    assert results[0] == results[1]


@given(
    pdu_type=st.sampled_from(list(PduType)),
    flags=st.integers(0, 15),
    hlen=st.sampled_from([24, 72, 128]),
    pdo=st.sampled_from([0, 24, 28, 72, 76, 80, 128]),
    plens=st.lists(st.integers(0, 9000), min_size=2, max_size=20),
    agreed=digests,
    receiver=st.sampled_from(["host", "controller"]),
)
def test_the_remembered_layout_and_the_table_agree(
    pdu_type, flags, hlen, pdo, plens, agreed, receiver
):
    """One comparison of PLEN stands for the table: it must not say otherwise."""
    if receiver == "host":
        types = {PduType.C2H_TERM_REQ, PduType.CAPSULE_RESP, PduType.C2H_DATA, PduType.R2T}
    else:
        types = {PduType.H2C_TERM_REQ, PduType.CAPSULE_CMD, PduType.H2C_DATA}
    expected = Expectation(
        types=frozenset(types),
        header_digest=agreed[0],
        data_digest=agreed[1],
        max_data_bytes=dict.fromkeys(
            [PduType.CAPSULE_CMD, PduType.H2C_DATA, PduType.C2H_DATA], 8192
        ),
    )
    pdus = [ReceivedHeader(pdu_type, flags, hlen, pdo, plen, expected) for plen in plens]
    verdicts = [first_breach("PDU", HEADER_CHECKS, pdu) is None for pdu in pdus]
    for legal, good in zip(pdus, verdicts, strict=True):
        if good:
            layout = layout_of(legal)
            assert verdicts == [layout.min_plen <= pdu.plen <= layout.max_plen for pdu in pdus]


@given(
    lengths=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
    cuts=st.integers(1, 5000),
    agreed=digests,
    maxr2t=st.integers(0, 3),
    r2t_bytes=st.integers(500, 40_000),
    data_pdu_bytes=st.integers(500, 40_000),
    hpda=st.integers(0, 31),
    cpda=st.integers(0, 31),
)
def test_any_data_arrives_whatever_was_agreed(
    lengths, cuts, agreed, maxr2t, r2t_bytes, data_pdu_bytes, hpda, cpda
):
    pair = Pair.make(
        header_digest=agreed[0],
        data_digest=agreed[1],
        host_options=TcpOptions(pda=hpda, maxr2t=maxr2t, data_pdu_bytes=data_pdu_bytes),
        controller_options=TcpOptions(pda=cpda, r2t_bytes=r2t_bytes, data_pdu_bytes=data_pdu_bytes),
        maxh2cdata_bytes=4096,
        cuts=lambda: iter(lambda: cuts, 0),
    )
    written = {cid: bytes([cid + 1]) * length for cid, length in enumerate(lengths)}
    for cid, data in written.items():
        pair.host.send_command(write_command(cid, data))
    pair.run()
    transfers = {
        command.cid: pair.controller.request_data(command)
        for command in pair.commands
        if command.in_capsule_data is None
    }
    pair.run()
    for command in pair.commands:
        data = command.in_capsule_data or transfers[command.cid].buffer
        assert bytes(data) == written[command.cid]
        pair.controller.send_response(ResponseCapsule(command.cid))
    assert len(pair.transfers) == len(transfers)
    pair.run()
    assert pair.host.outstanding == pair.controller.outstanding == 0
    pair.commands.clear()
    targets = {cid: bytearray(len(data)) for cid, data in written.items()}
    for cid, target in targets.items():
        pair.host.send_command(read_command(cid, memoryview(target)))
    pair.run()
    for command in pair.commands:
        pair.controller.send_data(command, [written[command.cid]], complete=False)
    pair.run()
    assert targets == written


def test_feeding_nothing_changes_nothing():
    host = host_with_commands(False, False)
    assert feed(host, b"") == []
