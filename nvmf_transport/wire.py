"""Wire structures, declared once at the specification's offsets.

A structure names each field with its byte offset, exactly as the specification's table does; the
layout is checked (overlap, size) and compiled into one `struct.Struct` when the class is made.
Everything on the wire is little-endian.  `unpack` is fed by the network: it may raise only
`MalformedStructureError`, and only for a buffer that is too short; values are judged by whoever
asks for them.
"""

import struct
import uuid
from collections.abc import Callable
from typing import Any, ClassVar, Self, overload

import attrs

from .errors import MalformedStructureError

Buffer = bytes | bytearray | memoryview
_METADATA_KEY = "nvmf_transport.wire"


@attrs.frozen
class _Kind:
    """How one field stands on the wire."""

    offset: int
    code: str
    size: int
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


def _field(kind: _Kind, default: Any) -> Any:
    return attrs.field(default=default, kw_only=True, metadata={_METADATA_KEY: kind})


def u8(offset: int, default: int = 0) -> Any:
    """An unsigned 8-bit integer."""
    return _field(_Kind(offset, "B", 1), default)


def u16(offset: int, default: int = 0) -> Any:
    """An unsigned 16-bit integer."""
    return _field(_Kind(offset, "H", 2), default)


def u32(offset: int, default: int = 0) -> Any:
    """An unsigned 32-bit integer."""
    return _field(_Kind(offset, "I", 4), default)


def u64(offset: int, default: int = 0) -> Any:
    """An unsigned 64-bit integer."""
    return _field(_Kind(offset, "Q", 8), default)


def u128(offset: int, default: int = 0) -> Any:
    """An unsigned 128-bit integer."""
    return _field(
        _Kind(
            offset,
            "16s",
            16,
            lambda value: value.to_bytes(16, "little"),
            lambda raw: int.from_bytes(raw, "little"),
        ),
        default,
    )


def raw(offset: int, size: int) -> Any:
    """Opaque bytes; the default is all zeroes."""

    def encode(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"a field of {size} bytes cannot hold {len(value)}")
        return value

    return _field(_Kind(offset, f"{size}s", size, encode), bytes(size))


def text(offset: int, size: int) -> Any:
    """ASCII text, left justified and padded with spaces (Base, section 1.4.2)."""

    def encode(value: str) -> bytes:
        data = value.encode("ascii", "replace")
        if len(data) > size:
            raise ValueError(f"text of {len(data)} bytes in a field of {size}: {value!r}")
        return data.ljust(size)

    def decode(data: bytes) -> str:
        return _printable(data.split(b"\0", 1)[0].decode("ascii", "replace")).strip(" ")

    return _field(_Kind(offset, f"{size}s", size, encode, decode), "")


def utf8(offset: int, size: int) -> Any:
    """UTF-8 text ended by a NUL: an NQN.

    A value that fills the field has no NUL and is decoded whole, so that the check of its length
    sees it.
    """

    def encode(value: str) -> bytes:
        data = value.encode("utf-8", "surrogateescape")
        if len(data) >= size:
            raise ValueError(f"a string of {len(data)} bytes in a field of {size}: {value!r}")
        return data.ljust(size, b"\0")

    def decode(data: bytes) -> str:
        return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")

    return _field(_Kind(offset, f"{size}s", size, encode, decode), "")


def array_u16(offset: int, count: int) -> Any:
    """A tuple of `count` unsigned 16-bit integers."""
    return _array(offset, count, "H", 2)


def array_u32(offset: int, count: int) -> Any:
    """A tuple of `count` unsigned 32-bit integers."""
    return _array(offset, count, "I", 4)


def array_text(offset: int, count: int, size: int) -> Any:
    """A tuple of `count` space-padded ASCII strings of `size` bytes each."""

    def encode(values: tuple[str, ...]) -> bytes:
        pieces = [value.encode("ascii", "replace").ljust(size) for value in values]
        if len(pieces) != count or any(len(piece) > size for piece in pieces):
            raise ValueError(f"a field of {count} strings of {size} bytes cannot hold {values!r}")
        return b"".join(pieces)

    def decode(data: bytes) -> tuple[str, ...]:
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        return tuple(
            _printable(piece.split(b"\0", 1)[0].decode("ascii", "replace")).strip(" ")
            for piece in pieces
        )

    kind = _Kind(offset, f"{size * count}s", size * count, encode, decode)
    return _field(kind, ("",) * count)


def _array(offset: int, count: int, code: str, size: int) -> Any:
    layout = struct.Struct(f"<{count}{code}")
    kind = _Kind(
        offset,
        f"{size * count}s",
        size * count,
        lambda values: layout.pack(*values),
        layout.unpack,
    )
    return _field(kind, (0,) * count)


