"""The market breaker: bands, pauses, crashes, exchanges that are off, books that are thin."""

import pytest

from tickerml.kernel import HaltLevel, HaltTrading, Side, TimeTick
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.risk import breaker_market as plugin

from .trading import MIN, S, judge, order, touch

MARKET = Market("test", "BTC/USDT")


def prints(price, *, start=0, stop=400, step=5):
    return [MARKET.trade(second * S, price, 1, Side.BUY) for second in range(start, stop, step)]


def mid(price, at_s, exchange="test"):
    return touch(price - 1, price + 1, exchange=exchange, ts=at_s * S)


def market(**options):
    """Prints at 10,000 for 400 s: the first five minutes are over and the reference is 10,000."""
    kept = Harness(plugin, options={"risk-breaker-market": options})
    for exchange in ("test", "a", "b", "c"):
        kept.send(instrument(exchange, "BTC/USDT", tick="1", lot="0.01"))
    kept.send(touch(9999, 10001), *prints(10_000), mid(10_000, 400))
    return kept


def reason(kept, at_s, **fields):
    return judge(kept, order(7, ts=at_s * S, **fields)).reason


@pytest.mark.parametrize(
    ("price", "denied"), [(10_200, False), (10_201, True), (9_800, False), (9_799, True)]
)
def test_two_percent_from_the_reference_is_still_inside(price, denied):
    kept = market()
    kept.send(mid(price, 401))

    assert bool(reason(kept, 401)) is denied
    assert reason(kept, 401, order_id="b", side=Side.SELL) == ""


def test_the_band_is_six_sigma_of_five_minutes_where_that_is_more():
    kept = market()
    symbol = kept.bus.component("risk-breaker-market")._state.symbols["test", "BTC/USDT"]
    symbol.variance = (0.05 / 6) ** 2 / plugin.BUCKETS
    kept.send(mid(10_490, 401))
    assert reason(kept, 401) == ""

    kept.send(mid(10_510, 402))
    assert reason(kept, 402, order_id="b").startswith("the mid is outside of 5.00%")


def test_many_prints_at_a_time_are_no_movement():
    kept = market()

    kept.send(*[MARKET.trade(at * S, 10_000, 1, Side.BUY) for at in (405, 406, 407, 411, 417)])

    assert kept.bus.component("risk-breaker-market")._state.symbols["test", "BTC/USDT"].variance == 0.0


def test_the_band_is_twice_as_wide_in_the_first_five_minutes():
    kept = Harness(plugin)
    kept.send(instrument("test", "BTC/USDT", tick="1", lot="0.01"), touch(9999, 10001))
    kept.send(*prints(10_000, start=1000, stop=1100), TimeTick(1101 * S), mid(10_390, 1101))
    assert reason(kept, 1101) == ""

    kept.send(mid(10_410, 1102))
    assert reason(kept, 1102, order_id="b").startswith("the mid is outside of 4.00%")


def test_the_reference_moves_only_when_the_mean_has_moved_a_hundredth():
    kept = market()
    symbol = kept.bus.component("risk-breaker-market")._state.symbols["test", "BTC/USDT"]
    kept.send(*prints(10_090, start=400, stop=1000), TimeTick(1001 * S))
    assert symbol.reference == 10_000 * 10**12

    kept.send(*prints(10_110, start=1005, stop=1600), TimeTick(1601 * S))
    assert symbol.reference >= 10_100 * 10**12


def test_fifteen_seconds_outside_pause_for_five_minutes_and_then_thirty_inside_end_it():
    kept = market()
    kept.send(mid(10_300, 401), TimeTick(416 * S))
    kept.send(mid(10_000, 417), TimeTick(418 * S))
    assert reason(kept, 418) == "BTC/USDT on test is paused: it was outside of its band"

    kept.send(mid(10_000, 700))
    assert reason(kept, 710, order_id="b") != ""
    assert reason(kept, 720, order_id="c") == ""


def test_a_short_while_outside_is_no_pause():
    kept = market()
    kept.send(mid(10_300, 401), TimeTick(414 * S), mid(10_000, 415))

    assert reason(kept, 420) == ""


@pytest.mark.parametrize(("price", "halts"), [(8501, 0), (8500, 1)])
def test_a_crash_halts_everything_once(price, halts):
    kept = market()
    kept.send(mid(price, 401), TimeTick(402 * S), TimeTick(410 * S))

    found = kept.of(HaltTrading)
    assert len(found) == halts
    if halts:
        assert (found[0].level, found[0].reason) == (
            HaltLevel.CANCEL,
            "BTC/USDT on test fell 15.00% within five minutes",
        )


def test_an_exchange_that_is_off_the_median_of_the_others_is_not_traded_on():
    kept = market()
    kept.send(mid(9_900, 401, "a"))
    assert reason(kept, 402) == ""  # one other may be the one that is wrong

    kept.send(mid(9_890, 403, "b"))
    assert reason(kept, 404, order_id="b") == "test is +1.06% off the median of 2 others"
    assert reason(kept, 404, order_id="c", exchange="b") == ""


def test_the_median_of_three_others_is_the_one_in_the_middle():
    kept = market()
    kept.send(mid(9_000, 401, "a"), mid(9_990, 402, "b"), mid(11_000, 403, "c"))
    assert reason(kept, 404) == ""

    kept.send(mid(9_890, 405, "b"))
    assert reason(kept, 406, order_id="b") == "test is +1.11% off the median of 3 others"


def test_a_wide_or_thin_book_is_not_traded_on():
    kept = market()
    kept.send(touch(9_940, 10_060, ts=401 * S))
    assert reason(kept, 401) == "the spread is 1.20%, more than 1.00%"

    kept.send(touch(9_999, 10_001, ts=402 * S, deep=9))  # 9 lots of 0.01 at 10,000
    assert reason(kept, 402, order_id="b") == "a side of the book has 900 USDT in ten levels"
    assert MIN == 60 * S
