"""Which connections leave their pacing to the system, and which have none.

With BBR as the system's congestion control, a timer lets each 64 KiB go.  Between machines that is
the administrator's choice.  Over the loopback there is nobody to be spared, and the timers cost an
eighth of a long write's time.  TCP does not stop pacing once it has begun, so the choice is made
before a socket connects or listens.
"""

import contextlib
import ipaddress
import socket
from typing import Final

#: It paces nothing, and is there for every user of every Linux (tcp(7)).
_UNPACED: Final = b"reno"
#: Longer than any name of a congestion control.
_NAME_BYTES: Final = 16


def is_loopback(host: str) -> bool:
    """True where the path to a numeric address, perhaps with a zone, stays inside this machine."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def avoid_pacing(sock: socket.socket) -> None:
    """For a socket that will connect to the loopback, or listen; accepted ones inherit it."""
    _choose(sock, _UNPACED)


def pace_as_usual(sock: socket.socket) -> None:
    """For an accepted socket, whose peer is another machine."""
    with socket.socket(sock.family, socket.SOCK_STREAM) as fresh:
        _choose(sock, congestion_control(fresh))


def congestion_control(sock: socket.socket) -> bytes:
    """The name of what a socket has, or will have."""
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
    return name.partition(b"\0")[0]


def _choose(sock: socket.socket, name: bytes) -> None:
    # Without it everything works all the same.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
