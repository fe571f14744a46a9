"""Fees by exchange and tier: which are believed, and what a fill is charged."""

from datetime import date
from typing import Any

import msgspec
import pytest

from tickerml.kernel import (
    NS_PER_S,
    Instrument,
    LedgerPosted,
    Message,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    TimeTick,
)
from tickerml.kernel.testing import Harness, Market, instrument, spec_of
from tickerml.plugins import portfolio, sim_fifo
from tickerml.plugins.fees import Tiers, charged, fee_table

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
        ({"kraken": "vip1"}, r"fee_tier.kraken must be one of 0, 10k, 50k, .*, 10M, by-volume, was 'vip1'"),
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


# --- One truth --------------------------------------------------------------------------------------


def exchange(*messages: Message, **options: Any) -> Harness:
    """The simulator, which has heard of kraken's BTC/USD: 0.25 and 0.40 %."""
    harness = Harness(sim_fifo, options={"sim-fifo": options})
    harness.send(listed("kraken", 2500, 4000, "2030-01-01"), *messages)
    return harness


def said(harness: Harness) -> list[tuple[str, int, int]]:
    return [(told.fee_tier, told.maker_fee_ppm, told.taker_fee_ppm) for told in harness.of(Instrument)]


def test_where_everybody_pays_what_the_instrument_says_nothing_more_is_said():
    assert said(exchange()) == []


def test_what_a_tier_is_charged_is_said_once_in_an_instrument_that_all_count_with():
    harness = exchange(fee_tier={"kraken": "50k"})

    assert said(harness) == [("50k", 1400, 2400)]
    assert harness.bus.instruments["kraken", "BTC/USDT"] == harness.of(Instrument)[0]


def test_a_table_that_is_fresher_is_said_as_well():
    harness = Harness(sim_fifo)

    harness.send(listed("kraken", 1, 2, "2020-01-01"))

    assert said(harness) == [("", 2500, 4000)]


def test_a_recorded_instrument_of_one_tier_serves_a_run_with_another_or_with_none():
    (recorded,) = exchange(fee_tier={"kraken": "50k"}).of(Instrument)

    for tiers, expected in (
        ({}, [("", 2500, 4000)]),
        ({"kraken": "50k"}, []),
        ({"kraken": "10M"}, [("10M", 0, 1000)]),
    ):
        harness = Harness(sim_fifo, options={"sim-fifo": {"fee_tier": tiers}})
        harness.send(recorded)
        assert said(harness) == expected


def test_what_was_said_is_what_reservations_count_with_and_any_tier_can_be_had_from_it():
    told = charged(listed("kucoin", 1000, 1000, AS_OF), "vip5")

    assert charged(told) == told
    assert fees(told, "") == (1000, 1000)
    assert fees(told, "vip3") == (750, 900)


# --- Earned by volume ---------------------------------------------------------------------------------

DAY = 86_400 * NS_PER_S
NOON = START // DAY * DAY + DAY // 2
EARNED = {"latency_ms": {"kraken": (0, 0)}, "fee_tier": {"kraken": "by-volume"}, "quiet_ms": 0}


class Trader:
    """Buys at the ask of a market of 100,000 a coin: 2 coins are 200,000 USD."""

    def __init__(self, quote: str = "USDT") -> None:
        self.harness = Harness(sim_fifo, options={"sim-fifo": EARNED})
        self.market, self.count = Market("kraken", f"BTC/{quote}"), 0
        plain = instrument(
            "kraken", f"BTC/{quote}", tick="1", lot="1", maker_fee_ppm=2500, taker_fee_ppm=4000
        )
        self.harness.send(msgspec.structs.replace(plain, fees_as_of="2030-01-01"))

    def buys(self, days: int, coins: int = 1, account: str = "paper") -> int:
        """Buy *coins* so many days after NOON and return the fee in millionths."""
        self.count += 1
        at = NOON + days * DAY + self.count * 9 * NS_PER_S
        kinds = (Side.BUY, OrderType.LIMIT, TimeInForce.IOC)
        order_id = str(self.count)
        names = (order_id, "s", account, "kraken", self.market.symbol)
        self.harness.send(
            self.market.book(at, [(99_999, 9_000)], [(100_000, 9_000)]),
            OrderSubmitted(at, *names, *kinds, 100_000, coins, 200_000),
            TimeTick(at + NS_PER_S),
        )
        (fill,) = [each for each in self.harness.of(OrderFilled) if each.order_id == order_id]
        return fill.fee * 10**6 // (10**17 * coins)


