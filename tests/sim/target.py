"""The target of the simulation: our controller, which is killed and started, and its variants."""

import random
import uuid
from collections import Counter

import attrs
import trio

from nvmf_controller import ControllerConfig, Namespace, NvmSubsystem
from nvmf_controller.association import Association
from nvmf_controller.server import Server, ServerConfig
from nvmf_transport.address import Address
from nvmf_transport.identify import IdentifyController, IdentifyNamespace
from nvmf_transport.interfaces import Listener
from nvmf_transport.nvme import Cns

from .history import History
from .network import SimNetwork
from .plan import GROWTH_LBAS, SMALL_LBAS, Plan
from .store import Medium, Pace, SimStore

ADDRESS = Address("sim", 4420)
SUBNQN = "nqn.2014-08.org.nvmexpress:uuid:6f0dd9b3-0c8e-4c5a-8f6c-3a0000000001"
#: How long a target keeps I/O off namespaces that it changed while a host is connected.
_SETTLING_S = 0.05
_IMPOSTOR = 0x40000000
#: Without KATO, time says nothing of a controller; this is how long one takes here.
_WITHOUT_KATO_S = 2.0


class SimNamespace(Namespace):
    """With a boundary that I/O may not cross."""

    noiob_lbas: int = 0

    def identify(self) -> bytes:
        """Identify Namespace, CNS 00h."""
        fields = IdentifyNamespace.unpack(super().identify())
        return attrs.evolve(fields, noiob=self.noiob_lbas).pack()


class SimSubsystem(NvmSubsystem):
    """Where `sloppy`, a host is let in while commands of its lost association still run.

    The specification allows that, and targets do it: fencing them is the host's business.
    """

    sloppy = False
    swapped = False
    cross_reset = False
    tbkas = True
    cqt_ms = 0

    async def wait_for_lost(self, hostid: bytes) -> bool:
        """Waits for nothing where sloppy."""
        if self.sloppy:
            await trio.lowlevel.checkpoint()
            return True
        return await super().wait_for_lost(hostid)

    def identify(self, association: Association, cns: int, nsid: int) -> bytes:
        """No more time to quiesce than told: what has begun lands while a fence stands.

        Without Cross-Controller Reset hosts have to fence by themselves.
        """
        data = super().identify(association, cns, nsid)
        if cns != Cns.CONTROLLER:
            return data
        fields = attrs.evolve(IdentifyController.unpack(data), cqt=self.cqt_ms)
        if not self.tbkas:
            fields = attrs.evolve(fields, ctratt=fields.ctratt & ~IdentifyController.CTRATT_TBKAS)
        if not self.cross_reset:
            fields = attrs.evolve(fields, ciu=0, cirn=0)
        return fields.pack()


