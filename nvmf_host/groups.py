"""Errors that cross a nursery: trio wraps them in groups, whoever is above wants the error."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_error() -> Iterator[None]:
    """Takes the wrapping off a group that stands for one error, and leaves others alone.

    Of several errors of one nursery the first is raised, where the rest are of the same kind: they
    have the same cause.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if len(leaves) == 1 or all(type(leaf) is type(leaves[0]) for leaf in leaves):
            leaf = leaves[0]
            # The cause is the leaf's own; the group adds nothing.
            raise leaf from leaf.__cause__
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for item in group.exceptions:
        if isinstance(item, BaseExceptionGroup):
            yield from _leaves(item)
        else:
            yield item
