"""
One seed, run: in a stage that makes small runs meet large limits, and that is cleared afterwards.

A limit of twenty thousand messages is never met by a run of a thousand, so on the stage it is a
hundred; and a host loads its plugins from a cache, because a run restarts its hosts many times.
The production code is not otherwise touched.
"""

import contextlib
import functools
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

import msgspec
import structlog

from tickerml.kernel import (
    changes,
    codec,
    consumer,
    core,
    flow,
    journal,
    localbus,
    machine,
    registry,
    source,
    swap,
)
from tickerml.kernel.hookspecs import PluginSpec
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.plans import PluginPlan
from tickerml.kernel.units import NS_PER_S

from .faults import Fault
from .oracle import Violation
from .scenario import Scenario, unfold, with_faults
from .shrink import shrink
from .trace import Trace
from .watch import HostView, Watch
from .world import World

SMALL_MIB = 2**10  # bytes that the journal's map has for each MiB it should have


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a seed."""

    seed: int
    violation: str = ""  # the invariant that was broken, in words; "" when none was
    end: str = ""  # how the run ended: complete, refused, abandoned
    virtual_ns: int = 0
    messages: int = 0
    steps: int = 0
    seen: dict[str, int] = {}

    @property
    def is_green(self) -> bool:
        """Whether nothing was violated."""
        return not self.violation


class _WatchedBus(LocalBus):
    """A LocalBus whose inputs and restored states are seen by the watch; one per process of a host."""

    stage: World

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        process = self.stage.active
        assert process is not None
        self._process = process
        self._view = process.view = HostView(process.host, process.pid)
        self._watch: Watch = self.stage.watch

    def deliver_encoded(self, body: bytes, cause: int) -> None:
        self._watch.delivered(self._view, cause, body)
        super().deliver_encoded(body, cause)

    def deliver(self, message: Any, cause: int) -> None:
        if type(message) in self.wanted_types:
            self._process.spoiler.takes_input(self)
        super().deliver(message, cause)

    def keep_encoded(self, body: bytes, cause: int) -> None:
        self._watch.delivered(self._view, cause, body)
        super().keep_encoded(body, cause)

    def borrow(self, data: bytes) -> None:
        self._watch.borrowed(self._view, data)
        super().borrow(data)

    def restore(self, data: bytes, revived: Any = ()) -> None:
        self.stage.saw("checkpoint restored")
        self._watch.restored(self._view, data)
        self._process.spoiler.reads(self)
        super().restore(data, revived)
        self._process.spoiler.restored(self)


@contextlib.contextmanager
def _replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@functools.cache
def _load(plugin: str, module: str = "", paths: tuple[str, ...] = ()) -> Any:
    return _real_load(plugin, module, paths)


def _load_planned(planned: PluginPlan, config: str) -> tuple[PluginSpec, Any]:
    """Load a plugin, in the version of its state that is planned: it takes the states of the one before."""
    spec, options = _real_load_planned(msgspec.structs.replace(planned, state_version=0), config)
    if not planned.state_version:
        return spec, options

    def build(*arguments: Any) -> Any:
        component = spec.factory(*arguments)
        component.migrate = lambda state, version: state
        return component

    return msgspec.structs.replace(spec, state_version=planned.state_version, factory=build), options


_real_load = registry.load
_import_plugin = functools.cache(registry.import_plugin)
_register = functools.cache(registry.register)
_real_load_planned = registry.load_planned
_handler_name = functools.cache(localbus.handler_name)
_schema_hash = functools.cache(codec.schema_hash)


_QUIET = frozenset({"journal.grown", "journal.recovered"})  # events of interest that alarm nobody


class _Stage:
    """What runs on the stage now, for those who are called from inside it."""

    world: World | None = None

    @classmethod
    def count(cls, logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Count a log event instead of showing it."""
        if cls.world is not None and (level not in ("debug", "info") or event["event"] in _QUIET):
            cls.world.saw(f"log {event['event']}")
            cls.world.note("log", " ".join(f"{key}={value!s:.200}" for key, value in event.items()))
        raise structlog.DropEvent


@contextlib.contextmanager
def stage(scenario: Scenario) -> Iterator[None]:
    """Set the stage for *scenario*: small limits, cached plugins, watched buses, log events counted."""
    configuration = structlog.get_config()
    structlog.configure(processors=[_Stage.count], cache_logger_on_first_use=False)
    behind = scenario.pause_behind
    try:
        with _replaced(
            (machine, "LocalBus", _WatchedBus),
            (registry, "load", _load),
            (codec, "schema_hash", _schema_hash),
            (localbus, "handler_name", _handler_name),
            (source, "BURST", scenario.burst),
            (consumer, "BURST", 16),
            (consumer, "HELD", scenario.held),
            (machine, "PART_BYTES", scenario.part_bytes),
            (registry, "load_planned", _load_planned),
            (registry, "import_plugin", _import_plugin),
            (registry, "register", _register),
            (swap, "START_LIMIT_NS", 3 * NS_PER_S // 2),
            (swap, "STANDBY_LIMIT_NS", NS_PER_S),
            (swap, "BARRIER_LIMIT_NS", NS_PER_S // 2),
            (swap, "TAKEOVER_LIMIT_NS", NS_PER_S // 2),
            (swap, "LEAVE_LIMIT_NS", NS_PER_S // 5),
            (changes, "START_LIMIT_NS", 3 * NS_PER_S),
            (flow, "PAUSE_BEHIND", behind),
            (flow, "PROCEED_BEHIND", behind // 3),
            (core, "BACKLOG_LIMIT", 10),
            (journal, "MIB", SMALL_MIB),
        ):
            yield
    finally:
        structlog.configure(**configuration)
        _Stage.world = None


def run(scenario: Scenario, trace: Trace | None = None) -> Outcome:
    """Run *scenario* to its end and say what became of it."""
    with stage(scenario):
        world = _WatchedBus.stage = _Stage.world = World(scenario, trace or Trace(is_on=False))
        violation = ""
        try:
            world.run()
        except Violation as error:
            violation = str(error)
        except Exception as error:
            violation = f"{type(error).__name__} escaped: {error}"
            world.note("world", traceback.format_exc())
    world.note("world", violation or world.outcome)
    return Outcome(
        seed=scenario.seed,
        violation=violation,
        end=world.outcome,
        virtual_ns=world.agenda.now,
        messages=len(world.watch.frames),
        steps=world.agenda.steps,
        seen=dict(world.seen),
    )


def run_seed(seed: int) -> Outcome:
    """Run *seed*."""
    return run(unfold(seed))


def shrink_seed(seed: int, attempts: int = 60) -> tuple[list[Fault], Outcome, Trace]:
    """
    Return the fewest faults with which *seed* still fails, and that run with its trace.

    Another invariant may break first when faults are left out; any of them counts.
    """
    scenario = unfold(seed)
    faults = shrink(
        scenario.faults,
        lambda part: not run(with_faults(scenario, list(part))).is_green,
        attempts=attempts,
    )
    trace = Trace(is_on=True)
    outcome = run(with_faults(scenario, faults), trace)
    return faults, outcome, trace
