"""
A host: one process that runs some components and talks to the kernel.

    python -m tickerml.kernel.host NAME RUNTIME_DIR

There are three shapes. A consumer takes the bus in order and runs each message to
completion through its LocalBus; it is a function of its inputs, so after a crash it
restores its last checkpoint, reads what it missed from the journal, and says again
what the kernel may not have heard, which the kernel recognises. A source plays its
exchanges into the bus. A page runs a program for people.

Whatever its shape, a host greets the kernel, builds its plugins, presents what it
could build and what it could not, and dies with the kernel.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

from . import codec, control, log, registry, topics
from . import messages as m
from .clock import WallClock
from .errors import ConfigError, HandshakeRefused, PluginError, StateRefused, StoreError, TickerMLError
from .gate import GATE, gate_spec
from .hookspecs import ExchangeSpec, Options, PageSpec, PluginSpec
from .inbox import Inbox, Missing
from .journal import JournalReader
from .localbus import LocalBus

HIGH_WATER = 100_000  # messages a subscriber may be behind before ZeroMQ drops, and the journal fills in
BURST = 256  # messages taken between two looks at the control socket
PROGRESS_S = 0.02
_PR_SET_PDEATHSIG = 1

logger = structlog.get_logger()


class Stopped(Exception):
    """The kernel has asked this host to stop, or is gone."""


class Link:
    """A host's sockets to the kernel."""

    def __init__(self, host: str, runtime: str) -> None:
        self.host = host
        self.runtime = runtime
        self.context = zmq.Context()
        self.control = self._connect(zmq.DEALER, control.control_address(runtime))
        self.outlet = self._connect(zmq.PUSH, control.ingest_address(runtime))
        self._parent = os.getppid()
        self._spoke_at = 0.0
        self.welcome: control.Welcome

    def _connect(self, kind: int, address: str) -> Any:
        socket = self.context.socket(kind)
        socket.linger = 2000
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.connect(address)
        return socket

    def subscribe(self, prefixes: list[bytes]) -> Any:
        """Return a SUB socket on the bus with these subscriptions."""
        socket = self._connect(zmq.SUB, control.bus_address(self.runtime))
        for prefix in prefixes:
            socket.subscribe(prefix)
        return socket

    def send(self, message: Any) -> None:
        """Tell the kernel."""
        self._spoke_at = time.monotonic()
        self.control.send(control.encode(message))

    def ask(self, message: Any, expected: type[Any], timeout_s: float = 30.0) -> Any:
        """Tell the kernel and wait for its answer."""
        self.send(message)
        if not self.control.poll(timeout_s * 1000):
            raise HandshakeRefused(
                f"the kernel did not answer {type(message).__name__} within {timeout_s:g} s"
            )
        answer = control.decode(self.control.recv())
        if isinstance(answer, control.Refused):
            raise HandshakeRefused(answer.reason)
        if isinstance(answer, control.Stop):
            raise Stopped
        if not isinstance(answer, expected):
            raise HandshakeRefused(f"expected {expected.__name__}, was {type(answer).__name__}")
        return answer

    def greet(self) -> control.Welcome:
        """Say hello; returns the plan for this host."""
        hello = control.Hello(
            self.host, os.getpid(), control.take_token(), control.PROTOCOL, codec.schema_hash()
        )
        self.welcome = self.ask(hello, control.Welcome)
        return self.welcome

    def commands(self) -> Iterator[Any]:
        """Yield what the kernel has said, without waiting."""
        while self.control.poll(0):
            yield control.decode(self.control.recv())

    @property
    def is_orphan(self) -> bool:
        """Whether the kernel is gone."""
        return os.getppid() != self._parent

    def beat(self, position: int, failed: list[str]) -> None:
        """Give a sign of life when one is due; raise Stopped when the kernel is gone."""
        if self.is_orphan:
            raise Stopped
        if time.monotonic() - self._spoke_at >= self.welcome.settings.heartbeat_s / 2:
            self.send(control.Beat(self.host, position, failed))

    def push(self, frames: list[bytes]) -> None:
        """Send *frames* to the kernel in order; waits while it is busy."""
        if frames:
            self.outlet.send(codec.pack_burst(frames))


