"""
A host process: the real wires of the machine that runs in it.

    python -m tickerml.kernel.host NAME RUNTIME_DIR

There are three shapes: a consumer takes the bus in order, a source plays its
exchanges into it, a page runs a program for people. Whatever its shape, a host
greets the kernel, builds its plugins, presents what it could build and what it
could not, and dies with the kernel.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
import zmq

from . import codec, control, limits, log, secret
from .consumer import Consumer
from .control import Role
from .errors import ConfigError, HandshakeRefused, StoreError, TickerMLError
from .hookspecs import SHAPES
from .journal import JournalReader
from .machine import BURST, Builder
from .source import Source
from .supervisor import LIVENESS
from .units import NS_PER_MS, NS_PER_S

SERVES_S = 2.0  # after which a page that says nothing is taken to serve
HIGH_WATER = 20_000  # runs or bursts in one socket: beyond it the bus drops, and the outlet waits

logger = structlog.get_logger()


class Stopped(Exception):
    """The kernel has asked this host to stop, or is gone."""


class Link:
    """A host's sockets to the kernel: the Wires of its machine."""

    def __init__(self, host: str, runtime: str) -> None:
        self.host = host
        self.runtime = runtime
        self.context = zmq.Context()
        self.control = self._connect(zmq.DEALER, control.control_address(runtime))
        self.outlet = self._connect(zmq.PUSH, control.ingest_address(runtime))
        self.bus: Any = None
        self.welcome: control.Welcome
        self._parent = os.getppid()

    def _connect(self, kind: int, address: str) -> Any:
        socket = self.context.socket(kind)
        socket.linger = 2000
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.connect(address)
        return socket

    def monotonic(self) -> int:
        return time.monotonic_ns()

    def wall(self) -> int:
        return time.time_ns()

    def subscribe(self, prefixes: list[bytes]) -> None:
        self.bus = self._connect(zmq.SUB, control.bus_address(self.runtime))
        for prefix in prefixes:
            self.bus.subscribe(prefix)

    def open_journal(self, path: Path) -> JournalReader:
        return JournalReader(path)

    def send(self, message: Any) -> None:
        self.control.send(control.encode(message))

    def push(self, burst: bytes) -> None:
        """Send *burst*; while the kernel takes nothing, wait for it, and say that we do."""
        while True:
            try:
                self.outlet.send(burst, zmq.NOBLOCK)
                return
            except zmq.Again:
                self.outlet.poll(200, zmq.POLLOUT)
                self.check_parent()
                self.send(control.Beat(self.host, []))

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

    def check_parent(self) -> None:
        """
        Raises: Stopped: the kernel is gone.
        """
        if os.getppid() != self._parent:
            raise Stopped


