"""The past that a trainer may see: market data of earlier runs, and nothing of the last 30 days."""

import pytest
from structlog.testing import capture_logs

from tickerml.kernel import (
    BookStale,
    FeatureVector,
    Instrument,
    NewsItem,
    Side,
    SubmitOrder,
    Trade,
    topics,
)
from tickerml.kernel import dataset as module
from tickerml.kernel import messages as m
from tickerml.kernel.dataset import MARKET, QUARANTINE_NS, JournalDataset, dataset_of

from .earlier_runs import DAY, NOW, trade, write_run


def order(ts):
    limit, gtc = m.OrderType.LIMIT, m.TimeInForce.GTC
    return SubmitOrder(ts, "o", "s", "main", "test", "BTC/USDT", Side.BUY, limit, gtc, 1, 1)


def dataset(home):
    return dataset_of(home, home / "runs" / "pi" / "0009", NOW)


def test_nothing_of_the_last_thirty_days_is_in_it_however_it_is_dated(tmp_path):
    cut = NOW - QUARANTINE_NS
    poison = [trade(cut), trade(NOW - DAY), trade(cut - 1, ts_event=cut), trade(cut, ts_event=cut - DAY)]
    good = [trade(cut - 1), trade(cut - DAY)]
    write_run(tmp_path, "pi/0001", 0, poison[0], good[0], *poison[1:], good[1])

    assert QUARANTINE_NS == 30 * DAY
    assert list(dataset(tmp_path).messages()) == good


def test_orders_and_money_are_not_given_even_when_asked_for(tmp_path):
    write_run(tmp_path, "pi/0001", 0, order(1), trade(2))

    assert list(dataset(tmp_path).messages()) == [trade(2)]
    with pytest.raises(ValueError, match="market data alone, was asked for SubmitOrder"):
        list(dataset(tmp_path).messages(SubmitOrder))
    forbidden = {"order", "fill", "verdict", "portfolio", "markout", "control"}
    assert {topics.KIND_OF[cls] for cls in MARKET} & forbidden == set()


def test_gives_only_the_types_that_are_asked_for(tmp_path):
    gone, vector = BookStale(2, "test", "BTC/USDT", 5), FeatureVector(3, 3, "test", "BTC/USDT", "core", b"")
    write_run(tmp_path, "pi/0001", 0, trade(1), gone, vector)

    assert list(dataset(tmp_path).messages(Trade, FeatureVector)) == [trade(1), vector]


def test_runs_come_in_the_order_in_which_they_began_and_the_one_going_on_is_left_out(tmp_path):
    write_run(tmp_path, "pi/0001", 2 * DAY, trade(3))
    write_run(tmp_path, "demo/0001", DAY, trade(2))
    write_run(tmp_path, "pi/0009", NOW, trade(1))

    assert [each.ts_recv for each in dataset(tmp_path).messages()] == [2, 3]


def test_a_journal_that_cannot_be_opened_is_left_out_and_said(tmp_path):
    write_run(tmp_path, "pi/0001", 0, trade(1))
    (tmp_path / "runs" / "pi" / "0002" / "journal").mkdir(parents=True)

    with capture_logs() as logs:
        assert list(dataset(tmp_path).messages()) == [trade(1)]

    assert [each["event"] for each in logs] == ["dataset.journal_skipped"]


def test_what_the_pruned_beginning_keeps_comes_first(tmp_path, monkeypatch):
    class Pruned(module.JournalReader):
        def first(self):
            return 3

        def frames(self, after=0, until=2**63, table="log"):
            if table == "kept":
                assert until == 2
                return (raw for raw in super().frames() if b"Instrument" in raw or b"News" in raw)
            return super().frames(max(after, 2))

    known, news = Instrument(1, "test", "BTC/USDT", "BTC", "USDT", 1, 1), NewsItem(2, 2, "wire", "1", "up")
    write_run(tmp_path, "pi/0001", 0, known, news, trade(3))
    monkeypatch.setattr(module, "JournalReader", Pruned)

    assert list(dataset(tmp_path).messages()) == [known, news, trade(3)]


@pytest.mark.parametrize("count", [0, 3, 4, 7])
def test_is_read_in_pages_between_which_others_may_read_too(tmp_path, monkeypatch, count):
    monkeypatch.setattr(module, "PAGE", 4)
    trades = [trade(ts) for ts in range(1, count + 1)]
    write_run(tmp_path, "pi/0001", 0, BookStale(1, "test", "BTC/USDT", 5), *trades)

    both = zip(dataset(tmp_path).messages(Trade), dataset(tmp_path).messages(Trade), strict=True)

    assert list(both) == [(each, each) for each in trades]


def test_its_end_cannot_be_moved(tmp_path):
    given = dataset(tmp_path)

    assert isinstance(given, JournalDataset)
    with pytest.raises(AttributeError, match="immutable"):
        given.until_ns = NOW
