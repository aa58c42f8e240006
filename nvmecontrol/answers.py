"""Answers of the daemon as the classes of `nvmf_host.messages`.

A dozen lines instead of cattrs, whose import alone takes most of the time that a command may.
Fields that this version does not know are left out: the daemon may be newer.
"""

import types
import typing
from typing import Any, TypeVar

import attrs

from .failure import Failure

T = TypeVar("T")


def structure(cls: type[T], value: object) -> T:
    """`value`, as parsed from JSON, as an instance of `cls`; raises `Failure` where it is not."""
    try:
        built: T = _build(cls, value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failure(
            f"the daemon's answer is not a {cls.__name__} ({type(error).__name__}: {error}); "
            "use a fusedev and nvmecontrol of the same version",
            kind="internal",
        ) from error
    return built


def _build(kind: Any, value: Any) -> Any:
    if attrs.has(kind):
        fields = attrs.fields(kind)
        return kind(
            **{
                field.name: _build(field.type, value[field.name])
                for field in fields
                if field.name in value
            }
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_build(arguments[0], each) for each in value)
    if origin is dict:
        return {name: _build(arguments[1], each) for name, each in value.items()}
    if isinstance(kind, types.UnionType):
        named = [each for each in arguments if attrs.has(each)]
        return _build(named[0], value) if named and value is not None else value
    return value
