"""What can go wrong, told in one line, as JSON and as an exit code."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import click

from nvmf_transport.errors import NvmfError

EX_USAGE: Final = 64
EX_NOHOST: Final = 68
EX_UNAVAILABLE: Final = 69
EX_SOFTWARE: Final = 70
EX_OSFILE: Final = 72
EX_IOERR: Final = 74
EX_PROTOCOL: Final = 76
EX_INTERRUPTED: Final = 130

#: `NvmfError.kind` -> exit code, and what to do where the message does not say it.
KINDS: Final[dict[str, tuple[int, str]]] = {
    "usage": (EX_USAGE, "see `{command} --help`"),
    "unreachable": (EX_NOHOST, "check the address, and that a controller listens there"),
    "unavailable": (EX_UNAVAILABLE, "ask for what the controller offers, see `identify`"),
    "no-such-device": (EX_OSFILE, "`nvmecontrol devlist` names those there are"),
    "no-daemon": (EX_OSFILE, "start `fusedev DIR`, and name DIR with --dev or $NVMF_DEV"),
    "transport": (EX_IOERR, "check that an NVMe/TCP controller listens there"),
    "connect-rejected": (EX_IOERR, "check SUBNQN and the host NQN against the target's settings"),
    "command": (EX_IOERR, "the status is the controller's; see `devlist` for its state"),
    "busy": (EX_IOERR, "see `nvmecontrol devlist`"),
    "not-connected": (EX_IOERR, "reconnect first, or wait: see `nvmecontrol devlist`"),
    "outcome-unknown": (EX_IOERR, "it may have been executed: look before doing it again"),
    "gone": (EX_IOERR, "see `nvmecontrol devlist`"),
    "killed": (EX_IOERR, "do it again"),
    "unflushed-lost": (EX_IOERR, "see `nvmecontrol devlist`, and write the data again"),
    "shutdown": (EX_IOERR, "start fusedev again"),
    "end-of-namespace": (EX_IOERR, "`nvmecontrol identify` tells its size"),
    "read-only": (EX_IOERR, "connect without --read-only, or lift the write protection"),
    "unsupported": (EX_IOERR, "`nvmecontrol identify` tells what the controller offers"),
    "too-few-queues": (EX_PROTOCOL, "ask for fewer with -i, or leave -i out"),
    "output": (EX_IOERR, "the output cannot be written; make room for it"),
    "internal": (EX_SOFTWARE, "this is a fault of this program, please report it"),
}

#: Statuses (SCT/SC) that mean "no such log page" where a page is all that was asked for.
NO_SUCH_LOG_PAGE: Final = frozenset({"1/09", "0/02"})


_NO_LABELS: Final[Mapping[str, str]] = {}


@attrs.define(eq=False, slots=False)
class Failure(Exception):  # noqa: N818 - it is a refusal as often as an error
    """Ends a command.  `message` reads WHY; DO, in one line; `field` and `value` are the WHAT."""

    message: str
    kind: str = attrs.field(default="internal", kw_only=True)
    field: str | None = attrs.field(default=None, kw_only=True)
    value: str | None = attrs.field(default=None, kw_only=True)
    #: "SCT/SC" in hex of a completion.
    status: str | None = attrs.field(default=None, kw_only=True)
    #: The step of a handshake that failed.
    step: str | None = attrs.field(default=None, kw_only=True)
    #: How the option or argument is called on the command line, where not as the field.
    label: str | None = attrs.field(default=None, kw_only=True)

    @property
    def exit_code(self) -> int:
        """The exit code of this kind; an unknown kind is an I/O error."""
        return KINDS.get(self.kind, (EX_IOERR, ""))[0]

    def line(self, command: str, labels: Mapping[str, str] = _NO_LABELS) -> str:
        """COMMAND: WHAT: WHY; DO, safe to print; `labels` is how the command line calls fields."""
        what = self._what(labels)
        # Errors of addresses begin with the address.
        why = self.message.removeprefix(f"{self.value}: ")
        if ";" not in why:
            remedy = KINDS.get(self.kind, (0, "see `nvmecontrol devlist`"))[1]
            why = f"{why}; {remedy.format(command=command)}"
        parts = [command, what, why] if what else [command, why]
        return printable(": ".join(parts))

    def _what(self, labels: Mapping[str, str]) -> str | None:
        label = self.label or (self.field and labels.get(self.field, self.field))
        if label is None:
            return None
        return f"{label} {self.value}" if self.value else label

    def to_json(self) -> dict[str, Any]:
        """The `error` object."""
        return {
            "kind": self.kind,
            "message": self.message,
            "field": self.field,
            "value": self.value,
            "status": self.status,
            "step": self.step,
            "exit_code": self.exit_code,
        }


def usage(message: str, *, field: str, value: object = "", label: str | None = None) -> Failure:
    """A refusal of what was typed."""
    return Failure(message, kind="usage", field=field, value=str(value), label=label)


def label_of(parameter: click.Parameter) -> str:
    """How a parameter is called on the command line: its first long name."""
    if isinstance(parameter, click.Option):
        return next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0])
    return (parameter.name or "").upper()


def _label_of_missing(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name
    return label_of(parameter)


def failure_of(error: BaseException) -> Failure:
    """What any exception means to the user; what is not ours is a fault of this program."""
    match error:
        case Failure():
            return error
        case click.MissingParameter():
            return Failure(
                "missing",
                kind="usage",
                field=error.param.name if error.param else None,
                label=_label_of_missing(error.param) if error.param else None,
            )
        case click.NoSuchOption():
            return Failure(_no_such_option(error), kind="usage", field=error.option_name)
        case click.BadOptionUsage():
            return Failure("needs a value", kind="usage", field=error.option_name)
        case click.ClickException():
            return Failure(error.format_message().rstrip(".").replace("\n", " "), kind="usage")
        case NvmfError():
            return _failure_of_nvmf_error(error)
        case OSError():
            # Whatever else the system refuses is told where it is asked for.
            return Failure(error.strerror or str(error), kind="output")
        case BaseExceptionGroup():
            return failure_of(error.exceptions[0])
        case _:
            return Failure(f"{type(error).__name__}: {error}", kind="internal")


def _no_such_option(error: click.NoSuchOption) -> str:
    parameters = error.ctx.command.params if error.ctx else []
    hidden = {name for each in parameters if getattr(each, "hidden", False) for name in each.opts}
    near = [name for name in error.possibilities or () if name not in hidden]
    return f"no such option, perhaps {' or '.join(near)}" if near else "no such option"


def _failure_of_nvmf_error(error: NvmfError) -> Failure:
    status = getattr(error, "status", None)
    return Failure(
        str(error),
        kind=error.kind,
        field=error.field,
        value=error.value,
        status=f"{status.sct:X}/{status.sc:02X}" if status is not None else None,
        step=getattr(error, "step", None),
    )


def printable(text: str) -> str:
    """`text` in one line without anything that a terminal would obey: escapes instead."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    # Bytes that were no UTF-8 stand as lone surrogates (surrogateescape).
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
