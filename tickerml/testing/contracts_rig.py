"""
Driving a plugin: the same steps for what takes a tape and for what plays one.

A rig holds one component on a LocalBus, with the company it needs, and collects what it says.
A run is a rig stepped to its end; at a cut its state moves to a newly built rig. Nothing of it
depends on where the plugin's code came from.
"""

import contextlib
import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel import codec
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.errors import PluginError
from tickerml.kernel.gate import gate_spec
from tickerml.kernel.hookspecs import Options, events_of
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.registry import load as load_plugin

from . import tape
from .contracts_subject import Broken, Subject, expect

CROWD = "tickerml.testing.crowd"
#: kind -> who else is on the bus: modules of the crowd.
COMPANY: dict[str, tuple[str, ...]] = {
    "feature_set": (),
    "strategy": ("features", "simulator", "ledger"),
    "risk_rule": ("strategy", "simulator", "ledger"),
    "simulator": ("strategy", "ledger"),
    "store": ("features", "strategy", "simulator"),
    "sink": ("strategy", "simulator"),
}
PULLS = 600  # frames taken from a source, which may have no end
LONGEST = 300  # characters of a message in a report
SEED = 0  # of every random number
FRAMES = 300  # of the made-up tape

Around = Callable[[], AbstractContextManager[Any]]


class Output(NamedTuple):
    """Something the plugin said: because of which input, as its how-manieth, and what."""

    cause: int
    n: int
    body: bytes

    @property
    def message(self) -> m.Message:
        """The message."""
        return codec.decode(self.body)


