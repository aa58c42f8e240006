"""Runs the proxy in a process of its own, and asks it for things."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import attrs

from tests.programs import ProgramError


@attrs.define(eq=False)
class ProxyProcess:
    """A proxy that runs; the requests are those of `proxy.Proxy`."""

    process: "subprocess.Popen[str]"
    address: str

    def _ask(self, what: str, **fields: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ProgramError(f"the proxy ended at {what}")
        return json.loads(answer)

    def open(self) -> None:
        self._ask("open")

    def shut(self) -> None:
        self._ask("shut")

    def freeze(self, queue: int | None = None) -> None:
        self._ask("freeze", queue=queue)

    def thaw(self) -> None:
        self._ask("thaw")

    def strand(self, seconds: float) -> None:
        self._ask("strand", seconds=seconds)

    def cut(self, **fields: Any) -> bool:
        return bool(self._ask("cut", **fields))

    def set(self, **fields: Any) -> None:
        self._ask("set", **fields)

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("counts")
        return found

    def clear(self) -> None:
        self._ask("clear")


@contextlib.contextmanager
def proxy(target: str, listen: str = "127.0.0.1") -> Iterator[ProxyProcess]:
    """Runs a proxy to ADDRESS:PORT for as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.proxy", target, listen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            word, _, port = process.stdout.readline().strip().partition(" ")
            if word != "ready":
                raise ProgramError("the proxy did not start")
            yield ProxyProcess(process, f"{listen}:{port}")
        finally:
            process.kill()
