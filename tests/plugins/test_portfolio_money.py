"""Perpetuals and their funding, transfers, and several accounts on one feed, through the bus."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tickerml.kernel import (
    NS_PER_S,
    BookStale,
    ConfigError,
    FundingSettled,
    FundingUpdated,
    Instrument,
    LedgerPosted,
    Liquidity,
    Message,
    OrderCanceled,
    OrderFilled,
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    Side,
    TimeInForce,
    TimeTick,
    TransferEnded,
    TransferStarted,
    TransferSubmitted,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import portfolio
from tickerml.plugins.ledger import ROUNDING_ALLOWANCE, LedgerState
from tickerml.plugins.portfolio_prices import Mark

S = NS_PER_S
HOUR = 3600 * S
BTC = instrument("test", "BTC/USDT", tick="1", lot="0.01")
PERP = Instrument(
    0, "perp", "BTC/USDT-PERP", "BTC", "USDT", to_units("1"), to_units("0.01"), contract="linear"
)
FX = instrument("test", "USDT/USD", tick="0.001", lot="1")
OTHER = instrument("other", "BTC/USD", tick="1", lot="0.01")
DEEP = 10**9
RATE = to_units("0.0001")


def harness(*also: Any, **options: Any) -> Harness:
    options = {"opening": {"test.USDT": "10000", "perp.USDT": "1000"}, "currency": "USDT", **options}
    options.setdefault("mark_interval_ms", 60_000)
    return Harness(portfolio, *also, options={"portfolio": options})


def touch(market: Market, ts: int, bid: int, ask: int) -> Message:
    return market.book(ts, bids=[(bid, DEEP)], asks=[(ask, DEEP)])


def perp_book(ts: int, bid: int, ask: int) -> Message:
    return touch(Market("perp", "BTC/USDT-PERP"), ts, bid, ask)


def funding(ts: int, next_ts: int, mark: int = 100, rate: int = RATE, **other: Any) -> FundingUpdated:
    return FundingUpdated(ts, ts, "perp", "BTC/USDT-PERP", mark, mark, rate, 0, next_ts, 3600, **other)


def paid(ts: int, at: int, rate: int) -> FundingUpdated:
    return FundingUpdated(ts, at, "perp", "BTC/USDT-PERP", 0, 0, rate, 0, 0, 0)


def filled(
    ts: int,
    order_id: str,
    side: Side,
    quantity: int,
    price: int,
    *,
    ts_event: int | None = None,
    traded: Instrument = PERP,
    account: str = "paper",
    fee: str = "0",
    leaves: int = 0,
) -> OrderFilled:
    at = ts if ts_event is None else ts_event
    head = (ts, at, order_id, 1, "s", account, traded.exchange, traded.symbol, side, price, quantity, leaves)
    return OrderFilled(*head, Liquidity.TAKER, to_units(fee), traded.quote, 0, 0, 0, False, 0)


def submitted(ts: int, order_id: str, account: str, traded: Instrument = BTC) -> OrderSubmitted:
    head = (ts, order_id, "s", account, traded.exchange, traded.symbol, Side.BUY, OrderType.LIMIT)
    return OrderSubmitted(*head, TimeInForce.GTC, 100, 100, 200)


def last(kept: Harness, account: str = "paper") -> PortfolioSnapshot:
    return [each for each in kept.of(PortfolioSnapshot) if each.account == account][-1]


def unexplained(snapshot: PortfolioSnapshot) -> int:
    gained = snapshot.realized + snapshot.unrealized + snapshot.funding
    return snapshot.opening + gained - snapshot.fees - snapshot.withdrawal_fees - snapshot.equity


def settled(kept: Harness) -> list[tuple[int, int, int]]:
    return [(each.ts_event // HOUR, each.quantity, each.amount) for each in kept.of(FundingSettled)]


# --- Perpetuals -------------------------------------------------------------------------------------


def test_a_short_perpetual_is_valued_at_the_best_ask_and_secured_by_margin():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101))

    kept.send(filled(S, "a", Side.SELL, 200, 100))

    (position,) = last(kept).positions
    (margin,) = [balance.margin for balance in last(kept).balances if balance.exchange == "perp"]
    assert (position.quantity, position.mark, position.cost) == (-200, 101, to_units("200"))
    assert margin == position.margin == to_units("100")
    assert (last(kept).unrealized, last(kept).equity) == (to_units("-2"), to_units("10998"))
    assert unexplained(last(kept)) == 0


def test_a_perpetual_without_a_price_leaves_the_account_unmarked():
    kept = harness(stale_mark_s=5)
    kept.send(PERP, perp_book(S, 99, 101), filled(S, "a", Side.BUY, 200, 100))
    kept.send(BookStale(2 * S, "perp", "BTC/USDT-PERP", 1))

    kept.send(touch(Market(), 59 * S, 1, 2), touch(Market(), 61 * S, 1, 2))

    assert not last(kept).is_marked


# --- Funding ----------------------------------------------------------------------------------------


def test_funding_is_booked_once_at_its_time_at_the_rate_and_the_mark_that_held():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR, mark=90), filled(2 * S, "a", Side.BUY, 200, 100))
    kept.send(funding(HOUR - S, HOUR, mark=110, rate=2 * RATE), funding(HOUR + 1, HOUR, rate=9 * RATE))
    kept.send(funding(HOUR + S, 2 * HOUR, mark=500))

    kept.send(TimeTick(HOUR + 60 * S), paid(HOUR + 70 * S, HOUR, 9 * RATE), TimeTick(HOUR + 90 * S))

    assert settled(kept) == [(1, 200, -to_units("0.044"))]
    assert last(kept).funding == last(kept).positions[0].funding == -to_units("0.044")
    assert unexplained(last(kept)) == 0
    (posted,) = [each for each in kept.of(LedgerPosted) if each.cause == "funding"]
    assert posted.funding == -to_units("0.044")


def test_what_is_told_at_the_very_time_of_funding_is_of_the_next_interval():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR), filled(2 * S, "a", Side.BUY, 200, 100))

    kept.send(funding(HOUR, 2 * HOUR, mark=110, rate=9 * RATE), TimeTick(HOUR + 60 * S))

    assert settled(kept) == [(1, 200, -to_units("0.022"))]


def test_a_fill_at_the_very_time_of_funding_is_not_part_of_it_and_one_just_before_is_however_late_it_comes():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR))
    kept.send(funding(HOUR - S, HOUR), funding(HOUR + S, 2 * HOUR))

    kept.send(filled(HOUR + 2 * S, "at", Side.BUY, 100, 100, ts_event=HOUR))
    kept.send(filled(HOUR + 3 * S, "before", Side.SELL, 300, 100, ts_event=HOUR - 1))
    kept.send(TimeTick(HOUR + 60 * S))

    assert settled(kept) == [(1, -300, to_units("0.03"))]
    assert last(kept).positions[0].quantity == -200


def test_who_holds_nothing_at_the_time_is_paid_nothing():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR))

    kept.send(funding(HOUR - S, HOUR), TimeTick(HOUR + 60 * S), filled(HOUR + 60 * S, "a", Side.BUY, 1, 100))
    kept.send(TimeTick(HOUR + 90 * S))

    assert settled(kept) == []


def test_a_settlement_without_its_rate_pends_until_a_history_tells_it():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR, rate=0), filled(2 * S, "a", Side.BUY, 200, 100))
    kept.send(funding(HOUR - S, HOUR, rate=0), funding(HOUR + S, 2 * HOUR))
    with capture_logs() as logs:
        kept.send(TimeTick(HOUR + 60 * S), TimeTick(HOUR + 61 * S))
    pending = settled(kept)

    kept.send(filled(HOUR + 65 * S, "b", Side.BUY, 100, 100), paid(HOUR + 70 * S, HOUR, RATE))

    assert pending == []
    assert [(each["event"], each["missing"]) for each in logs] == [("portfolio.funding_pending", "rate")]
    assert settled(kept) == [(1, 200, -to_units("0.02"))]


def test_a_settlement_whose_mark_nobody_told_pends_and_is_never_guessed():
    kept = harness(funding_mark_s=30)
    kept.send(PERP, perp_book(S, 99, 101), filled(2 * S, "a", Side.BUY, 200, 100))
    kept.send(funding(HOUR - 40 * S, HOUR))

    with capture_logs() as logs:
        kept.send(funding(HOUR + 31 * S, 2 * HOUR), TimeTick(HOUR + 60 * S), TimeTick(HOUR + 120 * S))

    assert settled(kept) == []
    assert [each["missing"] for each in logs] == ["mark"]


def test_a_mark_as_old_as_may_be_is_not_too_old():
    kept = harness(funding_mark_s=30)
    kept.send(PERP, perp_book(S, 99, 101), filled(2 * S, "a", Side.BUY, 200, 100))

    kept.send(funding(HOUR - 30 * S, HOUR), TimeTick(HOUR + 60 * S))

    assert settled(kept) == [(1, 200, -to_units("0.02"))]


def test_the_first_mark_after_a_silence_counts_where_there_was_none_before():
    kept = harness(funding_mark_s=30)
    kept.send(PERP, perp_book(S, 99, 101), filled(2 * S, "a", Side.BUY, 200, 100))

    kept.send(funding(HOUR - 40 * S, HOUR, mark=90), funding(HOUR + 10 * S, 2 * HOUR, mark=110))
    kept.send(funding(HOUR + 11 * S, 2 * HOUR, mark=120), TimeTick(HOUR + 60 * S))

    assert settled(kept) == [(1, 200, -to_units("0.022"))]


def test_a_time_that_moves_or_comes_rounded_is_still_one_settlement():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, 2 * HOUR), filled(2 * S, "a", Side.BUY, 200, 100))

    kept.send(funding(3 * S, HOUR), funding(4 * S, HOUR + 3_000_000), funding(HOUR - S, HOUR - 7))
    kept.send(TimeTick(HOUR + 60 * S), funding(HOUR + 70 * S, 2 * HOUR), funding(2 * HOUR - S, 2 * HOUR))
    kept.send(TimeTick(2 * HOUR + 60 * S))

    assert settled(kept) == [(1, 200, -to_units("0.02")), (2, 200, -to_units("0.02"))]


def test_a_settlement_that_is_told_again_with_a_rounded_time_after_it_is_booked_is_not_booked_again():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR), filled(2 * S, "a", Side.BUY, 200, 100))
    kept.send(funding(HOUR - S, HOUR), TimeTick(HOUR + 60 * S))

    late = msgspec.structs.replace(funding(HOUR - S, HOUR + 3_000_000), ts_recv=HOUR + 61 * S)
    kept.send(late, TimeTick(HOUR + 120 * S))

    assert len(settled(kept)) == 1


def test_two_times_that_are_a_minute_apart_are_two_settlements():
    kept = harness()
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR), filled(2 * S, "a", Side.BUY, 200, 100))

    kept.send(
        funding(HOUR - S, HOUR), funding(HOUR + S, HOUR + 60 * S), funding(HOUR + 59 * S, HOUR + 60 * S)
    )
    kept.send(TimeTick(HOUR + 120 * S))

    assert len(settled(kept)) == 2


def test_what_accrues_between_settlements_is_shown_and_not_booked():
    kept = harness()
    kept.send(
        PERP, perp_book(S, 99, 101), funding(S, HOUR, mark=100), filled(2 * S, "a", Side.SELL, 200, 100)
    )

    kept.send(perp_book(HOUR // 2, 99, 101), TimeTick(HOUR // 2 + S))

    assert last(kept).ts_recv == HOUR // 2
    assert last(kept).accrued == last(kept).positions[0].accrued == to_units("0.01")
    assert last(kept).funding == 0
    assert unexplained(last(kept)) == 0


# --- Transfers --------------------------------------------------------------------------------------

TERMS = {"USDT": {"min_fee": "1", "max_fee": "5", "min_s": 60, "max_s": 600}, "BTC": {"max_fee": "0.01"}}


def request(ts: int, key: str = "t", asset: str = "USDT", to: str = "perp", amount: str = "100") -> Message:
    return TransferSubmitted(ts, key, "paper", asset, "test", to, to_units(amount))


def test_a_transfer_takes_time_and_a_fee_within_its_terms_and_arrives_whole():
    kept = harness(transfers=TERMS)
    kept.send(BTC, touch(Market(), S, 99, 101))

    kept.send(request(2 * S))
    (started,) = kept.of(TransferStarted)
    in_flight = last(kept)
    kept.send(TimeTick(700 * S))

    (ended,) = kept.of(TransferEnded)
    assert to_units("1") <= started.fee <= to_units("5")
    assert 62 * S <= started.arrives_ts <= 602 * S
    assert ended.received == to_units("100") - started.fee
    assert [b.in_flight for b in in_flight.balances if b.exchange == "perp"] == [ended.received]
    assert in_flight.equity == to_units("11000") - started.fee
    assert [b.free for b in last(kept).balances] == [
        to_units("1000") + ended.received,
        to_units("9900"),
    ]
    assert last(kept).withdrawal_fees == started.fee
    assert unexplained(last(kept)) == 0


def test_the_same_transfer_draws_the_same_and_another_draws_anew():
    drawn = []
    for key in ("t", "t", "u"):
        kept = harness(transfers=TERMS)
        kept.send(request(S, key))
        (started,) = kept.of(TransferStarted)
        drawn.append((started.fee, started.arrives_ts))

    assert drawn[0] == drawn[1] != drawn[2]


def test_a_transfer_that_is_asked_for_twice_leaves_once():
    kept = harness(transfers=TERMS)

    kept.send(request(S), request(S), TimeTick(700 * S), request(701 * S))

    assert len(kept.of(TransferStarted)) == len(kept.of(TransferEnded)) == 1


def test_base_takes_its_cost_along_and_its_fee_at_cost():
    kept = harness(transfers=TERMS, currency="USD", pegs={"USDT": "1"})
    kept.send(BTC, OTHER, touch(Market(), S, 100, 101), touch(Market("other", "BTC/USD"), S, 120, 121))
    kept.send(filled(S, "a", Side.BUY, 400, 100, traded=BTC))

    kept.send(request(2 * S, asset="BTC", to="other", amount="2"))
    (started,) = kept.of(TransferStarted)
    in_flight = last(kept)
    kept.send(TimeTick(2 * HOUR))

    received = to_units("2") - started.fee
    assert 0 < started.fee <= to_units("0.01")
    there, here = last(kept).positions
    assert (there.symbol, there.cost, here.quantity) == ("BTC/USD", received * 100, 200)
    assert last(kept).withdrawal_fees == started.fee * 100
    assert in_flight.unrealized == received * 20  # its bid is higher there
    assert unexplained(in_flight) == unexplained(last(kept)) == 0


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(S, amount="20000"), "needs 20000000000000000 units of test.USDT free, was 1"),
        (request(S, amount="0.5"), "must take its fee and something more"),
        (request(S, to="test"), "to another exchange"),
        (request(S, asset="DOGE"), "no terms for test.perp.DOGE: name it or DOGE in portfolio.transfers"),
        (request(S, asset="BTC", to="perp", amount="1"), "perp sells no BTC for cash"),
    ],
)
def test_a_transfer_that_cannot_be_is_refused_with_its_reason(asked, reason):
    kept = harness(transfers=TERMS)

    kept.send(asked)

    (ended,) = kept.of(TransferEnded)
    assert ended.received == 0
    assert reason in ended.reason
    assert kept.of(TransferStarted, LedgerPosted) == []


def test_terms_of_one_way_go_before_those_of_the_asset():
    own = {"min_fee": "9", "max_fee": "9", "min_s": 1, "max_s": 1}
    kept = harness(transfers=TERMS | {"test.perp.USDT": own})

    kept.send(request(S))

    (started,) = kept.of(TransferStarted)
    assert (started.fee, started.arrives_ts) == (to_units("9"), 2 * S)


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"min_fee": "2", "max_fee": "1"}, "transfers.BTC.min_fee must be at most max_fee"),
        ({"min_s": 2, "max_s": 1}, "transfers.BTC.min_s must be at most max_s"),
        ({"min_fee": "-1"}, "transfers.BTC.min_fee must be at least 0, was '-1'"),
    ],
)
def test_refuses_terms_that_are_no_range(terms, text):
    with pytest.raises(ConfigError, match=text):
        harness(transfers={"BTC": terms})


# --- Several accounts -------------------------------------------------------------------------------


def test_each_account_has_its_own_opening_ledger_and_snapshots():
    kept = harness(accounts={"rich": {"test.USDT": "99000"}, "twin": {}})
    kept.send(BTC, touch(Market(), S, 99, 101))

    kept.send(filled(2 * S, "o", Side.BUY, 100, 100, traded=BTC, account="rich", fee="1"))
    kept.send(touch(Market(), 61 * S, 99, 101))

    assert [last(kept, name).opening // to_units("1") for name in ("paper", "rich", "twin")] == [
        11_000,
        99_000,
        11_000,
    ]
    assert [len(last(kept, name).positions) for name in ("paper", "rich", "twin")] == [0, 1, 0]
    assert last(kept, "rich").fees == to_units("1")
    assert kept.bus.component("portfolio").balances("rich") == last(kept, "rich").balances


def test_an_order_ends_in_the_account_that_holds_for_it():
    kept = harness(accounts={"twin": {}})
    kept.send(BTC, touch(Market(), S, 99, 101), submitted(2 * S, "o", "twin"))

    kept.send(OrderCanceled(3 * S, 3 * S, "o", "test", "BTC/USDT", 100, "asked"))

    told = [(each.account, each.cause) for each in kept.of(LedgerPosted)]
    assert told == [("twin", "submit"), ("twin", "end")]
    assert all(balance.held == 0 for balance in last(kept, "twin").balances)


def test_a_replaced_order_reserves_anew_in_its_account():
    kept = harness(accounts={"twin": {}})
    kept.send(BTC, touch(Market(), S, 99, 101), submitted(2 * S, "o", "twin"))

    kept.send(OrderReplaced(3 * S, 3 * S, "o", "test", "BTC/USDT", 90, 50))

    held = [balance.held for balance in last(kept, "twin").balances if balance.exchange == "test"]
    assert held == [to_units("45.045") + ROUNDING_ALLOWANCE]


def test_a_replacement_that_the_account_cannot_pay_is_told_of():
    kept = harness(accounts={"poor": {"test.USDT": "101"}})
    kept.send(BTC, touch(Market(), S, 99, 101), submitted(2 * S, "o", "poor"))

    with capture_logs() as logs:
        kept.send(OrderReplaced(3 * S, 3 * S, "o", "test", "BTC/USDT", 100, 5000))

    assert [each["event"] for each in logs] == ["portfolio.reservation_failed"]
    assert [(balance.free, balance.held) for balance in last(kept, "poor").balances] == [(0, to_units("101"))]


def test_funding_is_settled_for_every_account_by_its_own_position():
    kept = harness(accounts={"twin": {}})
    kept.send(PERP, perp_book(S, 99, 101), funding(S, HOUR), filled(2 * S, "a", Side.BUY, 200, 100))
    kept.send(filled(2 * S, "b", Side.SELL, 100, 100, account="twin"), funding(HOUR - S, HOUR))

    kept.send(TimeTick(HOUR + 60 * S))

    assert [(each.account, each.amount) for each in kept.of(FundingSettled)] == [
        ("paper", -to_units("0.02")),
        ("twin", to_units("0.01")),
    ]


# --- What is told, and what is kept -----------------------------------------------------------------


def test_every_transaction_is_told_with_legs_that_sum_to_zero_and_come_to_the_balances():
    kept = harness(transfers=TERMS)
    kept.send(BTC, PERP, touch(Market(), S, 99, 101), perp_book(S, 99, 101), funding(S, HOUR))
    kept.send(submitted(2 * S, "o", "paper"), filled(3 * S, "o", Side.BUY, 40, 100, traded=BTC, leaves=60))
    kept.send(OrderCanceled(4 * S, 4 * S, "o", "test", "BTC/USDT", 60, "asked"), request(5 * S))
    kept.send(filled(6 * S, "p", Side.SELL, 50, 100), funding(HOUR - S, HOUR), TimeTick(2 * HOUR))

    free: dict[tuple[str, str], int] = {
        ("test", "USDT"): to_units("10000"),
        ("perp", "USDT"): to_units("1000"),
    }
    for posted in kept.of(LedgerPosted):
        for asset in {leg.asset for leg in posted.legs}:
            assert sum(leg.amount for leg in posted.legs if leg.asset == asset) == 0
        for leg in posted.legs:
            if leg.bucket == "free":
                free[leg.exchange, leg.asset] = free.get((leg.exchange, leg.asset), 0) + leg.amount

    causes = [posted.cause for posted in kept.of(LedgerPosted)]
    assert causes == ["submit", "fill", "end", "send", "fill", "receive", "funding"]
    assert free == {(b.exchange, b.asset): b.free for b in last(kept).balances}
    for name in ("realized", "fees", "funding", "withdrawal_fees"):
        assert sum(getattr(each, name) for each in kept.of(LedgerPosted)) == getattr(last(kept), name)


def test_takes_over_the_state_of_version_1():
    kept = harness(accounts={"twin": {}})
    ledger = LedgerState({("test", "USDT", "free"): 7, ("test", "USDT", "opening"): -7})
    marks = {("test", "BTC/USDT"): Mark(99, 200, S)}
    old = [ledger, {("test", "BTC/USDT"): None}, marks, True, 7, 7, 8, 0.5, 3, 2]
    component = kept.bus.component("portfolio")

    component.restore(component.migrate(msgspec.msgpack.encode(old), 1))

    assert (component.equity, component.balances()[0].free) == (7, 7)
    assert component.balances("twin")[0].free == to_units("1000")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("book"), st.integers(50, 150), st.integers(1, 3)),
        st.tuples(st.just("funding"), st.integers(50, 150), st.sampled_from([RATE, -RATE, 0])),
        st.tuples(st.just("fill"), st.sampled_from(list(Side)), st.integers(1, 500)),
        st.tuples(st.just("spot"), st.sampled_from(list(Side)), st.integers(1, 500)),
        st.tuples(st.just("send"), st.sampled_from(["USDT", "BTC"]), st.integers(1, 100)),
        st.tuples(st.just("wait"), st.integers(1, 5000), st.just(0)),
    ),
    max_size=30,
)


def tape(steps: Sequence[tuple[str, Any, int]]) -> list[Message]:
    spot, perp, ts = Market(), Market("perp", "BTC/USDT-PERP"), S
    other = Market("other", "BTC/USD")
    messages: list[Message] = [BTC, PERP, OTHER, touch(spot, ts, 100, 101), touch(perp, ts, 100, 101)]
    messages.append(touch(other, ts, 100, 101))
    for number, (kind, which, amount) in enumerate(steps):
        ts += S // 2
        if kind == "book":
            messages += [
                touch(spot, ts, which, which + amount),
                touch(perp, ts, which + 1, which + 1 + amount),
            ]
        elif kind == "funding":
            messages.append(funding(ts, (ts // HOUR + 1) * HOUR, which, amount))
        elif kind == "wait":
            ts += which * S
            messages.append(TimeTick(ts))
        elif kind == "send":
            to = "perp" if which == "USDT" else "other"
            messages.append(request(ts, f"t{number}", which, to, str(amount)))
        else:
            traded = PERP if kind == "fill" else BTC
            fill = filled(ts, f"o{number}", which, amount, 100, traded=traded, fee="0.03", ts_event=ts - S)
            messages.append(fill)
    return messages


def busy() -> Harness:
    opening = {"test.USDT": "10000", "test.BTC": "30", "perp.USDT": "1000"}
    steady = {"stale_mark_s": 80_000, "mark_interval_ms": 600_000}
    return harness(transfers=TERMS, opening=opening, pegs={"USD": "1"}, **steady)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_property_6_the_parts_are_the_equity_with_funding_and_transfers_too(steps):
    kept = busy()

    kept.send(*tape(steps))

    for snapshot in kept.of(PortfolioSnapshot):
        assert unexplained(snapshot) == 0


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sets(st.integers(0, 45), max_size=4))
def test_continues_exactly_after_a_restart_at_any_message(steps, cuts):
    messages = tape(steps)

    assert run_with_restarts(busy, messages, cuts) == run_with_restarts(busy, messages, [])
