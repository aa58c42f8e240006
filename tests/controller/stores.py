"""A backing store that keeps commands waiting until the test lets them go."""

import trio

from nvmf_controller import RamDisk


class SlowStore(RamDisk):
    """A RAM disk behind a gate: like a file, whose threads cannot be interrupted."""

    inline = None  # type: ignore[assignment]

    def __init__(self, size_bytes: int = 1 << 20) -> None:
        super().__init__(size_bytes)
        self.volatile_cache = True
        self.gate = trio.Event()
        #: Names of operations in the order in which they began and ended.
        self.begun: list[str] = []
        self.done: list[str] = []

    async def _operate(self, name: str) -> None:
        self.begun.append(name)
        with trio.CancelScope(shield=True):
            await self.gate.wait()
        self.done.append(name)

    async def read(self, offset, length):
        await self._operate("read")
        return await super().read(offset, length)

    async def write(self, offset, data, *, fua):
        await self._operate("write")
        await super().write(offset, data, fua=fua)

    async def flush(self):
        await self._operate("flush")
