"""What the situations play on: a mount with one live and one lost controller, and their peers."""

import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from tests import programs
from tests.programs import BIN, Mount, free_port, running

from .peers import SUBNQN
from .situation import Situation

SIZE_BYTES: Final = 1 << 20
#: A device that is not there: without a file system on /dev there is no /dev/fuse.
_WITHOUT_DEVICES: Final = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev; exec "$@"', "sh")
#: Another user, who can still read this interpreter.
_OTHER_USER: Final = (
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
    *("--bounding-set", "-sys_admin"),
)
#: Root, but bound by the modes of files as anybody is.
_WITHOUT_RIGHTS: Final = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
PREFIXES: Final[dict[str, tuple[str, ...]]] = {
    "": (),
    "without devices": _WITHOUT_DEVICES,
    "another user": _OTHER_USER,
    "without rights": _WITHOUT_RIGHTS,
}


@attrs.frozen
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.stdout)
        return answer


@attrs.define(eq=False)
class Stage:
    """Everything that commands of situations name."""

    mount: Mount
    names: dict[str, str]
    checksum: str
    folder: Path
    _waiting: ThreadPoolExecutor
    _working: ThreadPoolExecutor
    _early: dict[str, Future[Outcome]] = attrs.field(factory=dict)

    def fill_in(self, text: str) -> str:
        """The text with the names of this stage."""
        return text.format_map(self.names)

    def arguments(self, command: str, *, json_too: bool = False) -> list[str]:
        program, *arguments = shlex.split(self.fill_in(command))
        extra = ["--json"] if json_too else []
        return [str(BIN / program), *extra, *arguments]

    def run(self, command: str, *, prefix: str = "", json_too: bool = False) -> Outcome:
        """Runs a command to its end; one that does not end in 60 s is a fault."""
        done = subprocess.run(
            [*PREFIXES[prefix], *self.arguments(command, json_too=json_too)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=self.folder,
            env=os.environ | {"NVMF_DEV": str(self.mount.path)},
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run_early(self, situation: Situation) -> None:
        """Begins a command whose outcome is looked at later."""
        pool = self._waiting if situation.slow else self._working
        self._early[situation.name] = pool.submit(
            self.run,
            situation.command,
            prefix=situation.prefix,
            json_too=situation.program == "nvmecontrol",
        )

    def outcome_of(self, situation: Situation) -> Outcome:
        return self._early[situation.name].result()

    def controllers(self) -> list[dict[str, Any]]:
        answer = self.mount.nvmecontrol("--json", "devlist").stdout
        found: list[dict[str, Any]] = json.loads(answer)["controllers"]
        return found

    def check_whole(self) -> None:
        """The live namespace still serves what was written to it."""
        data = (self.mount.path / "nvme0ns1").read_bytes()
        assert hashlib.sha256(data).hexdigest() == self.checksum


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(line.split(" ")[4] for line in lines if f" {folder}/" in line)


def _dead_mount(path: Path, log: Path) -> None:
    """Leaves a mount whose daemon was killed."""
    with programs.fusedev(path, log=log) as mount:
        mount.kill()


def _unmount(path: Path) -> None:
    # Not there any more where a test has seen to it.
    programs.run("umount", "-l", path, check=False)


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """Starts everything; at the end nothing of it is left."""
    data = os.urandom(SIZE_BYTES)
    (folder / "disk").write_bytes(data)
    (folder / "odd").write_bytes(bytes(1000))
    (folder / "empty").write_bytes(b"")
    (folder / "file").write_bytes(b"")
    (folder / "spare").write_bytes(bytes(4096))
    for name in ("busy", "dead", "dead2", "folder", "free", "free2", "secret"):
        (folder / name).mkdir()
    (folder / "secret" / "file").write_bytes(bytes(4096))
    os.chown(folder / "secret", 65534, 65534)
    (folder / "secret").chmod(0)
    with ExitStack() as stack:
        enter = stack.enter_context
        peers_log = folder / "peers.log"
        peers = enter(running([BIN / "python", "-m", "tests.e2e.peers"], peers_log))
        live = enter(programs.nvmfd(folder / "disk", log=folder / "live.log"))
        lost = enter(programs.nvmfd("ramdisk:1M", log=folder / "lost.log"))
        mount = enter(programs.fusedev(folder / "dev", log=folder / "fusedev.log"))
        assert mount.connect(live.address, live.subnqn) == "nvme0"
        assert mount.connect(lost.address, lost.subnqn, "-r", "0") == "nvme1"
        lost.kill()
        for name in ("dead", "dead2"):
            _dead_mount(folder / name, folder / "dead.log")
            stack.callback(_unmount, folder / name)
        subprocess.run(["mount", "-t", "tmpfs", "none", folder / "busy"], check=True)
        stack.callback(_unmount, folder / "busy")
        names = json.loads(peers.ready.removeprefix("ready "))
        names |= {
            "nqn": SUBNQN,
            "live": live.address,
            "live_port": str(live.port),
            "live_nqn": live.subnqn,
            "lost": lost.address,
            "refused": f"127.0.0.1:{free_port()}",
            "hostnqn": json.loads(programs.nvmecontrol("--json", "hostnqn").stdout)["hostnqn"],
            "long_nqn": "x" * 224,
            "dev": str(mount.path),
            "here": str(folder),
        }
        # Those that wait for a time limit take no processor; those that do not, take turns.
        waiting, working = enter(ThreadPoolExecutor(64)), enter(ThreadPoolExecutor(4))
        yield Stage(
            mount=mount,
            names=names,
            checksum=hashlib.sha256(data).hexdigest(),
            folder=folder,
            waiting=waiting,
            working=working,
        )


def pattern_of(text: str, names: dict[str, str]) -> re.Pattern[str]:
    """What a situation says, as a pattern: `{seconds}` is a number, `{any}` anything."""
    pieces = re.split(r"(\{[a-z0-9_]+\})", text)
    wild = {"{seconds}": r"[0-9.]+", "{any}": ".*"}
    return re.compile(
        "".join(
            wild[piece]
            if piece in wild
            else re.escape(names.get(piece[1:-1], piece))
            if piece.startswith("{")
            else re.escape(piece)
            for piece in pieces
        )
    )
