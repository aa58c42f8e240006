"""The orderly end of I/O: what runs ends, what is unflushed is flushed."""

from collections.abc import Iterable
from typing import Final

import trio

from nvmf_transport.errors import NvmfError
from nvmf_transport.nvme import NvmOpcode

from .association import Association
from .io_path import io_sqe
from .namespace import Namespace

#: How long commands under way, and then each Flush, may take.
_IDLE_S: Final = 2.0
_FLUSH_S: Final = 4.0
_POLL_S: Final = 0.01


async def wait_idle(association: Association) -> None:
    """Waits for the I/O commands that are outstanding, for a while."""
    with trio.move_on_after(_IDLE_S):
        # No event: that would have a price at every completion.
        while any(queue.outstanding or queue.waiting for queue in association.io):  # noqa: ASYNC110
            await trio.sleep(_POLL_S)


async def flush_all(association: Association, namespaces: Iterable[Namespace]) -> list[str]:
    """Flushes every namespace with unflushed writes; returns what went wrong."""
    problems: list[str] = []
    deadline = trio.current_time() + _FLUSH_S

    async def flush(namespace: Namespace) -> None:
        problem: str | None = "Flush took too long"
        if namespace.engine.path is None:
            # Not identified on this association: another namespace may have its NSID now.
            problem = "it was not connected any more"
        else:
            with trio.move_on_at(deadline):
                try:
                    await association.io[0].execute(
                        io_sqe(NvmOpcode.FLUSH, namespace.nsid, 0), name="Flush"
                    )
                except NvmfError as error:
                    problem = str(error)
                else:
                    problem = None
        if problem is not None:
            problems.append(f"{namespace.name}: acknowledged writes may not be durable: {problem}")

    async with trio.open_nursery() as nursery:
        for namespace in namespaces:
            if namespace.engine.dirty:
                nursery.start_soon(flush, namespace)
    return problems


def unsettled(namespaces: Iterable[Namespace], *, flushed: bool) -> list[str]:
    """What is not known to be on the medium at the end; `flushed` where that was looked after."""
    problems: list[str] = []
    for namespace in namespaces:
        ambiguous = namespace.engine.ambiguous
        if ambiguous:
            problems.append(
                f"{namespace.name}: {len(ambiguous)} interrupted writes have an unknown outcome, "
                f"at (SLBA, LBAs) {ambiguous[:8]}"
            )
        landing = [
            (one.slba, one.nlb)
            for one in namespace.quarantine.ranges()
            if one.stands and (one.slba, one.nlb) not in ambiguous
        ]
        if landing:
            problems.append(
                f"{namespace.name}: old copies of {len(landing)} interrupted writes may still "
                f"land, at (SLBA, LBAs) {landing[:8]}"
            )
        if namespace.engine.dirty and not flushed:
            problems.append(f"{namespace.name}: acknowledged writes were not flushed")
    return problems
