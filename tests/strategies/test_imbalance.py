"""The imbalance baseline: each rule of getting in and out, and what it does with its orders' fates."""

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    CancelOrder,
    FeatureVector,
    Liquidity,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderType,
    Side,
    SubmitOrder,
    TimeInForce,
    TradingHalted,
    TradingResumed,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import features_core
from tickerml.strategies import imbalance

START = 1_700_000_000 * NS_PER_S
BOOK = {"bids": [(10_000, 500)], "asks": [(10_010, 500)]}
QUANTITY = 200_000  # lots of 0.00001 for 200 at 100.00
PLUGIN = "strategy-imbalance"


def row(
    ts: int,
    imbalance_5: float = 0.0,
    microprice: float = 0.0,
    flow: float = 0.0,
    symbol: str = "BTC/USDT",
    feature_set: str = "features-core",
    mid: float = 100.05,
) -> FeatureVector:
    values = [0.0, imbalance_5, 0.0, microprice, 10.0, mid, flow, math.nan, math.nan]
    return FeatureVector(ts, ts, "test", symbol, feature_set, struct.pack("<9d", *values))


class Desk:
    """The strategy, one market, and an exchange whose answers the test writes."""

    def __init__(self, min_notional: str = "0", **options: Any) -> None:
        self.market = Market()
        self.harness = Harness(imbalance, options={PLUGIN: {"cooldown_ms": 1000, **options}})
        self.send(instrument(min_notional=min_notional), self.market.book(START, **BOOK))

    def send(self, *messages: Message) -> list[Any]:
        return self.harness.send(*messages)

    def at(self, ms: float, imbalance_5: float = 0.0, **values: Any) -> list[Any]:
        return self.send(row(START + round(ms * NS_PER_MS), imbalance_5, **values))

    def fill(self, order: SubmitOrder, ms: float, quantity: int | None = None, **changes: Any) -> list[Any]:
        fields = {
            "leaves": order.quantity - (quantity or order.quantity),
            "fee": 0,
            "fee_asset": "USDT",
            **changes,
        }
        return self.send(
            OrderFilled(
                START + round(ms * NS_PER_MS),
                0,
                order.order_id,
                0,
                order.strategy,
                order.account,
                order.exchange,
                order.symbol,
                order.side,
                order.price,
                quantity or order.quantity,
                fields["leaves"],
                Liquidity.MAKER,
                fields["fee"],
                fields["fee_asset"],
                0,
                0,
                0,
                False,
                0,
            )
        )

    def holding(self) -> "Desk":
        """Buy at START and hold."""
        [order] = self.at(0, 0.5, microprice=1.0)
        self.fill(order, 0)
        return self


def test_its_columns_are_the_first_of_the_feature_set():
    [spec] = features_core.tickerml_feature_sets()

    assert spec.id == imbalance.FEATURE_SET
    assert spec.columns[: len(imbalance.COLUMNS)] == imbalance.COLUMNS


def test_bids_as_a_maker_at_the_best_bid_for_the_notional_when_the_bid_side_is_heavy():
    [order] = Desk().at(0, 0.62, microprice=0.4)

    assert order == SubmitOrder(
        START,
        "strategy-imbalance-0",
        PLUGIN,
        "paper",
        "test",
        "BTC/USDT",
        Side.BUY,
        OrderType.LIMIT,
        TimeInForce.POST_ONLY,
        10_000,
        QUANTITY,
        False,
        "imbalance_5 0.62 > 0.35, microprice_offset_bps 0.400 > 0",
        0.5,
    )


def test_takes_the_best_ask_when_pressure_is_extreme_and_trades_confirm_it():
    [order] = Desk().at(0, 0.9, microprice=1.0, flow=0.6)

    assert (order.side, order.time_in_force, order.price) == (Side.BUY, TimeInForce.IOC, 10_010)
    assert order.reason == "imbalance_5 0.90 > 0.80, trade_imbalance_1s 0.60 > 0.50"
    assert order.quantity == 199_800  # 200 / 100.10, rounded down


