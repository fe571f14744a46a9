"""
Commands that plugins bring: words of the command line that are not our own.

The manifests say who brings which word, so none of these plugins is imported for any
command of ours, nor for `--help`, which lists them all; for its own word one is, and it alone.
"""

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tickerml.kernel import PluginLoadError, TickerMLError, catalog, registry
from tickerml.kernel.catalog import Found

from . import changes
from .terminal import DEFAULT_HOME


class Group(TyperGroup):
    """Our commands, and behind them, for the help alone, those that manifests name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return our own words, then the others in the order of the alphabet."""
        own: list[str] = super().list_commands(ctx)
        return [*own, *sorted({*_summaries()} - {*own})]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what *cmd_name* names; of a command that a plugin brings its name and summary alone."""
        if own := super().get_command(ctx, cmd_name):
            return own
        if summary := _summaries().get(cmd_name):
            panel = "Commands of plugins"
            return TyperCommand(cmd_name, help=summary, no_args_is_help=True, rich_help_panel=panel)
        return None


def _summaries() -> dict[str, str]:
    # What each word of a plugin is for; a bracket in it is text, and no markup.
    found: dict[str, list[str]] = {}
    for each in _catalog(_home()).plugins.values():
        if each.manifest:
            problem = f", which cannot run: {each.problem}" if each.problem else ""
            said = f"{each.manifest.summary} ({each.id}{problem})".strip().replace("[", "\\[")
            for word in each.manifest.commands:
                found.setdefault(word, []).append(said)
    return {word: "; ".join(said) for word, said in found.items()}


def run_plugin_command(words: Sequence[str], own: Container[str]) -> bool:
    """
    Run the command of a plugin that *words* begin with; False where there is none such.

    Args:
        words: the command line, without the program's name.
        own: the words that are TickerML's own.
    Raises: PluginError: the plugin is broken, or two of them bring this word. SystemExit: as the
        command ends.
    """
    if not words or words[0].startswith("-") or words[0] in own:
        return False
    claims = [found for found in _catalog(_home()).plugins.values() if _brings(found, words[0])]
    if not claims:
        return False
    if len(claims) > 1:
        ids = " and ".join(found.id for found in claims)
        raise PluginLoadError(
            claims[0].id, f"{ids} both bring the command {words[0]!r}; uninstall one of them"
        )
    _run(claims[0], words)
    return True


def _home() -> Path:
    return Path(os.environ.get("TICKERML_HOME", DEFAULT_HOME)).expanduser()


def _catalog(home: Path) -> catalog.Catalog:
    places = (Path("plugins.toml"), home / "plugins.toml")
    config = next((path for path in places if path.exists()), places[-1])
    return changes.catalog_of(home, config)


def _brings(found: Found, word: str) -> bool:
    return found.manifest is not None and word in found.manifest.commands


def _run(found: Found, words: Sequence[str]) -> None:
    assert found.manifest is not None
    if found.problem:
        raise PluginLoadError(found.id, f"cannot run its command {words[0]!r}: {found.problem}")
    module = registry.import_plugin(found.id, found.module, found.paths)
    app = typer.Typer(name="tickerml", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    _add_commands(found.id, module, app)
    group: Any = typer.main.get_command(app)
    if words[0] not in group.commands:
        added = ", ".join(sorted(group.commands)) or "none"
        raise PluginLoadError(
            found.id, f"its manifest lists the command {words[0]!r}, and its tickerml_commands added {added}"
        )
    _call(found.id, group, words)


def _root() -> None:
    """Commands that plugins bring."""


def _add_commands(plugin: str, module: Any, app: typer.Typer) -> None:
    hook: Any = registry.register(plugin, module).hook
    try:
        hook.tickerml_commands(app=app)
    except (Exception, SystemExit) as error:
        raise PluginLoadError(plugin, f"tickerml_commands raised {type(error).__name__}: {error}") from error


def _call(plugin: str, group: Any, words: Sequence[str]) -> None:
    try:
        group(list(words), prog_name="tickerml")
    except TickerMLError:  # one of ours says itself what is wrong, and how the program ends
        raise
    except Exception as error:
        raise PluginLoadError(
            plugin, f"the command {words[0]!r} raised {type(error).__name__}: {error}"
        ) from error
