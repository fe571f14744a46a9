"""The simulator on a bus: when orders arrive, when we learn of it, faults, mark-outs, restarts."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookStale,
    BookState,
    CancelOrder,
    ChecksumFailed,
    FeedLost,
    HaltTrading,
    Instrument,
    Liquidity,
    MarkoutMeasured,
    Message,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    Passport,
    ReplaceOrder,
    SequenceGap,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TournamentMeasured,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts, spec_of
from tickerml.plugins import sim_fifo

BUY, SELL = Side.BUY, Side.SELL
ORDER_EVENTS = (OrderAccepted, OrderRejected, OrderReplaced, OrderFilled, OrderCanceled, OrderExpired)
PLUGIN = "sim-fifo"
START = 1_700_000_000 * NS_PER_S
BIDS = [(9_990, 10), (9_980, 20)]
ASKS = [(10_010, 10), (10_020, 20)]


def ms(number: float) -> int:
    """Return START plus *number* ms, in ns."""
    return START + int(number * NS_PER_MS)


def submitted(
    at: int,
    order_id: str = "a",
    side: Side = BUY,
    quantity: int = 5,
    price: int = 9_990,
    tif: TimeInForce = TimeInForce.GTC,
    exchange: str = "test",
    symbol: str = "BTC/USDT",
) -> OrderSubmitted:
    kind = OrderType.LIMIT if price else OrderType.MARKET
    return OrderSubmitted(
        at, order_id, "s", "paper", exchange, symbol, side, kind, tif, price, quantity, 20_000
    )


def cancel(at: int, order_id: str = "a") -> CancelOrder:
    return CancelOrder(at, order_id, "test", "BTC/USDT", "asked")


class Desk:
    """One exchange with a latency of 50 ms each way, its book known, and times in ms after START."""

    def __init__(self, latency: tuple[int, int] = (50, 50), feed_ms: float = 0, **options: Any) -> None:
        self.market = Market(latency_ns=int(feed_ms * NS_PER_MS))
        given_options = {"latency_ms": {"test": latency}, "spike_probability": 0.0, **options}
        self.harness = Harness(sim_fifo, options={PLUGIN: given_options})
        self.harness.send(instrument(), self.market.book(START - self.market.latency_ns, BIDS, ASKS))

    def order(self, at: float, *args: Any, **kwargs: Any) -> list[Message]:
        return self.harness.send(submitted(ms(at), *args, **kwargs))

    def cancel(self, at: float, order_id: str = "a") -> list[Message]:
        return self.harness.send(cancel(ms(at), order_id))

    def trade(self, at: float, price: int, quantity: int, aggressor: Side = SELL) -> list[Message]:
        return self.harness.send(self.market.trade(ms(at), price, quantity, aggressor))

    def bid(self, at: float, price: int, quantity: int) -> list[Message]:
        return self.harness.send(self.market.delta(ms(at), [(price, quantity)]))

    def ask(self, at: float, price: int, quantity: int) -> list[Message]:
        return self.harness.send(self.market.delta(ms(at), asks=[(price, quantity)]))

    def tick(self, at: float) -> list[Message]:
        return self.harness.send(TimeTick(ms(at)))

    def story(self) -> list[tuple[str, float, float]]:
        """Return (what, when on the exchange, when we learned it) of all order events, ms after START."""
        return [
            (
                type(event).__name__.removeprefix("Order").lower(),
                (event.ts_event - START) / NS_PER_MS,
                (event.ts_recv - START) / NS_PER_MS,
            )
            for event in self.harness.of(*ORDER_EVENTS)
        ]

    @property
    def simulator(self) -> Any:
        return self.harness.bus.component(PLUGIN)


def replace(at: int, price: int, quantity: int) -> ReplaceOrder:
    return ReplaceOrder(at, "a", "test", "BTC/USDT", price, quantity)


# --- Time -----------------------------------------------------------------------------------------


def test_an_order_arrives_after_one_latency_and_the_answer_after_another() -> None:
    desk = Desk()
    desk.order(0, price=10_010)
    desk.bid(60, 9_990, 11)
    assert desk.story() == []

    desk.tick(101)

    assert desk.story() == [("accepted", 50, 100), ("filled", 50, 100)]


def test_a_replacement_takes_both_ways_too_and_fills_say_how_long_the_order_was_underway() -> None:
    desk = Desk()
    desk.order(0)
    desk.harness.send(replace(ms(20), 9_990, 2))
    desk.trade(60, 9_990, 10)
    desk.trade(80, 9_990, 1)
    desk.tick(200)

    assert desk.story() == [("accepted", 50, 100), ("replaced", 70, 120), ("filled", 80, 130)]
    (fill,) = desk.harness.of(OrderFilled)
    assert (fill.entry_ns, fill.leaves, fill.is_swept, fill.depth_left) == (50 * NS_PER_MS, 1, True, 0)


@pytest.mark.parametrize(("price", "quantity"), [(9_990, 6), (9_991, 5)])
def test_a_replacement_by_more_than_the_rules_agreed_to_is_refused(price: int, quantity: int) -> None:
    desk = Desk()
    desk.order(0)
    desk.harness.send(replace(ms(20), price, quantity))
    desk.tick(2_000)

    (replaced,) = desk.harness.of(OrderReplaced)
    assert (replaced.price, replaced.leaves) == (9_990, 5)
    assert "no rule has agreed" in replaced.reason


def test_an_answer_is_published_when_it_is_due_and_says_so() -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(60, 9_980, 11)

    desk.tick(100)
    assert desk.harness.outputs == []
    (accepted,) = desk.tick(100.001)

    assert accepted.ts_recv == ms(100)


def test_an_order_meets_the_market_as_it_was_when_it_arrived() -> None:
    desk = Desk()
    desk.order(0, quantity=30, price=10_010, tif=TimeInForce.IOC)
    desk.ask(49, 10_010, 7)
    desk.ask(51, 10_010, 30)
    desk.tick(200)

    (fill,) = desk.harness.of(OrderFilled)
    assert fill.quantity == 7


def test_the_market_moves_before_an_order_that_arrives_at_the_same_time() -> None:
    desk = Desk()
    desk.order(0, quantity=30, price=10_010, tif=TimeInForce.IOC)
    desk.ask(50, 10_010, 3)
    desk.ask(51, 10_010, 30)
    desk.tick(200)

    (fill,) = desk.harness.of(OrderFilled)
    assert fill.quantity == 3


def test_exchange_time_counts_not_the_time_we_hear_of_it() -> None:
    desk = Desk(feed_ms=40)
    desk.order(0, quantity=30, price=10_010, tif=TimeInForce.IOC)
    desk.ask(45, 10_010, 7)  # heard at 85, after the order's arrival, from before it
    desk.ask(55, 10_010, 30)
    desk.tick(200)

    assert [fill.quantity for fill in desk.harness.of(OrderFilled)] == [7]
    assert desk.story()[0] == ("accepted", 50, 100)


def test_an_answer_due_before_we_could_know_it_comes_when_we_do() -> None:
    desk = Desk(feed_ms=400)
    desk.order(0)
    desk.bid(60, 9_980, 11)
    desk.tick(1_000)

    assert desk.story() == [("accepted", 50, 460)]


def test_an_exchange_clock_ahead_of_ours_counts_as_no_latency() -> None:
    desk = Desk(feed_ms=-1_272)
    desk.order(0)
    desk.bid(1_272 + 60, 9_980, 11)  # by its clock; heard at 60
    desk.bid(1_272 + 70, 9_980, 12)
    desk.tick(200)

    assert desk.story() == [("accepted", 50, 100)]


def test_in_a_silent_market_an_order_is_applied_after_the_quiet_time() -> None:
    desk = Desk()
    desk.order(0)
    desk.tick(1_050)
    assert desk.simulator.open_orders() == []

    desk.tick(1_060)

    assert desk.story() == [("accepted", 50, 1_050)]


def test_the_quiet_time_of_one_order_does_not_hurry_the_next() -> None:
    desk = Desk()
    desk.order(0, "first")
    desk.order(950, "second", quantity=30, price=10_010, tif=TimeInForce.IOC)
    desk.tick(1_060)  # first has waited long enough, second has only just arrived
    desk.market.latency_ns = 150 * NS_PER_MS
    desk.ask(990, 10_010, 7)
    desk.ask(1_010, 10_010, 30)
    desk.tick(2_000)

    assert [fill.quantity for fill in desk.harness.of(OrderFilled)] == [7]


def test_exchange_time_never_falls() -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(100, 9_980, 11)
    desk.market.latency_ns = 20 * NS_PER_MS
    desk.trade(90, 9_980, 50)  # told at 110
    desk.tick(400)

    assert desk.story() == [("accepted", 50, 100), ("filled", 100, 150)]


def test_an_answer_comes_before_other_timers_of_its_time() -> None:
    desk = Desk(markout_s=[1])
    desk.order(0, "first", price=10_010)
    desk.bid(60, 9_980, 11)
    desk.order(950, "second")
    desk.bid(1_010, 9_980, 12)
    desk.tick(1_060)  # the mark-out of first and the answer to second are both due at 1050

    assert [type(event) for event in desk.harness.outputs[-2:]] == [OrderAccepted, MarkoutMeasured]


def test_latencies_lie_in_the_exchanges_range_and_a_spike_doubles_them() -> None:
    def arrivals(spike: float) -> list[float]:
        harness = Harness(sim_fifo, options={PLUGIN: {"spike_probability": spike, "quiet_ms": 0}})
        for i in range(200):
            start = ms(10_000 * i)
            harness.send(submitted(start, f"o{i}", exchange="kraken"), TimeTick(start + 9 * NS_PER_S))
        return [
            (event.ts_event - ms(10_000 * i)) / NS_PER_MS for i, event in enumerate(harness.of(OrderRejected))
        ]

    calm, spiked = arrivals(0), arrivals(1)

    assert 150 <= min(calm) < 165
    assert 285 < max(calm) < 300
    assert spiked == pytest.approx([2 * latency for latency in calm], abs=1e-5)
    assert 0 < sum(a != b for a, b in zip(arrivals(0.05), calm, strict=True)) < 30


def test_one_orders_latency_does_not_depend_on_another_order() -> None:
    def arrival(*before: str) -> int:
        harness = Harness(sim_fifo, options={PLUGIN: {"quiet_ms": 0}})
        for order_id in before:
            harness.send(submitted(START, order_id), TimeTick(START + NS_PER_S))
        harness.send(submitted(START + 2 * NS_PER_S, "me"), TimeTick(START + 9 * NS_PER_S))
        return int(harness.of(OrderRejected)[-1].ts_event)

    assert arrival() == arrival("x") == arrival("x", "y", "z")


def test_orders_do_not_overtake_each_other_on_the_way_to_an_exchange_nor_answers_back() -> None:
    harness = Harness(sim_fifo, options={PLUGIN: {"latency_ms": {"test": (0, 1_000)}, "quiet_ms": 0}})
    for i in range(60):
        harness.send(submitted(ms(i), str(i), symbol="BTC/USDT" if i % 2 else "ETH/USDT"))
    harness.send(TimeTick(ms(10_000)))

    answers = harness.of(OrderRejected)
    arrivals = [(event.ts_event, int(event.order_id)) for event in answers]
    assert len(answers) == 60
    assert sorted(arrivals) == sorted(arrivals, key=lambda pair: pair[1])
    assert [event.ts_recv for event in answers] == sorted(event.ts_recv for event in answers)


# --- Races and faults -----------------------------------------------------------------------------


@pytest.mark.parametrize(("traded_at", "winner"), [(150, "filled"), (150.000001, "canceled")])
def test_a_fill_at_or_before_the_cancels_arrival_wins(traded_at: float, winner: str) -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(60, 9_980, 11)
    desk.cancel(100)
    desk.trade(traded_at, 9_990, 15)
    desk.bid(151, 9_980, 12)
    desk.tick(400)

    assert [what for what, _, _ in desk.story()] == ["accepted", winner]


def test_a_partly_filled_order_is_canceled_by_what_is_left() -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(60, 9_980, 11)
    desk.trade(70, 9_990, 12)
    desk.cancel(80)
    desk.bid(140, 9_980, 12)
    desk.tick(400)

    assert desk.story() == [("accepted", 50, 100), ("filled", 70, 120), ("canceled", 130, 180)]
    assert [event.leaves for event in desk.harness.of(OrderFilled, OrderCanceled)] == [3, 3]


def test_a_cancel_that_follows_its_order_at_once_finds_it() -> None:
    desk = Desk()
    desk.order(0)
    desk.cancel(0)
    desk.bid(60, 9_980, 11)
    desk.tick(400)

    assert desk.story() == [("accepted", 50, 100), ("canceled", 50, 100)]


def test_a_cancel_of_an_order_that_never_was_changes_nothing() -> None:
    desk = Desk()
    desk.cancel(0, "unheard-of")
    desk.bid(60, 9_980, 11)

    assert desk.tick(2_000) == []


@pytest.mark.parametrize("doubt", [SequenceGap, ChecksumFailed])
def test_a_gap_while_waiting_fills_nothing_until_the_resync(
    doubt: type[SequenceGap] | type[ChecksumFailed],
) -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(60, 9_980, 11)
    desk.harness.send(doubt(ms(70), "test", "BTC/USDT", 5, 9))
    desk.trade(80, 9_980, 50)
    desk.harness.send(desk.market.book(ms(90), [(9_990, 4)], ASKS))
    (waiting,) = desk.simulator.open_orders()
    desk.trade(100, 9_990, 6)
    desk.tick(400)

    assert waiting["queue_ahead"] == 4
    assert desk.story() == [("accepted", 50, 100), ("filled", 100, 150)]
    assert desk.harness.of(OrderFilled)[0].quantity == 2


def test_an_order_that_arrives_within_a_gap_is_rejected() -> None:
    desk = Desk()
    desk.order(0)
    desk.harness.send(SequenceGap(ms(40), "test", "BTC/USDT", 5, 9))
    desk.harness.send(desk.market.book(ms(60), BIDS, ASKS))
    desk.tick(400)

    assert desk.story() == [("rejected", 50, 100)]


def test_a_lost_feed_puts_every_book_of_that_exchange_in_doubt_and_no_other() -> None:
    harness = Harness(sim_fifo, options={PLUGIN: {"spike_probability": 0.0}})
    for exchange in ("one", "two"):
        for symbol in ("BTC/USDT", "ETH/USDT"):
            harness.send(instrument(exchange, symbol), Market(exchange, symbol).book(START, BIDS, ASKS))
    harness.send(FeedLost(ms(1), "one", "closed", 500))
    for exchange in ("one", "two"):
        for symbol in ("BTC/USDT", "ETH/USDT"):
            harness.send(submitted(ms(2), exchange + symbol, exchange=exchange, symbol=symbol))
    harness.send(TimeTick(ms(5_000)))

    assert {event.exchange for event in harness.of(OrderRejected)} == {"one"}
    assert {event.exchange for event in harness.of(OrderAccepted)} == {"two"}
    assert len(harness.of(OrderAccepted)) == len(harness.of(OrderRejected)) == 2


def test_a_stale_book_takes_no_order() -> None:
    desk = Desk()
    desk.harness.send(BookStale(ms(1), "test", "BTC/USDT", 5_000))
    desk.order(2)
    desk.tick(2_000)

    assert [what for what, _, _ in desk.story()] == ["rejected"]


def test_an_unlisted_symbol_is_rejected_after_the_quiet_time() -> None:
    desk = Desk()
    desk.order(0, symbol="NO/SUCH")
    desk.tick(5_000)

    (event,) = desk.harness.of(OrderRejected)
    assert event.reason == "test has not listed NO/SUCH"


def test_an_order_told_twice_is_played_once() -> None:
    desk = Desk()
    desk.order(0)
    with capture_logs() as logs:
        desk.order(1)
        desk.bid(60, 9_980, 11)
        desk.order(61)
    desk.tick(5_000)

    assert desk.story() == [("accepted", 50, 100)]
    assert [entry["event"] for entry in logs] == ["order.repeated", "order.repeated"]


def test_a_halt_takes_back_the_leg_that_is_on_its_way() -> None:
    harness = Harness(
        sim_fifo,
        options={PLUGIN: {"latency_ms": {"test": (50, 50)}, "spike_probability": 0.0}},
        with_gate=True,
    )
    market = Market()
    order = SubmitOrder(
        START, "leg-1", "s", "paper", "test", "BTC/USDT", BUY, OrderType.LIMIT, TimeInForce.GTC, 9_990, 5
    )
    harness.send(instrument(), market.book(START, BIDS, ASKS), order)
    harness.send(HaltTrading(ms(10), "test", "enough"))
    harness.send(market.delta(ms(70), [(9_980, 3)]), TimeTick(ms(400)))

    assert [type(event) for event in harness.of(*ORDER_EVENTS)] == [OrderAccepted, OrderCanceled]
    (canceled,) = harness.of(OrderCanceled)
    assert (canceled.ts_event, canceled.leaves, canceled.reason) == (ms(60), 5, "halt")


# --- What a fill says -----------------------------------------------------------------------------


def test_a_fill_carries_the_order_its_queue_and_its_fee() -> None:
    desk = Desk()
    desk.order(0)
    desk.bid(60, 9_980, 11)
    desk.trade(90, 9_990, 12)
    desk.tick(400)

    (fill,) = desk.harness.of(OrderFilled)
    assert (fill.order_id, fill.fill, fill.strategy, fill.account) == ("a", 1, "s", "paper")
    assert (fill.side, fill.price, fill.quantity, fill.leaves) == (BUY, 9_990, 2, 3)
    assert fill.liquidity is Liquidity.MAKER
    assert (fill.queue_ahead, fill.orders_ahead, fill.is_toxic_predicted) == (10, 10, False)
    assert (fill.wait_ns, fill.arrival_mid) == (40 * NS_PER_MS, 20_000)
    assert (fill.fee, fill.fee_asset) == (1_998_000, "USDT")  # 0.1 % of 99.90 * 0.00002


def test_what_the_decision_knew_of_its_book_travels_with_the_order() -> None:
    desk = Desk()
    order = submitted(ms(0))
    passport = Passport(BookState.VALID, 3, -1, 2)
    desk.harness.send(msgspec.structs.replace(order, passport=passport))
    desk.trade(90, 9_990, 12)
    desk.tick(400)

    assert [event.passport for event in desk.harness.of(OrderAccepted, OrderFilled)] == [passport, passport]


def test_a_fill_says_how_the_exchanges_book_stood_when_it_traded() -> None:
    desk = Desk()
    desk.order(0, price=10_010, quantity=12)
    desk.ask(40, 10_010, 7)  # there before the order
    desk.bid(60, 9_980, 21)  # its taking is told after these
    desk.bid(70, 9_990, 0)
    desk.trade(90, 10_010, 5)
    desk.tick(400)

    taken, waited = desk.harness.of(OrderFilled)
    assert (taken.liquidity, taken.fill_mid, taken.fill_spread) == (Liquidity.TAKER, 20_000, 20)
    assert (waited.liquidity, waited.fill_mid, waited.fill_spread) == (Liquidity.MAKER, 19_990, 30)


def test_a_fill_is_logged_with_its_slippage() -> None:
    desk = Desk()
    desk.order(0, price=0)
    desk.bid(60, 9_980, 11)
    with capture_logs() as logs:
        desk.tick(400)

    (entry,) = logs
    assert (entry["event"], entry["price"], entry["quantity"]) == ("order.filled", 10_010, 5)
    assert entry["slippage_bps"] == pytest.approx(10)
    assert entry["queue_ahead"] == 0


def test_open_orders_are_those_at_the_exchange_now() -> None:
    desk = Desk()
    desk.order(0)
    assert desk.simulator.open_orders() == []
    desk.bid(60, 9_980, 11)
    desk.trade(70, 9_990, 12)

    assert desk.simulator.open_orders() == [
        {
            "order_id": "a",
            "exchange": "test",
            "symbol": "BTC/USDT",
            "side": BUY,
            "price": 9_990,
            "leaves": 3,
            "queue_ahead": 0,
        }
    ]


def test_markouts_compare_the_fill_with_the_mid_at_each_horizon() -> None:
    desk = Desk(markout_s=[1, 10])
    desk.order(0, price=10_010)
    desk.bid(60, 9_980, 21)
    desk.bid(500, 9_990, 0)  # mid 9995
    desk.tick(1_050)
    assert desk.harness.of(MarkoutMeasured) == []

    desk.ask(1_051, 10_030, 1)
    desk.ask(5_000, 10_010, 0)  # mid 10000
    desk.tick(11_000)

    first, second = desk.harness.of(MarkoutMeasured)
    assert (first.ts_recv, first.horizon_ns, first.fill) == (ms(1_050), NS_PER_S, 1)
    assert first.markout_bps == pytest.approx((9_995 - 10_010) / 10_010 * 1e4)
    assert (second.ts_recv, second.horizon_ns) == (ms(10_050), 10 * NS_PER_S)
    assert second.markout_bps == pytest.approx((10_000 - 10_010) / 10_010 * 1e4)


def test_a_seller_gains_from_a_falling_mid() -> None:
    desk = Desk(markout_s=[1])
    desk.order(0, side=SELL, price=9_990)
    desk.bid(60, 9_990, 0)
    desk.tick(3_000)

    (markout,) = desk.harness.of(MarkoutMeasured)
    assert markout.markout_bps == pytest.approx((9_990 - 9_995) / 9_990 * 1e4)


def test_a_markout_on_a_book_in_doubt_is_not_measured() -> None:
    desk = Desk(markout_s=[1, 2])
    desk.order(0, price=10_010)
    desk.bid(60, 9_980, 21)
    desk.harness.send(BookStale(ms(900), "test", "BTC/USDT", 800))
    desk.bid(1_500, 9_980, 22)
    desk.tick(5_000)

    assert [markout.horizon_ns for markout in desk.harness.of(MarkoutMeasured)] == [2 * NS_PER_S]


# --- Options and joining --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"latency_ms": {"kraken": [300, 150]}},
        {"latency_ms": {"kraken": [0, 5_000]}},
        {"queue_model": "fifo"},
        {"queue_model": "power:0"},
        {"self_trade": "allow"},
        {"spike_probability": 1.1},
        {"latency": 5},
    ],
)
def test_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, spec_of(sim_fifo).options)


def test_the_queue_model_option_reaches_the_engines() -> None:
    def ahead(model: str) -> int:
        desk = Desk(queue_model=model)
        desk.order(0)
        desk.bid(60, 9_990, 20)
        desk.bid(70, 9_990, 10)
        return int(desk.simulator.open_orders()[0]["queue_ahead"])

    assert (ahead("risk-averse"), ahead("power:1")) == (10, 5)


def test_a_simulator_that_joins_late_takes_the_book_that_is_there() -> None:
    alone = Harness(spec_of(sim_fifo))
    alone.send(instrument(), Market().book(START, BIDS, ASKS))
    state = msgspec.msgpack.decode(alone.bus.snapshot())
    state[-1] = []  # the bus's state without the component's
    late = Harness(sim_fifo, options={PLUGIN: {"latency_ms": {"test": (50, 50)}, "spike_probability": 0.0}})
    late.bus.restore(msgspec.msgpack.encode(state))

    late.send(submitted(ms(1)), TimeTick(ms(5_000)))

    (accepted,) = late.of(OrderAccepted)
    assert accepted.queue_ahead == 10


# --- What always holds ----------------------------------------------------------------------------

symbols = st.sampled_from(["BTC/USDT", "ETH/USDT"])
bid_prices = st.sampled_from([97, 98, 99, 99, 100, 101])
ask_prices = st.sampled_from([103, 102, 101, 101, 100, 99])
quantities = st.integers(0, 12)
ops = st.one_of(
    st.tuples(st.just("bid"), symbols, bid_prices, quantities),
    st.tuples(st.just("ask"), symbols, ask_prices, quantities),
    st.tuples(st.just("trade"), symbols, st.integers(97, 103), st.integers(1, 15), st.sampled_from(Side)),
    st.tuples(st.just("doubt"), symbols, st.sampled_from(["gap", "stale", "lost"])),
    st.tuples(st.just("book"), symbols, st.integers(1, 12)),
    st.tuples(
        st.just("order"),
        symbols,
        st.sampled_from(Side),
        st.integers(1, 20),
        st.integers(97, 103),
        st.sampled_from(TimeInForce),
    ),
    st.tuples(
        st.just("order"),
        symbols,
        st.sampled_from(Side),
        st.integers(1, 40),
        st.just(0),
        st.just(TimeInForce.IOC),
    ),
    st.tuples(st.just("cancel"), symbols, st.integers(0, 6)),
    st.tuples(st.just("tick"), symbols),
)
gaps_ms = st.sampled_from([0, 1, 7, 60, 200, 1_300])
lags_ms = st.sampled_from([0, 0, 30, 30, 90, -1_272])


def write(script: Sequence[tuple[int, int, tuple[Any, ...]]]) -> list[Message]:
    """Return the messages of *script*: (ms since the last, ms the market is behind, what)."""
    markets = {symbol: Market("test", symbol) for symbol in ("BTC/USDT", "ETH/USDT")}
    tape: list[Message] = [instrument(symbol=symbol) for symbol in markets]
    tape += [market.book(START, [(99, 9), (98, 9)], [(101, 9), (102, 9)]) for market in markets.values()]
    now, orders = START, []
    for pause, lag, (kind, symbol, *rest) in script:
        now += pause * NS_PER_MS
        market = markets[symbol]
        market.latency_ns = lag * NS_PER_MS
        then = now - market.latency_ns
        match kind, rest:
            case "bid", [price, quantity]:
                tape.append(market.delta(then, [(price, quantity)]))
            case "ask", [price, quantity]:
                tape.append(market.delta(then, asks=[(price, quantity)]))
            case "trade", [price, quantity, aggressor]:
                tape.append(market.trade(then, price, quantity, aggressor))
            case "book", [quantity]:
                tape.append(market.book(then, [(99, quantity), (98, 9)], [(101, quantity), (102, 9)]))
            case "doubt", ["gap"]:
                tape.append(SequenceGap(now, "test", symbol, 1, 2))
            case "doubt", ["stale"]:
                tape.append(BookStale(now, "test", symbol, 5))
            case "doubt", ["lost"]:
                tape.append(FeedLost(now, "test", "closed", 5))
            case "order", [side, quantity, price, tif]:
                order_id = f"o{len(orders)}"
                orders.append((order_id, symbol))
                tape.append(submitted(now, order_id, side, quantity, price, tif, symbol=symbol))
            case "cancel", [number] if number < len(orders):
                order_id, symbol = orders[number]
                tape.append(CancelOrder(now, order_id, "test", symbol, "asked"))
            case "tick", []:
                tape.append(TimeTick(now))
    return [*tape, TimeTick(now + 100 * NS_PER_S)]


scripts = st.lists(st.tuples(gaps_ms, lags_ms, ops), max_size=40).map(write)


def build(seed: int = 0) -> Harness:
    return Harness(sim_fifo, seed=seed, options={PLUGIN: {"quiet_ms": 100, "spike_probability": 0.3}})


@given(scripts)
def test_every_order_lives_a_legal_life_and_in_the_order_we_learn_it(tape: list[Message]) -> None:
    harness = build()
    harness.send(*tape)

    wanted = {order.order_id: order for order in tape if isinstance(order, OrderSubmitted)}
    leaves = {order_id: order.quantity for order_id, order in wanted.items()}
    last: dict[str, Message] = {}
    for event in harness.of(*ORDER_EVENTS):
        before = last.get(event.order_id)
        is_first = isinstance(event, OrderAccepted | OrderRejected)
        assert is_first is (before is None)
        assert before is None or isinstance(before, OrderAccepted) or getattr(before, "leaves", 0)
        assert not isinstance(before, OrderRejected | OrderCanceled | OrderExpired)
        assert wanted[event.order_id].ts_recv < event.ts_event < event.ts_recv
        assert before is None or before.ts_event <= event.ts_event
        if isinstance(event, OrderFilled):
            leaves[event.order_id] -= event.quantity
            assert event.leaves == leaves[event.order_id] >= 0
        last[event.order_id] = event
    assert set(last) == set(wanted)  # every order is answered
    learned = [event.ts_recv for event in harness.of(*ORDER_EVENTS)]
    assert learned == sorted(learned)
    resting = {order["order_id"]: order["leaves"] for order in harness.bus.component(PLUGIN).open_orders()}
    for order_id, event in last.items():
        is_open = isinstance(event, OrderAccepted) or (isinstance(event, OrderFilled) and event.leaves > 0)
        assert (resting.get(order_id) == leaves[order_id]) is is_open
    assert not harness.bus.failed


@given(scripts, st.lists(st.integers(0, 45), max_size=6))
@settings(max_examples=60)
def test_restarts_anywhere_change_nothing(tape: list[Message], cuts: list[int]) -> None:
    assert run_with_restarts(build, tape, cuts) == run_with_restarts(build, tape, [])


@given(scripts, st.integers(0, 5))
@settings(max_examples=30)
def test_the_same_inputs_give_the_same_outputs_and_a_restored_state_the_same_bytes(
    tape: list[Message], seed: int
) -> None:
    first, second = build(seed), build(seed)

    assert first.send(*tape[:-1]) == second.send(*tape[:-1])
    state = first.bus.snapshot()
    again = build(seed)
    again.bus.restore(state)
    assert again.bus.component(PLUGIN).snapshot() == first.bus.component(PLUGIN).snapshot()


def test_another_seed_draws_other_latencies() -> None:
    def learned(seed: int) -> list[int]:
        harness = build(seed)
        harness.send(*write([(1, 0, ("order", "BTC/USDT", BUY, 5, 99, TimeInForce.GTC))]))
        return [event.ts_recv for event in harness.of(OrderAccepted)]

    assert learned(1) != learned(2)


def test_offers_one_simulator_that_says_only_what_a_simulator_may() -> None:
    spec = spec_of(sim_fifo)

    assert spec.id == PLUGIN
    assert spec.publishes == (*ORDER_EVENTS, MarkoutMeasured, TournamentMeasured, Instrument)


def test_a_state_of_version_2_is_taken_with_its_open_orders() -> None:
    desk, late = Desk(), Desk()
    desk.order(0)
    desk.bid(60, 9_990, 20)
    lanes, *rest = msgspec.msgpack.decode(desk.simulator.snapshot())
    before = msgspec.msgpack.encode([[lane[:5] for lane in lanes], *rest[:3]])
    late.simulator.restore(late.simulator.migrate(before, 2))

    assert [order["order_id"] for order in late.simulator.open_orders()] == ["a"]
    assert late.simulator.open_orders() == desk.simulator.open_orders()
