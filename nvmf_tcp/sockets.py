"""Sockets for NVMe/TCP: addresses, options, connecting with a deadline."""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import trio

from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError, UnreachableError
from nvmf_transport.fabrics import AddressFamily
from nvmf_transport.interfaces import Endpoint, HostQueueParams

from .pacing import avoid_pacing, is_loopback

_FAMILIES: Final = {
    socket.AF_INET: AddressFamily.IPV4,
    socket.AF_INET6: AddressFamily.IPV6,
}
#: Probes of SO_KEEPALIVE within `peer_timeout_s`.
_KEEPALIVE_PROBES: Final = 3
#: Larger values are refused: a C int, and Linux's own bound of TCP_KEEPIDLE and TCP_KEEPINTVL.
_MAX_USER_TIMEOUT_MS: Final = 0x7FFFFFFF
_MAX_KEEPALIVE_S: Final = 32767


def unreachable(message: str, address: Address) -> UnreachableError:
    """An `UnreachableError` that names the address as it was given."""
    error = UnreachableError(message)
    error.field, error.value = "address", str(address)
    return error


def seconds(duration_s: float) -> str:
    """A time limit for a message."""
    return f"{round(duration_s, 1):g} s"


def require_port(address: Address) -> int:
    """The port of an address; `ConfigError` where it has none."""
    if address.port is None:
        raise ConfigError(
            "explicit port required; write ADDRESS:PORT", field="address", value=address
        )
    return address.port


async def look_up(address: Address, *, passive: bool = False) -> Sequence[Endpoint]:
    """All endpoints that an address stands for, in the system's order; `socket.gaierror`."""
    found = await trio.socket.getaddrinfo(
        address.host,
        require_port(address),
        type=socket.SOCK_STREAM,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_PASSIVE if passive else 0,
    )
    endpoints = [
        endpoint_of(family, sockaddr) for family, _, _, _, sockaddr in found if family in _FAMILIES
    ]
    return list(dict.fromkeys(endpoints))


def endpoint_of(family: int, sockaddr: Any) -> Endpoint:
    """The endpoint that a socket address stands for, its zone by name where it has one."""
    host, port = sockaddr[0], sockaddr[1]
    if family == socket.AF_INET6 and "%" not in host and sockaddr[3]:
        zone = str(sockaddr[3])
        with contextlib.suppress(OSError):
            zone = socket.if_indextoname(sockaddr[3])
        host = f"{host}%{zone}"
    return Endpoint(Address(host, port), _FAMILIES[socket.AddressFamily(family)])


def sockaddr_of(host: str, port: int, family: int = 0) -> tuple[socket.AddressFamily, Any]:
    """Family and socket address of a numeric address; `socket.gaierror` where it is none."""
    found = socket.getaddrinfo(
        host,
        port,
        family,
        socket.SOCK_STREAM,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
    return found[0][0], found[0][4]


def local_endpoint(sock: socket.socket) -> Endpoint:
    """Where a socket is bound."""
    return endpoint_of(sock.family, sock.getsockname())


def set_options(sock: socket.socket, peer_timeout_s: float | None = None) -> None:
    """What every connection gets: no Nagle; a dead peer is noticed in `peer_timeout_s`."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if peer_timeout_s is None:
        return
    # As far as it can be told to the kernel: a controller may grant a KATO of 49 days.
    timeout_ms = min(max(1, round(peer_timeout_s * 1000)), _MAX_USER_TIMEOUT_MS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    interval_s = min(max(1, int(peer_timeout_s / (_KEEPALIVE_PROBES + 1))), _MAX_KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


async def dial(endpoint: Endpoint, params: HostQueueParams, *, deadline: float) -> socket.socket:
    """Connects by `deadline`.  Raises `UnreachableError`, and `ConfigError` for the local end."""
    port = require_port(endpoint.address)
    try:
        family, sockaddr = sockaddr_of(endpoint.address.host, port)
    except socket.gaierror as error:
        raise unreachable(f"{endpoint}: {error.strerror}", endpoint.address) from error
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        set_options(sock, params.peer_timeout_s)
        if is_loopback(endpoint.address.host):
            avoid_pacing(sock)
        _choose_local_end(sock, family, params)
        started = trio.current_time()
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            with trio.move_on_at(deadline) as scope:
                await trio.lowlevel.wait_writable(sock)
            if scope.cancelled_caught:
                raise unreachable(
                    f"{endpoint}: no TCP connection within {seconds(deadline - started)};"
                    " check the address, the port and any firewall",
                    endpoint.address,
                )
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise unreachable(f"{endpoint}: {_connect_reason(code)}", endpoint.address)
        stack.pop_all()
        return sock


def _connect_reason(code: int) -> str:
    match code:
        case errno.ECONNREFUSED:
            return "connection refused; nothing listens on this port"
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return f"{os.strerror(code).lower()}; there is no route to this address"
        case errno.ETIMEDOUT:
            return "connection timed out"
        case _:
            return os.strerror(code).lower()


def _choose_local_end(sock: socket.socket, family: int, params: HostQueueParams) -> None:
    if params.host_iface is not None:
        try:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, params.host_iface.encode() + b"\0"
            )
        except OSError as error:
            raise ConfigError(
                f"cannot use this interface: {error.strerror}; `ip link` lists what there is",
                field="host_iface",
                value=params.host_iface,
            ) from error
    if params.host_traddr is not None:
        try:
            sock.bind(sockaddr_of(params.host_traddr, 0, family)[1])
        except OSError as error:
            raise ConfigError(
                f"cannot use this local address: {error.strerror}; give one of this machine's",
                field="host_traddr",
                value=params.host_traddr,
            ) from error
