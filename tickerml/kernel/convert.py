"""Turning what a person wrote into what it means, with an error that says what to change."""

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from .errors import ConfigError

_T = TypeVar("_T")


def read_toml(path: Path, what: str, advice: str = "") -> dict[str, Any]:
    """
    Return the content of a TOML file.

    Args:
        what, advice: what the file is, and what to do where it cannot be read.
    Raises: ConfigError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}{advice}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def convert(data: Any, type_: type[_T], where: str) -> _T:
    """
    Return *data* as *type_*.

    Raises: ConfigError: "<where>.<key>: <rule>, was <value>".
    """
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{_explain(str(error), data, type_)}") from None


def _explain(text: str, data: Any, type_: Any) -> str:
    rule, _, location = text.partition(" - at ")
    path = re.findall(r"[a-z_]\w*|\[\d+\]|\[\.\.\.\]", location.strip("`$"))
    value: Any = data
    for step in path:
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return f": {text}"
    dotted = "".join(step if step.startswith("[") else f".{step}" for step in path)
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", rule):
        for step in path:
            type_ = get_type_hints(type_).get(step) if hasattr(type_, "__struct_fields__") else None
        fields = list(getattr(type_, "__struct_fields__", ()))
        return f"{dotted}.{unknown[1]}: unknown key{suggest(unknown[1], fields)}"
    return f"{dotted}: {rule[0].lower()}{rule[1:]}, was {value!r}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where one of the *known* words is close to *word*, else ""."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