class Builder:
    """Loads and builds a host's plugins, and remembers which could not be."""

    def __init__(self, welcome: control.Welcome) -> None:
        self.welcome = welcome
        self.loaded: list[tuple[PluginSpec, Options]] = []
        self.failed: dict[str, tuple[str, str]] = {}
        for planned in welcome.plugins:
            try:
                self.loaded.append(registry.load_planned(planned, welcome.config))
            except PluginError as error:
                logger.error("plugin.failed", plugin=planned.id, stage="load", exc_info=error)
                self.failed[planned.id] = ("load", str(error))

    def build(
        self, on_output: Callable[[str, int, int, m.Message], None], clock: WallClock | None
    ) -> LocalBus:
        """Return a bus with everything that could be built."""
        welcome = self.welcome
        bus = LocalBus(
            on_output,
            clock=clock,
            started_ns=welcome.started_ns,
            seed=welcome.settings.seed,
            data_dir=Path(welcome.run_dir),
        )
        if welcome.has_gate:
            bus.add(gate_spec(welcome.rules, welcome.vital), Options())
        for spec, options in self.loaded:
            try:
                bus.add(spec, options)
            except ConfigError:
                raise
            except Exception as error:
                logger.error("plugin.failed", plugin=spec.id, stage="build", exc_info=error)
                self.failed[spec.id] = ("build", f"{type(error).__name__}: {error}")
        return bus

    def presentation(self, host: str) -> control.Present:
        """Return what to tell the kernel."""
        components = [
            control.Component(spec.id, spec.KIND, [cls.__name__ for cls in spec.publishes])
            for spec, _ in self.loaded
            if spec.id not in self.failed
        ]
        if self.welcome.has_gate:
            spec = gate_spec([])
            components.append(control.Component(GATE, spec.KIND, [cls.__name__ for cls in spec.publishes]))
        return control.Present(host, components, self.failed)


class Outputs:
    """Turns what components publish into frames, leaving out what the kernel already has."""

    def __init__(self, link: Link) -> None:
        self.frames: list[bytes] = []
        self._link = link
        self._admitted: control.Admitted

    def admit(self, admitted: control.Admitted) -> None:
        """Publish from now on under these names."""
        self._admitted = admitted

    def record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        """Queue one output; the OutputSink of a LocalBus."""
        admitted = self._admitted
        if (cause, n) <= admitted.outputs.get(plugin, (-1, -1)):
            return
        topic = topics.topic_of(message)
        origin = admitted.origins[plugin]
        self.frames.append(
            codec.pack_output(topic, origin, admitted.epochs[plugin], n, cause, codec.encode(message))
        )
        if type(message) is m.SubmitOrder:
            # A rule in another process answers the sooner, and a person sees it, while ours still judge.
            self._link.push(self.take())

    def take(self) -> list[bytes]:
        """Return the queued frames and forget them."""
        frames, self.frames = self.frames, []
        return frames


