"""What discover and connect-all ask of a discovery controller.

They connect by themselves, without a daemon.  `main` gives the way to do it, so that everything
else here starts without trio and knows no transport.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from nvmf_host.discovery import Discovery


@attrs.frozen(kw_only=True)
class Query:
    """One question to a discovery controller."""

    transport: str
    #: ADDRESS or ADDRESS:PORT, checked.
    address: str
    hostnqn: str | None = None
    hostid: str | None = None
    host_traddr: str | None = None
    host_iface: str | None = None
    #: Whether to ask those that it refers to as well.
    follow_referrals: bool = False


#: Returns one log, or with `follow_referrals` all; raises `NvmfError`.
Discover = Callable[[Query], "Discovery"]
