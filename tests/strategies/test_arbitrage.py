"""Two legs at once; what one of them lacks is made up for, and what that cost stands apart."""

from collections import Counter
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.exchanges import synthetic
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    ArbitrageSeen,
    Balance,
    LegsSettled,
    Liquidity,
    OrderDenied,
    OrderExpired,
    OrderFilled,
    OrderSubmitted,
    PluginFailed,
    PortfolioSnapshot,
    RequestTransfer,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TradingHalted,
    TradingResumed,
    TransferEnded,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts, spec_of
from tickerml.plugins import arbitrage as monitor
from tickerml.plugins import portfolio, sim_fifo
from tickerml.strategies import arbitrage

START = 1_700_000_000 * NS_PER_S
MS = NS_PER_MS


class Desk:
    """The strategy between "low", which asks 100, and "high", which bids 101; fees 0.10 %, lots 0.01."""

    def __init__(self, **options):
        self.harness = Harness(arbitrage, options={arbitrage.ARBITRAGE: options})
        self.low, self.high = Market("low"), Market("high")
        self.fills = 0
        self.send(instrument("low", lot="0.01"), instrument("high", lot="0.01"))
        self.send(self.low.book(START, bids=[(9_990, 900)], asks=[(10_000, 900)]))
        self.send(self.high.book(START, bids=[(10_100, 900)], asks=[(10_110, 900)]))

    def send(self, *messages):
        return self.harness.send(*messages)

    def see(self, at=0, left=0, **seen):
        """Have an opportunity seen, and the rules leave *left* lots of the purchase, 0 for all."""
        sent = self.spot(at, **seen)
        return sent + self.send(*[self.submitted(order, left or order.quantity) for order in sent])

    def submitted(self, order, lots):
        to = (order.order_id, order.strategy, order.account, order.exchange, order.symbol, order.side)
        return OrderSubmitted(order.ts_recv, *to, order.order_type, order.time_in_force, order.price, lots, 0)

    def spot(self, at=0, opportunity="BTC:low>high:1", funded="1", fx="", net="0.799"):
        fx = ("high", fx, 1) if fx else ("", "", 0)
        funded, gross = to_units(funded), to_units("1")
        return self.send(
            ArbitrageSeen(
                START + at * MS,
                opportunity,
                START + at * MS,
                "BTC",
                "USDT",
                "low",
                "BTC/USDT",
                10_000,
                "high",
                "BTC/USDT",
                10_100,
                *fx,
                to_units("1"),
                funded,
                gross,
                to_units(net),
                99.0,
                79.1,
                2.0,
            )
        )

    def fill(self, order, at, lots, price=0, fee_asset="USDT", leaves=None):
        price = price or order.price
        notional = to_units("0.01") // 100 * price * lots  # a tick is 0.01
        fee = notional // 1000 if fee_asset == "USDT" else to_units("0.01") * lots // 1000
        self.fills += 1
        leaves = order.quantity - lots if leaves is None else leaves
        to = (order.strategy, order.account, order.exchange, order.symbol, order.side)
        done = (price, lots, leaves, Liquidity.TAKER, fee, fee_asset, 0, 0, 0, False, 0)
        ts = START + at * MS
        outputs = self.send(OrderFilled(ts, ts, order.order_id, self.fills, *to, *done))
        return outputs if not leaves else outputs + self.expire(order, at, leaves)

    def expire(self, order, at, leaves=None):
        ts = START + at * MS
        leaves = order.quantity if leaves is None else leaves
        return self.send(OrderExpired(ts, ts, order.order_id, order.exchange, order.symbol, leaves, "IOC"))

    def at(self, ms):
        """Let time pass until just after *ms*."""
        return self.send(TimeTick(START + ms * MS + 1))


def test_sends_both_legs_at_once_at_the_worst_accepted_prices():
    buy, sell = Desk().see(funded="0.57")

    assert (buy.exchange, buy.side, buy.price, buy.quantity) == ("low", Side.BUY, 10_000, 57)
    assert (sell.exchange, sell.side, sell.price, sell.quantity) == ("high", Side.SELL, 10_100, 57)
    assert {buy.time_in_force, sell.time_in_force} == {TimeInForce.IOC}
    assert (buy.order_id, sell.order_id) == ("strategy-arbitrage-0", "strategy-arbitrage-1")
    assert buy.account == "paper"


