"""
A host that takes the bus in order: each message run to completion through its LocalBus. Sans-IO.

It is a function of its inputs. So after a crash it restores its last checkpoint,
reads what it missed from the journal, and says again what the kernel may not have
heard, which the kernel recognises.

It subscribes first and asks for a marker; when the marker comes the subscription is
proven, and everything before it is taken from the journal, whatever has been
published since. The same happens whenever the bus has dropped something: what is
missing is read from the journal, waiting for its commit, before anything later.

Where another process of the same host is the one that publishes, a consumer stands by:
it takes the bus all the same and holds the last of what it hears. So when it is given a
state, from wherever in that stretch, it goes on from there at once; and the one that
handed its state over can be given it back.
"""

import enum
from collections import deque
from typing import Any

import structlog

from . import codec, control, topics
from . import messages as m
from .errors import StateRefused, StoreError
from .inbox import Inbox, Missing
from .journal import JournalReader
from .lifecycle import Lifecycle
from .machine import BURST, PROGRESS_NS, Machine, Wires
from .records import frame_seq
from .sequencer import KERNEL
from .shadow import Comparison
from .units import NS_PER_MS, NS_PER_S

SYNC_RETRY_NS = 200 * NS_PER_MS  # a marker asked for before the subscription worked never comes
COMMIT_WAIT_NS = 2 * NS_PER_MS  # between two looks for what the journal has not committed yet
HELD = 32_768  # messages that one who stands by holds; what is before them is in the journal
HELD_BURST = 16  # of them handled at once: somebody waits for the answer to the first
CATCH_UP_BURSTS = 8  # bursts read from the journal between two looks at the control socket
_CANARY = topics.topic("canary")
_SYNC = topics.topic("sync")

logger = structlog.get_logger()


class Phase(enum.Enum):
    """How far a consumer has come."""

    PRESENTED = "presented"
    SYNCING = "syncing"
    CATCHING_UP = "catching up"
    RUNNING = "running"


