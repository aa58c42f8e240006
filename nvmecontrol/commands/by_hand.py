"""resume and fail: what is decided by hand about a namespace that waits."""

from typing import Any

import click

from nvmecontrol.answers import structure
from nvmecontrol.cli import Command, Session, pass_session
from nvmecontrol.failure import usage
from nvmf_host.messages import FailRequest, NamespaceInfo, ResumeRequest

from .io import namespace_name


@click.command("resume", cls=Command)
@click.option(
    "--rewrite",
    is_flag=True,
    help="Write again what was acknowledged, not flushed, and lost. [default: off]",
)
@click.option(
    "--accept",
    is_flag=True,
    help="Take the namespace as it is now: another one, or without what was lost; then the next "
    "fsync of every open file fails once. [default: off]",
)
@click.argument("device", metavar="nvmeXnsY")
@pass_session
def resume(session: Session, /, device: str, rewrite: bool, accept: bool) -> None:
    """Let a paused namespace go on, and what waits for it with it.

    `devlist` says why it is paused, and which option is needed.  Prints nothing unless it does not
    go on.
    """
    name = namespace_name(session, device)
    if rewrite and accept:
        raise usage(
            "given together with --accept; give one of them", field="rewrite", label="--rewrite"
        )
    _tell(session, session.request(ResumeRequest(device=name, rewrite=rewrite, accept=accept)))


@click.command("fail", cls=Command)
@click.argument("device", metavar="nvmeXnsY")
@pass_session
def fail(session: Session, /, device: str) -> None:
    """Fail what waits for a namespace (EIO), and what comes, until it goes on.

    Where the namespace is live, writes that wait for LBAs in quarantine fail, and no others.  The
    quarantine stays: an old copy of a write may still land there.
    """
    answer = session.request(FailRequest(device=namespace_name(session, device)))
    if session.json:
        session.show(answer)


def _tell(session: Session, answer: dict[str, Any]) -> None:
    info = structure(NamespaceInfo, answer)
    # Writes that are being sent again go on.
    if info.state not in {"live", "replaying"}:
        session.note(f"{info.name}: {info.state}: {info.reason}")
    if session.json:
        session.show(answer)
