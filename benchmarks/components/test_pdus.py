"""PDUs, taken apart and put together: no socket, no event loop.

Where bytes are fed to a connection, they are copied to where it wants them, which stands for
`recv`.
"""

from typing import Any

import pytest

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule

from .conftest import Measure
from .wire import Ends, command, drop, feed, take

KIB, MIB = 1024, 1 << 20
#: Of how many operations a round is, by the length of their data: less than a queue, and 16 MiB.
COUNTS = {4 * KIB: 100, MIB: 16}

with_digests = pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
with_data = pytest.mark.parametrize("data_bytes", COUNTS, ids=["4KiB", "1MiB"])


@with_digests
@pytest.mark.benchmark(group="host builds")
def test_host_builds_read_command(measure: Measure, digests: bool) -> None:
    count = COUNTS[4 * KIB]
    target = memoryview(bytearray(4 * KIB))

    def setup() -> tuple[Any, ...]:
        capsules = [command(cid, data_in=target) for cid in range(count)]
        return Ends.make(digests=digests).host, capsules

    def work(host: Any, capsules: list[Any]) -> None:
        for capsule in capsules:
            host.send_command(capsule)
        drop(host)

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="host builds")
def test_host_builds_write_command_with_4kib(measure: Measure, digests: bool) -> None:
    count, data = COUNTS[4 * KIB], bytes(4 * KIB)

    def setup() -> tuple[Any, ...]:
        capsules = [command(cid, data_out=data) for cid in range(count)]
        return Ends.make(digests=digests).host, capsules

    def work(host: Any, capsules: list[Any]) -> None:
        for capsule in capsules:
            host.send_command(capsule)
        drop(host)

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="host builds")
def test_host_builds_h2c_data_1mib(measure: Measure, digests: bool) -> None:
    count = COUNTS[MIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        ends.requested_writes(count, MIB)
        return (ends.host,)

    measure(drop, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="host parses")
def test_host_parses_response(measure: Measure, digests: bool) -> None:
    count = COUNTS[4 * KIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        return ends.host, ends.answer(ends.writes(count, 512))

    def work(host: Any, data: bytes) -> None:
        assert len(feed(host, data)) == count

    measure(work, setup=setup, operations=count)


@with_digests
@with_data
@pytest.mark.benchmark(group="host parses")
def test_host_parses_c2h_data(measure: Measure, data_bytes: int, digests: bool) -> None:
    count = COUNTS[data_bytes]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        data = bytes(data_bytes)
        for each in ends.reads(count, data_bytes):
            assert ends.controller.send_data(each, [data], complete=True)
        return ends.host, take(ends.controller)

    def work(host: Any, data: bytes) -> None:
        assert len(feed(host, data)) == count

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="host parses")
def test_host_parses_r2t(measure: Measure, digests: bool) -> None:
    count = COUNTS[4 * KIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        for each in ends.writes(count, 32 * KIB):
            ends.controller.request_data(each)
        return ends.host, take(ends.controller)

    measure(feed, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="controller builds")
def test_controller_builds_response(measure: Measure, digests: bool) -> None:
    count = COUNTS[4 * KIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        return ends.controller, ends.writes(count, 512)

    def work(controller: Any, commands: list[ReceivedCommand]) -> None:
        for each in commands:
            controller.send_response(ResponseCapsule(each.cid, sqhd=0))
        drop(controller)

    measure(work, setup=setup, operations=count)


@with_digests
@with_data
@pytest.mark.benchmark(group="controller builds")
def test_controller_builds_c2h_data(measure: Measure, data_bytes: int, digests: bool) -> None:
    count, data = COUNTS[data_bytes], bytes(data_bytes)

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        return ends.controller, ends.reads(count, data_bytes)

    def work(controller: Any, commands: list[ReceivedCommand]) -> None:
        for each in commands:
            controller.send_data(each, [data], complete=True)
        drop(controller)

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="controller builds")
def test_controller_builds_r2t(measure: Measure, digests: bool) -> None:
    count = COUNTS[4 * KIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        return ends.controller, ends.writes(count, 32 * KIB)

    def work(controller: Any, commands: list[ReceivedCommand]) -> None:
        for each in commands:
            controller.request_data(each)
        drop(controller)

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="controller parses")
def test_controller_parses_read_command(measure: Measure, digests: bool) -> None:
    count, target = COUNTS[4 * KIB], memoryview(bytearray(4 * KIB))

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        for cid in range(count):
            ends.host.send_command(command(cid, data_in=target))
        return ends.controller, take(ends.host)

    def work(controller: Any, data: bytes) -> None:
        assert len(feed(controller, data)) == count

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="controller parses")
def test_controller_parses_write_command_with_4kib(measure: Measure, digests: bool) -> None:
    count, data_out = COUNTS[4 * KIB], bytes(4 * KIB)

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        for cid in range(count):
            ends.host.send_command(command(cid, data_out=data_out))
        return ends.controller, take(ends.host)

    def work(controller: Any, data: bytes) -> None:
        assert len(feed(controller, data)) == count

    measure(work, setup=setup, operations=count)


@with_digests
@pytest.mark.benchmark(group="controller parses")
def test_controller_parses_h2c_data_1mib(measure: Measure, digests: bool) -> None:
    count = COUNTS[MIB]

    def setup() -> tuple[Any, ...]:
        ends = Ends.make(digests=digests)
        ends.requested_writes(count, MIB)
        return ends.controller, take(ends.host)

    def work(controller: Any, data: bytes) -> None:
        assert len(feed(controller, data)) == count

    measure(work, setup=setup, operations=count)
