"""What two books are worth is exact, an opportunity is told once, and what could be had is the truth."""

from fractions import Fraction
from functools import cache
from itertools import pairwise, takewhile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.exchanges import synthetic
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    ArbitrageEnded,
    ArbitrageSeen,
    Balance,
    BookDelta,
    BookSnapshot,
    FeedLost,
    PortfolioSnapshot,
    TimeTick,
    levels,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts, spec_of
from tickerml.plugins import arbitrage
from tickerml.plugins import arbitrage_walk as walk
from tickerml.plugins.arbitrage_pairs import Market as Listed
from tickerml.plugins.arbitrage_pairs import make_pair

START = 1_700_000_000 * NS_PER_S
MS = NS_PER_MS


# --- Walking two books ----------------------------------------------------------------------------

LOTS = st.integers(1, 40)
SIDE = st.lists(
    st.tuples(st.integers(900, 1100), LOTS), min_size=1, max_size=6, unique_by=lambda each: each[0]
)


@st.composite
def books(draw):
    """A purchase, a sale, a third book and what must be left, all with few large steps."""
    fees = st.sampled_from([0, 100, 1000, 4000])
    buy = walk.Leg(10**10, 10 ** draw(st.sampled_from([9, 10, 11])), draw(fees), +1, sorted(draw(SIDE)))
    sell = walk.Leg(
        10**10, 10 ** draw(st.sampled_from([9, 10, 11])), draw(fees), -1, sorted(draw(SIDE))[::-1]
    )
    sign = draw(st.sampled_from([0, 1, -1]))
    money = walk.PARITY
    if sign:
        side = sorted(draw(SIDE))[::sign]
        money = walk.rates(walk.Leg(10**9, 10**11, draw(fees), sign, side))
    return buy, sell, money, draw(st.integers(0, 10**8)), draw(st.integers(1, 10**13))


def worth(buy, sell, money, theta, mid2):
    """Return, as fractions, the (base units) of each stretch worth more than theta, by halving all books."""
    stretches, ask, bid, rate = [], 0, 0, 0
    asks = [[price, Fraction(lots * buy.lot)] for price, lots in buy.levels]
    bids = [[price, Fraction(lots * sell.lot)] for price, lots in sell.levels]
    moneys = [[each, Fraction(each.capacity)] for each in money]
    while ask < len(asks) and bid < len(bids) and rate < len(moneys):
        cost = Fraction(asks[ask][0] * buy.tick * (10**6 + buy.fee), 10**6 * UNIT)
        value = Fraction(bids[bid][0] * sell.tick * (10**6 - sell.fee), 10**6 * UNIT)
        price = Fraction(moneys[rate][0].num, moneys[rate][0].den)
        if value - cost * price <= Fraction(theta, 10**9) * Fraction(mid2 * sell.tick, 2 * UNIT):
            break
        part = min(asks[ask][1], bids[bid][1], moneys[rate][1] / cost)
        stretches.append((part, value - cost * price))
        asks[ask][1] -= part
        bids[bid][1] -= part
        moneys[rate][1] -= part * cost
        ask += not asks[ask][1]
        bid += not bids[bid][1]
        rate += not moneys[rate][1]
    return stretches


@given(books())
@settings(max_examples=60)
def test_takes_every_unit_that_is_worth_more_than_theta_and_no_other(case):
    buy, sell, money, theta, cap = case
    mid2 = 2 * sell.levels[0][0]

    quantity = walk.most(buy, sell, money, theta, mid2, cap)

    exact = min(Fraction(cap), sum((part for part, _ in worth(buy, sell, money, theta, mid2)), Fraction(0)))
    assert exact - 8 * len(money) <= quantity <= exact  # a unit may be lost where a rate's capacity ends


@given(books())
@settings(max_examples=60)
def test_the_money_of_a_match_is_exact_and_rounded_against_us(case):
    buy, sell, money, theta, cap = case
    quantity = walk.most(buy, sell, money, theta, 2 * sell.levels[0][0], cap)

    match = walk.settle(buy, sell, money, quantity)

    if match is None:
        assert quantity == 0
        return
    left, exact = Fraction(quantity), Fraction(0)
    for part, edge in worth(buy, sell, money, theta, 2 * sell.levels[0][0]):
        exact += min(part, left) * edge
        left -= min(part, left)
    assert exact - 20 * len(money) <= match.net <= exact
    assert match.gross >= match.net


