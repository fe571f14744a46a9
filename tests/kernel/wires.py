"""Wires that end in lists, and a journal that is one: a host's machine runs in the test itself."""

from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import codec, control
from tickerml.kernel.config import KernelSettings, PluginPlan
from tickerml.kernel.journal import Checkpoint, frame_seq

PLUGINS = Path(__file__).parents[1] / "plugins_for_tests"


class ListJournal:
    """What is committed, and the checkpoints, newest first."""

    def __init__(self) -> None:
        self.committed: list[bytes] = []
        self.written: list[Checkpoint] = []
        self.others: dict[str, list[Checkpoint]] = {}  # by host

    def frames(self, after: int, until: int) -> list[bytes]:
        return [raw for raw in self.committed if after < frame_seq(raw) <= until]

    def checkpoints(self, host: str) -> list[Checkpoint]:
        return self.written

    def hosts(self) -> list[str]:
        return list(self.others)

    def stored_checkpoints(self, host: str) -> tuple[list[Checkpoint], list[str]]:
        return self.others[host], []

    def head(self) -> int:
        return frame_seq(self.committed[-1]) if self.committed else 0

    def first(self) -> int:
        return frame_seq(self.committed[0]) if self.committed else 0

    def close(self) -> None:
        pass


class ListWires:
    """A host's wires; `now` is moved by hand, ns."""

    def __init__(self, journal: ListJournal | None = None) -> None:
        self.now = 0
        self.said: list[Any] = []
        self.pushed: list[bytes] = []
        self.numbers: list[tuple[int, int]] = []
        self.subscribed: list[bytes] = []
        self.journal = journal or ListJournal()

    def send(self, message: Any) -> None:
        self.said.append(message)

    def push(self, burst: bytes) -> None:
        link, number, frames = codec.unpack_burst(burst)
        self.numbers.append((link, number))
        self.pushed += frames

    def subscribe(self, prefixes: list[bytes]) -> None:
        self.subscribed = prefixes

    def open_journal(self, path: Path) -> Any:
        return self.journal

    def monotonic(self) -> int:
        return self.now

    def wall(self) -> int:
        return self.now

    def take(self) -> list[bytes]:
        """Return what was pushed since the last time."""
        pushed, self.pushed = self.pushed, []
        return pushed

    def notes(self, kind: bytes, type_: type) -> list[Any]:
        """Return the notes of one kind among what was pushed."""
        return [msgspec.msgpack.decode(raw[2:], type=type_) for raw in self.pushed if raw.startswith(kind)]


def planned(plugin: str, kind: str, module: str = "", **options: Any) -> PluginPlan:
    return PluginPlan(
        id=plugin, kind=kind, host="here", enabled=True, module=module, publishes=None, options=options
    )


def welcome(*plugins: PluginPlan, revived: tuple[str, ...] = (), **settings: Any) -> control.Welcome:
    return control.Welcome(
        session=1,
        plugins=list(plugins),
        config="plugins.toml",
        settings=KernelSettings(**settings),
        started_ns=0,
        rules=[],
        vital=[],
        revived=list(revived),
        has_gate=False,
        home="",
        run_dir="",
        profile="test",
    )


def admitted(
    *components: str, outputs: dict[str, tuple[int, int]] | None = None, link: int = 7
) -> control.Admitted:
    origins = {name: number for number, name in enumerate(components, 1)}
    return control.Admitted(origins, dict.fromkeys(components, 1), outputs or {}, 0, {}, link)
