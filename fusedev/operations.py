"""The adapter to pyfuse3: FUSE requests in, calls on nodes and open files out.  Nothing else.

The kernel is told to cache neither names nor attributes.  A lookup costs little beside the I/O that
follows, and so a node that comes, goes or changes its size is seen at once, with no notification:
those take locks in the kernel that a waiting write may hold.
"""

import errno
import functools
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

import attrs
import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from nvmf_transport.errors import NvmfError, ShutdownError
from nvmf_transport.wire import Buffer

from . import processes, xattrs
from .backend import ControlLike
from .errnos import errno_of
from .handles import ControlFile, ControllerFile, NamespaceFile, OpenFile, Usage
from .nodes import Attributes, ControllerNode, ControlNode, NamespaceNode, Node, NodeTable

_log = logging.getLogger(__name__)

_Self = TypeVar("_Self")
_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

_NAME_MAX: Final = 255
#: An answer has to fit into a socket: see `device`.
_LISTED_AT_A_TIME: Final = 128


def replies_errno(
    handler: Callable[[_Self, *_Arguments], Awaitable[_Result]],
) -> Callable[[_Self, *_Arguments], Coroutine[Any, Any, _Result]]:
    """Makes every error of a handler an errno; any other exception out of one ends the mount.

    A handler may be a function that returns what is to be awaited: a coroutine less to go through.
    """

    @functools.wraps(handler)
    async def guarded(self: _Self, *arguments: *_Arguments) -> _Result:
        try:
            return await handler(self, *arguments)
        except FUSEError:
            raise
        except NvmfError as error:
            raise FUSEError(errno_of(error)) from None
        except Exception:  # noqa: BLE001  # the outermost boundary
            _log.exception("%s failed; the caller gets EIO", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return guarded


@attrs.define(eq=False)
class Operations(pyfuse3.Operations):
    """The handlers.  Those left out are unknown to the kernel after the first try (ENOSYS).

    One left out on purpose is `flush`: close(2) must neither wait nor fail.
    """

    #: A number is not a name: the directory cannot be exported (NFS).
    supports_dot_lookup = False

    _nodes: NodeTable = attrs.field(alias="nodes")
    _control: ControlLike = attrs.field(alias="control")
    #: Called with a node's name after O_TRUNC, see `attribute_refresh`.
    _on_truncating_open: Callable[[str], None] = attrs.field(alias="on_truncating_open")
    #: What is to be said of the daemon, by the names of attributes.
    _state: Callable[[], Mapping[str, str]] = attrs.field(alias="state", default=dict)
    #: What waits, over all open files.
    usage: Usage = attrs.field(init=False, factory=Usage)
    _files: dict[int, OpenFile] = attrs.field(init=False, factory=dict)
    _handles: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.count(1))
    _closing: bool = attrs.field(init=False, default=False)

    @property
    def files(self) -> Mapping[int, OpenFile]:
        """What is open, by file handle."""
        return self._files

    def refuse_opens(self) -> None:
        """From now on nothing is opened: the mount is about to end."""
        self._closing = True

    # Those that `DataPath` answers, where there is one, come first; so does it lookups, and most of
    # getxattr.

    @replies_errno
    def read(  # type: ignore[override]  # pyfuse3 takes any buffer, says its handler
        self, fh: FileHandleT, off: int, size: int
    ) -> Awaitable[Buffer]:
        return self._files[fh].read(off, size)

    @replies_errno
    def write(self, fh: FileHandleT, off: int, buf: bytes) -> Awaitable[int]:
        return self._files[fh].write(off, buf)

    @replies_errno
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._files[fh].sync()

    @replies_errno
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._node(inode))

    # Names.

    @replies_errno
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._nodes.lookup(name)
        if node is None:
            raise FUSEError(errno.ENOENT)
        entry = self._entry(node)
        # The kernel forgets what it was told, and nothing else.
        node.lookups += 1
        return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._nodes.forget(inode, count)

    @replies_errno
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    @replies_errno
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for node in itertools.islice(self._nodes.listed_after(start_id), _LISTED_AT_A_TIME):
            if not pyfuse3.readdir_reply(
                token, FileNameT(node.name), self._entry(node), node.inode
            ):
                break
            node.lookups += 1

    @replies_errno
    async def releasedir(self, fh: FileHandleT) -> None:
        """A directory handle holds nothing."""

    # Files.

    @replies_errno
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if self._closing:
            raise ShutdownError("the mount is about to end")
        node = self._node(inode)
        info = FileInfo(fh=FileHandleT(next(self._handles)), direct_io=True, keep_cache=False)
        file: OpenFile
        match node:
            case NamespaceNode():
                opener = processes.opener_of(ctx.pid, ctx.uid)
                file = NamespaceFile.open(node, flags, self.usage, opener)
                if flags & os.O_TRUNC:
                    self._on_truncating_open(os.fsdecode(node.name))
            case ControllerNode():
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    raise FUSEError(errno.EACCES)
                file = ControllerFile.open(node)
            case ControlNode():
                file = ControlFile(self._control.open_session())
                info.nonseekable = True
            case _:
                raise FUSEError(errno.EISDIR)
        self._files[info.fh] = file
        return info

    @replies_errno
    async def release(self, fh: FileHandleT) -> None:
        self._files.pop(fh).close()

    @replies_errno
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._node(inode)
        if (
            (fields.update_mode and attr.st_mode & 0o7777 != node.mode & 0o7777)
            or (fields.update_uid and attr.st_uid != self._nodes.uid)
            or (fields.update_gid and attr.st_gid != self._nodes.gid)
        ):
            raise FUSEError(errno.EPERM)
        if fields.update_size and isinstance(node, NamespaceNode) and node.namespace.read_only:
            raise FUSEError(errno.EROFS)
        # A size is accepted and changes nothing, as with a disk.
        if fields.update_atime:
            node.accessed_ns = attr.st_atime_ns
        if fields.update_mtime:
            node.modified_ns = attr.st_mtime_ns
        return self._entry(node)

    @replies_errno
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        stats = StatvfsData()
        stats.f_bsize = stats.f_frsize = 4096
        stats.f_files = len(self._nodes)
        stats.f_namemax = _NAME_MAX
        return stats

    # Extended attributes.

    @replies_errno
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        # The kernel asks for attributes of its own (security.capability) before writes.
        if not name.startswith(xattrs.PREFIX.encode()):
            raise FUSEError(pyfuse3.ENOATTR)
        value = self._attributes(inode).get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @replies_errno
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._attributes(inode)]

    @replies_errno
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        raise FUSEError(errno.EPERM)

    @replies_errno
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise FUSEError(errno.EPERM)

    # Nodes come and go with controllers, not by hand.

    @replies_errno
    async def _refuse(self, *_: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    # It takes whatever arguments they do.
    create = mknod = mkdir = symlink = link = _refuse  # type: ignore[assignment]
    unlink = rmdir = rename = _refuse  # type: ignore[assignment]

    def _attributes(self, inode: int) -> dict[bytes, bytes]:
        return xattrs.describe(self._node(inode), self.usage, self._state)

    def _node(self, inode: int) -> Node:
        node = self._nodes.get(inode)
        if node is None:
            raise FUSEError(errno.ESTALE)
        return node

    def _entry(self, node: Node) -> EntryAttributes:
        return _entry(node.attributes(), self._nodes.uid, self._nodes.gid)


def _entry(attributes: Attributes, uid: int, gid: int) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = InodeT(attributes.inode)
    entry.st_mode = ModeT(attributes.mode)
    entry.st_nlink = attributes.links
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_size = attributes.size_bytes
    entry.st_blocks = attributes.sectors
    entry.st_blksize = attributes.block_bytes
    entry.st_atime_ns = attributes.accessed_ns
    entry.st_mtime_ns = attributes.modified_ns
    entry.st_ctime_ns = attributes.changed_ns
    entry.entry_timeout = 0
    entry.attr_timeout = 0
    return entry
