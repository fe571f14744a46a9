"""
A plugin's options as a form: one field for each, made from what its Struct says of itself.

What a form shows is what holds in the profile that runs, and what it writes is
[plugin.ID.options]. An option that the profile or --set says otherwise cannot be changed
there, and the field says who says so. A value is checked here against the bounds of its
field; all else is the plugin's own to refuse, when it is built with them.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tickerml.kernel.config import Config, parse_override

Schema = dict[str, Any]
_TYPES = {"boolean": "switch", "integer": "integer", "number": "number", "string": "text"}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One option as a person changes it."""

    name: str
    look: str  # switch, choice, integer, number, text, or json for what has parts
    schema: Schema
    description: str = ""
    default: Any = None
    value: Any = None  # what holds
    fixed_by: str = ""  # who says what holds, where that is not [plugin.ID.options]
    is_required: bool = False

    @property
    def bounds(self) -> str:
        """What numbers there may be, in a few words."""
        low, high = self.schema.get("minimum"), self.schema.get("maximum")
        above, below = self.schema.get("exclusiveMinimum"), self.schema.get("exclusiveMaximum")
        parts = [
            *([f"at least {low:g}"] if low is not None else []),
            *([f"more than {above:g}"] if above is not None else []),
            *([f"at most {high:g}"] if high is not None else []),
            *([f"less than {below:g}"] if below is not None else []),
        ]
        return ", ".join(parts)

    @property
    def rule(self) -> str:
        """What values there may be, and which holds where none is given, in a few words."""
        last = "must be given" if self.is_required else f"default {self.show(self.default)}"
        return ", ".join(filter(None, [self.bounds, last]))

    @property
    def choices(self) -> list[Any]:
        """What can be chosen from."""
        return list(self.schema.get("enum", ()))

    def show(self, value: Any) -> str:
        """Return *value* as it is written into the field."""
        if value is None:
            return "none"
        return value if isinstance(value, str) and self.look != "json" else json.dumps(value)

    def parse(self, written: Any) -> Any:
        """
        Return the value of what was *written*; None for nothing, which means the default.

        Raises: ValueError: it is against the rule, and what the rule is.
        """
        if written is None or (isinstance(written, str) and not written.strip() and self.look != "text"):
            return None
        match self.look:
            case "switch":
                return bool(written)
            case "choice":
                return written
            case "text":
                return self._text(str(written))
            case "json":
                return self._parts(str(written))
        return self._number(written)

    def _number(self, written: Any) -> int | float:
        try:
            value = float(written)
        except ValueError:
            raise ValueError(f"{self.name}: expected a number, was {written!r}") from None
        if not math.isfinite(value) or (self.look == "integer" and not value.is_integer()):
            what = "a whole number" if self.look == "integer" else "a number"
            raise ValueError(f"{self.name}: expected {what}, was {written}")
        said = self.schema
        if (
            value < said.get("minimum", value)
            or value > said.get("maximum", value)
            or value <= said.get("exclusiveMinimum", -math.inf)
            or value >= said.get("exclusiveMaximum", math.inf)
        ):
            raise ValueError(f"{self.name}: expected {self.bounds}, was {value:g}")
        return int(value) if self.look == "integer" else value

    def _text(self, written: str) -> str | None:
        if not written and self.default is None and not self.is_required:
            return None
        if len(written) < self.schema.get("minLength", 0):
            raise ValueError(f"{self.name}: expected a text, was nothing")
        if (pattern := self.schema.get("pattern")) and not re.search(pattern, written):
            raise ValueError(f"{self.name}: expected {pattern}, was {written!r}")
        return written

    def _parts(self, written: str) -> Any:
        try:
            value = json.loads(written)
        except ValueError as error:
            raise ValueError(f"{self.name}: expected JSON: {error}") from None
        wanted = {"array": list, "object": dict}.get(self.schema.get("type", ""))
        if wanted and not isinstance(value, wanted):
            raise ValueError(f"{self.name}: expected a JSON {self.schema['type']}, was {written}")
        return value


def fields(plugin: str, schemas: Mapping[str, Schema], config: Config, report: Schema) -> list[Field]:
    """
    Return the fields of *plugin*.

    Args:
        schemas: of its options, as `python -m tickerml.kernel.describe` prints them.
        report: the status of the kernel, for its profile and --set.
    """
    entry = config.plugins.get(plugin)
    profile = config.profiles.get(report["profile"])
    layers = {"": entry.options if entry else {}}
    layers[f"profile {report['profile']}"] = profile.options.get(plugin, {}) if profile else {}
    layers["--set"] = _overrides(plugin, report.get("overrides", []))
    return [_field(name, schema, layers) for name, schema in schemas.items()]


def _overrides(plugin: str, texts: list[str]) -> dict[str, Any]:
    said = [parse_override(text) for text in texts]
    return {key: value for target, key, value in said if target == plugin}


def _field(name: str, schema: Schema, layers: dict[str, dict[str, Any]]) -> Field:
    said_by = [(who, layer[name]) for who, layer in layers.items() if name in layer]
    who, value = said_by[-1] if said_by else ("", schema.get("default"))
    shape = _shape(schema)
    return Field(
        name=name,
        look=_look(shape),
        schema=shape,
        description=schema.get("description", ""),
        default=schema.get("default"),
        value=value,
        fixed_by=who,
        is_required="default" not in schema,
    )


def _shape(schema: Schema) -> Schema:
    """Return what a value must be that is not None, which is said by leaving the option out."""
    some = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return {**schema, **some[0]} if len(some) == 1 else schema


def _look(schema: Schema) -> str:
    if "enum" in schema:
        return "choice"
    return _TYPES.get(schema.get("type", ""), "json")


def changed(found: list[Field], written: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the options that were changed; None for one that shall have its default again.

    Args:
        written: what stands in each field, by its name.
    Raises: ValueError: something is against the rule of its field.
    """
    new: dict[str, Any] = {}
    for field in found:
        if field.fixed_by or field.name not in written:
            continue
        value = field.parse(written[field.name])
        if value is None and field.is_required:
            raise ValueError(f"{field.name}: it must be given")
        wanted = field.default if value is None else value
        if wanted != field.value:
            new[field.name] = None if wanted == field.default and not field.is_required else value
    return new
