"""Identify Controller, for both kinds of controllers (Base 2.1, section 5.1.13.2.1)."""

import math
from typing import TYPE_CHECKING, Any, Final

from nvmf_transport.identify import IdentifyController

from .association import KAS_UNITS
from .cross_reset import CROSS_RESET_LIMIT
from .events import MAX_EVENT_REQUESTS
from .properties import VERSION
from .queue import CQE_BYTES

if TYPE_CHECKING:
    from .association import Association
    from .subsystem import Subsystem

ERROR_LOG_ENTRIES: Final = 64
ABORT_LIMIT: Final = 4
#: LPA: the Commands Supported and Effects log; Get Log Page with an offset.
_LPA_EFFECTS: Final = 1 << 1
_LPA_OFFSET: Final = 1 << 2
#: FRMW: one firmware slot, read-only.
_FRMW: Final = 1 | 1 << 1
#: SGLS: SGLs of any length; the address may be an offset into the capsule; transport data blocks.
_SGLS: Final = 1 | 1 << 20 | 1 << 21


def controller_fields(subsystem: "Subsystem", association: "Association") -> dict[str, Any]:
    """What every controller reports."""
    config = subsystem.config
    return {
        "sn": subsystem.serial,
        "mn": subsystem.model,
        "fr": subsystem.firmware_revision,
        "mdts": config.mdts,
        "cntlid": association.cntlid,
        "ver": VERSION.value,
        "oaes": subsystem.events_offered,
        "ctratt": IdentifyController.CTRATT_HOSTID_128 | IdentifyController.CTRATT_TBKAS,
        "aerl": MAX_EVENT_REQUESTS - 1,
        "lpa": _LPA_OFFSET,
        "elpe": ERROR_LOG_ENTRIES - 1,
        "kas": KAS_UNITS,
        "maxcmd": config.max_queue_entries,
        "sgls": _SGLS,
        "subnqn": subsystem.nqn,
        "ioccsz": config.ioccsz,
        "iorcsz": CQE_BYTES // 16,
        "msdbd": 1,
    }


def identify_io_controller(
    subsystem: "Subsystem", association: "Association", *, namespaces: int
) -> bytes:
    """Identify Controller of an I/O controller."""
    fields = controller_fields(subsystem, association)
    fields["lpa"] |= _LPA_EFFECTS
    return IdentifyController(
        **fields,
        # The subsystem may have several controllers, one for each association.
        cmic=1 << 1,
        cntrltype=IdentifyController.TYPE_IO,
        ciu=association.instance.ciu,
        cirn=association.instance.cirn,
        ccrl=CROSS_RESET_LIMIT,
        # Milliseconds.  What waits is never begun once the host is lost; what a thread has begun is
        # given as long as a reset is.
        cqt=math.ceil(subsystem.config.ready_timeout_s * 1000),
        acl=ABORT_LIMIT - 1,
        frmw=_FRMW,
        sqes=0x66,
        cqes=0x44,
        nn=namespaces,
        oncs=(
            IdentifyController.ONCS_COMPARE
            | IdentifyController.ONCS_DSM
            | IdentifyController.ONCS_WRITE_ZEROES
            | IdentifyController.ONCS_VERIFY
        ),
        # Flush of NSID FFFFFFFFh is always taken; the cache is there if any namespace has one.
        vwc=3 << 1 | int(subsystem.volatile_cache),
    ).pack()


def identify_discovery_controller(subsystem: "Subsystem", association: "Association") -> bytes:
    """Identify Controller of a discovery controller."""
    return IdentifyController(
        **controller_fields(subsystem, association), cntrltype=IdentifyController.TYPE_DISCOVERY
    ).pack()
