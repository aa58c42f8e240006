"""LOOKUP, GETATTR and GETXATTR, which stat, ls and open ask: from bytes to bytes.

Beside reads and writes these come most: the kernel caches neither names nor attributes, and `ls -l`
asks nine times for each node.  Passed on to pyfuse3 each costs twice as much.  `Operations` has the
plain twins, which serve where there is no data path.
"""

import errno
import struct
from typing import Final

from . import xattrs
from .nodes import Node, NodeTable

_LOOKUP: Final = 1
_GETATTR: Final = 3
_GETXATTR: Final = 22
_IN_HEADER_BYTES: Final = 40

_NS: Final = 1_000_000_000
#: For times before 1970, which utimensat(2) takes: as the kernel has negative numbers.
_ALL_ONES: Final = (1 << 64) - 1
#: struct fuse_attr: number, size, sectors; seconds of access, modification, change, and nanoseconds
#: of each; mode, links, owner, group, device, size of an I/O, flags.
_ATTRIBUTES: Final = struct.Struct("=6Q10I")
#: What is before it in struct fuse_attr_out: how long it is valid, which is not at all.
_VALID_ATTRIBUTES: Final = bytes(16)
#: In struct fuse_entry_out: the node, its generation, and how long name and attributes are valid.
_ENTRY: Final = struct.Struct("=Q32x")
#: struct fuse_getxattr_in, with the name behind it: how long the answer may be.
_GETXATTR_IN: Final = struct.Struct("=I4x")
_OWN_ATTRIBUTES: Final = xattrs.PREFIX.encode()


class Inquiries:
    """Those about the nodes of one table."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes

    def answer(self, opcode: int, number: int, request: memoryview) -> bytes | int | None:
        """The answer's bytes without header, or an errno; None where pyfuse3 is to answer.

        `number` is that of the node, and `request` all of it, header and body.
        """
        if opcode == _GETATTR:
            node = self._nodes.get(number)
            if node is None:
                return errno.ESTALE
            return _VALID_ATTRIBUTES + self._attributes(node)
        if opcode == _LOOKUP:
            # There is one directory, and the name ends with a zero.
            node = self._nodes.lookup(bytes(request[_IN_HEADER_BYTES:-1]))
            if node is None:
                return errno.ENOENT
            entry = _ENTRY.pack(node.inode) + self._attributes(node)
            # The kernel forgets what it was told, and nothing else.
            node.lookups += 1
            return entry
        if opcode == _GETXATTR:
            # What the kernel and ls look for: access lists, labels, capabilities.
            name = request[_IN_HEADER_BYTES + _GETXATTR_IN.size : -1]
            if name[: len(_OWN_ATTRIBUTES)] != _OWN_ATTRIBUTES:
                return errno.ENODATA
        return None

    def _attributes(self, node: Node) -> bytes:
        """struct fuse_attr."""
        said = node.attributes()
        accessed_s, accessed_ns = divmod(said.accessed_ns, _NS)
        modified_s, modified_ns = divmod(said.modified_ns, _NS)
        changed_s, changed_ns = divmod(said.changed_ns, _NS)
        return _ATTRIBUTES.pack(
            said.inode,
            said.size_bytes,
            said.sectors,
            accessed_s & _ALL_ONES,
            modified_s & _ALL_ONES,
            changed_s & _ALL_ONES,
            accessed_ns,
            modified_ns,
            changed_ns,
            said.mode,
            said.links,
            self._nodes.uid,
            self._nodes.gid,
            0,
            said.block_bytes,
            0,
        )
