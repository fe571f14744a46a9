"""Replaying a recorded run: every byte again, or the first that differs by its number and name."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, Recorded, plan, restamped, write
from tickerml.kernel import StoreError, codec
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.replay import Verification
from tickerml.kernel.sequencer import Sequencer


@pytest.fixture(scope="module", autouse=True)
def _tiny_source_can_be_imported():
    sys.path.insert(0, str(ODD_PLUGINS))
    yield
    sys.path.remove(str(ODD_PLUGINS))


@pytest.fixture(scope="module")
def recorded(_tiny_source_can_be_imported) -> Recorded:
    return LiveRun(plan()).run()


def verify(directory: Path, host: str = "trade") -> dict[str, Any]:
    verification = Verification(directory, host)
    for _ in verification.run():
        pass
    return verification.report()


def first_of(frames: list[bytes], is_it: Callable[[m.Message], bool]) -> int:
    return next(at for at, raw in enumerate(frames) if is_it(codec.decode(codec.unpack(raw).body)))


def with_body(raw: bytes, message: m.Message) -> bytes:
    return raw.removesuffix(codec.unpack(raw).body) + codec.encode(message)


def test_a_recorded_run_is_replayed_byte_for_byte(tmp_path, recorded):
    report = verify(write(tmp_path, recorded))

    assert report["verified"], report["difference"]
    assert report["head"] == len(recorded.frames)
    assert report["outputs"] > 300
    assert report["inputs"] > 600
    assert (report["unpublished"], report["stopped_at"]) == (0, None)


def test_a_backtest_of_the_same_plan_decides_the_same_as_the_recorded_run(recorded):
    backtest = Backtest(plan())
    for _ in backtest.run():
        pass

    assert backtest.summary.report()["decisions_sha256"] == recorded.decisions
    assert backtest.summary.report()["fills"] >= 4


@pytest.mark.parametrize("cls", [m.SubmitOrder, m.RiskVerdict, m.OrderFilled, m.FeatureVector], ids=str)
def test_one_changed_output_is_found_and_shown_beside_what_should_be_there(tmp_path, recorded, cls):
    frames = recorded.frames[:]
    at = first_of(frames, lambda message: isinstance(message, cls))
    original = codec.decode(codec.unpack(frames[at]).body)
    changed = msgspec.structs.replace(original, ts_recv=original.ts_recv + 1)
    frames[at] = with_body(frames[at], changed)

    report = verify(write(tmp_path, recorded, frames))

    assert not report["verified"]
    assert report["difference"]["seq"] == at + 1
    assert report["difference"]["live"] == str(changed)
    assert report["difference"]["replayed"] == str(original)


def test_a_changed_input_shows_in_what_follows_from_it(tmp_path, recorded):
    frames = recorded.frames[:]
    row = first_of(frames, lambda message: isinstance(message, m.FeatureVector))
    # A row is of the moment before the message that brings it out, so the last book but one is in it.
    at = [at for at in range(row) if codec.unpack(frames[at]).topic.startswith(b"book.")][-2]
    book = codec.decode(codec.unpack(frames[at]).body)
    assert isinstance(book, m.BookSnapshot)
    frames[at] = with_body(frames[at], msgspec.structs.replace(book, bids=book.asks, asks=book.bids))

    report = verify(write(tmp_path, recorded, frames))

    assert not report["verified"]
    assert report["difference"]["seq"] > at + 1


def test_an_output_that_the_live_run_never_published_is_missed(tmp_path, recorded):
    at = first_of(recorded.frames, lambda message: isinstance(message, m.OrderFilled))
    frames = restamped([*recorded.frames[:at], *recorded.frames[at + 1 :]])

    report = verify(write(tmp_path, recorded, frames))

    assert not report["verified"]
    assert "OrderFilled" in report["difference"]["replayed"]


def test_an_output_that_does_not_follow_from_the_inputs_is_found(tmp_path, recorded):
    at = first_of(recorded.frames, lambda message: isinstance(message, m.OrderFilled))
    twice = codec.unpack(recorded.frames[at])
    frames = restamped([recorded.frames[at], *recorded.frames])

    report = verify(write(tmp_path, recorded, frames))

    assert report["difference"] == {
        "seq": 1,
        "component": "sim-fifo",
        "live": str(codec.decode(twice.body)),
        "replayed": "nothing",
    }


def test_a_run_that_was_cut_off_verifies_up_to_its_end(tmp_path, recorded):
    at = first_of(recorded.frames, lambda message: isinstance(message, m.OrderFilled))

    report = verify(write(tmp_path, recorded, recorded.frames[:at]))

    assert report["verified"]
    assert report["head"] == at
    assert report["unpublished"] > 0  # the host had not come to say it


def test_another_seed_or_plan_would_not_verify(tmp_path, recorded):
    other = recorded._replace(plan=plan('strategy-imbalance.order_notional="150"'))

    report = verify(write(tmp_path, other))

    assert not report["verified"]
    assert report["difference"]["component"] == "strategy-imbalance"


def test_replaying_stops_where_the_plugins_were_changed(tmp_path, recorded):
    changed = Sequencer().announce(m.PluginChanged(0, "portfolio", False))
    frames = restamped([*recorded.frames[:300], changed, *recorded.frames[300:]])

    report = verify(write(tmp_path, recorded, frames))

    assert report["verified"]
    assert report["stopped_at"] == 301


def test_replaying_stops_where_its_own_host_was_swapped(tmp_path, recorded):
    swapped = Sequencer().announce(m.SwapStarted(0, "trade", {"portfolio": "2.0"}, "upgrade"))
    frames = restamped([*recorded.frames[:300], swapped, *recorded.frames[300:]])

    report = verify(write(tmp_path, recorded, frames))

    assert report["verified"]
    assert report["stopped_at"] == 301


# --- What cannot be replayed ----------------------------------------------------------------------


def test_there_is_no_replaying_a_run_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="there is no journal"):
        Verification(tmp_path)


def test_a_run_that_does_not_say_what_it_ran_is_refused(tmp_path):
    JournalWriter(tmp_path / "journal", map_mb=1, commit_ms=1).close()

    with pytest.raises(StoreError, match="does not say what it ran"):
        Verification(tmp_path)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("trad", "has no host 'trad'; it has market, trade, record"),
        ("market", "cannot replay host 'market' of kind 'exchange': only what consumes the bus"),
    ],
)
def test_a_host_that_cannot_be_replayed_is_refused(tmp_path, recorded, host, said):
    with pytest.raises(StoreError, match=said):
        Verification(write(tmp_path, recorded, recorded.frames[:10]), host)
    gc.collect()


def test_a_run_whose_beginning_was_pruned_is_refused(tmp_path, recorded):
    with pytest.raises(StoreError, match=r"has been pruned \(kernel\.hot_hours\)"):
        Verification(write(tmp_path, recorded, recorded.frames[100:]))
