"""
A host that plays exchanges into the bus. Sans-IO.

A source with an end of its own (recorded or generated data) is pulled: its events
are played when they are due, at the speed asked for, and not while somebody is far
behind. A live feed pushes: the process that reads it hands over what it yields. The
outputs of both are numbered by their input, so what is said again after a crash is
recognised.
"""

from collections.abc import Iterator
from typing import Any

import structlog

from . import codec, control
from .clock import WallClock
from .hookspecs import ExchangeSpec
from .machine import BURST, PROGRESS_NS, Machine, Wires
from .units import NS_PER_S

logger = structlog.get_logger()

SOON_NS = NS_PER_S // 2000  # an event due sooner than this is played at once


class _Player:
    """One pulled source and the moment its next event is due."""

    def __init__(
        self,
        plugin: str,
        source: Any,
        done: int,
        speed: float,
        pulled: control.Pulled | None,
        *,
        is_skipping: bool,
    ) -> None:
        """
        Args:
            done: inputs up to here were played before a crash: again, but without waiting.
            pulled: the event that waited for its time at the checkpoint that *source* was restored from.
            is_skipping: whether time has passed since; *pulled* is over then, unless it was the last.
        """
        self.plugin = plugin
        self._events: Iterator[tuple[int, Any]] = iter(source.events())
        self._done = done
        self._speed = speed
        event = (pulled.ts, [codec.decode(body) for body in pulled.messages]) if pulled else None
        self._next: tuple[int, Any] | None = None if is_skipping else event
        self._last = event if is_skipping else None
        self._began_at = self._began_ts = 0

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
        has_live = any(isinstance(spec, ExchangeSpec) and spec.is_live for spec, _ in loaded)
        self._build(WallClock(wires.wall) if has_live else None)
        self.feeds: dict[str, Any] = {}  # live feeds to be read, once they are to start
        self._players: list[_Player] = []
        self._causes: dict[str, int] = {}
        self._pulled: dict[str, control.Pulled] = {}
        self._is_admitted = self._is_started = self._is_paused = False
        speed = welcome.settings.speed
        self._speed = 0.0 if speed == "max" else float(speed)

    def on_control(self, message: object) -> None:
        """
        Hear the kernel.

        Raises: HandshakeRefused: it does not take this host. StoreError: there is no journal.
        """
        self.check(message)
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
                self.is_over = not self._is_admitted

    def _join(self, admitted: control.Admitted) -> None:
        self._admitted = admitted
        self._is_admitted = True
        journal = self._wires.open_journal(self._journal_path)
        if state := self._restore_newest(journal):
            self._causes, self._pulled = dict(state.causes), dict(state.pulled)
        journal.close()
        self.send(control.Ready(self.host, control.Role.SOURCE))
        logger.info("host.started", host=self.host, plugins=self._bus.plugins)

    def _start(self) -> None:
        self._is_started = True
        for spec, _ in self._builder.loaded:
            if spec.id not in self._bus.plugins or spec.id in self._bus.failed:
                continue
            component = self._bus.component(spec.id)
            if isinstance(spec, ExchangeSpec) and spec.is_live:
                # A live feed's inputs cannot be repeated: number them on from the last that was published.
                self._number_on(spec.id)
                self.feeds[spec.id] = component
            else:
                self._players.append(self._play(spec.id, component))

    def _number_on(self, plugin: str) -> int:
        done = self._admitted.outputs.get(plugin, (0, 0))[0]
        self._causes[plugin] = max(self._causes.get(plugin, 0), done)
        return done

    def _play(self, plugin: str, source: Any) -> _Player:
        done = self._admitted.outputs.get(plugin, (0, 0))[0]
        is_wall = self._welcome.settings.clock == "wall" and self._speed == 1.0
        is_skipping = bool(is_wall and done and hasattr(source, "skip_to"))
        if is_skipping:
            source.skip_to(self._wires.wall())
            self._number_on(plugin)
        pulled = self._pulled.pop(plugin, None)
        return _Player(plugin, source, done, self._speed, pulled, is_skipping=is_skipping)

    # --- Events -------------------------------------------------------------------------------

    def emit(self, plugin: str, messages: Any) -> None:
        """Publish what *plugin* yielded as its next input."""
        cause = self._causes[plugin] = self._causes.get(plugin, 0) + 1
        self._bus.emit(plugin, messages, cause)

    def fed(self, plugin: str, messages: Any) -> None:
        """A live feed has yielded *messages*."""
        self.emit(plugin, messages)
        self._push()
        self._checkpoint_when_due()

    def fail(self, plugin: str, error: Exception) -> None:
        """A source has raised: it is set aside, after a last word of what it has seen."""
        cause = self._causes[plugin] = self._causes.get(plugin, 0) + 1
        self._bus.emit(plugin, self._bus.component(plugin).summarize(), cause)
        self._bus.fail(plugin, "events", error)
        self._bus.emit(plugin, (), cause)
        self._push()

    def advance(self) -> None:
        """Play what is due; called after wait_ns at the latest."""
        self.wait_ns = PROGRESS_NS
        self.beat()
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
        pulled = {player.plugin: event for player in self._players if (event := player.pulled)}
        self._write_checkpoint(
            sum(self._causes.values()),
            control.HostState(0, self._causes, self._bus.snapshot(), {**self._pulled, **pulled}),
        )

    def _finish(self) -> None:
        """Say once more, at the end, what each source has seen, and write down the state."""
        for plugin in self._bus.plugins:
            if plugin not in self._bus.failed:
                self._bus.emit(plugin, self._bus.component(plugin).summarize(), self._causes.get(plugin, 0))
        self._push()
        self._checkpoint()
        self.is_over = True
