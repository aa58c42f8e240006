"""Between host and target: forwards, and cuts, holds, delays or slows down what it forwards.

`python -m` this with TARGET-ADDRESS:PORT (see `proxying` for how tests run it).  It says `ready
PORT`, then takes a request a line on standard input, JSON, and answers each with a line.  It sees
the PDUs that pass, so that it can tell which queue a connection is (from its CONNECT) and how many
commands were under way when it cut.
"""

import json
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

_PIECE_BYTES: Final = 1 << 18
#: How long a connection without a host stays, so that the target can answer.
_STRANDED_S: Final = 5.0
_CAPSULE_CMD, _CAPSULE_RESP, _C2H_DATA = 0x04, 0x05, 0x07
_C2H_LAST_AND_SUCCESS: Final = 0x0C
_TYPES: Final = {
    0x00: "ICReq",
    0x01: "ICResp",
    0x02: "H2CTermReq",
    0x03: "C2HTermReq",
    0x04: "CapsuleCmd",
    0x05: "CapsuleResp",
    0x06: "H2CData",
    0x07: "C2HData",
    0x09: "R2T",
}
#: Where a connection's first command, CONNECT, has its QID: after ICReq and the header of its PDU.
_QID_AT: Final = 128 + 8 + 42
TO_TARGET, TO_HOST = "to_target", "to_host"


@attrs.define(eq=False)
class Flow:
    """One direction of a connection."""

    direction: str
    source: trio.socket.SocketType
    sink: trio.socket.SocketType
    #: Cut after so many more bytes, None: not.
    cut_after: int | None = None
    pdus: list[tuple[int, int]] = attrs.field(init=False, factory=list)
    #: The PDU that the last byte belonged to, "" between two.
    inside: str = attrs.field(init=False, default="")
    _header: bytearray = attrs.field(init=False, factory=bytearray)
    _left: int = attrs.field(init=False, default=0)

    def follow(self, data: memoryview) -> None:
        """Takes bytes that are about to pass; `pdus` gets type and flags of each that begins."""
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            step = min(8 - len(self._header), len(data) - position)
            self._header += data[position : position + step]
            position += step
            if len(self._header) == 8:
                kind, flags, _, _, plen = struct.unpack("<BBBBI", self._header)
                self.pdus.append((kind, flags))
                self.inside = _TYPES.get(kind, f"{kind:#x}")
                self._left = plen - 8
                self._header.clear()
        if not self._left and not self._header:
            self.inside = ""


@attrs.define(eq=False)
class Link:
    """One connection of the host, and the one to the target that it is forwarded on."""

    to_target: Flow
    to_host: Flow
    #: None until its CONNECT has passed.
    qid: int | None = None
    #: Commands that have begun to pass, and have no completion yet.
    in_flight: int = 0
    ended: bool = False
    #: The host's side is gone; what it had sent reaches the target at this time.
    strands_until: float | None = None
    _head: bytearray = attrs.field(init=False, factory=bytearray)

    @property
    def flows(self) -> tuple[Flow, Flow]:
        return self.to_target, self.to_host

    def follow(self, flow: Flow, data: memoryview) -> None:
        if self.qid is None and flow is self.to_target:
            self._head += data[: _QID_AT + 2 - len(self._head)]
            if len(self._head) == _QID_AT + 2:
                self.qid = int.from_bytes(self._head[_QID_AT:], "little")
        flow.follow(data)
        for kind, flags in flow.pdus:
            if kind == _CAPSULE_CMD:
                self.in_flight += 1
            elif kind == _CAPSULE_RESP or (
                kind == _C2H_DATA and flags & _C2H_LAST_AND_SUCCESS == _C2H_LAST_AND_SUCCESS
            ):
                self.in_flight -= 1
        flow.pdus.clear()

    def strand(self, until: float) -> None:
        """Ends the host's side alone."""
        self.strands_until = until
        host = self.to_target.source
        host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        host.close()

    def close(self, *, reset: bool) -> None:
        if not self.ended:
            self.ended = True
            for sock in (self.to_target.source, self.to_host.source):
                if reset and sock.fileno() >= 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()


