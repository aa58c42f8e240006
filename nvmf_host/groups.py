"""Errors that cross a nursery: trio wraps them in groups, whoever is above wants the error."""

from collections.abc import Iterator
from contextlib import contextmanager

from nvmf_transport.errors import NvmfError, TransportError


@contextmanager
def single_error() -> Iterator[None]:
    """Takes the wrapping off a group that stands for one error, and leaves others alone.

    Several `NvmfError`s of one nursery have the same cause: queues of one association die of the
    same loss, each telling it in its way.  The transport's says most.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if len(leaves) == 1 or all(isinstance(leaf, NvmfError) for leaf in leaves):
            # min() takes the first of equals.
            leaf = min(leaves, key=lambda error: not isinstance(error, TransportError))
            # The cause is the leaf's own; the group adds nothing.
            raise leaf from leaf.__cause__
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for item in group.exceptions:
        if isinstance(item, BaseExceptionGroup):
            yield from _leaves(item)
        else:
            yield item
