"""Verified writes while connections are cut, or the target is killed, every few seconds.

    python -m tests.reliability.soak --seconds 600 --target nvmfd-file --mode cut --digests

Ends with 1 where anything was lost, differed or failed, or where too few losses met commands in
flight.  Prints what it went through.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from .cutter import Cutter, Tally
from .rig import DIGESTS, TARGETS, Rig, eventually, rig
from .workload import Workload

#: As in ten minutes of cuts every few seconds.
_LOSSES_PER_S: Final = 100 / 600


@attrs.frozen(kw_only=True)
class Options:
    """What to go through."""

    seconds: float
    target: str = "nvmfd-file"
    mode: str = "cut"
    lba_bytes: int = 512
    digests: bool = False
    mib: int = 64
    #: Between two losses, on the average.
    every_s: float = 3.0
    seed: int = 1
    kato_s: int = 15

    @property
    def losses_wanted(self) -> int:
        """Losses with commands in flight that the run must have had."""
        return max(1, int(self.seconds * min(_LOSSES_PER_S, 0.3 / self.every_s)))


@attrs.frozen(kw_only=True)
class Report:
    """What it went through."""

    rounds: int
    tally: Tally
    associations: int
    replayed: int
    quarantined: int
    longest_recovery_s: float
    error: str

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds verified twice; {self.tally}; {self.associations} associations; "
            f"{self.replayed} writes replayed, {self.quarantined} quarantined; "
            f"live again after at most {self.longest_recovery_s:.1f} s; "
            f"{self.error or 'no error, no mismatch'}"
        )


def run(options: Options, folder: Path) -> Report:
    """One soak; `Report.error` is "" where nothing was lost."""
    with rig(folder, options.target, mib=options.mib, lba_bytes=options.lba_bytes) as on:
        on.connect(*("-r", "1", "-k", str(options.kato_s)), *(DIGESTS if options.digests else ()))
        return _soak(options, on)


def _soak(options: Options, on: Rig) -> Report:
    chance = random.Random(options.seed)
    cutter = Cutter(on, chance)
    workload = Workload(on.node, options.mib, options.lba_bytes, on.folder)
    workload.start()
    longest_s = 0.0
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline and not workload.error:
        time.sleep(options.every_s * chance.uniform(0.5, 1.5))
        if options.mode == "kill":
            cutter.kill()
        else:
            cutter.cut()
        longest_s = max(longest_s, eventually(on.is_live, "live again", within_s=60))
    workload.stop(within_s=600)
    namespace, associations = on.namespace(), on.state()["associations"]
    tally = cutter.tally()
    error = workload.error or _check_end(on, workload)
    if not error and tally.with_commands < options.losses_wanted:
        error = f"only {tally.with_commands} losses with commands in flight"
    return Report(
        rounds=workload.rounds,
        tally=tally,
        associations=associations,
        replayed=namespace["replayed_writes"],
        quarantined=namespace["quarantined_writes"],
        longest_recovery_s=longest_s,
        error=error,
    )


def _check_end(on: Rig, workload: Workload) -> str:
    """The end is orderly, and the medium has what was written last."""
    on.mount.nvmecontrol("disconnect", "nvme0")
    if code := on.mount.stop():
        return f"fusedev: exit code {code}"
    if on.disk is not None:
        if on.target is not None and (code := on.target.stop()):
            return f"nvmfd: exit code {code}"
        workload.verify(on.disk)
    return workload.error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--target", choices=TARGETS, default="nvmfd-file")
    parser.add_argument("--mode", choices=("cut", "kill"), default="cut")
    parser.add_argument("--lba", type=int, choices=(512, 4096), default=512)
    parser.add_argument("--digests", action="store_true")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between losses")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(argv)
    if given.mode == "kill" and given.target in {"nvmfd-ramdisk", "linux"}:
        parser.error(f"{given.target} does not survive being killed, or is not ours to kill")
    options = Options(
        seconds=given.seconds,
        target=given.target,
        mode=given.mode,
        lba_bytes=given.lba,
        digests=given.digests,
        mib=given.mib,
        every_s=given.every,
        seed=given.seed if given.seed is not None else random.randrange(1 << 30),
        # What nothing but time fences would hold newer writes back for half a minute.
        kato_s=2 if given.target == "linux" else 15,
    )
    print(f"soak: {options}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        if options.mode == "kill" and options.target == "nvmfd-volatile":
            from .volatile import soak as volatile_soak

            report: object = volatile_soak(options, Path(folder))
            error = str(getattr(report, "error", ""))
        else:
            report = run(options, Path(folder))
            error = report.error
    print(f"soak: {report}", flush=True)
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
