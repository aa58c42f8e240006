"""Whatever is read off the wire as a structure or a list, and shown to somebody."""

import json
from collections.abc import Callable
from typing import Any, Final

import nvmf_transport.fabrics
import nvmf_transport.identify
import nvmf_transport.logs
import nvmf_transport.nvme  # noqa: F401 - all modules that declare structures
from nvmecontrol.pages import PAGES
from nvmecontrol.text import controller, discovery, namespace
from nvmecontrol.text.labels import as_json
from nvmf_host.discovery import entry_address
from nvmf_tcp.pdu import fatal_error_text
from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError, MalformedStructureError, RemoteProtocolError
from nvmf_transport.fabrics import DiscoveryLogEntry
from nvmf_transport.identify import (
    IdentifyController,
    IdentifyNamespace,
    unpack_namespace_descriptors,
    unpack_namespace_list,
)
from nvmf_transport.logs import unpack_ana_log
from nvmf_transport.nqn import check_nqn
from nvmf_transport.nvme import AsyncEvent, Cap, Cc, Csts, Vs
from nvmf_transport.status import Status
from nvmf_transport.wire import Bits, Register, WireStruct

from .source import Source


def _subclasses(base: type[Any]) -> list[type[Any]]:
    found = {each for child in base.__subclasses__() for each in (child, *_subclasses(child))}
    # attrs makes slotted classes anew; the ones they came from are still there.
    return sorted((each for each in found if each.SIZE), key=lambda each: each.__qualname__)


STRUCTURES: Final = list({each.__qualname__: each for each in _subclasses(WireStruct)}.values())
_LISTS: Final[tuple[Callable[[bytes], Any], ...]] = (
    unpack_namespace_descriptors,
    unpack_namespace_list,
    unpack_ana_log,
)
_REGISTERS: Final[tuple[type[Register], ...]] = (Cap, Cc, Csts, Vs, AsyncEvent)


def look_at(value: object) -> None:
    """Reads every property and bit field: none of them may raise."""
    for name in dir(type(value)):
        if isinstance(getattr(type(value), name), (property, Bits)):
            getattr(value, name)
    str(value)
    repr(value)


def _structure(source: Source) -> None:
    kind = source.pick(STRUCTURES)
    offset = source.below(4)
    data = source.take(65536)
    try:
        value = kind.unpack(data, offset)
    except MalformedStructureError:
        assert len(data) - offset < kind.SIZE
        return
    assert len(data) - offset >= kind.SIZE
    look_at(value)
    try:
        packed = value.pack()
    except ValueError as error:
        # A string that fills its field has no NUL, and cannot be sent on.
        assert "a string of" in str(error)
    else:
        assert len(packed) == kind.SIZE
        # Text that was no ASCII has become so; from then on nothing changes any more.
        again = kind.unpack(packed)
        assert again.pack() == packed
        assert kind.unpack(again.pack()) == again
    json.dumps(as_json(value)).encode()
    _shown(value)


def _shown(value: WireStruct) -> None:
    """The text of what nvmecontrol prints."""
    match value:
        case IdentifyController():
            lines = controller.controller_lines(value)
        case IdentifyNamespace():
            lines = namespace.namespace_lines(value)
        case DiscoveryLogEntry():
            lines = discovery.discovery_lines([value])
            try:
                address = entry_address(value, 8009)
            except ConfigError:
                pass
            else:
                assert address.port
                assert Address.parse(str(address)) == address
        case _:
            return
    _printable(lines)


def _printable(lines: list[str]) -> None:
    for line in lines:
        line.encode()
        assert "\x1b" not in line, "a terminal's escape sequence"


def _list(source: Source) -> None:
    decode = source.pick(_LISTS)
    data = source.take(65536)
    try:
        found = decode(data)
    except RemoteProtocolError:
        return
    if decode is unpack_namespace_descriptors:
        assert sum(4 + len(value) for value in found.values()) <= len(data)


def _page(source: Source) -> None:
    page = source.pick(PAGES)
    data = source.take(65536)
    if page.lines is None or page.as_json is None:
        return
    try:
        _printable(page.lines(data))
        json.dumps(page.as_json(data)).encode()
    except RemoteProtocolError:
        pass


def _page_lengths(source: Source) -> None:
    """The length of a log page depends on identify data: it is what will be asked for."""
    data = IdentifyController(
        elpe=source.number(8),
        nn=source.number(32),
        mnan=source.number(32),
        nanagrpid=source.number(32),
    )
    for page in PAGES:
        if callable(page.length_bytes):
            assert page.length_bytes(data) >= 0


def _register(source: Source) -> None:
    look_at(source.pick(_REGISTERS)(source.integer(8)))
    status = Status.from_field(source.integer(2) >> 1)
    look_at(status)
    assert Status.from_field(status.to_field()) == status
    fatal_error_text(source.integer(2), source.integer(4))


def _text(source: Source) -> None:
    text = source.take(400).decode("utf-8", "surrogateescape")
    for judge in (lambda: check_nqn(text, "nqn"), lambda: Address.parse(text, default_port=1)):
        try:
            judge()
        except ConfigError as error:
            str(error)


_KINDS: Final = (_structure, _structure, _structure, _list, _page, _page_lengths, _register, _text)


def check(data: bytes) -> None:
    """One input."""
    source = Source(data)
    source.pick(_KINDS)(source)
