"""A mount with no device behind: one namespace in memory.  `python -m` this, with DIR.

The namespace is `nvme0ns1`.  It answers without waiting, so what a request costs is FUSE's,
pyfuse3's and the adapter's.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from fusedev import mount
from fusedev.daemon import Daemon
from tests.fusedev.fakes import FakeController, FakeNamespace

SIZE_BYTES: Final = 64 << 20


class MemoryNamespace(FakeNamespace):
    """A namespace that keeps no record of what it was asked."""

    async def read(self, offset: int, length: int, *, opener: object = None) -> bytes:
        return bytes(self.data[offset : offset + length])

    async def write(
        self, offset: int, data: Any, *, fua: bool = False, opener: object = None
    ) -> int:
        self.data[offset : offset + len(data)] = data
        return len(data)


class MemoryHost:
    """A host with one controller, to which nothing happens."""

    def __init__(self) -> None:
        controller = FakeController("nvme0")
        controller.namespaces[1] = MemoryNamespace("nvme0ns1", bytearray(SIZE_BYTES))
        self.max_held_bytes: int | None = None
        self.controllers: Mapping[str, Any] = {controller.name: controller}

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        """There will be no news."""

    async def close(self) -> list[str]:
        """Nothing can go wrong."""
        return []


class NoControl:
    """Nobody asks for anything."""

    def open_session(self) -> Any:
        """The daemon opens the control node once, to see whether it answers."""
        return _NoSession()


class _NoSession:
    def submit(self, line: bytes) -> None:
        """Requests are not expected."""

    async def read(self, max_bytes: int, *, wait_s: float = 0.1) -> bytes:
        """There is no answer."""
        return b""

    def close(self) -> None:
        """Nothing to end."""


def main() -> None:
    """Serves until SIGTERM."""
    point = mount.choose(sys.argv[1], {}, 0)
    mount.prepare(point)
    trio.run(Daemon(MemoryHost(), NoControl(), point).run)


if __name__ == "__main__":
    main()
