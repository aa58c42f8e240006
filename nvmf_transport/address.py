"""Transport addresses as people type them: `host:port`, `[v6]:port`, `fe80::1%eth0`."""

import ipaddress
import re

import attrs

from .errors import ConfigError

#: Characters of a host name and of each of its labels (RFC 1035, section 2.3.4).
_MAX_NAME, _MAX_LABEL = 253, 63
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


@attrs.frozen
class Address:
    """A host (name, IPv4, IPv6 with an optional zone, without brackets) and perhaps a port."""

    host: str
    port: int | None = None

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        default_port: int | None = None,
        field: str = "address",
        allow_port_0: bool = False,
    ) -> "Address":
        """Parses `host`, `host:port`, `v4:port`, `v6`, `[v6]` or `[v6]:port`.

        Two or more bare colons make an IPv6 address without a port.  Raises `ConfigError`, also
        where there is no port and no default: then the text says that one is required.
        """
        text = text.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise _bad(field, text, "a bracketed IPv6 address is written [v6] or [v6]:port")
            port_text = rest[1:] if rest else None
            _check_v6(field, text, host)
        elif text.count(":") > 1:
            host, port_text = text, None
            _check_v6(field, text, host)
        else:
            host, colon, tail = text.partition(":")
            port_text = tail if colon else None
            _check_name_or_v4(field, text, host)
        port = default_port if port_text is None else _port(field, text, port_text, allow_port_0)
        if port is None:
            shape = "[ADDRESS]:PORT" if ":" in host else "ADDRESS:PORT"
            raise ConfigError(f"explicit port required; write {shape}", field=field, value=text)
        return cls(host, port)

    @property
    def is_v6(self) -> bool:
        """True for a literal IPv6 address."""
        return ":" in self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.is_v6 else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _bad(field: str, text: str, remedy: str) -> ConfigError:
    return ConfigError(f"not an address; {remedy}", field=field, value=text)


def _check_v6(field: str, text: str, host: str) -> None:
    literal, percent, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(literal)
    except ValueError:
        raise _bad(field, text, "not a valid IPv6 address") from None
    if percent and (not zone or "/" in zone or any(c.isspace() for c in zone)):
        raise _bad(field, text, "the zone after % is the name of an interface")


def _check_name_or_v4(field: str, text: str, host: str) -> None:
    if not host:
        raise _bad(field, text, "write ADDRESS:PORT")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _bad(field, text, "not a valid IPv4 address") from None
    elif len(host) > _MAX_NAME or not _NAME.fullmatch(host) or not _labels_are_valid(host):
        raise _bad(field, text, "not a valid host name")


def _labels_are_valid(name: str) -> bool:
    # Python's look-up raises UnicodeError for others, which nobody expects of it.
    return all(0 < len(label) <= _MAX_LABEL for label in name.removesuffix(".").split("."))


def _port(field: str, text: str, port_text: str, allow_0: bool) -> int:
    lowest = 0 if allow_0 else 1
    # str.isdigit() takes other scripts' digits too.
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or not lowest <= int(port_text) <= 65535:
        raise ConfigError(
            f"{port_text!r} is not a port; give a number from {lowest} to 65535",
            field=field,
            value=text,
        )
    return int(port_text)
