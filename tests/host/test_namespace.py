"""A namespace in bytes: alignment, the end, and what each call sends."""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import EndOfNamespaceError, ReadOnlyError, UnsupportedError
from nvmf_host.namespace import Namespace
from nvmf_transport.errors import ConfigError, LocalProtocolError, NamespaceGoneError
from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import RW_FUA, WZ_DEAC, NvmOpcode, SubmissionEntry

from .medium import (
    LBA_BYTES,
    Link,
    Medium,
    begin,
    controller_data,
    describe,
    lbas_of,
    opcode,
    open_link,
    open_namespace,
    pattern,
    serve,
)

L = LBA_BYTES


def entries(link: Link) -> list[SubmissionEntry]:
    return [SubmissionEntry.unpack(capsule.sqe) for capsule in link.pairs[0].log]


OPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "write", "zeroes", "deallocate", "flush"]),
        st.integers(0, 8 * L + 10),
        st.integers(0, 5 * L) | st.integers(0, 40),
    ),
    max_size=15,
)


@given(OPS, st.integers(0, 5), st.sampled_from([0, 0, 1, 2, 3]), st.booleans(), st.integers(0, 99))
def test_any_sequence_of_calls_equals_the_model(operations, mdts, noiob, zeroes, seed):
    size = 8 * L
    oncs = IdentifyController.ONCS_DSM | (IdentifyController.ONCS_WRITE_ZEROES if zeroes else 0)
    model = bytearray(random.Random(seed).randbytes(size))

    async def main() -> None:
        medium = Medium(8)
        medium.data[:] = model
        namespace = open_namespace(describe(size_lbas=8))
        async with open_link(queues=1, entries=4, max_transfer_bytes=L * (mdts + 1)) as link:
            namespace.engine.resume(link.path(controller_data(oncs=oncs), noiob_lbas=noiob))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, link, medium, random.Random(seed))
                for number, (kind, offset, length) in enumerate(operations):
                    lba, lbas = offset // L, length // L
                    inside = lbas > 0 and lba + lbas <= 8
                    match kind:
                        case "read":
                            got = await namespace.read(offset, length)
                            assert bytes(got) == model[offset : offset + length]
                        case "write" if offset < size:
                            data = random.Random(number).randbytes(length)
                            written = await namespace.write(offset, data)
                            assert written == min(length, size - offset)
                            model[offset : offset + written] = data[:written]
                        case "zeroes" if inside:
                            await namespace.write_zeroes(lba, lbas)
                            model[lba * L : (lba + lbas) * L] = bytes(lbas * L)
                        case "deallocate" if inside:
                            await namespace.deallocate([(lba, lbas)])
                            model[lba * L : (lba + lbas) * L] = bytes(lbas * L)
                        case "flush":
                            await namespace.flush()
                        case _:
                            pass
                    assert medium.data == model
                nursery.cancel_scope.cancel()

    trio.run(main)


# The end of the namespace, and what is refused.


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 0, 0), (4 * L, 1, 0), (4 * L + 9, 1, 0), (4 * L - 3, 10, 3), (3 * L, 9 * L, L)],
)
async def test_a_read_ends_at_the_end(offset, length, expected):
    namespace = open_namespace(describe(size_lbas=4))
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        nursery.start_soon(serve, link, Medium(4))
        assert len(await namespace.read(offset, length)) == expected
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(4 * L - 3, 10, 3), (3 * L, 9 * L, L), (9 * L, 0, 0)]
)
async def test_a_write_across_the_end_is_short(offset, length, expected):
    namespace = open_namespace(describe(size_lbas=4))
    medium = Medium(4)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        nursery.start_soon(serve, link, medium)
        assert await namespace.write(offset, pattern(7, length)) == expected
        assert medium.data.count(7) == expected
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("offset", "length", "room", "lands"),
    [
        (0, 4 * L, 4 * L, True),
        (L, 2 * L, 4 * L, True),
        (62 * L, 4 * L, 2 * L, True),
        (0, 4 * L, 4 * L - 1, False),
        (1, 4 * L, 8 * L, False),
        (0, 4 * L - 1, 8 * L, False),
    ],
)
@pytest.mark.parametrize("max_lbas", [1, 8])
async def test_whole_lbas_are_read_into_the_callers_buffer(offset, length, room, lands, max_lbas):
    medium = Medium(64)
    medium.data[:] = random.Random(1).randbytes(64 * L)
    buffer = bytearray(room)
    namespace = open_namespace()
    async with (
        open_link(max_transfer_bytes=max_lbas * L) as link,
        trio.open_nursery() as nursery,
    ):
        namespace.engine.resume(link.path())
        nursery.start_soon(serve, link, medium)
        got = await namespace.read(offset, length, into=buffer)
        nursery.cancel_scope.cancel()

    expected = medium.data[offset : offset + length]
    assert bytes(got) == expected
    assert lands == (isinstance(got, memoryview) and got.obj is buffer)
    assert buffer == (expected if lands else b"").ljust(room, b"\0")


