"""
What goes wrong between a wish and its money: gate, rules, simulator and ledger on one bus.

Each case is one that a simulator known to us, or its users, got wrong.
"""

from typing import Any

import msgspec
import pytest

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    Balance,
    CancelOrder,
    HaltTrading,
    LedgerPosted,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderFilled,
    OrderType,
    PortfolioSnapshot,
    SequenceGap,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import portfolio, sim_fifo
from tickerml.plugins.ledger import ROUNDING_ALLOWANCE
from tickerml.risk import drawdown, limits

BUY, SELL = Side.BUY, Side.SELL
START = 1_700_000_000 * NS_PER_S
BIDS, ASKS = [(9_990, 100), (9_980, 200)], [(10_010, 100), (10_020, 200)]
FEE_PPM = 1_000
DOLLAR = to_units("1")


class Desk:
    """One exchange 50 ms away each way, 10,000 USDT on it; a lot is 0.01 and a tick 0.01, times are in ms."""

    def __init__(self, **simulator: Any) -> None:
        timing = {"latency_ms": {"test": (50, 50)}, "spike_probability": 0.0, "quiet_ms": 20}
        self.harness = Harness(
            sim_fifo,
            portfolio,
            limits,
            drawdown,
            options={
                "sim-fifo": {**timing, **simulator},
                "portfolio": {"opening": {"test.USDT": "10000"}, "currency": "USDT"},
            },
            with_gate=True,
        )
        self.market = Market()
        listed = instrument(lot="0.01", min_notional="20", maker_fee_ppm=FEE_PPM, taker_fee_ppm=FEE_PPM)
        self.harness.send(listed, self.market.book(START - 2 * NS_PER_S, BIDS, ASKS))
        self.wait(0)  # a second has passed, so the account is marked
        self.book(0)

    def wait(self, at: float) -> list[Message]:
        return self.harness.send(TimeTick(ns(at)))

    def order(
        self,
        at: float,
        order_id: str,
        quantity: int,
        side: Side = BUY,
        price: int = 9_990,
        tif: TimeInForce = TimeInForce.GTC,
    ) -> list[Message]:
        head = (ns(at), order_id, "s", "paper", "test", "BTC/USDT")
        return self.harness.send(SubmitOrder(*head, side, OrderType.LIMIT, tif, price, quantity))

    def cancel(self, at: float, order_id: str) -> list[Message]:
        return self.harness.send(CancelOrder(ns(at), order_id, "test", "BTC/USDT", "asked"))

    def trade(self, at: float, price: int, quantity: int, aggressor: Side = SELL) -> list[Message]:
        return self.harness.send(self.market.trade(ns(at), price, quantity, aggressor))

    def book(self, at: float, bids: Any = BIDS, asks: Any = ASKS) -> list[Message]:
        return self.harness.send(self.market.book(ns(at), bids, asks))

    def gap(self, at: float) -> list[Message]:
        return self.harness.send(SequenceGap(ns(at), "test", "BTC/USDT", 7, 9))

    def resting(self, order_id: str) -> dict[str, Any]:
        """Return *order_id* as it rests at the exchange."""
        found = self.harness.bus.component("sim-fifo").open_orders()
        return next(each for each in found if each["order_id"] == order_id)

    def open_anywhere(self) -> list[str]:
        """Return the orders that the gate or the exchange takes for open."""
        at_exchange = self.harness.bus.component("sim-fifo").open_orders()
        return sorted(
            {*self.harness.bus.component("gate").open_orders, *(o["order_id"] for o in at_exchange)}
        )

    def fills(self) -> list[tuple[str, int, int]]:
        """Return (order, lots, leaves) of each fill."""
        return [(each.order_id, each.quantity, each.leaves) for each in self.harness.of(OrderFilled)]

    @property
    def account(self) -> PortfolioSnapshot:
        """The account as it was told last, whose sums are right and whose transactions explain it."""
        told: list[PortfolioSnapshot] = self.harness.of(PortfolioSnapshot)
        last = told[-1]
        assert last.opening + last.realized + last.unrealized - last.fees == last.equity
        for asset, opening in (("USDT", to_units("10000")), ("BTC", 0)):
            moved = sum(
                leg.amount
                for posted in self.harness.of(LedgerPosted)
                for leg in posted.legs
                if leg.asset == asset and leg.bucket in ("free", "held")
            )
            balance = self.balance(asset, last)
            assert balance.free + balance.held - opening == moved
        return last

    def balance(self, asset: str, account: PortfolioSnapshot | None = None) -> Balance:
        """Return what the account has of *asset*."""
        account = account or self.account
        known = {each.asset: each for each in account.balances}
        return known.get(asset, Balance("test", asset, 0, 0))


