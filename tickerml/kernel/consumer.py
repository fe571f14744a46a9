"""
A host that takes the bus in order: each message run to completion through its LocalBus. Sans-IO.

It is a function of its inputs. So after a crash it restores its last checkpoint,
reads what it missed from the journal, and says again what the kernel may not have
heard, which the kernel recognises.

It subscribes first and asks for a marker; when the marker comes the subscription is
proven, and everything before it is taken from the journal, whatever has been
published since. The same happens whenever the bus has dropped something: what is
missing is read from the journal, waiting for its commit, before anything later.
"""

import enum
from typing import Any

import structlog

from . import codec, control, topics
from . import messages as m
from .errors import StoreError
from .inbox import Inbox, Missing
from .journal import JournalReader
from .machine import BURST, PROGRESS_NS, Machine, Wires
from .units import NS_PER_MS

SYNC_RETRY_NS = 200 * NS_PER_MS  # a marker asked for before the subscription worked never comes
COMMIT_WAIT_NS = 2 * NS_PER_MS  # between two looks for what the journal has not committed yet
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

    @property
    def position(self) -> int:
        """Return seq of the last message taken."""
        return self._inbox.position if self.phase is not Phase.PRESENTED else 0

    @property
    def wants_bus(self) -> bool:
        """Whether to be given what the bus brings; what is not taken waits in the socket."""
        return self.phase in (Phase.SYNCING, Phase.RUNNING)

    def on_control(self, message: object) -> None:
        """
        Hear the kernel.

        Raises: HandshakeRefused: it does not take this host. StoreError: there is no journal.
        """
        self.check(message)
        match message:
            case control.Admitted():
                self._join(message)
            case control.Stop():
                self._is_stopping = True
                self.is_over = not self._is_ready

    def _join(self, admitted: control.Admitted) -> None:
        self._admitted = admitted
        self._journal = self._wires.open_journal(self._journal_path)
        prefixes = topics.prefixes([*self._bus.wanted_types, m.Sync, m.Canary])
        self._inbox = Inbox(prefixes, admitted.origins.values(), tseq=admitted.tseq)
        if state := self._restore_newest(self._journal):
            self._inbox.position = state.position
        elif self._journal.first() > 1:
            # The beginning has been pruned: this host is new to an old run and joins it here.
            logger.warning("host.joined_late", head=admitted.head)
            self._inbox.position = admitted.head
        self._wires.subscribe(prefixes)
        self.phase = Phase.SYNCING
        self._ask_for_marker()

    def _ask_for_marker(self) -> None:
        self._asked_at = self._wires.monotonic()
        self.send(control.SyncRequest(self.host))

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
        if frame.topic == _CANARY:
            self._answer(codec.decode(frame.body))
        else:
            self._bus.deliver_encoded(frame.body, frame.seq)

    def _answer(self, canary: Any) -> None:
        self._note(control.CANARY, control.CanaryNote(self.host, canary.number))

    # --- The journal --------------------------------------------------------------------------

    def _go_back(self, target: int, held: bytes) -> None:
        """Take everything up to seq *target* from the journal before the run *held*."""
        self._target, self._held = target, held
        self.phase = Phase.CATCHING_UP

    def _catch_up(self) -> None:
        inbox, reached = self._inbox, self._inbox.position
        for count, raw in enumerate(self._journal.frames(inbox.position, self._target), 1):
            if frame := inbox.refill(raw):
                self._handle(frame)
            if count % BURST == 0:
                self._flush()
            if count == BURST * CATCH_UP_BURSTS:
                return
        if inbox.position < self._target:
            if inbox.position == reached and self._journal.head() >= self._target:
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
            self.send(control.Ready(self.host, control.Role.CONSUMER))
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
        self._flush()
        if self._is_ready and self._is_checkpoint_due():
            self._checkpoint()
        self.beat()
        if self._is_stopping and is_idle and self.phase is Phase.RUNNING:
            self._finish()

    def _flush(self) -> None:
        now = self._wires.monotonic()
        if self.position != self._reported:
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

    def _checkpoint(self) -> None:
        self._write_checkpoint(self.position, control.HostState(self.position, {}, self._bus.snapshot()))
