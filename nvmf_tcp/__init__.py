"""NVMe/TCP (NVMe/TCP Transport Specification 1.1), host and controller.

`pdu`, `digest` and `validate` are the wire; `connection`, `host` and `controller` are the protocol
without I/O; `driver`, `qpair` and `transport` run it over sockets under trio.
"""

from .layout import TcpOptions
from .qpair import QueuePairStatistics
from .transport import TcpTransport
from .turn import poll_short_waits

__all__ = ["QueuePairStatistics", "TcpOptions", "TcpTransport", "poll_short_waits"]
