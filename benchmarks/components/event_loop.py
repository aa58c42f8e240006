"""A trio event loop in a thread: what was set up in it lives from one round to the next."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import trio

ValueT = TypeVar("ValueT")
Run = Callable[[Callable[[], Awaitable[None]]], None]


@contextmanager
def within(manager: AbstractAsyncContextManager[ValueT]) -> Iterator[tuple[ValueT, Run]]:
    """What the manager gives, and a function that runs another in the same event loop."""
    ready, entered = threading.Event(), []
    leave: list[trio.Event] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def live() -> None:
        async with manager as value:
            entered.append(value)
            leave.append(trio.Event())
            tokens.append(trio.lowlevel.current_trio_token())
            ready.set()
            await leave[0].wait()

    def run(function: Callable[[], Awaitable[None]]) -> None:
        trio.from_thread.run(function, trio_token=tokens[0])

    thread = threading.Thread(target=trio.run, args=(live,))
    thread.start()
    try:
        # One that dies before it is ready has said why on standard error.
        while not ready.wait(0.1):
            assert thread.is_alive()
        yield entered[0], run
    finally:
        if leave:
            trio.from_thread.run_sync(leave[0].set, trio_token=tokens[0])
        thread.join()
