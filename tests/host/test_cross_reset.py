"""How a controller's fences are lifted: reset seen, Cross-Controller Reset, time, a hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from nvmf_host.controller import Controller
from nvmf_host.host import Host
from nvmf_host.messages import FailRequest, PausedRequest, ReconnectRequest
from nvmf_host.namespace import Namespace
from nvmf_host.service import Requests
from nvmf_host.state import ControllerState
from nvmf_transport import status as s
from nvmf_transport.errors import BusyError, NotConnectedError, NvmfError
from nvmf_transport.nvme import SubmissionEntry

from .hosting import hosting, in_state, params, until
from .scripted import Answer, Fate, Scripted, Seen, scripted

LIVE, LOST = ControllerState.LIVE, ControllerState.LOST
OLD, NEW = b"o" * 512, b"n" * 512
CCR = "Cross-Controller Reset"


@attrs.define(eq=False)
class Lost:
    """A controller that is back, and had a write lost with its first association."""

    host: Host
    controller: Controller
    target: Scripted
    tasks: trio.Nursery
    lost_at: float
    #: What the target saw of the first association.
    before: list[Seen]

    @property
    def namespace(self) -> Namespace:
        return self.controller.namespaces[1]

    async def newer(self) -> trio.Event:
        """A newer write of the same LBA; the event is set when it is done."""
        done = trio.Event()
        namespace = self.namespace

        async def write() -> None:
            try:
                await namespace.write(0, NEW)
            except NvmfError:
                return
            done.set()

        self.tasks.start_soon(write)
        await trio.sleep(0.01)
        return done


@asynccontextmanager
async def lost(announce, target: Scripted, *, qid: int = 0, **fields) -> AsyncIterator[Lost]:
    announce("association lost")
    # At the end of a test that lifts nothing.
    announce("may still land", optional=True)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(**fields))
        target.faults["WRITE"] = Fate.SILENT
        tasks.start_soon(controller.namespaces[1].write, 0, OLD)
        await until(lambda: "WRITE" in target.names())
        del target.faults["WRITE"]
        target.close_queue(qid)
        await in_state(controller, LOST)
        # As far as the host is concerned: the sockets are closed when it is lost.
        lost_at = controller.since
        before = list(target.seen)
        target.seen.clear()
        target.cntlid += 1
        await controller.reconnect(controller.params)
        await until(lambda: target.disks[1].data[:512] == OLD)
        yield Lost(host, controller, target, tasks, lost_at, before)
        tasks.cancel_scope.cancel()


async def test_a_reset_that_was_seen_leaves_nothing_in_quarantine(autojump_clock, announce):
    async with lost(announce, Scripted(reset_after_s=1.0, ciu=1, cirn=1), qid=1) as it:
        assert it.namespace.quarantine.ranges() == []
        assert (await it.newer()).is_set()


async def test_a_reset_of_a_controller_that_may_not_drain_lifts_nothing(autojump_clock, announce):
    async with lost(announce, Scripted(), qid=1) as it:
        assert "CC.EN=0" in [seen.what for seen in it.before]
        done = await it.newer()
        await trio.sleep_until(it.lost_at + 29.9)
        assert not done.is_set()
        await trio.sleep_until(it.lost_at + 30.1)
        assert done.is_set()


@pytest.mark.parametrize("how", ["not in time", "cut", "refused"])
async def test_a_reset_that_was_not_seen_lifts_nothing(how, autojump_clock, announce):
    target = Scripted(reset_after_s=None)
    if how == "cut":
        target.faults["CC.EN=0"] = Fate.CLOSE
    if how == "refused":
        target.faults["CC.EN=0"] = Answer(s.INTERNAL_ERROR)
    async with lost(announce, target, qid=1) as it:
        assert len(it.namespace.quarantine.ranges()) == 1
        done = await it.newer()
        await trio.sleep_until(it.lost_at + 29.9)
        assert not done.is_set()
        await trio.sleep_until(it.lost_at + 30.1)
        assert done.is_set()


@pytest.mark.parametrize(
    ("tbkas", "cqt_ms", "kato_ms", "wait_s"),
    [(False, 0, None, 30.0), (True, 0, None, 45.0), (False, 2500, 20000, 42.5)],
)
async def test_time_lifts_the_quarantine(tbkas, cqt_ms, kato_ms, wait_s, autojump_clock, announce):
    target = Scripted(tbkas=tbkas, cqt_ms=cqt_ms, kato_ms=kato_ms)
    async with lost(announce, target) as it:
        done = await it.newer()
        await trio.sleep_until(it.lost_at + wait_s - 0.1)
        assert not done.is_set()
        (held,) = it.namespace.quarantine.ranges()
        assert held.fences[0].lifts_at == pytest.approx(it.lost_at + wait_s, abs=1e-6)
        await trio.sleep_until(it.lost_at + wait_s + 0.1)
        assert done.is_set()
        assert target.disks[1].data[:512] == NEW


async def test_time_passes_without_a_connection_too(autojump_clock, announce):
    async with lost(announce, Scripted()) as it:
        it.target.close_queue(0)
        await in_state(it.controller, LOST)
        await trio.sleep(100)
        await it.controller.reconnect(it.controller.params)
        await trio.sleep(0.1)
        assert (await it.newer()).is_set()


async def test_without_keep_alive_only_the_operator_vouches(autojump_clock, announce):
    async with lost(announce, Scripted(), kato_s=0) as it:
        done = await it.newer()
        await trio.sleep(5_000)
        requests = Requests(it.host)
        found = await requests.handle(PausedRequest())
        assert [(held.slba, held.length_lbas, held.lifts_in_s) for held in found.quarantine] == [
            (0, 1, None)
        ]
        assert [(each.operation, each.quarantined) for each in found.requests] == [("write", True)]
        assert not done.is_set()
        answer = await requests.handle(ReconnectRequest(device="nvme0", fenced=True))
        assert answer.device == "nvme0"
        await trio.sleep(0.1)
        assert done.is_set()
        with pytest.raises(BusyError, match="is connected"):
            await requests.handle(ReconnectRequest(device="nvme0"))


async def test_the_operator_vouches_while_it_is_lost(autojump_clock, announce):
    async with lost(announce, Scripted(), kato_s=0) as it:
        it.target.close_queue(0)
        await in_state(it.controller, LOST)
        await Requests(it.host).handle(ReconnectRequest(device="nvme0", fenced=True))
        assert it.namespace.quarantine.ranges() == []
        assert (await it.newer()).is_set()


async def test_what_waits_in_quarantine_is_failed_by_hand_while_all_is_live(
    autojump_clock, announce
):
    async with lost(announce, Scripted(), kato_s=0) as it:
        requests = Requests(it.host)
        with pytest.raises(BusyError, match="nothing waits"):
            await requests.handle(FailRequest(device="nvme0ns1"))
        done = await it.newer()
        await requests.handle(FailRequest(device="nvme0ns1"))
        await trio.sleep(0.1)
        assert it.namespace.waits() == []
        assert not done.is_set()
        assert len(it.namespace.quarantine.ranges()) == 1


# Cross-Controller Reset.


async def test_it_names_the_old_controller_and_lifts_the_fence(autojump_clock, announce):
    target = Scripted(cntlid=0x1234, ciu=0x56, cirn=0x89ABCDEF01234567)
    target.faults[CCR] = Answer(result=1)
    async with lost(announce, target) as it:
        await until(lambda: not it.namespace.quarantine.ranges(), limit_s=1)
        (seen,) = [seen for seen in target.seen if seen.what == CCR]
        entry = SubmissionEntry.unpack(seen.sqe)
        assert entry.cdw10 == 0x0056_1234
        assert (entry.cdw12, entry.cdw13) == (0x01234567, 0x89ABCDEF)
        assert (await it.newer()).is_set()


@pytest.mark.parametrize(
    "answer", [Answer(result=0), Answer(s.INVALID_FIELD.with_dnr()), Fate.SILENT]
)
async def test_what_is_not_reset_at_once_is_left_to_time(answer, autojump_clock, announce):
    target = Scripted(ciu=1, cirn=2)
    target.faults[CCR] = answer
    async with lost(announce, target) as it:
        done = await it.newer()
        await trio.sleep_until(it.lost_at + 29.9)
        assert target.names().count(CCR) == 1
        assert not done.is_set()
        await trio.sleep_until(it.lost_at + 30.1)
        assert done.is_set()


@pytest.mark.parametrize(("ciu", "cirn"), [(0, 0), (1, 0), (0, 1)])
async def test_a_controller_without_an_instance_is_not_asked(ciu, cirn, autojump_clock, announce):
    async with lost(announce, Scripted(ciu=ciu, cirn=cirn)) as it:
        await trio.sleep(1)
        assert CCR not in it.target.names()


async def test_a_controller_is_not_told_to_stop_itself(autojump_clock, announce):
    """One that comes back under the same name, ID and instance."""
    target = Scripted(ciu=1, cirn=2)
    target.faults[CCR] = Answer(result=1)
    announce("association lost")
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.close_queue(0)
        await in_state(controller, LOST)
        await controller.reconnect(controller.params)
        await trio.sleep(1)
        assert CCR not in target.names()
        target.cirn = 3
        target.close_queue(0)
        await in_state(controller, LOST)
        await controller.reconnect(controller.params)
        await trio.sleep(1)
        assert target.names().count(CCR) == 2


# Ends.


async def test_an_end_with_old_copies_that_may_land_is_reported(autojump_clock, announce):
    async with lost(announce, Scripted()) as it:
        problems = await it.host.disconnect(it.controller)
        assert any("may still land" in problem and "(0, 1)" in problem for problem in problems)


async def test_an_end_after_that_time_is_fine(autojump_clock, announce):
    async with lost(announce, Scripted()) as it:
        it.target.close_queue(0)
        await in_state(it.controller, LOST)
        await trio.sleep(100)
        assert await it.host.disconnect(it.controller) == []


async def test_a_waiter_in_quarantine_fails_with_fast_io_fail(autojump_clock, announce):
    announce("waiting I/O fails")
    async with lost(announce, Scripted(), fast_io_fail_s=5.0) as it:
        await it.newer()
        it.target.close_queue(0)
        await until(lambda: it.controller.state is LOST)
        await trio.sleep(4.9)
        assert len(it.namespace.waits()) == 1
        await trio.sleep(0.2)
        assert it.namespace.waits() == []
        with pytest.raises(NotConnectedError, match="fast I/O fail"):
            await it.namespace.write(0, NEW)
        assert len(it.namespace.quarantine.ranges()) == 1