def ns(at: float) -> int:
    return START + int(at * NS_PER_MS)


def worth(price: int, lots: int) -> int:
    """Return what *lots* come to at *price* ticks, fee included, in units of USDT."""
    notional = price * lots * DOLLAR // 10_000
    return notional + notional * FEE_PPM // 1_000_000


def held_for(price: int, lots: int) -> int:
    """Return what is reserved for *lots* at *price* ticks, in units of USDT."""
    return worth(price, lots) + ROUNDING_ALLOWANCE


@pytest.fixture
def desk() -> Desk:
    """A desk with one order, a, for 50 lots behind 100."""
    desk = Desk()
    desk.order(0, "a", 50)
    desk.wait(60)
    desk.book(70)
    return desk


def test_a_gap_in_mid_order_fills_nothing_and_keeps_order_and_money_until_the_book_is_back(desk):
    held = desk.balance("USDT").held
    desk.gap(100)
    desk.trade(110, 9_980, 500)
    desk.wait(1_000)

    assert desk.fills() == []
    assert desk.open_anywhere() == ["a"]
    assert desk.balance("USDT").held == held == held_for(9_990, 50)
    desk.book(2_000, [(9_990, 60)], ASKS)
    desk.trade(2_100, 9_990, 70)
    desk.wait(2_200)
    assert desk.fills() == [("a", 10, 40)]


@pytest.mark.parametrize(("shown", "ahead"), [(30, 30), (100, 100), (500, 100)])
def test_a_snapshot_while_resting_shortens_the_queue_and_never_lengthens_it(desk, shown, ahead):
    desk.book(200, [(9_990, shown), (9_980, 200)])

    assert desk.resting("a")["queue_ahead"] == ahead
    assert desk.fills() == []


def test_a_snapshot_with_sellers_at_our_price_while_resting_fills_what_they_show(desk):
    desk.book(200, [(9_980, 200)], [(9_990, 20), (10_010, 100)])
    desk.wait(300)

    assert desk.fills() == [("a", 20, 30)]
    assert desk.resting("a")["leaves"] == 30


def test_a_fill_at_the_very_time_that_a_cancel_arrives_stands_and_is_booked(desk):
    desk.cancel(200, "a")  # which arrives at 250
    desk.trade(250, 9_990, 150)
    desk.wait(400)

    assert desk.fills() == [("a", 50, 0)]
    assert desk.harness.of(OrderCanceled) == []
    assert desk.open_anywhere() == []
    assert desk.balance("BTC").free == to_units("0.5")
    assert desk.balance("USDT").held == 0


def test_a_cancel_that_arrives_before_the_print_wins_and_everything_is_given_back(desk):
    desk.cancel(200, "a")
    desk.trade(251, 9_990, 150)
    desk.wait(400)

    assert desk.fills() == []
    assert [each.leaves for each in desk.harness.of(OrderCanceled)] == [50]
    assert desk.balance("USDT") == Balance("test", "USDT", to_units("10000"), 0)


def test_a_fill_of_exactly_what_is_open_leaves_no_order_behind(desk):
    desk.trade(200, 9_990, 150)
    desk.trade(210, 9_990, 150)
    desk.cancel(220, "a")
    desk.wait(400)

    assert desk.fills() == [("a", 50, 0)]
    assert desk.open_anywhere() == []
    assert desk.harness.of(OrderCanceled) == []
    assert desk.balance("USDT") == Balance("test", "USDT", to_units("10000") - worth(9_990, 50), 0)


def test_a_partial_fill_counts_in_balance_and_fee_when_the_rest_is_canceled(desk):
    desk.trade(200, 9_990, 120)
    desk.cancel(300, "a")
    desk.wait(500)

    assert desk.fills() == [("a", 20, 30)]
    assert [each.leaves for each in desk.harness.of(OrderCanceled)] == [30]
    assert desk.balance("BTC").free == to_units("0.2")
    assert desk.balance("USDT") == Balance("test", "USDT", to_units("10000") - worth(9_990, 20), 0)
    assert desk.account.fees == worth(9_990, 20) - to_units("19.98")


