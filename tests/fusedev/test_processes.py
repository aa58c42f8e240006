"""Who is about to die, as /proc has it."""

import os
import subprocess
import sys

import pytest

from fusedev.processes import dying, opener_of
from nvmf_host.io_request import Opener

KILL, TERM, QUIT, STOP, CHLD = (f"{1 << number - 1:016x}" for number in (9, 15, 3, 19, 17))
NONE = "0" * 16


def status(state="S (sleeping)", memory=True, tgid=7, threads=1, **fields):
    lines = {
        "Name": "a: (name)",
        "State": state,
        "Tgid": str(tgid),
        "TracerPid": "0",
        "Threads": str(threads),
        **({"VmSize": "10 kB"} if memory else {}),
        **dict.fromkeys(("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"), NONE),
        **fields,
    }
    return "".join(f"{name}:\t{value}\n" for name, value in lines.items())


@pytest.fixture
def proc(tmp_path):
    def write(text, *threads):
        process = tmp_path / "7"
        (process / "task").mkdir(parents=True)
        (process / "status").write_text(text)
        for number, thread in enumerate((text, *threads)):
            (process / "task" / str(number)).mkdir()
            (process / "task" / str(number) / "status").write_text(thread)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "text",
    [
        status(SigPnd=KILL),
        status(ShdPnd=KILL),
        status(SigPnd=KILL, TracerPid="8"),
        status(ShdPnd=TERM),
        status(ShdPnd=QUIT, SigBlk=TERM),
        # Killed with asynchronous I/O: its memory goes before it does.
        status(memory=False, state="D (disk sleep)"),
    ],
)
def test_who_has_a_deadly_signal_pending_is_dying(proc, text):
    assert dying([7], proc(text)) == {7}


@pytest.mark.parametrize(
    "text",
    [
        status(),
        status(SigPnd=STOP),
        status(ShdPnd=CHLD),
        status(SigPnd=TERM, SigBlk=TERM),
        status(ShdPnd=TERM, SigIgn=TERM),
        status(ShdPnd=TERM, SigCgt=TERM),
        status(ShdPnd=TERM, TracerPid="8"),
        # A loop device, or an heir of its descriptors, may go on with what it opened.
        status(state="Z (zombie)", memory=False),
    ],
)
def test_who_has_none_is_not(proc, text):
    assert dying([7], proc(text)) == set()


def test_who_has_vanished_is_not(tmp_path):
    assert dying([7], tmp_path) == set()


def test_the_other_threads_speak_for_one_that_has_ended(proc):
    zombie = status(state="Z (zombie)", memory=False, threads=3)

    assert dying([7], proc(zombie, status(), status(SigPnd=KILL))) == {7}


def test_threads_that_live_on_after_the_first_are_not_dying(proc):
    zombie = status(state="Z (zombie)", memory=False, threads=2)

    assert dying([7], proc(zombie, status())) == set()


def test_a_thread_that_waits_for_the_end_of_the_others_is_no_obstacle(proc):
    assert dying([7], proc(status("D (disk sleep)", threads=2), status(SigPnd=KILL))) == {7}


def test_an_opener_is_the_process_of_a_thread(proc):
    assert opener_of(7, 1000, proc(status(tgid=5))) == Opener(5, 1000)


def test_a_thread_of_the_kernel_is_no_opener_that_can_be_watched(proc):
    assert opener_of(7, 0, proc(status(memory=False))) is None


def test_who_is_not_seen_from_here_is_no_opener(tmp_path):
    assert opener_of(0, 0) is None
    assert opener_of(7, 0, tmp_path) is None


def test_real_processes_are_understood():
    assert opener_of(os.getpid(), 3) == Opener(os.getpid(), 3)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert dying([os.getpid(), process.pid, 2]) <= {2}
        process.kill()
        # It cannot be caught in the act without a file system that keeps it waiting: see
        # test_fuse_killing.
        process.communicate()
        assert dying([process.pid]) == set()