class Consumer(Machine):
    """Takes the bus in order."""

    def __init__(self, host: str, wires: Wires, welcome: control.Welcome) -> None:
        super().__init__(host, wires, welcome)
        self._build()
        self.phase = Phase.PRESENTED
        self._journal: JournalReader
        self._inbox: Inbox
        self._is_ready = False
        self._target = 0  # everything up to here comes from the journal
        self._held = b""  # the run that came behind what is missing
        self._asked_at = 0
        self._progress_at = 0
        self._reported = -1
        self._prefixes: tuple[bytes, ...] = ()
        self._own: frozenset[int] = frozenset()  # the origins of this host
        self._is_wide = False  # whether more comes than the components may be given
        self._is_holding = False  # what comes is held: somebody else, or what lies before it, is first
        self._state_at = 0  # the components have handled everything up to here
        self._held_frames: deque[codec.Frame] = deque(maxlen=HELD)
        self._held_since = 0  # everything after this is in them
        self._comparison: Comparison | None = None  # as a shadow
        self._told_at = 0
        self._away = (0, 0)  # what lies behind the first seq, up to the second, happened without this host

    @property
    def position(self) -> int:
        """Return seq of the last message taken."""
        if self.phase is Phase.PRESENTED:
            return 0
        return self._state_at if self._is_holding else self._inbox.position

    @property
    def wants_bus(self) -> bool:
        """Whether to be given what the bus brings; what is not taken waits in the socket."""
        return self.phase in (Phase.SYNCING, Phase.RUNNING)

    def on_control(self, message: object) -> None:
        """
        Hear the kernel.

        Raises: HandshakeRefused: it does not take this host. StoreError: there is no journal.
        """
        self.hear(message)
        match message:
            case control.Admitted():
                self._join(message)
            case control.Stop():
                self._is_stopping = True
                self.is_over = not self._is_ready or self._is_aside
            case control.StandBy():
                self._stand_by(message)
            case control.Shadow():
                self._begin_shadow()
            case control.ShadowOver():
                self._end_shadow()
            case control.Barrier() if not self._is_aside:
                self._step_aside(message.number)
            case control.Resume() if self._is_aside and message.number == self._handover:
                self._is_aside = False  # nobody has taken over: what is held is ours again
            case control.MoreState():
                self._send_part(message.number)
            case control.TakeOver() if self._is_aside and self._collect(message):
                self._take_over(message)

    def _join(self, admitted: control.Admitted) -> None:
        self._admitted, self._is_used = admitted, True
        self._journal = self._wires.open_journal(self._journal_path)
        prefixes = topics.prefixes([*self._bus.wanted_types, m.Sync, m.Canary])
        self._prefixes, self._own = tuple(prefixes), frozenset(admitted.origins.values())
        self._inbox = Inbox(prefixes, self._own, tseq=admitted.tseq)
        self._inbox.position = self._begin_at(admitted)
        self._wires.subscribe(prefixes)
        self.phase = Phase.SYNCING
        self._ask_for_marker()

    def _begin_at(self, admitted: control.Admitted) -> int:
        """Take the newest state, and the books of a time without this host; returns the seq of that."""
        state = self._restore_newest(self._journal)
        left, back = admitted.away
        # Without a state of its own it is as if it had never been there before.
        self._away = (left if state else 0), back
        position = state.position if state else 0
        if self._away[0] <= position < back:
            position = self._borrow(position, back)
        if position + 1 < self._journal.first() and (state is None or position < back):
            logger.warning("host.joined_late", head=admitted.head)
            position = admitted.head
        return position

    def _borrow(self, position: int, back: int) -> int:
        """
        Take the books from the newest state of another consumer, not behind *back*; they all keep the same.

        Returns: the seq of that state; *position* where none is newer than that.
        """
        others = [host for host in self._journal.hosts() if host not in (KERNEL, self.host)]
        stored = [found for host in others for found in self._journal.stored_checkpoints(host)[0]]
        for checkpoint in sorted(stored, key=lambda found: -found.position):
            if position < checkpoint.position <= back:
                state = control.decode_state(checkpoint.state)
                if state.position == checkpoint.position:  # a source's inputs have numbers of their own
                    self._bus.borrow(state.bus)
                    return checkpoint.position
        return position

    def _ask_for_marker(self) -> None:
        self._asked_at = self._wires.monotonic()
        self.send(control.SyncRequest(self.host))

    # --- Changing places ----------------------------------------------------------------------

    def _stand_by(self, message: control.StandBy) -> None:
        """Listen from here on; with a shadow to come, also to what this host publishes now."""
        self._is_aside = self._is_holding = True
        self._journal = self._wires.open_journal(self._journal_path)
        wanted: list[type[m.Message]] = [*self._bus.wanted_types, m.Sync, m.Canary]
        self._prefixes, self._own = tuple(topics.prefixes(wanted)), frozenset(message.origins.values())
        prefixes, own = topics.prefixes(wanted), self._own
        if message.with_shadow:
            self._is_wide = True
            self._comparison = Comparison(message.origins)
            prefixes = topics.prefixes([*wanted, *self._builder.publishes()])
            own = frozenset()
        self._inbox = Inbox(prefixes, own, message.head, message.tseq)
        self._away = message.away
        self._state_at = self._held_since = message.head
        self._wires.subscribe(prefixes)
        self.phase = Phase.SYNCING
        self._ask_for_marker()

    def _step_aside(self, number: int) -> None:
        """Stop here, hand over the state, and hold what comes from now on."""
        position = self.position
        if not self._is_holding:
            self._state_at = self._held_since = position
        self._is_aside = self._is_holding = True
        self._note(control.PROGRESS, control.Progress(self.host, position))
        self._hand_over(number, position, control.HostState(position, {}, self._bus.snapshot()))
        self.became(Lifecycle.STANDBY)

    def _hold(self, frame: codec.Frame) -> None:
        if len(self._held_frames) == HELD:
            self._held_since = self._held_frames[0].seq
        self._held_frames.append(frame)

    def _take_over(self, message: control.TakeOver) -> None:
        """Go on from a state: with what the journal has behind it, then with what is held."""
        try:
            state = self._adopt(message)
        except Exception as error:
            # Whatever it is, the other process has the state too, and goes on with it.
            why = str(error) if isinstance(error, StateRefused) else f"{type(error).__name__}: {error}"
            self.send(control.NotTaken(self.host, why))
            return
        if state is not None:
            self._state_at = message.position
        self._own = frozenset(self._admitted.origins.values())
        self._inbox.own(self._own)
        self._comparison = None
        self._is_ready = True
        self._reported = -1
        if self.phase is Phase.RUNNING:
            self._go_on()
        self.became(Lifecycle.ACTIVE)

    def _go_on(self) -> None:
        """Handle a burst of what lies between the state and the bus."""
        if self._state_at < self._held_since:
            self._fill()
        else:
            held = self._held_frames
            while held and held[0].seq <= self._state_at:
                self._held_since = held.popleft().seq
            for _ in range(min(HELD_BURST, len(held))):
                frame = held.popleft()
                self._held_since = self._state_at = frame.seq
                self._deal_with(frame)
            if held:
                self.wait_ns = 0
            self._is_holding = self._is_aside or bool(held) or self._inbox.position < self._state_at
        self._flush()

    def _fill(self) -> None:
        """Handle a burst of what came so long ago that it is no longer held."""
        before, frames = self._state_at, self._journal.frames(self._state_at, self._held_since)
        for count, raw in enumerate(frames, 1):
            if (seq := frame_seq(raw)) != self._state_at + 1:
                raise StoreError(f"the journal goes on with seq {seq} after {self._state_at}: it was pruned")
            self._state_at = seq
            if raw.startswith(self._inbox.prefixes):
                self._deal_with(codec.unpack(raw))
            if count == BURST:
                break
        self.wait_ns = COMMIT_WAIT_NS if self._state_at == before else 0

    def _deal_with(self, frame: codec.Frame) -> None:
        """Handle a frame that was held, or comes from the journal."""
        if frame.origin in self._own:
            if self._comparison is not None:
                self._comparison.published(frame)
        elif frame.topic.startswith(self._prefixes):
            self._handle_now(frame)

    # --- As a shadow --------------------------------------------------------------------------

    def _begin_shadow(self) -> None:
        """Begin at the last checkpoint, and do as the other does, in silence."""
        state = self._restore_newest(self._journal)
        self._is_used = True
        is_refused = state is None and any(self._journal.checkpoints(self.host))
        if is_refused or self._bus.failures:
            why = next(iter(self._bus.failures.items()), ("the host", "refused the state"))
            self.send(control.NotTaken(self.host, f"cannot follow the present process: {': '.join(why)}"))
            return
        self._state_at = state.position if state is not None else 0
        if self._comparison is not None:
            self._comparison.begin(self._state_at)

    def _end_shadow(self) -> None:
        """Be new again."""
        if self._comparison is not None:
            self._tell_comparison(self._comparison)
        self._comparison = None
        self._build()
        self._is_used = False
        self.send(control.StandingBy(self.host))

    def _is_told_long_ago(self) -> bool:
        return self._wires.monotonic() - self._told_at >= NS_PER_S

    def _tell_comparison(self, comparison: Comparison) -> None:
        self._told_at = self._wires.monotonic()
        self.send(comparison.report(self.host, self._state_at))

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        if self._comparison is None:
            super()._record(plugin, n, cause, message)
        else:
            self._comparison.would_publish(plugin, n, cause, codec.encode(message))

    @property
    def _has_work(self) -> bool:
        """Whether what is held is ours to handle, and not only to keep for later."""
        return not self._is_aside or (self._comparison is not None and self._comparison.is_running)

    # --- The bus ------------------------------------------------------------------------------

    def on_bus(self, run: bytes) -> None:
        """
        Take what one ZeroMQ message brings.

        Raises: CodecError. StoreError: something is missing that the journal no longer has.
        """
        if self.phase is Phase.RUNNING:
            self._take(run)
        elif (first := codec.unpack(codec.unpack_run(run)[0])).topic == _SYNC:
            self._go_back(first.seq - 1, run)

    def _take(self, run: bytes) -> bool:
        """Run the frames of *run*; False where others are missing before it and it must wait."""
        inbox = self._inbox
        frames = inbox.open(run)
        if isinstance(frames, Missing):
            logger.warning("host.fell_behind", after=frames.after, before=frames.before)
            self._go_back(frames.before - 1, run)
            return False
        receive, handle = inbox.receive, self._handle
        for raw in frames:
            frame = receive(raw)
            if isinstance(frame, Missing):
                raise StoreError(
                    f"seq {frame.before} does not follow {frame.after} on its topic, although nothing of "
                    "its kind is missing; restart from a checkpoint"
                )
            if frame is not None:
                handle(frame)
        return True

    def _handle(self, frame: codec.Frame) -> None:
        if self._is_holding:
            self._hold(frame)
        elif not self._is_wide or frame.topic.startswith(self._prefixes):
            self._handle_now(frame)

    def _handle_now(self, frame: codec.Frame) -> None:
        if frame.topic == _CANARY:
            self._answer(codec.decode(frame.body))
        elif self._away[0] < frame.seq <= self._away[1]:
            self._bus.keep_encoded(frame.body, frame.seq)
        else:
            self._bus.deliver_encoded(frame.body, frame.seq)

    def _answer(self, canary: Any) -> None:
        if not self._is_aside:
            self._note(control.CANARY, control.CanaryNote(self.host, canary.number))

    # --- The journal --------------------------------------------------------------------------

    def _go_back(self, target: int, held: bytes) -> None:
        """Take everything up to seq *target* from the journal before the run *held*."""
        self._target, self._held = target, held
        self.phase = Phase.CATCHING_UP

    def _catch_up(self) -> None:
        inbox, reached = self._inbox, self._inbox.position
        head = self._journal.head()  # before: what is committed while we read proves nothing
        for count, raw in enumerate(self._journal.frames(inbox.position, self._target), 1):
            if frame := inbox.refill(raw):
                self._handle(frame)
            if count % BURST == 0:
                self._flush()
            if count == BURST * CATCH_UP_BURSTS:
                return
        if inbox.position < self._target:
            if inbox.position == reached and head >= self._target:
                raise StoreError(
                    f"the journal has nothing from seq {reached + 1} to {self._target}: it was pruned; "
                    "restart from a checkpoint"
                )
            # The rest is not committed yet; ask again at once only where there was something.
            self.wait_ns = COMMIT_WAIT_NS if inbox.position == reached else 0
            return
        self.phase = Phase.RUNNING
        if not self._take(self._held):
            raise StoreError(
                f"the journal does not continue at seq {inbox.position}; restart from a checkpoint"
            )
        if not self._is_ready:
            self._is_ready = True
            role = control.Role.CONSUMER
            self.send(control.StandingBy(self.host) if self._is_aside else control.Ready(self.host, role))
            self.became(Lifecycle.STANDBY if self._is_aside else Lifecycle.ACTIVE)
            logger.info("host.started", host=self.host, position=inbox.position, plugins=self._bus.plugins)

    # --- Time ---------------------------------------------------------------------------------

    def advance(self, *, is_idle: bool = False) -> None:
        """
        Do what is due; called after everything that arrived, and after wait_ns at the latest.

        Args:
            is_idle: whether the bus has nothing more at the moment.
        """
        self.wait_ns = self._heartbeat_ns // 4
        match self.phase:
            case Phase.SYNCING if self._wires.monotonic() - self._asked_at >= SYNC_RETRY_NS:
                self._ask_for_marker()
            case Phase.SYNCING:
                self.wait_ns = SYNC_RETRY_NS
            case Phase.CATCHING_UP:
                self.wait_ns = 0
                self._catch_up()
        if self.phase is Phase.PRESENTED:
            return
        if self._is_holding and self.phase is Phase.RUNNING and self._has_work:
            self._go_on()
        self._flush()
        if self._is_ready and not self._is_aside and self._is_checkpoint_due():
            self._checkpoint()
        self.beat()
        if self._comparison and self._comparison.is_running and self._is_told_long_ago():
            self._tell_comparison(self._comparison)
        if self._is_stopping and is_idle and self.phase is Phase.RUNNING and not self._is_holding:
            self._finish()

    def _flush(self) -> None:
        now = self._wires.monotonic()
        if self.position != self._reported and not self._is_aside:
            if now - self._progress_at >= PROGRESS_NS:
                self._note(control.PROGRESS, control.Progress(self.host, self.position))
                self._progress_at, self._reported = now, self.position
            else:
                self.wait_ns = min(self.wait_ns, PROGRESS_NS)
        self._push()

    def _finish(self) -> None:
        """Everything that was in the socket is taken: write down the state."""
        self._note(control.PROGRESS, control.Progress(self.host, self.position))
        self._checkpoint()
        self.is_over = True
        self.became(Lifecycle.STOPPED)

    def _checkpoint(self) -> None:
        self._write_checkpoint(self.position, control.HostState(self.position, {}, self._bus.snapshot()))
