"""The parity certificate: a recorded day through the backtest again, fill by fill."""

import hashlib
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, Recorded, plan, restamped, write
from tickerml.kernel import NS_PER_S, StoreError, codec, parity
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.parity import Parity

MIDDLE = DATA_CLOCK_START_NS + 15 * NS_PER_S
END = 2**63


@pytest.fixture(scope="module", autouse=True)
def _tiny_source_can_be_imported():
    sys.path.insert(0, str(ODD_PLUGINS))
    yield
    sys.path.remove(str(ODD_PLUGINS))


@pytest.fixture(scope="module")
def recorded(_tiny_source_can_be_imported) -> Recorded:
    return LiveRun(plan()).run()


def certify(run_dir: Path, first: int = 0, end: int = END) -> dict[str, Any]:
    with closing(Parity(run_dir, first, end)) as again:
        for _ in again.run():
            pass
        return again.certificate()


def changed(recorded: Recorded, cls: type[m.Message], which: int = 0, **fields: Any) -> list[bytes]:
    frames = recorded.frames[:]
    found = [at for at, raw in enumerate(frames) if isinstance(codec.decode(codec.unpack(raw).body), cls)]
    at = found[which]
    body = codec.unpack(frames[at]).body
    other = msgspec.structs.replace(codec.decode(body), **fields)
    frames[at] = frames[at].removesuffix(body) + codec.encode(other)
    return frames


def test_the_backtest_of_a_recorded_run_gives_every_byte_again(tmp_path, recorded):
    found = certify(write(tmp_path, recorded))

    assert found["certified"], found["difference"]
    assert found["live"] == found["backtest"]
    assert found["live"]["OrderFilled"] >= 4
    assert found["live_sha256"] == found["backtest_sha256"]
    assert {"tickerml", "sim-fifo", "portfolio"} <= found["versions"].keys()


def test_agents_from_outside_that_act_as_the_strategies_did_get_the_same_fills(tmp_path, recorded):
    found = certify(write(tmp_path, recorded))["environment"]

    assert found["difference"] is None
    assert found["fills"] >= 4
    bodies = [codec.unpack(raw).body for raw in recorded.frames]
    fills = [body for body in bodies if isinstance(codec.decode(body), m.OrderFilled)]
    assert found["fills_sha256"] == hashlib.sha256(b"".join(fills)).hexdigest()


def test_a_fill_that_the_environment_does_not_give_is_shown_beside_its_own(tmp_path, recorded):
    found = certify(write(tmp_path, recorded, changed(recorded, m.OrderFilled, quantity=7)))

    assert not found["certified"]
    assert "quantity=7," in found["environment"]["difference"]["live"]
    assert "quantity=7," not in found["environment"]["difference"]["environment"]


def test_an_order_that_was_not_what_the_strategy_sent_makes_the_environment_differ(tmp_path, recorded):
    other = changed(recorded, m.SubmitOrder, which=1, quantity=1)  # the first one is denied
    found = certify(write(tmp_path, recorded, other))

    assert found["environment"]["difference"] is not None


@pytest.mark.parametrize("cls", [m.OrderFilled, m.RiskVerdict, m.OrderSubmitted], ids=str)
def test_a_published_number_that_the_backtest_does_not_give_is_shown_beside_its_own(tmp_path, recorded, cls):
    found = certify(write(tmp_path, recorded, changed(recorded, cls, quantity=7)))

    assert not found["certified"]
    assert "quantity=7," in found["difference"]["live"]
    assert found["difference"]["replayed"].startswith(cls.__name__)
    assert "quantity=7," not in found["difference"]["replayed"]
    assert found["live_sha256"] != found["backtest_sha256"]


def test_both_sides_are_counted_to_the_end_behind_a_difference(tmp_path, recorded):
    whole = certify(write(tmp_path / "same", recorded))
    found = certify(write(tmp_path / "other", recorded, changed(recorded, m.RiskVerdict, quantity=7)))

    assert found["live"] == whole["live"]
    assert found["backtest"] == whole["backtest"]


def test_only_the_day_is_counted_and_the_two_halves_are_the_whole(tmp_path, recorded):
    run_dir = write(tmp_path, recorded)
    first, second, whole = certify(run_dir, 1, MIDDLE), certify(run_dir, MIDDLE, END), certify(run_dir)

    assert (first["certified"], first["is_day_over"]) == (True, True)
    assert (second["certified"], second["is_day_over"]) == (True, False)
    assert first["inputs"] + second["inputs"] == whole["inputs"]
    for name, count in whole["live"].items():
        assert first["live"].get(name, 0) + second["live"].get(name, 0) == count


def test_the_next_day_begins_where_the_last_certificate_ended(tmp_path, recorded, monkeypatch):
    run_dir = write(tmp_path, recorded)
    from_the_beginning = certify(run_dir, MIDDLE, END)
    certify(run_dir, 1, MIDDLE)
    monkeypatch.setattr(parity.JournalReader, "first", lambda self: 2)  # as when the beginning was pruned
    on = certify(run_dir, MIDDLE, END)

    assert from_the_beginning["began_behind_seq"] == 0 < on["began_behind_seq"]
    assert {**on, "began_behind_seq": 0} == from_the_beginning


def test_a_pruned_beginning_without_a_certificate_before_is_refused(tmp_path, recorded, monkeypatch):
    run_dir = write(tmp_path, recorded)
    monkeypatch.setattr(parity.JournalReader, "first", lambda self: 2)

    with pytest.raises(StoreError, match=r"has been pruned, .* kernel\.hot_hours"):
        Parity(run_dir, MIDDLE, END)


def test_what_the_host_had_not_answered_when_the_journal_ended_is_no_difference(tmp_path, recorded):
    found = certify(write(tmp_path, recorded, recorded.frames[:-4]))

    assert found["certified"]


def test_a_fill_that_was_never_published_is_missed(tmp_path, recorded):
    at = next(at for at, raw in enumerate(recorded.frames) if codec.unpack(raw).topic.startswith(b"fill."))
    frames = restamped([*recorded.frames[:at], *recorded.frames[at + 1 :]])
    found = certify(write(tmp_path, recorded, frames))

    assert not found["certified"]
    assert "OrderFilled" in found["difference"]["replayed"]