def test_only_bids_when_pressure_is_extreme_and_trades_do_not_confirm_it():
    [order] = Desk().at(0, 0.9, microprice=1.0, flow=0.5)

    assert order.time_in_force is TimeInForce.POST_ONLY


@pytest.mark.parametrize(
    "signal",
    [
        {"imbalance_5": 0.35, "microprice": 1.0},
        {"imbalance_5": 0.6, "microprice": 0.0},
        {"imbalance_5": 0.6, "microprice": -1.0},
        {"imbalance_5": -0.9, "microprice": 1.0, "flow": -1.0},
        {"imbalance_5": math.nan, "microprice": math.nan, "flow": math.nan},
        {"imbalance_5": 0.9, "microprice": 1.0, "feature_set": "features-other"},
    ],
    ids=str,
)
def test_does_nothing_without_its_signal(signal):
    assert Desk().at(0, **signal) == []


def test_does_nothing_on_a_book_it_cannot_trust():
    desk = Desk()

    desk.send(desk.market.delta(START, bids=[(10_020, 1)]))

    assert desk.at(0, 0.9, microprice=1.0) == []


def test_does_nothing_before_the_instrument_is_known():
    harness = Harness(imbalance)
    harness.send(Market().book(START, **BOOK))

    assert harness.send(row(START, 0.9, 1.0)) == []


def test_trades_only_the_symbols_it_was_given():
    desk = Desk(symbols=["ETH/USDT"])
    desk.send(instrument(symbol="ETH/USDT"), Market(symbol="ETH/USDT").book(START, **BOOK))

    assert desk.at(0, 0.9, microprice=1.0) == []
    assert [order.symbol for order in desk.at(0, 0.9, microprice=1.0, symbol="ETH/USDT")] == ["ETH/USDT"]


def test_sends_nothing_below_the_least_notional():
    assert Desk(min_notional="201").at(0, 0.9, microprice=1.0) == []
    assert len(Desk(min_notional="199").at(0, 0.9, microprice=1.0)) == 1


def test_sends_nothing_when_the_notional_is_less_than_a_lot():
    assert Desk(order_notional="0.0009").at(0, 0.9, microprice=1.0) == []


def test_keeps_one_order_at_a_time():
    desk = Desk()

    assert len(desk.at(0, 0.5, microprice=1.0)) == 1
    assert desk.at(2000, 0.5, microprice=1.0) == []


def test_rests_for_the_cooldown_after_an_order_has_ended():
    desk = Desk(cooldown_ms=3000)
    [order] = desk.at(0, 0.5, microprice=1.0)
    desk.send(OrderRejected(START, 0, order.order_id, "test", "BTC/USDT", "would take"))

    assert desk.at(2999, 0.5, microprice=1.0) == []
    assert [again.order_id for again in desk.at(3000, 0.5, microprice=1.0)] == ["strategy-imbalance-1"]


@pytest.mark.parametrize(
    "end",
    [
        lambda order: OrderDenied(
            START, order.order_id, order.strategy, "paper", "test", "BTC/USDT", "limits", "too much"
        ),
        lambda order: OrderRejected(START, 0, order.order_id, "test", "BTC/USDT", "would take"),
        lambda order: OrderCanceled(START, 0, order.order_id, "test", "BTC/USDT", order.quantity, "asked"),
        lambda order: OrderExpired(START, 0, order.order_id, "test", "BTC/USDT", order.quantity, "IOC"),
    ],
    ids=["denied", "rejected", "canceled", "expired"],
)
def test_an_order_that_has_ended_makes_way_for_the_next(end):
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)

    desk.send(end(order))

    assert [again.side for again in desk.at(1000, 0.5, microprice=1.0)] == [Side.BUY]


