"""
A host that plays exchanges into the bus. Sans-IO.

A source with an end of its own (recorded or generated data) is pulled: its events
are played when they are due, at the speed asked for, and not while somebody is far
behind. A live feed pushes: the process that reads it hands over what it yields. The
outputs of both are numbered by their input, so what is said again after a crash is
recognised.

Where another process of the same host is the one that publishes, a source stands by: a
pulled one waits for the state that says what comes next, a live one is connected and
holds what it hears.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from . import codec, control
from . import messages as m
from .clock import WallClock
from .dataset import dataset_of
from .errors import StateRefused
from .hookspecs import TrainerSpec, events_of, is_live, summary_of
from .lifecycle import Lifecycle
from .machine import BURST, PROGRESS_NS, Machine, Wires
from .overlap import Marks, Overlap
from .units import NS_PER_S

logger = structlog.get_logger()

SOON_NS = NS_PER_S // 2000  # an event due sooner than this is played at once
HELD_BURST = 16  # messages of those that were held that go out at once: somebody waits for the first
LOOK_NS = NS_PER_S // 2000  # between two looks at the control socket of one who is to take over


class _Player:
    """One pulled source and the moment its next event is due."""

    def __init__(
        self,
        plugin: str,
        events: Iterator[tuple[int, Sequence[m.Message]]],
        done: int,
        speed: float,
        pulled: control.Pulled | None,
        *,
        is_skipping: bool,
        anchor: tuple[int, int] = (0, 0),
    ) -> None:
        """
        Args:
            anchor: when, monotonic ns, which time of its data was due; from the process that played before.
            done: inputs up to here were played before a crash: again, but without waiting.
            pulled: the event that waited for its time at the checkpoint that the source was restored from.
            is_skipping: whether time has passed since; *pulled* is over then, unless it was the last.
        """
        self.plugin = plugin
        self._events = events
        self._done = done
        self._speed = speed
        event = (pulled.ts, [codec.decode(body) for body in pulled.messages]) if pulled else None
        self._next: tuple[int, Any] | None = None if is_skipping else event
        self._last = event if is_skipping else None
        self._began_at, self._began_ts = anchor

    @property
    def anchor(self) -> tuple[int, int]:
        """When, monotonic ns, which time of its data was due; (0, 0) before the first event."""
        return self._began_at, self._began_ts

    def due_in(self, now: int, played: int) -> int:
        """
        Return the ns until the next event is due, 0 when it is now.

        Raises: StopIteration: there is none. Whatever the source raises.
        """
        if self._next is None:
            self._next = self._pull()
        if not self._speed or played < self._done:
            return 0
        ts = self._next[0]
        if not self._began_ts:
            self._began_at, self._began_ts = now, ts
        ahead = self._began_at + int((ts - self._began_ts) / self._speed) - now
        return ahead if ahead > SOON_NS else 0

    def _pull(self) -> tuple[int, Any]:
        last, self._last = self._last, None
        try:
            return next(self._events)
        except StopIteration:
            if last is None:
                raise
            return last

    def take(self) -> Any:
        """Return the messages of the event that is due."""
        assert self._next is not None
        (_, messages), self._next = self._next, None
        return messages

    @property
    def pulled(self) -> control.Pulled | None:
        """The event that waits for its time: the source itself is already past it."""
        if self._next is None:
            return None
        ts, messages = self._next[0], list(self._next[1])
        self._next = ts, messages
        return control.Pulled(ts, [codec.encode(message) for message in messages])


class Source(Machine):
    """Plays exchanges into the bus."""

    def __init__(self, host: str, wires: Wires, welcome: control.Welcome) -> None:
        super().__init__(host, wires, welcome)
        loaded = self._builder.loaded
        self._specs = {spec.id: spec for spec, _ in loaded}
        self._live = {spec.id for spec, _ in loaded if is_live(spec)}
        has_trainer = any(isinstance(spec, TrainerSpec) for spec, _ in loaded)
        is_now = bool(self._live) or (has_trainer and welcome.settings.clock == "wall")
        self._build(WallClock(wires.wall) if is_now else None)
        self.feeds: dict[str, Any] = {}  # live feeds to be read, once they are to start
        self._players: list[_Player] = []
        self._causes: dict[str, int] = {}
        self._pulled: dict[str, control.Pulled] = {}
        self._anchors: dict[str, tuple[int, int]] = {}
        self._marks = Marks()
        self._overlap = Overlap()
        self._left: control.HostState | None = None  # what was handed over
        self._barrier: control.Barrier | None = None  # that waits for what has yet to be published
        self._is_to_stand_by = False  # once there is nothing to wait for
        self._is_admitted = self._is_started = self._is_paused = False
        speed = welcome.settings.speed
        self._speed = 0.0 if speed == "max" else float(speed)

    def on_control(self, message: object) -> None:
        """
        Hear the kernel.

        Raises: HandshakeRefused: it does not take this host. StoreError: there is no journal.
        """
        self.hear(message)
        match message:
            case control.Admitted():
                self._join(message)
            case control.Start() if not self._is_started:
                self._start()
            case control.Pause():
                self._is_paused = True
            case control.Proceed():
                self._is_paused = False
            case control.Canary() if self._is_admitted:
                self._note(control.CANARY, control.CanaryNote(self.host, message.number))
                self._push()
            case control.Stop():
                self._is_stopping = True
                self.is_over = not self._is_admitted or self._is_aside
            case control.StandBy():
                self._stand_by()
            case control.Barrier() if not self._is_aside:
                self._barrier = message
                self._heed_barrier()
            case control.Resume() if self._is_aside and message.number == self._handover:
                self._resume()
            case control.Resume():
                self._barrier = None
            case control.MoreState():
                self._send_part(message.number)
            case control.TakeOver() if self._is_aside and self._collect(message):
                self._take_over(message)

    # --- Changing places ----------------------------------------------------------------------

    def _stand_by(self) -> None:
        """Wait for a state; where the state is a connection, make one of our own."""
        self._is_aside = self._is_to_stand_by = True
        for plugin in self._playable():
            if plugin in self._live:
                self.feeds[plugin] = self._bus.component(plugin)

    def _wait_for_feeds(self) -> None:
        if not self._overlap.wants and all(self._overlap.has_heard(feed) for feed in self.feeds):
            self._is_to_stand_by = False
            self.send(control.StandingBy(self.host, self._overlap.begins))
            self.became(Lifecycle.STANDBY)

    def _heed_barrier(self) -> None:
        """Step aside, once all is published that the connection of the other has not heard."""
        if self._barrier and self._marks.have_reached(self._barrier.after):
            number, self._barrier = self._barrier.number, None
            self._step_aside(number)

    def _step_aside(self, number: int) -> None:
        """Stop here and hand over the state; a live feed is heard on, for the case that it is given back."""
        self._push()
        self._overlap = Overlap()
        self._left = self._state()
        self._hand_over(number, sum(self._causes.values()), self._left)
        self._players = []
        self.became(Lifecycle.STANDBY)

    def _resume(self) -> None:
        """Nobody has taken over: go on as if nothing had been."""
        self._is_aside = False
        self._restore_left()
        self._go_on(is_started=self._is_started)

    def _restore_left(self) -> None:
        """Go back to the state that was left, for which the other one had no use."""
        assert self._left is not None
        if not self._live:
            self._renew()
            self._bus.restore(self._left.bus, self._welcome.revived)
        self._remember(self._left)

    def _take_over(self, message: control.TakeOver) -> None:
        try:
            if wanting := self._overlap.wants:
                raise StateRefused(self.host, f"cannot take over: {wanting}")
            state = self._adopt(message)
        except Exception as error:
            # Whatever it is, the other process has the state too, and goes on with it.
            why = str(error) if isinstance(error, StateRefused) else f"{type(error).__name__}: {error}"
            self.send(control.NotTaken(self.host, why))
            return
        self._is_admitted = True
        if state is not None:
            self._remember(state)
        else:
            self._restore_left()
        self.became(Lifecycle.ACTIVE)
        self._go_on(is_started=message.is_started)

    def _go_on(self, *, is_started: bool) -> None:
        self._left = None
        self._is_paused = False
        if is_started:
            self._start(is_handed_over=True)
        for plugin, heard in self._overlap.release(self._marks):
            self._marks.note([heard])
            self.emit(plugin, [heard])
            if len(self._frames) >= HELD_BURST:
                self._push()
        self._push()

    def _renew(self) -> None:
        # The components of live feeds are their connections: they are told the state and go on.
        if not self._live:
            super()._renew()

    def _remember(self, state: control.HostState) -> None:
        self._causes, self._pulled = dict(state.causes), dict(state.pulled)
        self._anchors = dict(state.anchors)
        self._marks = Marks(state.marks, state.ids)

    def _join(self, admitted: control.Admitted) -> None:
        self._admitted = admitted
        self._is_admitted = True
        journal = self._wires.open_journal(self._journal_path)
        if state := self._restore_newest(journal):
            self._remember(state)
            self._anchors = {}  # time has passed since
        self._is_used = True
        journal.close()
        self.send(control.Ready(self.host, control.Role.SOURCE))
        self.became(Lifecycle.ACTIVE)
        logger.info("host.started", host=self.host, plugins=self._bus.plugins)

    def _playable(self) -> list[str]:
        return [plugin for plugin in self._bus.plugins if plugin not in self._bus.failed]

    def _start(self, *, is_handed_over: bool = False) -> None:
        self._is_started = True
        for plugin in self._playable():
            component = self._bus.component(plugin)
            if plugin in self._live:
                # A live feed's inputs cannot be repeated: number them on from the last that was published.
                self._number_on(plugin)
                self.feeds.setdefault(plugin, component)
            else:
                self._players.append(self._play(plugin, component, is_handed_over=is_handed_over))

    def _number_on(self, plugin: str) -> int:
        done = self._admitted.outputs.get(plugin, (0, 0))[0]
        self._causes[plugin] = max(self._causes.get(plugin, 0), done)
        return done

    def _play(self, plugin: str, source: Any, *, is_handed_over: bool) -> _Player:
        done = self._admitted.outputs.get(plugin, (0, 0))[0]
        is_wall = self._welcome.settings.clock == "wall" and self._speed == 1.0
        is_skipping = bool(is_wall and done and hasattr(source, "skip_to") and not is_handed_over)
        if is_skipping:
            source.skip_to(self._wires.wall())
            self._number_on(plugin)
        welcome = self._welcome
        dataset = dataset_of(Path(welcome.home), Path(welcome.run_dir), welcome.started_ns)
        events = events_of(self._specs[plugin], source, dataset)
        pulled, anchor = self._pulled.pop(plugin, None), self._anchors.pop(plugin, (0, 0))
        return _Player(plugin, events, done, self._speed, pulled, is_skipping=is_skipping, anchor=anchor)

    # --- Events -------------------------------------------------------------------------------

    def emit(self, plugin: str, messages: Any) -> None:
        """Publish what *plugin* yielded as its next input."""
        cause = self._causes[plugin] = self._causes.get(plugin, 0) + 1
        self._bus.emit(plugin, messages, cause)

    def fed(self, plugin: str, messages: Any) -> None:
        """A live feed has yielded *messages*."""
        if self._is_aside:
            self._overlap.hear(plugin, messages)
            return
        self._marks.note(messages)
        self.emit(plugin, messages)
        self._push()
        self._checkpoint_when_due()
        self._heed_barrier()

    def fail(self, plugin: str, error: Exception) -> None:
        """A source has raised: it is set aside, after a last word of what it has seen."""
        if self._is_aside or self._is_on_trial:
            self._fail_on_trial(f"{plugin}: {type(error).__name__}: {error}")
            return
        cause = self._causes[plugin] = self._causes.get(plugin, 0) + 1
        self._bus.emit(plugin, self._summary(plugin), cause)
        self._bus.fail(plugin, "events", error)
        self._bus.emit(plugin, (), cause)
        self._push()

    def _summary(self, plugin: str) -> Sequence[m.Message]:
        return summary_of(self._specs[plugin], self._bus.component(plugin))

    def advance(self) -> None:
        """Play what is due; called after wait_ns at the latest."""
        self.wait_ns = PROGRESS_NS
        self.beat()
        if self._is_aside:
            self.wait_ns = PROGRESS_NS // 4 if self._is_used else LOOK_NS
            if self._is_to_stand_by:
                self._wait_for_feeds()
            return
        if not self._is_admitted:
            return
        if self._is_stopping:
            self._finish()
        elif self._is_started and not self._is_paused:
            for player in list(self._players):
                self._advance_player(player)
            self._push()
            self._checkpoint_when_due()

    def _advance_player(self, player: _Player) -> None:
        plugin, now = player.plugin, self._wires.monotonic()
        try:
            for _ in range(BURST):
                if due_in := player.due_in(now, self._causes.get(plugin, 0)):
                    self.wait_ns = min(self.wait_ns, due_in)
                    return
                self.emit(plugin, player.take())
                if self._wires.monotonic() - now > PROGRESS_NS:
                    break  # a trainer's steps are long, and the kernel waits for a sign of life
            self.wait_ns = 0
        except StopIteration:
            self._players.remove(player)
        except Exception as error:
            self._players.remove(player)
            self.fail(plugin, error)

    def _checkpoint_when_due(self) -> None:
        if self._is_checkpoint_due():
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._write_checkpoint(sum(self._causes.values()), self._state())

    def _state(self) -> control.HostState:
        pulled = {player.plugin: event for player in self._players if (event := player.pulled)}
        anchors = {player.plugin: player.anchor for player in self._players}
        return control.HostState(
            0,
            self._causes,
            self._bus.snapshot(),
            {**self._pulled, **pulled},
            {**self._anchors, **anchors},
            self._marks.seqs,
            list(self._marks.ids),
        )

    def _finish(self) -> None:
        """Say once more, at the end, what each source has seen, and write down the state."""
        for plugin in self._bus.plugins:
            if plugin not in self._bus.failed:
                self._bus.emit(plugin, self._summary(plugin), self._causes.get(plugin, 0))
        self._push()
        self._checkpoint()
        self.is_over = True
        self.became(Lifecycle.STOPPED)
