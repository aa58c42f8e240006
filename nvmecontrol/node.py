"""The control node: one session with the daemon, and the nodes that its directory holds."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from nvmf_host.messages import MAX_REQUEST_BYTES, Request

from .answers import structure
from .failure import Failure, printable, usage

CONTROL_NODE: Final = "nvmf"
FILE_SYSTEM_TYPE: Final = "fuse.nvmf"
_READ_BYTES: Final = 1 << 20
_DEVICE: Final = re.compile(r"nvme[0-9]+(ns[0-9]+)?")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


class Node(Protocol):
    """A session with the daemon: what commands need of `ControlNode`."""

    def request(self, request: Request) -> dict[str, Any]:
        """Sends a request and returns the `result` of its answer; raises `Failure`."""

    def close(self) -> None:
        """Ends the session; what still runs for it is cancelled."""


OpenNode = Callable[[Path], Node]


def default_directory() -> Path:
    """DIR where none is named: $NVMF_DEV, else /run/nvmf for root, $XDG_RUNTIME_DIR/nvmf else."""
    named = os.environ.get("NVMF_DEV")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/nvmf")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise Failure(
            "not named, and XDG_RUNTIME_DIR is not set; give --dev DIR or set NVMF_DEV",
            kind="no-daemon",
            field="dev",
            label="DIR",
        )
    return Path(runtime) / "nvmf"


def is_device_name(text: str) -> bool:
    """Whether `text` is the name of a controller or a namespace."""
    return _DEVICE.fullmatch(text) is not None


def split_device(text: str) -> tuple[Path | None, str]:
    """Splits what names a node into its DIR, None where only the name was given, and the name.

    Raises `Failure` for what cannot be the name of a node.
    """
    directory, _, name = text.rpartition("/")
    if not is_device_name(name):
        raise Failure(
            "not the name of a controller or namespace; write nvmeX, nvmeXnsY or the node's path",
            kind="no-such-device",
            field="device",
            value=text,
        )
    if "/" not in text:
        return None, name
    return Path(directory or "/"), name


def _no_daemon(directory: Path, why: str) -> Failure:
    return Failure(why, kind="no-daemon", field="dev", value=str(directory), label="DIR")


@attrs.define(eq=False)
class ControlNode:
    """An open control node.

    A request is one write of a JSON line.  Each read waits at most 100 ms in the daemon and gives
    nothing where there is nothing, so that a signal (Ctrl-C) is seen while an answer is awaited.
    """

    _directory: Path
    _descriptor: int
    _next_id: int = 1
    _received: bytearray = attrs.field(factory=bytearray)

    @classmethod
    def open(cls, directory: Path) -> "ControlNode":
        """Opens DIR/nvmf, having seen that DIR is a mount of ours; raises `Failure`."""
        directory = directory.absolute()
        path = directory / CONTROL_NODE
        try:
            # A FIFO or a device of somebody else's must not even be opened.
            found = path.stat()
            mounted = _is_our_mount(found.st_dev)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC) if mounted else -1
        except OSError as error:
            raise _no_daemon(directory, _why_not_open(directory, error)) from None
        if not mounted:
            raise _no_daemon(
                directory, "not a directory that fusedev serves; name its DIR with --dev"
            )
        return cls(directory, descriptor)

    def request(self, request: Request) -> dict[str, Any]:
        """Sends a request and returns the `result` of its answer; raises `Failure`."""
        identifier = self._next_id
        self._next_id += 1
        fields = {"id": identifier, "command": request.COMMAND, **given_fields(request)}
        line = json.dumps(fields).encode() + b"\n"
        if len(line) > MAX_REQUEST_BYTES:
            raise usage(
                f"the request has {len(line)} bytes, {MAX_REQUEST_BYTES} are allowed; ask for less",
                field="request",
                value=request.COMMAND,
            )
        try:
            os.write(self._descriptor, line)
            while True:
                answer = self._take_answer(identifier)
                if answer is not None:
                    return answer
                self._received += os.read(self._descriptor, _READ_BYTES)
        except OSError as error:
            raise _no_daemon(
                self._directory, f"the daemon ended before it answered ({error.strerror})"
            ) from None

    def _take_answer(self, identifier: int) -> dict[str, Any] | None:
        while (end := self._received.find(b"\n")) >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            answer = _parse(line)
            if answer.get("id") == identifier:
                return result_of(answer)
        return None

    def close(self) -> None:
        """Ends the session; what still runs for it is cancelled."""
        os.close(self._descriptor)


def given_fields(request: Request) -> dict[str, Any]:
    """The fields of a request that differ from their defaults: the daemon fills in the others,
    and knows them for defaults."""
    return attrs.asdict(
        request,
        filter=lambda field, value: field.default is attrs.NOTHING or value != field.default,
    )


def _parse(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Failure(
            f"an answer that is no JSON object: {printable(line[:80].decode('utf-8', 'replace'))}",
            kind="internal",
        )
    return answer


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The `result` of an answer; raises its `error` as a `Failure`."""
    error = answer.get("error")
    if error is None:
        result: dict[str, Any] = answer.get("result") or {}
        return result
    from nvmf_host.messages import ErrorInfo

    info = structure(ErrorInfo, error)
    raise Failure(
        info.message,
        kind=info.kind,
        field=info.field,
        value=info.value,
        status=info.status,
        step=info.step,
    )


def _why_not_open(directory: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOTCONN | errno.ECONNABORTED:
            return (
                "the daemon that served it is gone (dead mount); "
                f"start `fusedev {directory}` again, or `fusermount3 -u {directory}`"
            )
        case errno.ENOENT if not os.path.lexists(directory):
            return "no such directory; start `fusedev` there, or name its DIR with --dev"
        case errno.ENOENT | errno.ENOTDIR:
            return f"no fusedev serves it; start `fusedev {directory}`, or name its DIR with --dev"
        case errno.EACCES | errno.EPERM:
            return "permission denied; act as the user who started fusedev"
        case _:
            return f"{error.strerror}; start `fusedev {directory}`"


def _is_our_mount(device: int) -> bool:
    """Whether a mount of our type has this device number; without /proc nobody can tell: yes."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return True
    for line in lines:
        mount, _, described = line.partition(" - ")
        if mount.split(" ")[2] == wanted and described.split(" ")[0] == FILE_SYSTEM_TYPE:
            return True
    return False
