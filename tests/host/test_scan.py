"""Which namespaces there are, and which of them can be served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from nvmf_host.qpair import HostQueue
from nvmf_host.scan import NamespaceDescription, Scan, scan
from nvmf_transport import status as s
from nvmf_transport.capsule import CommandCapsule
from nvmf_transport.errors import CommandError, NvmfError, RemoteProtocolError
from nvmf_transport.identify import (
    DescriptorType,
    IdentifyController,
    IdentifyNamespace,
    LbaFormat,
    pack_namespace_descriptors,
    pack_namespace_list,
)
from nvmf_transport.nvme import Cns, SubmissionEntry, Vs
from nvmf_transport.status import Status

from .medium import FakeQueuePair

UUID, NGUID, EUI64 = b"u" * 16, b"n" * 16, b"e" * 8
V14, V12 = Vs.of(major=1, minor=4), Vs.of(major=1, minor=2)


def data(**fields: object) -> IdentifyNamespace:
    values: dict[str, object] = {"nsze": 100, "ncap": 100, "lbaf": formats(LbaFormat(0, 9))}
    return IdentifyNamespace(**values | fields)  # type: ignore[arg-type]


def formats(*used: LbaFormat) -> tuple[int, ...]:
    return tuple(each.to_word() for each in used) + (0,) * (64 - len(used))


@attrs.define(eq=False)
class Target:
    """A controller that answers Identify; what is not in its tables is inactive."""

    namespaces: dict[int, IdentifyNamespace | Status] = attrs.field(factory=dict)
    descriptors: dict[int, list[tuple[int, bytes]] | Status | bytes] = attrs.field(factory=dict)
    #: Pages to give out instead of the ascending list of `namespaces`.
    pages: list[list[int] | Status] | None = None
    asked: list[tuple[int, int]] = attrs.field(factory=list)
    version: Vs = V14
    nn: int = 0

    def reply(self, capsule: CommandCapsule) -> Status | None:
        entry = SubmissionEntry.unpack(capsule.sqe)
        cns, nsid = entry.cdw10 & 0xFF, entry.nsid
        self.asked.append((cns, nsid))
        answer: bytes | Status
        match cns:
            case Cns.ACTIVE_NAMESPACES:
                page = self._page(nsid)
                answer = page if isinstance(page, Status) else pack_namespace_list(page)
            case Cns.NAMESPACE:
                found = self.namespaces.get(nsid, IdentifyNamespace())
                answer = found if isinstance(found, Status) else found.pack()
            case _:
                assert cns == Cns.NAMESPACE_DESCRIPTORS
                listed = self.descriptors.get(nsid, [])
                answer = pack_namespace_descriptors(listed) if isinstance(listed, list) else listed
        if isinstance(answer, Status):
            return answer
        assert capsule.data_in is not None
        capsule.data_in[:] = answer
        return None

    def _page(self, after: int) -> list[int] | Status:
        if self.pages is not None:
            return self.pages.pop(0)
        return [nsid for nsid in sorted(self.namespaces) if nsid > after][:1024]

    async def scan(self, nsids: set[int] | None = None) -> Scan:
        async with self._queue() as queue:
            return await scan(queue, IdentifyController(nn=self.nn), self.version, nsids)

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[HostQueue]:
        pair = FakeQueuePair(32)
        queue = HostQueue(pair, qid=0, entries=32)

        async def answer() -> None:
            while True:
                await pair.transmitted()
                # The newest first: results must not depend on the order of answers.
                capsule = pair.sent[-1]
                pair.answer(capsule, self.reply(capsule))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            nursery.start_soon(answer)
            yield queue
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def failing() -> AsyncIterator[list[NvmfError]]:
    """Catches the error of a scan, out of whatever groups its tasks put it into."""
    caught: list[NvmfError] = []
    try:
        yield caught
    except* NvmfError as group:
        errors: list[BaseException] = list(group.exceptions)
        while errors:
            error = errors.pop()
            if isinstance(error, BaseExceptionGroup):
                errors += error.exceptions
            elif isinstance(error, NvmfError):
                caught.append(error)
    assert caught, "the scan went through"


async def test_found_and_refused_are_in_the_order_of_nsids():
    target = Target(
        {
            1: data(),
            3: data(dps=1),
            7: data(nsze=5, nmic=1, nsattr=1, noiob=8, anagrpid=2),
            9: data(lbaf=formats(LbaFormat(8, 9))),
        },
        {7: [(DescriptorType.UUID, UUID), (DescriptorType.CSI, b"\0")]},
    )
    result = await target.scan()
    assert [each.nsid for each in result.found] == [1, 7]
    assert result.found[1] == NamespaceDescription(
        nsid=7,
        lba_bytes=512,
        size_lbas=5,
        uuid=UUID,
        shared=True,
        write_protected=True,
        noiob_lbas=8,
        anagrpid=2,
    )
    assert [each.nsid for each in result.refused] == [3, 9]


async def test_a_namespace_that_went_away_in_between_is_in_neither():
    target = Target({1: data(), 2: data(), 3: data(), 4: data()})
    target.namespaces[2] = IdentifyNamespace()
    target.namespaces[3] = s.INVALID_NAMESPACE.with_dnr()
    target.descriptors[4] = s.INVALID_NAMESPACE.with_dnr()
    result = await target.scan()
    assert [each.nsid for each in result.found] == [1]
    assert result.refused == ()


async def test_no_namespace_at_all():
    assert await Target().scan() == Scan((), ())


@pytest.mark.parametrize("count", [1023, 1024, 1025, 2048])
async def test_pages_of_the_active_list_are_read_to_the_end(count):
    target = Target({2 * nsid: data() for nsid in range(1, count + 1)}, version=V12)
    result = await target.scan()
    assert len(result.found) == count
    pages = [nsid for cns, nsid in target.asked if cns == Cns.ACTIVE_NAMESPACES]
    assert pages == [0, 2048, 4096][: count // 1024 + 1]


@pytest.mark.parametrize(
    "pages",
    [
        [[3, 2]],
        [[1, 1]],
        [list(range(1, 1025)), [1024]],
        # The same page for ever.
        [list(range(1, 1025))] * 3,
        [[1, 11]],
    ],
)
async def test_a_list_that_does_not_ascend_within_nn_is_the_controllers_fault(pages):
    async with failing() as errors:
        await Target(pages=pages, nn=10 if pages == [[1, 11]] else 0).scan()
    assert isinstance(errors[0], RemoteProtocolError)


async def test_nn_itself_is_a_namespace():
    target = Target({10: data()}, nn=10)
    assert [each.nsid for each in (await target.scan()).found] == [10]


async def test_a_list_without_end_is_not_believed():
    pages: list[list[int] | Status] = [
        list(range(1 + 1024 * page, 1025 + 1024 * page)) for page in range(100)
    ]
    async with failing() as errors:
        await Target(pages=pages).scan()
    assert "16384" in str(errors[0])
    assert len(pages) > 80


async def test_only_the_nsids_that_were_asked_for():
    target = Target({1: data(), 2: data(), 3: data(dps=1)})
    result = await target.scan({2, 3, 77})
    assert [each.nsid for each in result.found] == [2]
    assert [each.nsid for each in result.refused] == [3]
    assert {nsid for _, nsid in target.asked} == {2, 3, 77}
    assert Cns.ACTIVE_NAMESPACES not in {cns for cns, _ in target.asked}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dps": 1}, "end-to-end protection"),
        ({"dps": 3}, "end-to-end protection"),
        ({"lbaf": formats(LbaFormat(8, 12))}, "8 bytes of metadata"),
        ({"lbaf": formats(LbaFormat(0, 8))}, "2^8 bytes"),
        ({"lbaf": formats(LbaFormat(0, 0))}, "2^0 bytes"),
        ({"lbaf": formats(LbaFormat(0, 17))}, "2^17 bytes"),
        ({"lbaf": formats(LbaFormat(0, 255))}, "2^255 bytes"),
        ({"flbas": 1}, "LBA format 1 is not among its 1"),
        ({"nsze": 1 << 54}, "beyond 2^63"),
        ({"nsze": (1 << 64) - 1}, "beyond 2^63"),
    ],
)
async def test_formats_that_are_not_served_are_refused_with_a_reason(fields, said):
    result = await Target({5: data(**fields)}).scan()
    assert result.found == ()
    assert result.refused[0].nsid == 5
    assert said in result.refused[0].reason


@pytest.mark.parametrize(
    ("fields", "lba_bytes"),
    [
        ({"lbaf": formats(LbaFormat(0, 12))}, 4096),
        ({"lbaf": formats(LbaFormat(0, 16))}, 65536),
        ({"lbaf": formats(LbaFormat(8, 9), LbaFormat(0, 12)), "nlbaf": 1, "flbas": 1}, 4096),
        # Above 16 formats, FLBAS 6:5 count as well.
        (
            {
                "lbaf": formats(*[LbaFormat(8, 9)] * 17, LbaFormat(0, 12)),
                "nlbaf": 17,
                "flbas": 0x21,
            },
            4096,
        ),
        # DPS bit 3 alone says where protection information would be.
        ({"dps": 8}, 512),
        ({"nsze": (1 << 54) - 1}, 512),
    ],
)
async def test_the_format_in_use_counts(fields, lba_bytes):
    result = await Target({5: data(**fields)}).scan()
    assert result.refused == ()
    assert result.found[0].lba_bytes == lba_bytes


@pytest.mark.parametrize(
    ("version", "listed", "fields", "expected"),
    [
        (V14, [(3, UUID), (2, NGUID), (1, EUI64)], {}, (UUID, NGUID, EUI64)),
        (V14, [], {"nguid": NGUID, "eui64": EUI64}, (None, NGUID, EUI64)),
        (V14, [(3, bytes(16))], {"nguid": bytes(16)}, (None, None, None)),
        # Before 1.3 there is no list, and asking for it is an error.
        (V12, s.INVALID_FIELD, {"eui64": EUI64}, (None, None, EUI64)),
        # A controller that does without.
        (V14, s.INVALID_FIELD.with_dnr(), {"nguid": NGUID}, (None, NGUID, None)),
        (V14, s.INVALID_OPCODE, {}, (None, None, None)),
    ],
)
async def test_identifiers_come_from_the_list_and_from_identify(version, listed, fields, expected):
    target = Target({1: data(**fields)}, {1: listed}, version=version)
    (found,) = (await target.scan()).found
    assert (found.uuid, found.nguid, found.eui64) == expected
    assert ((Cns.NAMESPACE_DESCRIPTORS, 1) in target.asked) == (version is V14)


async def test_another_command_set_is_refused():
    target = Target({1: data()}, {1: [(DescriptorType.CSI, b"\2")]})
    assert "CSI 0x02" in (await target.scan()).refused[0].reason


async def test_a_namespace_whose_identifiers_could_not_be_read_is_not_taken_for_one_without():
    target = Target({1: data()}, {1: s.INTERNAL_ERROR})
    result = await target.scan()
    assert result.found == ()
    assert "identifiers cannot be read" in result.refused[0].reason


async def test_one_namespace_that_cannot_be_identified_does_not_take_the_others_along():
    target = Target({1: data(), 2: s.INTERNAL_ERROR, 3: data()})
    result = await target.scan()
    assert [each.nsid for each in result.found] == [1, 3]
    assert "Internal Error" in result.refused[0].reason


@pytest.mark.parametrize("bad", [b"\1\x09\0\0".ljust(4096, b"\0"), b"\3\x10".ljust(4096, b"\xff")])
async def test_a_malformed_list_is_the_controllers_fault(bad):
    if bad[0] == 3:
        # A UUID that is whole, then nonsense.
        bad = b"\3\x10\0\0" + UUID + b"\4\xff\0\0".ljust(4076, b"\0")
    async with failing() as errors:
        await Target({1: data(), 2: data()}, {1: bad}).scan()
    assert isinstance(errors[0], RemoteProtocolError)


async def test_an_error_of_the_list_is_the_scans():
    async with failing() as errors:
        await Target(pages=[s.INTERNAL_ERROR]).scan()
    assert isinstance(errors[0], CommandError)
