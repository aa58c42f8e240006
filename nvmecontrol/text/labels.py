"""Lines of a label and a value, and structures as JSON."""

from typing import Any, Final

import attrs

from nvmecontrol.failure import printable
from nvmf_transport.wire import WireStruct

#: Width of FreeBSD's column of labels.
LABEL_WIDTH: Final = 29


def row(label: str, value: object) -> str:
    """A label and its value."""
    return printable(f"{label + ':':<{LABEL_WIDTH}}{value}").rstrip()


def section(title: str) -> list[str]:
    """A title, underlined."""
    return [title, "=" * len(title)]


def supported(flag: int) -> str:
    """Supported or Not Supported."""
    return "Supported" if flag else "Not Supported"


def yes(flag: int) -> str:
    """Yes or No."""
    return "Yes" if flag else "No"


def as_json(structure: WireStruct) -> dict[str, Any]:
    """The fields of a structure by the specification's names; opaque bytes as hex."""
    return {
        field.name: _json_value(getattr(structure, field.name))
        for field in attrs.fields(type(structure))
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        # A lone surrogate stands for a byte that was no UTF-8: JSON has no place for it.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return list(value) if isinstance(value, tuple) else value