class ConsumerHost:
    """Takes the bus in order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._outputs = Outputs(link)
        self._checkpoint_at = time.monotonic()
        self._progress_at = 0.0
        self._reported = -1

    def run(self) -> None:
        """Run until stopped."""
        link, welcome = self._link, self._link.welcome
        builder = Builder(welcome)
        self._bus = builder.build(self._outputs.record, None)
        admitted = link.ask(builder.presentation(link.host), control.Admitted)
        self._outputs.admit(admitted)
        self._journal = JournalReader(Path(welcome.run_dir) / "journal")
        prefixes = topics.prefixes([*self._bus.wanted_types, m.Sync])
        self._inbox = Inbox(prefixes, admitted.origins.values(), tseq=admitted.tseq)
        self._restore(admitted)
        self._socket = link.subscribe(prefixes)
        self._synchronise()
        link.send(control.Ready(link.host, self._inbox.position, control.Role.CONSUMER))
        logger.info("host.started", host=link.host, position=self._inbox.position, plugins=self._bus.plugins)
        try:
            self._loop()
        except Stopped:
            self._finish()

    def _restore(self, admitted: control.Admitted) -> None:
        """Take the newest checkpoint that is whole; without one begin at the beginning."""
        for checkpoint in self._journal.checkpoints(self._link.host):
            try:
                state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
                self._bus.restore(state.bus, self._link.welcome.revived)
            except (msgspec.MsgspecError, StateRefused) as error:
                logger.error("host.checkpoint_refused", position=checkpoint.position, reason=str(error))
                continue
            self._inbox.position = state.position
            return
        if self._journal.first() > 1:
            # The beginning has been pruned: this host is new to an old run and joins it here.
            logger.warning("host.joined_late", head=admitted.head)
            self._inbox.position = admitted.head

    def _synchronise(self) -> None:
        """Wait until the subscription is proven to work, and take everything before that from the journal."""
        while True:
            self._link.send(control.SyncRequest(self._link.host))
            deadline = time.monotonic() + 0.2
            while (left := deadline - time.monotonic()) > 0:
                if self._socket.poll(left * 1000):
                    frame = codec.unpack(codec.unpack_run(self._socket.recv())[0])
                    if frame.topic == topics.topic("sync"):
                        self._catch_up(frame.seq + 1)
                        return
            self._obey()
            self._link.beat(self._inbox.position, [])

    def _catch_up(self, before: int) -> None:
        """Take every frame with seq < *before* from the journal, waiting for its commit."""
        while self._inbox.position < before - 1:
            reached = self._inbox.position
            for count, raw in enumerate(self._journal.frames(self._inbox.position, before - 1)):
                if frame := self._inbox.refill(raw):
                    self._bus.deliver_encoded(frame.body, frame.seq)
                if count % BURST == 0:
                    self._flush()
                    self._link.beat(self._inbox.position, sorted(self._bus.failed))
            self._flush()
            if self._inbox.position == reached:
                time.sleep(0.002)
                self._obey()
                self._link.beat(self._inbox.position, sorted(self._bus.failed))

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._link.control, zmq.POLLIN)
        wait_ms = int(self._link.welcome.settings.heartbeat_s * 250)
        while True:
            ready = dict(
                poller.poll(int(PROGRESS_S * 1000) if self._reported != self._inbox.position else wait_ms)
            )
            if self._socket in ready:
                self._drain()
            if self._link.control in ready:
                self._obey()
            self._flush()
            self._checkpoint_when_due()
            self._link.beat(self._inbox.position, sorted(self._bus.failed))

    def _drain(self) -> None:
        receive, take, wait = self._socket.recv, self._take, zmq.NOBLOCK
        for _ in range(BURST):
            try:
                run = receive(wait)
            except zmq.Again:
                return
            for raw in codec.unpack_run(run):
                take(raw)

    def _take(self, raw: bytes) -> None:
        frame = self._inbox.receive(raw)
        if isinstance(frame, Missing):
            logger.warning("host.fell_behind", after=frame.after, before=frame.before)
            self._catch_up(frame.before)
            frame = self._inbox.receive(raw)
            if isinstance(frame, Missing):
                raise StoreError(
                    f"the journal does not continue at seq {frame.after}; restart from a checkpoint"
                )
        if frame is not None:
            self._bus.deliver_encoded(frame.body, frame.seq)

    def _flush(self) -> None:
        frames = self._outputs.take()
        now = time.monotonic()
        if self._inbox.position != self._reported and now - self._progress_at >= PROGRESS_S:
            progress = control.Progress(self._link.host, self._inbox.position)
            frames.append(control.PROGRESS + msgspec.msgpack.encode(progress))
            self._progress_at, self._reported = now, self._inbox.position
        self._link.push(frames)

    def _checkpoint_when_due(self) -> None:
        if time.monotonic() - self._checkpoint_at >= self._link.welcome.settings.checkpoint_s:
            self._link.push([self._checkpoint()])

    def _checkpoint(self) -> bytes:
        self._checkpoint_at = time.monotonic()
        inbox = self._inbox
        state = msgspec.msgpack.encode(control.HostState(inbox.position, {}, self._bus.snapshot()))
        checkpoint = control.HostCheckpoint(self._link.host, inbox.position, state)
        return control.CHECKPOINT + msgspec.msgpack.encode(checkpoint)

    def _obey(self) -> None:
        for command in self._link.commands():
            if isinstance(command, control.Stop):
                raise Stopped

    def _finish(self) -> None:
        """Take what is still in the socket, then write down the state."""
        if self._link.is_orphan:
            return
        while self._socket.poll(0):
            self._drain()
        self._progress_at = 0.0
        self._flush()
        self._link.push([self._checkpoint()])


class SourceHost:
    """Plays exchanges into the bus."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._outputs = Outputs(link)
        self._causes: dict[str, int] = {}
        self._is_paused = False
        self._is_started = False
        self._is_stopping = False
        self._checkpoint_at = time.monotonic()
        speed = link.welcome.settings.speed
        self._speed = 0.0 if speed == "max" else float(speed)

    def run(self) -> None:
        """Run until stopped."""
        link, welcome = self._link, self._link.welcome
        builder = Builder(welcome)
        is_live = any(isinstance(spec, ExchangeSpec) and spec.is_live for spec, _ in builder.loaded)
        self._bus = builder.build(self._outputs.record, WallClock() if is_live else None)
        self._admitted = link.ask(builder.presentation(link.host), control.Admitted)
        self._outputs.admit(self._admitted)
        self._restore()
        link.send(control.Ready(link.host, 0, control.Role.SOURCE))
        logger.info("host.started", host=link.host, plugins=self._bus.plugins)
        asyncio.run(self._play([spec for spec, _ in builder.loaded if spec.id in self._bus.plugins]))

    def _restore(self) -> None:
        journal = JournalReader(Path(self._link.welcome.run_dir) / "journal")
        for checkpoint in journal.checkpoints(self._link.host):
            try:
                state = msgspec.msgpack.decode(checkpoint.state, type=control.HostState)
                self._bus.restore(state.bus, self._link.welcome.revived)
            except (msgspec.MsgspecError, StateRefused) as error:
                logger.error("host.checkpoint_refused", position=checkpoint.position, reason=str(error))
                continue
            self._causes = dict(state.causes)
            break
        journal.close()

    async def _play(self, specs: list[PluginSpec]) -> None:
        tasks = [asyncio.create_task(self._play_one(spec)) for spec in specs]
        try:
            while not self._is_stopping:
                self._listen()
                await asyncio.sleep(PROGRESS_S)
        except Stopped:
            pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._link.is_orphan:
            self._summarize()
            self._link.push(self._outputs.take())
            self._link.push([self._checkpoint()])

    def _listen(self) -> None:
        for command in self._link.commands():
            match command:
                case control.Start():
                    self._is_started = True
                case control.Pause():
                    self._is_paused = True
                case control.Proceed():
                    self._is_paused = False
                case control.Stop():
                    self._is_stopping = True
        self._link.beat(0, sorted(self._bus.failed))

    async def _play_one(self, spec: PluginSpec) -> None:
        while not self._is_started:
            await asyncio.sleep(0.005)
        component = self._bus.component(spec.id)
        try:
            if isinstance(spec, ExchangeSpec) and spec.is_live:
                await self._stream(spec.id, component)
            else:
                await self._replay(spec.id, component)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            cause = self._causes[spec.id] = self._causes.get(spec.id, 0) + 1
            self._bus.emit(spec.id, component.summarize(), cause)
            self._bus.fail(spec.id, "events", error)
            self._bus.emit(spec.id, (), cause)
            self._link.push(self._outputs.take())

    async def _stream(self, plugin: str, feed: Any) -> None:
        # A live feed's inputs cannot be repeated: number them on from the last that was published.
        self._causes[plugin] = max(self._causes.get(plugin, 0), self._admitted.outputs.get(plugin, (0, 0))[0])
        async for messages in feed.stream():
            self._emit(plugin, messages)
            self._link.push(self._outputs.take())
            self._checkpoint_when_due()

    async def _replay(self, plugin: str, source: Any) -> None:
        done = self._admitted.outputs.get(plugin, (0, 0))[0]
        is_wall = self._link.welcome.settings.clock == "wall" and self._speed == 1.0
        if is_wall and done and hasattr(source, "skip_to"):
            source.skip_to(time.time_ns())
            self._causes[plugin] = max(self._causes.get(plugin, 0), done)
        began_wall = began_ts = waiting = 0
        for ts, messages in source.events():
            if self._speed and self._causes.get(plugin, 0) >= done:
                if not began_ts:
                    began_wall, began_ts = time.monotonic_ns(), ts
                ahead = began_wall + (ts - began_ts) / self._speed - time.monotonic_ns()
                if ahead > 500_000:
                    self._link.push(self._outputs.take())
                    waiting = 0
                    await asyncio.sleep(ahead / 1e9)
            self._emit(plugin, messages)
            waiting += 1
            if waiting >= BURST:
                waiting = 0
                self._link.push(self._outputs.take())
                self._checkpoint_when_due()
                self._listen()
                await asyncio.sleep(0)
                while self._is_paused and not self._is_stopping:
                    await asyncio.sleep(0.001)
        self._link.push(self._outputs.take())

    def _emit(self, plugin: str, messages: Any) -> None:
        cause = self._causes[plugin] = self._causes.get(plugin, 0) + 1
        self._bus.emit(plugin, messages, cause)

    def _summarize(self) -> None:
        """Say once more, at the end, what each source has seen."""
        for plugin in self._bus.plugins:
            if plugin not in self._bus.failed:
                self._bus.emit(plugin, self._bus.component(plugin).summarize(), self._causes.get(plugin, 0))

    def _checkpoint_when_due(self) -> None:
        if time.monotonic() - self._checkpoint_at >= self._link.welcome.settings.checkpoint_s:
            self._link.push([self._checkpoint()])

    def _checkpoint(self) -> bytes:
        self._checkpoint_at = time.monotonic()
        state = msgspec.msgpack.encode(control.HostState(0, self._causes, self._bus.snapshot()))
        position = sum(self._causes.values())
        return control.CHECKPOINT + msgspec.msgpack.encode(
            control.HostCheckpoint(self._link.host, position, state)
        )