def test_what_a_rule_takes_from_the_purchase_the_sale_goes_without():
    desk = Desk()
    buy, sell = desk.see(left=36)

    assert (buy.quantity, sell.quantity) == (100, 36)
    desk.fill(buy, 100, 36, leaves=0)
    [settled] = desk.fill(sell, 120, 36)
    assert (settled.outcome, settled.unwinding) == ("both", 0)


def test_a_purchase_that_a_rule_denies_is_the_end_of_the_pair():
    desk = Desk()
    [buy] = desk.spot()

    to = ("strategy-arbitrage", "paper", "low", "BTC/USDT", "risk-limits", "too much")
    [settled] = desk.send(OrderDenied(START, buy.order_id, *to))

    assert settled.outcome == "none"
    assert len(desk.see(at=1, opportunity="BTC:low>high:2")) == 2


def test_account_and_order_ids_are_options():
    buy, _ = Desk(account="second", order_prefix="x").see()

    assert (buy.account, buy.order_id) == ("second", "x-0")


@pytest.mark.parametrize("seen", [{"funded": "0"}, {"fx": "USDT/USD"}])
def test_takes_nothing_that_is_not_funded_or_needs_a_third_leg(seen):
    assert Desk().see(**seen) == []


def test_takes_nothing_below_its_least_net_and_nothing_while_a_pair_is_under_way():
    assert Desk(min_net_bps=80).see() == []
    desk = Desk()

    assert len(desk.see()) == 2
    assert desk.see(at=1, opportunity="BTC:low>high:2") == []


def test_both_legs_filled_settle_at_once():
    desk = Desk()
    buy, sell = desk.see()

    assert desk.fill(buy, 100, 100) == []
    [settled] = desk.fill(sell, 120, 100)

    assert settled.outcome == "both"
    assert settled.legs == to_units("0.799")  # 101 - 0.101 - 100 - 0.1
    assert (settled.unwinding, settled.left, settled.left_cost) == (0, 0, 0)
    assert (settled.fees, settled.expected) == (to_units("0.201"), to_units("0.799"))


def test_legs_that_took_nothing_settle_to_nothing():
    desk = Desk()
    buy, sell = desk.see()
    desk.expire(buy, 100)
    [settled] = desk.expire(sell, 120)

    assert (settled.outcome, settled.legs, settled.unwinding, settled.fees) == ("none", 0, 0, 0)


def test_a_leg_that_lacks_is_made_up_for_at_the_break_even_price_after_a_wait():
    desk = Desk()
    buy, sell = desk.see()
    desk.fill(buy, 100, 100)
    assert desk.fill(sell, 120, 60) == []

    assert desk.at(169) == []
    [repair] = desk.at(170)

    # 1.00 cost 100.10, 0.60 brought 60.5394: 0.40 has to bring 39.5606 after 0.10 %, 99.0005 a unit;
    # and no worse than 1 % from the best bid of 101.00
    assert (repair.exchange, repair.side, repair.quantity) == ("high", Side.SELL, 40)
    assert repair.price == 9_999
    assert repair.time_in_force is TimeInForce.IOC
    [settled] = desk.fill(repair, 300, 40, price=10_050)
    assert settled.outcome == "repaired"
    assert settled.legs == to_units("60.5394") - to_units("60.06")
    assert settled.unwinding == to_units("40.2") - to_units("0.0402") - to_units("40.04")


def test_the_break_even_price_leaves_the_pair_with_nothing_or_a_tick():
    desk = Desk(protection_bps=5000)
    buy, sell = desk.see()
    desk.fill(buy, 100, 100)
    desk.fill(sell, 120, 60)
    [repair] = desk.at(170)
    [settled] = desk.fill(repair, 300, 40)

    assert repair.price == 9_901
    assert 0 <= settled.legs + settled.unwinding < to_units("0.004")


