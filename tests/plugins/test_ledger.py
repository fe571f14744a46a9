"""
The ledger's laws, numbered as in its specification, over random streams of orders.

A stream is a list of steps; a step that the state does not allow (a fill of an order that
has ended) is skipped, so every list is a valid stream and shrinks well.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    UNIT,
    Instrument,
    Liquidity,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    to_units,
)
from tickerml.kernel.testing import instrument
from tickerml.plugins.ledger import (
    ROUNDING_ALLOWANCE,
    Bucket,
    InsufficientFunds,
    Ledger,
    LedgerError,
    LedgerState,
    buy_reserve,
    protected_price,
)

BTC = instrument("test", "BTC/USDT", taker_fee_ppm=2600)
ETH = instrument(
    "test", "ETH/USDT", tick="0.00000001", lot="0.0000001", taker_fee_ppm=2600
)  # rounds notional
INSTRUMENTS = {"BTC/USDT": BTC, "ETH/USDT": ETH}
OPENING = {("test", "USDT"): to_units("10000"), ("test", "BTC"): 0}


def submitted(
    order_id: str,
    side: Side,
    quantity: int,
    price: int,
    symbol: str = "BTC/USDT",
    order_type: OrderType = OrderType.LIMIT,
    arrival_mid: int = 0,
) -> OrderSubmitted:
    gtc = TimeInForce.GTC
    return OrderSubmitted(
        0, order_id, "s", "paper", "test", symbol, side, order_type, gtc, price, quantity, arrival_mid
    )


def filled(
    order_id: str,
    fill: int,
    side: Side,
    quantity: int,
    price: int,
    *,
    symbol: str = "BTC/USDT",
    leaves: int = 0,
    fee: int | None = None,
    fee_asset: str = "USDT",
) -> OrderFilled:
    notional = INSTRUMENTS[symbol].notional(price, quantity)
    charged = -(-notional * 2600 // 10**6) if fee is None else fee
    head = (0, 0, order_id, fill, "s", "paper", "test", symbol, side, price, quantity, leaves)
    return OrderFilled(*head, Liquidity.TAKER, charged, fee_asset, 0, 0, 0, False, 0)


class Stream:
    """Plays steps onto a ledger, and remembers what was ordered and filled."""

    def __init__(self, check: Callable[["Stream"], None] = lambda stream: None) -> None:
        self.ledger = Ledger(OPENING)
        self.orders: dict[str, OrderSubmitted] = {}
        self.filled: dict[str, int] = {}
        self.booked: list[tuple[str, Any]] = []
        self.count = 0
        self._check = check

    def play(self, steps: list[tuple[Any, ...]]) -> "Stream":
        for step in steps:
            getattr(self, step[0])(*step[1:])
            self._check(self)
        return self

    def order(self, symbol: str, side: Side, price: int, quantity: int) -> None:
        self.count += 1
        order = submitted(f"o{self.count}", side, quantity, price, symbol)
        try:
            self.ledger.submit(order, INSTRUMENTS[symbol])
        except InsufficientFunds:
            return
        self.orders[order.order_id] = order
        self.filled[order.order_id] = 0
        self.booked.append(("submit", order))

    def trade(self, which: int, quantity: int, better: int, fee_in_base: bool) -> None:
        open_ids = [i for i in self.orders if self.ledger.reservation(i)]
        if not open_ids:
            return
        order = self.orders[open_ids[which % len(open_ids)]]
        reservation = self.ledger.reservation(order.order_id)
        quantity = min(quantity, reservation.leaves)
        price = max(1, order.price - order.side * better)
        in_base = fee_in_base and order.side is Side.BUY
        base_fee = quantity * INSTRUMENTS[order.symbol].lot_size // 1000
        fill = filled(
            order.order_id,
            len(self.booked),
            order.side,
            quantity,
            price,
            symbol=order.symbol,
            leaves=reservation.leaves - quantity,
            fee=base_fee if in_base else None,
            fee_asset=order.symbol.partition("/")[0] if in_base else "USDT",
        )
        self.ledger.fill(fill, INSTRUMENTS[order.symbol])
        self.filled[order.order_id] += quantity
        self.booked.append(("fill", fill))

    def cancel(self, which: int) -> None:
        open_ids = [i for i in self.orders if self.ledger.reservation(i)]
        if open_ids:
            order_id = open_ids[which % len(open_ids)]
            self.ledger.end(order_id)
            self.booked.append(("end", order_id))


def replay(events: list[tuple[str, Any]]) -> Ledger:
    ledger = Ledger(OPENING)
    for kind, event in events:
        if kind == "end":
            ledger.end(event)
        else:
            getattr(ledger, kind)(event, INSTRUMENTS[event.symbol])
    return ledger


SYMBOLS = st.sampled_from(["BTC/USDT", "ETH/USDT"])
ORDERS = st.tuples(
    st.just("order"),
    SYMBOLS,
    st.sampled_from(list(Side)),
    st.integers(1, 6_100_000),
    st.one_of(st.integers(1, 40), st.integers(1, 20_000_000)),
)
TRADES = st.tuples(
    st.just("trade"),
    st.integers(0, 7),
    st.one_of(st.integers(1, 3), st.integers(1, 20_000_000)),
    st.integers(0, 2_000),
    st.booleans(),
)
CANCELS = st.tuples(st.just("cancel"), st.integers(0, 7))
STREAMS = st.lists(st.one_of(ORDERS, TRADES, TRADES, CANCELS), max_size=30)
QUICK = settings(max_examples=100, deadline=None)


@QUICK
@given(STREAMS)
def test_property_1_the_ledger_sums_to_zero_in_every_asset_after_every_transaction(steps):
    def check(stream: Stream) -> None:
        assert set(stream.ledger.sums().values()) <= {0}

    Stream(check).play(steps)


@QUICK
@given(STREAMS)
def test_property_2_nothing_free_or_held_is_ever_below_zero(steps):
    def check(stream: Stream) -> None:
        assert all(b.free >= 0 and b.held >= 0 for b in stream.ledger.balances())

    Stream(check).play(steps)


@QUICK
@given(STREAMS)
def test_property_3_held_is_the_sum_of_what_open_orders_may_still_need(steps):
    def check(stream: Stream) -> None:
        low: dict[str, int] = {}
        high: dict[str, int] = {}
        for order in stream.orders.values():
            if not (entry := stream.ledger.reservation(order.order_id)):
                continue
            traded = INSTRUMENTS[order.symbol]
            leaves = order.quantity - stream.filled[order.order_id]
            is_buy = order.side is Side.BUY
            need = buy_reserve(traded, order.price, leaves, 2600) if is_buy else leaves * traded.lot_size
            low[entry.asset] = low.get(entry.asset, 0) + need
            high[entry.asset] = high.get(entry.asset, 0) + need + (ROUNDING_ALLOWANCE if is_buy else 0)
        for asset in ("BTC", "ETH", "USDT"):
            held = stream.ledger.amount("test", asset, Bucket.HELD)
            assert low.get(asset, 0) <= held <= high.get(asset, 0)

    Stream(check).play(steps)


@QUICK
@given(STREAMS)
def test_property_4_an_order_that_has_ended_holds_nothing(steps):
    stream = Stream().play(steps)

    for order_id in stream.orders:
        stream.ledger.end(order_id)

    assert all(balance.held == 0 for balance in stream.ledger.balances())


@QUICK
@given(STREAMS)
def test_property_5_fills_never_exceed_the_order_and_equal_it_only_when_it_is_done(steps):
    stream = Stream().play(steps)
    canceled = {event for kind, event in stream.booked if kind == "end"}

    for order_id, order in stream.orders.items():
        is_open = stream.ledger.reservation(order_id) is not None
        assert stream.filled[order_id] <= order.quantity
        assert (stream.filled[order_id] == order.quantity) == (not is_open and order_id not in canceled)


@QUICK
@given(STREAMS, st.integers(1, 7_000_000))
def test_property_6_opening_realized_unrealized_and_fees_are_equity_to_the_unit(steps, bid):
    ledger = Stream().play(steps).ledger
    realized = unrealized = fees = worth = 0

    for inventory in ledger.inventories():
        value = bid * INSTRUMENTS[inventory.symbol].tick_size * inventory.quantity // UNIT
        worth += value
        unrealized += value - inventory.cost
        realized += inventory.realized
        fees += inventory.fees
        assert inventory.quantity == ledger.total("test", inventory.base)

    equity = ledger.total("test", "USDT") + worth
    assert OPENING["test", "USDT"] + realized + unrealized - fees == equity


@QUICK
@given(STREAMS, st.integers(0, 30))
def test_property_7_replaying_or_restoring_gives_identical_balances_and_digest(steps, cut):
    stream = Stream().play(steps)
    first = replay(stream.booked[:cut])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state), type=LedgerState)
    restored = Ledger(state=state)
    for kind, event in stream.booked[cut:]:
        if kind == "end":
            restored.end(event)
        else:
            getattr(restored, kind)(event, INSTRUMENTS[event.symbol])

    again = replay(stream.booked)

    assert again.balances() == restored.balances() == stream.ledger.balances()
    assert again.digest() == restored.digest() == stream.ledger.digest()


@QUICK
@given(STREAMS)
def test_property_8_a_repeated_submission_fill_or_end_changes_nothing(steps):
    stream = Stream().play(steps)

    doubled = [event for event in stream.booked for _ in range(2)]

    assert replay(doubled).digest() == stream.ledger.digest()


@QUICK
@given(st.integers(1, 1_000_000), st.integers(1, 6_000_000), st.lists(st.integers(1, 99), max_size=5))
def test_property_9_buying_and_selling_at_one_price_without_a_fee_is_identity(quantity, price, parts):
    ledger = Ledger({("test", "USDT"): 10**20})
    for side in (Side.BUY, Side.SELL):
        pieces = [min(part, quantity // 10) for part in parts]
        pieces = [piece for piece in [*pieces, quantity - sum(pieces)] if piece > 0]
        for number, piece in enumerate(pieces):
            ledger.fill(filled(str(side), number, side, piece, price, fee=0), BTC)

    assert ledger.total("test", "USDT") == 10**20
    assert ledger.total("test", "BTC") == 0
    assert [(i.quantity, i.cost, i.realized) for i in ledger.inventories()] == [(0, 0, 0)]


@QUICK
@given(STREAMS, st.randoms(use_true_random=False))
def test_property_11_permuting_independent_symbols_commutes(steps, random):
    booked = Stream().play(steps).booked
    orders = {event.order_id: event.symbol for kind, event in booked if kind == "submit"}
    by_symbol: dict[str, list[Any]] = {"BTC/USDT": [], "ETH/USDT": []}
    for kind, event in booked:
        by_symbol[orders[event if kind == "end" else event.order_id]].append((kind, event))
    shuffled = []
    while any(by_symbol.values()):
        shuffled.append(random.choice([queue for queue in by_symbol.values() if queue]).pop(0))
    rich = {("test", "USDT"): 10**19}  # or the order of funding would matter, as it should

    def play(events: list[tuple[str, Any]]) -> Ledger:
        ledger = Ledger(rich)
        for kind, event in events:
            if kind == "end":
                ledger.end(event)
            else:
                getattr(ledger, kind)(event, INSTRUMENTS[event.symbol])
        return ledger

    assert play(shuffled).digest() == play(booked).digest()


@QUICK
@given(st.integers(1, 6_000_000), st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_property_12_the_fills_of_an_order_never_cost_more_than_its_reservation(price, pieces):
    need = buy_reserve(ETH, price, sum(pieces), 2600) + ROUNDING_ALLOWANCE
    ledger = Ledger({("test", "USDT"): need})
    ledger.submit(submitted("o", Side.BUY, sum(pieces), price, "ETH/USDT"), ETH)

    for number, piece in enumerate(pieces):
        ledger.fill(filled("o", number, Side.BUY, piece, price, symbol="ETH/USDT"), ETH)
        assert ledger.amount("test", "USDT") >= 0

    assert ledger.reservation("o") is None
    assert 0 <= ledger.amount("test", "USDT") <= ROUNDING_ALLOWANCE


def test_a_fill_moves_base_quote_and_fee_at_once():
    ledger = Ledger(OPENING)
    ledger.submit(submitted("o", Side.BUY, 10_000, 6_000_000), BTC)

    booking = ledger.fill(filled("o", 1, Side.BUY, 10_000, 5_000_000, fee=to_units("7")), BTC)

    assert ledger.total("test", "BTC") == to_units("0.1")
    assert ledger.amount("test", "USDT") == to_units("4993")
    assert ledger.amount("test", "USDT", Bucket.HELD) == 0
    assert ledger.amount("test", "USDT", Bucket.FEES) == to_units("7")
    assert ledger.amount("test", "BTC", Bucket.MARKET) == -to_units("0.1")
    assert (booking.realized, booking.fee, booking.fee_asset) == (0, to_units("7"), "USDT")


def test_a_partial_sale_realizes_its_share_of_the_cost_and_leaves_the_remainder():
    ledger = Ledger(OPENING)
    ledger.fill(filled("a", 1, Side.BUY, 3, 1_000_000, fee=0), BTC)

    booking = ledger.fill(filled("b", 1, Side.SELL, 1, 1_300_000, fee=0), BTC)

    (inventory,) = ledger.inventories()
    assert booking.realized == inventory.realized == to_units("0.03")
    assert inventory.cost == to_units("0.2")
    assert inventory.quantity == 2 * BTC.lot_size


def test_a_fee_in_the_base_asset_is_booked_at_its_cost():
    ledger = Ledger(OPENING)

    booking = ledger.fill(
        filled("a", 1, Side.BUY, 1000, 1_000_000, fee=to_units("0.0001"), fee_asset="BTC"), BTC
    )

    (inventory,) = ledger.inventories()
    assert inventory.quantity == ledger.total("test", "BTC") == to_units("0.0099")
    assert (booking.fee, booking.fee_asset) == (to_units("1"), "USDT")
    assert inventory.cost == to_units("99")


def test_a_fee_in_a_third_asset_is_paid_from_that_asset():
    ledger = Ledger({**OPENING, ("test", "KCS"): to_units("5")})

    booking = ledger.fill(filled("a", 1, Side.BUY, 1000, 1_000_000, fee=to_units("2"), fee_asset="KCS"), BTC)

    assert ledger.total("test", "KCS") == to_units("3")
    assert (booking.fee, booking.fee_asset) == (to_units("2"), "KCS")
    assert ledger.inventories()[0].fees == 0


def test_a_market_buy_reserves_one_percent_above_the_mid_rounded_up():
    ledger = Ledger(OPENING)

    ledger.submit(submitted("o", Side.BUY, 5, 0, order_type=OrderType.MARKET, arrival_mid=199), BTC)

    assert protected_price(199) == 101  # 100.495
    assert ledger.reservation("o").amount == buy_reserve(BTC, 101, 5, 2600) + ROUNDING_ALLOWANCE


def test_refuses_to_reserve_more_than_is_free_and_stays_as_it_was():
    ledger = Ledger(OPENING)
    before = ledger.digest()

    with pytest.raises(InsufficientFunds, match=r"order o needs \d+ units of test\.USDT free, was 10{16}"):
        ledger.submit(submitted("o", Side.BUY, 10**9, 6_000_000), BTC)
    with pytest.raises(InsufficientFunds, match=r"test\.BTC free, was 0"):
        ledger.submit(submitted("o", Side.SELL, 1, 6_000_000), BTC)

    assert ledger.digest() == before


def test_refuses_a_fill_larger_than_the_leaves():
    ledger = Ledger(OPENING)
    ledger.submit(submitted("o", Side.BUY, 10, 6_000_000), BTC)
    before = ledger.digest()

    with pytest.raises(LedgerError, match="at most its leaves of 10 lots, was 11"):
        ledger.fill(filled("o", 1, Side.BUY, 11, 6_000_000), BTC)

    assert ledger.digest() == before


def test_books_a_fill_without_a_reservation_from_what_is_free():
    ledger = Ledger(OPENING)

    ledger.fill(filled("stranger", 1, Side.BUY, 100_000, 1_100_000, fee=0), BTC)

    assert ledger.amount("test", "USDT") == to_units("-1000")


def test_refuses_a_negative_opening():
    with pytest.raises(ValueError, match=r"at least 0, was -1 test\.USDT"):
        Ledger({("test", "USDT"): -1})


def test_the_digest_changes_with_a_single_unit():
    assert Ledger({("test", "USDT"): 1}).digest() != Ledger({("test", "USDT"): 2}).digest()


def test_adopted_and_moved_inventory_keeps_its_quantity_and_gets_the_cost_it_is_given():
    usd = Instrument(0, "test", "BTC/USD", "BTC", "USD", 10**10, 10**7)
    ledger = Ledger(OPENING)
    ledger.adopt("test", BTC, 4 * UNIT, to_units("400"))

    ledger.move(ledger.inventories()[0], usd, UNIT, to_units("99"))

    assert [(i.symbol, i.quantity, i.cost) for i in ledger.inventories()] == [
        ("BTC/USD", UNIT, to_units("99")),
        ("BTC/USDT", 3 * UNIT, to_units("300")),
    ]