def _printable(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)


class Bits:
    """Bits `high`..`low` of an integer field, read as an integer."""

    def __init__(self, field: str, high: int, low: int | None = None) -> None:
        self._field = field
        self._low = high if low is None else low
        self._mask = (1 << (high - self._low + 1)) - 1

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> int: ...
    def __get__(self, instance: object | None, owner: type) -> int | Self:
        if instance is None:
            return self
        value: int = getattr(instance, self._field)
        return (value >> self._low) & self._mask

    def place(self, word: int, value: int) -> int:
        """Returns `word` with these bits replaced by `value`."""
        if not 0 <= value <= self._mask:
            raise ValueError(f"{value} does not fit into the bits {self._mask << self._low:#x}")
        return (word & ~(self._mask << self._low)) | (value << self._low)


@attrs.frozen
class WireStruct:
    """Base of every wire structure; subclasses declare `SIZE` and their fields."""

    SIZE: ClassVar[int] = 0
    _layout: ClassVar[struct.Struct]
    _kinds: ClassVar[dict[str, _Kind]] = {}

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        kinds = {
            attribute.name: attribute.metadata[_METADATA_KEY]
            for attribute in attrs.fields(cls)
            if _METADATA_KEY in attribute.metadata
        }
        order = sorted(kinds, key=lambda name: kinds[name].offset)
        code, position = "<", 0
        for name in order:
            kind = kinds[name]
            if kind.offset < position:
                raise TypeError(f"{cls.__name__}.{name} overlaps the field before it")
            code += f"{kind.offset - position}x{kind.code}"
            position = kind.offset + kind.size
        if position > cls.SIZE:
            raise TypeError(f"{cls.__name__} has {position} bytes of fields, SIZE is {cls.SIZE}")
        cls._layout = struct.Struct(f"{code}{cls.SIZE - position}x")
        cls._kinds = {name: kinds[name] for name in order}

    def pack(self) -> bytes:
        """Returns the `SIZE` bytes of this structure, reserved bytes zero."""
        values = [
            getattr(self, name) if kind.encode is None else kind.encode(getattr(self, name))
            for name, kind in self._kinds.items()
        ]
        return self._layout.pack(*values)

    @classmethod
    def unpack(cls, buffer: Buffer, offset: int = 0) -> Self:
        """Decodes the `SIZE` bytes of `buffer` at `offset`; what follows is left alone.

        Raises `MalformedStructureError` where the buffer is too short.
        """
        if len(buffer) - offset < cls.SIZE:
            raise MalformedStructureError(cls.__name__, len(buffer) - offset, cls.SIZE)
        values = cls._layout.unpack_from(buffer, offset)
        return cls(
            **{
                name.lstrip("_"): value if kind.decode is None else kind.decode(value)
                for (name, kind), value in zip(cls._kinds.items(), values, strict=True)
            }
        )

    @classmethod
    def offset_of(cls, name: str) -> int:
        """The byte offset of a field: what FEI, IPO and error messages name."""
        return cls._kinds[name].offset

    @classmethod
    def size_of(cls, name: str) -> int:
        """The size of a field in bytes."""
        return cls._kinds[name].size

    @classmethod
    def field_names(cls) -> list[str]:
        """The names of the fields, in the order of their offsets."""
        return list(cls._kinds)

    @classmethod
    def reserved_ranges(cls) -> list[tuple[int, int]]:
        """The reserved byte ranges `(start, end)` of the structure, in order."""
        ranges, position = [], 0
        for kind in cls._kinds.values():
            if kind.offset > position:
                ranges.append((position, kind.offset))
            position = kind.offset + kind.size
        if position < cls.SIZE:
            ranges.append((position, cls.SIZE))
        return ranges


@attrs.frozen
class Register:
    """A property of the controller: an integer whose bit fields are `Bits("value", ...)`."""

    value: int = 0

    @classmethod
    def of(cls, **fields: int) -> Self:
        """A register with these bit fields, the others zero."""
        return cls(0).replace(**fields)

    def replace(self, **fields: int) -> Self:
        """This register with some bit fields changed."""
        word = self.value
        for name, value in fields.items():
            bits = getattr(type(self), name)
            word = bits.place(word, value)
        return type(self)(word)


def uuid_text(data: bytes) -> str:
    """A UUID, NGUID or Host ID (16 bytes, in the order of RFC 9562) as text."""
    return str(uuid.UUID(bytes=bytes(data)))
