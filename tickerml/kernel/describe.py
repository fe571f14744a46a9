"""
Import one plugin and print what it says of itself, as JSON: run in a process of its own.

    python -m tickerml.kernel.describe ID [MODULE [PATH...]]
"""

import json
import sys
from typing import Any

import msgspec

from . import registry
from .errors import PluginError
from .hookspecs import HOOKS, PluginSpec
from .manifest import COMMAND


def describe(spec: PluginSpec) -> dict[str, Any]:
    """Return *spec* ready for JSON, with the schema of each of its options, references resolved."""
    definitions = msgspec.json.schema(spec.options)["$defs"]
    options = definitions[spec.options.__name__].get("properties", {})
    return {
        "kind": spec.KIND,
        "summary": spec.summary,
        "publishes": [cls.__name__ for cls in spec.publishes],
        "state_version": spec.state_version,
        "options": {name: _inline(schema, definitions) for name, schema in options.items()},
    }


def _inline(schema: Any, definitions: dict[str, Any], within: tuple[str, ...] = ()) -> Any:
    """Return *schema* with what it refers to in its place; a type that holds itself stays a reference."""
    if isinstance(schema, list):
        return [_inline(each, definitions, within) for each in schema]
    if not isinstance(schema, dict):
        return schema
    name = schema.get("$ref", "").rpartition("/")[2]
    if not name or name in within:
        return {key: _inline(each, definitions, within) for key, each in schema.items()}
    own = {key: each for key, each in schema.items() if key != "$ref"}
    return _inline(definitions[name], definitions, (*within, name)) | own


def main(arguments: list[str]) -> int:
    """Print the description; returns the exit code."""
    plugin, module, *paths = [*arguments, ""] if len(arguments) == 1 else arguments
    try:
        hooks = registry.register(plugin, registry.import_plugin(plugin, module, paths)).hook
        is_command = not any(getattr(hooks, name).get_hookimpls() for name in HOOKS)
        if is_command and hooks.tickerml_commands.get_hookimpls():
            print(json.dumps({"kind": COMMAND}))
        else:
            print(json.dumps(describe(registry.load(plugin, module, paths))))
    except PluginError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
