"""What the simulated world has found in changes: who is on trial, who lingers, whose state is of use."""

import msgspec
import pytest

from tickerml.kernel import BookSnapshot, PluginFailed, codec, control
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.units import NS_PER_S

from .edges import CLIENT, JOURNAL, TOKEN, planned
from .test_changes import SPARE, STATE, Stage
from .test_consumer import FEATURES, Kernel, admit, bids, both, hand_over, standing_by
from .test_source import source
from .wires import PLUGINS, ListWires

FALLS_SILENT = control.NotTaken("rules", "rule-x failed at on_book: no")


def checkpoints(stage, host="rules"):
    stage.world.kernel.hand_over()
    stage.world.commit()
    journal = JournalReader(JOURNAL, opener=stage.world.disk.open)
    states = [checkpoint.state for checkpoint in journal.checkpoints(host)]
    journal.close()
    return states


def write(stage, process, state):
    note = control.HostCheckpoint("rules", stage.world.kernel.sequencer.seq, state)
    stage.world.push(process, control.CHECKPOINT + msgspec.msgpack.encode(note))


def restated(stage):
    plan = stage.plan()
    plugins = [
        msgspec.structs.replace(entry, state_version=2) if entry.id == "rule-x" else entry
        for entry in plan.plugins
    ]
    return msgspec.structs.replace(plan, plugins=plugins)


# --- The kernel -----------------------------------------------------------------------------------


def test_one_that_falls_silent_on_trial_leaves_the_other_its_own_state():
    stage = Stage()
    stage.take_over()

    stage.world.say(SPARE.encode(), FALLS_SILENT)
    back = stage.world.last(b"rules", control.TakeOver)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert (back.parts, back.is_trial) == (0, False)
    assert stage.outcome() == ("rolled back", "probation")
    assert "rule-x failed" in stage.change["error"]


def test_the_trial_is_over_when_it_is_permanent():
    stage = Stage(probation_s=0.0)
    stage.take_over()
    is_trial = stage.world.last(SPARE.encode(), control.TakeOver).is_trial

    stage.settle()

    assert is_trial
    assert stage.outcome() == ("permanent", "")
    assert stage.is_told(SPARE, control.Permanent)


def test_one_that_fell_silent_before_it_heard_that_its_trial_is_over_is_started_again():
    stage = Stage(probation_s=0.0)
    stage.take_over()
    stage.settle()

    stage.world.say(SPARE.encode(), FALLS_SILENT)

    assert (SPARE, FALLS_SILENT.reason) in stage.world.killed


def test_a_candidate_waits_until_the_one_that_was_replaced_has_left_its_place():
    stage = Stage(probation_s=0.0)
    stage.take_over()
    stage.settle()
    stage.ask(stage.plan(level=3))
    before = stage.world.spawned.count("rules")

    stage.exit("rules")

    assert "rules" in {process for process, _ in stage.world.killed}
    assert before == 1
    assert stage.world.spawned.count("rules") == 2
    assert stage.change["step"] == "starting"


def test_the_next_change_ends_whoever_lingers_of_the_last_one():
    stage = Stage(probation_s=0.0)
    stage.take_over()
    stage.settle()

    stage.ask(reload=["archive"])

    assert "rules" in {process for process, _ in stage.world.killed}


def test_a_change_that_is_being_rolled_back_is_not_cancelled_once_more():
    stage = Stage()
    stage.take_over()
    stage.world.say(CLIENT, control.CancelRequest("no"))

    stage.world.say(CLIENT, control.CancelRequest("no, really"))

    assert "already: no" in stage.world.last(CLIENT, control.Refused).reason
    assert stage.change["error"] == "no"


def test_the_end_of_the_run_makes_no_states_permanent_that_the_next_one_cannot_read():
    stage = Stage()
    plan = restated(stage)
    stage.plan = lambda **options: plan
    stage.take_over()
    stage.world.say(CLIENT, control.ShutdownRequest("enough"))
    stage.world.kernel.tick()

    write(stage, SPARE, b"version 2")

    assert checkpoints(stage) == [STATE]


def test_a_host_that_is_started_anew_with_another_state_is_on_probation_too():
    stage = Stage()
    stage.exit("rules")
    stage.ask(restated(stage))
    stage.pass_time(NS_PER_S)
    stage.world.start("rules")
    stage.world.kernel.tick()
    write(stage, "rules", b"version 2")
    during = checkpoints(stage)
    stage.world.say(CLIENT, control.SettleRequest())
    stage.world.kernel.tick()
    write(stage, "rules", b"version 2")

    assert stage.outcome() == ("permanent", "")
    assert (during, checkpoints(stage)) == ([], [b"version 2"])


def test_a_host_that_is_new_goes_when_the_run_ends_before_it_is_wanted_for_good():
    stage = Stage()
    plan = stage.plan()
    stage.ask(msgspec.structs.replace(plan, plugins=[*plan.plugins, planned("store-y", "store", "more")]))
    hello = control.Hello("more", stage.world.pids["more"], TOKEN, control.PROTOCOL, codec.schema_hash())
    stage.world.say(b"more", hello)

    stage.world.say(CLIENT, control.ShutdownRequest("enough"))
    stage.world.kernel.tick()

    assert stage.is_told("more", control.Stop)


# --- The process on trial -------------------------------------------------------------------------


def raise_at(machine, message_type, monkeypatch):
    """Have the features of *machine* raise at the next message of *message_type*."""

    def fail(self, message, cause):
        if isinstance(message, message_type):
            self.fail(FEATURES, "on_book", RuntimeError("no"))
            self._run(self._take(self._slots.values()), cause)
        return deliver(self, message, cause)

    deliver = LocalBus.deliver
    monkeypatch.setattr(LocalBus, "deliver", fail)


@pytest.mark.parametrize("is_trial", [True, False])
def test_a_plugin_that_raises_on_trial_is_not_set_aside_but_gives_its_place_back(is_trial, monkeypatch):
    kernel = Kernel()
    old, new, wires = standing_by(kernel)
    old.on_control(control.Barrier(1))
    (part,) = kernel.wires.notes(control.STATE, control.StatePart)
    new.on_control(control.TakeOver(part.position, 0, 1, part.data, admit(kernel), True, is_trial=True))
    if not is_trial:
        new.on_control(control.Permanent())
    raise_at(new, BookSnapshot, monkeypatch)
    wires.take()

    both(kernel.book(), new)

    frames = [frame for frame in wires.take() if not frame.startswith(b"\0")]
    assert any(PluginFailed.__name__.encode() in frame for frame in frames) is not is_trial
    told = [message for message in wires.said if isinstance(message, control.NotTaken)]
    assert told == ([control.NotTaken("trade", f"{FEATURES} failed at on_book: RuntimeError: no")] * is_trial)


def test_what_a_shadow_has_handled_is_still_there_for_the_state_that_is_behind_it():
    kernel = Kernel()
    old, new, wires = standing_by(kernel, with_shadow=True)
    new.on_control(control.Shadow())
    new.advance()
    ahead = kernel.book()
    both(ahead, new)  # the shadow is ahead of the one whom it follows
    new.on_control(control.ShadowOver())

    hand_over(kernel, old, new, wires)
    for _ in range(3):
        new.advance()

    assert bids(new) == 1


def test_a_source_that_raises_on_trial_gives_its_place_back(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS)
    wires = ListWires()
    machine = source(wires)
    machine._is_on_trial = True
    wires.take()

    machine.fail(machine._bus.plugins[0], RuntimeError("no"))
    machine.advance()

    assert isinstance(wires.said[-1], control.NotTaken)
    assert wires.pushed == []
