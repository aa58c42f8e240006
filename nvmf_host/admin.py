"""Typed admin commands (NVMe Base 2.1, section 5), one function each, over a `HostQueue`.

Each raises what `HostQueue.execute` raises.
"""

from typing import Final

from nvmf_transport.identify import (
    IDENTIFY_BYTES,
    IdentifyController,
    IdentifyNamespace,
    unpack_namespace_descriptors,
    unpack_namespace_list,
)
from nvmf_transport.nvme import AdminOpcode, Cns, FeatureId, SubmissionEntry

from .qpair import HostQueue

#: A log page is read in pieces of at most this many bytes.
LOG_PIECE_BYTES: Final = 64 * 1024


def sqe(opcode: int, *, nsid: int = 0, **cdw: int) -> bytearray:
    """The 64 bytes of a command without data pointers: `cdw10=`, `cdw11=` and so on."""
    return bytearray(SubmissionEntry(opc=opcode, nsid=nsid, **cdw).pack())


async def identify(queue: HostQueue, cns: int, *, nsid: int = 0, cntid: int = 0) -> bytearray:
    """IDENTIFY: returns 4096 bytes."""
    data = bytearray(IDENTIFY_BYTES)
    command = sqe(AdminOpcode.IDENTIFY, nsid=nsid, cdw10=cns | cntid << 16)
    await queue.execute(command, data_in=memoryview(data), name=f"IDENTIFY CNS {cns:02X}h")
    return data


async def identify_controller(queue: HostQueue) -> IdentifyController:
    """Identify Controller, CNS 01h."""
    return IdentifyController.unpack(await identify(queue, Cns.CONTROLLER))


async def identify_namespace(queue: HostQueue, nsid: int) -> IdentifyNamespace:
    """Identify Namespace of the NVM Command Set, CNS 00h; NSZE is 0 for an inactive NSID."""
    return IdentifyNamespace.unpack(await identify(queue, Cns.NAMESPACE, nsid=nsid))


async def active_namespaces(queue: HostQueue, *, after: int = 0) -> list[int]:
    """Up to 1024 active NSIDs greater than `after`, CNS 02h."""
    return unpack_namespace_list(await identify(queue, Cns.ACTIVE_NAMESPACES, nsid=after))


async def namespace_descriptors(queue: HostQueue, nsid: int) -> dict[int, bytes]:
    """Namespace Identification Descriptor list, CNS 03h, as {type: value}."""
    return unpack_namespace_descriptors(await identify(queue, Cns.NAMESPACE_DESCRIPTORS, nsid=nsid))


async def get_log_page(
    queue: HostQueue,
    lid: int,
    length_bytes: int,
    *,
    offset_bytes: int = 0,
    nsid: int = 0xFFFFFFFF,
    lsp: int = 0,
    lsi: int = 0,
    rae: bool = False,
) -> bytearray:
    """Get Log Page: returns `length_bytes` (a multiple of 4) from `offset_bytes` (too)."""
    data = bytearray(length_bytes)
    view = memoryview(data)
    for start in range(0, length_bytes, LOG_PIECE_BYTES):
        piece = view[start : start + LOG_PIECE_BYTES]
        numd = len(piece) // 4 - 1
        last = start + len(piece) == length_bytes
        command = sqe(
            AdminOpcode.GET_LOG_PAGE,
            nsid=nsid,
            # All pieces but the last retain the event, or the page could change in between.
            cdw10=lid | lsp << 8 | (rae or not last) << 15 | (numd & 0xFFFF) << 16,
            cdw11=numd >> 16 | lsi << 16,
            cdw12=(offset_bytes + start) & 0xFFFFFFFF,
            cdw13=(offset_bytes + start) >> 32,
        )
        await queue.execute(command, data_in=piece, name=f"Get Log Page {lid:02X}h")
    return data


async def set_features(queue: HostQueue, fid: int, value: int, *, nsid: int = 0) -> int:
    """Set Features with its value in CDW11; returns DW0 of the completion."""
    command = sqe(AdminOpcode.SET_FEATURES, nsid=nsid, cdw10=fid, cdw11=value)
    response = await queue.execute(command, name=f"Set Features {fid:02X}h")
    return response.result & 0xFFFFFFFF


async def get_features(queue: HostQueue, fid: int, *, nsid: int = 0) -> int:
    """Get Features, current value; returns DW0 of the completion."""
    command = sqe(AdminOpcode.GET_FEATURES, nsid=nsid, cdw10=fid)
    response = await queue.execute(command, name=f"Get Features {fid:02X}h")
    return response.result & 0xFFFFFFFF


async def set_number_of_queues(queue: HostQueue, count: int) -> int:
    """Asks for `count` I/O queues; returns how many are granted (Number of Queues, 07h)."""
    asked = (count - 1) | (count - 1) << 16
    granted = await set_features(queue, FeatureId.NUMBER_OF_QUEUES, asked)
    return min(granted & 0xFFFF, granted >> 16) + 1


async def keep_alive(queue: HostQueue) -> None:
    """Keep Alive, with the CID that is kept for it."""
    await queue.execute(sqe(AdminOpcode.KEEP_ALIVE), name="Keep Alive", urgent=True)
