"""TOML files that a person writes: what isn't understood is refused, and the nearest key named."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from deepseek_edge.errors import UsageError

_T = TypeVar("_T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        UsageError: it can't be read, or is no TOML.
    """
    try:
        return msgspec.toml.decode(path.read_text("utf-8"), type=dict[str, Any])
    except msgspec.DecodeError as error:  # says the line and column
        raise UsageError(f"{path.name} is not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} can't be read: {error}") from error


def convert(value: object, type_: type[_T], where: str) -> _T:
    """A table as a dataclass, strictly: types, ranges and missing keys are checked.

    Args:
        value: of the file.
        type_: a dataclass, or what else msgspec knows.
        where: what to call the table in an error.

    Raises:
        UsageError: it doesn't fit.
    """
    if isinstance(value, Mapping):
        check_keys(value, [field.name for field in fields(type_)], where)  # type: ignore[arg-type]
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that aren't known.

    Raises:
        UsageError: it names the first one, and the nearest that is known.
    """
    known = list(known)
    unknown = sorted(table.keys() - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise UsageError(
            f"{where}: unknown key '{unknown[0]}'",
            hint=f"did you mean {near[0]}?" if near else f"keys are {', '.join(known)}",
        )
