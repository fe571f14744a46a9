"""
The processes of the world: each one production machine, and the edges it acts through.

A process is stepped by its world when something has arrived or its time has come. One that
is stalled keeps what arrives until it goes on; one with a fuse dies within a step, between two
of the effects of that step, as a process does that is killed.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tickerml.kernel import codec, control
from tickerml.kernel.berths import host_of
from tickerml.kernel.config import Plan
from tickerml.kernel.consumer import Consumer, Phase
from tickerml.kernel.errors import ConfigError, StoreError, TickerMLError
from tickerml.kernel.hookspecs import SHAPES
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.source import Source
from tickerml.kernel.units import NS_PER_MS

from .agenda import Clock
from .faults import Flaw
from .flawed import Spoiler
from .network import Pipe, Subscription
from .surroundings import Surroundings
from .watch import HostView

HOME = Path("/world")
RUN_DIR = HOME / "run"
JOURNAL = RUN_DIR / "journal"
BLOCKED_BEAT_NS = 200 * NS_PER_MS  # a host that waits for room in its outlet says so this often
FUSES = 12  # effects within which a process dies whose fuse is lit


class Crash(BaseException):
    """A process dies here, in the middle of a step."""


class Process:
    """Something that is stepped: when something arrives, and when its time has come."""

    def __init__(self, world: Surroundings, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.is_alive = True
        self.world = world
        self._wakes_at = -1
        self._stalled_until = 0
        self._fuse = 0

    def wake(self, at: int) -> None:
        """Step this process at *at*, or earlier where that is planned already."""
        at = max(at, self.world.agenda.now, self._stalled_until)
        if self.is_alive and not 0 <= self._wakes_at <= at:
            self._wakes_at = at
            self.world.agenda.at(at, lambda: self._wake(at))

    def _wake(self, at: int) -> None:
        if not self.is_alive or self._wakes_at != at:
            return
        self._wakes_at = -1
        if at < self._stalled_until:
            self.wake(self._stalled_until)
            return
        try:
            self.step()
        except Crash:
            self.crashed()

    def step(self) -> None:
        """Do what there is to do."""
        raise NotImplementedError

    def crashed(self) -> None:
        """It has died in the middle of a step."""
        raise NotImplementedError

    def stall(self, until: int) -> None:
        """Do nothing before *until*: SIGSTOP, a swapping machine, a suspended laptop."""
        self._stalled_until = max(self._stalled_until, until)

    def light_fuse(self, effects: int) -> None:
        """Die before the *effects*-th effect from now."""
        self._fuse = effects

    def act(self) -> None:
        """
        Count an effect.

        Raises: Crash: this process does not live to see it.
        """
        if self._fuse:
            self._fuse -= 1
            if not self._fuse:
                raise Crash


class HostProcess(Process):
    """A host: the wires of its machine."""

    def __init__(
        self, world: Surroundings, name: str, pid: int, token: str, plan: Plan, flaw: Flaw | None
    ) -> None:
        super().__init__(world, name, world.clock())
        self.host = host_of(name)
        self.pid = pid
        self.plan = plan
        self.identity = b"%s-%d" % (name.encode(), pid)
        self.view = HostView(self.host, pid)
        self.spoiler = Spoiler(self, world.rng, flaw)
        self.machine: Consumer | Source | None = None
        self.is_zombie = False
        rng, network = world.rng, world.scenario.network
        self.heard = Pipe(network, rng)  # control, from the kernel
        self.said = Pipe(network, rng)  # control, to the kernel
        self.outlet = Pipe(network, rng)
        self.subscription = Subscription(network, rng, world.scenario.high_water)
        self._token = token
        self._put_off: list[Any] = []  # what was said to it while it hung
        self._parts: list[control.StatePart] = []  # of the state that it hands over
        self._has_greeted = False
        self._beat_at = 0
        self._phase: object = None

    @property
    def pipes(self) -> list[Pipe]:
        """Everything that connects it with the kernel."""
        return [self.heard, self.said, self.outlet, self.subscription.pipe]

    @property
    def wants_bus(self) -> bool:
        """Whether it listens to the bus now."""
        return isinstance(self.machine, Consumer) and self.machine.wants_bus

    def stop_dropping(self) -> None:
        """Hear everything again."""
        self.subscription.drop_rate = 0.0

    # --- Its life -----------------------------------------------------------------------------

    def step(self) -> None:
        world, now = self.world, self.world.agenda.now
        if not self._has_greeted:
            self._has_greeted = True
            self.send(control.Hello(self.host, self.pid, self._token, control.PROTOCOL, codec.schema_hash()))
        if len(self.outlet) > world.scenario.outlet_high_water:
            self._wait_for_room(now)
            return
        world.active = self
        try:
            self._step()
        except StoreError as error:
            self.exit(f"exited with code 1: {error}")
        except TickerMLError as error:
            self.send(control.Unfit(self.host, str(error), isinstance(error, ConfigError)))
            self.exit(f"unfit: {error}")
        finally:
            world.active = None

    def _wait_for_room(self, now: int) -> None:
        self.world.saw("outlet blocked")
        if now - self._beat_at >= BLOCKED_BEAT_NS:
            self._beat_at = now
            self.send(control.Beat(self.host, []))
        self.wake(now + 5 * NS_PER_MS)

    def _step(self) -> None:
        now = self.world.agenda.now
        while self.is_alive and (self._put_off or self.heard.is_ready(now)):
            message = self._put_off.pop(0) if self._put_off else control.decode(self.heard.take())
            if not self.spoiler.hears(message):
                self._hear(message)
            elif self.is_alive:
                return
        machine = self.machine
        if machine is None or not self.is_alive:
            self._sleep(now, 0)
            return
        if isinstance(machine, Consumer):
            machine.advance(is_idle=self._listen(machine, now))
            self._note_phase(machine.phase)
        else:
            self.spoiler.advances(machine)
            machine.advance()
        if machine.is_over:
            self.exit("exited with code 0")
        else:
            self._sleep(now, machine.wait_ns)

    def _hear(self, message: Any) -> None:
        if self.machine is not None:
            self.machine.on_control(message)
            return
        match message:
            case control.Welcome():
                shapes = {SHAPES[plugin.kind] for plugin in message.plugins}
                shape = Source if shapes == {"source"} else Consumer
                self.machine = shape(self.host, self, message)
                self.machine.begin()
            case control.Refused():
                raise TickerMLError(message.reason)
            case control.Stop():
                self.exit("exited with code 0")

    def _listen(self, machine: Consumer, now: int) -> bool:
        pipe = self.subscription.pipe
        for _ in range(64):
            if not machine.wants_bus or not pipe.is_ready(now):
                break
            machine.on_bus(pipe.take())
        return machine.wants_bus and not pipe.is_ready(now)

    def _sleep(self, now: int, wait_ns: int) -> None:
        world = self.world
        times = [now + max(wait_ns, world.service_ns(self.machine))] if self.machine else []
        if self.heard.next_at is not None:
            times.append(self.heard.next_at)
        if isinstance(self.machine, Consumer) and self.machine.wants_bus:
            pipe = self.subscription.pipe
            if pipe.next_at is not None:
                times.append(max(pipe.next_at, now + world.scenario.network.delay[0]))
        if times:
            self.wake(min(times))

    def _note_phase(self, phase: Phase) -> None:
        if phase is not self._phase:
            if self._phase is Phase.RUNNING:
                self.world.saw(f"consumer running > {phase.value}")
            self._phase = phase
            self.world.saw(f"consumer {phase.value}")

    def exit(self, reason: str) -> None:
        """End by itself; what it has sent still arrives."""
        if self.is_alive:
            self.is_alive = False
            self.world.host_ended(self, reason, kept=1.0, delay=0)

    def crashed(self) -> None:
        """It has died in the middle of a step."""
        self.world.kill_host(self, "crashed between two effects")

    def hang(self, span: int, message: Any) -> None:
        """Do nothing for *span* ns, and hear *message* only then."""
        now = self.world.agenda.now
        self._put_off.append(message)
        self.stall(now + span)
        self.wake(now + span)

    def die_in(self, span: int) -> None:
        """Be killed in *span* ns."""
        self.world.agenda.after(span, lambda: self.world.kill_host(self, "frail"))

    # --- Wires --------------------------------------------------------------------------------

    def monotonic(self) -> int:
        """Return ns that never go back."""
        return self.clock.monotonic()

    def wall(self) -> int:
        """Return ns UTC."""
        return self.world.wall.wall()

    def send(self, message: Any) -> None:
        """Tell the kernel."""
        self.act()
        if isinstance(message, control.Shadowed):
            self.world.watch.compared(self.view, self.plan, message)
        self.world.to_kernel(self.said, control.encode(self.spoiler.says(message)))

    def push(self, burst: bytes) -> None:
        """Send a burst to the kernel's inlet."""
        self.act()
        self._look_into(burst)
        self.world.to_kernel(self.outlet, self.spoiler.pushes(burst))

    def _look_into(self, burst: bytes) -> None:
        if not isinstance(self.machine, Consumer):
            return
        _, _, frames = codec.unpack_burst(burst)
        for frame in frames:
            if frame.startswith(control.CHECKPOINT):
                note = msgspec.msgpack.decode(frame[2:], type=control.HostCheckpoint)
                self._look_at(note.position, note.state)
            elif frame.startswith(control.STATE):
                self._look_at_part(msgspec.msgpack.decode(frame[2:], type=control.StatePart))

    def _look_at_part(self, part: control.StatePart) -> None:
        self._parts = [*self._parts, part] if part.part else [part]
        self.world.saw("state handed over in parts", int(part.part > 0))
        if part.part + 1 == part.parts:
            bus = self._look_at(part.position, b"".join(part.data for part in self._parts))
            self.world.watch.gave(self.view, part.position, bus)

    def _look_at(self, position: int, state: bytes) -> bytes:
        bus = msgspec.msgpack.decode(state, type=control.HostState).bus
        self.world.watch.checkpointed(self.view, position, bus)
        return bus

    def subscribe(self, prefixes: list[bytes]) -> None:
        """Begin to listen on the bus, which takes its time."""
        self.act()
        now = self.world.agenda.now
        self.subscription.join(prefixes, now + self.world.joining_ns())

    def open_journal(self, path: Path) -> JournalReader:
        """Return a reader of the run's journal."""
        self.act()
        return JournalReader(path, opener=self.world.disk.open)


class Client:
    """A person at the command line: sends requests, and believes what is answered."""

    identity = b"client"

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self.heard: Pipe
        self.said: Pipe
        self.reasons: set[str] = set()  # of the commands that wait for their answer
        self.restarts = 0  # asked of this kernel
        self._count = 0
        self.reconnect()

    def reconnect(self) -> None:
        """A new kernel: what was asked of the old one will not be answered."""
        rng, network = self._world.rng, self._world.scenario.network
        self.heard, self.said = Pipe(network, rng), Pipe(network, rng)
        self.reasons.clear()
        self.restarts = 0

    def ask(self, make: Callable[[str], Any]) -> None:
        """Send the request that *make* makes of a reason that nobody has used yet."""
        self._count += 1
        reason = f"request {self._count}"
        self.reasons.add(reason)
        self._world.to_kernel(self.said, control.encode(make(reason)))

    def ask_to_restart(self) -> None:
        """Ask for a clean end of this session and the start of another."""
        self.restarts += 1
        self.ask(control.RestartRequest)


def between(rng: Random, span: tuple[int, int]) -> int:
    """Return a number of ns from *span*."""
    return span[0] + int(rng.random() * (span[1] - span[0]))