def run_consumer(link: Link) -> None:
    """Run a consumer until it is stopped."""
    machine = Consumer(link.host, link, link.welcome)
    machine.begin()
    poller = zmq.Poller()
    poller.register(link.control, zmq.POLLIN)
    is_listening = False
    while not machine.is_over:
        if machine.wants_bus != is_listening:
            is_listening = machine.wants_bus
            poller.register(link.bus, zmq.POLLIN) if is_listening else poller.unregister(link.bus)
        ready = dict(poller.poll(machine.wait_ns // NS_PER_MS))
        is_idle = link.bus not in ready or _drain(link.bus, machine)
        if link.control in ready:
            for message in link.commands():
                machine.on_control(message)
        link.check_parent()
        machine.advance(is_idle=is_idle)


def _drain(socket: Any, machine: Consumer) -> bool:
    """Give *machine* a burst of what waits in *socket*; returns whether that was all."""
    receive, take, wait = socket.recv, machine.on_bus, zmq.NOBLOCK
    for _ in range(BURST):
        try:
            take(receive(wait))
        except zmq.Again:
            return True
        if not machine.wants_bus:
            return False
    return False


async def run_source(link: Link) -> None:
    """Run a source until it is stopped."""
    machine = Source(link.host, link, link.welcome)
    machine.begin()
    reading: dict[str, asyncio.Task[None]] = {}
    try:
        while not machine.is_over:
            for message in link.commands():
                machine.on_control(message)
            for plugin, feed in machine.feeds.items():
                if plugin not in reading:
                    reading[plugin] = asyncio.create_task(_read(machine, plugin, feed))
            link.check_parent()
            machine.advance()
            await asyncio.sleep(machine.wait_ns / NS_PER_S)
    finally:
        for task in reading.values():
            task.cancel()
        await asyncio.gather(*reading.values(), return_exceptions=True)


async def _read(machine: Source, plugin: str, feed: Any) -> None:
    try:
        async for messages in feed.stream():
            machine.fed(plugin, messages)
    except Stopped:
        raise
    except Exception as error:
        machine.fail(plugin, error)


class PageContext:
    """What a page may know: where its kernel is, and when to stop."""

    def __init__(self, plugin: str, welcome: control.Welcome, serves: Callable[[], None]) -> None:
        self.plugin = plugin
        self.home = Path(welcome.home)
        self.profile = welcome.profile
        self.run_dir = Path(welcome.run_dir)
        self.data_dir = Path(welcome.home) / plugin
        self.log = logger.bind(plugin=plugin)
        self._serves = serves
        (planned,) = (each for each in welcome.plugins if each.id == plugin)
        self._secrets = secret.read(planned.secrets)
        self._limit_s = LIVENESS * welcome.settings.heartbeat_s
        self._alive_at = 0.0

    def secret(self, name: str) -> str:
        """
        Return the value of the secret *name*.

        Raises: PluginContractError: it was not granted, or is not set.
        """
        return secret.value_of(name, self._secrets, self.plugin)

    def alive(self) -> None:
        """Say that the page answers; one that has said so once is dead when it stops to."""
        if not self._alive_at:
            self._serves()
        self._alive_at = time.monotonic()

    @property
    def is_alive(self) -> bool:
        """Whether the page has not stopped to say so."""
        return not self._alive_at or time.monotonic() - self._alive_at < self._limit_s


def run_page(link: Link) -> None:
    """Run one program for people until it ends or the kernel says so."""
    welcome = link.welcome
    builder = Builder(welcome)
    link.ask(builder.presentation(link.host), control.Admitted)
    if not builder.loaded:
        raise ConfigError(next(iter(builder.failed.values()))[1])
    (spec, options), *_ = builder.loaded
    serves = threading.Event()
    context = PageContext(spec.id, welcome, serves.set)
    # A thread keeps in touch with the kernel.
    threading.Thread(target=_listen, args=[link, builder, context, serves], daemon=True).start()
    spec.factory(context, options)


def _listen(link: Link, builder: Builder, context: PageContext, serves: threading.Event) -> None:
    began, is_ready = time.monotonic(), False
    try:
        while True:
            if link.control.poll(int(link.welcome.settings.heartbeat_s * 250)) and not _obey(link, builder):
                break
            link.check_parent()
            # A page that never says that it serves is taken to, after a while.
            if not is_ready and (serves.is_set() or time.monotonic() - began > SERVES_S):
                is_ready = True
                link.send(control.Ready(link.host, Role.PAGE))
            if context.is_alive:
                link.send(control.Beat(link.host, []))
    except Stopped:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _obey(link: Link, builder: Builder) -> bool:
    """Hear the kernel; False when the page is to stop."""
    for command in link.commands():
        if isinstance(command, control.Stop):
            return False
        if isinstance(command, control.DiagnosticsRequest):
            facts = builder.observers.diagnostics(command.plugin)
            link.send(control.Diagnosis(command.plugin, facts))
    return True


def _run(link: Link) -> None:
    shapes = {SHAPES[plugin.kind] for plugin in link.greet().plugins}
    if shapes == {"source"}:
        asyncio.run(run_source(link))
    elif shapes == {"page"}:
        run_page(link)
    else:
        run_consumer(link)


def main(arguments: list[str]) -> int:
    """Run a host process; returns its exit code."""
    name, runtime = arguments
    limits.die_with_parent(signal.SIGKILL)
    log.configure(as_json=True)
    structlog.contextvars.bind_contextvars(host=name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the kernel decides
    link = Link(name, runtime)
    try:
        _run(link)
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