def test_ignores_the_fate_of_orders_that_are_not_its_own():
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)

    desk.send(OrderRejected(START, 0, "somebody-0", "test", "BTC/USDT", "would take"))
    desk.fill(msgspec.structs.replace(order, order_id="somebody-1"), 0)

    assert desk.at(2000, 0.5, microprice=1.0) == []  # still waiting for its own
    desk.send(OrderRejected(START, 0, order.order_id, "test", "BTC/USDT", "would take"))
    assert desk.at(3000, -0.5) == []  # and holds nothing


def test_offers_what_it_holds_at_the_best_ask_once_the_pressure_has_turned():
    desk = Desk().holding()

    assert desk.at(1000, -0.1) == []
    [order] = desk.at(1100, -0.2)

    assert (order.side, order.time_in_force, order.price) == (Side.SELL, TimeInForce.POST_ONLY, 10_010)
    assert (order.quantity, order.reduce_only) == (QUANTITY, True)
    assert order.reason == "imbalance_5 -0.20 < -0.10"


def test_offers_what_it_has_held_too_long():
    desk = Desk().holding()

    assert desk.at(120_000, 0.9, microprice=1.0) == []
    [order] = desk.at(120_100, 0.9, microprice=1.0)

    assert (order.side, order.time_in_force) == (Side.SELL, TimeInForce.POST_ONLY)
    assert order.reason == "held 120.1 s > 120 s"


def test_takes_the_best_bid_once_sellers_press_hard():
    [order] = Desk().holding().at(1000, -0.85)

    assert (order.side, order.time_in_force, order.price) == (Side.SELL, TimeInForce.IOC, 10_000)
    assert order.reason == "imbalance_5 -0.85 < -0.80"


def test_takes_the_best_bid_after_twice_the_longest_holding():
    [order] = Desk().holding().at(240_100, 0.9, microprice=1.0)

    assert (order.side, order.time_in_force) == (Side.SELL, TimeInForce.IOC)
    assert order.reason == "held 240.1 s > 240 s"


def test_sells_only_what_was_filled():
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)
    desk.fill(order, 100, quantity=70_000)
    desk.send(OrderCanceled(START, 0, order.order_id, "test", "BTC/USDT", 130_000, "asked"))

    [sale] = desk.at(1000, -0.5)

    assert sale.quantity == 70_000


def test_a_fee_in_the_base_asset_is_not_there_to_be_sold():
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)
    desk.fill(order, 0, fee=15 * 10**6 + 1, fee_asset="BTC")  # one and a half lots, and a bit

    [sale] = desk.at(1000, -0.5)

    assert sale.quantity == QUANTITY - 2


def test_dust_waits_for_the_next_purchase_to_be_sold_with_it():
    desk = Desk(min_notional="10")
    [order] = desk.at(0, 0.5, microprice=1.0)
    desk.fill(order, 0, quantity=5)
    desk.send(OrderCanceled(START, 0, order.order_id, "test", "BTC/USDT", order.quantity - 5, "asked"))

    assert desk.at(1000, -0.9) == []
    [more] = desk.at(1100, 0.5, microprice=1.0)
    desk.fill(more, 1100)
    [sale] = desk.at(2200, -0.5)

    assert sale.quantity == more.quantity + 5


def test_after_a_full_sale_it_starts_over():
    desk = Desk().holding()
    [sale] = desk.at(1000, -0.5)
    desk.fill(sale, 1000)

    assert desk.at(2000, -0.9) == []
    assert [order.side for order in desk.at(2100, 0.5, microprice=1.0)] == [Side.BUY]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bids": [(10_001, 5)]}, "the best price is 100.01, ours 100"),
        ({"bids": [(10_000, 0), (9_999, 5)]}, "the best price is 99.99, ours 100"),
        ({"bids": [(10_010, 5)]}, "the book cannot be trusted"),
    ],
)
def test_takes_back_an_order_that_the_market_has_left(change, reason):
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)

    desk.send(desk.market.delta(START, **change))
    cancels = desk.at(100)

    assert cancels == [CancelOrder(START + 100 * NS_PER_MS, order.order_id, "test", "BTC/USDT", reason)]


