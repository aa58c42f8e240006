"""The harnesses by name.  Each is a function of the fuzzer's bytes that raises nothing.

What a harness raises is a fault of the code under test: an exception that is not documented, or an
`AssertionError` of its own.
"""

import importlib
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"

#: Name -> the longest input that is worth trying.
TARGETS: Final = {
    "host_connection": 1024,
    "controller_connection": 1024,
    "wire": 4200,
    "control": 512,
    "discovery": 512,
    "host_stack": 256,
    "controller_stack": 384,
}


def harness(name: str) -> Callable[[bytes], None]:
    """The function of one target."""
    check: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{name}").check
    return check


def corpus(name: str) -> list[Path]:
    """The committed inputs of one target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


class _Faults(logging.Handler):
    """Keeps what a guard caught and logged: a bug that cost one command or one connection."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.first is None and record.exc_info is not None:
            self.first = record.exc_info[1]


@contextmanager
def no_fault_logged() -> Generator[None]:
    """Raises what was caught by one of the guards that keep a bug from spreading."""
    faults = _Faults()
    root = logging.getLogger()
    root.addHandler(faults)
    disabled = logging.root.manager.disable
    # Everything below is what a hostile peer makes us say, thousands of times a second.
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(faults)
    if faults.first is not None:
        raise faults.first
