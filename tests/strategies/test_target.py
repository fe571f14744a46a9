"""The strategy that trades towards what a policy wants: how much, where, and a change of mind."""

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    BookStale,
    CancelOrder,
    HaltLevel,
    Liquidity,
    Message,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    PortfolioSnapshot,
    Position,
    Side,
    SubmitOrder,
    TargetPosition,
    TimeInForce,
    TradingHalted,
    TradingResumed,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.strategies import target

START = 1_700_000_000 * NS_PER_S
BOOK = {"bids": [(10_000, 500)], "asks": [(10_010, 500)]}
PLUGIN = "strategy-target"
MAKER, TAKER = Liquidity.MAKER, Liquidity.TAKER
# 10,000 of equity, a quarter of it at 100.05: 24.98750624 BTC in lots of 0.00001.
WHOLE = 2_498_750


def money(ts: int, lots: int = 0, equity: int = 10_000) -> PortfolioSnapshot:
    held = [Position("test", "BTC/USDT", lots, 0, 0, 0, 0, 0)] if lots else []
    units = equity * UNIT
    return PortfolioSnapshot(ts, "paper", "USDT", units, units, units, 0, 0, 0, 0.0, 0.0, True, [], held)


class Desk:
    """The strategy, one market, and an exchange whose answers the test writes."""

    def __init__(self, min_notional: str = "0", contract: str = "", **options: Any) -> None:
        self.market = Market()
        self.harness = Harness(target, options={PLUGIN: options})
        self.now = START
        known = msgspec.structs.replace(instrument(min_notional=min_notional), contract=contract)
        self.send(known, self.market.book(START, **BOOK), money(START))

    def send(self, *messages: Message) -> list[Any]:
        return self.harness.send(*messages)

    def want(self, fraction: float, liquidity: Liquidity = MAKER) -> list[Any]:
        self.now += NS_PER_S
        return self.send(TargetPosition(self.now, "paper", "test", "BTC/USDT", fraction, liquidity))

    def book(self, bid: int, ask: int) -> None:
        self.now += NS_PER_MS
        self.send(self.market.book(self.now, bids=[(bid, 500)], asks=[(ask, 500)]))

    def hold(self, lots: int) -> None:
        self.send(money(self.now, lots))

    def fill(self, order: SubmitOrder, quantity: int) -> list[Any]:
        leaves = order.quantity - quantity
        return self.send(
            OrderFilled(
                self.now,
                0,
                order.order_id,
                0,
                order.strategy,
                order.account,
                order.exchange,
                order.symbol,
                order.side,
                order.price,
                quantity,
                leaves,
                MAKER,
                0,
                "USDT",
                0,
                0,
                0,
                False,
                0,
            )
        )

    def canceled(self, order: SubmitOrder) -> list[Any]:
        return self.send(
            OrderCanceled(self.now, 0, order.order_id, order.exchange, order.symbol, order.quantity, "")
        )


@pytest.mark.parametrize(
    ("liquidity", "price", "time_in_force"),
    [(MAKER, 10_000, TimeInForce.POST_ONLY), (TAKER, 10_010, TimeInForce.IOC)],
)
def test_a_whole_target_is_the_limit_of_the_equity_at_the_mid(liquidity, price, time_in_force):
    (order,) = Desk().want(1.0, liquidity)

    assert (order.side, order.quantity, order.price) == (Side.BUY, WHOLE, price)
    assert order.time_in_force is time_in_force
    assert not order.reduce_only


def test_half_is_half_and_the_limit_is_an_option():
    (order,) = Desk(limit=0.1).want(0.5)

    assert order.quantity == pytest.approx(WHOLE * 0.4 * 0.5, abs=1)


def test_what_is_held_counts_and_is_sold_when_less_is_wanted():
    desk = Desk()
    desk.hold(WHOLE)
    assert desk.want(1.0) == []
    (order,) = desk.want(0.25, TAKER)

    assert (order.side, order.price, order.reduce_only) == (Side.SELL, 10_000, True)
    assert order.quantity == pytest.approx(0.75 * WHOLE, abs=1)


def test_spot_is_not_sold_short_and_a_perpetual_is():
    assert Desk().want(-1.0) == []
    (order,) = Desk(contract="linear").want(-1.0)

    assert (order.side, order.quantity, order.reduce_only) == (Side.SELL, WHOLE, False)


