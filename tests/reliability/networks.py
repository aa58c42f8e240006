"""Two network namespaces and a cable between them, for faults that only a kernel can make.

There is no netem everywhere, so: loss by nftables' `numgen`, silence by an nftables drop, a slow
link by tbf, and the cable pulled by taking the link down.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.programs import BIN, Mount, Nvmfd, run, running

HOST_ADDRESS: Final = "10.213.77.1"
TARGET_ADDRESS: Final = "10.213.77.2"
_SENT: Final = re.compile(r"\bbytes_sent:(\d+)")


@attrs.frozen
class Network:
    """Where the host is, and where the target is."""

    host: str
    target: str

    def enter(self, namespace: str) -> tuple[str, ...]:
        """What runs a command there.  Not `ip netns exec`: that hides mounts from everybody."""
        return ("nsenter", f"--net=/run/netns/{namespace}", "--")

    def _in_target(self, *command: str) -> None:
        run(*self.enter(self.target), *command)

    def nft(self, *rules: str) -> None:
        """Replaces all rules for what arrives at the target, and for what leaves it."""
        text = "flush ruleset\ntable inet faults {\n"
        for hook in ("input", "output"):
            body = "\n".join(rules)
            text += f"chain {hook} {{ type filter hook {hook} priority 0;\n{body}\n}}\n"
        subprocess.run(
            [*self.enter(self.target), "nft", "-f", "-"], input=f"{text}}}\n", text=True, check=True
        )

    def silence(self) -> None:
        """Nothing arrives, nothing leaves; nobody is told."""
        self.nft("drop")

    def silence_port(self, port: int) -> None:
        """The same for the one connection that the host has at this port."""
        self.nft(f"tcp sport {port} drop", f"tcp dport {port} drop")

    def lose(self, percent: int) -> None:
        """This part of the packets of each direction."""
        self.nft(f"numgen random mod 100 < {percent} drop")

    def heal(self) -> None:
        self.nft()

    def slow_down(self, rate: str) -> None:
        """As tc writes rates: 20mbit."""
        shape = ("tbf", "rate", rate, "burst", "64k", "latency", "200ms")
        for name, device in ((self.target, "cable1"), (self.host, "cable0")):
            run(*self.enter(name), "tc", "qdisc", "replace", "dev", device, "root", *shape)

    def full_speed(self) -> None:
        for name, device in ((self.target, "cable1"), (self.host, "cable0")):
            run(*self.enter(name), "tc", "qdisc", "del", "dev", device, "root")

    def unplug(self) -> None:
        self._in_target("ip", "link", "set", "cable1", "down")

    def plug_in(self) -> None:
        self._in_target("ip", "link", "set", "cable1", "up")

    def ports(self, mount: Mount) -> list[int]:
        """The host's port of each connection: where it sent most comes first."""
        said = run(*self.enter(self.host), "ss", "-OtnpiH", "state", "established").stdout
        found = [
            (int(match[1]), int(line.split()[2].rpartition(":")[2]))
            for line in said.splitlines()
            if f"pid={mount.process.pid}," in line and (match := _SENT.search(line))
        ]
        return [port for _, port in sorted(found, reverse=True)]

    @contextlib.contextmanager
    def nvmfd(self, *arguments: str | Path, log: Path) -> Iterator[Nvmfd]:
        """Runs nvmfd in the target's namespace."""
        argv: list[str | Path] = [*self.enter(self.target), BIN / "nvmfd", "-l", TARGET_ADDRESS]
        with running([*argv, "-p", "0", "-P", "0", *arguments], log) as program:
            yield Nvmfd(program.process, program.ready, program.log)

    @contextlib.contextmanager
    def fusedev(self, path: Path, log: Path) -> Iterator[Mount]:
        """Runs fusedev in the host's namespace; its mount is everybody's."""
        path.mkdir(exist_ok=True)
        with running([*self.enter(self.host), BIN / "fusedev", path], log) as program:
            yield Mount(program.process, program.ready, program.log, path)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Makes both, with the cable plugged in; nothing of them is left afterwards."""
    made = Network(f"reliability-{os.getpid()}-host", f"reliability-{os.getpid()}-target")
    ends = ((made.host, "cable0", HOST_ADDRESS), (made.target, "cable1", TARGET_ADDRESS))
    with contextlib.ExitStack() as stack:
        for name, _, _ in ends:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
        cable = ("ip", "link", "add", "cable0", "netns", made.host, "type", "veth")
        run(*cable, "peer", "name", "cable1", "netns", made.target)
        for name, device, address in ends:
            ip = (*made.enter(name), "ip")
            run(*ip, "address", "add", f"{address}/24", "dev", device)
            run(*ip, "link", "set", device, "up")
            run(*ip, "link", "set", "lo", "up")
        yield made
