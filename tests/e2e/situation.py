"""One row of the table of situations, and the kinds of rows that come often.

In texts, {name} is a peer, an address or a folder of the stage (`stage.py`), {seconds} a number
and {any} anything.
"""

import re
from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Situation:
    """One thing that is wrong, the command that meets it, and how that ends."""

    what: str
    command: str
    code: int
    #: All of standard error.  nvmecontrol's begins after "nvmecontrol COMMAND: ".
    says: str
    #: Of the JSON error: nvmecontrol only.
    kind: str | None = None
    field: str | None = None
    value: str | None = None
    status: str | None = None
    step: str | None = None
    #: How the command is started, a key of `stage.PREFIXES`.
    prefix: str = ""
    #: Waits for the end of a time limit.
    slow: bool = False
    #: The program says so, and serves; this is its exit code after SIGTERM.
    serves: bool = False

    @property
    def name(self) -> str:
        """A name for the test."""
        return re.sub(r"[^a-z0-9]+", "-", self.what.lower()).strip("-")

    @property
    def runs_beside(self) -> bool:
        """Whether it changes nothing that others look at, and may run at the same time."""
        return self.code != 0

    @property
    def program(self) -> str:
        return self.command.split()[0]

    @property
    def line(self) -> str:
        """The whole line, with the command's name."""
        words = self.command.split()
        if words[0] != "nvmecontrol" or not self.says:
            return self.says
        verbs = [word for word in words[1:] if not word.startswith(("-", "{"))]
        named = verbs[:1] if verbs and verbs[0] in _VERBS else []
        if named == ["ns"]:
            named = verbs[:2]
        return f"{' '.join(['nvmecontrol', *named])}: {self.says}"


_VERBS: Final = frozenset(
    {"connect", "connect-all", "reconnect", "disconnect", "devlist", "discover", "identify"}
    | {"logpage", "flush", "dsm", "write-zeroes", "ns", "nsid", "hostnqn"}
    | {"set", "paused", "resume", "fail"}
)
CHECK: Final = "check that an NVMe/TCP controller listens there"
LIVE: Final = "{live} {nqn}"


def bad_usage(what: str, arguments: str, says: str, field: str, value: str | None) -> Situation:
    """A `connect` that is refused before anything is sent."""
    return Situation(
        what=what,
        command=f"nvmecontrol connect {arguments}",
        code=64,
        says=says,
        kind="usage",
        field=field,
        value=value,
    )


def bad_address(what: str, address: str, why: str) -> Situation:
    return bad_usage(
        what, f"'{address}' {{nqn}}", f"ADDRESS {address}: {why}",
        "address", address,
    )  # fmt: skip


def bad_peer(
    what: str, peer: str, why: str, *, step: str | None = "ICReq/ICResp", slow: bool = False
) -> Situation:
    """A `connect` that fails at a peer which is not, or not quite, a controller."""
    return Situation(
        what=what,
        command=f"nvmecontrol connect {{{peer}}} {{nqn}}",
        code=74,
        says=f"ADDRESS {{{peer}}}: {why}",
        kind="transport",
        field="address",
        value=f"{{{peer}}}",
        step=step,
        slow=slow,
    )


def rejected_connect(
    what: str, peer: str, why: str, status: str, *, field: str | None = None, value: str = ""
) -> Situation:
    # A value that nobody typed is not called by its option.
    labels = {
        None: f"ADDRESS {{{peer}}}",
        "subnqn": "SUBNQN {nqn}",
        "hostnqn": f"hostnqn {value}",
    }
    return Situation(
        what=what,
        command=f"nvmecontrol connect {{{peer}}} {{nqn}}",
        code=74,
        says=f"{labels[field]}: CONNECT: {why}",
        kind="connect-rejected",
        field=field or "address",
        value=value or f"{{{peer}}}",
        status=status,
    )
