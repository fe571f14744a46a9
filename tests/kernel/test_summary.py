"""The summary: figures that count on over a restart, and a chain that agrees only where behaviour does."""

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import UNIT, Liquidity, OrderType, Side, TimeInForce, codec, topics
from tickerml.kernel import messages as m
from tickerml.kernel.summary import WANTED, Summary


def order(number: int) -> m.SubmitOrder:
    limit, gtc = OrderType.LIMIT, TimeInForce.GTC
    return m.SubmitOrder(number, f"o{number}", "s", "paper", "x", "A/B", Side.BUY, limit, gtc, 100, 5)


def fill(number: int, liquidity: Liquidity = Liquidity.MAKER) -> m.OrderFilled:
    return m.OrderFilled(
        number, number, f"o{number}", 1, "s", "paper", "x", "A/B", Side.BUY, 100, 5, 0,
        liquidity, 7, "B", 3, 1, 10, False, 201,
    )  # fmt: skip


def verdict(number: int) -> m.RiskVerdict:
    return m.RiskVerdict(number, f"o{number}", "rule", 5)


def portfolio(equity: int) -> m.PortfolioSnapshot:
    opening = 100 * UNIT
    return m.PortfolioSnapshot(
        1, "paper", "USDT", equity, opening, opening, 0, 0, 3 * UNIT, 0.1, 0.25, True, [], []
    )


def feed(messages: int, skipped: int = 0, crossed: int = 0) -> m.FeedSummarized:
    return m.FeedSummarized(1, "x", messages, skipped, 0, crossed)


def summarize(messages: list[m.Message], state: bytes = b"") -> Summary:
    summary = Summary(state)
    for message in messages:
        summary.add(message, codec.encode(message))
    return summary


def chain_of(messages: list[m.Message]) -> str:
    digest: str = summarize(messages).report()["decisions_sha256"]
    return digest


DECISIONS = st.one_of(
    st.builds(order, st.integers(0, 5)),
    st.builds(fill, st.integers(0, 5)),
    st.builds(verdict, st.integers(0, 5)),
)
OTHERS = st.sampled_from(
    [
        feed(5, 1),
        feed(2),
        portfolio(90 * UNIT),
        m.TradingHalted(1, "risk-drawdown", "too deep"),
        m.TradingResumed(1, "operator", "again"),
        m.PluginFailed(1, "p", "store", "on_trade", "E: broken"),
        m.FeedEnded(1, "exchange-x", 5, 1),
        m.MarkoutMeasured(1, "o1", 1, "x", "A/B", Liquidity.MAKER, 10**9, -2.5),
        m.SequenceGap(1, "x", "A/B", 4, 6),
    ]
)
STREAMS = st.lists(DECISIONS | OTHERS, max_size=30)


# --- The chain ------------------------------------------------------------------------------------


def test_the_chain_is_the_hash_of_the_chain_so_far_and_the_next_body():
    expected = hashlib.sha256(
        hashlib.sha256(codec.encode(order(1))).digest() + codec.encode(fill(1))
    ).hexdigest()

    assert chain_of([order(1), fill(1)]) == expected


def test_a_run_that_decided_nothing_has_the_hash_of_nothing():
    assert chain_of([]) == hashlib.sha256().hexdigest() == chain_of([portfolio(1), feed(3)])


@given(st.lists(DECISIONS, max_size=20), STREAMS)
def test_equal_decisions_give_equal_chains_whatever_else_was_said(decisions, noise):
    mixed = [*[one for one in noise if topics.KIND_OF[type(one)] not in topics.DECISION_KINDS], *decisions]

    assert chain_of(mixed) == chain_of(decisions)


