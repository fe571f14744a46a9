"""
What is under test: one plugin, how it is found, and the options and the tape it is tried with.

A subject is data alone, so that it can be handed to a process of its own: a broken plugin
hurts nobody there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel import registry
from tickerml.kernel.hookspecs import SHAPES, Options, PluginSpec, is_live
from tickerml.kernel.manifest import COMMAND, TIERS, Manifest
from tickerml.kernel.plans import PluginPlan

#: From the least to the most that can be asked of a plugin.
LADDER = tuple(tier for tier in TIERS if tier)


class Broken(AssertionError):
    """The plugin does not pass a check: what was expected, and what was."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """
    One plugin under test.

    module is imported with paths in front of sys.path; options and tape ("" is the made-up one) are what
    it is tried with; company are plugins of other people that it requires.
    """

    id: str
    manifest: Manifest
    module: str
    paths: list[str] = []
    version: str = "0"
    options: dict[str, Any] = {}
    tape: str = ""
    unknown: list[str] = []  # keys of the manifest that nobody knows
    company: list["Subject"] = []

    @property
    def kind(self) -> str:
        """What it is when it runs; `command` where it runs in no host."""
        return self.manifest.kind

    @property
    def shapes(self) -> tuple[str, ...]:
        """How it may be driven, as far as can be said without importing it."""
        shape = SHAPES[self.kind]
        return (
            ("source", "live")
            if self.kind == "exchange"
            else ("live",)
            if self.kind == "news_source"
            else (shape,)
        )

    @property
    def shape(self) -> str:
        """
        How it is driven: consumer, source, live, page or command.

        Raises: PluginError, ConfigError: it had to be imported to know, and could not be.
        """
        if len(self.shapes) == 1:
            return self.shapes[0]
        return "live" if is_live(self.load()[0]) else "source"

    def planned(self, host: str) -> PluginPlan:
        """Return it as it would run in *host*."""
        return PluginPlan(
            id=self.id,
            kind=self.kind,
            host=host,
            enabled=True,
            module=self.module,
            paths=self.paths,
            version=self.version,
            state_version=self.manifest.state_version,
            publishes=self.manifest.publishes,
            options=self.options,
        )

    def find(self) -> Any:
        """
        Import it and return its module.

        Raises: PluginError.
        """
        return registry.import_plugin(self.id, self.module, self.paths)

    def load(self) -> tuple[PluginSpec, Options]:
        """
        Import it; return its spec and its checked options.

        Raises: PluginError, ConfigError.
        """
        return registry.load_planned(self.planned(self.id), "the kit")


class Check(NamedTuple):
    """One thing that is asked of a plugin. run returns a word of what was found; limit_s is its time."""

    id: str
    run: Callable[[Subject], str]
    shapes: tuple[str, ...] = ("consumer", "source", "live", "page", COMMAND)
    kinds: tuple[str, ...] = ()
    limit_s: float = 60.0

    @property
    def tier(self) -> str:
        """The tier it belongs to."""
        return self.id.partition(".")[0]

    @property
    def sentence(self) -> str:
        """What it asks, in one line."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]

    def applies(self, subject: Subject, shape: str) -> bool:
        """Whether it is asked of *subject*, which is driven as *shape*."""
        is_of_kind = not self.kinds or bool(set(self.kinds) & set(subject.manifest.kinds))
        return is_of_kind and shape in self.shapes


def expect(is_true: object, words: str) -> None:
    """
    Raises: Broken: *words*, unless *is_true*.
    """
    if not is_true:
        raise Broken(words)
