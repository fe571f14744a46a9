"""The installed plugins that can be loaded here and run in a host."""

from tickerml.kernel import registry
from tickerml.kernel.catalog import find

_MANIFESTS = {name: found.manifest for name, found in find().plugins.items()}

#: A page needs the console's own packages, which may be absent; a command has no spec.
LOADABLE = [
    name
    for name in registry.installed()
    if name != "console" and (manifest := _MANIFESTS[name]) and manifest.kinds != ["command"]
]
