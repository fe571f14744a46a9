"""The alerts file: whole lines, on the disk, in order, and never more of them than asked for."""

import json
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import Alert, FeedConnected, FeedLost, Severity, StateRefused, TradingHalted
from tickerml.kernel.testing import Harness
from tickerml.plugins import sink_file


def harness(path, **options):
    return Harness(sink_file, options={"sink-file": options}, data_dir=path)


def lines(path, suffix=""):
    return [
        json.loads(line) for line in (path / "sink-file" / f"alerts.jsonl{suffix}").read_text().splitlines()
    ]


def alert(number, text=""):
    return Alert(number, Severity.INFO, f"key/{number}", "title", text)


def sink(path, **options):
    return harness(path, **options).bus.component("sink-file")


def test_each_alert_is_one_json_object_on_a_line_of_its_own(tmp_path):
    bus = harness(tmp_path)

    bus.send(FeedLost(1, "kraken", "closed", 100), TradingHalted(2, "drawdown", "too deep"))

    assert lines(tmp_path) == [
        {"ts": 1, "severity": "warning", "key": "feed/kraken", "title": "the feed of kraken is lost",
         "text": "closed"},
        {"ts": 2, "severity": "critical", "key": "trading", "title": "trading is halted by drawdown",
         "text": "too deep"},
    ]  # fmt: skip


@pytest.mark.parametrize(("severity", "count"), [("info", 2), ("warning", 1), ("critical", 0)])
def test_writes_nothing_that_matters_less_than_asked_for(tmp_path, severity, count):
    bus = harness(tmp_path, min_severity=severity)

    bus.send(FeedLost(1, "kraken", "closed", 100), FeedConnected(2, "kraken", []))

    assert (tmp_path / "sink-file").exists() is (count > 0)
    assert not count or len(lines(tmp_path)) == count


def test_an_alert_is_on_the_disk_before_it_counts_as_sent(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))

    sink(tmp_path).emit(alert(1))

    assert synced == [len(msgspec.json.encode(alert(1))) + 1]


def test_a_new_file_is_begun_when_one_is_full_and_the_oldest_goes(tmp_path):
    it = sink(tmp_path, file_kb=1, kept_files=2)

    for number in range(5):
        it.emit(alert(number, "x" * 1000))

    assert [lines(tmp_path, suffix)[0]["ts"] for suffix in (".1", ".2")] == [4, 3]
    assert sorted(path.name for path in (tmp_path / "sink-file").iterdir()) == [
        "alerts.jsonl.1",
        "alerts.jsonl.2",
    ]


def test_keeps_no_full_file_when_told_so(tmp_path):
    it = sink(tmp_path, file_kb=1, kept_files=0)

    it.emit(alert(1, "x" * 1000))
    it.emit(alert(2))

    assert [each["ts"] for each in lines(tmp_path)] == [2]


@given(cut=st.integers(0, 80))
def test_what_a_crash_left_of_a_line_is_cut_off(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("alerts")
    it = sink(path)
    it.emit(alert(1))
    it.emit(alert(2))
    file = path / "sink-file" / "alerts.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    file.write_bytes(whole[: first + min(cut, len(whole) - first - 1)])

    sink(path).emit(alert(3))

    assert [each["ts"] for each in lines(path)] == [1, 3]


def test_a_disk_that_takes_nothing_sets_the_sink_aside(tmp_path):
    (tmp_path / "sink-file").write_text("not a directory")
    bus = harness(tmp_path)

    bus.send(TradingHalted(1, "drawdown", ""))

    assert bus.bus.failures["sink-file"].startswith("TradingHalted: FileExistsError")


def test_has_no_state(tmp_path):
    it = sink(tmp_path)

    it.restore(it.snapshot())

    with pytest.raises(StateRefused, match="expected no state, was 1 bytes"):
        it.restore(b"x")
