"""
What is stamped goes out on the bus and to the journal, and promises wait for the disk. Sans-IO.

Publishing does not wait: the journal is always a prefix of what happened. An answer
to a person or to another machine does: it goes out when what it promises is on disk.
"""

from typing import Any, Protocol

from . import codec, control
from . import messages as m
from .journal import Checkpoint, JournalWriter
from .lag import Lag
from .sequencer import KERNEL, Run, Sequencer

_FOR_ALL = (m.Sync, m.Canary)  # what every consumer takes, whatever else it listens to


class Edges(Protocol):
    """What the outlet needs of the world."""

    def monotonic(self) -> int:
        """Return ns that never go back."""

    def publish(self, message: bytes) -> None:
        """Send one ZeroMQ message out on the bus."""

    def reply(self, identity: bytes, message: Any) -> None:
        """Send a control message to a peer, which may be gone."""


class Outlet:
    """The sequencer's way out."""

    def __init__(self, sequencer: Sequencer, writer: JournalWriter, edges: Edges) -> None:
        self.lag = Lag()
        self._sequencer = sequencer
        self._writer = writer
        self._edges = edges
        self._batch: list[bytes] = []
        self._checkpoints: list[Checkpoint] = []
        self._acks: list[tuple[int, bytes]] = []
        self._is_awaited = False  # whether somebody waits until the disk has what is not handed over yet

    def publish(self, stamped: list[bytes], runs: list[Run]) -> None:
        """Send out what the sequencer has stamped; *runs* are the same frames by topic."""
        self._batch += stamped
        send = self._edges.publish
        for run in runs:
            send(codec.pack_run(*run))

    def announce(self, message: m.Message) -> int:
        """Say *message* as the kernel; returns its seq."""
        frame = self._sequencer.announce(message)
        if isinstance(message, m.Sync):
            self._is_awaited = True  # whoever asked for the marker reads in the journal what is before it
        if isinstance(message, _FOR_ALL):
            self.lag.note(self._sequencer.seq, self._edges.monotonic())
        at = frame.index(0) + 1
        self.publish([frame], [(frame[:at], self._sequencer.kind_counts, [frame[at:]])])
        return self._sequencer.seq

    def promise(self, identity: bytes, message: m.Message) -> None:
        """Say *message* as the kernel; its answer goes out when it is on disk."""
        if self._writer.error is not None:
            self._edges.reply(identity, control.Refused(str(self._writer.error)))
            return
        self._acks.append((self.announce(message), identity))
        self._is_awaited = True

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Hand *checkpoint* over with the frames it stands behind."""
        self._checkpoints.append(checkpoint)

    def add_own_checkpoint(self) -> None:
        """Write down the sequencer's state; recovery rolls it forward over the log behind it."""
        self.add_checkpoint(Checkpoint(KERNEL, self._sequencer.seq, self._sequencer.to_bytes()))

    def hand_over(self) -> None:
        """Give the journal what has been stamped since the last time, and answer what it has committed."""
        if self._batch or self._checkpoints:
            self._writer.append(self._batch, self._sequencer.take_kept(), self._checkpoints)
            self._batch, self._checkpoints = [], []
            if self._is_awaited:
                self._writer.hurry()
                self._is_awaited = False
        if self._acks and (self._writer.committed >= self._acks[0][0] or self._writer.error):
            self.settle()

    def settle(self) -> None:
        """Answer those whose request is on disk, and with a no, when the journal fails, the others."""
        error, committed = self._writer.error, self._writer.committed
        for seq, identity in self._acks:
            if seq <= committed:
                self._edges.reply(identity, control.Done(seq))
            elif error is not None:
                why = f"seq {seq} is published but not on disk, and lost if the kernel ends now: {error}"
                self._edges.reply(identity, control.Refused(why))
        self._acks = [ack for ack in self._acks if error is None and ack[0] > committed]