async def test_a_buffer_is_written_to_after_its_read_was_cancelled():
    buffer = bytearray(L)
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path())
        with trio.move_on_after(0) as scope:
            await namespace.read(0, L, into=buffer)
        assert scope.cancelled_caught
        assert not any(buffer)

        (capsule,) = link.sent
        assert capsule.data_in is not None
        capsule.data_in[:] = b"x" * L
        link.answer()
        await wait_all_tasks_blocked()
        assert bytes(buffer) == b"x" * L
        assert not link.queues[0].outstanding


async def test_a_write_past_the_end_is_an_error():
    namespace = open_namespace(describe(size_lbas=4))
    with pytest.raises(EndOfNamespaceError, match=f"{4 * L}"):
        await namespace.write(4 * L, b"x")


async def test_an_offset_before_the_beginning_is_the_callers_bug():
    namespace = open_namespace()
    with pytest.raises(LocalProtocolError, match="-1"):
        await namespace.read(-1, 4)
    with pytest.raises(LocalProtocolError, match="-1"):
        await namespace.write(-1, b"four")


@pytest.mark.parametrize("how", ["connected", "protected", "second path"])
async def test_nothing_is_written_where_it_may_not_be(how):
    namespace = open_namespace(
        describe(write_protected=how == "protected"), read_only=how == "connected"
    )
    namespace.same_as = "nvme7ns1" if how == "second path" else None
    assert namespace.read_only
    async with open_link() as link:
        namespace.engine.resume(link.path())
        for call in (
            lambda: namespace.write(0, pattern(1, L)),
            lambda: namespace.write(3, b"abc"),
            lambda: namespace.write_zeroes(0, 1),
            lambda: namespace.deallocate([(0, 1)]),
        ):
            with pytest.raises(ReadOnlyError, match="nvme7ns1" if how == "second path" else "read"):
                await call()
        assert link.sent == []


@pytest.mark.parametrize(("slba", "nlb"), [(0, 0), (-1, 2), (64, 1), (60, 5), (0, 65)])
async def test_ranges_outside_are_named(slba, nlb):
    namespace = open_namespace()
    with pytest.raises(ConfigError) as caught:
        await namespace.write_zeroes(slba, nlb)
    assert caught.value.field == "slba"
    assert caught.value.value == f"{slba}+{nlb}"
    with pytest.raises(ConfigError):
        await namespace.deallocate([(0, 1), (slba, nlb)])


# What is sent.


async def test_fua_reaches_every_command_of_a_write():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(noiob_lbas=1))
        nursery.start_soon(serve, link, Medium(64))
        await namespace.write(0, pattern(1, 2 * L), fua=True)
        await namespace.write(10, b"unaligned", fua=True)
        await namespace.write_zeroes(5, 1, fua=True)
        writes = [entry for entry in entries(link) if entry.opc != NvmOpcode.READ]
        assert len(writes) == 4
        assert all(entry.cdw12 & RW_FUA for entry in writes)
        await namespace.write(0, pattern(1, L))
        assert not entries(link)[-1].cdw12 & RW_FUA
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("offset", "length", "reads", "writes"),
    [
        (0, 2 * L, [], [(0, 2)]),
        (1, 5, [(0, 1)], [(0, 1)]),
        (0, 5, [(0, 1)], [(0, 1)]),
        (L - 1, 2, [(0, 1), (1, 1)], [(0, 2)]),
        (1, 3 * L - 1, [(0, 1)], [(0, 3)]),
        (0, 2 * L + 1, [(2, 1)], [(0, 3)]),
        (1, 3 * L, [(0, 1), (3, 1)], [(0, 4)]),
    ],
)
async def test_only_the_edges_of_an_unaligned_write_are_read(offset, length, reads, writes):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        nursery.start_soon(serve, link, Medium(64))
        await namespace.write(offset, pattern(9, length))
        sent = [(opcode(capsule), lbas_of(capsule)[0]) for capsule in link.pairs[0].log]
        assert [lbas for opc, lbas in sent if opc == NvmOpcode.READ] == reads
        assert [lbas for opc, lbas in sent if opc == NvmOpcode.WRITE] == writes
        nursery.cancel_scope.cancel()


