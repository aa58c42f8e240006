"""What lies in the directory: nodes, their names, numbers, modes and lifetimes.  No FUSE here.

An inode number is given once and never again, so a handle or a cached entry of a node that is gone
cannot come to mean another one.  A node that is gone stays known until the kernel has forgotten it.
"""

import abc
import bisect
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from .backend import ControllerLike, HostLike, NamespaceLike, NodeEventLike

ROOT_INODE: Final = 1
CONTROL_NAME: Final = b"nvmf"
_SECTOR_BYTES: Final = 512  # of st_blocks, whatever the LBA size
#: Told in st_blksize: `cp`, `cat` and others take pieces of that size, and each piece is a command,
#: with no page cache to make more of it.  It is the longest request of FUSE.
_BEST_IO_BYTES: Final = 1 << 20


@attrs.frozen(kw_only=True)
class Attributes:
    """What `stat` says about a node."""

    inode: int
    mode: int
    size_bytes: int = 0
    #: Preferred size of an I/O.
    block_bytes: int = 4096
    links: int = 1
    accessed_ns: int
    modified_ns: int
    changed_ns: int

    @property
    def sectors(self) -> int:
        """Size in sectors of 512 bytes; less would make `tar -S` take the data for holes."""
        return self.size_bytes // _SECTOR_BYTES


@attrs.define(eq=False, kw_only=True)
class Node(abc.ABC):
    """Something with a name in the directory, or that had one."""

    inode: int
    name: bytes
    accessed_ns: int = attrs.field(factory=time.time_ns)
    modified_ns: int = attrs.field()
    changed_ns: int = attrs.field()
    #: How often the kernel was told of it and has not forgotten it.
    lookups: int = 0
    gone: bool = False

    @modified_ns.default
    @changed_ns.default
    def _born_ns(self) -> int:
        return self.accessed_ns

    @property
    @abc.abstractmethod
    def mode(self) -> int:
        """File type and permissions."""

    def attributes(self) -> Attributes:
        """What `stat` says, now."""
        return Attributes(
            inode=self.inode,
            mode=self.mode,
            links=0 if self.gone else 1,
            accessed_ns=self.accessed_ns,
            modified_ns=self.modified_ns,
            changed_ns=self.changed_ns,
        )


@attrs.define(eq=False, kw_only=True)
class RootNode(Node):
    """The directory itself."""

    @property
    def mode(self) -> int:
        return stat.S_IFDIR | 0o755

    def attributes(self) -> Attributes:
        return attrs.evolve(super().attributes(), links=2)


@attrs.define(eq=False, kw_only=True)
class ControlNode(Node):
    """`nvmf`."""

    @property
    def mode(self) -> int:
        return stat.S_IFREG | 0o600


@attrs.define(eq=False, kw_only=True)
class ControllerNode(Node):
    """`nvmeX`: its state to read, of a length that is known only once it is read."""

    controller: ControllerLike

    @property
    def mode(self) -> int:
        return stat.S_IFREG | 0o400


@attrs.define(eq=False, kw_only=True)
class NamespaceNode(Node):
    """`nvmeXnsY`."""

    namespace: NamespaceLike
    controller: ControllerLike
    #: Of the namespace's losses, those that somebody has been told of.
    losses_told: int = attrs.field()
    #: Size and mode when it last changed.
    _shape: tuple[int, int] = attrs.field(init=False)

    @losses_told.default
    def _losses_before(self) -> int:
        return self.namespace.losses

    @_shape.default
    def _first_shape(self) -> tuple[int, int]:
        return self._shape_now()

    def reshaped(self) -> bool:
        """Whether size or mode are others than at the last call."""
        before, self._shape = self._shape, self._shape_now()
        return self._shape != before

    def _shape_now(self) -> tuple[int, int]:
        return self.namespace.size_bytes, self.mode

    @property
    def mode(self) -> int:
        return stat.S_IFREG | (0o400 if self.namespace.read_only else 0o600)

    def attributes(self) -> Attributes:
        return attrs.evolve(
            super().attributes(),
            size_bytes=self.namespace.size_bytes,
            block_bytes=_BEST_IO_BYTES,
        )