class Watched:
    """A component whose handlers run inside *around*: to be timed, or guarded."""

    def __init__(self, component: Any, around: Around) -> None:
        self._component = component
        self._around = around

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._component, name)
        return self._wrap(found) if name.startswith("on_") or name == "emit" else found

    def _wrap(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        around = self._around

        @functools.wraps(handle)
        def inside(argument: Any) -> None:
            with around():
                handle(argument)

        return inside


class Rig:
    """One plugin on a bus; stepped until it is over."""

    def __init__(self, subject: Subject, data_dir: Path, around: Around | None = None) -> None:
        """
        Raises: PluginError, ConfigError. Whatever the plugin's constructor raises.
        """
        self.subject = subject
        self.spec, self.options = subject.load()
        self.outputs: list[Output] = []
        self.heard: list[m.Message] = []  # everything that was said on the bus, by anybody
        self.position = 0
        self.bus = LocalBus(self._record, started_ns=DATA_CLOCK_START_NS, seed=SEED, data_dir=data_dir)
        self._around = around
        factory = self.spec.factory
        if around is not None and not isinstance(factory, type(None)):
            self.spec = msgspec.structs.replace(
                self.spec, factory=lambda ctx, options: Watched(factory(ctx, options), around)
            )
        self.component = self.bus.add(self.spec, self.options)

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        self.heard.append(message)
        if plugin == self.subject.id:
            if isinstance(message, m.ModelTrained):  # the same file, in whatever directory
                message = msgspec.structs.replace(message, path=Path(message.path).name)
            self.outputs.append(Output(cause, n, codec.encode(message)))

    def step(self) -> bool:
        """Do the next thing; False when there is none."""
        raise NotImplementedError

    def finish(self) -> "Rig":
        """
        Step to the end.

        Raises: Broken: the plugin was set aside.
        """
        while self.step():
            pass
        return self.check()

    def check(self) -> "Rig":
        """
        Raises: Broken: the plugin was set aside.
        """
        if self.subject.id in self.bus.failed:
            why = self.bus.failures.get(self.subject.id, "before its state was moved")
            raise Broken(f"it failed and was set aside at input {self.position}: {why}")
        return self

    def move_to(self, other: "Rig") -> None:
        """Hand the state to *other*, which has not begun."""
        state = self.bus.snapshot()
        self.check()
        other.bus.restore(state)
        other.position, other.outputs, other.heard = self.position, self.outputs, self.heard
        other.check()


class ConsumerRig(Rig):
    """What takes a tape, with the crowd that its kind needs and the plugins it requires."""

    def __init__(self, subject: Subject, data_dir: Path, around: Around | None = None) -> None:
        super().__init__(subject, data_dir, around)
        specs = [load_plugin(f"kit-{name}", f"{CROWD}.{name}") for name in COMPANY[subject.kind]]
        for spec in specs:
            self.bus.add(spec, spec.options())
        for other in subject.company:
            if other.id != subject.id and other.shape == "consumer":
                self.bus.add(*other.load())
        if subject.kind == "simulator" or "simulator" in COMPANY[subject.kind]:
            rules = [subject.id] if subject.kind == "risk_rule" else []
            self.bus.add(gate_spec(rules), Options())
        self.tape = tape_of(subject)

    def step(self) -> bool:
        if self.position == len(self.tape):
            return False
        self.position += 1
        message = self.tape[self.position - 1]
        self.heard.append(message)
        self.bus.deliver(message, self.position)
        return True


class SourceRig(Rig):
    """What plays: an exchange with an order of its own, or a trainer over a dataset."""

    dataset: Any = None
    pulls = PULLS

    def __init__(self, subject: Subject, data_dir: Path, around: Around | None = None) -> None:
        super().__init__(subject, data_dir, around)
        self._events: Iterator[Any] | None = None

    def step(self) -> bool:
        if self.position == self.pulls:
            return False
        if self._events is None:
            dataset = self.dataset or TapeDataset(tape_of(self.subject))
            self._events = events_of(self.spec, self.component, dataset)
        with self._around() if self._around else contextlib.nullcontext():
            event = next(self._events, None)
        if event is None:
            return False
        self.position += 1
        self.bus.emit(self.subject.id, event[1], self.position)
        return True


class TapeDataset:
    """A trainer's past: a tape, and nothing else."""

    def __init__(self, past: list[m.Message], until_ns: int = DATA_CLOCK_START_NS + 10**18) -> None:
        """
        Args:
            until_ns: nothing received or dated then or later is in it, ns UTC.
        """
        self.until_ns = until_ns
        self._past = past

    def messages(self, *types: type[m.Message]) -> Iterator[m.Message]:
        """Yield the messages of *types*, all when none are named."""
        for message in tape.market_only(self._past):
            times = (message.ts_recv, getattr(message, "ts_event", 0))
            if max(times) < self.until_ns and (not types or isinstance(message, types)):
                yield message


def tape_of(subject: Subject) -> list[m.Message]:
    """Return the tape *subject* is tried with; not to be changed."""
    return _tape(subject.tape)


@functools.cache
def _tape(file: str) -> list[m.Message]:
    return tape.load(Path(file)) if file else tape.generate(0, FRAMES)


def build(subject: Subject, data_dir: Path, around: Around | None = None) -> Rig:
    """
    Return a new rig for *subject*.

    Raises: Broken: it could not be built.
    """
    rig = ConsumerRig if subject.shape == "consumer" else SourceRig
    try:
        return rig(subject, data_dir, around)
    except PluginError:
        raise
    except Exception as error:
        raise Broken(f"building it raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tickerml-kit-") as directory:
        yield Path(directory)


def run(subject: Subject, cuts: Iterable[int] = (), around: Around | None = None) -> Rig:
    """
    Return the rig of a run to the end, with the state moved to a new one before each input in *cuts*.

    Raises: Broken: the plugin failed, or refused its own state.
    """
    stops = set(cuts)
    with scratch() as directory:
        rig = build(subject, directory, around)
        while True:
            if rig.position in stops:
                stops.discard(rig.position)
                fresh = build(subject, directory, around)
                rig.move_to(fresh)
                rig = fresh
            if not rig.step():
                return rig.check()


def digest(outputs: Iterable[Output]) -> str:
    """Return one short text that two runs share only when they said the same."""
    return hashlib.sha256(msgspec.msgpack.encode([list(output) for output in outputs])).hexdigest()


def same(expected: list[Output], was: list[Output], what: str) -> None:
    """
    Raises: Broken: names the first output in which *was* is not *expected*.
    """
    for number, (one, other) in enumerate(zip(expected, was, strict=False)):
        if one != other:
            raise Broken(f"{what}: output {number} was {_shown(other)}, without that it is {_shown(one)}")
    expect(
        len(expected) == len(was),
        f"{what}: it said {len(was)} messages, without that it says {len(expected)}",
    )


def _shown(output: Output) -> str:
    text = str(output.message)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
