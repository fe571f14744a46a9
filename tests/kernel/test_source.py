"""A source plays what is due, and a crash neither loses nor repeats an event."""

import msgspec
import pytest

from tickerml.kernel import (
    BookSnapshot,
    FeedConnected,
    FeedSummarized,
    HandshakeRefused,
    PluginFailed,
    Side,
    TimeTick,
    Trade,
    codec,
    control,
)
from tickerml.kernel.journal import Checkpoint
from tickerml.kernel.source import Source, _Player
from tickerml.kernel.units import NS_PER_MS, NS_PER_S

from .wires import PLUGINS, ListJournal, ListWires, admitted, planned, welcome

FRAME_NS = 50 * NS_PER_MS
TINY = "tiny-source"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS)


def source(wires, *, speed="max", outputs=None, started=True, **options):
    """Return a source with the tiny market, admitted and let go."""
    plugin = planned(TINY, "exchange", "tiny_source", **options)
    machine = Source("market", wires, welcome(plugin, speed=speed, clock="data", checkpoint_s=10))
    machine.begin()
    machine.on_control(admitted(TINY, outputs=outputs))
    if started:
        machine.on_control(control.Start())
    return machine


def outputs(wires):
    """Return the messages pushed since the last time, with (cause, n)."""
    found = []
    for raw in wires.take():
        if not raw.startswith(b"\0"):
            _, at, _, _, n, cause = codec.split_output(raw)
            found.append((cause, n, codec.decode(raw[at + codec.NAME.size :])))
    return found


def last_checkpoint(wires):
    note = wires.notes(control.CHECKPOINT, control.HostCheckpoint)[-1]
    return Checkpoint(note.host, note.position, note.state)


def run(machine, times):
    for _ in range(times):
        machine.advance()


def test_nothing_is_played_before_everybody_is_ready():
    wires = ListWires()
    machine = source(wires, started=False)

    run(machine, 3)

    assert wires.pushed == []
    assert [type(message) for message in wires.said] == [control.Present, control.Ready]


def test_at_full_speed_everything_is_played_and_every_burst_is_numbered():
    wires = ListWires()
    machine = source(wires, frames=600)

    run(machine, 10)

    assert [link for link, _ in wires.numbers] == [7] * len(wires.numbers)
    assert [number for _, number in wires.numbers] == list(range(1, len(wires.numbers) + 1))
    causes = [cause for cause, _, _ in outputs(wires)]
    assert sorted(set(causes)) == list(range(1, 602))


def test_an_event_waits_for_its_time():
    wires = ListWires()
    machine = source(wires, speed="2")
    machine.advance()
    first = outputs(wires)

    wires.now += FRAME_NS // 2 - NS_PER_MS
    machine.advance()
    early = outputs(wires)
    wait_ns = machine.wait_ns
    wires.now += NS_PER_MS
    machine.advance()

    assert {cause for cause, _, _ in first} == {1}
    assert early == []
    assert wait_ns == NS_PER_MS
    assert {cause for cause, _, _ in outputs(wires)} == {2}


def test_a_paused_source_plays_nothing_until_it_may_proceed():
    wires = ListWires()
    machine = source(wires)
    machine.on_control(control.Pause())
    run(machine, 3)
    paused = wires.take()

    machine.on_control(control.Proceed())
    machine.advance()

    assert paused == []
    assert outputs(wires)


@pytest.mark.parametrize("waited_ns", [0, 10 * NS_PER_MS, 130 * NS_PER_MS])
def test_an_event_that_waited_for_its_time_is_in_the_checkpoint(waited_ns):
    undisturbed = ListWires()
    run(source(undisturbed, frames=20), 10)
    wires = ListWires()
    machine = source(wires, speed="1", frames=20)
    machine.advance()
    wires.now = waited_ns
    machine.advance()
    machine.on_control(control.Stop())
    machine.advance()
    checkpoint = last_checkpoint(wires)
    heard = outputs(wires)

    journal = ListJournal()
    journal.written = [checkpoint]
    last = max((cause, n) for cause, n, _ in heard)
    again = ListWires(journal)
    run(source(again, frames=20, outputs={TINY: last}), 10)

    said = [each for each in heard + outputs(again) if not isinstance(each[2], FeedSummarized)]
    assert said == [each for each in outputs(undisturbed) if not isinstance(each[2], FeedSummarized)]


