"""The ledger's laws, numbered as in its specification, over random streams; and single cases."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import UNIT, Instrument, OrderType, Side, to_units
from tickerml.plugins import ledger_linear
from tickerml.plugins.ledger import (
    REMEMBERED,
    ROUNDING_ALLOWANCE,
    Bucket,
    InsufficientFunds,
    Ledger,
    LedgerError,
    Transfer,
    buy_reserve,
    protected_price,
)

from . import ledger_stream as laws
from .ledger_stream import BTC, ETH, LEVERAGE, OPENING, PERP, STREAMS, Stream, filled, replay, submitted

QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(STREAMS)
def test_property_1_the_ledger_sums_to_zero_in_every_asset_after_every_transaction(steps):
    Stream(laws.sums_to_zero).play(steps)


@QUICK
@given(STREAMS)
def test_property_2_nothing_free_or_held_on_spot_is_ever_below_zero(steps):
    Stream(laws.nothing_on_spot_below_zero).play(steps)


@QUICK
@given(STREAMS)
def test_property_3_held_is_the_sum_of_what_open_orders_may_still_need(steps):
    Stream(laws.held_is_reserved).play(steps)


@QUICK
@given(STREAMS)
def test_property_4_an_order_that_has_ended_holds_nothing(steps):
    stream = Stream(laws.ended_orders_hold_nothing).play(steps)

    for order_id in stream.symbols:
        stream.ledger.end(order_id)

    assert all(balance.held == 0 for balance in stream.ledger.balances())


@QUICK
@given(STREAMS)
def test_property_5_fills_never_exceed_the_order_and_equal_it_only_when_it_is_done(steps):
    Stream(laws.fills_stay_within_orders).play(steps)


@QUICK
@given(STREAMS, st.integers(1, 7_000_000))
def test_property_6_the_parts_are_equity_to_the_unit(steps, price):
    stream = Stream(laws.margin_secures_positions).play(steps)

    laws.parts_are_equity(stream, price)


@QUICK
@given(STREAMS, st.integers(0, 30))
def test_property_7_replaying_or_restoring_gives_identical_balances_and_digest(steps, cut):
    stream = Stream().play(steps)
    first = replay(stream.events[:cut])
    restored = laws.restored(first, msgspec.msgpack.encode, msgspec.msgpack.decode)
    replay(stream.events[cut:], restored)

    again = replay(stream.events)

    assert again.balances() == restored.balances() == stream.ledger.balances()
    assert again.digest() == restored.digest() == stream.ledger.digest()


@QUICK
@given(STREAMS)
def test_property_8_whatever_is_told_twice_changes_nothing(steps):
    stream = Stream().play(steps)

    doubled = [event for event in stream.events for _ in range(2)]

    assert replay(doubled).digest() == stream.ledger.digest()


@QUICK
@given(
    st.integers(1, 1_000_000),
    st.integers(1, 6_000_000),
    st.lists(st.integers(1, 99), max_size=5),
    st.sampled_from(["BTC/USDT", "BTC/USDT-PERP"]),
    st.permutations(list(Side)),
)
def test_property_9_buying_and_selling_at_one_price_without_a_fee_is_identity(
    quantity, price, parts, symbol, sides
):
    traded = laws.INSTRUMENTS[symbol]
    key, opening = (traded.exchange, "USDT"), 10**20
    ledger = Ledger({key: opening, (traded.exchange, "BTC"): 0}, leverage=LEVERAGE)
    for side in sides if traded.contract else (Side.BUY, Side.SELL):
        pieces = [min(part, quantity // 10) for part in parts]
        pieces = [piece for piece in [*pieces, quantity - sum(pieces)] if piece > 0]
        for number, piece in enumerate(pieces):
            ledger.fill(filled(str(side), number, side, piece, price, fee=0, symbol=symbol), traded)

    assert ledger.amount(*key) == opening
    assert ledger.total(traded.exchange, "BTC") == 0
    assert [(i.quantity, i.cost, i.realized, i.margin) for i in ledger.inventories()] == [(0, 0, 0, 0)]


@QUICK
@given(STREAMS)
def test_property_10_what_leaves_is_in_flight_or_has_arrived_or_was_the_fee(steps):
    Stream(laws.transfers_conserve).play(steps)


@QUICK
@given(STREAMS, st.randoms(use_true_random=False))
def test_property_11_permuting_independent_symbols_commutes(steps, random):
    stream = Stream().play([step for step in steps if step[0] in ("order", "trade", "cancel")])
    by_symbol: dict[str, list[Any]] = {}
    for method, given_ in stream.events:
        order_id = given_[0] if method == "end" else given_[0].order_id
        by_symbol.setdefault(stream.symbols[order_id], []).append((method, given_))
    queues, shuffled = list(by_symbol.values()), []
    while left := [queue for queue in queues if queue]:
        shuffled.append(random.choice(left).pop(0))

    def rich() -> Ledger:  # or the order of funding would matter, as it should
        return Ledger({("test", "USDT"): 10**19, ("perp", "USDT"): 10**19}, leverage=LEVERAGE)

    assert replay(shuffled, rich()).digest() == replay(stream.events, rich()).digest()


@QUICK
@given(st.integers(1, 6_000_000), st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_the_fills_of_an_order_never_cost_more_than_its_reservation(price, pieces):
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


# --- Replacing, perpetuals, funding and transfers -----------------------------------------------


def test_a_replaced_order_holds_what_it_now_needs():
    ledger = Ledger(OPENING)
    ledger.submit(submitted("o", Side.BUY, 1_000, 6_000_000), BTC)

    legs, shortfall = ledger.replace("o", 5_000_000, 400, BTC)

    assert shortfall == 0
    assert ledger.reservation("o").amount == buy_reserve(BTC, 5_000_000, 400, 2600) + ROUNDING_ALLOWANCE
    assert dict(legs)["test", "USDT", Bucket.FREE] == to_units("601.56") - to_units("200.52")


def test_an_order_replaced_for_more_than_is_free_holds_what_there_is_and_says_how_much_is_missing():
    ledger = Ledger({("test", "USDT"): to_units("100")})
    ledger.submit(submitted("o", Side.SELL, 0, 1), BTC)
    ledger.submit(submitted("p", Side.BUY, 100, 5_000_000), BTC)

    _, shortfall = ledger.replace("p", 5_000_000, 1_000, BTC)

    assert ledger.amount("test", "USDT") == 0
    assert ledger.amount("test", "USDT", Bucket.HELD) == to_units("100")
    assert shortfall == buy_reserve(BTC, 5_000_000, 1_000, 2600) + ROUNDING_ALLOWANCE - to_units("100")
    assert ledger.replace("gone", 1, 1, BTC) == ([], 0)


def test_a_short_perpetual_is_secured_by_margin_and_gains_when_it_falls():
    ledger = Ledger({("perp", "USDT"): to_units("1000")}, leverage=LEVERAGE)

    ledger.fill(filled("a", 1, Side.SELL, 1_000, 6_000_000, fee=0, symbol=PERP.symbol), PERP)
    secured = ledger.amount("perp", "USDT", Bucket.MARGIN)
    booking = ledger.fill(filled("b", 1, Side.BUY, 400, 5_000_000, fee=0, symbol=PERP.symbol), PERP)

    (position,) = ledger.inventories()
    assert secured == to_units("200")
    assert booking.realized == position.realized == to_units("40")
    assert (position.quantity, position.cost) == (-600 * PERP.lot_size, to_units("360"))
    assert ledger.amount("perp", "USDT", Bucket.MARGIN) == to_units("120")
    assert ledger.amount("perp", "USDT") == to_units("920")
    assert ledger.total("perp", "BTC") == 0


def test_a_perpetual_traded_through_zero_closes_what_it_was_and_opens_the_rest():
    ledger = Ledger({("perp", "USDT"): to_units("1000")}, leverage=LEVERAGE)
    ledger.fill(filled("a", 1, Side.BUY, 1_000, 6_000_000, fee=0, symbol=PERP.symbol), PERP)

    booking = ledger.fill(filled("b", 1, Side.SELL, 1_500, 6_600_000, fee=0, symbol=PERP.symbol), PERP)

    (position,) = ledger.inventories()
    assert booking.realized == to_units("60")
    assert (position.quantity, position.cost) == (-500 * PERP.lot_size, to_units("330"))
    assert ledger.amount("perp", "USDT", Bucket.MARGIN) == to_units("110")


def test_an_order_that_closes_a_perpetual_holds_no_margin_for_that():
    ledger = Ledger({("perp", "USDT"): to_units("210")}, leverage=LEVERAGE)
    ledger.fill(filled("a", 1, Side.SELL, 1_000, 6_000_000, fee=0, symbol=PERP.symbol), PERP)

    ledger.submit(submitted("b", Side.BUY, 800, 6_000_000, PERP.symbol), PERP)

    assert ledger.reservation("b").opens == 0
    assert ledger.reservation("b").amount == to_units("1.248") + ROUNDING_ALLOWANCE
    with pytest.raises(InsufficientFunds):  # of these only 200 close: the others open 300
        ledger.submit(submitted("c", Side.BUY, 500, 6_000_000, PERP.symbol), PERP)


def test_an_order_that_closes_first_holds_margin_only_for_what_it_has_left_to_open():
    ledger = Ledger({("perp", "USDT"): to_units("1000")}, leverage=LEVERAGE)
    ledger.fill(filled("a", 1, Side.SELL, 100, 6_000_000, fee=0, symbol=PERP.symbol), PERP)
    ledger.submit(submitted("b", Side.BUY, 300, 6_000_000, PERP.symbol), PERP)

    ledger.fill(filled("b", 1, Side.BUY, 200, 6_000_000, fee=0, symbol=PERP.symbol, leaves=100), PERP)

    assert ledger.reservation("b").opens == 100
    assert ledger.reservation("b").amount == to_units("20.156") + ROUNDING_ALLOWANCE


def test_the_cost_of_a_position_is_taken_rounded_down_and_its_remainder_stays():
    assert ledger_linear.trade(3, 100, -1, 40) == (2, 67, 7)
    assert ledger_linear.trade(-3, 100, 1, 30) == (-2, 67, 3)


def test_an_inverse_contract_is_refused():
    inverse = msgspec.structs.replace(PERP, contract="inverse")
    ledger = Ledger(OPENING)

    with pytest.raises(LedgerError, match="only spot and linear contracts are booked"):
        ledger.submit(submitted("a", Side.BUY, 1, 1, PERP.symbol), inverse)
    with pytest.raises(LedgerError, match="BTC/USDT-PERP on perp is inverse"):
        ledger.fill(filled("a", 1, Side.BUY, 1, 1, symbol=PERP.symbol), inverse)


@pytest.mark.parametrize(
    ("quantity", "rate", "amount"),
    [
        (10**12, 100_000_000, "-6"),  # a long of 1 BTC at 60,000 pays 0.01 %
        (-(10**12), 100_000_000, "6"),
        (10**12, -100_000_000, "6"),
        (-(10**12), -100_000_000, "-6"),
    ],
)
def test_long_pays_short_when_the_rate_is_positive(quantity, rate, amount):
    received, _ = Ledger(OPENING).settle(PERP, 1, quantity, 6_000_000, rate)

    assert received == to_units(amount)


@given(st.integers(1, 10**13), st.integers(1, 7_000_000), st.integers(1, 10**10))
def test_a_funding_payment_rounds_up_and_a_receipt_down(lots, mark, rate):
    quantity = lots * PERP.lot_size
    exact = quantity * mark * PERP.tick_size * rate  # in units of 1e-36

    paid, _ = Ledger(OPENING).settle(PERP, 1, quantity, mark, rate)
    received, _ = Ledger(OPENING).settle(PERP, 1, -quantity, mark, rate)

    assert received * UNIT * UNIT <= exact <= -paid * UNIT * UNIT
    assert -paid - received <= 1


def test_a_settlement_is_booked_once():
    ledger = Ledger(OPENING)
    ledger.settle(PERP, 1, UNIT, 6_000_000, 10**8)
    before = ledger.digest()

    assert ledger.settle(PERP, 1, UNIT, 6_000_000, 10**8) == (0, [])
    assert ledger.digest() == before


def test_a_transfer_is_in_flight_until_it_arrives():
    ledger = Ledger(OPENING)
    transfer = Transfer("USDT", "test", "other", to_units("98"), 5)

    ledger.send("t", to_units("100"), to_units("2"), transfer)
    in_flight = ledger.balances()[0]
    ledger.receive("t")

    assert (in_flight.exchange, in_flight.free, in_flight.in_flight) == ("other", 0, to_units("98"))
    assert ledger.amount("test", "USDT") == to_units("9900")
    assert ledger.amount("other", "USDT") == ledger.total("other", "USDT") == to_units("98")
    assert ledger.amount("test", "USDT", Bucket.WITHDRAWAL_FEE) == to_units("2")


@pytest.mark.parametrize(
    ("amount", "fee", "transfer", "text"),
    [
        (10**17, 0, Transfer("USDT", "test", "other", 10**17, 0), "needs 1"),
        (5, 5, Transfer("USDT", "test", "other", 0, 0), "must take its fee and something more"),
        (5, 1, Transfer("USDT", "test", "other", 5, 0), "must take its fee and something more"),
        (5, 0, Transfer("USDT", "test", "test", 5, 0), "to another exchange"),
        (5, -1, Transfer("USDT", "test", "other", 6, 0), "must take its fee"),
    ],
)
def test_refuses_a_transfer_that_does_not_add_up_and_stays_as_it_was(amount, fee, transfer, text):
    ledger = Ledger(OPENING)
    before = ledger.digest()

    with pytest.raises(LedgerError, match=text):
        ledger.send("t", amount, fee, transfer)

    assert ledger.digest() == before


def test_what_may_repeat_is_remembered_for_a_while_and_not_for_good():
    ledger = Ledger(OPENING)

    for ts in range(REMEMBERED + 10):
        ledger.settle(PERP, ts, UNIT, 6_000_000, 10**8)

    assert len(ledger.state.recent_settlements) == REMEMBERED
