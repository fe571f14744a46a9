"""Turning what a person wrote into what it means, with an error that says what to change."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from .errors import ConfigError

_T = TypeVar("_T")


def read_toml(
    path: Path, what: str, advice: str = "", *, loads: Callable[[str], dict[str, Any]] = tomllib.loads
) -> dict[str, Any]:
    """
    Return the content of a TOML file.

    Args:
        what, advice: what the file is, and what to do where it cannot be read.
        loads: what its text is read by.
    Raises: ConfigError: unreadable, or not TOML.
    """
    try:
        return loads(path.read_text())
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
    try:
        dotted, value, type_ = _place(location, data, type_)
    except (LookupError, TypeError, ValueError):
        return f": {text}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", rule):
        fields = list(getattr(type_, "__struct_fields__", ()))
        return f"{dotted}.{unknown[1]}: unknown key{suggest(unknown[1], fields)}"
    if allowed := _allowed(rule, type_):
        return f"{dotted}: must be one of {', '.join(allowed)}, was {value!r}"
    said = f"{rule[0].lower()}{rule[1:]}".replace("`object`", "`table` { key = value }")
    # What a type says of itself in its own words names what it was.
    return f"{dotted}: {said}, was {value!r}" if rule.startswith("Expected") else f"{dotted}: {said}"


def _place(location: str, data: Any, type_: Any) -> tuple[str, Any, Any]:
    """
    Return the dotted name of *location*, msgspec's path into *data*, and the value and the type there.

    The type is None where it cannot be told. Raises: LookupError, TypeError, ValueError: no such place.
    """
    dotted = ""
    for step in re.findall(r"[a-z_]\w*|\[\d+\]|\[\.\.\.\]", location.strip("`$")):
        type_ = _bare(type_)
        if step == "[...]":  # a value of a table, whose key msgspec does not tell
            type_ = get_args(type_)[1]
            step = next((key for key, value in data.items() if not _is(value, type_)), None)
            dotted, data = f"{dotted}.{step}", data[step]
        elif step.startswith("["):
            types = [each for each in get_args(type_) if each is not ...]
            type_ = types[min(int(step[1:-1]), len(types) - 1)] if types else None
            dotted, data = f"{dotted}{step}", data[int(step[1:-1])]
        else:
            is_struct = hasattr(type_, "__struct_fields__")
            type_ = get_type_hints(type_, include_extras=True).get(step) if is_struct else None
            dotted, data = f"{dotted}.{step}", data[step]
    return dotted, data, _bare(type_)


def _bare(type_: Any) -> Any:
    """Return *type_* without what is annotated, and without the None that it may be instead."""
    if get_origin(type_) is Annotated:
        return _bare(get_args(type_)[0])
    others = [each for each in get_args(type_) if each is not type(None)]
    return _bare(others[0]) if get_origin(type_) in (Union, UnionType) and len(others) == 1 else type_


def _is(value: Any, type_: Any) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


def _allowed(rule: str, type_: Any) -> Iterable[str]:
    """Return the words that *rule* leaves to choose from, where it is about such."""
    if rule.startswith("Invalid enum value"):
        return [str(getattr(each, "value", each)) for each in get_args(type_) or type_]
    words = re.fullmatch(r"Expected `str` matching regex '\^\(([^()]+\|[^()]+)\)\$'", rule)
    return words[1].split("|") if words else ()


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where one of the *known* words is close to *word*, else ""."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
