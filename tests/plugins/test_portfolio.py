"""One paper account, from opening to equity, through the bus."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookStale,
    ConfigError,
    Liquidity,
    Message,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    PluginFailed,
    PortfolioSnapshot,
    Side,
    SimulatorSpec,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import portfolio

S = NS_PER_S
BTC = instrument("test", "BTC/USDT", tick="1", lot="0.01")
DEEP = 10**9


def harness(**options: Any) -> Harness:
    options.setdefault("opening", {"test.USDT": "10000"})
    return Harness(portfolio, options={"portfolio": options})


def touch(market: Market, ts: int, bid: int, ask: int) -> Message:
    return market.book(ts, bids=[(bid, DEEP)], asks=[(ask, DEEP)])


def submitted(
    ts: int,
    order_id: str,
    side: Side,
    quantity: int,
    price: int,
    *,
    symbol: str = "BTC/USDT",
    account: str = "paper",
) -> OrderSubmitted:
    kind, gtc = OrderType.LIMIT, TimeInForce.GTC
    return OrderSubmitted(
        ts, order_id, "s", account, "test", symbol, side, kind, gtc, price, quantity, 2 * price
    )


def filled(
    ts: int,
    order_id: str,
    number: int,
    side: Side,
    quantity: int,
    price: int,
    *,
    leaves: int = 0,
    fee: str = "0",
    fee_asset: str = "USDT",
    symbol: str = "BTC/USDT",
    account: str = "paper",
) -> OrderFilled:
    head = (ts, ts, order_id, number, "s", account, "test", symbol, side, price, quantity, leaves)
    return OrderFilled(*head, Liquidity.TAKER, to_units(fee), fee_asset, 0, 0, 0, False, 0)


def last(harness: Harness) -> PortfolioSnapshot:
    return harness.of(PortfolioSnapshot)[-1]


def unexplained(snapshot: PortfolioSnapshot) -> int:
    return snapshot.opening + snapshot.realized + snapshot.unrealized - snapshot.fees - snapshot.equity


def test_opens_at_ten_thousand_dollars_by_default():
    kept = Harness(portfolio)

    kept.send(touch(Market(), S // 2, 99, 101), touch(Market(), 2 * S, 99, 101))

    assert last(kept).opening == last(kept).equity == last(kept).peak == to_units("10000")
    assert (last(kept).currency, last(kept).account, last(kept).is_marked) == ("USD", "paper", True)


def test_marks_once_a_second_of_event_time_on_whole_seconds():
    kept, market = harness(), Market()

    kept.send(*(touch(market, ts, 99, 101) for ts in range(S // 3, 4 * S, S // 3)))

    assert [snapshot.ts_recv for snapshot in kept.of(PortfolioSnapshot)] == [S, 2 * S, 3 * S]


def test_an_instrument_older_than_the_market_starts_no_clock():
    kept = harness()

    kept.send(BTC, touch(Market(), 1_700_000_000 * S + 1, 99, 101))
    kept.send(touch(Market(), 1_700_000_001 * S + 1, 99, 101))

    assert [snapshot.ts_recv for snapshot in kept.of(PortfolioSnapshot)] == [1_700_000_001 * S]


def test_reserves_at_submission_and_releases_when_the_order_ends():
    kept = harness()
    kept.send(BTC, touch(Market(), 1, 99, 101))
    ends = {"a": OrderRejected, "b": OrderCanceled, "c": OrderExpired}
    for order_id in ends:
        kept.send(submitted(2, order_id, Side.BUY, 1000, 100))
    (balance,) = last(kept).balances
    assert (balance.free + balance.held, balance.held // UNIT) == (to_units("10000"), 3003)

    kept.send(OrderRejected(3, 3, "a", "test", "BTC/USDT", "no"))
    kept.send(OrderCanceled(3, 3, "b", "test", "BTC/USDT", 1000, "asked"))
    kept.send(OrderExpired(3, 3, "c", "test", "BTC/USDT", 1000, "ioc"))

    assert [(b.free, b.held) for b in last(kept).balances] == [(to_units("10000"), 0)]


def test_values_what_it_holds_at_the_best_bid_and_takes_the_fee_apart():
    kept = harness()
    kept.send(BTC, touch(Market(), 1, 99, 101), submitted(2, "o", Side.BUY, 1000, 101))

    kept.send(filled(3, "o", 1, Side.BUY, 1000, 101, fee="1.01"))

    (position,) = last(kept).positions
    assert (position.quantity, position.mark, position.cost) == (1000, 99, to_units("1010"))
    assert (position.unrealized, position.fees) == (to_units("-20"), to_units("1.01"))
    assert last(kept).equity == kept.bus.component("portfolio").equity == to_units("9978.99")
    assert unexplained(last(kept)) == 0
    assert kept.bus.component("portfolio").balances() == last(kept).balances


def test_a_repeated_fill_changes_nothing_and_says_nothing():
    kept = harness()
    fill = filled(3, "o", 1, Side.BUY, 1000, 100)
    kept.send(BTC, touch(Market(), 1, 99, 101), submitted(2, "o", Side.BUY, 1000, 100), fill)

    assert kept.send(fill) == []


def test_drawdown_is_measured_from_the_peak():
    kept, market = harness(), Market()
    kept.send(BTC, touch(market, 1, 100, 101), filled(2, "o", 1, Side.BUY, 5000, 100))

    kept.send(touch(market, S + 1, 140, 141), touch(market, 2 * S + 1, 110, 111))
    kept.send(touch(market, 3 * S + 1, 125, 126), touch(market, 4 * S + 1, 125, 126))

    assert last(kept).peak == to_units("12000")
    assert last(kept).drawdown == 1 - 11_250 / 12_000
    assert last(kept).max_drawdown == 1 - 10_500 / 12_000


def test_keeps_the_last_trusted_mark_until_it_is_too_old():
    kept, market = harness(stale_mark_s=5), Market()
    kept.send(BTC, touch(market, S, 100, 101), filled(S, "o", 1, Side.BUY, 5000, 100))
    kept.send(BookStale(S + 1, "test", "BTC/USDT", 1000))
    other = Market(symbol="ETH/USDT")

    kept.send(*(touch(other, ts * S + 1, 1, 2) for ts in range(2, 9)))

    marked = {snapshot.ts_recv // S: snapshot.is_marked for snapshot in kept.of(PortfolioSnapshot)}
    assert marked == {1: True, 2: True, 3: True, 4: True, 5: True, 6: True, 7: False, 8: False}
    assert last(kept).equity == to_units("10000")


def test_is_not_marked_while_a_holding_never_had_a_price():
    kept, market = harness(opening={"test.USDT": "10000", "test.BTC": "1"}), Market()

    kept.send(BTC, touch(Market(symbol="ETH/USDT"), 1, 1, 2), touch(Market(symbol="ETH/USDT"), 2 * S, 1, 2))
    before = last(kept)
    kept.send(touch(market, 2 * S + 1, 500, 501), touch(market, 3 * S + 1, 500, 501))

    assert (before.is_marked, before.equity, before.opening) == (False, 0, 0)
    assert (last(kept).is_marked, last(kept).opening) == (True, to_units("10500"))
    assert [(p.quantity, p.cost, p.unrealized) for p in last(kept).positions] == [(100, to_units("500"), 0)]


def test_a_fill_before_the_first_price_is_no_part_of_the_opening():
    kept = harness(opening={"test.USDT": "10000", "test.BTC": "1"})
    kept.send(BTC, filled(1, "o", 1, Side.BUY, 100, 400, fee="3"))

    kept.send(touch(Market(), 2, 500, 501), touch(Market(), S + 1, 500, 501))

    assert (last(kept).opening, last(kept).equity) == (to_units("10500"), to_units("10597"))
    assert [(p.quantity, p.cost, p.unrealized) for p in last(kept).positions] == [
        (200, to_units("900"), to_units("100"))
    ]


def test_a_stablecoin_counts_at_the_mid_of_its_book_and_at_its_peg_without_one():
    usdt = instrument("other", "USDT/USD", tick="0.0001", lot="1")
    kept, market = harness(pegs={"USDT": "0.5"}), Market("other", "USDT/USD")

    kept.send(BTC, usdt, touch(Market(), 1, 99, 101), touch(Market(), S + 1, 99, 101))
    pegged = last(kept)
    kept.send(touch(market, S + 2, 9989, 9991), touch(Market(), 2 * S + 1, 99, 101))

    assert pegged.equity == to_units("5000")
    assert last(kept).equity == to_units("9990")
    assert (last(kept).opening, last(kept).unrealized) == (to_units("5000"), to_units("4990"))


def test_an_asset_without_a_price_in_the_currency_leaves_the_account_unmarked():
    kept = harness(opening={"test.EUR": "10000"})

    kept.send(touch(Market(), 1, 99, 101), touch(Market(), 2 * S, 99, 101))

    assert not last(kept).is_marked


def test_what_was_bought_with_one_quote_and_sold_for_another_brings_its_cost_along():
    usd = instrument("test", "BTC/USD", tick="1", lot="0.01")
    kept = harness(opening={"test.USDT": "10000"}, pegs={"USDT": "1"})
    kept.send(BTC, usd, touch(Market(), 1, 99, 101), touch(Market(symbol="BTC/USD"), 1, 110, 111))
    kept.send(filled(2, "a", 1, Side.BUY, 1000, 100))

    kept.send(filled(3, "b", 1, Side.SELL, 400, 110, symbol="BTC/USD"))

    assert [(p.symbol, p.quantity, p.cost, p.realized) for p in last(kept).positions] == [
        ("BTC/USD", 0, 0, to_units("40")),
        ("BTC/USDT", 600, to_units("600"), 0),
    ]
    assert last(kept).realized == to_units("40")
    assert unexplained(last(kept)) == 0


def test_what_is_missing_is_taken_from_symbols_that_hold_some_and_no_more_of_it_than_that():
    sold = [instrument("test", f"BTC/{quote}", tick="1", lot="0.01") for quote in ("EUR", "USD")]
    kept = harness(opening={"test.USDT": "10000", "test.EUR": "10000"}, pegs={"USDT": "1", "EUR": "1"})
    kept.send(BTC, *sold, touch(Market(), 1, 99, 101), touch(Market(symbol="BTC/USD"), 1, 110, 111))
    kept.send(filled(2, "a", 1, Side.BUY, 300, 100), filled(3, "b", 1, Side.SELL, 300, 100))
    kept.send(filled(4, "c", 1, Side.BUY, 1000, 100, symbol="BTC/EUR"))

    kept.send(filled(5, "d", 1, Side.SELL, 400, 110, symbol="BTC/USD"))

    held = {p.symbol: (p.quantity, p.cost) for p in last(kept).positions if p.quantity}
    assert held == {"BTC/EUR": (600, to_units("600"))}
    assert last(kept).realized == to_units("40")


def test_the_least_that_is_missing_is_taken_too():
    usd = instrument("test", "BTC/USD", tick="1", lot="0.01")
    kept = harness(opening={"test.USDT": "10000", "test.USD": "10000"}, pegs={"USDT": "1"})
    kept.send(BTC, usd, touch(Market(), 1, 99, 101), touch(Market(symbol="BTC/USD"), 1, 110, 111))
    kept.send(filled(2, "a", 1, Side.BUY, 600, 100))
    kept.send(filled(3, "b", 1, Side.BUY, 400, 110, symbol="BTC/USD", fee="0.000000000001", fee_asset="BTC"))

    kept.send(filled(4, "c", 1, Side.SELL, 400, 110, symbol="BTC/USD"))

    assert [(p.symbol, p.quantity) for p in last(kept).positions if p.quantity] == [("BTC/USDT", 599)]


def test_gains_and_fees_are_converted_when_they_happen_and_stand():
    fx = Market("other", "USDT/USD")
    kept = harness(pegs={"USDT": "0.5"})
    kept.send(BTC, instrument("other", "USDT/USD", tick="0.1", lot="1"), touch(Market(), 1, 99, 101))
    kept.send(
        filled(2, "a", 1, Side.BUY, 1000, 100, fee="2"), filled(3, "b", 1, Side.SELL, 1000, 110, fee="4")
    )

    kept.send(touch(fx, 4, 19, 21), filled(5, "c", 1, Side.BUY, 1, 100, fee="1"))

    assert (last(kept).realized, last(kept).fees) == (to_units("50"), to_units("5"))


def test_other_accounts_are_left_alone():
    kept = harness()
    kept.send(BTC, touch(Market(), 1, 99, 101))

    assert kept.send(submitted(2, "o", Side.BUY, 1, 100, account="other")) == []
    assert kept.send(filled(3, "o", 1, Side.BUY, 1, 100, account="other")) == []


def test_an_order_beyond_the_funds_reserves_nothing_and_is_told_of():
    kept = harness()
    kept.send(BTC, touch(Market(), 1, 99, 101))

    with capture_logs() as logs:
        outputs = kept.send(submitted(2, "o", Side.BUY, 10**6, 100))

    assert outputs == []
    assert [entry["event"] for entry in logs] == ["portfolio.reservation_failed"]
    assert kept.bus.component("portfolio").ledger.reservation("o") is None


def test_a_fill_of_an_unknown_instrument_fails_loudly():
    kept = harness()

    (failure,) = kept.send(filled(1, "o", 1, Side.BUY, 1, 100))

    assert isinstance(failure, PluginFailed)
    assert "test BTC/USDT cannot be booked before its Instrument is known" in failure.error


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"opening": {"USDT": "1"}}, "must name exchange.ASSET, like \"kraken.USD\", was 'USDT'"),
        ({"opening": {"test.USDT": "-1"}}, "opening.test.USDT must be at least 0, was '-1'"),
        ({"opening": {"test.USDT": "many"}}, "opening.test.USDT: expected a decimal number, was 'many'"),
        ({"pegs": {"USDT": "x"}}, "pegs.USDT: expected a decimal number, was 'x'"),
    ],
)
def test_refuses_options_that_are_not_amounts(options, text):
    with pytest.raises(ConfigError) as refusal:
        harness(**options)

    assert text in str(refusal.value)


class _Answering:
    """A strategy that answers a fill with an order, and an exchange that fills half of it at once."""

    def __init__(self, ctx: Any, options: Any) -> None:
        self.ctx = ctx

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


class _Strategy(_Answering):
    def on_order_filled(self, fill: OrderFilled) -> None:
        if fill.order_id == "first":
            order = submitted(fill.ts_recv, "second", Side.BUY, 100, 100)
            head = (order.ts_recv, "second", "s", "paper", "test", "BTC/USDT", order.side, order.order_type)
            self.ctx.publish(SubmitOrder(*head, order.time_in_force, 100, 100))


def test_a_snapshot_that_was_overtaken_is_followed_by_the_current_one():
    strategy = StrategySpec(id="strategy-answering", factory=_Strategy, publishes=(SubmitOrder,))
    kept = Harness(
        portfolio, strategy, options={"portfolio": {"opening": {"test.USDT": "10000"}}}, with_gate=True
    )
    kept.send(BTC, touch(Market(), 1, 99, 101), submitted(2, "first", Side.BUY, 100, 100))

    kept.send(filled(3, "first", 1, Side.BUY, 100, 100))

    held = [snapshot.balances[-1].held > 0 for snapshot in kept.of(PortfolioSnapshot)[-3:]]
    assert held == [True, False, True]  # with the second order, overtaken, current again


class _Exchange(_Answering):
    def on_order_submitted(self, order: OrderSubmitted) -> None:
        self.ctx.publish(filled(order.ts_recv, order.order_id, 1, order.side, 40, order.price, leaves=60))


def test_a_fill_within_the_submission_leaves_the_current_snapshot_last():
    exchange = SimulatorSpec(id="sim-instant", factory=_Exchange, publishes=(OrderFilled,))
    kept = Harness(portfolio, exchange, options={"portfolio": {"opening": {"test.USDT": "10000"}}})
    kept.send(BTC, touch(Market(), 1, 99, 101))

    kept.send(submitted(2, "o", Side.BUY, 100, 100))

    assert [position.quantity for position in last(kept).positions] == [40]


# --- Random streams ----------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("book"), st.integers(50, 150), st.integers(1, 3)),
        st.tuples(st.just("usdt"), st.integers(9_900, 10_100), st.integers(1, 3)),
        st.tuples(st.just("order"), st.sampled_from(list(Side)), st.integers(1, 2000)),
        st.tuples(st.just("fill"), st.integers(0, 3), st.integers(1, 900)),
        st.tuples(st.just("cancel"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("stale"), st.integers(0, 0), st.integers(0, 0)),
    ),
    max_size=40,
)


def tape(steps: list[tuple[str, Any, int]], with_fx: bool) -> list[Message]:
    market, fx = Market(), Market("other", "USDT/USD")
    messages: list[Message] = [BTC, instrument("other", "USDT/USD", tick="0.0001", lot="1")]
    open_orders: dict[str, tuple[Side, int]] = {}
    for n, (kind, which, amount) in enumerate(steps):
        ts = S + n * S * 2 // 5
        if kind == "book":
            messages.append(touch(market, ts, which, which + amount))
        elif kind == "usdt" and with_fx:
            messages.append(touch(fx, ts, which, which + amount))
        elif kind == "stale":
            messages.append(BookStale(ts, "test", "BTC/USDT", 1))
        elif kind == "order":
            messages.append(submitted(ts, f"o{n}", which, amount, 100))
            open_orders[f"o{n}"] = (which, amount)
        elif open_orders and kind in ("fill", "cancel"):
            order_id = list(open_orders)[which % len(open_orders)]
            side, leaves = open_orders.pop(order_id)
            if kind == "cancel":
                messages.append(OrderCanceled(ts, ts, order_id, "test", "BTC/USDT", leaves, "asked"))
                continue
            quantity = min(amount, leaves)
            if leaves > quantity:
                open_orders[order_id] = (side, leaves - quantity)
            fill = filled(ts, order_id, n, side, quantity, 100, leaves=leaves - quantity, fee="0.37")
            messages.append(fill)
    return messages


def opened(currency: str) -> Harness:
    opening = {"test.USDT": "10000", "test.BTC": "30"}
    return harness(opening=opening, currency=currency, stale_mark_s=2)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_property_6_the_parts_are_the_equity_to_the_unit_in_one_currency(steps):
    kept = opened("USDT")

    kept.send(touch(Market(), S, 100, 101), *tape(steps, with_fx=False))

    for snapshot in kept.of(PortfolioSnapshot):
        assert unexplained(snapshot) == 0
        if snapshot.is_marked and snapshot.opening:
            assert snapshot.unrealized == sum(position.unrealized for position in snapshot.positions)
            assert snapshot.realized == sum(position.realized for position in snapshot.positions)
            assert snapshot.fees == sum(position.fees for position in snapshot.positions)
            assert snapshot.drawdown <= snapshot.max_drawdown


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_property_6_the_parts_are_the_equity_to_the_unit_across_currencies(steps):
    kept = opened("USD")

    kept.send(*tape(steps, with_fx=True))

    assert all(unexplained(snapshot) == 0 for snapshot in kept.of(PortfolioSnapshot))


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sets(st.integers(0, 45), max_size=4))
def test_continues_exactly_after_a_restart_at_any_message(steps, cuts):
    messages = tape(steps, with_fx=True)

    restarted = run_with_restarts(lambda: opened("USD"), messages, cuts)

    assert restarted == run_with_restarts(lambda: opened("USD"), messages, [])


def test_every_option_has_a_description():
    fields = msgspec.json.schema(portfolio.PortfolioOptions)["$defs"]["PortfolioOptions"]["properties"]

    assert all(field.get("description") for field in fields.values())
