"""
Secrets: plugins.toml grants their names, and the environment has their values.

A host's process is given those of its own plugins, and each component those of its own.
"""

import os
from collections.abc import Iterable, Mapping

from .errors import PluginContractError

PREFIX = "TICKERML_SECRET_"


def variable(name: str) -> str:
    """Return the environment variable that holds the secret *name*: TICKERML_SECRET_API_KEY for api-key."""
    return PREFIX + name.upper().replace("-", "_")


def read(names: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values of the secrets *names* by name, without those that have none."""
    return {name: environment[variable(name)] for name in names if variable(name) in environment}


def value_of(name: str, granted: Mapping[str, str], plugin: str) -> str:
    """
    Return the value of the secret *name* among those *granted* to *plugin*.

    Raises: PluginContractError: it is not among them, and what to do.
    """
    if name not in granted:
        raise PluginContractError(
            plugin,
            f"asked for the secret {name!r}, which it was not given; list it in its manifest and in "
            f"plugins.toml under [plugin.{plugin}] secrets, and set {variable(name)}",
        )
    return granted[name]
