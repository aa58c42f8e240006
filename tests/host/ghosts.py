"""Changes that are lost with a link whose fence stands, so that an old copy may still land."""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.fencing import Fence
from nvmf_host.namespace import Namespace
from nvmf_transport.capsule import CommandCapsule
from nvmf_transport.nvme import NvmOpcode

from .medium import CHANGING, LBA_BYTES, Link, Medium, Outcome, begin, lbas_of, opcode, pattern

L = LBA_BYTES
Change = Callable[[Namespace], Awaitable[object]]


def changes(link: Link) -> list[tuple[NvmOpcode, list[tuple[int, int]]]]:
    """Every changing command that was sent, in order."""
    return [
        (opcode(capsule), lbas_of(capsule))
        for pair in link.pairs
        for capsule in pair.log
        if opcode(capsule) in CHANGING
    ]


async def settle(link: Link, medium: Medium) -> None:
    """Executes and answers until nothing more comes."""
    await wait_all_tasks_blocked()
    while link.sent:
        link.settle(medium)
        await wait_all_tasks_blocked()


def standing(cntlid: int = 1) -> Fence:
    return Fence(cntlid, kato_s=15.0)


OLD: dict[str, Change] = {
    "write": lambda namespace: namespace.write(4 * L, pattern(1, 4 * L)),
    "unaligned write": lambda namespace: namespace.write(4 * L + 7, pattern(1, 3 * L)),
    "fua": lambda namespace: namespace.write(4 * L, pattern(1, 4 * L), fua=True),
    "zeroes": lambda namespace: namespace.write_zeroes(4, 4),
    "deallocate": lambda namespace: namespace.deallocate([(7, 1), (4, 2)]),
}
NEW: dict[str, Change] = {
    "write": lambda namespace: namespace.write(7 * L, pattern(2, L)),
    "wide": lambda namespace: namespace.write(0, pattern(2, 16 * L)),
    "unaligned write": lambda namespace: namespace.write(7 * L + 500, pattern(2, 2 * L)),
    "zeroes": lambda namespace: namespace.write_zeroes(7, 3),
    "deallocate": lambda namespace: namespace.deallocate([(20, 1), (7, 1)]),
}


async def lost(
    namespace: Namespace, link: Link, nursery: trio.Nursery, change: Change = OLD["write"]
) -> tuple[Outcome, list[CommandCapsule]]:
    """A change that is lost with `link`, whose fence stands."""
    link.fence = standing()
    namespace.engine.resume(link.path())
    outcome = begin(nursery, change, namespace)
    await wait_all_tasks_blocked()
    return outcome, link.lose(namespace)