def test_what_the_kernel_has_already_is_not_said_again():
    wires = ListWires()

    run(source(wires, frames=20, outputs={TINY: (5, 0)}), 10)

    first = outputs(wires)[0]
    assert first[:2] == (5, 1)


def test_a_source_that_raises_says_so_and_plays_no_more():
    wires = ListWires()

    run(source(wires, frames=20, fails_at=7), 5)

    said = [message for _, _, message in outputs(wires)]
    assert isinstance(said[-1], PluginFailed)
    assert "the wire was cut" in said[-1].error
    assert sum(isinstance(message, BookSnapshot) for message in said) == 7


def test_the_canary_follows_what_was_pushed_before_it():
    wires = ListWires()
    machine = source(wires)
    machine.advance()

    machine.on_control(control.Canary(4))

    assert wires.pushed[-1] == control.CANARY + msgspec.msgpack.encode(control.CanaryNote("market", 4))


def test_a_stop_leaves_a_last_word_and_a_checkpoint():
    wires = ListWires()
    machine = source(wires, speed="1")
    machine.advance()

    machine.on_control(control.Stop())
    machine.advance()

    assert machine.is_over
    assert last_checkpoint(wires).position == 1
    assert isinstance(outputs(wires)[-1][2], FeedSummarized)


def test_a_stop_before_it_is_admitted_leaves_nothing():
    wires = ListWires()
    machine = Source("market", wires, welcome(planned(TINY, "exchange", "tiny_source")))

    machine.on_control(control.Stop())
    machine.advance()

    assert machine.is_over
    assert wires.pushed == []


def test_it_gives_a_sign_of_life_while_nothing_is_due():
    wires = ListWires()
    machine = source(wires, speed="1")
    machine.advance()
    wires.said.clear()

    wires.now += NS_PER_S // 2
    machine.advance()

    assert wires.said == [control.Beat("market", [])]


def test_a_refusal_ends_it():
    machine = Source("market", ListWires(), welcome(planned(TINY, "exchange", "tiny_source")))

    with pytest.raises(HandshakeRefused, match="no room"):
        machine.on_control(control.Refused("no room"))


class Skipping:
    """A source that stands still while we are away, and says one thing at its end."""

    def __init__(self, *left):
        self.left = list(left)
        self.skipped_to = 0

    def skip_to(self, ts):
        self.skipped_to = ts

    def events(self):
        while self.left:
            yield self.left.pop(0)


@pytest.mark.parametrize(("left", "expected"), [((), "pulled"), (((9, ["next"]),), "next")])
def test_what_was_pulled_before_an_outage_is_over_unless_it_was_the_last(left, expected):
    pulled = control.Pulled(5, [codec.encode(TimeTick(5))])
    player = _Player(TINY, Skipping(*left).events(), 1, 1.0, pulled, is_skipping=True)

    player.due_in(0, 1)

    assert player.take() == ([TimeTick(5)] if expected == "pulled" else ["next"])
    with pytest.raises(StopIteration):
        player.due_in(0, 1)


# --- Changing places ------------------------------------------------------------------------------


def standing_by(**options):
    """Return a second process of the host that waits for a state, and its wires."""
    wires = ListWires()
    plugin = planned(TINY, "exchange", "tiny_source", **options)
    machine = Source("market", wires, welcome(plugin, speed=options.pop("speed", "max"), clock="data"))
    machine.begin()
    machine.on_control(control.StandBy({TINY: 1}, 0, {}, False))
    machine.advance()
    assert wires.said[-1] == control.StandingBy("market")
    return machine, wires


def hand_over(old, wires, new, *, last):
    old.on_control(control.Barrier(1))
    (part,) = wires.notes(control.STATE, control.StatePart)
    new.on_control(
        control.TakeOver(part.position, 0, 1, part.data, admitted(TINY, outputs=last, link=8), True)
    )


