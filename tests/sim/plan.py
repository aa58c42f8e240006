"""What a scenario consists of: everything that is not decided by the code under test.

Plain values, so that a plan that fails can be printed, shrunk, and run again.
"""

import enum
from typing import Final

import attrs

#: The registers of the oracle: an LBA of 512 bytes has four of them.
CELL_BYTES: Final = 128


class OpKind(enum.Enum):
    """What a worker asks of a namespace."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    WRITE_ZEROES = "write-zeroes"
    DEALLOCATE = "deallocate"

    def __repr__(self) -> str:
        return str(self)


class MessageKind(enum.Enum):
    """The PDU types of NVMe/TCP, as the loop has them."""

    COMMAND = "command"
    COMMAND_DATA = "command with data"
    R2T = "R2T"
    H2C_DATA = "H2CData"
    C2H_DATA = "C2HData"
    RESPONSE = "response"

    def __repr__(self) -> str:
        return str(self)


class FaultKind(enum.Enum):
    """What goes wrong."""

    #: A reset: both ends know, what was on its way is lost.
    CUT = "cut"
    #: The host's end dies; the controller learns nothing, and gets late what was on its way.
    DEAF = "deaf"
    #: Nothing moves for a while; nobody is told.
    FREEZE = "freeze"
    #: kill -9 of the target, and a start after a while.
    CRASH = "crash"
    #: kill -9; another namespace, with another UUID and other data, is there for a while.
    IMPOSTOR = "impostor"
    #: kill -9; two namespaces have changed their NSIDs for a while.
    REMAPPED = "remapped"
    #: Two namespaces change their NSIDs for a while, under the host's eyes; with `on`, at such a
    #: message while the host is coming back.
    REMAP = "remap"
    #: kill -9; while the target is down, another host writes beside what is being written.
    OTHER_HOST = "other host"
    #: The data digest of a transfer is wrong.
    SPOIL = "spoil"
    #: A command fails with a status that calls for another try.
    STATUS = "status"
    #: Namespaces grow under the host's eyes, and somebody uses what is new.
    GROW = "grow"
    #: Namespaces are smaller for a while: what is beyond the end fails, what waits goes on waiting.
    SHRINK = "shrink"

    def __repr__(self) -> str:
        return str(self)


class Outage(enum.Enum):
    """How new connections fare after a loss, for as long as the fault lasts."""

    NONE = "none"
    REFUSE = "refuse"
    HANG = "hang"
    SILENT = "silent"

    def __repr__(self) -> str:
        return str(self)


class Queues(enum.Enum):
    """Which connections a fault strikes."""

    ALL = "all"
    ADMIN = "admin"
    IO = "io"

    def __repr__(self) -> str:
        return str(self)


@attrs.frozen
class Op:
    """One call: cells `start` to `start + cells` of a namespace, after `think_ms`.

    With `patience_ms` the caller is killed after that time.  A `launched` read or write has no task
    until it needs one, and that comes `late_ms` after.
    """

    kind: OpKind
    namespace: int
    start: int
    cells: int
    think_ms: int = 0
    fua: bool = False
    patience_ms: int | None = None
    launched: bool = False
    late_ms: int = 0


@attrs.frozen
class Fault:
    """Strikes at `at_ms`, or, with `on`, at the `nth` such message after that."""

    kind: FaultKind
    at_ms: int
    on: MessageKind | None = None
    nth: int = 0
    queues: Queues = Queues.ALL
    outage: Outage = Outage.NONE
    duration_ms: int = 0
    #: How late commands that are being executed land, in percent of the time a fence stands.
    linger: int = 0


#: How many LBAs a namespace has while it is small, and how many more once it has grown.
SMALL_LBAS: Final = 3
GROWTH_LBAS: Final = 4


@attrs.frozen
class Shape:
    """One namespace."""

    lba_bytes: int = 512
    size_lbas: int = 32
    noiob_lbas: int = 0
    volatile: bool = False


@attrs.frozen
class Plan:
    """One scenario."""

    shapes: tuple[Shape, ...] = (Shape(),)
    workers: tuple[tuple[Op, ...], ...] = ()
    faults: tuple[Fault, ...] = ()
    #: Seeds the order in which tasks run, and how long the medium takes.
    schedule: int = 0
    #: Executes commands of lost associations, and lets their host in meanwhile.
    sloppy: bool = False
    #: Offers Cross-Controller Reset, where our controller does.
    cross_reset: bool = False
    io_queues: int = 2
    queue_entries: int = 8
    in_capsule_bytes: int = 4096
    max_transfer_bytes: int = 8192
    flow_control: bool = False
    #: 0: none; then somebody vouches for old controllers, once they have stopped.
    kato_s: int = 2
    #: Any command restarts the controller's timer; it notices a loss later than without.
    tbkas: bool = True
    #: How much longer a controller may take to quiesce, as it says.
    cqt_ms: int = 0
    #: What waits fails so long after a loss, None for never.
    fast_io_fail_ms: int | None = None
    #: The controller is given up so long after a loss, None for never; a hand connects it again.
    loss_timeout_ms: int | None = None
    #: Writes that waited for longer wait for a hand, None for ten minutes.
    replay_limit_ms: int | None = None
    #: 0: by hand only.
    reconnect_delay_s: float = 1.0
    #: How often a hand reconnects, 0 for never.
    by_hand_ms: int = 0
    #: Whoever looks after paused namespaces gives up what was lost, rather than write it again.
    accept: bool = False
    #: Percent of the commands that take the medium long.
    slow: int = 0