@given(books())
@settings(max_examples=60)
def test_the_quick_refusal_refuses_nothing_that_is_worth_anything(case):
    buy, sell, _, theta, cap = case
    there = [
        msgspec.structs.replace(
            instrument(name), tick_size=side.tick, lot_size=side.lot, taker_fee_ppm=side.fee
        )
        for name, side in (("one", buy), ("two", sell))
    ]
    bought, sold = (Listed(each, Harness().bus.book(each.exchange, each.symbol)) for each in there)
    pair = make_pair(bought, sold, [bought, sold], theta, 0)
    bought.ask, sold.bid = buy.levels[0][0], sell.levels[0][0]
    mid2 = 2 * sold.bid + 1  # the mid is above the bid

    if not pair.is_promising():
        assert walk.most(buy, sell, walk.PARITY, theta, mid2, cap) == 0


# --- Two exchanges by hand ------------------------------------------------------------------------


def two(**options):
    """Return a harness in which "low" asks 100.00 and "high" bids 101.00, fees 0.10 %, L95 150 ms each."""
    harness = Harness(arbitrage, options={arbitrage.MONITOR: options})
    low, high = Market("low"), Market("high")
    harness.send(instrument("low", lot="0.01"), instrument("high", lot="0.1"))
    harness.send(low.book(START, bids=[(9_990, 100)], asks=[(10_000, 100), (10_050, 100)]))
    return harness, low, high


def rich(ts, free):
    balances = [Balance(exchange, asset, to_units(amount), 0) for exchange, asset, amount in free]
    return PortfolioSnapshot(ts, "paper", "USDT", to_units("50000"), 0, 0, 0, 0, 0, 0, 0, True, balances, [])


def test_tells_what_two_books_are_worth_level_by_level():
    harness, _, high = two()

    [seen] = harness.send(high.book(START + 1, bids=[(10_100, 15), (10_040, 50)], asks=[(10_110, 1)]))

    # 1.00 bought at 100 and 0.50 at 100.50, 1.50 sold at 101: the next bid is below what the ask costs
    assert (seen.buy_price, seen.sell_price) == (10_050, 10_100)
    assert seen.quantity == to_units("1.5")
    assert seen.gross == to_units("1.25")  # 151.50 - 150.25
    assert seen.net == to_units("0.94825")  # less 0.15150 and 0.15025
    assert seen.net_bps == pytest.approx(0.94825 / 151.5 * 1e4)
    assert seen.theta_bps == 2.0
    assert (seen.buy_exchange, seen.sell_exchange, seen.fx_symbol) == ("low", "high", "")
    assert seen.funded == 0


def test_a_quantity_is_whole_lots_of_both_exchanges():
    harness, low, high = two()
    harness.send(low.delta(START, asks=[(10_000, 123), (10_050, 0)]))

    [seen] = harness.send(high.book(START + 1, bids=[(10_100, 15)], asks=[(10_110, 1)]))

    assert seen.quantity == to_units("1.2")


def test_less_than_either_least_notional_is_no_opportunity():
    harness = Harness(arbitrage)
    harness.send(instrument("low"), instrument("high", min_notional="11"))
    low, high = Market("low"), Market("high")
    harness.send(low.book(START, bids=[(9_000, 1)], asks=[(10_000, 10_000)]))

    assert harness.send(high.book(START + 1, bids=[(10_100, 10_000)], asks=[(10_110, 1)])) == []
    [seen] = harness.send(
        high.delta(START + 2, bids=[(10_100, 11_000)], asks=[]), low.delta(START + 3, asks=[(10_000, 11_000)])
    )
    assert seen.quantity == to_units("0.11")


