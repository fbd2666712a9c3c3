r"""Checking what a person set against what a constructor declares."""

__all__ = ["check_values", "fits"]

import math
import types
import typing

from collections.abc import Mapping
from typing import Any

from .errors import UsageError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def fits(value: Any, kind: Any) -> bool:
    """Says whether a value is of an annotated type; whole numbers are numbers, and NaN is none."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def check_values(where: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Holds settings against annotated types.

    Raises:
        UsageError: A value is of another type.
    """
    for key, value in values.items():
        if not fits(value, kinds[key]):
            words = WORDS.get(kinds[key], f"of the form {kinds[key]}".replace("typing.", ""))
            raise UsageError(f"{where}.{key}={value} is not possible; it is {words}.")
