"""Cuts again and again, at points that chance chooses."""

import random
import time
from collections import Counter
from typing import Final

import attrs

from .proxy import TO_HOST, TO_TARGET
from .rig import Rig, eventually

#: A cut that waits for its byte is made anyway after so long.
_IMPATIENT_S: Final = 0.5


@attrs.frozen
class Tally:
    """What happened to the connections."""

    cuts: int
    with_commands: int
    commands: int
    inside: dict[str, int]

    def __str__(self) -> str:
        inside = ", ".join(f"{name or 'between PDUs'} {n}" for name, n in self.inside.items())
        return (
            f"{self.cuts} losses, {self.with_commands} with commands in flight "
            f"({self.commands} commands); cut inside: {inside or 'n/a'}"
        )


@attrs.define(eq=False)
class Cutter:
    """Loses the connections of a rig."""

    rig: Rig
    chance: random.Random
    #: (commands under way) of each loss, whoever made it.
    _losses: list[int] = attrs.field(init=False, factory=list)
    _inside: Counter[str] = attrs.field(init=False, factory=Counter)

    def cut(self) -> None:
        """One cut through the proxy: anywhere in either direction, one queue or all."""
        chance, proxy = self.chance, self.rig.proxy
        if chance.random() < 0.15:
            # First silence, so that completions are under way when it breaks.
            proxy.freeze()
            time.sleep(chance.uniform(0.05, 0.4))
        before = len(proxy.counts()["cuts"])
        qids = [qid for qid in proxy.counts()["qids"] if qid > 0]
        what = {
            "how": chance.choice(["rst", "fin"]),
            "queue": chance.choice(qids) if qids else None,
            "everything": chance.random() < 0.7,
        }
        armed = proxy.cut(
            **what,
            after_bytes=int(2 ** chance.uniform(0, 18)),
            direction=chance.choice([TO_HOST, TO_TARGET]),
        )
        proxy.thaw()
        deadline = time.monotonic() + _IMPATIENT_S
        while armed and len(proxy.counts()["cuts"]) == before:
            if time.monotonic() > deadline:
                proxy.cut(**what)
                break
            time.sleep(0.01)
        for cut in proxy.counts()["cuts"][before:]:
            self._losses.append(cut["in_flight"])
            self._inside[cut["inside"]] += 1

    def kill(self) -> None:
        """The target dies with all it had in hand, and comes back."""
        proxy = self.rig.proxy
        live = proxy.counts()["live"]
        proxy.clear()
        self.rig.kill_target()
        eventually(lambda: len(proxy.counts()["ends"]) >= live or not proxy.counts()["live"], "EOF")
        ends = proxy.counts()["ends"]
        self._losses.append(sum(end["in_flight"] for end in ends if end["qid"]))
        self._inside["target killed"] += 1
        time.sleep(self.chance.uniform(0, 0.5))
        self.rig.start_target()

    def tally(self) -> Tally:
        return Tally(
            len(self._losses),
            sum(1 for loss in self._losses if loss > 0),
            sum(self._losses),
            dict(self._inside.most_common()),
        )