def test_takes_back_an_old_order_once():
    desk = Desk()
    desk.at(0, 0.5, microprice=1.0)

    assert desk.at(5000) == []
    [cancel] = desk.at(5100)
    assert cancel.reason == "older than 5000 ms"
    assert desk.at(5200) == []


def test_a_fill_on_the_way_to_a_cancel_counts():
    desk = Desk()
    [order] = desk.at(0, 0.5, microprice=1.0)
    desk.at(5100)

    desk.fill(order, 5150)
    [sale] = desk.at(5200, -0.5)

    assert (sale.side, sale.quantity) == (Side.SELL, QUANTITY)


def test_does_not_cancel_an_order_that_cannot_rest():
    desk = Desk()
    desk.at(0, 0.9, microprice=1.0, flow=0.9)

    assert desk.at(6000) == []


def test_sends_nothing_while_trading_is_halted():
    desk = Desk()

    desk.send(TradingHalted(START, "drawdown", "25 %"))
    assert desk.at(0, 0.5, microprice=1.0) == []
    desk.send(TradingResumed(START, "operator", "looked at it"))
    assert len(desk.at(100, 0.5, microprice=1.0)) == 1


def test_a_halt_outlasts_a_restart():
    tape = [
        instrument(),
        Market().book(START, **BOOK),
        TradingHalted(START, "drawdown", "25 %"),
        row(START, 0.5, 1.0),
    ]

    assert run_with_restarts(lambda: Harness(imbalance), tape, [3]) == []


# --- How sure it is --------------------------------------------------------------------------------


def sureness(moves, strength=0.52, asked=0.52):
    """The confidence of an order after signals of *strength* that the mid answered with *moves*."""
    desk = Desk(cooldown_ms=0)
    desk.send(TradingHalted(START, "test", "only looks"))
    for n, move in enumerate(moves):
        desk.at(n * 20_000, strength, microprice=1.0, mid=100.0)
        desk.at(n * 20_000 + 10_000, mid=100.0 + move)
    desk.send(TradingResumed(START, "test", "enough"))
    [order] = desk.at(len(moves) * 20_000, asked, microprice=1.0, mid=100.0)
    return order.confidence


@pytest.mark.parametrize(
    ("moves", "confidence"),
    [
        ([], 5 / 10),
        ([0.01], 6 / 11),
        ([-0.01], 5 / 11),
        ([0.01, 0.01, -0.01], 7 / 13),
        ([0.0, 0.0], 5 / 10),  # a mid that stands says nothing
        ([math.nan], 5 / 10),
    ],
)
def test_it_is_as_sure_as_its_past_signals_of_that_strength_were_right(moves, confidence):
    assert sureness(moves) == confidence


def test_signals_of_another_strength_say_nothing_of_this_one():
    assert sureness([0.01] * 3, strength=0.52, asked=0.59) == 8 / 13
    assert sureness([0.01] * 3, strength=0.52, asked=0.62) == 0.5
    assert sureness([0.01] * 3, strength=1.0, asked=0.99) == 8 / 13


def test_a_signal_while_another_is_watched_is_not_counted_again():
    desk = Desk(cooldown_ms=0)
    desk.send(TradingHalted(START, "test", "only looks"))
    for ms in range(0, 10_000, 1000):
        desk.at(ms, 0.52, microprice=1.0, mid=100.0)
    desk.at(10_000, mid=101.0)
    desk.send(TradingResumed(START, "test", "enough"))

    [order] = desk.at(10_100, 0.52, microprice=1.0)

    assert order.confidence == 6 / 11


def test_a_signal_is_judged_once_its_horizon_is_over_and_not_before():
    desk = Desk(cooldown_ms=0, horizon_s=3.0)
    desk.send(TradingHalted(START, "test", "only looks"))
    desk.at(0, 0.52, microprice=1.0, mid=100.0)
    desk.at(2_999, mid=90.0)
    desk.at(3_000, mid=100.01)
    desk.send(TradingResumed(START, "test", "enough"))

    [order] = desk.at(3_100, 0.52, microprice=1.0)

    assert order.confidence == 6 / 11