def test_a_difference_within_the_band_is_left_alone_but_nothing_means_nothing():
    desk = Desk(band=0.05)
    desk.hold(WHOLE - WHOLE // 25)
    assert desk.want(1.0) == []
    desk.hold(WHOLE // 25)
    (order,) = desk.want(0.0)

    assert (order.side, order.quantity) == (Side.SELL, WHOLE // 25)


def test_what_the_exchange_does_not_take_is_not_sent():
    assert Desk(min_notional="3000").want(1.0) == []


def test_an_order_that_waits_where_it_should_is_left_in_its_queue():
    desk = Desk()
    desk.want(1.0)

    assert desk.want(1.0) == []


def test_an_order_behind_the_best_price_is_taken_back_and_sent_anew_at_the_best():
    desk = Desk()
    (order,) = desk.want(1.0)
    desk.book(10_002, 10_012)
    (cancel,) = desk.want(1.0)
    assert isinstance(cancel, CancelOrder)
    assert "at 10002" in cancel.reason
    assert desk.want(1.0) == []  # it is taken back once
    (anew,) = desk.canceled(order)

    assert (anew.price, anew.side) == (10_002, Side.BUY)
    assert anew.order_id != order.order_id


def test_a_change_of_mind_takes_the_order_back_also_when_less_of_the_same_is_wanted():
    for fraction in (0.0, 0.3):
        desk = Desk()
        desk.want(1.0)
        assert [type(each) for each in desk.want(fraction)] == [CancelOrder]


def test_of_a_part_filled_order_only_the_rest_is_missed():
    desk = Desk()
    (order,) = desk.want(1.0)
    desk.fill(order, WHOLE // 2)
    desk.hold(WHOLE // 2)
    assert desk.want(1.0) == []
    desk.fill(order, order.quantity)
    desk.hold(WHOLE)

    assert desk.want(1.0) == []


def test_what_took_too_little_is_not_repeated_until_the_policy_speaks_again():
    desk = Desk()
    (order,) = desk.want(1.0, TAKER)
    assert desk.send(OrderExpired(desk.now, 0, order.order_id, "test", "BTC/USDT", order.quantity, "")) == []

    assert [type(each) for each in desk.want(1.0, TAKER)] == [SubmitOrder]


def test_a_denied_order_is_over():
    desk = Desk()
    (order,) = desk.want(1.0)
    desk.send(
        OrderDenied(
            desk.now, order.order_id, PLUGIN, "paper", order.exchange, order.symbol, "risk-limits", "too much"
        )
    )

    assert [type(each) for each in desk.want(1.0)] == [SubmitOrder]


def test_nothing_is_sent_on_a_book_that_cannot_be_trusted_or_while_trading_is_halted():
    desk = Desk()
    desk.want(1.0)
    desk.send(BookStale(desk.now, "test", "BTC/USDT", 5_000))
    assert [type(each) for each in desk.want(1.0)] == [CancelOrder]

    desk = Desk()
    desk.send(TradingHalted(desk.now, "person", "halt", HaltLevel.CANCEL))
    assert desk.want(1.0) == []
    desk.send(TradingResumed(desk.now, "person", "go on"))
    assert [type(each) for each in desk.want(1.0)] == [SubmitOrder]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-2, 2, width=16), st.sampled_from(Liquidity), st.integers(0, 2 * WHOLE)),
        max_size=12,
    ),
    st.sets(st.integers(1, 30)),
)
def test_one_order_at_a_time_never_beyond_the_limit_and_the_same_behind_a_restart(wishes, cuts):
    market = Market()
    tape: list[Message] = [instrument(), market.book(START, **BOOK), money(START)]
    for at, (fraction, liquidity, held) in enumerate(wishes, 1):
        now = START + at * NS_PER_S
        tape += [money(now, held), TargetPosition(now, "paper", "test", "BTC/USDT", fraction, liquidity)]
    build = partial(Harness, target)
    outputs = run_with_restarts(build, tape, ())

    assert run_with_restarts(build, tape, cuts) == outputs
    orders = [each for each in outputs if isinstance(each, SubmitOrder)]
    assert len(orders) <= 1  # the exchange never answers, so the first one stays
    for order in orders:
        held = next(
            each for each in tape if isinstance(each, PortfolioSnapshot) and each.ts_recv == order.ts_recv
        )
        lots = sum(each.quantity for each in held.positions)
        assert 0 <= lots + order.side * order.quantity <= max(WHOLE, lots)