def test_what_money_and_inventory_suffice_for_is_told_apart():
    harness, _, high = two()
    harness.send(rich(START, [("low", "USDT", "120.2"), ("high", "BTC", "0.77")]))

    [seen] = harness.send(high.book(START + 1, bids=[(10_100, 15)], asks=[(10_110, 1)]))

    assert (seen.quantity, seen.funded) == (to_units("1.5"), to_units("0.7"))


def test_no_more_than_a_share_of_the_equity_and_the_largest_notional():
    harness, _, high = two(max_notional="60", max_equity_fraction=0.5)

    [seen] = harness.send(high.book(START + 1, bids=[(10_100, 15)], asks=[(10_110, 1)]))

    assert seen.quantity == to_units("0.6")


@pytest.mark.parametrize(("bid", "is_told"), [(10_021, False), (10_022, False), (10_023, True)])
def test_both_fees_and_theta_must_be_left(bid, is_told):
    # 100.00 costs 100.10; of 100.23 remain 100.12977; theta is 2 bps of a mid of 100.235
    harness, low, high = two()
    harness.send(low.delta(START, asks=[(10_050, 0)]))

    told = harness.send(high.book(START + 1, bids=[(bid, 15)], asks=[(bid + 1, 1)]))

    assert bool(told) is is_told


def test_a_book_that_is_old_or_in_doubt_is_worth_nothing():
    harness, low, high = two()

    late = high.book(START + 251 * MS, bids=[(10_100, 15)], asks=[(10_110, 1)])
    assert harness.send(late) == []
    [seen] = harness.send(low.delta(START + 252 * MS, asks=[(10_060, 1)]))
    harness.send(FeedLost(START + 300 * MS, "low", "gone", 0), TimeTick(START + 3 * NS_PER_S))
    [ended] = harness.of(ArbitrageEnded)

    assert ended.opportunity == seen.opportunity
    assert ended.reason == "the book of BTC/USDT on low cannot be trusted"
    assert ended.last_ts == START + 300 * MS
    assert not ended.is_capturable


def test_an_opportunity_ends_when_its_books_have_fallen_silent():
    harness, _, high = two()

    harness.send(high.book(START + 1, bids=[(10_100, 15)], asks=[(10_110, 1)]))
    harness.send(TimeTick(START + 5 * NS_PER_S))
    [ended] = harness.of(ArbitrageEnded)

    assert ended.reason == "the book of BTC/USDT on low is older than 250 ms"
    assert ended.last_ts < START + 550 * MS
    assert ended.is_capturable  # they were not taken back, for all that is known
    assert ended.captured == to_units("0.94825")


@pytest.mark.parametrize(("gone_at", "is_capturable"), [(149, False), (150, False), (151, True), (170, True)])
def test_could_be_had_when_the_books_at_the_arrival_of_both_legs_still_gave_it(gone_at, is_capturable):
    harness, low, high = two()
    harness.send(high.book(START, bids=[(10_100, 15)], asks=[(10_110, 1)]))

    harness.send(low.delta(START + gone_at * MS, asks=[(10_000, 0), (10_050, 0), (10_200, 5)]))
    harness.send(high.delta(START + 1000 * MS), low.delta(START + 1000 * MS))
    [ended] = harness.of(ArbitrageEnded)

    assert ended.is_capturable is is_capturable
    assert ended.captured == (to_units("0.94825") if is_capturable else 0)
    assert ended.last_ts == START + gone_at * MS


def test_a_change_by_more_than_a_step_is_told_and_a_smaller_one_is_not():
    harness, low, high = two()
    [seen] = harness.send(high.book(START + 1, bids=[(10_100, 15)], asks=[(10_400, 1)]))

    assert harness.send(low.delta(START + 2, asks=[(10_049, 1)])) == []
    [again] = harness.send(high.delta(START + 3, bids=[(10_300, 20)]))

    assert (again.opportunity, again.first_ts) == (seen.opportunity, seen.first_ts)
    assert again.net > seen.net


