"""CONNECT: who may have a queue, checked in a fixed order (Base 2.1, section 6.3)."""

from collections.abc import Callable
from typing import Final

import attrs

from nvmf_transport.capsule import ReceivedCommand
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import (
    CNTLID_DYNAMIC,
    CNTLID_MAX,
    MAX_ADMIN_QUEUE_ENTRIES,
    ConnectCommand,
    ConnectData,
    FabricsType,
)
from nvmf_transport.nqn import check_nqn
from nvmf_transport.nvme import ADMIN_QID, AdminOpcode
from nvmf_transport.status import (
    COMMAND_SEQUENCE_ERROR,
    CONNECT_INVALID_PARAMETERS,
    CONTROLLER_BUSY,
    INCOMPATIBLE_FORMAT,
    INVALID_OPCODE,
    Status,
)

from .association import Association, State
from .subsystem import Subsystem

#: Invalid Attributes: the parameter is in the SQE (0) or in the data (1).
IN_COMMAND: Final = 0
IN_DATA: Final = 1


class ConnectRefusedError(Exception):
    """CONNECT fails with this status; `result` is DW0, which says where the fault is."""

    def __init__(self, status: Status, detail: str, *, result: int = 0) -> None:
        super().__init__(f"{detail}: {status}")
        self.status = status
        self.result = result


def invalid_parameter(place: int, name: str, detail: str) -> ConnectRefusedError:
    """Connect Invalid Parameters, with IATTR and IPO of a field of the command or the data."""
    structure = ConnectCommand if place == IN_COMMAND else ConnectData
    return ConnectRefusedError(
        CONNECT_INVALID_PARAMETERS.with_dnr(),
        detail,
        result=place << 16 | structure.offset_of(name),
    )


@attrs.frozen
class ConnectRequest:
    """A CONNECT command and its data, with all that can be checked alone found good."""

    command: ConnectCommand
    data: ConnectData

    @property
    def entries(self) -> int:
        """Entries of the queue (SQSIZE is 0's based)."""
        return int(self.command.sqsize) + 1

    @property
    def sq_flow_control(self) -> bool:
        """False where the host asks to go without, which is always granted."""
        return not self.command.disable_sqflow


def check_command(command: ReceivedCommand) -> ConnectCommand:
    """The checks that need no data; raises `ConnectRefusedError`."""
    if command.fault is not None:
        raise ConnectRefusedError(command.fault, "CONNECT")
    fields = ConnectCommand.unpack(command.sqe)
    if fields.opc != AdminOpcode.FABRICS or fields.fctype != FabricsType.CONNECT:
        raise ConnectRefusedError(
            # What Base 2.1, section 3.3.2.2 has for any command before CONNECT.
            (
                COMMAND_SEQUENCE_ERROR if fields.opc == AdminOpcode.FABRICS else INVALID_OPCODE
            ).with_dnr(),
            f"opcode {fields.opc:#x} before CONNECT",
        )
    if fields.recfmt != 0:
        raise ConnectRefusedError(
            INCOMPATIBLE_FORMAT.with_dnr(), f"CONNECT of record format {fields.recfmt}"
        )
    largest = MAX_ADMIN_QUEUE_ENTRIES if fields.qid == ADMIN_QID else 65536
    if not 2 <= fields.sqsize + 1 <= largest:
        raise invalid_parameter(IN_COMMAND, "sqsize", f"SQSIZE {fields.sqsize}")
    if fields.qid != ADMIN_QID and fields.kato:
        raise invalid_parameter(IN_COMMAND, "kato", f"KATO {fields.kato} for an I/O queue")
    if command.transfer_bytes != ConnectData.SIZE:
        raise invalid_parameter(
            IN_COMMAND, "sgl_address", f"data of {command.transfer_bytes} bytes"
        )
    return fields


