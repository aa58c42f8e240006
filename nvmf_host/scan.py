"""Which namespaces a controller has, and what they are (Base 2.1, section 5.1.13)."""

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from nvmf_transport import status as st
from nvmf_transport.errors import CommandError, NvmfError, RemoteProtocolError
from nvmf_transport.identify import (
    MAX_ACTIVE_NAMESPACES,
    DescriptorType,
    IdentifyController,
    IdentifyNamespace,
)
from nvmf_transport.nvme import Vs
from nvmf_transport.wire import uuid_text

from . import admin
from .qpair import HostQueue

#: A controller that lists more is not believed.
MAX_NAMESPACES: Final = 16384
_MIN_LBADS, _MAX_LBADS = 9, 16
_WORKERS: Final = 8
_NO_DESCRIPTORS: Final = (st.INVALID_FIELD.code, st.INVALID_OPCODE.code)


@attrs.frozen(kw_only=True)
class NamespaceDescription:
    """What IDENTIFY says of a namespace, as far as the host depends on it."""

    nsid: int
    lba_bytes: int
    size_lbas: int
    uuid: bytes | None = None
    nguid: bytes | None = None
    eui64: bytes | None = None
    write_protected: bool = False
    #: NMIC bit 0: other controllers, and so other hosts, may use it at the same time.
    shared: bool = False
    noiob_lbas: int = 0
    anagrpid: int = 0

    @property
    def identifiers(self) -> dict[str, str]:
        """The identifiers that the namespace has, as text."""
        found = {
            "UUID": self.uuid and uuid_text(self.uuid),
            "NGUID": self.nguid and self.nguid.hex(),
            "EUI64": self.eui64 and self.eui64.hex(),
        }
        return {name: value for name, value in found.items() if value}


@attrs.frozen
class Refused:
    """An active namespace that is not served, and why."""

    nsid: int
    reason: str
    #: It may be served if it is looked at again: the controller failed, not the namespace.
    transient: bool = False


@attrs.frozen
class Scan:
    """The result of a scan, in the order of NSIDs."""

    found: tuple[NamespaceDescription, ...]
    refused: tuple[Refused, ...]


async def scan(
    queue: HostQueue,
    controller: IdentifyController,
    version: Vs,
    nsids: Iterable[int] | None = None,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> Scan:
    """Identifies the namespaces `nsids`, or every active one; `on_progress` after each of them.

    Raises what commands raise; a single namespace that is unfit is in `refused`.
    """
    todo = sorted(set(nsids)) if nsids is not None else await _active(queue, controller)
    results: dict[int, NamespaceDescription | Refused | None] = {}
    pending = iter(todo)
    failures: list[NvmfError] = []

    async def worker() -> None:
        for nsid in pending:
            if failures:
                return
            try:
                results[nsid] = await _identify(queue, nsid, version)
                on_progress()
            except NvmfError as error:
                failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(_WORKERS, len(todo))):
            nursery.start_soon(worker)
    if failures:
        raise failures[0]
    ordered = [results[nsid] for nsid in todo]
    return Scan(
        tuple(item for item in ordered if isinstance(item, NamespaceDescription)),
        tuple(item for item in ordered if isinstance(item, Refused)),
    )


async def _active(queue: HostQueue, controller: IdentifyController) -> list[int]:
    """The active NSIDs.  Raises `RemoteProtocolError` for a list that does not ascend."""
    found: list[int] = []
    while True:
        last = found[-1] if found else 0
        page = await admin.active_namespaces(queue, after=last)
        for nsid in page:
            if nsid <= last or (controller.nn and nsid > controller.nn):
                raise RemoteProtocolError(
                    f"active namespace list: NSID {nsid:#x} after {last:#x} (NN {controller.nn:#x})"
                )
            last = nsid
        found += page
        if len(found) > MAX_NAMESPACES:
            raise RemoteProtocolError(
                f"the controller lists more than {MAX_NAMESPACES} active namespaces"
            )
        if len(page) < MAX_ACTIVE_NAMESPACES:
            return found


async def _identify(
    queue: HostQueue, nsid: int, version: Vs
) -> NamespaceDescription | Refused | None:
    """None for a namespace that went away in between."""
    try:
        data = await admin.identify_namespace(queue, nsid)
    except CommandError as error:
        if _is_gone(error):
            return None
        return Refused(nsid, f"it cannot be identified: {error}", not error.status.dnr)
    if data.nsze == 0:
        return None
    unfit = _unfit(data)
    if unfit is not None:
        return Refused(nsid, unfit)
    descriptors: dict[int, bytes] = {}
    # Controllers before 1.3 have no descriptor list.
    if (version.major, version.minor) >= (1, 3):
        try:
            descriptors = await admin.namespace_descriptors(queue, nsid)
        except CommandError as error:
            if _is_gone(error):
                return None
            # A controller without the list says so.  Any other failure hides identifiers, and a
            # namespace that is taken for one without them is not the same one the next time.
            if not (error.status.dnr or error.status.code in _NO_DESCRIPTORS):
                return Refused(nsid, f"its identifiers cannot be read: {error}", transient=True)
        csi = descriptors.get(DescriptorType.CSI, b"\0")[0]
        if csi != 0:
            return Refused(nsid, f"its command set (CSI {csi:#04x}) is not the NVM command set")
    return NamespaceDescription(
        nsid=nsid,
        lba_bytes=data.lba_format.lba_bytes,
        size_lbas=data.nsze,
        uuid=descriptors.get(DescriptorType.UUID),
        nguid=descriptors.get(DescriptorType.NGUID) or _unless_zero(data.nguid),
        eui64=descriptors.get(DescriptorType.EUI64) or _unless_zero(data.eui64),
        write_protected=bool(data.write_protected),
        shared=bool(data.shared),
        noiob_lbas=data.noiob,
        anagrpid=data.anagrpid,
    )


def _is_gone(error: CommandError) -> bool:
    return error.status.code == st.INVALID_NAMESPACE.code


def _unfit(data: IdentifyNamespace) -> str | None:
    if data.pit:
        return (
            f"it has end-to-end protection (DPS {data.dps:#x}), which this host does not do; "
            "format it without"
        )
    if data.format_index > data.nlbaf + data.nulbaf:
        return f"its LBA format {data.format_index} is not among its {data.nlbaf + 1} (FLBAS)"
    lba_format = data.lba_format
    if lba_format.metadata_bytes:
        return f"it has {lba_format.metadata_bytes} bytes of metadata an LBA; format it without"
    if not _MIN_LBADS <= lba_format.lbads <= _MAX_LBADS:
        return f"its LBA size is 2^{lba_format.lbads} bytes (LBADS); format it with 512 to 65536"
    if data.nsze << lba_format.lbads >= 1 << 63:
        return f"its size of {data.nsze} LBAs is beyond 2^63 bytes (NSZE)"
    return None


def _unless_zero(value: bytes) -> bytes | None:
    return value if any(value) else None
