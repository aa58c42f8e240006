"""hostnqn."""

from typing import Any

import click

from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import printable

from .connect import identity_options


@click.command("hostnqn", cls=Command)
@pass_session
def hostnqn(session: Session, /, **given: Any) -> None:
    """Show the host NQN and the Host ID that are used, and where each comes from.

    With -q or -I: what would be used with them.  The pair is taken from /etc/nvme/hostnqn and
    hostid, else from the state folder, where it is made at the first use.
    """
    from nvmf_host.identity import resolve

    identity = resolve(given["hostnqn"], given["hostid"])
    if session.json:
        session.show(
            {
                "hostnqn": identity.nqn,
                "hostid": str(identity.hostid),
                "hostnqn_origin": identity.nqn_origin,
                "hostid_origin": identity.hostid_origin,
            }
        )
        return
    click.echo(printable(f"Host NQN: {identity.nqn} ({identity.nqn_origin})"))
    click.echo(printable(f"Host ID:  {identity.hostid} ({identity.hostid_origin})"))


hostnqn.params[:0] = identity_options()
