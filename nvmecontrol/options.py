"""Option types: numbers with units and ranges; options that exist elsewhere and are refused."""

import re
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from .failure import Failure, label_of, usage

_NUMBER: Final = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
if TYPE_CHECKING:
    # Generic since click 8.4 only.
    IntegerType = click.ParamType[int]
    FloatType = click.ParamType[float]
else:
    IntegerType = FloatType = click.ParamType

U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFFFFFF
U64_MAX: Final = 0xFFFFFFFFFFFFFFFF
#: The daemon's own limits; it checks again.
MAX_IO_QUEUES: Final = 1024
MAX_QUEUE_ENTRIES: Final = 65536
MAX_KATO_S: Final = 4_000_000
MAX_DELAY_S: Final = 86_400
MAX_LIMIT_S: Final = 4_000_000


def parse_number(text: str) -> int | None:
    """A number in decimal, hex (0x) or octal (0); None where it is none."""
    if not _NUMBER.fullmatch(text):
        return None
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    if digits[:2] in {"0x", "0X"}:
        return sign * int(digits, 16)
    return sign * int(digits, 8 if digits.startswith("0") else 10)


def bad_value(parameter: click.Parameter | None, value: object, message: str) -> Failure:
    """A refusal of a parameter's value."""
    if parameter is None:
        return usage(message, field="value", value=value)
    return usage(message, field=parameter.name or "", value=value, label=label_of(parameter))


@attrs.define(eq=False, slots=False)
class Number(IntegerType):
    """An integer from `low` to `high`; `unit` is what it counts."""

    low: int
    high: int
    unit: str = ""
    #: One more value that is allowed, and what it means.
    also: int | None = None

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = parse_number(str(value).strip())
        if number is None:
            raise bad_value(param, value, f"not a number; give {self.range()}")
        if not (self.low <= number <= self.high or number == self.also):
            raise bad_value(param, value, f"out of range; give {self.range()}")
        return number

    def range(self) -> str:
        """The range, in words."""
        also = f"{self.also} or " if self.also is not None else ""
        unit = f" {self.unit}" if self.unit else ""
        return f"{also}{self.low} to {self.high}{unit}"


@attrs.define(eq=False, slots=False)
class Seconds(FloatType):
    """A time in seconds, with or without a fraction."""

    low: int
    high: int
    #: One more value that is allowed.
    also: int | None = None

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        number: float | None = parse_number(text)
        if number is None and _DECIMAL.fullmatch(text):
            number = float(text)
        if number is None:
            raise bad_value(param, value, f"not a number; give {self.range()}")
        if not (self.low <= number <= self.high or number == self.also):
            raise bad_value(param, value, f"out of range; give {self.range()}")
        return float(number)

    def range(self) -> str:
        """The range, in words."""
        also = f"{self.also} or " if self.also is not None else ""
        return f"{also}{self.low} to {self.high} seconds"


#: Options of other hosts that this one has no use for, and why.
REFUSED: Final = {
    "nr_write_queues": (
        ["-W", "--nr-write-queues"],
        "there are no queues for writes alone; use -i",
    ),
    "nr_poll_queues": (["-P", "--nr-poll-queues"], "there are no polled queues; use -i"),
    "tos": (["-T", "--tos"], "the type of service cannot be set; leave it out"),
    "tls_key": (["--tls_key", "--tls-key"], "TLS is not offered; connect without it"),
    "keyring": (["--keyring"], "TLS is not offered; connect without it"),
    "tls": (["--tls"], "TLS is not offered; connect without it"),
    "concat": (["--concat"], "TLS is not offered; connect without it"),
    "dhchap_secret": (
        ["-S", "--dhchap-secret"],
        "authentication is not offered; connect without it",
    ),
    "dhchap_ctrl_secret": (
        ["-C", "--dhchap-ctrl-secret"],
        "authentication is not offered; connect without it",
    ),
}
_FLAGS: Final = {"tls", "concat"}


def _refusal(names: list[str], name: str, message: str) -> click.Option:
    def refuse(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            # A secret does not belong into a message.
            shown = "" if name in _FLAGS or "secret" in name else value
            raise bad_value(parameter, shown, message)

    return click.Option(
        [name, *names],
        hidden=True,
        expose_value=False,
        is_flag=name in _FLAGS,
        callback=refuse,
    )


def refused_options() -> list[click.Parameter]:
    """The options of `REFUSED`: not in the help, and refused with a reason."""
    return [_refusal(names, name, message) for name, (names, message) in REFUSED.items()]