@given(st.lists(DECISIONS, min_size=1, max_size=20), st.data())
def test_one_decision_changed_added_or_left_out_changes_the_chain(decisions, data):
    at = data.draw(st.integers(0, len(decisions) - 1))
    hurt = msgspec.structs.replace(decisions[at], ts_recv=decisions[at].ts_recv + 1)

    chains = [
        chain_of(decisions),
        chain_of([*decisions[:at], hurt, *decisions[at + 1 :]]),
        chain_of([*decisions[:at], *decisions[at + 1 :]]),
        chain_of([*decisions, order(99)]),
    ]

    assert len(set(chains)) == 4


@given(st.lists(DECISIONS, min_size=2, max_size=20), st.data())
def test_two_decisions_that_change_places_change_the_chain(decisions, data):
    first, second = sorted(data.draw(st.permutations(range(len(decisions))))[:2])
    swapped = decisions[:]
    swapped[first], swapped[second] = decisions[second], decisions[first]

    assert (chain_of(swapped) == chain_of(decisions)) == (swapped == decisions)


# --- Written down and read back -------------------------------------------------------------------


@given(STREAMS, st.data())
def test_written_down_anywhere_it_counts_on(stream, data):
    cut = data.draw(st.integers(0, len(stream)))

    continued = summarize(stream[cut:], summarize(stream[:cut]).to_bytes())

    whole = summarize(stream)
    assert continued.report() == whole.report()
    assert continued.over == whole.over
    assert continued.to_bytes() == whole.to_bytes()


# --- The figures ----------------------------------------------------------------------------------


def test_each_event_is_counted_under_its_name():
    stream = [
        m.SequenceGap(1, "x", "A/B", 4, 6),
        order(1),
        order(2),
        fill(1),
        fill(2, Liquidity.TAKER),
        fill(3, Liquidity.TAKER),
        m.OrderDenied(1, "o4", "s", "paper", "x", "A/B", "rule", "too large"),
        m.OrderRejected(1, 1, "o5", "x", "A/B", "post only"),
        m.OrderCanceled(1, 1, "o6", "x", "A/B", 3, "stale"),
        m.OrderExpired(1, 1, "o7", "x", "A/B", 3, "ioc"),
    ]

    report = summarize(stream).report()

    assert {name: report[name] for name in ("gaps", "orders", "fills", "fills_maker", "fills_taker")} == {
        "gaps": 1,
        "orders": 2,
        "fills": 3,
        "fills_maker": 1,
        "fills_taker": 2,
    }
    for name in ("orders_denied", "orders_rejected", "orders_canceled", "orders_expired"):
        assert report[name] == 1


