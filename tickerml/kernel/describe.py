"""
Import one plugin and print what it says of itself, as JSON: run in a process of its own.

    python -m tickerml.kernel.describe ID [MODULE]
"""

import json
import sys
from typing import Any

import msgspec

from . import registry
from .errors import PluginError
from .hookspecs import PluginSpec


def describe(spec: PluginSpec) -> dict[str, Any]:
    """Return *spec* ready for JSON, with the schema of its options."""
    schema = msgspec.json.schema(spec.options)
    (definition,) = (d for name, d in schema["$defs"].items() if name == spec.options.__name__)
    return {
        "kind": spec.KIND,
        "summary": spec.summary,
        "publishes": [cls.__name__ for cls in spec.publishes],
        "state_version": spec.state_version,
        "options": definition.get("properties", {}),
    }


def main(arguments: list[str]) -> int:
    """Print the description; returns the exit code."""
    try:
        spec = registry.load(arguments[0], arguments[1] if len(arguments) > 1 else "")
    except PluginError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(describe(spec)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
