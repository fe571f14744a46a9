"""A trainer in its host: step by step, resumed where it was, and never shown the quarantine."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from tickerml.kernel import ModelTrained, TrainingReported, codec, control
from tickerml.kernel.dataset import QUARANTINE_NS
from tickerml.kernel.journal import Checkpoint
from tickerml.kernel.source import Source
from tickerml.kernel.units import NS_PER_S

from .earlier_runs import NOW, trade, write_run
from .wires import PLUGINS, ListJournal, ListWires, admitted, planned, welcome

TINY = "tiny-trainer"
CUT = NOW - QUARANTINE_NS


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with an earlier run: 25 trades that may be seen, and one that may not between them."""
    monkeypatch.syspath_prepend(PLUGINS)
    good = [trade(CUT - 100 + number, price=number) for number in range(25)]
    write_run(tmp_path, "pi/0001", 0, *good[:9], trade(CUT, price=10**9), *good[9:])
    return tmp_path


def trainer(home, wires, **options):
    plugin = planned(TINY, "trainer", "tiny_trainer", batch=10, **options)
    told = msgspec.structs.replace(
        welcome(plugin, speed="1", clock="wall", checkpoint_s=10),
        home=str(home),
        run_dir=str(home / "runs" / "pi" / "0002"),
        started_ns=NOW,
    )
    machine = Source("train", wires, told)
    machine.begin()
    machine.on_control(admitted(TINY))
    machine.on_control(control.Start())
    return machine


def outputs(wires):
    return [
        codec.decode(raw[codec.split_output(raw)[1] + codec.NAME.size :])
        for raw in wires.take()
        if not raw.startswith(b"\0")
    ]


def test_reports_every_step_and_ends_with_a_model_of_what_it_may_see(home):
    wires = ListWires()
    wires.now = NOW
    machine = trainer(home, wires)

    machine.advance()

    *reports, model = outputs(wires)
    assert [(each.step, each.metrics) for each in reports] == [
        (1, {"trades": 10.0}),
        (2, {"trades": 20.0}),
        (3, {"trades": 25.0}),
    ]
    assert {type(each) for each in reports} == {TrainingReported}
    assert isinstance(model, ModelTrained)
    assert model.metrics == {"BTC/USDT": 12.0}
    assert hashlib.sha256(Path(model.path).read_bytes()).hexdigest() == model.sha256
    assert model.ts_recv >= NOW


def test_gives_a_sign_of_life_between_long_steps(home):
    class Ageing(ListWires):
        def monotonic(self):
            self.now += NS_PER_S // 10
            return self.now

    wires = Ageing()
    machine = trainer(home, wires)

    machine.advance()

    assert [type(each) for each in outputs(wires)] == [TrainingReported]
    assert machine.wait_ns == 0


def test_resumes_after_a_crash_where_its_checkpoint_was(home):
    undisturbed = ListWires()
    trainer(home, undisturbed).advance()
    wires = ListWires()
    crashing = trainer(home, wires, steps=2)
    crashing.advance()
    crashing._checkpoint()
    note = wires.notes(control.CHECKPOINT, control.HostCheckpoint)[-1]
    state = msgspec.msgpack.decode(note.state, type=control.HostState)
    assert state.causes == {TINY: 3}

    again = ListWires(ListJournal())
    again.journal.written = [Checkpoint(note.host, note.position, note.state)]
    trainer(home, again).advance()

    assert outputs(again) == []  # it was done, and stays so
    assert [type(each) for each in outputs(undisturbed)] == [TrainingReported] * 3 + [ModelTrained]


def test_stops_in_the_middle_and_goes_on_from_there(home):
    class Ageing(ListWires):
        def monotonic(self):
            self.now += NS_PER_S // 10
            return self.now

    wires = Ageing()
    stopping = trainer(home, wires)
    stopping.advance()
    stopping.on_control(control.Stop())
    stopping.advance()
    note = wires.notes(control.CHECKPOINT, control.HostCheckpoint)[-1]
    first = outputs(wires)

    again = ListWires(ListJournal())
    again.journal.written = [Checkpoint(note.host, note.position, note.state)]
    trainer(home, again).advance()
    *reports, model = first + outputs(again)

    assert stopping.is_over
    assert [each.step for each in reports] == [1, 2, 3]
    assert model.metrics == {"BTC/USDT": 12.0}
