"""docs/errors.md, made from the situations: `scripts/errors-doc` writes it."""

import re
from pathlib import Path
from typing import Final

from .situation import Situation
from .situations import GROUPS

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "errors.md"
_INTRODUCTION: Final = """# What can go wrong, and what is said then

<!-- Made by scripts/errors-doc from tests/e2e/situations.py, whose rows are also tests. -->

Every refusal is one line on standard error, `COMMAND: WHAT: WHY; DO`, and an exit code. With
`--json` nvmecontrol also prints `{"schema": 1, "error": {...}}` on standard output: `kind`, `field`
and `value` name what the error is about, `step` the step of a handshake, `status` the status of a
completion (SCT/SC). After each of these no controller, node, mount or process is left,
and other controllers and their data are as before.

| code | nvmecontrol | fusedev | nvmfd |
|---|---|---|---|
| 0 | done; what is not served is named | an orderly end | an orderly end |
| 1 | | a second signal | any start-up error but the command line |
| 64 | usage, syntax of an address or NQN, a number out of range | usage | usage |
| 68 | name not found, refused, unreachable, no TCP connection in time | | |
| 69 | unknown transport, no NVM command set, no such log page, no controllers | | |
| 70 | a fault of this program | | |
| 71 | | the mount failed | |
| 72 | no daemon at DIR, no such node | no DIR, or no /dev/fuse | |
| 73 | | DIR is busy | |
| 74 | no NVMe/TCP peer, or one that fails; CONNECT refused, command failed, already connected, \
`reconnect` while live | something acknowledged may not be durable | |
| 76 | too few queues | | |
| 130 | Ctrl-C | | |
"""
#: What stands in the document for the stage's names; a peer has an address.
_PEER: Final = "192.0.2.7:4420"
_SHOWN: Final = {
    "nqn": "NQN",
    "live_nqn": "NQN",
    "long_nqn": "xxx...",
    "hostnqn": "HOSTNQN",
    "live_port": "PORT",
    "here": "/srv",
    "dev": "DIR",
    "seconds": "10",
    "any": "...",
}


def _shown(text: str) -> str:
    text = text.replace("a" * 64, "aaa...").replace("nvme{seconds}", "nvme2")
    text = text.replace("queue {seconds}", "queue 1").replace("not {seconds}", "not 7")
    named = re.sub(r"\{([a-z0-9_]+)\}", lambda found: _SHOWN.get(found[1], _PEER), text)
    return named.replace("|", r"\|").replace("\t", r"\t")


def _row(situation: Situation) -> str:
    where = f"({situation.prefix}) " if situation.prefix else ""
    code = f"{situation.code}, serves" if situation.serves else str(situation.code)
    name = situation.field or ""
    if situation.value:
        name += f" `{_shown(situation.value)}`"
    said = f"`` {_shown(situation.line)} ``" if situation.says else "nothing"
    cells = (
        situation.what,
        f"{where}`` {_shown(situation.command)} ``",
        code,
        situation.kind or "",
        name,
        said,
    )
    return f"| {' | '.join(cells)} |"


def document() -> str:
    """The whole text of docs/errors.md."""
    parts = [_INTRODUCTION]
    for title, situations in GROUPS.items():
        rows = "\n".join(map(_row, situations))
        parts.append(
            f"\n## {title}\n\n| what is wrong | command | code | kind | field, value | it says |\n"
            f"|---|---|---|---|---|---|\n{rows}\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
