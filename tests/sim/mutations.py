"""`python -m tests.sim.mutations`: what the simulation must find is broken on purpose; `make
sim-mutations`.

Each mutation is a change of the sources in a copy of them.  One that the simulation does not find
means that it proves less than it seems to; one that does not fit any more has to be written anew.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import attrs

_ROOT: Final = Path(__file__).parents[2]
_PACKAGES: Final = ("nvmf_transport", "nvmf_host", "nvmf_controller", "tests")


@attrs.frozen
class Mutation:
    """Replacements of text, each once, in files under the project's folder."""

    name: str
    changes: tuple[tuple[str, str, str], ...]


_SEND_REPLAYS: Final = """        if self._ambiguous:
            self.reason = "writes that were interrupted"""
_AER: Final = """        with step("Asynchronous Event Configuration"):
            for _ in range("""
_IDENTIFY: Final = "                    await identify(\n                        association,\n"
_ABANDON: Final = """        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED
"""
_NOTED: Final = """        if not request.well:
            # A namespace that resumes before a task has come to see it through has to know.
            self.note_doubt(request)
"""
_LAUNCHED: Final = "    return Launch(namespace, request, data, held)\n"

MUTATIONS: Final = (
    Mutation(
        "no quarantine",
        (
            (
                "nvmf_host/quarantine.py",
                "    def _settle(self, held: Held, fences: list[Fence]) -> None:\n",
                "    def _settle(self, held: Held, fences: list[Fence]) -> None:\n"
                "        fences = []\n",
            ),
        ),
    ),
    Mutation(
        "EN=0 not awaited",
        (
            (
                "nvmf_host/handshake.py",
                '    await _poll(queue, lambda csts: csts.rdy == 0, "CSTS.RDY=0", timeout_s, '
                "cfs_is_fatal=False)\n",
                "",
            ),
        ),
    ),
    Mutation(
        "fence timer not multiplied",
        (
            ("nvmf_host/fencing.py", "_PERIODS: Final = 2\n", "_PERIODS: Final = 1\n"),
            ("nvmf_host/fencing.py", "_PERIODS_TBKAS: Final = 3\n", "_PERIODS_TBKAS: Final = 1\n"),
        ),
    ),
    Mutation(
        "O_DSYNC ignored: no write has FUA",
        (
            (
                "nvmf_host/io_request.py",
                "rw_cdw12(nlb, fua=True) if self.fua else nlb - 1)",
                "nlb - 1)",
            ),
        ),
    ),
    Mutation(
        "a cache loss is not looked for",
        (("nvmf_host/by_hand.py", "        elif where:\n", "        elif where and False:\n"),),
    ),
    Mutation(
        "fsync silent after a cache loss",
        (("nvmf_host/io_engine.py", "        self.losses += 1\n", ""),),
    ),
    Mutation(
        "an unaligned write replayed from its write",
        (("nvmf_host/unaligned.py", "        merge=merge,\n", ""),),
    ),
    Mutation(
        "an unaligned write sent late as it was read",
        (
            (
                "nvmf_host/unaligned.py",
                "        if not any(read.has_slept for read in reads[1:]) and all(\n"
                "            engine.sends(read.path, ambiguous=request.ambiguous) "
                "for read in reads\n"
                "        ):",
                "        if True:",
            ),
        ),
    ),
    Mutation(
        "resumed before AERs are armed",
        (
            (
                "nvmf_host/association.py",
                _AER,
                "        self.mutant = (nursery, on_namespaces)\n\n"
                "    async def arm(self) -> None:\n"
                "        nursery, on_namespaces = self.mutant\n"
                "        queue = self.admin\n"
                "        if True:\n"
                "            for _ in range(",
            ),
            (
                "nvmf_host/controller.py",
                "                        self._came_alive(association)\n",
                "                        self._came_alive(association)\n"
                "                        await association.arm()\n",
            ),
        ),
    ),
    Mutation(
        "resumed before identified",
        (
            (
                "nvmf_host/controller.py",
                _IDENTIFY,
                "                    for mutant in self.roster.namespaces.values():\n"
                "                        mutant.engine.hold('')\n"
                "                        mutant.engine.resume("
                "self.roster.path(mutant, association))\n" + _IDENTIFY,
            ),
        ),
    ),
    Mutation(
        "CID freed on cancel",
        (
            (
                "nvmf_host/io_request.py",
                "submit(self._transfer(path.nsid, self.slba, self.nlb, self.data))",
                "submit(self._keep(path))",
            ),
            (
                "nvmf_host/io_request.py",
                "    def fail(self, error: Exception) -> None:\n",
                "    def _keep(self, path):\n"
                "        whole = self._transfer(path.nsid, self.slba, self.nlb, self.data)\n"
                "        self.mutant = [whole]\n"
                "        return whole\n\n"
                "    def fail(self, error: Exception) -> None:\n",
            ),
            (
                "nvmf_host/io_request.py",
                "        self.outstanding = len(commands)\n",
                "        self.outstanding = len(commands)\n        self.mutant = commands\n",
            ),
            (
                "nvmf_host/io_request.py",
                _ABANDON,
                "        for queue in self.path.queues if self.outstanding else ():\n"
                "            for cid, command in enumerate(queue._slots):\n"
                "                if command in self.mutant:\n"
                "                    queue._slots[cid] = None\n"
                "                    queue._free.appendleft(cid)\n"
                "                    queue._qpair._outstanding.pop(cid, None)\n"
                "        self.outstanding = 0\n" + _ABANDON,
            ),
        ),
    ),
    Mutation(
        "replay out of order: with what is newer, the newest first",
        (
            (
                "nvmf_host/io_engine.py",
                _SEND_REPLAYS,
                _SEND_REPLAYS.replace("if self._ambiguous:", "if False:"),
            ),
            (
                "nvmf_host/io_engine.py",
                "        for order in sorted(self._waiting):\n            if self.state",
                "        for order in sorted(self._waiting, reverse=True):\n"
                "            if self.state",
            ),
        ),
    ),
    Mutation(
        "a killed writer's range is given back at once",
        (
            (
                "nvmf_host/quarantine.py",
                "        elif request.outstanding:\n",
                "        elif request.outstanding and False:\n",
            ),
        ),
    ),
    Mutation(
        "CQT is not waited for",
        (("nvmf_host/fencing.py", "* self.kato_s + self.cqt_s\n", "* self.kato_s\n"),),
    ),
    Mutation(
        "without KATO, time lifts a fence",
        (
            (
                "nvmf_host/fencing.py",
                "            return None\n        return (",
                "            return 0.5\n        return (",
            ),
        ),
    ),
    Mutation(
        "a quarantine ends with its node",
        (
            (
                "nvmf_host/quarantine.py",
                "        for one in self.ranges():\n            self._pass_on(one)\n",
                "        self._heir = None\n",
            ),
        ),
    ),
    Mutation(
        "the replay limit is not looked at",
        (
            (
                "nvmf_host/roster.py",
                "            and namespace.has_waiting_changes\n        ):",
                "            and False\n        ):",
            ),
        ),
    ),
    Mutation(
        "a namespace that is smaller goes on",
        (
            (
                "nvmf_host/verdict.py",
                "    elif now.size_lbas < was.size_lbas:\n",
                "    elif now.size_lbas < was.size_lbas and False:\n",
            ),
        ),
    ),
    # What is launched without a task.  Neither a doubt that is noted late nor a bad data digest is
    # among them: tests/host/test_launch*.py find those, no scenario does.
    Mutation(
        "launched: a write's range is given back before its outcome",
        (
            (
                "nvmf_host/launch.py",
                _LAUNCHED,
                "    if not held.blockers:\n        namespace.line.let_go(held, None)\n"
                + _LAUNCHED,
            ),
        ),
    ),
    Mutation(
        "launched: a write's range is given back where its attempt failed",
        (
            (
                "nvmf_host/launch.py",
                "        if not engine.conclude(request):\n",
                "        if not engine.conclude(request):\n"
                "            if self._held is not None:\n"
                "                self._namespace.line.let_go(self._held, None)\n",
            ),
        ),
    ),
    Mutation(
        "launched: nobody looks whose the LBAs are",
        (("nvmf_host/launch.py", "    if not held.blockers:\n", "    if True:\n"),),
    ),
    Mutation(
        "launched: a failed status is a success",
        (
            (
                "nvmf_host/io_engine.py",
                _NOTED,
                _NOTED.replace("request.well", "request.well and not request.status"),
            ),
        ),
    ),
    Mutation(
        "launched: the log of what is unflushed is not told",
        (
            (
                "nvmf_host/io_engine.py",
                "            self.acknowledge(request, 0)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutation(
        "launched: no write has FUA",
        (("nvmf_host/launch.py", "        request.fua = True\n", "        pass\n"),),
    ),
)


@attrs.frozen
class Verdict:
    """Whether a mutation was found, and how."""

    mutation: Mutation
    found: bool
    how: str
    seconds: float


def try_mutation(mutation: Mutation, *, scenarios: int, seed: int) -> Verdict:
    """Runs the simulation on mutated sources."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in _PACKAGES:
            shutil.copytree(
                _ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        for path, old, new in mutation.changes:
            text = (root / path).read_text("utf-8")
            if text.count(old) != 1:
                return Verdict(
                    mutation, found=False, how=f"does not fit {path} any more", seconds=0.0
                )
            (root / path).write_text(text.replace(old, new), "utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.sim.hunt"),
                *("--scenarios", str(scenarios), "--seed", str(seed)),
            ],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    how = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
    found = done.returncode == 1 and how[0].startswith("after ")
    return Verdict(mutation, found, how[0] if found else how[-1], time.monotonic() - began)


def main() -> int:
    """Tries all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutations", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=5000, help="until it is given up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="those with this in their names")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name]
    missed = 0
    attempt = partial(try_mutation, scenarios=options.scenarios, seed=options.seed)
    with ThreadPoolExecutor(options.workers) as pool:
        for verdict in pool.map(attempt, chosen):
            missed += not verdict.found
            print(
                f"{'found ' if verdict.found else 'MISSED'}  {verdict.mutation.name}: "
                f"{verdict.how} ({verdict.seconds:.0f} s)",
                flush=True,
            )
    print(f"{len(chosen) - missed} of {len(chosen)} mutations found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