def check_data(command: ConnectCommand, data: ConnectData) -> ConnectRequest:
    """The checks of the data alone; raises `ConnectRefusedError`."""
    if not any(data.hostid):
        raise invalid_parameter(IN_DATA, "hostid", "Host ID of zeroes")
    if command.qid == ADMIN_QID and data.cntlid != CNTLID_DYNAMIC:
        raise invalid_parameter(
            IN_DATA, "cntlid", f"CNTLID {data.cntlid:#x}; controllers here are dynamic"
        )
    if command.qid != ADMIN_QID and not 1 <= data.cntlid <= CNTLID_MAX:
        raise invalid_parameter(IN_DATA, "cntlid", f"CNTLID {data.cntlid:#x}")
    for name in ("subnqn", "hostnqn"):
        try:
            check_nqn(getattr(data, name), name)
        except ConfigError as error:
            raise invalid_parameter(IN_DATA, name, f"{name}: {error}") from None
    return ConnectRequest(command, data)


def find_subsystem(request: ConnectRequest, find: Callable[[str], Subsystem | None]) -> Subsystem:
    """The subsystem that the host names; NQNs are equal byte by byte or not at all."""
    subsystem = find(request.data.subnqn)
    if subsystem is None:
        raise invalid_parameter(IN_DATA, "subnqn", f"no subsystem {request.data.subnqn!r}")
    if request.command.qid != ADMIN_QID:
        if not subsystem.has_io_queues:
            raise invalid_parameter(IN_COMMAND, "qid", "I/O queue of a discovery controller")
        if request.entries > subsystem.config.max_queue_entries:
            raise invalid_parameter(
                IN_COMMAND,
                "sqsize",
                f"{request.entries} entries, at most {subsystem.config.max_queue_entries}",
            )
    return subsystem


def find_association(request: ConnectRequest, subsystem: Subsystem) -> Association:
    """The association that an I/O queue belongs to; raises `ConnectRefusedError`."""
    data, qid = request.data, request.command.qid
    association = subsystem.find(data.cntlid)
    if association is None or association.is_lost:
        raise invalid_parameter(IN_DATA, "cntlid", f"no controller {data.cntlid:#x}")
    if association.hostid != data.hostid:
        raise invalid_parameter(IN_DATA, "hostid", "not the Host ID of the admin queue")
    if association.hostnqn != data.hostnqn:
        raise invalid_parameter(IN_DATA, "hostnqn", "not the Host NQN of the admin queue")
    if association.state in {State.SHUTTING_DOWN, State.SHUT_DOWN}:
        raise invalid_parameter(IN_DATA, "cntlid", f"{association} is shut down")
    if association.state is not State.ENABLED or not association.granted_io_queues:
        raise ConnectRefusedError(
            COMMAND_SEQUENCE_ERROR.with_dnr(),
            "I/O queue before CC.EN=1 and Number of Queues",
        )
    if qid > association.granted_io_queues:
        raise invalid_parameter(
            IN_COMMAND, "qid", f"QID {qid}, granted are {association.granted_io_queues}"
        )
    if association.io_queue(qid) is not None:
        raise ConnectRefusedError(
            COMMAND_SEQUENCE_ERROR.with_dnr(), f"QID {qid} is connected already"
        )
    return association


async def claim_controller(
    request: ConnectRequest, subsystem: Subsystem, make: Callable[[int], Association]
) -> Association:
    """A new controller for an admin queue; raises `ConnectRefusedError`.

    Waits for what an earlier association of this host may still do to the medium, for CAP.TO at
    most: a host that is let in may write anew what an old command would then write over.
    """
    if not await subsystem.wait_for_lost(request.data.hostid):
        raise ConnectRefusedError(
            CONTROLLER_BUSY, "commands of this host's earlier association are still running"
        )
    association = subsystem.admit(make)
    if association is None:
        raise ConnectRefusedError(CONTROLLER_BUSY, "every CNTLID is taken")
    return association
