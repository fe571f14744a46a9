"""Funding is expected by the contract's own data, and a position is opened, kept and closed for it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    FundingUpdated,
    LegsSettled,
    Liquidity,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionLiquidated,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TradingHalted,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.strategies import carry

START = 1_700_000_000 * NS_PER_S
HOUR = 3600
BPS = UNIT // 10_000


def funding(at_s=0, rate=10.0, predicted=10.0, next_s=4 * HOUR, interval_s=8 * HOUR, cap=0, floor=0):
    """Return what "futures" says at *at_s*: rates in bps, times in s from the start."""
    rates = round(rate * BPS), round(predicted * BPS)
    times = START + next_s * NS_PER_S, interval_s
    ts = START + at_s * NS_PER_S
    return FundingUpdated(ts, ts, "futures", "BTC/USDT-PERP", 0, 0, *rates, *times, cap * BPS, floor * BPS)


class Desk:
    """A spot at 99.99/100.01 and a perpetual at 99.99/100.01, fees 0.10 and 0.06 %, lots 0.001 and 0.01."""

    def __init__(self, **options):
        self.build = lambda: Harness(
            carry, options={carry.CARRY: {"spots": {"futures": "spot"}, "horizon_s": 24 * HOUR, **options}}
        )
        self.harness = self.build()
        self.tape = []
        self.fills = 0
        future = instrument("futures", "BTC/USDT", lot="0.01", taker_fee_ppm=600)
        self.send(instrument("spot", "BTC/USDT", lot="0.001"))
        self.send(msgspec.structs.replace(future, symbol="BTC/USDT-PERP", contract="linear"))
        self.books(0)

    def send(self, *messages):
        self.tape += messages
        return self.harness.send(*messages)

    def books(self, at_s):
        ts = START + at_s * NS_PER_S
        for market in (Market("spot"), Market("futures", "BTC/USDT-PERP")):
            self.send(market.book(ts, bids=[(9_999, 10**6)], asks=[(10_001, 10**6)]))

    def submit(self, order):
        to = (order.order_id, order.strategy, order.account, order.exchange, order.symbol, order.side)
        terms = (order.order_type, order.time_in_force, order.price, order.quantity, 0)
        return self.send(OrderSubmitted(order.ts_recv, *to, *terms))

    def both(self, outputs):
        """Return the purchase in *outputs* and the sale behind it."""
        [buy] = outputs
        [sell] = self.submit(buy)
        return buy, sell

    def fill(self, order, price):
        self.fills += 1
        to = (order.strategy, order.account, order.exchange, order.symbol, order.side, price)
        done = (order.quantity, 0, Liquidity.TAKER, 0, "USDT", 0, 0, 0, False, 0)
        ts = order.ts_recv
        outputs = self.send(OrderFilled(ts, ts, order.order_id, self.fills, *to, *done))
        return [output for output in outputs if isinstance(output, SubmitOrder | LegsSettled)]

    def holding(self):
        buy, sell = self.both(self.send(funding(rate=40)))
        self.fill(buy, 10_001)
        self.fill(sell, 9_999)
        return self


# --- What is expected -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "horizon_h", "expected"),
    [
        ({}, 24, 30),  # in 4, 12 and 20 hours
        ({}, 3, 0),  # the next payment is in 4
        ({}, 4, 10),
        ({"interval_s": HOUR, "next_s": 1800}, 24, 240),
        ({"interval_s": 4 * HOUR, "next_s": HOUR}, 24, 60),
        ({"rate": 5, "predicted": 20}, 24, 45),
        ({"rate": 5, "predicted": 0}, 24, 15),
        ({"rate": 500, "predicted": -500, "cap": 30, "floor": -20}, 24, -10),
        ({"next_s": 0}, 24, 0),  # due: who was there is paid already
    ],
)
def test_the_funding_expected_is_that_of_the_contract(said, horizon_h, expected):
    assert carry.expected_funding(funding(**said), START, horizon_h * HOUR) == expected * BPS


@given(
    st.integers(-100, 100),
    st.integers(-100, 100),
    st.integers(1, 24),
    st.integers(60, 30 * HOUR),
    st.integers(1, 200),
)
def test_the_funding_expected_is_the_sum_of_its_payments(rate, predicted, hours, next_s, horizon_h):
    said = funding(rate=rate, predicted=predicted, interval_s=hours * HOUR, next_s=next_s)
    times = range(next_s, horizon_h * HOUR + 1, hours * HOUR)

    payments = [rate if number == 0 else predicted or rate for number, _ in enumerate(times)]
    assert carry.expected_funding(said, START, horizon_h * HOUR) == sum(payments) * BPS


# --- Opening --------------------------------------------------------------------------------------


def test_buys_the_spot_and_sells_as_much_of_the_perpetual():
    desk = Desk()

    buy, sell = desk.both(desk.send(funding(rate=40)))

    assert (buy.exchange, buy.symbol, buy.side) == ("spot", "BTC/USDT", Side.BUY)
    assert (sell.exchange, sell.symbol, sell.side) == ("futures", "BTC/USDT-PERP", Side.SELL)
    assert buy.price == 10_001 + 5  # 5 bps, in whole ticks
    assert sell.price == 9_999 - 4
    assert (buy.quantity, sell.quantity) == (4_990, 499)  # 500 USDT at 100.06, whole lots of both
    assert not buy.reduce_only
    assert "60.0 bps expected, 36.0 bps of costs" in buy.reason


@pytest.mark.parametrize(("rate", "opens"), [(20.9, False), (21.1, True)])
def test_opens_where_the_funding_beats_four_fees_both_spreads_and_the_least_profit(rate, opens):
    # 20 + 12 bps of fees, 2 x 2 bps of spread and 5 bps: 41 of which 20 are paid later
    assert bool(Desk().send(funding(rate=rate))) is opens


def test_opens_nothing_in_the_last_ten_minutes_before_a_payment():
    assert Desk().send(funding(rate=400, next_s=599)) == []
    assert len(Desk().send(funding(rate=400, next_s=600))) == 1


def test_opens_nothing_on_a_doubtful_book_or_while_halted_or_without_a_spot():
    doubtful, halted = Desk(), Desk()
    doubtful.send(Market("spot").book(START, bids=[(10_002, 1)], asks=[(10_001, 1)]))
    halted.send(TradingHalted(START, "person", ""))

    assert doubtful.send(funding(rate=400)) == []
    assert halted.send(funding(rate=400)) == []
    assert Desk(spots={"other": "spot"}).send(funding(rate=400)) == []


def test_a_position_is_opened_once():
    desk = Desk().holding()

    assert desk.send(funding(at_s=60, rate=40)) == []


def test_a_perpetual_that_is_refused_leaves_no_spot_and_a_rest():
    desk = Desk(rest_s=600)
    buy, sell = desk.both(desk.send(funding(rate=400)))
    desk.fill(buy, 10_001)
    desk.send(OrderRejected(START, START, sell.order_id, "futures", "BTC/USDT-PERP", "no futures here"))
    [unwinding] = desk.send(TimeTick(START + NS_PER_S // 2))
    [settled] = desk.fill(unwinding, 9_999)

    assert (unwinding.exchange, unwinding.side, unwinding.quantity) == ("spot", Side.SELL, buy.quantity)
    assert unwinding.reduce_only
    assert (settled.outcome, settled.left) == ("unwound", 0)
    assert desk.send(funding(at_s=500, rate=400)) == []
    assert len(desk.send(funding(at_s=700, rate=400))) == 1


# --- Closing --------------------------------------------------------------------------------------


def test_closes_both_legs_when_the_funding_turns():
    desk = Desk().holding()
    assert desk.send(funding(at_s=60, rate=1, predicted=1)) == []

    buy, sell = desk.both(desk.send(funding(at_s=120, rate=-1, predicted=-1)))

    assert (buy.exchange, buy.side, buy.quantity) == ("futures", Side.BUY, 499)
    assert (sell.exchange, sell.side, sell.quantity) == ("spot", Side.SELL, 4_990)
    assert buy.reduce_only
    assert sell.reduce_only
    desk.fill(buy, 10_001)
    [settled] = desk.fill(sell, 9_999)
    assert (settled.outcome, settled.left) == ("both", 0)
    assert len(desk.send(funding(at_s=180, rate=40))) == 1


def test_spot_whose_perpetual_was_liquidated_is_sold_and_nothing_is_opened_for_a_while():
    desk = Desk(rest_s=600).holding()
    gone = PositionLiquidated(
        START + NS_PER_S, "paper", "futures", "BTC/USDT-PERP", -499, 15_000, "USDT", 0, 0, 0, 0
    )

    assert desk.send(msgspec.structs.replace(gone, account="other")) == []
    [sale] = desk.send(gone)
    assert (sale.exchange, sale.symbol, sale.side, sale.quantity) == ("spot", "BTC/USDT", Side.SELL, 4_990)
    assert (sale.time_in_force, sale.reduce_only, sale.price) == (TimeInForce.IOC, True, 9_999 - 4)
    assert desk.send(gone, funding(at_s=60, rate=400)) == []
    desk.books(700)
    [buy] = desk.send(funding(at_s=700, rate=400))
    assert buy.side is Side.BUY


def test_takes_a_payment_that_is_about_to_come_before_it_closes():
    desk = Desk().holding()

    assert desk.send(funding(at_s=4 * HOUR - 300, rate=1, predicted=-9)) == []
    assert len(desk.send(funding(at_s=4 * HOUR + 1, rate=-9, predicted=-9, next_s=12 * HOUR))) == 1


def test_opening_and_closing_come_to_the_difference_of_the_prices():
    desk = Desk().holding()
    buy, sell = desk.both(desk.send(funding(at_s=120, rate=-1, predicted=-1)))
    desk.fill(buy, 9_000)
    desk.fill(sell, 9_100)

    opened, closed = desk.harness.of(LegsSettled)
    # 4.99 bought at 100.01 and sold at 91; sold at 99.99 and bought at 90
    assert opened.legs + closed.legs == to_units("4.99") * (-901 + 999) // 100


# --- Restarts -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), max_size=4))
def test_a_restart_at_any_message_changes_nothing(cuts):
    desk = Desk().holding()
    buy, sell = desk.both(desk.send(funding(at_s=120, rate=-1, predicted=-1)))
    desk.fill(buy, 10_001)
    desk.fill(sell, 9_999)

    assert run_with_restarts(desk.build, desk.tape, cuts) == desk.harness.outputs
