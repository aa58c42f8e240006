"""Kinds of errors, their exit codes, and their one line."""

import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nvmf_host
import nvmf_transport
from nvmecontrol.failure import KINDS, Failure, failure_of, printable
from nvmf_transport.errors import (
    CommandError,
    ConfigError,
    ConnectionLostError,
    NvmfError,
    UnreachableError,
)
from nvmf_transport.status import Status


def _kinds():
    for package in (nvmf_transport, nvmf_host):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    found, pending = set(), [NvmfError]
    while pending:
        each = pending.pop()
        found.add(each.kind)
        pending += each.__subclasses__()
    return found


@pytest.mark.logs_warnings
def test_every_kind_of_error_has_its_exit_code_and_its_remedy():
    assert set() == _kinds() - set(KINDS)
    for _, remedy in KINDS.values():
        assert remedy


@pytest.mark.parametrize(
    ("kind", "code"),
    [("usage", 64), ("unreachable", 68), ("unavailable", 69), ("no-such-device", 72),
     ("no-daemon", 72), ("transport", 74), ("connect-rejected", 74), ("command", 74),
     ("busy", 74), ("not-connected", 74), ("outcome-unknown", 74), ("gone", 74),
     ("shutdown", 74), ("too-few-queues", 76), ("internal", 70),
     ("of a later version", 74)],
)  # fmt: skip
def test_exit_codes(kind, code):
    assert code == Failure("m", kind=kind).exit_code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("too long; shorten it", field="f", value="v"), "c: f v: too long; shorten it"),
        (UnreachableError("a:1: refused; look"), "c: a:1: refused; look"),
        (ConnectionLostError("closed"),
         "c: closed; check that an NVMe/TCP controller listens there"),
        (ExceptionGroup("g", [ExceptionGroup("h", [UnreachableError("no; way")])]),
         "c: no; way"),
        (OSError(28, "No space left on device"),
         "c: No space left on device; the output cannot be written; make room for it"),
        (Failure("two\nlines\x07; x", kind="busy"), "c: two\\x0alines\\x07; x"),
    ],
)  # fmt: skip
def test_lines(error, line):
    assert line == failure_of(error).line("c")


def test_a_status_is_carried():
    failure = failure_of(CommandError(Status(sct=0, sc=0x0B, dnr=True), "Identify"))

    assert (failure.kind, failure.to_json()["status"]) == ("command", "0/0B")


def test_a_step_is_carried():
    error = ConnectionLostError("closed")
    error.step = "ICReq"

    assert failure_of(error).to_json()["step"] == "ICReq"


@given(st.text())
def test_printable_text_is_one_line_that_a_terminal_only_shows(text):
    assert printable(text).isprintable()
