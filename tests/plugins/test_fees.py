"""Fees by exchange and tier: which are believed, and what a fill is charged."""

from datetime import date
from typing import Any

import msgspec
import pytest

from tickerml.kernel import (
    NS_PER_S,
    Instrument,
    LedgerPosted,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    TimeTick,
)
from tickerml.kernel.testing import Harness, Market, instrument, spec_of
from tickerml.plugins import portfolio, sim_fifo
from tickerml.plugins.fees import charged, fee_table

START = 1_700_000_000 * NS_PER_S
AS_OF = fee_table()["kucoin"].as_of


def listed(exchange: str, maker: int, taker: int, as_of: str) -> Instrument:
    plain = instrument(exchange, maker_fee_ppm=maker, taker_fee_ppm=taker)
    return msgspec.structs.replace(plain, fees_as_of=as_of)


def fees(instrument: Instrument, tier: str = "") -> tuple[int, int]:
    told = charged(instrument, tier)
    return told.maker_fee_ppm, told.taker_fee_ppm


def test_every_schedule_has_a_date_a_source_and_tiers_that_do_not_get_dearer():
    for schedule in fee_table().values():
        assert date.fromisoformat(schedule.as_of) <= date(2026, 11, 22)
        assert schedule.source.startswith("https://")
        for column in zip(*schedule.tiers.values(), strict=True):
            assert list(column) == sorted(column, reverse=True)
        assert all(maker <= taker for maker, taker in schedule.tiers.values())


def test_an_exchange_that_is_not_in_the_table_charges_what_its_instrument_says():
    assert fees(listed("test", 7, 8, "")) == (7, 8)


@pytest.mark.parametrize(
    ("as_of", "expected"), [(AS_OF, (70, 80)), ("2030-01-01", (70, 80)), ("2020-01-01", (1000, 1000))]
)
def test_the_fresher_of_instrument_and_table_is_believed(as_of, expected):
    assert fees(listed("kucoin", 70, 80, as_of)) == expected
    assert charged(listed("kucoin", 70, 80, as_of)).fees_as_of == max(as_of, AS_OF)


def test_fees_without_a_date_are_older_than_all():
    assert fees(listed("kucoin", 0, 0, "")) == (1000, 1000)


def test_a_tier_is_charged_and_a_pair_that_costs_twice_costs_twice_in_it():
    assert fees(listed("kucoin", 1000, 1000, AS_OF), "vip3") == (750, 900)
    assert fees(listed("kucoin", 2000, 2000, AS_OF), "vip3") == (1500, 1800)
    assert fees(listed("kucoin", 3000, 3000, AS_OF), "vip12") == (-50, 750)  # a rebate is in no class larger
    assert fees(listed("kucoin", 1001, 1001, AS_OF), "vip1") == (951, 1001)  # rounded up
    assert fees(listed("kucoin", 9, 9, "2020-01-01"), "vip3") == (750, 900)


def fill(aggressor: bool, **options: Any) -> OrderFilled:
    harness = Harness(sim_fifo, options={"sim-fifo": {"latency_ms": {"kucoin": (0, 0)}, **options}})
    market = Market("kucoin")
    price = 10_010 if aggressor else 9_990
    kinds = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
    harness.send(
        listed("kucoin", 1000, 1000, AS_OF),
        market.book(START, [(9_990, 10)], [(10_010, 10)]),
        OrderSubmitted(START, "a", "s", "paper", "kucoin", "BTC/USDT", *kinds, price, 5, 20_000),
        market.trade(START + NS_PER_S, 9_990, 15, Side.SELL),
        TimeTick(START + 9 * NS_PER_S),
    )
    (event,) = harness.of(OrderFilled)
    return event


def test_a_fill_pays_its_tier_in_units_rounded_up():
    notional = 9_990 * 10**10 * 5 * 10**7 // 10**12  # 99.90 USDT x 0.00005

    assert fill(False).fee == notional // 1000
    assert fill(False, fee_tier={"kucoin": "vip5"}).fee == -(-notional * 350 // 10**6)
    assert fill(True, fee_tier={"kucoin": "vip5"}).fee == -(-(notional // 9_990 * 10_010) * 550 // 10**6)
    assert fill(False, fee_tier={"kucoin": "vip11"}).fee == -(notional * 30 // 10**6)


@pytest.mark.parametrize(
    ("tiers", "complaint"),
    [
        ({"kraken": "vip1"}, r"fee_tier.kraken must be one of 0, 10k, 50k, .*, 10M, was 'vip1'"),
        ({"ftx": "0"}, r"fee_tier.ftx must be of an exchange with tiers: binance, .*, kucoinfutures"),
    ],
)
def test_an_unknown_tier_is_refused_with_those_that_there_are(tiers, complaint):
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"fee_tier": tiers}, spec_of(sim_fifo).options)


@pytest.mark.parametrize(("money", "is_enough"), [("0.09995", False), ("0.1001", True)])
def test_what_is_reserved_covers_what_the_table_charges(money, is_enough):
    plain = listed("kucoin", 0, 0, "")  # an import that knows no fees
    kinds = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
    order = OrderSubmitted(START, "a", "s", "paper", "kucoin", "BTC/USDT", *kinds, 9_990, 100, 20_000)
    account = {"opening": {"kucoin.USDT": money}, "currency": "USDT"}
    harness = Harness(portfolio, options={"portfolio": account})
    harness.send(plain, Market("kucoin").book(START, [(9_990, 10)], [(10_010, 10)]), order)

    assert bool(harness.of(LedgerPosted)) is is_enough  # 0.0999 USDT and 0.1 % of it
