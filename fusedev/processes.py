"""What /proc says of the processes that opened a file: who they are, and whether they are dying.

A process that waits in FUSE for an answer of ours cannot die before it has it.  Whether it is about
to is seen in its pending signals.  One that has vanished is no sign of anything: a loop device goes
on with the file that its opener passed to it, and so does whoever inherited a descriptor.
"""

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from nvmf_host.io_request import Opener

_PROC: Final = Path("/proc")
#: Signals that do not end a process that neither catches nor ignores them.
_HARMLESS: Final = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


def _mask(signals: Iterable[int]) -> int:
    return sum(1 << (number - 1) for number in signals)


_KILL: Final = _mask({signal.SIGKILL})
_DEADLY: Final = _mask(set(range(1, 65)) - _HARMLESS)


def opener_of(pid: int, uid: int, proc: Path = _PROC) -> Opener | None:
    """The process that a thread belongs to; FUSE gives the thread's number.

    None where it cannot be watched: it has a number only elsewhere, or is a thread of the kernel.
    """
    status = _status(proc / str(pid))
    # Only programs have memory of their own; without it they would be taken for dying later on.
    if pid <= 0 or status is None or "VmSize" not in status:
        return None
    return Opener(int(status["Tgid"]), uid)


def dying(pids: Iterable[int], proc: Path = _PROC) -> set[int]:
    """Those processes that will end as soon as they may."""
    return {pid for pid in pids if _is_dying(proc / str(pid))}


def _is_dying(process: Path) -> bool:
    status = _status(process)
    if status is None:
        return False
    # Whoever ends a process gives SIGKILL to its threads, but for one that dumps its core, or is
    # about to become another program, and waits for the others.
    threads = [status] if status["Threads"] == "1" else _threads(process)
    return any(
        not _has_exited(thread) and (_has_deadly_signal(thread) or _is_exiting(thread))
        for thread in threads
    )


def _threads(process: Path) -> list[Mapping[str, str]]:
    try:
        found = [_status(thread) for thread in (process / "task").iterdir()]
    except OSError:
        return []
    return [status for status in found if status is not None]


def _has_exited(status: Mapping[str, str]) -> bool:
    return status["State"][0] in "ZX"


def _is_exiting(status: Mapping[str, str]) -> bool:
    """Its memory is gone already: it waits for the end of asynchronous I/O (io_submit(2))."""
    return "VmSize" not in status


def _has_deadly_signal(status: Mapping[str, str]) -> bool:
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    if pending & _KILL:
        return True
    if int(status["TracerPid"]):
        # A debugger may take any other signal away.
        return False
    kept = int(status["SigBlk"], 16) | int(status["SigIgn"], 16) | int(status["SigCgt"], 16)
    return bool(pending & ~kept & _DEADLY)


def _status(process: Path) -> Mapping[str, str] | None:
    """The lines of a status file (proc_pid_status(5)); None where there is no such process."""
    try:
        text = (process / "status").read_text("ascii", "replace")
    except OSError:
        return None
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}