def test_what_cannot_be_made_up_for_goes_back_where_it_came_from():
    desk = Desk()
    buy, sell = desk.see()
    desk.fill(buy, 100, 100)
    desk.expire(sell, 120)
    desk.send(desk.high.book(START + 130 * MS, bids=[(9_950, 900)], asks=[(9_960, 900)]))

    [unwinding] = desk.at(170)

    assert (unwinding.exchange, unwinding.side, unwinding.quantity) == ("low", Side.SELL, 100)
    assert unwinding.price == 9_990 - 99  # 1 % of protection, in whole ticks
    assert unwinding.reduce_only
    [settled] = desk.fill(unwinding, 300, 100, price=9_990)
    assert (settled.outcome, settled.legs, settled.left) == ("unwound", 0, 0)
    assert settled.unwinding == to_units("99.9") - to_units("0.0999") - to_units("100.1")


def test_what_was_sold_alone_is_bought_back():
    desk = Desk()
    buy, sell = desk.see()
    desk.expire(buy, 100)
    desk.fill(sell, 120, 100)

    [repair] = desk.at(170)

    # 101 less 0.101 buys 1.00 for 100.899 with its fee: 100.79 a unit
    assert (repair.exchange, repair.side, repair.price) == ("low", Side.BUY, 10_079)
    [unwinding] = desk.expire(repair, 300)
    assert (unwinding.exchange, unwinding.side, unwinding.price) == ("high", Side.BUY, 10_110 + 101)


def test_unwinding_is_tried_until_it_is_done_and_no_longer_than_allowed():
    desk = Desk()
    buy, sell = desk.see()
    desk.fill(buy, 100, 100)
    desk.expire(sell, 120)
    [repair] = desk.at(170)
    tries, at = desk.expire(repair, 200), 200
    first = tries[0]
    desk.fill(first, 300, 30)
    for at in range(300, 3000, 50):
        tries += (sent := desk.at(at))
        if isinstance(tries[-1], LegsSettled):
            break
        for order in sent:
            desk.expire(order, at + 10)
    settled = tries.pop()

    assert at <= 120 + 2000 + 300
    assert [order.quantity for order in tries] == [100] + [70] * (len(tries) - 1)
    assert len(tries) > 4
    assert (settled.outcome, settled.left, settled.left_cost) == ("left", to_units("0.7"), to_units("70.07"))


def test_a_fee_taken_out_of_what_was_bought_is_no_imbalance_of_a_lot():
    desk = Desk()
    buy, sell = desk.see()
    desk.fill(buy, 100, 100, fee_asset="BTC")
    [settled] = desk.fill(sell, 120, 100)

    assert settled.outcome == "both"
    assert settled.left == -to_units("0.001")
    assert settled.legs + settled.unwinding == to_units("0.899") - to_units("0.100899")


def test_a_halt_during_the_first_leg_sends_nothing_until_a_person_resumes():
    desk = Desk()
    buy, sell = desk.see()
    desk.fill(buy, 100, 100)
    desk.send(TradingHalted(START + 110 * MS, "drawdown", "25 %"))
    ended = (sell.strategy, "paper", "high", "BTC/USDT", "gate", "trading is halted")
    assert desk.send(OrderDenied(START + 111 * MS, sell.order_id, *ended)) == []

    assert desk.at(60_000) == []
    assert desk.see(at=60_001, opportunity="BTC:low>high:2") == []
    [unwinding] = desk.send(TradingResumed(START + 61_000 * MS, "operator", "looked at it"))

    assert (unwinding.exchange, unwinding.side, unwinding.quantity) == ("low", Side.SELL, 100)
    [settled] = desk.fill(unwinding, 61_200, 100, price=9_990)
    assert settled.outcome == "unwound"
    assert len(desk.see(at=61_300, opportunity="BTC:low>high:3")) == 2


def test_a_halt_while_waiting_or_repairing_stops_there_too():
    for halt_at in (150, 200):
        desk = Desk()
        buy, sell = desk.see()
        desk.fill(buy, 100, 100)
        desk.expire(sell, 120)
        orders = desk.at(halt_at)
        desk.send(TradingHalted(START + (halt_at + 1) * MS, "person", ""))
        outputs = [output for order in orders for output in desk.expire(order, 300)]

        assert outputs + desk.at(10_000) == []


# --- Inventory ------------------------------------------------------------------------------------