@pytest.mark.parametrize("flips", [False, True])
def test_another_quote_is_bought_back_through_its_own_book_and_fee(flips):
    # BTC is bought for USD and sold for USDT, or the other way round; USDT/USD is 1.0000 bid, 1.0010 asked.
    harness = Harness(arbitrage)
    low, high = ("BTC/USDT", "BTC/USD") if flips else ("BTC/USD", "BTC/USDT")
    money = Market("high", "USDT/USD")
    harness.send(instrument("low", low), instrument("high", high))
    harness.send(instrument("high", "USDT/USD", tick="0.0001", lot="0.01"))
    harness.send(money.book(START, bids=[(10_000, 10**7)], asks=[(10_010, 10**7)]))
    harness.send(Market("low", low).book(START, bids=[(1, 1)], asks=[(10_000, 100_000)]))

    [seen] = harness.send(Market("high", high).book(START, bids=[(10_200, 100_000)], asks=[(10_210, 1)]))

    paid = Fraction("100.1")
    spent = paid * Fraction("1.001") ** 2 if flips else paid / Fraction("0.999")
    assert (seen.fx_exchange, seen.fx_symbol) == ("high", "USDT/USD")
    assert seen.fx_price == (10_010 if flips else 10_000)
    assert abs(seen.net - int((Fraction("101.898") - spent) * UNIT)) <= 3
    harness.send(FeedLost(START + 1, "high", "gone", 0), TimeTick(START + 5 * NS_PER_S))
    assert not harness.of(ArbitrageEnded)[0].is_capturable


def test_without_a_book_between_two_quotes_they_are_not_compared():
    harness = Harness(arbitrage)
    harness.send(instrument("low", "BTC/USD"), instrument("high", "BTC/USDT"))
    harness.send(Market("low", "BTC/USD").book(START, bids=[(1, 1)], asks=[(10_000, 100_000)]))

    assert harness.send(Market("high").book(START, bids=[(12_000, 100_000)], asks=[(12_010, 1)])) == []


def test_a_lively_market_has_to_leave_more():
    harness, low, high = two()
    for second in range(1, 40):
        bid = 9_900 if second % 2 else 9_990
        harness.send(low.book(START + second * NS_PER_S, bids=[(bid, 100)], asks=[(10_000, 100)]))

    [seen] = harness.send(high.book(START + 39 * NS_PER_S, bids=[(10_100, 15)], asks=[(10_110, 1)]))

    # returns of 45 bps, averaged over fewer seconds than would forget the beginning, and 0.3 s of them
    assert 2 + 45 * 0.3**0.5 * 0.5 < seen.theta_bps < 2 + 46 * 0.3**0.5


# --- A market with known deviations ---------------------------------------------------------------


class _Context:
    plugin = "exchange-synthetic"
    started_ns = START

    class log:
        info = warning = staticmethod(lambda *args, **facts: None)


@cache
def world(seed, **options):
    """Return the messages of a synthetic market of four exchanges, and its true deviations."""
    spec = spec_of(synthetic)
    chosen = {"venues": ("aurora", "borealis", "cascade", "dorado"), "seed": seed, **options}
    market = spec.factory(_Context(), msgspec.convert(chosen, spec.options))
    messages, deviations = [], {}
    for _, frame in market.events():
        messages += frame
        if (true := market.deviation()) is not None:
            deviations[true[2].begin] = true
    return messages, [deviations[begin] for begin in sorted(deviations)]


def lively(seed, duration_s=40.0):
    return world(seed, deviation_every_s=4.0, deviation_bps=60.0, deviation_s=0.7, duration_s=duration_s)


def monitored(messages):
    harness = Harness(arbitrage)
    harness.send(*messages, TimeTick(messages[-1].ts_recv + 5 * NS_PER_S))
    return harness


def changes_of(messages):
    """Return (ts_event, changed bids, changed asks) by exchange and symbol, in the order they happened."""
    changes = {}
    for each in messages:
        if isinstance(each, BookSnapshot | BookDelta):
            change = (each.ts_event, dict(levels(each.bids)), dict(levels(each.asks)))
            changes.setdefault((each.exchange, each.symbol), []).append(change)
    return changes