async def test_deallocate_sends_256_ranges_a_command():
    namespace = open_namespace(describe(size_lbas=1000))
    ranges = [(2 * number, 1) for number in range(300)]
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        nursery.start_soon(serve, link, Medium(1000))
        await namespace.deallocate(ranges)
        assert [len(lbas_of(capsule)) for capsule in link.pairs[0].log] == [256, 44]
        found = [each for capsule in link.pairs[0].log for each in lbas_of(capsule)]
        assert found == ranges
        await namespace.deallocate([])
        assert len(link.pairs[0].log) == 2
        nursery.cancel_scope.cancel()


async def test_a_range_beyond_32_bits_of_lbas_is_cut():
    namespace = open_namespace(describe(size_lbas=1 << 40))
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.deallocate, [(5, 1 << 33)])
        await wait_all_tasks_blocked()
        most = 0xFFFFFFFF
        assert lbas_of(link.sent[0]) == [(5, most), (5 + most, most), (5 + 2 * most, 2)]
        nursery.cancel_scope.cancel()


async def test_deallocate_needs_the_command():
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path(controller_data(oncs=0)))
        with pytest.raises(UnsupportedError, match="ONCS"):
            await namespace.deallocate([(0, 1)])


async def test_zeroes_go_in_windows_or_are_written():
    namespace = open_namespace(describe(size_lbas=4096))
    medium = Medium(4096)
    async with open_link() as link, trio.open_nursery() as nursery:
        nursery.start_soon(serve, link, medium)
        medium.data[:] = pattern(1, len(medium.data))
        namespace.engine.resume(link.path(controller_data(mdts=1)))
        await namespace.write_zeroes(1, 1000, deallocate=True)
        assert {capsule.data_out for capsule in link.pairs[0].log} == {None}
        assert all(entry.cdw12 & WZ_DEAC for entry in entries(link))
        assert medium.data == bytes([1]) * L + bytes(1000 * L) + bytes([1]) * (3095 * L)
        namespace.engine.hold("again")
        namespace.engine.resume(link.path(controller_data(oncs=0)))
        before = len(link.pairs[0].log)
        await namespace.write_zeroes(1000, 3000)
        assert medium.data.count(1) == 97 * L
        assert {opcode(capsule) for capsule in link.pairs[0].log[before:]} == {NvmOpcode.WRITE}
        nursery.cancel_scope.cancel()


async def test_what_depends_on_the_controller_waits_for_one_and_sends_nothing_for_it():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        call = begin(nursery, namespace.deallocate, [(3, 1)])
        await wait_all_tasks_blocked()
        assert not call.done
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert [opcode(capsule) for capsule in link.sent] == [NvmOpcode.DATASET_MANAGEMENT]
        link.answer()
        await wait_all_tasks_blocked()
        assert call.done
        assert call.error is None
        assert namespace.engine.dirty


async def test_what_depends_on_the_controller_fails_with_the_namespace():
    namespace = open_namespace()
    async with trio.open_nursery() as nursery:
        calls = [
            begin(nursery, namespace.deallocate, [(3, 1)]),
            begin(nursery, namespace.write_zeroes, 0, 1),
        ]
        await wait_all_tasks_blocked()
        namespace.engine.end("removed")
    assert all(isinstance(call.error, NamespaceGoneError) for call in calls)


async def test_info_says_what_waits_and_why():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.lose(namespace)
        await wait_all_tasks_blocked()
        info = namespace.info()
        assert (info.state, info.waiting_requests, info.ambiguous_writes) == ("held", 1, 1)
        assert "connection lost" in info.reason
        assert (info.size_lbas, info.size_bytes, info.lba_bytes) == (64, 64 * L, L)
        assert info.uuid == "01010101-0101-0101-0101-010101010101"
        nursery.cancel_scope.cancel()


def test_a_namespace_needs_no_running_loop_to_be_looked_at():
    namespace: Namespace = open_namespace()
    assert namespace.info().state == "held"
    assert not namespace.can_flush
