"""discover."""

from typing import Any

import click

from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.discovery import Query

from .connect import identity_options, path_options, transport_option


def query_of(
    session: Session, address: str, options: dict[str, Any], follow: bool = False
) -> Query:
    """The question to ask, its address checked."""
    from nvmf_transport.address import Address

    # nvmf_host.discovery knows the port as well, and brings trio with it.
    target = str(Address.parse(address, default_port=8009))
    session.subject = ("address", target)
    return Query(
        transport=options["transport"],
        address=target,
        hostnqn=options["hostnqn"],
        hostid=options["hostid"],
        host_traddr=options["host_traddr"],
        host_iface=options["host_iface"],
        follow_referrals=follow,
    )


@click.command("discover", cls=Command)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show the discovery controller's identify data first."
)
@click.argument("address", metavar="ADDRESS[:PORT]")
@pass_session
def discover(session: Session, /, address: str, verbose: bool, **options: Any) -> None:
    """List what the discovery controller at ADDRESS (port 8009 unless given) offers.

    Needs no fusedev, and connects to nothing else.
    """
    from nvmecontrol.text.controller import controller_lines
    from nvmecontrol.text.discovery import discovery_lines
    from nvmecontrol.text.labels import as_json

    log = session.discover(query_of(session, address, options)).logs[0]
    if session.json:
        shown = {
            "address": str(log.address),
            "endpoint": str(log.endpoint),
            "genctr": log.genctr,
            "entries": [as_json(entry) for entry in log.entries],
        }
        if verbose:
            shown["controller"] = as_json(log.controller)
        session.show(shown)
        return
    lines = [*controller_lines(log.controller), ""] if verbose else []
    click.echo("\n".join(lines + discovery_lines(log.entries)))


discover.params[:0] = [transport_option(), *identity_options(), *path_options()]