def test_another_process_plays_on_with_the_next_event():
    wires = ListWires()
    old = source(wires, frames=600)
    run(old, 1)
    new, others = standing_by(frames=600)

    hand_over(old, wires, new, last={TINY: (256, 0)})
    played = outputs(wires)
    run(old, 3)
    run(new, 10)

    causes = [cause for cause, _, _ in played + outputs(others)]
    assert sorted(set(causes)) == list(range(1, 602))
    assert outputs(wires) == []
    assert others.numbers[0] == (8, 1)


def test_an_event_that_was_waiting_keeps_its_time():
    wires = ListWires()
    old = source(wires, speed="1")
    run(old, 1)
    plugin = planned(TINY, "exchange", "tiny_source")
    others = ListWires()
    new = Source("market", others, welcome(plugin, speed="1", clock="data"))
    new.begin()
    new.on_control(control.StandBy({TINY: 1}, 0, {}, False))
    others.now = wires.now = FRAME_NS // 2

    hand_over(old, wires, new, last={TINY: (1, 0)})
    others.now = FRAME_NS - NS_PER_MS
    new.advance()
    early = outputs(others)
    others.now = FRAME_NS + NS_PER_MS
    new.advance()

    assert early == []
    assert [cause for cause, _, _ in outputs(others)] == [2]


@pytest.mark.parametrize("how", ["resume", "own state"])
def test_a_source_that_is_given_back_its_place_plays_on(how):
    wires = ListWires()
    old = source(wires, frames=600)
    run(old, 1)
    before = outputs(wires)
    old.on_control(control.Barrier(1))
    wires.take()

    if how == "resume":
        old.on_control(control.Resume(1))
    else:
        given = admitted(TINY, outputs={TINY: (256, 0)}, link=9)
        old.on_control(control.TakeOver(0, 0, 0, b"", given, True))
    run(old, 10)

    causes = [cause for cause, _, _ in before + outputs(wires)]
    assert sorted(set(causes)) == list(range(1, 602))


# --- A live feed ----------------------------------------------------------------------------------

LIVE = "exchange-binanceus"


def live(wires):
    """Return a host with a live feed that has been read so far as to have its book."""
    machine = Source("market", wires, welcome(planned(LIVE, "exchange"), clock="wall"))
    machine.begin()
    return machine


def book(seq):
    return BookSnapshot(1, 1, "binanceus", "BTC/USD", seq, b"", b"")


def trade(seq):
    return Trade(1, 1, "binanceus", "BTC/USD", seq, 1, 1, Side.BUY)


def trading(wires):
    old = live(wires)
    old.on_control(admitted(LIVE))
    old.on_control(control.Start())
    old.fed(LIVE, [FeedConnected(1, "binanceus", ["BTC/USD"]), book(10), trade(1)])
    return old


def test_a_new_connection_tells_behind_what_it_begins():
    wires = ListWires()
    new = live(wires)
    new.on_control(control.StandBy({LIVE: 1}, 0, {}, False))

    new.fed(LIVE, [FeedConnected(1, "binanceus", ["BTC/USD"]), book(20), trade(5)])
    new.advance()

    begins = {"book binanceus BTC/USD": 20, "trade binanceus BTC/USD": 4}
    assert wires.said[-1] == control.StandingBy("market", begins)


def test_a_connection_that_is_behind_the_new_one_hands_over_when_nothing_would_be_missed():
    wires = ListWires()
    old = trading(wires)

    old.on_control(control.Barrier(1, {"trade binanceus BTC/USD": 3, "trade kraken BTC/USD": 9}))
    before = wires.notes(control.STATE, control.StatePart)
    old.fed(LIVE, [trade(2)])
    still = wires.notes(control.STATE, control.StatePart)
    old.fed(LIVE, [trade(3)])

    (part,) = wires.notes(control.STATE, control.StatePart)
    assert before == still == []
    assert control.decode_state(part.data).marks["trade binanceus BTC/USD"] == 3


def test_a_barrier_that_was_given_up_is_forgotten():
    wires = ListWires()
    old = trading(wires)
    old.on_control(control.Barrier(1, {"trade binanceus BTC/USD": 3}))

    old.on_control(control.Resume(1))
    old.fed(LIVE, [trade(2), trade(3)])

    assert wires.notes(control.STATE, control.StatePart) == []