@attrs.define(eq=False)
class Proxy:
    """All connections, and what is to happen to them."""

    target: tuple[str, int]
    listen: str = "127.0.0.1"
    port: int = 0
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    links: list[Link] = attrs.field(init=False, factory=list)
    #: What it did: how, inside which PDU, with how many commands under way on I/O queues.
    cuts: list[dict[str, Any]] = attrs.field(init=False, factory=list)
    #: Connections that the target ended, and what was under way on them.
    ends: list[dict[str, Any]] = attrs.field(init=False, factory=list)
    #: Commands that the target answered after their host had gone: ghosts that have landed.
    ghosts: int = 0
    accepted: int = 0
    forwarded: Counter[str] = attrs.field(init=False, factory=Counter)
    #: QIDs that are frozen, None for all, and for connections to come.
    _frozen: set[int | None] = attrs.field(init=False, factory=set)
    _thawed: trio.Event = attrs.field(init=False, factory=trio.Event)
    _listener: trio.socket.SocketType | None = attrs.field(init=False, default=None)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            await self.open()
            task_status.started()
            await trio.sleep_forever()

    # What can be asked for.

    async def open(self) -> None:
        """Listens, on the same port as before."""
        if self._listener is None:
            listener = trio.socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await listener.bind((self.listen, self.port))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            self._listener = listener
            assert self._nursery is not None
            self._nursery.start_soon(self._accept, listener)

    def shut(self) -> None:
        """New connections are refused."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def freeze(self, queue: int | None = None) -> None:
        """Nothing passes any more, on this queue or at all; the kernel still acknowledges."""
        self._frozen.add(queue)

    def thaw(self) -> None:
        """What was held passes."""
        self._frozen.clear()
        self._thawed.set()
        self._thawed = trio.Event()

    def cut(
        self,
        *,
        how: str = "rst",
        queue: int | None = None,
        everything: bool = True,
        after_bytes: int | None = None,
        direction: str = TO_HOST,
    ) -> bool:
        """Cuts now, or once so many bytes more have passed; False where there is nothing to cut.

        `queue` names the connection that is cut, or that the bytes are counted on; with
        `everything` all others are cut with it.
        """
        live = [link for link in self.links if not link.ended]
        chosen = [link for link in live if queue is None or link.qid == queue]
        if not chosen:
            return False
        if after_bytes is None:
            self._cut(chosen[0], how, everything=everything, inside="")
        else:
            flow = next(flow for flow in chosen[0].flows if flow.direction == direction)
            flow.cut_after = after_bytes
            self._plan = (how, everything)
        return True

    def strand(self, seconds: float) -> None:
        """Ends what was frozen, for the host; the target gets what was held so much later."""
        until = trio.current_time() + seconds
        for link in self.links:
            if not link.ended:
                link.strand(until)
        self.thaw()

    _plan: tuple[str, bool] = attrs.field(init=False, default=("rst", True))

    def counts(self) -> dict[str, Any]:
        live = [link for link in self.links if not link.ended]
        return {
            "accepted": self.accepted,
            "live": len(live),
            "qids": sorted(-1 if link.qid is None else link.qid for link in live),
            "in_flight": sum(link.in_flight for link in live if link.qid),
            "cuts": self.cuts,
            "ends": self.ends,
            "ghosts": self.ghosts,
            "forwarded_bytes": dict(self.forwarded),
        }

    def clear(self) -> None:
        """Forgets what it counted."""
        self.cuts.clear()
        self.ends.clear()

    # How it is done.

    def _cut(self, link: Link, how: str, *, everything: bool, inside: str) -> None:
        links = [each for each in self.links if not each.ended] if everything else [link]
        self.cuts.append(
            {
                "how": how,
                "qid": link.qid,
                "connections": len(links),
                "inside": inside,
                "in_flight": sum(each.in_flight for each in links if each.qid),
            }
        )
        for each in links:
            each.close(reset=how == "rst")

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        assert self._nursery is not None
        while True:
            try:
                host, _ = await listener.accept()
            except (trio.ClosedResourceError, OSError):
                return
            self.accepted += 1
            self._nursery.start_soon(self._serve, host)

    async def _serve(self, host: trio.socket.SocketType) -> None:
        target = trio.socket.socket()
        with host, target:
            for sock in (host, target):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._gate(None)
            try:
                await target.connect(self.target)
            except OSError:
                host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            link = Link(Flow(TO_TARGET, host, target), Flow(TO_HOST, target, host))
            self.links.append(link)
            try:
                async with trio.open_nursery() as nursery:
                    for flow in link.flows:
                        nursery.start_soon(self._pump, link, flow)
            finally:
                link.close(reset=False)
                self.links.remove(link)

    async def _gate(self, link: Link | None) -> None:
        while None in self._frozen or (link is not None and link.qid in self._frozen):
            await self._thawed.wait()
        if link is not None and link.strands_until is not None:
            await trio.sleep_until(link.strands_until)

    async def _pump(self, link: Link, flow: Flow) -> None:
        reset = False
        buffer = memoryview(bytearray(_PIECE_BYTES))
        try:
            while count := await flow.source.recv_into(buffer):
                await self._gate(link)
                if self.delay_s:
                    await trio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await trio.sleep(count / self.bytes_per_s)
                if not await self._forward(link, flow, buffer[:count]):
                    return
        except trio.ClosedResourceError:
            # By us: `link` has ended, or is stranded.
            pass
        except OSError:
            reset = True
        if link.strands_until is not None and flow.direction == TO_TARGET:
            await trio.sleep(_STRANDED_S)
            reset = False
        if not link.ended:
            if flow.direction == TO_HOST:
                self.ends.append({"qid": link.qid, "in_flight": link.in_flight})
            link.close(reset=reset)

    async def _forward(self, link: Link, flow: Flow, data: memoryview) -> bool:
        """False where the connection was cut."""
        cut_after = flow.cut_after
        cutting = cut_after is not None and cut_after <= len(data)
        if cut_after is not None:
            data = data[:cut_after]
            flow.cut_after = cut_after - len(data)
        before = link.in_flight
        link.follow(flow, data)
        if link.strands_until is not None and flow.direction == TO_HOST:
            self.ghosts += before - link.in_flight if link.qid else 0
            return True
        self.forwarded[flow.direction] += len(data)
        while data:
            data = data[await flow.sink.send(data) :]
        if cutting and not link.ended:
            how, everything = self._plan
            self._cut(link, how, everything=everything, inside=flow.inside)
        return not cutting

    async def obey(self, line: str) -> Any:
        """Carries out one request; returns the answer."""
        request = json.loads(line)
        what = request.pop("do")
        if what == "set":
            for name, value in request.items():
                assert name in {"delay_s", "bytes_per_s", "target"}, name
                setattr(self, name, tuple(value) if name == "target" else value)
            return None
        methods: dict[str, Callable[..., Any]] = {
            "open": self.open,
            "shut": self.shut,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "strand": self.strand,
            "cut": self.cut,
            "counts": self.counts,
            "clear": self.clear,
        }
        answer: Any = methods[what](**request)
        return await answer if what == "open" else answer


async def _main(target: str, listen: str) -> None:
    host, _, port = target.rpartition(":")
    proxy = Proxy((host, int(port)), listen)
    pending = b""
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(0)) as requests:
        await nursery.start(proxy.run)
        print(f"ready {proxy.port}", flush=True)
        while data := await requests.receive_some():
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                print(json.dumps(await proxy.obey(line.decode())), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1")
