"""Launched reads and writes for tests: a task sees them through at once, or when the test says."""

import attrs
import trio

from nvmf_host.launch import Launch
from nvmf_host.namespace import Namespace

from .medium import Outcome


@attrs.define(eq=False)
class Flight:
    """A launch, and how it ended."""

    launch: Launch
    tasks: trio.Nursery
    #: A task comes as soon as one is needed; else the test calls `see_through`.
    prompt: bool
    #: How often it was called back, and what `conclude` said.
    concluded: list[bool] = attrs.field(init=False, factory=list)
    #: Of `see_through`, where that was needed.
    outcome: Outcome | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        if self.launch.request.outstanding:
            self.launch.request.on_end = self._end
        elif self.prompt:
            self.see_through()

    @property
    def done(self) -> bool:
        """It has an answer, with a task or without."""
        return self.concluded == [True] if self.outcome is None else self.outcome.done

    @property
    def succeeded(self) -> bool:
        return self.done and self.error is None

    @property
    def error(self) -> BaseException | None:
        return None if self.outcome is None else self.outcome.error

    @property
    def data(self) -> bytes:
        assert self.succeeded
        return bytes(self.launch.data)

    def see_through(self) -> None:
        """Its task comes."""
        assert self.outcome is None
        outcome = self.outcome = Outcome()

        async def run() -> None:
            try:
                await self.launch.see_through()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                outcome.error = error
            outcome.done = True

        self.tasks.start_soon(run)

    def _end(self) -> None:
        done = self.launch.conclude()
        self.concluded.append(done)
        if not done and self.prompt:
            self.see_through()


def read(
    namespace: Namespace, tasks: trio.Nursery, offset: int, length: int, *, prompt: bool = True
) -> Flight:
    launch = namespace.launch_read(offset, length, None)
    assert launch is not None
    return Flight(launch, tasks, prompt)


def write(
    namespace: Namespace,
    tasks: trio.Nursery,
    offset: int,
    data: bytes,
    *,
    fua: bool = False,
    prompt: bool = True,
) -> Flight:
    launch = namespace.launch_write(offset, data, None, fua=fua)
    assert launch is not None
    return Flight(launch, tasks, prompt)
