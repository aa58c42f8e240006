"""Captures what passes on the loopback and has a dissector that is not ours read it."""

import contextlib
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.programs import ProgramError, run

#: PDU types by number (NVMe/TCP Transport, section 3.6.1).
PDU_NAMES = {
    0: "ICReq",
    1: "ICResp",
    2: "H2CTermReq",
    3: "C2HTermReq",
    4: "CapsuleCmd",
    5: "CapsuleResp",
    6: "H2CData",
    7: "C2HData",
    9: "R2T",
}
FROM_HOST = frozenset({"ICReq", "H2CTermReq", "CapsuleCmd", "H2CData"})

# A packet that has any of these was not understood.
_MALFORMED = ("_ws.malformed", "nvme-tcp.unknown_data")
_EXPERT_ERROR = str(0x800000)


@attrs.define(eq=False)
class Seen:
    """What the dissector made of a capture."""

    pdus: Counter[str] = attrs.field(factory=Counter)
    good_header_digests: int = 0
    good_data_digests: int = 0
    connections: set[str] = attrs.field(factory=set)
    #: Numbers of the packets that are at fault, each with what is wrong with it.
    faults: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        pdus = ", ".join(f"{name} {count}" for name, count in sorted(self.pdus.items()))
        return (
            f"{len(self.connections)} connections, {pdus}; good digests: "
            f"{self.good_header_digests} header, {self.good_data_digests} data"
        )


@attrs.define(eq=False)
class Capture:
    """A capture of one TCP port of the loopback."""

    file: Path
    #: What dumpcap said, the packets that it dropped among it.
    log: Path
    port: int

    def read(self) -> Seen:
        """Has every PDU decoded and every digest checked."""
        seen = Seen()
        dropped = re.search(r"received/dropped.*: \d+/(\d+)", self.log.read_text())
        if dropped is None or dropped[1] != "0":
            seen.faults.append(f"the capture is not whole: {self.log.read_text()}")
        names = ["frame.number", "tcp.stream", "tcp.dstport", "nvme-tcp.type"]
        names += ["nvme-tcp.hdgst.status", "nvme-tcp.ddgst.status", "_ws.expert.severity"]
        for row in self.fields(*names, *_MALFORMED, display_filter="tcp"):
            frame, stream, to_port, types, header, data, severity, *malformed = row
            to_controller = to_port == str(self.port)
            for number in filter(None, types.split(",")):
                name = PDU_NAMES.get(int(number), f"type {number}")
                seen.pdus[name] += 1
                if (name in FROM_HOST) != to_controller:
                    seen.faults.append(f"packet {frame}: {name} in the wrong direction")
            if types:
                seen.connections.add(stream)
            seen.good_header_digests += header.split(",").count("1")
            seen.good_data_digests += data.split(",").count("1")
            bad = header.split(",").count("0") + data.split(",").count("0")
            if bad:
                seen.faults.append(f"packet {frame}: {bad} bad digests")
            if _EXPERT_ERROR in severity.split(",") or any(malformed):
                seen.faults.append(f"packet {frame}: malformed")
        return seen

    def fields(self, *names: str, display_filter: str) -> list[list[str]]:
        """Returns the fields of the packets that pass a filter, a list for each packet."""
        argv = ["tshark", "-n", "-r", str(self.file), "-d", f"tcp.port=={self.port},nvme-tcp"]
        # Packets that two CPUs handled are not always captured in their order.
        argv += ["-o", "tcp.reassemble_out_of_order:TRUE"]
        argv += ["-o", "nvme-tcp.check_hdgst:TRUE", "-o", "nvme-tcp.check_ddgst:TRUE"]
        argv += ["-Y", display_filter, "-T", "fields"]
        for name in names:
            argv += ["-e", name]
        lines = run(*argv, timeout_s=300).stdout.splitlines()
        return [line.split("\t") for line in lines]


@contextlib.contextmanager
def capture(port: int, file: Path) -> Iterator[Capture]:
    """Captures a port while the block lasts; its connections must begin within it."""
    log = file.with_suffix(".log")
    argv = ["dumpcap", "-q", "-i", "lo", "-B", "256", "-f", f"tcp port {port}", "-w", str(file)]
    with log.open("w") as said, subprocess.Popen(argv, stderr=said) as dumpcap:
        deadline = time.monotonic() + 10
        while "File:" not in log.read_text():
            if dumpcap.poll() is not None or time.monotonic() > deadline:
                dumpcap.kill()
                raise ProgramError(f"no capture: {log.read_text()}")
            time.sleep(0.05)
        try:
            yield Capture(file, log, port)
        finally:
            # The kernel hands packets over in batches; let the last one come.
            time.sleep(0.5)
            dumpcap.terminate()
