"""The entry point, and the only module here that knows a transport."""

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs

from .cli import Session, cli
from .discovery import Query

if TYPE_CHECKING:
    from nvmf_host.discovery import Discovery

    from .node import Node


def discover(query: Query) -> "Discovery":
    """Asks a discovery controller, over a connection of our own."""
    # Imported by the two commands that connect by themselves: the others start at once.
    import trio

    import nvmf_tcp
    from nvmf_host import discovery
    from nvmf_host.identity import resolve
    from nvmf_transport.address import Address
    from nvmf_transport.interfaces import lookup, register

    register(nvmf_tcp.TcpTransport())
    transport = lookup(query.transport)
    address = Address.parse(query.address, default_port=discovery.DISCOVERY_PORT)
    identity = resolve(query.hostnqn, query.hostid)
    params = attrs.evolve(
        discovery.ADMIN_PARAMS, host_traddr=query.host_traddr, host_iface=query.host_iface
    )

    async def ask() -> discovery.Discovery:
        if query.follow_referrals:
            return await discovery.discover_all(
                transport, address, identity=identity, params=params
            )
        log = await discovery.discover(transport, address, identity=identity, params=params)
        return discovery.Discovery(logs=(log,), failures=())

    return trio.run(ask)


def open_node(directory: Path) -> "Node":
    """Opens the control node in `directory`."""
    from .node import ControlNode

    return ControlNode.open(directory)


def main() -> NoReturn:
    """Runs nvmecontrol and exits with its exit code."""
    cli.main(obj=Session(open_node=open_node, discover=discover))
