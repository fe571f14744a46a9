"""
Versions, ranges of versions, and what a distribution requires: as much of PEP 440 and 508 as plugins need.

A version is compared by its numbers; one with letters (`1.0rc1`, `2.dev3`) comes before the
same numbers without. A local part (`+cpu`) does not count.
"""

import itertools
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distributions

_CLAUSE = re.compile(r"\s*(===?|!=|>=|<=|~=|>|<)\s*v?([0-9][^\s,]*)\s*")
_REQUIREMENT = re.compile(
    r"\s*(?P<name>[\w.-]+)\s*(\[[^]]*\])?\s*\(?(?P<range>[^;)@]*)\)?\s*(@[^;]*)?(;(?P<marker>.*))?"
)
_TOKEN = re.compile(r"\s*(\(|\)|'[^']*'|\"[^\"]*\"|not\s+in\b|[<>=!~]=?=?|\w+)")

_Key = tuple[tuple[int, ...], int]


def _key(version: str) -> _Key:
    numbers = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    release = tuple(int(number) for number in numbers[1].split(".")) if numbers else ()
    while release and release[-1] == 0:
        release = release[:-1]
    rest = version[numbers.end() :].split("+")[0] if numbers else version
    return release, 1 if rest.startswith((".post", "-", "post")) else -1 if rest else 0


def is_range(text: str) -> bool:
    """Return whether *text* is a range of versions such as `>=1.0,<2`; "" is any version."""
    return all(_CLAUSE.fullmatch(clause) for clause in text.split(",")) if text.strip() else True


def satisfies(version: str, wanted: str) -> bool:
    """Return whether *version* lies in the range *wanted*, such as `>=1.0,<2`; "" is any version."""
    return not wanted.strip() or all(_meets(version, clause) for clause in wanted.split(","))


def _meets(version: str, clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        return False
    operator, wanted = match.groups()
    if wanted.endswith(".*") or operator == "~=":
        prefix = _numbers(wanted.removesuffix(".*"))
        prefix = prefix[:-1] if operator == "~=" else prefix
        has_prefix = (*_numbers(version), *itertools.repeat(0, len(prefix)))[: len(prefix)] == prefix
        if operator == "~=":
            return has_prefix and _key(version) >= _key(wanted)
        return has_prefix is (operator != "!=")
    mine, other = _key(version), _key(wanted)
    return {
        "==": mine == other,
        "===": version == wanted,
        "!=": mine != other,
        ">=": mine >= other,
        "<=": mine <= other,
        ">": mine > other,
        "<": mine < other,
    }[operator]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(number) for number in match[1].split(".")) if match else ()


def normalized(name: str) -> str:
    """Return the name of a distribution as it is compared: `Some_Name` is `some-name`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def unmet(requires: Iterable[str], paths: Sequence[str]) -> list[str]:
    """
    Return what of a distribution's *requires* is not there, each as "name>=1 (is 0.9)" or "name (missing)".

    Args:
        requires: the lines of Requires-Dist; one whose marker does not hold, or that belongs to an extra,
            does not count.
        paths: folders to look in beside sys.path.
    """
    found = []
    for line in requires:
        match = _REQUIREMENT.fullmatch(line)
        if match is None or (match["marker"] and not holds(match["marker"])):
            continue
        name, wanted = match["name"], match["range"].strip()
        version = _version_of(name, paths)
        if version is None:
            found.append(f"{name}{wanted} (missing)")
        elif not satisfies(version, wanted):
            found.append(f"{name}{wanted} (is {version})")
    return found


def _version_of(name: str, paths: Sequence[str]) -> str | None:
    installed: Iterable[Distribution] = distributions(name=name, path=[*paths, *sys.path])
    return next((each.version for each in installed), None)


# --- Markers ----------------------------------------------------------------------------------------


def holds(marker: str) -> bool:
    """Return whether an environment marker is true here, with no extra asked for; one not understood is."""
    tokens = _TOKEN.findall(marker)
    try:
        is_true = _either(tokens)
    except (IndexError, KeyError):
        return True
    return is_true


def _either(tokens: list[str]) -> bool:
    is_true = _both(tokens)
    while tokens and tokens[0] == "or":
        tokens.pop(0)
        is_true = _both(tokens) or is_true
    return is_true


def _both(tokens: list[str]) -> bool:
    is_true = _one(tokens)
    while tokens and tokens[0] == "and":
        tokens.pop(0)
        is_true = _one(tokens) and is_true
    return is_true


def _one(tokens: list[str]) -> bool:
    if tokens[0] == "(":
        tokens.pop(0)
        is_true = _either(tokens)
        tokens.pop(0)
        return is_true
    left, operator, right = tokens.pop(0), tokens.pop(0), tokens.pop(0)
    is_version = any(word.startswith(("python_", "implementation_version")) for word in (left, right))
    return _compare(_value(left), " ".join(operator.split()), _value(right), is_version=is_version)


def _compare(left: str, operator: str, right: str, *, is_version: bool) -> bool:
    if operator in ("in", "not in"):
        return (left in right) is (operator == "in")
    if is_version:
        return _meets(left, f"{operator}{right}")
    return (left == right) is (operator in ("==", "==="))


def _value(token: str) -> str:
    if token[0] in "'\"":
        return token[1:-1]
    return {
        "extra": "",
        "os_name": os.name,
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "platform_system": platform.system(),
        "platform_release": platform.release(),
        "platform_version": platform.version(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "python_full_version": platform.python_version(),
    }[token]
