"""Hypothesis strategies that are derived from the declarations of wire structures."""

import string
from typing import Any

import attrs
from hypothesis import strategies as st

from nvmf_transport import fabrics, identify, logs, nvme
from nvmf_transport.wire import WireStruct

_PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "


def all_structures() -> list[type[WireStruct]]:
    """Every structure that the specifications' tables declare."""
    return sorted(
        (
            found
            for module in (fabrics, identify, logs, nvme)
            for found in vars(module).values()
            if isinstance(found, type)
            and issubclass(found, WireStruct)
            and found is not WireStruct
            and found.__module__ == module.__name__
        ),
        key=lambda found: found.__name__,
    )


def _text(size_bytes: int) -> st.SearchStrategy[str]:
    # Spaces at either end are padding, and are not given back.
    return st.text(_PRINTABLE, max_size=size_bytes).map(lambda value: value.strip(" "))


def _utf8(size_bytes: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_characters="\0", codec="utf-8")
    return st.text(characters, max_size=size_bytes // 4 - 1)


def _values(struct: type[WireStruct], name: str, default: Any) -> st.SearchStrategy[Any]:
    size_bytes = struct.size_of(name)
    match default:
        case int():
            return st.integers(0, (1 << 8 * size_bytes) - 1)
        case bytes():
            return st.binary(min_size=size_bytes, max_size=size_bytes)
        case str():
            at = struct.offset_of(name)
            padded_with_nul = struct().pack()[at] == 0
            return _utf8(size_bytes) if padded_with_nul else _text(size_bytes)
        case (str(), *_):
            piece = _text(size_bytes // len(default))
            return st.tuples(*[piece] * len(default))
        case (int(), *_):
            item = st.integers(0, (1 << 8 * size_bytes // len(default)) - 1)
            # 256 numbers of their own are more than one example needs.
            return st.lists(item, min_size=1, max_size=8).map(
                lambda some: tuple(some[i % len(some)] for i in range(len(default)))
            )
        case _:
            raise AssertionError(f"{struct.__name__}.{name}")


def instances(struct: type[WireStruct]) -> st.SearchStrategy[WireStruct]:
    """Structures of one kind, with any values that their fields can hold."""
    return st.fixed_dictionaries(
        {
            attribute.name: _values(struct, attribute.name, attribute.default)
            for attribute in attrs.fields(struct)
        }
    ).map(lambda values: struct(**values))