def book_at(changes, until):
    """Return both sides as {price: lots} after every change made by *until*, by the exchange's clock."""
    bids, asks = {}, {}
    for _, changed_bids, changed_asks in takewhile(lambda change: change[0] <= until, changes):
        bids |= changed_bids
        asks |= changed_asks
    return bids, asks


def test_without_deviations_nothing_is_found_in_the_default_market():
    messages, deviations = world(7, duration_s=30.0)

    assert deviations == []
    assert monitored(messages).outputs == []


@pytest.mark.parametrize("seed", [1, 2])
def test_every_true_deviation_that_lasts_is_found_and_nothing_else_is(seed):
    messages, deviations = lively(seed)
    first = {}
    for seen in monitored(messages).of(ArbitrageSeen):
        first.setdefault(seen.opportunity, seen)

    covered = set()
    for seen in first.values():
        true = [each for each in deviations if each[2].begin <= seen.first_ts <= each[2].end + 500 * MS]
        sides = {(seen.buy_exchange, -1), (seen.sell_exchange, +1)}
        mine = [each for each in true if (each[0], 1 if each[2].shift > 0 else -1) in sides]
        assert mine, seen
        covered |= {each[2].begin for each in mine}
    lasting = {
        each[2].begin
        for each in deviations
        if each[2].end - each[2].begin > 600 * MS and each[2].end < messages[-1].ts_recv
    }
    assert len(lasting) >= 3
    assert lasting <= covered


@pytest.mark.parametrize("seed", [1, 2])
def test_what_could_be_had_is_what_the_true_books_say(seed):
    messages, _ = lively(seed)
    harness = monitored(messages)
    first = {}
    for seen in harness.of(ArbitrageSeen):
        first.setdefault(seen.opportunity, seen)

    wrong, capturable, changes = [], 0, changes_of(messages)
    for ended in harness.of(ArbitrageEnded):
        seen = first[ended.opportunity]
        if seen.fx_symbol:
            continue
        arrival = seen.first_ts + 150 * MS
        _, asks = book_at(changes[seen.buy_exchange, seen.buy_symbol], arrival)
        bids, _ = book_at(changes[seen.sell_exchange, seen.sell_symbol], arrival)
        lot = to_units("0.00001") if seen.base == "BTC" else to_units("0.0001")
        paid = spend(
            [(p, q) for p, q in sorted(asks.items()) if p <= seen.buy_price and q], seen.quantity // lot
        )
        got = spend(
            [(p, q) for p, q in sorted(bids.items())[::-1] if p >= seen.sell_price and q],
            seen.quantity // lot,
        )
        net = got * Fraction("0.999") - paid * Fraction("1.001") if paid and got else 0
        true = net * lot / 100  # ticks are cents
        capturable += true > 0
        if ended.is_capturable != (true > 0) or abs(ended.captured - true) > 4:
            wrong.append((ended, float(true)))

    assert wrong == []
    ended = [each for each in harness.of(ArbitrageEnded) if not first[each.opportunity].fx_symbol]
    assert 0 < capturable < len(ended)


def spend(side, lots):
    """Return what *lots* come to in ticks x lots; 0 where the side has not as many."""
    total = 0
    for price, quantity in side:
        part = min(lots, quantity)
        total += part * price
        lots -= part
    return 0 if lots else total


def test_opportunities_of_one_pair_do_not_overlap():
    spans = {}
    for each in monitored(lively(1)[0]).of(ArbitrageEnded):
        key = (each.buy_exchange, each.buy_symbol, each.sell_exchange, each.sell_symbol)
        spans.setdefault(key, []).append((each.first_ts, each.last_ts))

    assert sum(map(len, spans.values())) > 10
    for times in spans.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(times)))


@given(st.lists(st.integers(0, 4000), max_size=4))
@settings(max_examples=4, deadline=None)
def test_a_restart_at_any_message_changes_nothing(cuts):
    messages = lively(1)[0][:4000]
    tape = [rich(START, [("aurora", "USDT", "5000"), ("borealis", "BTC", "1")]), *messages]

    whole = Harness(arbitrage).send(*tape)

    assert len(whole) > 5
    assert run_with_restarts(lambda: Harness(arbitrage), tape, cuts) == whole
