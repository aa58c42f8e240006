"""Limits of one association: how requests are cut, and the bytes of the commands."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from nvmf_host.fencing import Fence
from nvmf_host.io_path import (
    MAX_NLB,
    IoPath,
    dsm_sqe,
    io_sqe,
    max_transfer_bytes,
    pack_dsm_ranges,
    rw_cdw12,
)
from nvmf_host.qpair import Command, HostQueue
from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import DsmRange, NvmOpcode, SubmissionEntry

from .medium import FakeQueuePair, controller_data, open_link

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@given(st.sampled_from([NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.FLUSH]), U32, U64, U32)
def test_io_commands_are_packed_as_the_submission_entry_declares(opcode, nsid, slba, cdw12):
    expected = SubmissionEntry(
        opc=opcode, nsid=nsid, cdw10=slba & 0xFFFFFFFF, cdw11=slba >> 32, cdw12=cdw12
    )
    assert bytes(io_sqe(opcode, nsid, slba, cdw12)) == expected.pack()


@given(U32, st.integers(1, 256))
def test_dataset_management_says_deallocate(nsid, count):
    expected = SubmissionEntry(
        opc=NvmOpcode.DATASET_MANAGEMENT, nsid=nsid, cdw10=count - 1, cdw11=1 << 2
    )
    assert bytes(dsm_sqe(nsid, count)) == expected.pack()


def test_dsm_ranges_are_sixteen_bytes_each():
    packed = pack_dsm_ranges([(1 << 40, 7), (0, 0xFFFFFFFF)])
    found = [DsmRange.unpack(packed[at : at + 16]) for at in (0, 16)]
    assert found == [
        DsmRange(slba=1 << 40, length_lbas=7),
        DsmRange(slba=0, length_lbas=0xFFFFFFFF),
    ]


@pytest.mark.parametrize(
    ("cdw12", "expected"),
    [
        (rw_cdw12(1), 0),
        (rw_cdw12(MAX_NLB), 0xFFFF),
        (rw_cdw12(1, fua=True), 1 << 30),
        (rw_cdw12(2, deallocate=True), 1 | 1 << 25),
    ],
)
def test_the_number_of_lbas_is_0s_based(cdw12, expected):
    assert cdw12 == expected


def make(max_lbas: int, boundary_lbas: int, queues: tuple[HostQueue, ...] = ()) -> IoPath:
    return IoPath(
        queues=queues,
        nsid=1,
        fence=Fence(1),
        max_lbas=max_lbas,
        boundary_lbas=boundary_lbas,
        can_flush=True,
        can_deallocate=True,
        can_write_zeroes=True,
        crdt_s=(0, 0, 0),
    )


def plainly_split(slba: int, nlb: int, max_lbas: int, boundary: int) -> list[tuple[int, int]]:
    """A part ends where it is as long as allowed, or at a boundary."""
    parts: list[tuple[int, int]] = []
    for lba in range(slba, slba + nlb):
        if not parts or parts[-1][1] == max_lbas or (boundary and lba % boundary == 0):
            parts.append((lba, 0))
        parts[-1] = (parts[-1][0], parts[-1][1] + 1)
    return parts


@given(
    st.integers(0, 100) | st.integers((1 << 32) - 50, (1 << 32) + 50),
    st.integers(0, 100),
    st.integers(1, 40),
    st.integers(0, 40),
)
def test_requests_are_cut_as_plainly_defined(slba, nlb, max_lbas, boundary):
    path = make(max_lbas, boundary)
    parts = path.split(slba, nlb)
    assert parts == plainly_split(slba, nlb, max_lbas, boundary)
    assert path.fits(slba, nlb) == (len(parts) == 1)


@pytest.mark.parametrize(
    ("mdts", "mpsmin", "transport", "expected"),
    [
        (0, 0, None, 4 << 20),
        (1, 0, None, 8192),
        (5, 0, None, 131072),
        (1, 2, None, 32768),
        (1, 0, 4096, 4096),
        (1, 0, 1 << 20, 8192),
        (12, 4, None, 4 << 20),
        # A byte of the controller's choice must not become a number of 2^255.
        (255, 15, None, 4 << 20),
    ],
)
async def test_mdts_counts_in_the_smallest_page_of_the_controller(
    mdts, mpsmin, transport, expected
):
    queue = HostQueue(FakeQueuePair(2, transport), qid=1, entries=2)
    assert max_transfer_bytes(controller_data(mdts=mdts), mpsmin, (queue,)) == expected


@pytest.mark.parametrize(
    ("lba_bytes", "mdts", "expected"),
    [(512, 1, 16), (4096, 1, 2), (512, 0, 8192), (65536, 1, 1), (512, 20, 8192)],
)
async def test_limits_are_in_lbas_and_never_less_than_one(lba_bytes, mdts, expected):
    queue = HostQueue(FakeQueuePair(2), qid=1, entries=2)
    path = IoPath.make(
        (queue,),
        7,
        fence=Fence(1),
        controller=controller_data(mdts=mdts, crdt1=3, crdt3=50),
        mpsmin=0,
        lba_bytes=lba_bytes,
        noiob_lbas=256,
    )
    assert (path.nsid, path.max_lbas, path.boundary_lbas) == (7, expected, 256)
    assert path.crdt_s == (0.3, 0.0, 5.0)


@pytest.mark.parametrize(
    ("fields", "flush", "deallocate", "zeroes"),
    [
        ({"vwc": 0, "oncs": 0}, False, False, False),
        ({"vwc": 7, "oncs": 0}, True, False, False),
        ({"vwc": 6, "oncs": IdentifyController.ONCS_DSM}, False, True, False),
        ({"vwc": 0, "oncs": IdentifyController.ONCS_WRITE_ZEROES}, False, False, True),
    ],
)
async def test_what_the_controller_offers(fields, flush, deallocate, zeroes):
    path = IoPath.make(
        (),
        1,
        fence=Fence(1),
        controller=controller_data(**fields),
        mpsmin=0,
        lba_bytes=512,
        noiob_lbas=0,
    )
    offered = (path.can_flush, path.can_deallocate, path.can_write_zeroes)
    assert offered == (flush, deallocate, zeroes)


def submit_read(path, nsid=1):
    path.queue().submit(Command(io_sqe(NvmOpcode.READ, nsid, 0), lambda _command: None))


async def test_commands_go_to_the_first_queue_until_it_is_busy():
    pairs = [FakeQueuePair(128) for _ in range(3)]
    queues = tuple(HostQueue(pair, qid=qid, entries=128) for qid, pair in enumerate(pairs))
    path = make(8, 0, queues)
    loads = []
    for count in (31, 1, 31, 1, 32, 3):
        for _ in range(count):
            submit_read(path)
        loads.append([queue.load for queue in queues])
    assert loads == [[31, 0, 0], [32, 0, 0], [32, 31, 0], [32, 32, 0], [32, 32, 32], [33, 33, 33]]


async def test_a_queue_is_busy_when_no_cid_is_free():
    pairs = [FakeQueuePair(4) for _ in range(3)]
    queues = tuple(HostQueue(pair, qid=qid, entries=4) for qid, pair in enumerate(pairs))
    path = make(8, 0, queues)
    for _ in range(7):
        submit_read(path)
    assert [len(pair.sent) for pair in pairs] == [3, 3, 1]
    # What waits for a CID counts as well.
    for _ in range(2 + 3 * 2):
        submit_read(path)
    assert [queue.waiting for queue in queues] == [2, 2, 2]
    assert [queue.load for queue in queues] == [5, 5, 5]


async def test_what_has_ended_is_no_load():
    async with open_link(queues=2, entries=4) as link:
        path = link.path()
        for nsid in (1, 1, 1, 2, 2, 2, 1, 2, 1, 2):
            submit_read(path, nsid)
        first, second = link.queues
        assert (first.load, second.load) == (5, 5)

        # One answer makes room for one of the two that wait; the other is not sent any more.
        link.pairs[0].answer()
        await wait_all_tasks_blocked()
        assert (first.load, second.load) == (4, 5)
        path.withdraw()
        assert (first.load, second.load) == (3, 5)

        while link.sent:
            link.answer()
            await wait_all_tasks_blocked()
        assert (first.load, second.load) == (0, 0)
        first.submit(Command(io_sqe(NvmOpcode.READ, 1, 0), lambda _command: None))
        first.kill()
        assert first.load == 0
    await trio.lowlevel.checkpoint()
