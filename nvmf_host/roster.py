"""The namespaces of one controller: what a scan finds is matched with what was there.

Matched by NSID, judged by identity: a namespace resumes only where it is the same one.  What has no
match gets a node; what is active and unfit is refused, with a reason.
"""

import logging
from collections.abc import Callable

from .association import Association
from .io_path import IoPath
from .namespace import Namespace
from .scan import NamespaceDescription, Refused, Scan
from .state import NamespaceState
from .verdict import Sameness, SubsystemIdentity, judge

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
        #: The subsystem of the first association; every later one is held against it.
        self._subsystem: SubsystemIdentity | None = None
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
        subsystem = association.subsystem
        if self._subsystem is None:
            self._subsystem = subsystem
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
                self._pause(namespace, self.refused[namespace.nsid].reason)
            elif reconnected or namespace.engine.state is _S.PAUSED:
                self._pause(
                    namespace,
                    f"NSID {namespace.nsid} is not active there; it resumes when it is back, or "
                    "disconnect (waiting I/O fails)",
                )
            else:
                self._remove(namespace)
        for description in found.values():
            self._add(description, association)

    def end(self, reason: str) -> None:
        """All namespaces are gone: waiting I/O fails, new I/O is refused."""
        for namespace in self.namespaces.values():
            namespace.engine.end(reason)

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
        self._resume(namespace, association)
        log.info(
            "%s: %d LBAs of %d bytes", namespace.name, description.size_lbas, description.lba_bytes
        )
        self._on_added(namespace)

    def _compare(
        self, namespace: Namespace, description: NamespaceDescription, association: Association
    ) -> None:
        assert self._subsystem is not None
        verdict = judge(namespace.description, description, self._subsystem, association.subsystem)
        if verdict.sameness is Sameness.DIFFERENT:
            elsewhere = [
                other.nsid
                for other in self.namespaces.values()
                if other is not namespace
                and other.description.identifiers
                and other.description.identifiers == description.identifiers
            ]
            hint = f" (it has the identity of NSID {elsewhere[0]})" if elsewhere else ""
            self._pause(namespace, verdict.reason + hint)
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
        # A namespace that nobody held is live, and goes on with what is new about it.
        namespace.engine.hold("being identified")
        self._resume(namespace, association)
        self._on_changed(namespace)

    def _resume(self, namespace: Namespace, association: Association) -> None:
        namespace.engine.resume(
            IoPath.make(
                association.io,
                namespace.nsid,
                controller=association.controller,
                mpsmin=association.cap.mpsmin,
                lba_bytes=namespace.lba_bytes,
                noiob_lbas=namespace.description.noiob_lbas,
            )
        )

    def _pause(self, namespace: Namespace, reason: str) -> None:
        namespace.engine.hold(reason)
        namespace.engine.pause(reason)
        log.warning("%s: paused: %s", namespace.name, reason)
        self._on_changed(namespace)

    def _refuse(self, refused: Refused) -> None:
        self.refused[refused.nsid] = refused
        log.warning("NSID %d is refused: %s", refused.nsid, refused.reason)

    def _remove(self, namespace: Namespace) -> None:
        namespace.engine.end("the namespace was removed")
        del self.namespaces[namespace.nsid]
        log.info("%s: removed", namespace.name)
        self._on_removed(namespace)
