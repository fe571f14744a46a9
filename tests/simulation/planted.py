"""
Bugs planted by hand in the production code, and how many seeds the world takes to find each.

    python tests/simulation/planted.py [NAME...] [--bound 300] [--json]

Each is a plausible slip in one place: what a careless change would do. They are planted by
replacing a function while the seeds run; the world and its watch are not told.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator

import msgspec

from tickerml.kernel import (
    admission,
    changes,
    codec,
    consumer,
    floor,
    inlet,
    journal,
    machine,
    outlet,
    records,
    runs,
    sequencer,
    source,
    swap,
)
from tickerml.kernel import control as control_messages
from tickerml.kernel.gate import Gate
from tickerml.kernel.inbox import Inbox, Missing
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.testing import spec_of
from tickerml.plugins import sim_fifo
from tickerml.testing.simulate import run_seed

BOUND = 300

Plant = Callable[["Patches"], None]


class Patches:
    """Replaced functions, which are put back."""

    def __init__(self) -> None:
        self._before: list[tuple[object, str, object]] = []

    def set(self, owner: object, name: str, make: Callable[[object], object]) -> None:
        """Replace *name* of *owner* by what *make* makes of what is there."""
        self._before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, make(getattr(owner, name)))

    def undo(self) -> None:
        """Put everything back."""
        for owner, name, value in reversed(self._before):
            setattr(owner, name, value)


def lost_tail(patches: Patches) -> None:
    """A commit that failed is taken for done: its frames never reach the journal."""

    def make(fail):
        def forget(self, error):
            fail(self, error)
            self._held = []

        return forget

    patches.set(journal.JournalWriter, "_fail", make)


def short_recovery(patches: Patches) -> None:
    """Recovery stops one frame before the end of the log."""
    patches.set(runs, "roll_forward", lambda roll: lambda state, frames: roll(state, list(frames)[:-1]))


def repeated_output(patches: Patches) -> None:
    """Nobody recognises an output that is said again after a crash."""

    def make_accept(accept):
        def accept_everything(self, frames):
            for origin in self._origins:
                if origin is not self._kernel:
                    origin.cause = -1
            return accept(self, frames)

        return accept_everything

    def make_admit(admit):
        def admit_forgetting(*arguments, **options):
            return msgspec.structs.replace(admit(*arguments, **options), outputs={})

        return admit_forgetting

    patches.set(sequencer.Sequencer, "accept_all", make_accept)
    patches.set(admission, "admit", make_admit)


def unfilled_gap(patches: Patches) -> None:
    """What the bus dropped is not missed: the next frame is taken as if it followed."""

    def make_receive(receive):
        def take_anything(self, raw):
            frame = codec.unpack(raw)
            if frame.seq > self.position:
                self.tseq[frame.topic] = frame.tseq - 1
            return receive(self, raw)

        return take_anything

    def make_open(look):
        def open_anything(self, run):
            found = look(self, run)
            return codec.unpack_run(run) if isinstance(found, Missing) else found

        return open_anything

    patches.set(Inbox, "receive", make_receive)
    patches.set(Inbox, "open", make_open)
    patches.set(Inbox, "reconcile", lambda reconcile: lambda self, seq, counts: None)


def stale_epoch(patches: Patches) -> None:
    """What a process says at an epoch that is past is accepted."""

    def make(find):
        def find_route(self, frame, tag):
            _, _, number, epoch, _, _ = codec.split_output(frame)
            origin = self._origins[number]
            current, origin.epoch = origin.epoch, epoch
            try:
                return find(self, frame, tag)
            finally:
                origin.epoch = current

        return find_route

    patches.set(sequencer.Sequencer, "_find_route", make)


def unchecked_checkpoint(patches: Patches) -> None:
    """A checkpoint is loaded without a look at its digest."""

    def make(check):
        def check_records_alone(key, value, head):
            if head is not records._CHECKPOINT:
                check(key, value, head)

        return check_records_alone

    patches.set(records, "_check", make)


def timer_twice(patches: Patches) -> None:
    """A timer that was set before a restart fires twice after it."""

    def make(restore):
        def restore_twice(self, data, revived=()):
            restore(self, data, revived)
            self._timers = sorted(self._timers + self._timers[:1])

        return restore_twice

    patches.set(LocalBus, "restore", make)


def order_forgotten_by_gate(patches: Patches) -> None:
    """The gate loses an open order at a restart."""

    def make(restore):
        def restore_less(self, state):
            restore(self, state)
            if self._state.open:
                self._state.open.popitem()

        return restore_less

    patches.set(Gate, "restore", make)


def order_forgotten_by_simulator(patches: Patches) -> None:
    """The simulator loses what is on its way to an exchange at a restart."""

    def make(restore):
        def restore_less(self, state):
            restore(self, state)
            for lane in self._lanes.values():
                if lane.arrivals:
                    lane.arrivals.pop()

        return restore_less

    patches.set(spec_of(sim_fifo).factory, "restore", make)


def counted_too_early(patches: Patches) -> None:
    """What is queued for the disk is counted as committed."""

    def make(append):
        def append_and_count(self, frames, kept, checkpoints):
            append(self, frames, kept, checkpoints)
            if frames:
                self.committed = journal.frame_seq(frames[-1])

        return append_and_count

    patches.set(journal.JournalWriter, "append", make)


def answered_too_early(patches: Patches) -> None:
    """A command is acknowledged when it is published, not when it is on the disk."""

    def make(promise):
        def promise_at_once(self, identity, message):
            self._edges.reply(identity, control_messages.Done(self.announce(message)))

        return promise_at_once

    patches.set(outlet.Outlet, "promise", make)


def nothing_kept(patches: Patches) -> None:
    """The last decision of a batch is not kept for good."""
    patches.set(sequencer.Sequencer, "take_kept", lambda take: lambda self: take(self)[:-1])


def checkpoint_ahead(patches: Patches) -> None:
    """A checkpoint is committed before the frames it stands behind."""

    def make(append):
        def append_late(self, frames, kept, checkpoints):
            late = getattr(self, "_late", ([], []))
            if checkpoints:
                append(self, late[0], late[1], checkpoints)
                self._late = (frames, kept)
            else:
                append(self, late[0] + frames, late[1] + kept, checkpoints)
                self._late = ([], [])

        return append_late

    patches.set(journal.JournalWriter, "append", make)


def own_outputs_taken(patches: Patches) -> None:
    """A host takes its own outputs, when they come back on the bus, for inputs."""

    def make(init):
        def forget_own(self, prefixes, own=(), *arguments, **options):
            init(self, prefixes, (), *arguments, **options)

        return forget_own

    patches.set(Inbox, "__init__", make)


def lost_burst(patches: Patches) -> None:
    """A burst that was lost on the way in is not missed."""

    def make(take):
        def take_anything(self, burst):
            number_of_link, number, _ = codec.unpack_burst(burst)
            link = self._links.get(number_of_link)
            if link is not None and number > link.number:
                link.number = number - 1
            return take(self, burst)

        return take_anything

    patches.set(inlet.Inlet, "take", make)


def wrong_position(patches: Patches) -> None:
    """A checkpoint says that it stands one message later than it does."""

    def make(write):
        def write_ahead(self, at, state):
            if state.position:
                state = msgspec.structs.replace(state, position=state.position + 1)
                at += 1
            return write(self, at, state)

        return write_ahead

    patches.set(machine.Machine, "_write_checkpoint", make)


def forgotten_outputs(patches: Patches) -> None:
    """A recovered kernel does not know what was said since its checkpoint."""

    def make(roll):
        def roll_forgetting(state, frames):
            rolled = roll(state, frames)
            rolled.outputs = {}
            return rolled

        return roll_forgetting

    patches.set(runs, "roll_forward", make)


def told_of_the_past(patches: Patches) -> None:
    """Who is new to a run, or comes back to it, is told what happened without it."""

    def make(begin_at):
        def begin_at_and_forget(self, admitted):
            position = begin_at(self, admitted)
            self._away = (0, 0)
            return position

        return begin_at_and_forget

    patches.set(consumer.Consumer, "_begin_at", make)


def books_of_before_left_out(patches: Patches) -> None:
    """Who is new to a run takes no books of before."""

    def make(borrow):
        return lambda self, position, back: max(position, back)

    patches.set(consumer.Consumer, "_borrow", make)


# --- In a swap ------------------------------------------------------------------------------------


def no_fence(patches: Patches) -> None:
    """The epoch of the one before is not past when another takes over."""

    def make(admit):
        def admit_again(self, process, present):
            origins = self._kernel.sequencer._origins
            before = [origin.epoch for origin in origins]
            admitted = admit(self, process, present)
            for origin, epoch in zip(origins, before, strict=False):
                origin.epoch = epoch
            epochs = {name: origins[number].epoch for name, number in admitted.origins.items()}
            return msgspec.structs.replace(admitted, epochs=epochs)

        return admit_again

    patches.set(floor.Floor, "admit", make)


def state_said_to_be_later(patches: Patches) -> None:
    """The state that is handed over says that it stands one message later than it does."""

    def make(hand_over):
        def hand_over_ahead(self, number, position, state):
            hand_over(self, number, position + 1, state)

        return hand_over_ahead

    patches.set(machine.Machine, "_hand_over", make)


def state_before_the_last_input(patches: Patches) -> None:
    """Who goes on from a state forgets the first message behind it."""

    def make(take_over):
        def take_over_late(self, message):
            take_over(self, message)
            self._state_at += 1

        return take_over_late

    patches.set(consumer.Consumer, "_take_over", make)


def nothing_held(patches: Patches) -> None:
    """One who stands by does not keep what it hears."""
    patches.set(consumer.Consumer, "_hold", lambda hold: lambda self, frame: None)


def forgotten_on_resuming(patches: Patches) -> None:
    """One who goes on because nobody has taken over does not go back to what came meanwhile."""

    def make(hear):
        def hear_and_forget(self, message):
            hear(self, message)
            if isinstance(message, control_messages.Resume) and not self._is_aside:
                self._held_frames.clear()
                self._held_since = self._state_at = self._inbox.position

        return hear_and_forget

    patches.set(consumer.Consumer, "on_control", make)


def eaten_by_the_shadow(patches: Patches) -> None:
    """What a shadow has handled is taken for held still."""

    def make(go_on):
        def go_on_as_if_held(self):
            since = self._held_since
            go_on(self)
            if self._comparison is not None:
                self._held_since = since

        return go_on_as_if_held

    patches.set(consumer.Consumer, "_go_on", make)


def states_of_two_versions(patches: Patches) -> None:
    """What is on trial writes checkpoints that the one before it cannot read."""
    patches.set(changes.Changes, "withholds", lambda withholds: lambda self, host, writer, plan: False)


def state_not_stored(patches: Patches) -> None:
    """The state that another process goes on from is not put into the journal."""
    patches.set(floor.Floor, "add_checkpoint", lambda add: lambda self, checkpoint: None)


def failure_on_trial_published(patches: Patches) -> None:
    """A plugin that raises on trial is set aside, and the world is told, before the other goes on."""

    patches.set(machine.Machine, "_fail_on_trial", lambda fail: lambda self, why: None)


def place_not_free(patches: Patches) -> None:
    """A candidate is started in the place of a process that has not left it yet."""
    patches.set(floor.Floor, "is_there", lambda is_there: lambda self, process: False)


def waiting_event_lost(patches: Patches) -> None:
    """An event that waits for its time when its source is replaced is not handed over."""

    def make(state_of):
        def state_without(self):
            state = state_of(self)
            return msgspec.structs.replace(state, pulled={}) if self._players else state

        return state_without

    patches.set(source.Source, "_state", make)


def plan_kept_after_all(patches: Patches) -> None:
    """After a change was rolled back, what was to run runs on in the plan."""

    def make(fail):
        def fail_halfway(self, change, reason, now):
            old, change.old = change.old, change.new
            try:
                fail(self, change, reason, now)
            finally:
                change.old = old

        return fail_halfway

    patches.set(changes.Changes, "_fail", make)


def one_too_many(patches: Patches) -> None:
    """Nobody asks the process that was replaced to leave, or sees to it that it does."""

    def make(make_permanent):
        def make_half_permanent(self, now):
            tell = self._floor.tell
            self._floor.tell = lambda process, message: None
            make_permanent(self, now)
            del self._floor.tell
            assert self._floor.tell == tell

        return make_half_permanent

    patches.set(swap.Swap, "make_permanent", make)
    patches.set(swap.Swap, "clear", lambda clear: lambda self: None)


def permanent_too_early(patches: Patches) -> None:
    """The next kernel is to run a change whose states are not on the disk yet."""
    patches.set(floor.Floor, "committed", lambda committed: lambda self: self.head())


PLANTS: dict[str, Plant] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        lost_tail,
        short_recovery,
        repeated_output,
        unfilled_gap,
        stale_epoch,
        unchecked_checkpoint,
        timer_twice,
        order_forgotten_by_gate,
        order_forgotten_by_simulator,
        counted_too_early,
        answered_too_early,
        nothing_kept,
        checkpoint_ahead,
        own_outputs_taken,
        lost_burst,
        wrong_position,
        forgotten_outputs,
        told_of_the_past,
        books_of_before_left_out,
        no_fence,
        state_said_to_be_later,
        state_before_the_last_input,
        nothing_held,
        forgotten_on_resuming,
        eaten_by_the_shadow,
        states_of_two_versions,
        state_not_stored,
        failure_on_trial_published,
        place_not_free,
        waiting_event_lost,
        plan_kept_after_all,
        one_too_many,
        permanent_too_early,
    )
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Have the bug *name* in the production code for a while."""
    patches = Patches()
    try:
        PLANTS[name](patches)
        yield
    finally:
        patches.undo()


def seeds_until_found(name: str, *, bound: int = BOUND, first: int = 0) -> tuple[int, str]:
    """Return (how many seeds it took, what was violated); (0, "") when *bound* seeds did not find it."""
    for count in range(1, bound + 1):
        seed = first + count - 1
        with planted(name):
            outcome = run_seed(seed)
        # A seed that fails without the bug as well has not found it.
        if not outcome.is_green and run_seed(seed).is_green:
            return count, outcome.violation
    return 0, ""


def main(arguments: list[str]) -> int:
    """Plant each bug and tell how long it stayed hidden; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("names", nargs="*", help="which bugs; all by default")
    parser.add_argument("--bound", type=int, default=BOUND, help="seeds after which a bug counts as missed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    found = {}
    for name in options.names or PLANTS:
        seeds, violation = seeds_until_found(name, bound=options.bound)
        found[name] = {"seeds": seeds or None, "violation": violation}
        if not options.json:
            print(f"{name:<30} {seeds or 'never':>6}  {violation[:140]}", flush=True)
    if options.json:
        print(json.dumps(found))
    return 0 if all(entry["seeds"] for entry in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