def portfolio_of(at, **amounts):
    balances = [Balance(name, "BTC", to_units(amount), 0) for name, amount in amounts.items()]
    return PortfolioSnapshot(START + at * MS, "paper", "USDT", 1, 1, 0, 0, 0, 0, 0, 0, True, balances, [])


def test_asks_for_a_transfer_where_an_exchange_is_over_thirty_percent_below_its_share():
    desk = Desk()
    desk.see(funded="0")

    assert desk.send(portfolio_of(1, low="1.3", high="0.7")) == []
    [request] = desk.send(portfolio_of(2, low="1.31", high="0.69"))

    assert isinstance(request, RequestTransfer)
    assert (request.asset, request.source, request.destination) == ("BTC", "low", "high")
    assert request.amount == to_units("0.31")
    assert request.reason == "high has 69% of its equal share of BTC"


def test_asks_for_one_transfer_at_a_time_and_rests_between_two():
    desk = Desk(rebalance_every_s=10)
    desk.see(funded="0")
    [request] = desk.send(portfolio_of(0, low="2", high="0"))

    assert desk.send(portfolio_of(20_000, low="2", high="0")) == []
    to = (request.transfer_id, "paper", "BTC", "low", "high")
    desk.send(TransferEnded(START + 20_001 * MS, *to, 0, "refused"))
    assert len(desk.send(portfolio_of(20_002, low="2", high="0"))) == 1


def test_another_account_is_not_ours_and_nothing_is_moved_where_that_is_off():
    desk = Desk(max_skew=0)
    desk.see(funded="0")
    other = Desk(account="other")
    other.see(funded="0")

    assert desk.send(portfolio_of(0, low="2", high="0")) == []
    assert other.send(portfolio_of(0, low="2", high="0")) == []


# --- With the monitor, the simulator and the ledger -----------------------------------------------

OPENING = {
    f"{venue}.{asset}": amount
    for venue in ("aurora", "borealis", "cascade", "dorado")
    for asset, amount in (("USDT", "2500"), ("BTC", "0.02"), ("ETH", "0.4"))
}


class _Context:
    plugin = "exchange-synthetic"
    started_ns = START

    class log:
        info = warning = staticmethod(lambda *args, **facts: None)


@cache
def tape():
    """Return 25 s of four made-up exchanges that often stand apart for less than an order takes."""
    spec = spec_of(synthetic)
    chosen = {
        "venues": ("aurora", "borealis", "cascade", "dorado"),
        "symbols": ("BTC/USDT", "ETH/USDT"),
        "first_venue_symbols": (),
        "seed": 3,
        "deviation_every_s": 2.0,
        "deviation_s": 0.5,
        "duration_s": 25.0,
    }
    market = spec.factory(_Context(), msgspec.convert(chosen, spec.options))
    return [message for _, frame in market.events() for message in frame]


def paper():
    options = {"portfolio": {"opening": OPENING}}
    return Harness(monitor, arbitrage, sim_fifo, portfolio, options=options, with_gate=True)


def test_every_outcome_comes_about_and_its_money_is_that_of_the_fills():
    harness = paper()
    harness.send(*tape())
    pairs = {order.order_id: order.reason.split()[0] for order in harness.of(SubmitOrder)}
    cash = Counter()
    for fill in harness.of(OrderFilled):
        there = harness.bus.instruments[fill.exchange, fill.symbol]
        cash[pairs[fill.order_id]] -= fill.side * there.notional(fill.price, fill.quantity) + fill.fee
    settled = harness.of(LegsSettled)

    assert harness.of(PluginFailed) == []
    assert {each.outcome for each in settled} >= {"both", "repaired", "unwound"}
    assert len(settled) > 10
    for each in settled:
        assert each.left == 0
        assert abs(each.legs + each.unwinding - cash[each.pair]) <= 4  # a unit of rounding a fill
    assert sum(each.unwinding for each in settled if each.outcome == "unwound") < 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6))
@settings(max_examples=2, deadline=None)
def test_a_restart_at_any_message_changes_nothing(cuts):
    assert run_with_restarts(paper, tape(), cuts) == run_with_restarts(paper, tape(), [])
