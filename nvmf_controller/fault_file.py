"""Reads a fault plan from TOML.  What it cannot mean is refused by field, value and remedy."""

import enum
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.gen import make_dict_structure_fn

from nvmf_transport.errors import ConfigError

from .fault_actions import ACTIONS, Action
from .faults import FaultPlan, Rule

_T = TypeVar("_T")
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def read_fault_plan(path: str) -> FaultPlan:
    """The plan in a file.  Raises `ConfigError`."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{error.strerror}; give a file with a plan", field="faults", value=path
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: {error.reason}", field="faults", value=path) from None
    return parse_fault_plan(text, path)


def parse_fault_plan(text: str, name: str = "plan") -> FaultPlan:
    """The plan that a TOML document describes; errors call it `name`.  Raises `ConfigError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}; mend it", field="faults", value=name) from None
    try:
        return _converter.structure(document, FaultPlan)
    except (ClassValidationError, IterableValidationError) as error:
        raise _first_problem(error, "") from None


def _scalar(value: Any, kind: type[_T]) -> _T:
    # TOML has types; cattrs would take "3" for 3, and True for 1.
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # type: ignore[return-value]
    raise ConfigError(f"give {_KINDS[kind]}", field="", value=value)


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise ConfigError(f"give one of {known}", field="", value=value) from None


def _action(value: Any, _: object) -> Action:
    if not isinstance(value, dict):
        raise ConfigError('give a table, such as { do = "drop" }', field="", value=value)
    kind = ACTIONS.get(value.get("do", ""))
    if kind is None:
        raise ConfigError(
            f"give one of {', '.join(ACTIONS)}", field="do", value=value.get("do", "nothing")
        )
    return _converter.structure(value, kind)


def _text_or_number(value: Any, _: object) -> str | int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    raise ConfigError("give a name or a whole number", field="", value=value)


def _opcodes(value: Any, _: object) -> tuple[str | int, ...]:
    return tuple(_text_or_number(v, None) for v in (value if isinstance(value, list) else [value]))


def _lba(value: Any, _: object) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2:
        return _scalar(value[0], int), _scalar(value[1], int)
    raise ConfigError("give [FIRST, LAST]", field="", value=value)


def _make_converter() -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True)
    for kind in _KINDS:
        made.register_structure_hook(kind, _scalar)
    made.register_structure_hook_func(
        lambda kind: isinstance(kind, type) and issubclass(kind, enum.Enum), _member
    )
    rule = make_dict_structure_fn(
        Rule,
        made,
        action=cattrs.override(struct_hook=_action),
        queue=cattrs.override(struct_hook=_text_or_number),
        opcode=cattrs.override(struct_hook=_opcodes),
        lba=cattrs.override(struct_hook=_lba),
        _cattrs_forbid_extra_keys=True,
    )
    made.register_structure_hook(Rule, rule)
    return made


_converter: Final = _make_converter()


def _first_problem(error: BaseException, path: str) -> ConfigError:
    """The first thing that is wrong, as `rule[2].action.seconds`."""
    if isinstance(error, IterableValidationError | ClassValidationError):
        noted, others = error.group_exceptions()
        if not noted:
            return _first_problem(others[0], path)
        inner, note = noted[0]
        if isinstance(note, AttributeValidationNote):
            return _first_problem(inner, f"{path}.{note.name}")
        # Counted as people count.
        return _first_problem(inner, f"{path}[{int(note.index) + 1}]")
    match error:
        case TypeError() if not path.endswith("]"):
            return _refused(f"{error}; write it as [[rule]]", path, "")
        case ForbiddenExtraKeysError():
            known = ", ".join(field.name for field in attrs.fields(error.cl))
            unknown = min(error.extra_fields)
            return _refused(f"unknown; known are {known}", f"{path}.{unknown}", "")
        case ConfigError():
            field = f"{path}.{error.field}" if error.field else path
            return _refused(str(error), field, error.value)
        case KeyError():
            return _refused("missing; give it", path, "")
        case _:
            return _refused(f"{error}; change it", path, "")


def _refused(what: str, field: str, value: object) -> ConfigError:
    return ConfigError(what, field=f"fault plan, {field.lstrip('.')}", value=value)