def test_an_account_pays_the_tier_that_its_last_thirty_days_have_earned():
    trader = Trader()

    assert trader.buys(0) == 4000
    assert trader.buys(0) == 4000  # what is traded today counts from tomorrow on
    assert trader.buys(1) == 2200  # 200,000 so far: the tier of 100k
    assert trader.buys(30) == 2000  # 300,000: that of 250k
    assert trader.buys(31) == 2200  # the first day's 200,000 are over: two coins are left


def test_the_tier_changes_at_midnight_utc_and_everybody_is_told_of_it():
    trader = Trader()
    trader.buys(0, 3)
    assert said(trader.harness) == [("0", 2500, 4000)]

    trader.harness.send(TimeTick(NOON + DAY // 2))
    assert said(trader.harness) == [("0", 2500, 4000)]
    trader.harness.send(TimeTick(NOON + DAY // 2 + 1))

    assert said(trader.harness) == [("0", 2500, 4000), ("250k", 1000, 2000)]


def test_an_order_pays_the_tier_of_the_day_it_was_accepted_on():
    trader = Trader()
    trader.buys(0, 3)
    names = ("rests", "s", "paper", "kraken", "BTC/USDT")
    kinds, at = (Side.BUY, OrderType.LIMIT, TimeInForce.GTC), NOON + 60 * NS_PER_S
    trader.harness.send(OrderSubmitted(at, *names, *kinds, 99_998, 1, 200_000), TimeTick(at + NS_PER_S))

    later = NOON + DAY
    trader.harness.send(trader.market.trade(later, 99_997, 9, Side.SELL), TimeTick(later + NS_PER_S))

    (fill,) = [each for each in trader.harness.of(OrderFilled) if each.order_id == "rests"]
    assert fill.fee * 10**6 == 99_998 * 10**12 * 2500


def test_tiers_are_looked_at_every_midnight_from_the_first_fill_on_though_nothing_trades():
    trader = Trader()
    trader.buys(0, 3)

    for day in range(1, 33):
        trader.harness.send(TimeTick(NOON + DAY * day))

    assert said(trader.harness) == [("0", 2500, 4000), ("250k", 1000, 2000), ("0", 2500, 4000)]
    assert trader.harness.bus._timer_count < 60


def test_accounts_earn_apart_and_what_is_said_is_the_dearest_of_them():
    trader = Trader()
    trader.buys(0, 100, "rich")
    trader.harness.send(TimeTick(NOON + DAY // 2 + 1))
    assert said(trader.harness)[-1] == ("10M", 0, 1000)

    assert trader.buys(1, 1, "poor") == 4000

    assert said(trader.harness)[-1] == ("0", 2500, 4000)
    assert trader.buys(1, 1, "rich") == 1000


def test_what_is_paid_for_in_another_coin_earns_nothing():
    trader = Trader("EUR")
    trader.buys(0, 100)

    assert trader.buys(1) == 4000


def test_a_restored_simulator_knows_what_was_traded():
    trader, late = Trader(), Trader()
    trader.buys(0, 3)

    late.harness.bus.component("sim-fifo").restore(trader.harness.bus.component("sim-fifo").snapshot())
    late.count = 1

    assert late.buys(1) == trader.buys(1) == 2000


@pytest.mark.parametrize("exchange", ["kucoin", "binanceus"])
def test_a_tier_cannot_be_earned_where_it_is_not_by_volume(exchange):
    with pytest.raises(msgspec.ValidationError, match=r"must be one of .*, was 'by-volume'"):
        msgspec.convert({"fee_tier": {exchange: "by-volume"}}, spec_of(sim_fifo).options)


def test_of_days_long_gone_nothing_is_kept():
    tiers = Tiers({"kraken": "by-volume"})
    market = instrument("kraken")
    (event,) = [fill(True)]
    for day in range(0, 200, 7):
        tiers.take(msgspec.structs.replace(event, exchange="kraken", ts_event=day * DAY), market)

    assert len(tiers.volumes.days["kraken", "paper"]) == 9
