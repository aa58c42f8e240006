"""The way to an association step by step: CONNECT, properties, enabling, reset, shutdown.

Every step has a name and the whole a deadline, so that an error says where it stopped; the time
that CAP.TO grants the controller is not counted (NVMe Base 2.1, sections 3.5.3, 3.6 and 6).
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from nvmf_transport.errors import (
    CommandError,
    ConnectRejectedError,
    HandshakeError,
    NvmfError,
    RemoteProtocolError,
    TransportError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.fabrics import (
    CNTLID_MAX,
    PROPERTY_4_BYTES,
    PROPERTY_8_BYTES,
    SQHD_DISABLED,
    ConnectCommand,
    ConnectData,
    PropertyGetCommand,
    PropertySetCommand,
)
from nvmf_transport.nvme import Cap, Cc, Csts, Property
from nvmf_transport.status import (
    AUTHENTICATION_REQUIRED,
    CONNECT_INVALID_HOST,
    CONNECT_INVALID_PARAMETERS,
    CONTROLLER_BUSY,
)

from .qpair import HostQueue

HANDSHAKE_S: Final = 10.0
_NO_AUTHENTICATION: Final = (
    "the controller demands authentication, which this host cannot do; let this "
    "host in without it there"
)
_FIRST_POLL_S: Final = 0.005
_LONGEST_POLL_S: Final = 0.25


class Handshake:
    """A deadline shared by named steps."""

    def __init__(self, limit_s: float = HANDSHAKE_S) -> None:
        self.limit_s = limit_s
        self.deadline = trio.current_time() + limit_s
        self.step_name = "start"
        #: True once a step has met the deadline.
        self.expired = False
        self._scope: trio.CancelScope | None = None

    @contextmanager
    def step(
        self, name: str, *, cause: Callable[[], NvmfError | None] = lambda: None
    ) -> Iterator[None]:
        """Bounds one step.  Raises `HandshakeError` where the deadline passes in it.

        `cause` gives the error that killed the queue, which says more than "outcome unknown".
        """
        self.step_name = name
        with trio.move_on_at(self.deadline) as scope:
            self._scope = scope
            try:
                yield
            except TransportError as error:
                _name_step(error, name)
                raise
            except NvmfError as error:
                died = cause()
                if died is None or isinstance(error, CommandError):
                    raise
                if isinstance(died, TransportError):
                    _name_step(died, name)
                raise died from error
            except BaseException:
                # What kills the queue may cancel whoever waits for it, in a nursery or not.
                died = cause()
                if isinstance(died, TransportError):
                    _name_step(died, name)
                raise
        if scope.cancelled_caught:
            self.expired = True
            silent = HandshakeError(f"{name}: no answer within {self.limit_s:g} s")
            silent.step = name
            raise silent

    def progress(self) -> None:
        """Something was answered: the limit counts anew from here."""
        self.extend(trio.current_time() + self.limit_s - self.deadline)

    def extend(self, seconds: float) -> None:
        """Grants time that does not count, to the step under way as well."""
        self.deadline += seconds
        if self._scope is not None:
            self._scope.deadline = self.deadline


def _name_step(error: TransportError, name: str) -> None:
    error.step = error.step or name
    # One that could not be reached begins with the address.
    if not (isinstance(error, UnreachableError) or str(error).startswith(name)):
        error.args = (f"{name}: {error}",)


@attrs.frozen
class Connected:
    """What the response to CONNECT said."""

    cntlid: int
    sq_flow_control: bool


async def connect_queue(
    queue: HostQueue,
    *,
    subnqn: str,
    hostnqn: str,
    hostid: uuid.UUID,
    cntlid: int,
    kato_ms: int = 0,
    sq_flow_control: bool = False,
) -> Connected:
    """CONNECT (Base 2.1, section 6.3).

    Raises `ConnectRejectedError`, also where the controller demands authentication.
    """
    command = ConnectCommand(
        qid=queue.qid,
        sqsize=queue.entries - 1,
        cattr=0 if sq_flow_control else ConnectCommand.CATTR_DISABLE_SQFLOW,
        kato=kato_ms,
    )
    data = ConnectData(hostid=hostid.bytes, cntlid=cntlid, subnqn=subnqn, hostnqn=hostnqn)
    try:
        response = await queue.execute(
            bytearray(command.pack()), data_out=data.pack(), name="CONNECT"
        )
    except CommandError as error:
        raise _rejection(error, queue, data) from error
    word = response.result & 0xFFFFFFFF
    if word >> 16:
        raise ConnectRejectedError(AUTHENTICATION_REQUIRED, detail=_NO_AUTHENTICATION)
    answered = word & 0xFFFF
    if answered > CNTLID_MAX:
        raise RemoteProtocolError(f"CONNECT: the controller gave itself CNTLID {answered:#x}")
    if queue.qid and answered != cntlid:
        raise RemoteProtocolError(
            f"CONNECT of queue {queue.qid}: answered by CNTLID {answered}, not {cntlid}"
        )
    granted = response.sqhd != SQHD_DISABLED
    if sq_flow_control and not granted:
        raise HandshakeError("CONNECT: the controller disabled SQ flow control; leave out -F")
    queue.sq_flow_control = granted and sq_flow_control
    return Connected(answered, granted)


def _rejection(error: CommandError, queue: HostQueue, data: ConnectData) -> ConnectRejectedError:
    if error.status.code == CONNECT_INVALID_HOST.code:
        rejected = ConnectRejectedError(
            error.status,
            detail="the target does not allow this host; add its NQN there, or give another "
            "with -q",
        )
        rejected.field, rejected.value = "hostnqn", data.hostnqn
        return rejected
    if error.status.code == CONTROLLER_BUSY.code:
        return ConnectRejectedError(error.status, detail="the target has no room; try again later")
    if error.status.code == AUTHENTICATION_REQUIRED.code:
        return ConnectRejectedError(error.status, detail=_NO_AUTHENTICATION)
    if error.status.code != CONNECT_INVALID_PARAMETERS.code:
        return ConnectRejectedError(error.status)
    ipo, iattr = error.result & 0xFFFF, error.result >> 16 & 1
    field, value, why = _parameter(iattr, ipo, queue, data)
    rejected = ConnectRejectedError(
        error.status, iattr=iattr, ipo=ipo, detail=f"{why} (IATTR {iattr}, IPO {ipo})"
    )
    rejected.field, rejected.value = field, value
    return rejected


def _parameter(
    iattr: int, ipo: int, queue: HostQueue, data: ConnectData
) -> tuple[str | None, str | None, str]:
    """The parameter that IATTR and IPO point to: field of a request, value sent, what it means."""
    known: dict[tuple[int, int], tuple[str | None, str | None, str]] = {
        (1, ConnectData.offset_of("hostid")): (
            "hostid",
            str(uuid.UUID(bytes=data.hostid)),
            "this Host ID is not taken there",
        ),
        (1, ConnectData.offset_of("cntlid")): (
            "cntlid",
            f"{data.cntlid:#x}",
            "there is no such controller",
        ),
        (1, ConnectData.offset_of("subnqn")): ("subnqn", data.subnqn, "it is not served there"),
        (1, ConnectData.offset_of("hostnqn")): (
            "hostnqn",
            data.hostnqn,
            "this host is not allowed there",
        ),
        (0, ConnectCommand.offset_of("qid")): (None, None, f"QID {queue.qid}"),
        (0, ConnectCommand.offset_of("sqsize")): (
            "queue_size",
            str(queue.entries),
            "this queue size is not taken there",
        ),
        (0, ConnectCommand.offset_of("kato")): ("kato_s", None, "this KATO is not taken there"),
    }
    return known.get((iattr, ipo), (None, None, "a parameter is not taken there"))


async def property_get(queue: HostQueue, offset: Property, *, wide: bool = False) -> int:
    """Property Get (Base 2.1, section 6.5) of 4 bytes, or 8 with `wide`.

    Properties are how a controller is stopped: they go past commands that wait for a CID.
    """
    attrib = PROPERTY_8_BYTES if wide else PROPERTY_4_BYTES
    command = PropertyGetCommand(attrib=attrib, ofst=offset)
    response = await queue.execute(
        bytearray(command.pack()), name=f"Property Get {offset.name}", urgent=True
    )
    return response.result if wide else response.result & 0xFFFFFFFF


async def property_set(queue: HostQueue, offset: Property, value: int) -> None:
    """Property Set (Base 2.1, section 6.6) of 4 bytes."""
    command = PropertySetCommand(attrib=PROPERTY_4_BYTES, ofst=offset, value=value)
    await queue.execute(bytearray(command.pack()), name=f"Property Set {offset.name}", urgent=True)


async def enable(queue: HostQueue, handshake: Handshake, *, io_controller: bool) -> Cap:
    """Sets CC.EN and waits for CSTS.RDY, as long as CAP.TO says; returns CAP.

    Raises `UnavailableError` where an I/O controller lacks the NVM command set.
    """
    cap = Cap(await property_get(queue, Property.CAP, wide=True))
    cc = Cc.of(en=1, mps=min(max(0, cap.mpsmin), cap.mpsmax))
    if io_controller:
        if not cap.css & Cap.CSS_NVM:
            raise UnavailableError(
                f"the controller has no NVM command set (CAP.CSS {cap.css:#x}); "
                "connect to a subsystem with one",
                field="subnqn",
            )
        cc = cc.replace(iosqes=6, iocqes=4)
    timeout_s = max(cap.timeout_s, 0.5)
    started = trio.current_time()
    handshake.extend(timeout_s)
    await property_set(queue, Property.CC, cc.value)
    await _poll(queue, lambda csts: csts.rdy == 1, "CSTS.RDY=1", timeout_s)
    # What the controller did not need is not granted to later steps.
    handshake.extend(min(0.0, trio.current_time() - started - timeout_s))
    return cap


async def disable(queue: HostQueue, timeout_s: float) -> None:
    """Controller reset: clears CC.EN and returns once CSTS.RDY=0 was seen."""
    cc = Cc(await property_get(queue, Property.CC))
    await property_set(queue, Property.CC, cc.replace(en=0).value)
    await _poll(queue, lambda csts: csts.rdy == 0, "CSTS.RDY=0", timeout_s, cfs_is_fatal=False)


async def shut_down(queue: HostQueue, timeout_s: float) -> None:
    """Normal shutdown: sets CC.SHN=01b and returns once CSTS.SHST=10b was seen."""
    cc = Cc(await property_get(queue, Property.CC))
    await property_set(queue, Property.CC, cc.replace(shn=Cc.SHN_NORMAL).value)
    await _poll(
        queue,
        lambda csts: csts.shst == Csts.SHST_COMPLETE,
        "CSTS.SHST=10b",
        timeout_s,
        cfs_is_fatal=False,
    )


async def _poll(
    queue: HostQueue,
    reached: Callable[[Csts], bool],
    what: str,
    timeout_s: float,
    *,
    cfs_is_fatal: bool = True,
) -> None:
    deadline = trio.current_time() + timeout_s
    pause_s = _FIRST_POLL_S
    while True:
        csts = Csts(await property_get(queue, Property.CSTS))
        if reached(csts):
            return
        if csts.cfs and cfs_is_fatal:
            raise HandshakeError(f"waiting for {what}: the controller reports a fatal status (CFS)")
        if trio.current_time() >= deadline:
            raise HandshakeError(
                f"waiting for {what}: not within {timeout_s:g} s (CSTS {csts.value:#x})"
            )
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_POLL_S)
