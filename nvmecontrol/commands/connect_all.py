"""connect-all."""

from typing import Any, Final

import attrs
import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import Failure, failure_of
from nvmecontrol.text.discovery import TRANSPORTS, name_of
from nvmf_host.messages import ConnectRequest, ConnectResult
from nvmf_transport.fabrics import AddressFamily, DiscoveryLogEntry, TransportType

from .connect import connect_options, parameters, tell_connected
from .discover import query_of

#: TREQ bits 1:0: a secure channel is required.
_SECURE_CHANNEL_REQUIRED: Final = 1


@attrs.define
class Outcome:
    """What became of the entries of a discovery log."""

    connected: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[dict[str, str]] = attrs.field(factory=list)
    failed: list[tuple[str, Failure]] = attrs.field(factory=list)
    already: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "connected": self.connected,
            "skipped": self.skipped,
            "failed": [{"entry": name, **failure.to_json()} for name, failure in self.failed],
        }


def _why_not(entry: DiscoveryLogEntry) -> str | None:
    """Why an entry cannot be connected to, None where it can."""
    if entry.trtype != TransportType.TCP:
        return f"transport {name_of(TRANSPORTS, entry.trtype)}, only TCP is connected to"
    if entry.adrfam not in {AddressFamily.IPV4, AddressFamily.IPV6}:
        return f"address family 0x{entry.adrfam:02x}, only IPv4 and IPv6 are connected to"
    if entry.sectype or entry.secure_channel == _SECURE_CHANNEL_REQUIRED:
        return "it demands TLS, which is not offered"
    return None


def _connect(session: Session, entry: DiscoveryLogEntry, options: dict[str, Any]) -> dict[str, Any]:
    from nvmf_host.discovery import entry_address

    address = str(entry_address(entry))
    request = ConnectRequest(
        address=address, subnqn=check_entry_nqn(entry), **parameters(dict(options))
    )
    answer = session.request(request)
    tell_connected(session, structure(ConnectResult, answer))
    return answer


def check_entry_nqn(entry: DiscoveryLogEntry) -> str:
    """The SUBNQN of an entry, which the network has sent; raises `ConfigError`."""
    from nvmf_transport.nqn import check_nqn

    return check_nqn(entry.subnqn, "subnqn")


def _connect_each(
    session: Session, entries: tuple[DiscoveryLogEntry, ...], options: dict[str, Any]
) -> Outcome:
    outcome = Outcome()
    for entry in entries:
        name = f"{entry.subnqn} at {entry.traddr}:{entry.trsvcid}"
        why = _why_not(entry)
        if why is not None:
            session.note(f"{name}: skipped: {why}")
            outcome.skipped.append({"entry": name, "reason": why})
            continue
        try:
            answer = _connect(session, entry, options)
        except Exception as error:
            failure = failure_of(error)
            # No daemon, or a fault of ours: not a matter of this entry.
            if failure.kind in {"no-daemon", "internal"}:
                raise
            if failure.kind == "busy":
                session.note(f"{name}: skipped: {failure.message}")
                outcome.skipped.append({"entry": name, "reason": failure.message})
                outcome.already += 1
            else:
                click.echo(failure.line(f"{session.command}: {name}", session.labels), err=True)
                outcome.failed.append((name, failure))
            continue
        outcome.connected.append(answer)
        if not session.json:
            click.echo(answer["device"])
    return outcome


@click.command("connect-all", cls=Command)
@click.argument("address", metavar="ADDRESS[:PORT]")
@pass_session
def connect_all(session: Session, /, address: str, **options: Any) -> None:
    """Connect to every subsystem that the discovery controller at ADDRESS (port 8009) offers.

    Prints the name of each new device.  Referrals are followed.  What is connected already, is not
    TCP over IP or demands TLS is skipped, and said.

    Exits with 0 if anything is connected then; else with the code of the first failure, or with 69
    where there was nothing to connect to.
    """
    found = session.discover(query_of(session, address, options, follow=True))
    for referral in found.failures:
        session.note(f"referral {referral.address}: not followed: {referral.error}")
    # The daemon must be there before the first attempt is made.
    session.node()
    outcome = _connect_each(session, found.subsystems, options)
    if outcome.connected or outcome.already:
        if session.json:
            session.show(outcome.to_json())
        return
    if outcome.failed:
        if session.json:
            session.show(outcome.to_json())
        raise SystemExit(outcome.failed[0][1].exit_code)
    raise Failure("nothing to connect to; see `nvmecontrol discover`", kind="unavailable")


connect_all.params += connect_options()
