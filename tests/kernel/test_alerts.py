"""Alerts: what people are told, how much it matters, and in which words."""

import msgspec
import pytest

from tickerml.kernel import Severity, Side, TimeTick
from tickerml.kernel import messages as m
from tickerml.kernel.alerts import ALERTING, Alert, alert_of
from tickerml.kernel.testing import instrument


def fill(side=Side.BUY):
    maker = m.Liquidity.MAKER
    return m.OrderFilled(
        9, 8, "o1", 2, "imbalance", "main", "test", "BTC/USDT", side, 6_000_050, 1500, 0, maker, 0, "USDT",
        0, 0, 0, False, 0,
    )  # fmt: skip


TOLD = [
    (m.TradingHalted(1, "drawdown", "0.25 >= 0.25"), Severity.CRITICAL, "trading", "is halted by drawdown"),
    (m.TradingResumed(1, "ann", ""), Severity.INFO, "trading", "active again, by ann"),
    (m.PluginFailed(1, "mine", "strategy", "Trade", "boom"), Severity.ERROR, "plugin/mine", "at Trade"),
    (m.PluginFailed(1, "limits", "risk_rule", "Trade", "boom"), Severity.CRITICAL, "plugin/limits", "aside"),
    (m.PluginFailed(1, "gate", "gate", "Trade", "boom"), Severity.CRITICAL, "plugin/gate", "aside"),
    (m.HostStopped(1, "trade", "killed", 1500), Severity.WARNING, "host/trade", "restarted in 1.5 s"),
    (m.HostStopped(1, "trade", "5 failures", -1), Severity.CRITICAL, "host/trade", "quarantined"),
    (m.FeedLost(1, "kraken", "closed", 100), Severity.WARNING, "feed/kraken", "is lost"),
    (m.FeedConnected(1, "kraken", []), Severity.INFO, "feed/kraken", "is up"),
    (
        m.ChannelLost(1, "kraken", "BTC/USD", "trade", 120_000, "no trade for 120.0 s"),
        Severity.WARNING,
        "channel/kraken/BTC/USD/trade",
        "the trade channel of BTC/USD on kraken is lost",
    ),
    (
        m.ChannelResumed(1, "kraken", "BTC/USD", "trade", 9),
        Severity.INFO,
        "channel/kraken/BTC/USD/trade",
        "back",
    ),
    (m.SequenceGap(1, "kraken", "BTC/USD", 5, 7), Severity.WARNING, "book/kraken/BTC/USD", "skipped"),
    (m.ChecksumFailed(1, "kraken", "BTC/USD", 5, 7), Severity.WARNING, "book/kraken/BTC/USD", "not the exch"),
    (m.BookStale(1, "kraken", "BTC/USD", 10), Severity.WARNING, "book/kraken/BTC/USD", "silent"),
    (
        m.DataAnomaly(
            1, "kraken", "BTC/USD", m.Anomaly.OUTLIER, Severity.WARNING, 120.0, 50.0, "a print is off"
        ),
        Severity.WARNING,
        "data/kraken/BTC/USD/outlier",
        "BTC/USD on kraken: a print is off",
    ),
    (
        m.DataAnomaly(1, "kraken", "", m.Anomaly.STALE, Severity.ERROR, 12.0, 10.0, "silent"),
        Severity.ERROR,
        "data/kraken//stale",
        "the feed of kraken: silent",
    ),
    (m.OrderRejected(1, 1, "o1", "kraken", "BTC/USD", "no"), Severity.WARNING, "order/o1", "rejected"),
    (
        m.PositionLiquidated(1, "main", "perp", "BTC/USDT-PERP", -4, 9, "USDT", -(10**12), 10**11, 0, 0),
        Severity.CRITICAL,
        "liquidation/main/perp/BTC/USDT-PERP",
        "perp liquidated BTC/USDT-PERP of account main",
    ),
    (m.SwapEnded(1, "trade", "rolled back", "probation", "lag"), Severity.ERROR, "swap/trade", "probation"),
    (m.SwapEnded(1, "trade", "permanent", "ended", ""), Severity.INFO, "swap/trade", "permanent"),
    (m.KernelStarted(1, 2, "1.0", "pi", ["trade"]), Severity.INFO, "kernel", "profile pi"),
    (m.KernelStopped(1, 2, "asked"), Severity.INFO, "kernel", "stopped"),
    (m.ModelTrained(1, "dt", "m.onnx", "ab", {"loss": 0.5}), Severity.INFO, "model/dt", "m.onnx"),
    (fill(), Severity.INFO, "order/o1/2", "imbalance bought 1500 lots of BTC/USDT at 6000050 ticks on test"),
]


@pytest.mark.parametrize(("message", "severity", "key", "title"), TOLD)
def test_each_message_that_matters_is_one_line_with_a_severity(message, severity, key, title):
    alert = alert_of(message, {})

    assert (alert.ts, alert.severity, alert.key) == (message.ts_recv, severity, key)
    assert title in alert.title
    assert "\n" not in alert.title


def test_every_type_that_may_be_worth_an_alert_is_tried_above():
    assert {type(message) for message, *_ in TOLD} == set(ALERTING)


def test_nobody_is_told_of_a_host_that_somebody_asked_to_stop():
    assert alert_of(m.HostStopped(1, "trade", "stopped", -1), {}) is None


def test_nobody_is_told_of_every_book_of_a_source_that_ended():
    assert alert_of(m.BookStale(1, "kraken", "BTC/USD", 0), {}) is None


def test_nothing_is_told_of_the_rest():
    assert alert_of(TimeTick(1), {}) is None
    assert m.AlertSent not in ALERTING


@pytest.mark.parametrize(("side", "verb"), [(Side.BUY, "bought"), (Side.SELL, "sold")])
def test_a_fill_is_told_in_prices_and_quantities_where_the_instrument_is_known(side, verb):
    alert = alert_of(fill(side), {("test", "BTC/USDT"): instrument()})

    assert alert.title == f"imbalance {verb} 0.015 BTC at 60000.5 USDT on test"


@pytest.mark.parametrize(("known", "text"), [(True, "-0.00004 BTC at 0.09 USDT"), (False, "-4 lots of")])
def test_a_liquidation_is_told_in_prices_and_quantities_where_the_instrument_is_known(known, text):
    gone = m.PositionLiquidated(1, "main", "test", "BTC/USDT", -4, 9, "USDT", -(10**12), 10**11, 0, 0)

    alert = alert_of(gone, {("test", "BTC/USDT"): instrument()} if known else {})

    assert alert.text.startswith(text)
    assert alert.text.endswith(": -1 USDT, and a fee of 0.1")


def test_an_alert_is_ready_for_json():
    alert = alert_of(m.FeedLost(1, "kraken", "closed", 100), {})

    assert msgspec.json.decode(msgspec.json.encode(alert), type=Alert) == alert


def test_severities_are_ordered():
    assert sorted(Severity, key=lambda each: each.rank) == [
        Severity.INFO,
        Severity.WARNING,
        Severity.ERROR,
        Severity.CRITICAL,
    ]
