"""NVMe/TCP as a `Transport`: resolve, connect, listen, accept."""

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final

import trio

from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import TransportType
from nvmf_transport.interfaces import ControllerQueueParams, Endpoint, HostQueueParams

from .layout import TcpOptions
from .pacing import avoid_pacing, is_loopback, pace_as_usual
from .qpair import TcpControllerQueuePair, TcpHostQueuePair
from .sockets import (
    dial,
    endpoint_of,
    local_endpoint,
    look_up,
    seconds,
    set_options,
    sockaddr_of,
    unreachable,
)

_BACKLOG: Final = 1024
#: Out of descriptors or memory: accepting again at once would only spin.
_ACCEPT_PAUSE_S: Final = 0.1
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TcpTransport:
    """The transport `tcp`; see `nvmf_transport.interfaces.Transport`."""

    name: Final = "tcp"
    trtype: Final = TransportType.TCP

    def __init__(self, options: TcpOptions | None = None) -> None:
        self._options = options or TcpOptions()

    async def resolve(self, address: Address, *, deadline: float) -> Sequence[Endpoint]:
        """Looks a name up; `UnreachableError` where there is none, or no answer in time."""
        started = trio.current_time()
        with trio.move_on_at(deadline):
            try:
                endpoints = await look_up(address)
            except socket.gaierror as error:
                raise unreachable(
                    f"{address.host}: {error.strerror}; check the name", address
                ) from error
            if not endpoints:
                raise unreachable(f"{address.host}: neither an IPv4 nor an IPv6 address", address)
            return endpoints
        limit = seconds(deadline - started)
        raise unreachable(f"{address.host}: no answer to the look-up within {limit}", address)

    @contextlib.asynccontextmanager
    async def connect(
        self, endpoint: Endpoint, params: HostQueueParams, *, deadline: float
    ) -> AsyncIterator[TcpHostQueuePair]:
        """Connects and initialises one qpair; see `Transport.connect` for the errors."""
        sock = await dial(endpoint, params, deadline=deadline)
        with contextlib.closing(sock):
            local = local_endpoint(sock)
            qpair = TcpHostQueuePair(sock, local, endpoint, params, self._options)
            async with qpair.driver.running():
                await qpair.driver.handshake(deadline=deadline, waiting_for="ICResp")
                yield qpair

    @contextlib.asynccontextmanager
    async def listen(self, address: Address) -> AsyncIterator["TcpListener"]:
        """Listens at every address that `address` stands for; `ConfigError` where it cannot."""
        try:
            endpoints = await look_up(address, passive=True)
        except socket.gaierror as error:
            raise ConfigError(
                f"{error.strerror}; give an address of this machine",
                field="address",
                value=address,
            ) from error
        with contextlib.ExitStack() as stack:
            sockets: list[socket.socket] = []
            for endpoint in endpoints:
                # The port that the system chose for the first address serves for all.
                port = endpoint.address.port
                if sockets and not port:
                    port = sockets[0].getsockname()[1]
                sock = stack.enter_context(_listen(endpoint.address.host, port or 0))
                stack.callback(trio.lowlevel.notify_closing, sock)
                sockets.append(sock)
            yield TcpListener(sockets, self._options)


def _listen(host: str, port: int) -> socket.socket:
    family, sockaddr = sockaddr_of(host, port)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        avoid_pacing(sock)
        try:
            sock.bind(sockaddr)
            sock.listen(_BACKLOG)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            remedy = "choose another port" if in_use else "give an address of this machine"
            raise ConfigError(
                f"cannot listen: {error.strerror}; {remedy}",
                field="address",
                value=Address(host, port),
            ) from error
        stack.pop_all()
        return sock


class TcpListener:
    """Listening sockets; see `nvmf_transport.interfaces.Listener`."""

    def __init__(self, sockets: Sequence[socket.socket], options: TcpOptions) -> None:
        self._sockets = sockets
        self._options = options
        self._endpoints = tuple(map(local_endpoint, sockets))

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where it listens."""
        return self._endpoints

    async def accept(self) -> "TcpIncomingConnection":
        """Returns the next connection."""
        await trio.lowlevel.checkpoint()
        while True:
            for sock in self._sockets:
                try:
                    accepted, peer = sock.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    # A connection that died while it waited concerns nobody.
                    if error.errno in _EXHAUSTED:
                        await trio.sleep(_ACCEPT_PAUSE_S)
                    continue
                return TcpIncomingConnection(
                    accepted, endpoint_of(accepted.family, peer), self._options
                )
            await _any_readable(self._sockets)


async def _any_readable(sockets: Sequence[socket.socket]) -> None:
    if len(sockets) == 1:
        await trio.lowlevel.wait_readable(sockets[0])
        return

    async def wait(sock: socket.socket) -> None:
        await trio.lowlevel.wait_readable(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for sock in sockets:
            nursery.start_soon(wait, sock)


class TcpIncomingConnection:
    """An accepted connection; see `nvmf_transport.interfaces.IncomingConnection`."""

    def __init__(self, sock: socket.socket, peer: Endpoint, options: TcpOptions) -> None:
        self._sock = sock
        self._options = options
        set_options(sock)
        if not is_loopback(peer.address.host):
            pace_as_usual(sock)
        self._local = local_endpoint(sock)
        self._peer = peer

    @property
    def local(self) -> Endpoint:
        """The address that the host connected to."""
        return self._local

    @property
    def peer(self) -> Endpoint:
        """The host's address."""
        return self._peer

    @contextlib.asynccontextmanager
    async def establish(
        self, params: ControllerQueueParams, *, timeout_s: float
    ) -> AsyncIterator[TcpControllerQueuePair]:
        """Answers ICReq; `HandshakeError` where none comes within `timeout_s`."""
        with contextlib.closing(self._sock):
            qpair = TcpControllerQueuePair(
                self._sock, self._local, self._peer, params, self._options
            )
            async with qpair.driver.running():
                deadline = trio.current_time() + timeout_s
                await qpair.driver.handshake(deadline=deadline, waiting_for="ICReq")
                yield qpair

    async def aclose(self) -> None:
        """Closes a connection that was not established."""
        self._sock.close()
        await trio.lowlevel.checkpoint()
