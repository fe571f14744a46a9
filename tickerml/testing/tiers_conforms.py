"""Tier `conforms`: it does what its kind does, says no more than it declares, and leaves nothing behind."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from tickerml.kernel import codec
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS, WallClock
from tickerml.kernel.errors import CodecError
from tickerml.kernel.hookspecs import SinkSpec
from tickerml.kernel.localbus import LocalBus, handler_name

from .contracts_rig import Rig, build, run, scratch
from .contracts_subject import Broken, Check, Subject, expect

LISTENED_S = 2.0  # to a live feed that has no network
_bases: dict[bytes, Rig] = {}


def undisturbed(subject: Subject) -> Rig:
    """Return the rig of one run to the end; the same for every check that asks."""
    key = msgspec.json.encode(subject)
    if key not in _bases:
        _bases[key] = run(subject)
    return _bases[key]


def builds(subject: Subject) -> str:
    """It can be built twice, with the options it is tried with, and side by side."""
    with scratch() as directory:
        build(subject, directory / "one")
        build(subject, directory / "two")
    return "twice"


def handlers(subject: Subject) -> str:
    """Each on_… method is named after a message, and the manifest's subscribes names the same messages."""
    with scratch() as directory:
        component = build(subject, directory).component
    known = {handler_name(cls): cls.__name__ for cls in m.message_types()}
    there = {name for name in dir(component) if name.startswith("on_") and name != "on_timer"}
    expect(there <= set(known), f"no message goes by the name of {', '.join(sorted(there - set(known)))}")
    handled, said = {known[name] for name in there}, set(subject.manifest.subscribes)
    expect(said <= handled, f"it subscribes to {', '.join(sorted(said - handled))} and has no handler for it")
    expect(handled <= said, f"it handles {', '.join(sorted(handled - said))}; name it under subscribes")
    for name in ("snapshot", "restore"):
        expect(callable(getattr(component, name, None)), f"it has no {name}()")
    if subject.shape != "consumer" and subject.kind != "trainer":
        expect(callable(getattr(component, "summarize", None)), "a source has a summarize(), was none")
    if subject.kind == "sink":
        expect(callable(getattr(component, "emit", None)), "a sink has an emit(alert), was none")
    return f"{len(handled)} messages"


def publishes(subject: Subject) -> str:
    """Over a whole tape it fails at nothing and says only what it declares; each message can be read back."""
    rig = undisturbed(subject)
    declared = {cls.__name__ for cls in rig.spec.publishes}
    for output in rig.outputs:
        try:
            name = type(output.message).__name__
        except CodecError as error:
            raise Broken(f"a message cannot be read back: {error}") from None
        expect(name in declared, f"published {name}, which it does not declare")
        _read_back(output.message)
    if rig.outputs or not declared or isinstance(rig.spec, SinkSpec):
        return f"{len(rig.outputs)} messages for {rig.position} inputs"
    return f"nothing for {rig.position} inputs: a tape or options that move it would show more"


def _read_back(message: m.Message) -> None:
    """
    Raises: Broken: *message* has a field that is not of its type.
    """
    try:
        again = codec.decode(codec.encode(message))
    except Exception as error:
        raise Broken(f"{message} cannot be read back: {error}") from None
    # NaN is not itself, so the bytes are compared.
    expect(codec.encode(again) == codec.encode(message), f"{message} was read back as {again}")


def closes(subject: Subject) -> str:
    """Once a run is over it leaves no thread, no socket and no file open."""
    run(subject)  # what it loads once and for all is no leak
    gc.collect()
    threads, files = threading.active_count(), _open_files()
    run(subject)
    gc.collect()
    left = threading.active_count() - threads
    expect(left <= 0, f"a run left {left} threads running")
    extra = [name for name in _open_files() if name not in files]
    expect(not extra, f"a run left open: {', '.join(extra)}")
    return "nothing left"


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


# --- Live feeds -------------------------------------------------------------------------------------


class _Feed:
    """A live feed on a bus of its own."""

    def __init__(self, subject: Subject, directory: Any) -> None:
        spec, options = subject.load()
        self.outputs: list[m.Message] = []
        self.bus = LocalBus(
            lambda plugin, n, cause, message: self.outputs.append(message),
            clock=WallClock(),
            started_ns=DATA_CLOCK_START_NS,
            data_dir=directory,
        )
        self.component = self.bus.add(spec, options)


@contextlib.contextmanager
def _cut_off() -> Iterator[None]:
    """Let nothing reach a network while inside."""

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise OSError(101, "the network is cut off by the kit")

    kept = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    resolve = socket.getaddrinfo
    for name in kept:
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse
    try:
        yield
    finally:
        for name, original in kept.items():
            setattr(socket.socket, name, original)
        socket.getaddrinfo = resolve


async def _listen(feed: _Feed, plugin: str) -> int:
    cause = 0
    stream = feed.component.stream()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LISTENED_S):
            async for messages in stream:
                cause += 1
                feed.bus.emit(plugin, messages, cause)
    await stream.aclose()
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    expect(not left, f"it left {len(left)} tasks behind: {left[:1]}")
    return cause


def offline(subject: Subject) -> str:
    """Without a network it does not raise: it says that it is lost and tries again, and ends when told to."""
    with scratch() as directory, _cut_off():
        feed = _Feed(subject, directory)
        try:
            yielded = asyncio.run(_listen(feed, subject.id))
        except (Broken, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise Broken(
                f"stream() raised {type(error).__name__}: {error}; a live feed reconnects"
            ) from error
    for message in feed.outputs:
        _read_back(message)
    said = [type(message).__name__ for message in feed.outputs]
    expect(
        "FeedLost" not in {cls.__name__ for cls in subject.load()[0].publishes} or said,
        f"cut off from the network for {LISTENED_S:g} s it said nothing; publish FeedLost",
    )
    return f"{yielded} frames in {LISTENED_S:g} s: {', '.join(dict.fromkeys(said)) or 'nothing'}"


def state(subject: Subject) -> str:
    """What a live feed writes down it takes back, and writes down again the same."""
    with scratch() as directory:
        first, second = _Feed(subject, directory), _Feed(subject, directory)
        saved = first.component.snapshot()
        expect(isinstance(saved, bytes), f"snapshot() returns bytes, was {type(saved).__name__}")
        second.bus.restore(first.bus.snapshot())
        expect(not second.bus.failed, f"it refused its own state: {second.bus.failures}")
        expect(second.component.snapshot() == saved, "restored, it writes down something else")
    return f"{len(saved)} bytes"


DRIVEN = ("consumer", "source")
CHECKS = (
    Check("conforms.builds", builds, DRIVEN),
    Check("conforms.handlers", handlers, DRIVEN),
    Check("conforms.publishes", publishes, DRIVEN),
    Check("conforms.closes", closes, DRIVEN),
    Check("conforms.offline", offline, ("live",)),
    Check("swappable.state", state, ("live",)),
)