class Target:
    """A target that is killed and started again; what its media hold stays."""

    def __init__(
        self,
        plan: Plan,
        network: SimNetwork,
        nursery: trio.Nursery,
        history: History,
        counts: "Counter[str]",
    ) -> None:
        cqt_s = plan.cqt_ms / 1000
        kato_s = plan.kato_s or _WITHOUT_KATO_S
        self.pace = Pace(
            random.Random(plan.schedule + 1),
            plan.slow,
            (3.0 if plan.tbkas else 2.0) * kato_s + cqt_s,
            kato_s + cqt_s,
            cqt_s,
        )
        self.media = [
            Medium(number, shape.lba_bytes * shape.size_lbas, shape.lba_bytes, shape.volatile)
            for number, shape in enumerate(plan.shapes, 1)
        ]
        self.subsystem: SimSubsystem | None = None
        self._plan = plan
        self._network = network
        self._nursery = nursery
        self._history = history
        self._counts = counts
        self._stores: list[SimStore] = []
        self._process: trio.CancelScope | None = None
        self._small = False

    @property
    def up(self) -> bool:
        """True while a process runs."""
        return self.subsystem is not None

    @property
    def is_swapped(self) -> bool:
        """True while the process has the first two namespaces under each other's NSIDs."""
        return self.subsystem is not None and self.subsystem.swapped

    def start(self, listener: Listener, *, impostor: bool = False, remapped: bool = False) -> None:
        """Starts a process: the true one, one with a foreign namespace 1, or with NSIDs changed."""
        plan = self._plan
        subsystem = SimSubsystem(
            SUBNQN,
            config=ControllerConfig(
                max_queue_entries=plan.queue_entries,
                in_capsule_bytes=plan.in_capsule_bytes,
                max_transfer_bytes=plan.max_transfer_bytes,
            ),
        )
        subsystem.sloppy = plan.sloppy
        subsystem.cross_reset = plan.cross_reset
        subsystem.tbkas = plan.tbkas
        subsystem.cqt_ms = plan.cqt_ms
        order = list(range(len(self.media)))
        if remapped and len(order) > 1:
            order[0], order[1] = order[1], order[0]
        for nsid, index in enumerate(order, 1):
            subsystem.add_namespace(self._namespace(nsid, index, foreign=impostor and index == 0))
        server = Server(self._network, subsystem, ServerConfig())
        self.subsystem = subsystem
        self._process = trio.CancelScope()
        self._nursery.start_soon(self._run, server, listener, self._process)

    def kill(self) -> None:
        """kill -9: connections are reset, nothing is flushed, nothing lands any more."""
        for connection in self._network.connections:
            connection.cut()
        for store in self._stores:
            store.kill()
        self._stores.clear()
        if self._process is not None:
            self._process.cancel()
        self._process = self.subsystem = None
        lost = sum(medium.lose_cache(self.pace.chance) for medium in self.media)
        if any(medium.volatile for medium in self.media):
            self._history.losses.append(self._history.tick())
        if lost:
            self._counts["cache losses"] += 1

    def swap(self) -> bool:
        """The first two namespaces change their NSIDs; hosts that want to know are told.

        Until a host had the time to learn of it, I/O to these NSIDs is not ready.
        """
        subsystem = self.subsystem
        if subsystem is None or len(self.media) < 2:
            return False
        # Another LBA size would meet what is on its way before it could be told to wait.
        if self.media[0].lba_bytes != self.media[1].lba_bytes:
            return False
        # What is held on its way would come to the other namespace long after everybody knew.
        for connection in self._network.connections:
            if connection.to_controller.frozen:
                connection.cut()
        one, other = subsystem.namespaces[1], subsystem.namespaces[2]
        for nsid, old in ((1, other), (2, one)):
            subsystem.namespaces[nsid] = self._like(old, nsid)
            subsystem._changed(nsid)
        subsystem.swapped = not subsystem.swapped
        return True

    def grow(self) -> None:
        """All namespaces have more LBAs, and hosts are told."""
        for medium in self.media:
            medium.grow(GROWTH_LBAS * medium.lba_bytes)
        self._resize()

    def shrink(self, *, small: bool) -> None:
        """Namespaces have few LBAs, or all again, and hosts are told."""
        self._small = small
        self._resize()

    def _resize(self) -> None:
        """What the media hold stays."""
        if self.subsystem is not None:
            for nsid, namespace in self.subsystem.namespaces.items():
                self.subsystem.resize_namespace(nsid, self._size_lbas(namespace))

    def _size_lbas(self, namespace: Namespace) -> int:
        if self._small:
            return SMALL_LBAS
        return namespace.store.size_bytes // namespace.lba_bytes

    def linger(self, percent: int) -> None:
        """Puts off what the media are at."""
        for store in self._stores:
            store.linger(percent)

    async def _run(self, server: Server, listener: Listener, process: trio.CancelScope) -> None:
        with process:
            async with trio.open_nursery() as nursery:
                await server.accept_from(listener, nursery)

    def _namespace(self, nsid: int, index: int, *, foreign: bool) -> SimNamespace:
        shape = self._plan.shapes[index]
        medium = self.media[index]
        if foreign:
            medium = Medium(
                medium.number + _IMPOSTOR, medium.size_bytes, medium.lba_bytes, medium.volatile
            )
        store = SimStore(medium, self.pace, self._history, self._counts, foreign=foreign)
        self._stores.append(store)
        namespace = SimNamespace(
            nsid, store, shape.lba_bytes, uuid=uuid.UUID(int=medium.number << 64 | 0xD15C)
        )
        namespace.noiob_lbas = shape.noiob_lbas
        namespace.size_lbas = self._size_lbas(namespace)
        return namespace

    def _like(self, old: Namespace, nsid: int) -> SimNamespace:
        """The same namespace at another NSID, its I/O not ready for a while."""
        assert isinstance(old, SimNamespace)
        assert isinstance(old.store, SimStore)
        old.store.ready_at = trio.current_time() + _SETTLING_S
        new = SimNamespace(nsid, old.store, old.lba_bytes, uuid=old.uuid)
        new.noiob_lbas = old.noiob_lbas
        new.size_lbas = old.size_lbas
        return new
