"""The namespaces of one controller: what a scan finds is matched with what was there.

Matched by NSID, judged by identity: a namespace resumes only where it is the same one.  What has no
match gets a node; what is active and unfit is refused, with a reason.
"""

import logging
from collections.abc import Callable

import trio

from .association import Association
from .fencing import when_all_lifted
from .io_path import IoPath
from .namespace import Namespace
from .scan import NamespaceDescription, Refused, Scan
from .state import NamespaceState, PauseCause
from .verdict import Sameness, judge

log = logging.getLogger(__name__)

_S = NamespaceState


class Roster:
    """Namespaces by NSID, and those that are refused."""

    def __init__(
        self,
        make: Callable[[NamespaceDescription], Namespace],
        on_added: Callable[[Namespace], None],
        on_changed: Callable[[Namespace], None],
        on_removed: Callable[[Namespace], None],
    ) -> None:
        self.namespaces: dict[int, Namespace] = {}
        self.refused: dict[int, Refused] = {}
        #: Those whose medium is to be compared with what was not flushed before they resume.
        self.unverified: dict[int, Namespace] = {}
        self._make = make
        self._on_added = on_added
        self._on_changed = on_changed
        self._on_removed = on_removed

    def hold(self, reason: str, nsids: set[int] | None = None) -> None:
        """Lets I/O wait: of these NSIDs, or of all.

        A paused namespace stays so: its I/O waits already, and `take` has to tell one that is
        missing since the reconnection from one that the controller removes.
        """
        for namespace in self._those(nsids):
            self.unverified.pop(namespace.nsid, None)
            namespace.offered = None
            if namespace.rewriting is not None:
                namespace.rewriting.withdraw()
            if namespace.engine.state is not _S.PAUSED:
                namespace.engine.hold(reason)
                self._on_changed(namespace)

    def lose_paths(self) -> None:
        """The association and all its commands have ended."""
        for namespace in self.namespaces.values():
            namespace.engine.lose_path()

    def take(
        self, scan: Scan, association: Association, nsids: set[int] | None, *, reconnected: bool
    ) -> None:
        """Acts on a scan of `nsids`, or of everything; held namespaces resume, or are paused.

        A namespace that is not there any more is removed where the controller told so while it
        was connected; after a reconnection it is paused, and resumes when it is back.
        """
        for nsid in set(self.refused) if nsids is None else nsids:
            self.refused.pop(nsid, None)
        for refused in scan.refused:
            self._refuse(refused)
        found = {description.nsid: description for description in scan.found}
        for namespace in self._those(nsids):
            description = found.pop(namespace.nsid, None)
            if description is not None:
                self._compare(namespace, description, association)
            elif namespace.nsid in self.refused:
                self._pause(namespace, self.refused[namespace.nsid].reason, PauseCause.MISSING)
            elif reconnected or namespace.engine.state is _S.PAUSED:
                self._pause(
                    namespace,
                    f"NSID {namespace.nsid} is not active there; it resumes when it is back, or "
                    "disconnect (waiting I/O fails)",
                    PauseCause.MISSING,
                )
            else:
                self._remove(namespace)
        for description in found.values():
            self._add(description, association)

    def end(self, reason: str) -> None:
        """All namespaces are gone: waiting I/O fails, new I/O is refused."""
        for namespace in self.namespaces.values():
            namespace.end(reason)

    def clear(self) -> None:
        """Takes the nodes away."""
        for namespace in list(self.namespaces.values()):
            self._remove(namespace)

    def _those(self, nsids: set[int] | None) -> list[Namespace]:
        return [
            namespace
            for nsid, namespace in sorted(self.namespaces.items())
            if nsids is None or nsid in nsids
        ]

    def _add(self, description: NamespaceDescription, association: Association) -> None:
        namespace = self._make(description)
        self.namespaces[description.nsid] = namespace
        namespace.subsystem = association.subsystem
        namespace.engine.resume(self.path(namespace, association))
        log.info(
            "%s: %d LBAs of %d bytes", namespace.name, description.size_lbas, description.lba_bytes
        )
        self._on_added(namespace)

    def _compare(
        self, namespace: Namespace, description: NamespaceDescription, association: Association
    ) -> None:
        assert namespace.subsystem is not None
        verdict = judge(
            namespace.description, description, namespace.subsystem, association.subsystem
        )
        namespace.offered = description
        if verdict.sameness is Sameness.DIFFERENT:
            elsewhere = [
                other.nsid
                for other in self.namespaces.values()
                if other is not namespace
                and other.description.identifiers
                and other.description.identifiers == description.identifiers
            ]
            hint = f" (it has the identity of NSID {elsewhere[0]})" if elsewhere else ""
            self._pause(namespace, verdict.reason + hint, PauseCause.IDENTITY)
            return
        if verdict.reason:
            log.warning("%s: %s", namespace.name, verdict.reason)
        if verdict.sameness is Sameness.GREW:
            log.info(
                "%s: size was %d LBAs, is %d",
                namespace.name,
                namespace.description.size_lbas,
                description.size_lbas,
            )
        namespace.description = description
        lost_at = namespace.engine.lost_at
        if (
            lost_at is not None
            and trio.current_time() - lost_at > association.params.replay_limit_s
            and description.shared
            and namespace.has_waiting_changes
        ):
            self._pause(
                namespace,
                f"it was away for more than {association.params.replay_limit_s:g} s (replay limit) "
                "and other hosts may use it: what waits could undo what they wrote; look, then "
                f"`nvmecontrol resume {namespace.name}`, or `fail`",
                PauseCause.REPLAY_LIMIT,
            )
            return
        self.let_go(namespace, association)

    def let_go(self, namespace: Namespace, association: Association) -> None:
        """A namespace that is to go on does, unless its medium has to be looked at first."""
        # One that nobody held is live, and goes on with what is new about it.
        namespace.engine.hold("being identified")
        fences = [fence for fence in namespace.rewrite_fences if fence.stands]
        if fences:
            # Nothing holds their LBAs against what has been waiting since before them.
            namespace.engine.hold(
                "old copies of what was written again may still land; waits for the old controller"
            )
            when_all_lifted(fences, lambda: namespace.engine.recheck("the old controller stopped"))
        elif namespace.engine.unverified:
            namespace.engine.hold("what was written and not flushed is compared with the medium")
            self.unverified[namespace.nsid] = namespace
        else:
            self.resume(namespace, association)
        self._on_changed(namespace)

    def path(self, namespace: Namespace, association: Association) -> IoPath:
        """The way to a namespace over this association."""
        return IoPath.make(
            association.io,
            namespace.nsid,
            fence=association.fence,
            controller=association.controller,
            mpsmin=association.cap.mpsmin,
            lba_bytes=namespace.lba_bytes,
            noiob_lbas=namespace.description.noiob_lbas,
        )

    def resume(self, namespace: Namespace, association: Association) -> None:
        """I/O goes on."""
        namespace.subsystem = association.subsystem
        namespace.engine.resume(self.path(namespace, association))
        self._on_changed(namespace)

    def pause_for_loss(self, namespace: Namespace, where: str) -> None:
        """The medium does not have what was acknowledged."""
        self._pause(
            namespace,
            f"the medium does not have what was acknowledged, at {where}: the target lost its "
            "volatile cache, or another host wrote there; "
            f"`nvmecontrol resume --rewrite {namespace.name}` writes it again, `--accept` takes "
            "the medium as it is",
            PauseCause.UNFLUSHED_LOST,
        )

    def _pause(self, namespace: Namespace, reason: str, cause: PauseCause) -> None:
        self.unverified.pop(namespace.nsid, None)
        namespace.engine.hold(reason)
        namespace.engine.pause(reason, cause)
        log.warning("%s: paused: %s", namespace.name, reason)
        self._on_changed(namespace)

    def _refuse(self, refused: Refused) -> None:
        self.refused[refused.nsid] = refused
        log.warning("NSID %d is refused: %s", refused.nsid, refused.reason)

    def _remove(self, namespace: Namespace) -> None:
        namespace.end("the namespace was removed")
        del self.namespaces[namespace.nsid]
        log.info("%s: removed", namespace.name)
        self._on_removed(namespace)