@attrs.define(eq=False)
class NodeTable:
    """Every node, by inode number and, while it has one, by name.

    `on_change` is called with the name of a namespace's node when the kernel should ask for its
    attributes.  `uid` and `gid` own everything: whoever mounted it.
    """

    on_change: Callable[[str], None]
    uid: int = attrs.field(factory=os.getuid)
    gid: int = attrs.field(factory=os.getgid)
    root: RootNode = attrs.field(init=False)
    control: ControlNode = attrs.field(init=False)
    _by_inode: dict[int, Node] = attrs.field(init=False, factory=dict)
    _by_name: dict[bytes, Node] = attrs.field(init=False, factory=dict)
    #: Those with a name, in a list that nobody changes; None until somebody asks.
    _listing: list[Node] | None = attrs.field(init=False, default=None)
    _numbers: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.count(ROOT_INODE))

    def __attrs_post_init__(self) -> None:
        self.root = RootNode(inode=next(self._numbers), name=b".")
        self.control = ControlNode(inode=next(self._numbers), name=CONTROL_NAME)
        self._by_inode[self.root.inode] = self.root
        self._enter(self.control)

    def follow(self, host: HostLike) -> None:
        """Gives every controller and namespace of `host` a node, now and from now on."""

        def on_event(event: NodeEventLike) -> None:
            self._on_event(host, event)

        host.subscribe(on_event)
        for controller in host.controllers.values():
            self._add_controller(controller)
            for namespace in controller.namespaces.values():
                self._add_namespace(controller, namespace)

    def lookup(self, name: bytes) -> Node | None:
        """The node of this name."""
        return self._by_name.get(name)

    def get(self, inode: int) -> Node | None:
        """The node of this number, gone or not."""
        return self._by_inode.get(inode)

    def listed_after(self, inode: int) -> Iterator[Node]:
        """The nodes with a name whose numbers are higher, in the order of their numbers.

        A directory is read in pieces: each has to be found without a look at all before it.
        """
        if self._listing is None:
            # Numbers only rise and dictionaries keep order.
            self._listing = list(self._by_name.values())
        nodes = self._listing
        first = bisect.bisect_right(nodes, inode, key=_inode_of)
        return (nodes[index] for index in range(first, len(nodes)))

    def __len__(self) -> int:
        return len(self._by_name)

    def forget(self, inode: int, count: int) -> None:
        """The kernel has forgotten `count` lookups of a node."""
        node = self._by_inode.get(inode)
        if node is None:
            return
        node.lookups = max(0, node.lookups - count)
        self._drop_if_unknown(node)

    def _on_event(self, host: HostLike, event: NodeEventLike) -> None:
        match event.kind.name:
            case "ADDED":
                self._add_by_name(host, event.name)
            case "REMOVED":
                self._remove(event.name)
            case "CHANGED":
                self._change(event.name)
            case other:
                raise AssertionError(f"no such node event: {other}")

    def _add_by_name(self, host: HostLike, name: str) -> None:
        controller = host.controllers.get(name)
        if controller is not None:
            self._add_controller(controller)
            return
        # By what its name says: a search at each of a thousand would be through all before it.
        owner, _, nsid = name.rpartition("ns")
        controller = host.controllers.get(owner)
        namespace = None if controller is None else controller.namespaces.get(int(nsid))
        if controller is not None and namespace is not None:
            self._add_namespace(controller, namespace)

    def _add_controller(self, controller: ControllerLike) -> None:
        self._add(
            ControllerNode(
                inode=next(self._numbers),
                name=os.fsencode(controller.name),
                controller=controller,
            )
        )

    def _add_namespace(self, controller: ControllerLike, namespace: NamespaceLike) -> None:
        self._add(
            NamespaceNode(
                inode=next(self._numbers),
                name=os.fsencode(namespace.name),
                controller=controller,
                namespace=namespace,
            )
        )

    def _add(self, node: Node) -> None:
        known = self._by_name.get(node.name)
        if known is not None:
            if _same(known, node):
                return
            self._remove(os.fsdecode(node.name))
        self._enter(node)
        self._touch_root()

    def _enter(self, node: Node) -> None:
        self._by_inode[node.inode] = node
        self._by_name[node.name] = node
        self._listing = None

    def _remove(self, name: str) -> None:
        node = self._by_name.pop(os.fsencode(name), None)
        if node is None:
            return
        self._listing = None
        node.gone = True
        node.changed_ns = time.time_ns()
        self._drop_if_unknown(node)
        self._touch_root()

    def _drop_if_unknown(self, node: Node) -> None:
        if node.gone and node.lookups == 0:
            self._by_inode.pop(node.inode, None)

    def _change(self, name: str) -> None:
        # Mostly it is the state that has changed, which `stat` does not show.
        node = self._by_name.get(os.fsencode(name))
        if isinstance(node, NamespaceNode) and node.reshaped():
            node.changed_ns = time.time_ns()
            self.on_change(name)

    def _touch_root(self) -> None:
        self.root.modified_ns = self.root.changed_ns = time.time_ns()


def _inode_of(node: Node) -> int:
    return node.inode


def _same(known: Node, node: Node) -> bool:
    match known, node:
        case NamespaceNode(), NamespaceNode():
            return known.namespace is node.namespace
        case ControllerNode(), ControllerNode():
            return known.controller is node.controller
        case _:
            return False
