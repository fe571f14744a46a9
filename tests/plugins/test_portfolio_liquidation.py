"""Perpetuals whose collateral has fallen to the maintenance margin are closed at their mark, for a fee."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    BookStale,
    FundingSettled,
    FundingUpdated,
    Instrument,
    LedgerPosted,
    Liquidity,
    OrderFilled,
    PortfolioSnapshot,
    PositionLiquidated,
    Side,
    TimeTick,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, run_with_restarts
from tickerml.plugins import portfolio
from tickerml.plugins.ledger import Bucket

S = NS_PER_S
DEEP = 10**9


def perpetual(base: str) -> Instrument:
    lot = to_units("0.01")
    return Instrument(0, "perp", f"{base}/USDT-PERP", base, "USDT", UNIT, lot, contract="linear")


BTC, ETH = perpetual("BTC"), perpetual("ETH")


def harness(**options: Any) -> Harness:
    """An account of 100 USDT where perpetuals trade, and 1000 elsewhere; maintenance 10 %, fee 1 %."""
    settings = {
        "opening": {"test.USDT": "1000", "perp.USDT": "100"},
        "currency": "USDT",
        "maintenance_margin": 0.1,
        "liquidation_fee": 0.01,
        "stale_mark_s": 10.0,
        **options,
    }
    return Harness(portfolio, options={"portfolio": settings})


def book(ts: int, bid: int, ask: int, traded: Instrument = BTC) -> Any:
    return Market("perp", traded.symbol).book(ts, bids=[(bid, DEEP)], asks=[(ask, DEEP)])


def fill(ts: int, side: Side, quantity: int, price: int, traded: Instrument = BTC) -> OrderFilled:
    head = (ts, ts, f"o-{ts}", 1, "s", "paper", "perp", traded.symbol, side, price, quantity, 0)
    return OrderFilled(*head, Liquidity.TAKER, 0, "USDT", 0, 0, 0, False, 0)


def snapshot(kept: Harness) -> PortfolioSnapshot:
    last: PortfolioSnapshot = kept.of(PortfolioSnapshot)[-1]
    return last


def unexplained(told: PortfolioSnapshot) -> int:
    return told.opening + told.realized + told.unrealized - told.fees + told.funding - told.equity


def test_a_long_is_closed_at_the_bid_once_its_collateral_is_no_more_than_its_maintenance():
    kept = harness()
    kept.send(BTC, book(S, 100, 101), fill(S, Side.BUY, 400, 100))  # 4 BTC for 400 USDT

    kept.send(book(2 * S, 84, 85), TimeTick(3 * S + 1))  # 36 are left, and 33.60 are required
    assert kept.of(PositionLiquidated) == []
    kept.send(book(4 * S, 83, 84), TimeTick(5 * S + 1))  # 32 are left, and 33.20 are required

    (gone,) = kept.of(PositionLiquidated)
    assert (gone.account, gone.exchange, gone.symbol) == ("paper", "perp", "BTC/USDT-PERP")
    assert (gone.quantity, gone.price, gone.asset) == (400, 83, "USDT")
    assert (gone.realized, gone.fee) == (-68 * UNIT, to_units("3.32"))
    assert (gone.collateral, gone.required) == (32 * UNIT, to_units("33.2"))
    money = snapshot(kept)
    assert (money.realized, money.fees, money.unrealized) == (-68 * UNIT, to_units("3.32"), 0)
    assert money.equity == to_units("1028.68")
    assert (money.positions[0].quantity, money.positions[0].margin, money.positions[0].cost) == (0, 0, 0)
    assert money.balances[0].free == to_units("28.68")


def test_it_is_booked_apart_from_trades_and_their_fees():
    kept = harness()
    kept.send(BTC, book(S, 100, 101), fill(S, Side.BUY, 400, 100), book(2 * S, 80, 81), TimeTick(3 * S + 1))

    posted = [each for each in kept.of(LedgerPosted) if each.cause == "liquidation"]

    assert len(posted) == 1
    assert (posted[0].realized, posted[0].fees, posted[0].cash) == (
        -80 * UNIT,
        to_units("3.2"),
        320 * UNIT,
    )
    ledger = kept.bus.component("portfolio").ledger
    assert ledger.amount("perp", "USDT", Bucket.LIQUIDATION) == to_units("3.2")
    assert [each.fees for each in ledger.inventories()] == [to_units("3.2")]
    assert (ledger.amount("perp", "USDT", Bucket.FEES), ledger.sums()) == (0, {"USDT": 0})


def test_a_short_is_closed_at_the_ask():
    kept = harness()
    kept.send(
        BTC, book(S, 100, 101), fill(S, Side.SELL, 400, 100), book(2 * S, 115, 116), TimeTick(3 * S + 1)
    )

    (gone,) = kept.of(PositionLiquidated)

    assert (gone.quantity, gone.price, gone.realized) == (-400, 116, -64 * UNIT)
    assert [each.cash for each in kept.of(LedgerPosted) if each.cause == "liquidation"] == [-464 * UNIT]


@pytest.mark.parametrize(("there", "is_gone"), [("397", False), ("396", True)])
def test_all_that_an_exchange_has_of_the_quote_secures_what_is_open_there_and_nothing_elsewhere(
    there, is_gone
):
    kept = harness(opening={"test.USDT": "1000", "perp.USDT": there})

    kept.send(BTC, book(S, 100, 101), fill(S, Side.BUY, 400, 100), book(2 * S, 1, 2), TimeTick(3 * S + 1))

    assert bool(kept.of(PositionLiquidated)) == is_gone  # 396 are lost, and 0.40 required


def test_the_largest_goes_first_and_the_other_stays_where_that_is_enough():
    kept = harness()
    kept.send(BTC, ETH, book(S, 100, 101), book(S, 10, 11, ETH))
    kept.send(fill(S, Side.BUY, 400, 100), fill(S + 1, Side.SELL, 100, 10, ETH))

    kept.send(book(2 * S, 82, 83), book(2 * S, 10, 11, ETH), TimeTick(3 * S + 1))

    assert [each.symbol for each in kept.of(PositionLiquidated)] == ["BTC/USDT-PERP"]
    assert [(each.symbol, each.quantity) for each in snapshot(kept).positions] == [
        ("BTC/USDT-PERP", 0),
        ("ETH/USDT-PERP", -100),
    ]


def test_nothing_is_closed_while_a_price_is_not_to_be_believed():
    kept = harness()
    kept.send(BTC, ETH, book(S, 100, 101), book(S, 10, 11, ETH))
    kept.send(fill(S, Side.BUY, 400, 100), fill(S + 1, Side.SELL, 100, 10, ETH))

    kept.send(BookStale(2 * S, "perp", "ETH/USDT-PERP", 900), TimeTick(20 * S))
    kept.send(book(20 * S, 80, 81), TimeTick(21 * S + 1))
    assert kept.of(PositionLiquidated) == []

    kept.send(book(22 * S, 10, 11, ETH), TimeTick(23 * S + 1))
    assert [each.symbol for each in kept.of(PositionLiquidated)] == ["BTC/USDT-PERP"]


def test_what_is_gone_at_a_funding_time_is_not_paid_for():
    kept = harness(funding_grace_s=2.0)
    kept.send(BTC, book(S, 100, 101), fill(S, Side.BUY, 400, 100))
    at = 10 * S
    update = FundingUpdated(2 * S, 2 * S, "perp", "BTC/USDT-PERP", 100, 100, to_units("0.01"), 0, at, 3600)

    kept.send(
        update,
        book(3 * S, 80, 81),
        TimeTick(5 * S),
        msgspec.structs.replace(update, ts_recv=9 * S, ts_event=9 * S),
    )
    kept.send(TimeTick(13 * S))

    assert len(kept.of(PositionLiquidated)) == 1
    assert [each.amount for each in kept.of(FundingSettled)] == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from([BTC, ETH]),
        st.integers(40, 160),
        st.integers(-300, 300).filter(bool),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


def tape(steps: Any) -> list[Any]:
    """Prices that jump, with a trade now and then at what they are, each a second after the last."""
    messages: list[Any] = [BTC, ETH, book(S, 100, 101), book(S, 100, 101, ETH)]
    ts = S
    for traded, bid, lots, kind in steps:
        ts += S
        messages.append(book(ts, bid, bid + 1, traded))
        if kind == 0:
            side = Side.BUY if lots > 0 else Side.SELL
            messages.append(fill(ts, side, abs(lots), bid + (lots > 0), traded))
    return [*messages, TimeTick(ts + 2 * S)]


@given(STEPS)
def test_whatever_prices_do_no_position_stays_that_is_not_secured_and_no_money_is_lost_to_nobody(steps):
    kept = harness()
    for message in tape(steps):
        kept.send(message)
        for told in kept.of(PortfolioSnapshot):
            assert unexplained(told) == 0
        kept.outputs = [each for each in kept.outputs if not isinstance(each, PortfolioSnapshot)]
    kept.send(TimeTick(kept.bus.clock.now() + 2 * S))

    ledger, money = kept.bus.component("portfolio").ledger, snapshot(kept)
    assert ledger.sums() == {"USDT": 0}
    balance = next(each for each in money.balances if each.exchange == "perp")
    held = [each for each in money.positions if each.quantity]
    collateral = balance.free + balance.held + balance.margin + sum(each.unrealized for each in held)
    required = sum(BTC.notional(each.mark, abs(each.quantity)) for each in held) // 10
    assert not held or collateral > required
    gone = kept.of(PositionLiquidated)
    assert all(each.collateral <= each.required for each in gone)
    assert money.fees == sum(each.fee for each in gone)
    assert ledger.amount("perp", "USDT", Bucket.LIQUIDATION) == money.fees
    assert len([each for each in kept.of(LedgerPosted) if each.cause == "liquidation"]) == len(gone)


@given(STEPS, st.sets(st.integers(0, 60)))
def test_moving_the_account_to_a_new_process_anywhere_changes_nothing(steps, cuts):
    messages = tape(steps)

    assert run_with_restarts(harness, messages, cuts) == run_with_restarts(harness, messages, ())


@pytest.mark.parametrize("option", ["maintenance_margin", "liquidation_fee"])
def test_a_share_of_one_or_more_is_refused(option):
    with pytest.raises(msgspec.ValidationError, match=f"< 1.0.*{option}"):
        harness(**{option: 1.0})