def test_two_own_orders_share_one_trade_in_the_order_they_came(desk):
    desk.order(100, "b", 40)
    desk.wait(160)
    desk.trade(200, 9_990, 170)
    desk.wait(300)

    assert desk.fills() == [("a", 50, 0), ("b", 20, 20)]
    assert desk.open_anywhere() == ["b"]
    assert desk.balance("USDT").held == held_for(9_990, 20)


def test_an_order_that_would_meet_our_own_goes_and_nothing_is_traded_with_ourselves(desk):
    desk.trade(200, 9_990, 150)
    desk.wait(300)
    desk.order(400, "b", 50, price=10_000)
    desk.wait(500)
    desk.order(600, "c", 30, SELL, price=10_000)
    desk.wait(800)

    assert desk.fills() == [("a", 50, 0)]
    assert desk.open_anywhere() == ["b"]
    [canceled] = desk.harness.of(OrderCanceled)
    assert (canceled.order_id, canceled.leaves) == ("c", 30)
    assert desk.balance("BTC") == Balance("test", "BTC", to_units("0.5"), 0)
    assert desk.balance("USDT").held == held_for(10_000, 50)


def test_a_remainder_below_the_smallest_notional_still_fills_and_as_an_order_anew_it_is_denied(desk):
    desk.trade(200, 9_990, 145)  # leaves 5 lots, 5 dollars, where 20 is the least
    desk.wait(300)
    desk.trade(310, 9_990, 2)
    desk.cancel(400, "a")
    desk.wait(500)
    desk.order(600, "b", 15)
    desk.wait(800)

    assert desk.fills() == [("a", 45, 5), ("a", 2, 3)]
    assert desk.balance("USDT") == Balance("test", "USDT", to_units("10000") - worth(9_990, 47), 0)
    [denied] = desk.harness.of(OrderDenied)
    assert (denied.order_id, denied.rule) == ("b", "risk-limits")
    assert "below the minimum of test" in denied.reason


def test_a_halt_while_the_first_leg_is_on_its_way_takes_it_back_and_lets_no_second_leave(desk):
    desk.order(200, "leg-1", 30, price=9_980)
    desk.harness.send(HaltTrading(ns(210), "a person", "enough"))
    desk.order(220, "leg-2", 30, SELL, price=10_010)
    desk.wait(500)

    assert desk.open_anywhere() == []
    assert {each.order_id for each in desk.harness.of(OrderCanceled)} == {"a", "leg-1"}
    assert [each.order_id for each in desk.harness.of(OrderDenied)] == ["leg-2"]
    assert desk.balance("USDT") == Balance("test", "USDT", to_units("10000"), 0)


def test_what_was_filled_before_a_halt_reached_it_is_booked_all_the_same(desk):
    desk.harness.send(HaltTrading(ns(200), "a person", "enough"))
    desk.trade(240, 9_990, 130)
    desk.wait(500)

    assert desk.fills() == [("a", 30, 20)]
    assert [each.leaves for each in desk.harness.of(OrderCanceled)] == [20]
    assert desk.balance("BTC").free == to_units("0.3")


@pytest.mark.parametrize("at", [55, 100, 155, 205, 230])
def test_a_restart_within_any_of_it_changes_nothing(at):
    def play(cut: float) -> tuple[list[Message], PortfolioSnapshot]:
        desk = Desk()
        steps = [
            (0, lambda: desk.order(0, "a", 50)),
            (70, lambda: desk.book(70)),
            (100, lambda: desk.order(100, "b", 40)),
            (160, lambda: desk.gap(160)),
            (180, lambda: desk.book(180)),
            (200, lambda: desk.trade(200, 9_990, 120)),
            (210, lambda: desk.cancel(210, "a")),
            (240, lambda: desk.trade(240, 9_990, 60)),
            (900, lambda: desk.wait(900)),
        ]
        for time, step in steps:
            if cut <= time:
                other, cut = Desk(), 10_000
                other.market, other.harness.outputs = desk.market, desk.harness.outputs
                other.harness.bus._on_output = desk.harness.bus._on_output
                other.harness.bus.restore(desk.harness.bus.snapshot())
                desk = other
            step()
        lives = (OrderAccepted, OrderFilled, OrderCanceled, LedgerPosted)
        return desk.harness.of(*lives), desk.account

    assert play(at) == play(10_000)


def test_a_message_that_is_told_twice_is_booked_once(desk):
    desk.trade(200, 9_990, 120)
    desk.wait(300)
    before = desk.account
    [fill] = desk.harness.of(OrderFilled)
    desk.harness.send(msgspec.structs.replace(fill, ts_recv=ns(300)))

    assert desk.account.balances == before.balances