def test_each_symbol_has_a_record_of_its_own():
    desk = Desk(cooldown_ms=0)
    desk.send(instrument(symbol="ETH/USDT"), Market(symbol="ETH/USDT").book(START, **BOOK))
    desk.send(TradingHalted(START, "test", "only looks"))
    desk.at(0, 0.52, microprice=1.0, mid=100.0, symbol="ETH/USDT")
    desk.at(10_000, mid=101.0, symbol="ETH/USDT")
    desk.send(TradingResumed(START, "test", "enough"))

    [order] = desk.at(10_100, 0.52, microprice=1.0)

    assert order.confidence == 0.5


def test_what_only_gets_out_needs_no_confidence():
    [order] = Desk().holding().at(5_000, -0.5)

    assert (order.side, order.confidence) == (Side.SELL, None)


def test_what_an_older_version_remembers_is_taken_over_and_its_record_begins_anew():
    desk, late = Desk().holding(), Desk()
    strategy, other = (each.harness.bus.component(PLUGIN) for each in (desk, late))
    desks, *rest = msgspec.msgpack.decode(strategy.snapshot())

    other.restore(other.migrate(msgspec.msgpack.encode([[each[:7] for each in desks], *rest]), 1))

    [order] = late.at(5_000, -0.5)
    assert (order.side, order.quantity) == (Side.SELL, QUANTITY)


# --- Restarts -------------------------------------------------------------------------------------


class _Exchange:
    """Writes a random but lawful market in which the strategy's orders meet random fates."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.market = Market()
        self.ts = START

    def fate(self, order: SubmitOrder, fill: int) -> list[Message]:
        to = (self.ts, 0, order.order_id, "test", "BTC/USDT")
        kind = int(self.random.integers(0, 4))
        accepted = OrderAccepted(*to, 0, 0)
        if kind == 0:
            return [OrderRejected(*to, "would take")]
        if kind == 1:
            return [accepted, OrderCanceled(*to, order.quantity, "asked")]
        part = order.quantity // 3 if kind == 2 else order.quantity
        filled = OrderFilled(
            self.ts,
            0,
            order.order_id,
            fill,
            order.strategy,
            order.account,
            "test",
            "BTC/USDT",
            order.side,
            order.price,
            part,
            order.quantity - part,
            Liquidity.MAKER,
            0,
            "USDT",
            0,
            0,
            0,
            False,
            0,
        )
        rest = [OrderExpired(*to, order.quantity - part, "IOC")] if part < order.quantity else []
        return [accepted, filled, *rest]

    def tape(self, count: int) -> list[Message]:
        bus = Harness(imbalance)
        tape: list[Message] = [instrument(), self.market.book(START, **BOOK)]
        bus.send(*tape)
        waiting: list[SubmitOrder] = []
        for number in range(count):
            self.ts += 100 * NS_PER_MS
            mid = 100 + int(self.random.integers(0, 3)) / 100
            messages: list[Message] = [row(self.ts, *self.random.uniform(-1, 1, 3), mid=mid)]
            if self.random.random() < 0.2:
                price = 9_990 + int(self.random.integers(0, 15))
                messages.append(self.market.delta(self.ts, bids=[(price, int(self.random.integers(0, 2)))]))
            if waiting and self.random.random() < 0.3:
                messages += self.fate(waiting.pop(), number)
            outputs = bus.send(*messages)
            waiting += [output for output in outputs if isinstance(output, SubmitOrder)]
            tape += messages
        return tape


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=20, deadline=None)
def test_a_restart_at_any_message_changes_no_decision(seed, cuts):
    tape = _Exchange(seed).tape(300)

    whole = Harness(imbalance).send(*tape)

    assert len([output for output in whole if isinstance(output, SubmitOrder)]) >= 5
    assert run_with_restarts(lambda: Harness(imbalance), tape, cuts) == whole
