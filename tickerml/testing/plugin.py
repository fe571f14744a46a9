"""
The conformance kit as a pytest plugin: fixtures for whoever writes plugins.

    kernel   a bus in one thread, with the gate: kernel(module).send(message)
    host     a real kernel process with the plugin in a process of its own
    tape     a stream of market messages from a seed, or from a file
    swap     moves the state of one build to another and compares with a run undisturbed
    golden   compares outputs with a file beside the test; --golden-update writes it

The contracts to subclass are in tickerml.testing.contracts. Nothing of TickerML is
imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from tickerml.kernel import Message
    from tickerml.kernel.hookspecs import PluginSpec
    from tickerml.kernel.testing import Harness

    from .contracts_host import RealKernel

UPDATE = "--golden-update"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files."""
    parser.getgroup("tickerml").addoption(
        UPDATE, action="store_true", help="write what `golden` compares with, instead of comparing"
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[..., Harness]:
    """Build a Harness with the gate: kernel(*specs or modules, options={id: {...}}, with_gate=True)."""
    from tickerml.kernel.testing import Harness

    def build(*plugins: PluginSpec | ModuleType, with_gate: bool = True, **named: Any) -> Harness:
        return Harness(*plugins, with_gate=with_gate, **{"data_dir": tmp_path, **named})

    return build


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., RealKernel]]:
    """
    Start a real kernel with a plugin in a process of its own: host("strategy-demo", options={...}).

    The plugin is that of the project the test lies in, or an installed one; the company it needs plays a
    tape. The kernel ends with the test.
    """
    from .contracts import find_subject
    from .contracts_host import RealKernel, plan_of

    started: list[RealKernel] = []

    def start(plugin: str, options: dict[str, Any] | None = None, speed: str = "") -> RealKernel:
        subject = find_subject(plugin, request.path, options or {})
        started.append(RealKernel(tmp_path / f"home-{len(started)}", plan_of(subject, speed=speed)))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def tape() -> Callable[..., list[Message]]:
    """Return a stream of messages: tape(seed=0, frames=400), or tape(path) for one from a file."""
    from . import tape as tapes

    def make(source: int | Path = 0, frames: int = 400) -> list[Message]:
        return tapes.load(source) if isinstance(source, Path) else tapes.generate(source, frames)

    return make


@pytest.fixture
def swap() -> Callable[..., list[Message]]:
    """
    Move the state from one build to another: swap(old, new, tape, cuts=(100,)).

    old and new are specs or modules, which may be one and the same. It returns what was said, and fails
    where that is not what old says undisturbed; is_equal=False only returns it.
    """
    from tickerml.kernel.testing import Harness

    def move(
        old: PluginSpec | ModuleType,
        new: PluginSpec | ModuleType,
        tape: Sequence[Message],
        cuts: Iterable[int] | None = None,
        *,
        is_equal: bool = True,
        **named: Any,
    ) -> list[Message]:
        places = [len(tape) // 2] if cuts is None else sorted(cuts)
        harness, said = Harness(old, **named), []
        for position, message in enumerate(tape):
            if position in places:
                fresh = Harness(new, **named)
                fresh.bus.restore(harness.bus.snapshot())
                assert not fresh.bus.failures, f"the new build refused the state: {fresh.bus.failures}"
                harness = fresh
            said += harness.send(message)
        if is_equal:
            assert said == Harness(old, **named).send(*tape), f"swapped at {places} it says something else"
        return said

    return move


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """
    Compare messages with a file beside the test: golden(outputs), or golden(outputs, "another-name").

    The file has one message a line, as JSON. `pytest --golden-update` writes it. A field that messages have
    got since it was written counts as its default there.
    """

    def compare(outputs: Iterable[Message], name: str = "") -> None:
        import msgspec

        from tickerml.kernel.messages import message_types

        read = msgspec.json.Decoder(Union[message_types()]).decode  # noqa: UP007 - types known at run time

        def as_now(line: bytes) -> bytes:
            try:
                return msgspec.json.encode(read(line))
            except msgspec.MsgspecError:  # no message of ours: it equals nothing that was said
                return line

        found = b"".join(msgspec.json.encode(message) + b"\n" for message in outputs)
        path = request.path.parent / "golden" / f"{name or request.node.name}.jsonl"
        if request.config.getoption(UPDATE):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(found)
            return
        assert path.exists(), f"{path} is missing; write it with pytest {UPDATE}, and read it"
        expected = [as_now(line) for line in path.read_bytes().splitlines()]
        assert found.splitlines() == expected, f"not what {path.name} says; {UPDATE} accepts it"

    return compare