class PageContext:
    """What a page may know: where its kernel is, and when to stop."""

    def __init__(self, plugin: str, welcome: control.Welcome) -> None:
        self.plugin = plugin
        self.home = Path(welcome.home)
        self.profile = welcome.profile
        self.run_dir = Path(welcome.run_dir)
        self.data_dir = Path(welcome.home) / plugin
        self.log = logger.bind(plugin=plugin)


class PageHost:
    """Runs one program for people; a thread keeps in touch with the kernel."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def run(self) -> None:
        """Run until the program ends or the kernel says so."""
        link, welcome = self._link, self._link.welcome
        builder = Builder(welcome)
        link.ask(builder.presentation(link.host), control.Admitted)
        link.send(control.Ready(link.host, 0, control.Role.PAGE))
        if not builder.loaded:
            raise ConfigError(next(iter(builder.failed.values()))[1])
        threading.Thread(target=self._listen, daemon=True).start()
        (spec, options), *_ = builder.loaded
        spec.factory(PageContext(spec.id, welcome), options)

    def _listen(self) -> None:
        try:
            while True:
                if self._link.control.poll(int(self._link.welcome.settings.heartbeat_s * 250)) and any(
                    isinstance(command, control.Stop) for command in self._link.commands()
                ):
                    break
                self._link.beat(0, [])
        except Stopped:
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def _die_with_parent() -> None:
    """Ask Linux to end this process when the kernel ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run a host process; returns its exit code."""
    name, runtime = arguments
    _die_with_parent()
    log.configure(as_json=True)
    structlog.contextvars.bind_contextvars(host=name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the kernel decides
    link = Link(name, runtime)
    try:
        welcome = link.greet()
        kinds = {plugin.kind for plugin in welcome.plugins}
        shape = (
            SourceHost if kinds == {"exchange"} else PageHost if kinds == {PageSpec.KIND} else ConsumerHost
        )
        shape(link).run()
    except Stopped:
        pass
    except ConfigError as error:
        link.send(control.Unfit(name, str(error), True))
        return 2
    except StoreError as error:
        # Its place in the order is lost; started again, it finds it from its checkpoint.
        logger.error("host.failed", host=name, error=str(error))
        return 1
    except TickerMLError as error:
        logger.error("host.failed", host=name, error=str(error))
        link.send(control.Unfit(name, str(error), False))
        return 1
    finally:
        link.context.destroy(linger=2000)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
