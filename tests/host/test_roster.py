"""What a scan finds is matched with what was there: only the same namespace resumes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.association import Association
from nvmf_host.namespace import Namespace
from nvmf_host.roster import Roster
from nvmf_host.scan import NamespaceDescription, Refused, Scan
from nvmf_host.state import NamespaceState
from nvmf_host.verdict import SubsystemIdentity
from nvmf_transport.errors import NamespaceGoneError
from nvmf_transport.nvme import Cap, SubmissionEntry

from .medium import LBA_BYTES, Link, begin, controller_data, describe, open_link, pattern

L = LBA_BYTES
S = NamespaceState
HERE = SubsystemIdentity("nqn.2020-01.com.example:a", "SER1", "Model")
FIRST, SECOND = describe(1), describe(2)


@attrs.define(eq=False)
class Controller:
    """Has a roster and one association after the other, and notes what it is told."""

    roster: Roster = attrs.field(init=False)
    links: list[Link] = attrs.field(factory=list)
    told: list[tuple[str, str]] = attrs.field(factory=list)
    nursery: trio.Nursery = attrs.field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        def tell(what: str) -> Any:
            return lambda namespace: self.told.append((what, namespace.name))

        self.roster = Roster(
            lambda description: Namespace(
                f"nvme0ns{description.nsid}",
                description,
                read_only=False,
                on_recheck=lambda _namespace, _reason: None,
            ),
            tell("added"),
            tell("changed"),
            tell("removed"),
        )

    @property
    def link(self) -> Link:
        return self.links[-1]

    def namespace(self, nsid: int = 1) -> Namespace:
        return self.roster.namespaces[nsid]

    def state(self, nsid: int = 1) -> NamespaceState:
        return self.namespace(nsid).state

    def sent(self) -> list[tuple[int, int]]:
        """(NSID, SLBA) of the commands without an answer."""
        entries = [SubmissionEntry.unpack(capsule.sqe) for capsule in self.link.sent]
        return [(entry.nsid, entry.slba) for entry in entries]

    def event(self, *found: NamespaceDescription | Refused, nsids: set[int] | None = None) -> None:
        """A namespace event while connected: held, identified, taken."""
        self.roster.hold("the controller reports a change; being identified", nsids)
        self.take(*found, nsids=nsids, reconnected=False)

    def take(
        self,
        *found: NamespaceDescription | Refused,
        nsids: set[int] | None = None,
        reconnected: bool,
        subsystem: SubsystemIdentity = HERE,
    ) -> None:
        association = SimpleNamespace(
            io=self.link.queues,
            fence=self.link.fence,
            controller=controller_data(),
            cap=Cap.of(),
            params=SimpleNamespace(replay_limit_s=600.0),
            subsystem=subsystem,
        )
        scan = Scan(
            tuple(each for each in found if isinstance(each, NamespaceDescription)),
            tuple(each for each in found if isinstance(each, Refused)),
        )
        self.roster.take(scan, cast(Association, association), nsids, reconnected=reconnected)

    def lose(self) -> None:
        self.roster.hold("connection lost")
        self.link.receiving.cancel()
        for queue in self.link.queues:
            queue.kill()
        self.roster.lose_paths()


@asynccontextmanager
async def connected(*found: NamespaceDescription | Refused) -> AsyncIterator[Controller]:
    """A controller on its first association, with two more links to come."""
    async with (
        open_link() as first,
        open_link() as second,
        open_link() as third,
        trio.open_nursery() as nursery,
    ):
        controller = Controller(nursery=nursery, links=[first])
        controller.take(*found, reconnected=False)
        controller.links = [third, second, first]
        yield controller
        nursery.cancel_scope.cancel()


async def again(controller: Controller) -> None:
    """The association is lost and another one made; nothing is identified yet."""
    controller.lose()
    await wait_all_tasks_blocked()
    controller.links.pop()


async def test_what_is_found_first_gets_a_node_and_is_live(announce):
    announce("NSID 3 is refused: metadata")
    async with connected(SECOND, FIRST, Refused(3, "metadata")) as controller:
        added = [name for what, name in controller.told if what == "added"]
        assert added == ["nvme0ns2", "nvme0ns1"]
        assert controller.state(1) is controller.state(2) is S.LIVE
        assert controller.roster.refused == {3: Refused(3, "metadata")}


async def test_the_same_one_resumes_once_and_only_when_it_was_identified():
    async with connected(FIRST) as controller:
        namespace = controller.namespace()
        write = begin(controller.nursery, namespace.write, 5 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        await again(controller)
        reading = begin(controller.nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert controller.state() is S.HELD
        assert controller.sent() == []
        controller.take(FIRST, reconnected=True)
        assert controller.sent() == [(1, 5)]
        controller.link.answer()
        await wait_all_tasks_blocked()
        assert controller.sent() == [(1, 0)]
        controller.link.answer()
        await wait_all_tasks_blocked()
        assert write.value == L
        assert reading.done
        assert len(controller.link.pairs[0].log) == 2
        assert controller.told[-1] == ("changed", "nvme0ns1")


async def test_one_that_grew_goes_on_with_its_new_size():
    async with connected(FIRST) as controller:
        assert controller.namespace().size_bytes == 64 * L
        controller.event(attrs.evolve(FIRST, size_lbas=100), nsids={1})
        assert controller.namespace().size_bytes == 100 * L
        assert controller.state() is S.LIVE
        assert controller.told[-1] == ("changed", "nvme0ns1")


@pytest.mark.parametrize("reconnected", [False, True])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size_lbas": 63}, "size was 64 LBAs, is 63"),
        ({"uuid": b"x" * 16}, "UUID was"),
        ({"uuid": None}, "UUID was"),
        ({"eui64": b"x" * 8}, "EUI64 was absent"),
        ({"lba_bytes": 4096}, "LBA size"),
    ],
)
async def test_another_one_is_paused_and_gets_nothing(announce, reconnected, changes, said):
    announce("nvme0ns1: paused: not the same namespace: ")
    async with connected(FIRST) as controller:
        namespace = controller.namespace()
        if reconnected:
            await again(controller)
        else:
            controller.roster.hold("being identified")
        write = begin(controller.nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        controller.take(attrs.evolve(FIRST, **changes), reconnected=reconnected)
        await wait_all_tasks_blocked()
        assert controller.state() is S.PAUSED
        assert said in namespace.last_error
        assert controller.sent() == []
        assert not write.done
        assert namespace.description == FIRST, "what it was is what it is compared with"
        # The right one comes back: the write goes, once.
        controller.event(FIRST)
        await wait_all_tasks_blocked()
        assert controller.state() is S.LIVE
        assert controller.sent() == [(1, 0)]
        controller.link.answer()
        await wait_all_tasks_blocked()
        assert write.value == L
        assert len(controller.link.pairs[0].log) == 1


async def test_another_subsystem_at_the_same_address_is_not_the_same(announce):
    announce("paused: not the same namespace: serial number was 'SER1', is 'SER2'")
    async with connected(FIRST) as controller:
        await again(controller)
        other = attrs.evolve(HERE, serial="SER2")
        controller.take(FIRST, reconnected=True, subsystem=other)
        assert controller.state() is S.PAUSED
        # It is held against the first subsystem for ever, not against the last one seen.
        await again(controller)
        controller.take(FIRST, reconnected=True)
        assert controller.state() is S.LIVE


async def test_one_missing_after_a_reconnection_waits_to_come_back(announce):
    announce("nvme0ns1: paused: NSID 1 is not active there")
    async with connected(FIRST, SECOND) as controller:
        namespace = controller.namespace()
        write = begin(controller.nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        await again(controller)
        controller.take(SECOND, reconnected=True)
        assert controller.state(1) is S.PAUSED
        assert controller.state(2) is S.LIVE
        # Others come and go meanwhile, each with an event that may be about any of them.
        for found in ((SECOND, describe(3)), (SECOND,), ()):
            controller.event(*found)
            await wait_all_tasks_blocked()
            assert controller.state(1) is S.PAUSED
            assert not write.done
        assert controller.told.count(("removed", "nvme0ns1")) == 0
        controller.event(FIRST, nsids={1})
        await wait_all_tasks_blocked()
        assert controller.sent() == [(1, 0)]
        controller.link.answer()
        await wait_all_tasks_blocked()
        assert write.value == L


async def test_one_removed_while_connected_is_gone():
    async with connected(FIRST, SECOND) as controller:
        namespace = controller.namespace()
        controller.roster.hold("being identified", {1})
        reading = begin(controller.nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        controller.take(nsids={1}, reconnected=False)
        await wait_all_tasks_blocked()
        assert isinstance(reading.error, NamespaceGoneError)
        assert namespace.state is S.GONE
        assert list(controller.roster.namespaces) == [2]
        assert controller.told[-1] == ("removed", "nvme0ns1")
        assert controller.state(2) is S.LIVE
        # One that comes later under its number is a new one, whatever its identity.
        controller.event(attrs.evolve(FIRST, uuid=b"x" * 16), nsids={1})
        assert controller.told[-1] == ("added", "nvme0ns1")
        assert controller.namespace(1) is not namespace
        assert controller.state(1) is S.LIVE


async def test_one_refused_later_is_paused_until_it_is_fit_again(announce):
    announce("NSID 1 is refused: it has metadata")
    announce("nvme0ns1: paused: it has metadata")
    async with connected(FIRST) as controller:
        controller.event(Refused(1, "it has metadata"))
        assert controller.state() is S.PAUSED
        assert controller.namespace().last_error == "it has metadata"
        controller.event(FIRST)
        assert controller.state() is S.LIVE
        assert controller.roster.refused == {}


async def test_a_refused_one_that_becomes_fit_gets_a_node(announce):
    announce("NSID 1 is refused")
    async with connected(Refused(1, "metadata")) as controller:
        controller.event(FIRST, nsids={1})
        assert ("added", "nvme0ns1") in controller.told
        assert controller.roster.refused == {}


async def test_a_refused_one_that_goes_is_not_listed_any_more(announce):
    announce("NSID [12] is refused")
    async with connected(Refused(1, "metadata"), Refused(2, "metadata")) as controller:
        controller.event(nsids={1})
        assert list(controller.roster.refused) == [2]
        controller.event()
        assert controller.roster.refused == {}


async def test_a_remapped_nsid_is_not_a_resize(announce):
    announce(r"nvme0ns1: paused: .*identity of NSID 2")
    announce(r"nvme0ns2: paused: .*identity of NSID 1")
    async with connected(FIRST, SECOND) as controller:
        swapped = (attrs.evolve(SECOND, nsid=1, size_lbas=100), attrs.evolve(FIRST, nsid=2))
        controller.event(*swapped)
        assert controller.state(1) is controller.state(2) is S.PAUSED
        assert controller.namespace(1).size_bytes == 64 * L
        controller.event(FIRST, SECOND)
        assert controller.state(1) is controller.state(2) is S.LIVE


async def test_without_identifiers_it_resumes_with_a_warning(announce):
    announce("nvme0ns1: it has no identifier")
    anonymous = attrs.evolve(FIRST, uuid=None)
    async with connected(anonymous) as controller:
        await again(controller)
        controller.take(anonymous, reconnected=True)
        assert controller.state() is S.LIVE


async def test_a_scan_of_some_leaves_the_others_alone():
    async with connected(FIRST, SECOND) as controller:
        told = len(controller.told)
        controller.event(FIRST, nsids={1})
        assert {name for _, name in controller.told[told:]} == {"nvme0ns1"}
        assert controller.state(2) is S.LIVE


async def test_a_paused_one_stays_so_when_the_connection_is_lost(announce):
    announce("nvme0ns1: paused: not the same namespace")
    async with connected(FIRST) as controller:
        controller.event(attrs.evolve(FIRST, uuid=b"x" * 16))
        await again(controller)
        assert controller.state() is S.PAUSED
        assert "not the same namespace" in controller.namespace().last_error
        controller.take(FIRST, reconnected=True)
        assert controller.state() is S.LIVE


async def test_the_end_fails_all_and_takes_the_nodes_away():
    async with connected(FIRST, SECOND) as controller:
        controller.roster.hold("connection lost")
        waiting = begin(controller.nursery, controller.namespace(2).read, 0, L)
        await wait_all_tasks_blocked()
        controller.roster.end("the controller was disconnected")
        await wait_all_tasks_blocked()
        assert isinstance(waiting.error, NamespaceGoneError)
        assert "disconnected" in str(waiting.error)
        controller.roster.clear()
        assert controller.roster.namespaces == {}
        assert controller.told[-2:] == [("removed", "nvme0ns1"), ("removed", "nvme0ns2")]