def test_money_is_that_of_the_last_snapshot_and_unknown_before_there_is_one():
    assert summarize([]).report()["equity"] is None

    report = summarize([portfolio(1), portfolio(99 * UNIT + UNIT // 4)]).report()

    assert (report["equity"], report["opening"], report["fees"]) == (
        "99.25000000",
        "100.00000000",
        "3.00000000",
    )
    assert (report["max_drawdown"], report["currency"]) == (0.25, "USDT")


def test_money_is_that_of_all_accounts_and_of_each_whoever_spoke_last():
    mine, theirs = (
        portfolio(99 * UNIT),
        msgspec.structs.replace(portfolio(90 * UNIT), account="other", opening=110 * UNIT, max_drawdown=0.5),
    )

    report, turned = (summarize(order).report() for order in ([mine, theirs], [theirs, mine]))

    assert (report["equity"], report["opening"], report["fees"], report["max_drawdown"]) == (
        "189.00000000",
        "210.00000000",
        "6.00000000",
        0.5,
    )
    assert report["accounts"]["paper"]["equity"] == "99.00000000"
    assert (report["accounts"]["other"]["opening"], list(report["accounts"])) == (
        "110.00000000",
        ["other", "paper"],
    )
    assert turned == report


def test_a_feed_that_starts_again_counts_on_from_what_it_had_seen():
    stream = [feed(100, 2, 1), feed(250, 3, 1), feed(10, 1, 0), feed(40, 1, 2)]

    report = summarize(stream).report()

    assert (report["messages"], report["skipped"], report["crossed_books"]) == (290, 4, 3)


def test_feeds_are_added_up():
    other = m.FeedSummarized(1, "y", 7, 1, 0, 0)

    assert summarize([feed(5), other]).report()["messages"] == 12


def test_books_are_those_of_each_exchange_s_last_summary():
    def told(exchange: str, messages: int, books: int, valid: int) -> m.FeedSummarized:
        return m.FeedSummarized(1, exchange, messages, 0, 0, 0, books=books, valid_books=valid)

    stream = [told("x", 100, 10, 10), told("y", 7, 4, 3), told("x", 5, 8, 6)]  # x started again
    report = summarize(stream).report()

    assert (report["books"], report["books_valid"]) == (12, 9)
    assert list(report)[2:5] == ["crossed_books", "books", "books_valid"]


def test_markouts_are_averaged_by_horizon():
    def markout(seconds: int, bps: float) -> m.MarkoutMeasured:
        return m.MarkoutMeasured(1, "o1", 1, "x", "A/B", Liquidity.MAKER, seconds * 10**9, bps)

    report = summarize([markout(1, -2.0), markout(1, 1.0), markout(60, 4.0)]).report()

    assert report["markouts_bps"] == {"1s": {"count": 2, "mean": -0.5}, "60s": {"count": 1, "mean": 4.0}}


def test_a_halt_is_reported_until_trading_resumes():
    halted = m.TradingHalted(1, "risk-drawdown", "25 %")
    summary = summarize([halted])
    assert (summary.halted_by, summary.level) == ("risk-drawdown: 25 %", 2)
    assert summary.report()["halt_level"] == 2
    assert summarize([halted, m.TradingHalted(1, "operator", "enough", 3)]).level == 3

    resumed = summarize([halted, m.TradingResumed(2, "operator", "ok")])
    assert (resumed.halted_by, resumed.level) == ("", 0)


@pytest.mark.parametrize(
    "end", [m.FeedEnded(1, "exchange-x", 5, 0), m.PluginFailed(1, "exchange-x", "exchange", "events", "E")]
)
def test_a_source_is_over_when_it_ended_or_failed(end):
    assert summarize([end]).over == {"exchange-x"}


def test_a_failed_plugin_is_reported_with_where_and_why():
    failed = m.PluginFailed(1, "recorder", "store", "on_trade", "OSError: disk full")

    assert summarize([failed]).report()["failed_plugins"] == {"recorder": "on_trade: OSError: disk full"}


def test_a_channel_is_lost_until_it_resumes():
    lost = [m.ChannelLost(n, "kraken", symbol, "trade", 9, "none") for n, symbol in enumerate(("A/B", "C/D"))]
    back = m.ChannelResumed(3, "kraken", "A/B", "trade", 12)

    assert summarize([*lost, back]).channels == {"kraken C/D trade": "none"}
    assert summarize([back], summarize(lost).to_bytes()).channels == {"kraken C/D trade": "none"}


def test_a_new_session_begins_with_nothing_failed_but_what_ended_stays_ended():
    failed = m.PluginFailed(1, "exchange-a", "exchange", "events", "OSError: down")

    summary = summarize(
        [failed, m.FeedEnded(1, "exchange-b", 1, 0), m.KernelStarted(2, 2, "0.1.0", "pi", [])]
    )

    assert summary.over == {"exchange-b"}


@given(STREAMS)
def test_the_report_is_ready_for_json(stream):
    report = summarize(stream).report()

    assert json.loads(json.dumps(report)) == report


def test_it_asks_for_every_kind_that_it_counts():
    counted = (
        m.SequenceGap,
        m.FeedEnded,
        m.PortfolioSnapshot,
        m.MarkoutMeasured,
        m.TradingHalted,
        m.PluginFailed,
    )

    assert {topics.KIND_OF[cls] for cls in counted} | topics.DECISION_KINDS == WANTED
