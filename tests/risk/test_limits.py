"""The limits rule: what it leaves of an order, and that nothing slips past it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Balance,
    BookStale,
    ConfigError,
    Instrument,
    Liquidity,
    Message,
    OrderCanceled,
    OrderDenied,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    RiskVerdict,
    Side,
    SimulatorSpec,
    SubmitOrder,
    TimeInForce,
    to_units,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts, spec_of
from tickerml.plugins import portfolio
from tickerml.risk import drawdown, limits

S = NS_PER_S
DEEP = 10**9
#: A lot of BTC is worth 1 USDT at a price of 100; no fees, so that the numbers are round.
BTC = instrument("test", "BTC/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)
ETH = instrument("test", "ETH/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)
AWAY = instrument("away", "BTC/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)


def balance(asset: str, free: int, held: int = 0, exchange: str = "test") -> Balance:
    return Balance(exchange, asset, free * UNIT, held * UNIT)


def money(
    *balances: Balance, equity: int = 10_000, ts: int = 1, is_marked: bool = True, currency: str = "USDT"
) -> PortfolioSnapshot:
    value = equity * UNIT
    head = (ts, "paper", currency, value, value, value, 0, 0, 0, 0.0, 0.0, is_marked)
    return PortfolioSnapshot(*head, list(balances), [])


def touch(
    symbol: str = "BTC/USDT", bid: int = 100, ask: int = 101, exchange: str = "test", ts: int = 1
) -> Message:
    return Market(exchange, symbol).book(ts, bids=[(bid, DEEP)], asks=[(ask, DEEP)])


def order(
    quantity: int,
    price: int = 100,
    side: Side = Side.BUY,
    *,
    order_id: str = "o",
    symbol: str = "BTC/USDT",
    exchange: str = "test",
    kind: OrderType = OrderType.LIMIT,
    reduce_only: bool = False,
    ts: int = 2,
) -> SubmitOrder:
    head = (ts, order_id, "s", "paper", exchange, symbol, side, kind, TimeInForce.GTC)
    return SubmitOrder(*head, price if kind is OrderType.LIMIT else 0, quantity, reduce_only)


def submitted(wish: SubmitOrder, quantity: int | None = None) -> OrderSubmitted:
    head = (wish.ts_recv, wish.order_id, wish.strategy, wish.account, wish.exchange, wish.symbol, wish.side)
    quantity = wish.quantity if quantity is None else quantity
    return OrderSubmitted(*head, wish.order_type, wish.time_in_force, wish.price, quantity, 201)


def filled(wish: SubmitOrder, quantity: int, *, leaves: int = 0, number: int = 1) -> OrderFilled:
    head = (3, 3, wish.order_id, number, "s", "paper", wish.exchange, wish.symbol, wish.side)
    tail = (Liquidity.MAKER, 0, "USDT", 0, 0, 0, False, 0)
    return OrderFilled(*head, wish.price, quantity, leaves, *tail)


def harness(*balances: Balance, **options: Any) -> Harness:
    """A market in which everything is known, and an account of 10,000 USDT or of *balances*."""
    kept = Harness(limits, options={"risk-limits": options})
    kept.send(BTC, ETH, AWAY, touch(), touch("ETH/USDT"), touch(exchange="away"))
    kept.send(money(*(balances or (balance("USDT", 10_000),))))
    return kept


def judge(kept: Harness, wish: SubmitOrder) -> RiskVerdict:
    (verdict,) = kept.send(wish)
    assert isinstance(verdict, RiskVerdict)
    return verdict


def test_leaves_an_order_within_every_limit_as_it_is():
    verdict = judge(harness(), order(500))

    assert (verdict.quantity, verdict.reason, verdict.rule) == (500, "", "risk-limits")
    assert verdict.inputs["equity"] == verdict.inputs["cash"] == 10_000.0
    assert verdict.inputs["price"] == 100.0


def test_reduces_an_order_to_its_share_of_equity():
    verdict = judge(harness(), order(5000))

    assert (verdict.quantity, verdict.reason) == (1000, "max_order allows 10 of 50 BTC")


def test_reduces_an_order_to_the_largest_notional():
    assert judge(harness(max_order=1.0, max_position=1.0), order(9000)).quantity == 2500


def test_a_market_buy_is_counted_one_percent_above_the_ask_rounded_up():
    verdict = judge(harness(), order(5000, kind=OrderType.MARKET))

    assert verdict.inputs["price"] == 103.0  # 102.01
    assert verdict.quantity == 970


def test_an_order_below_the_smallest_notional_is_denied():
    assert judge(harness(), order(10)).quantity == 10

    verdict = judge(harness(), order(9))

    assert (verdict.quantity, verdict.reason) == (0, "less than min_notional 10 USDT is left")


def test_an_order_reduced_below_the_smallest_notional_is_denied_for_both_reasons():
    verdict = judge(harness(balance("USDT", 1_005)), order(500))

    assert verdict.quantity == 0
    assert verdict.reason == "min_cash allows 0.05 of 5 BTC, and less than min_notional 10 USDT is left"


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"min_quantity": 600}, "test takes no less than 6"),
        ({"min_notional": 501 * UNIT}, "the notional is below the minimum of test"),
    ],
)
def test_an_order_the_exchange_would_reject_as_too_small_is_denied(rules, text):
    kept = harness()
    kept.send(msgspec.structs.replace(BTC, **rules))

    verdict = judge(kept, order(500))

    assert (verdict.quantity, verdict.reason) == (0, text)


def test_the_base_asset_of_all_exchanges_counts_towards_the_position():
    kept = harness(balance("USDT", 8_000), balance("BTC", 8), balance("BTC", 12, exchange="away"))

    verdict = judge(kept, order(900))

    assert (verdict.quantity, verdict.inputs["inventory"]) == (500, 2_000.0)
    assert judge(kept, order(900, symbol="ETH/USDT", order_id="p")).quantity == 900


def test_open_buys_count_as_bought_at_their_limit_until_they_end():
    kept = harness(balance("USDT", 10_000), balance("USDT", 0, exchange="away"))
    wishes = [order(1000, order_id="a"), order(1000, order_id="b")]
    for wish in wishes:
        judge(kept, wish)
        kept.send(submitted(wish))

    crowded = judge(kept, order(1000, order_id="c")).quantity
    kept.send(OrderDenied(2, "c", "s", "paper", "test", "BTC/USDT", "other", "no"))
    kept.send(OrderCanceled(3, 3, "a", "test", "BTC/USDT", 1000, "asked"))
    kept.send(OrderRejected(3, 3, "b", "test", "BTC/USDT", "no"))

    assert crowded == 499  # the allowance for rounded fees takes a part of a lot
    assert judge(kept, order(1000, order_id="d")).quantity == 1000


def test_an_allowed_order_counts_before_it_is_submitted():
    kept = harness()
    judge(kept, order(1000, order_id="a"))
    judge(kept, order(1000, order_id="b"))

    assert judge(kept, order(1000, order_id="c")).quantity == 499


def test_a_second_order_under_an_open_id_is_denied_and_the_first_stays_open():
    kept = harness()
    judge(kept, order(1000))
    kept.send(submitted(order(1000)))

    again = judge(kept, order(1000))
    kept.send(OrderDenied(2, "o", "s", "paper", "test", "BTC/USDT", "gate", "already open"))

    assert (again.quantity, again.reason) == (0, "order o is already open")
    assert judge(kept, order(1, order_id="p")).inputs["open_buys"] > 999


def test_a_fill_counts_before_a_snapshot_shows_it():
    kept = harness()
    first = order(1000, order_id="a")
    judge(kept, first)
    kept.send(submitted(first), filled(first, 1000))

    verdict = judge(kept, order(2000, order_id="b"))

    assert (verdict.inputs["inventory"], verdict.inputs["cash"]) == (1_000.0, 9_000.0)
    kept.send(OrderDenied(3, "b", "s", "paper", "test", "BTC/USDT", "other", "no"))
    kept.send(money(balance("USDT", 9_000), balance("BTC", 10), ts=4))
    assert judge(kept, order(2000, order_id="c")).inputs["inventory"] == 1_000.0


def test_cash_over_all_exchanges_stays_above_its_minimum():
    kept = harness(balance("USDT", 1_500), balance("ETH", 85))

    assert judge(kept, order(1000)).reason == "min_cash allows 5 of 10 BTC"


def test_an_order_is_paid_for_on_its_own_exchange_with_its_fee():
    fees = msgspec.structs.replace(AWAY, taker_fee_ppm=250_000)
    kept = harness(balance("USDT", 9_500), balance("USDT", 500, exchange="away"))
    kept.send(fees)

    verdict = judge(kept, order(1000, exchange="away"))

    assert (verdict.quantity, verdict.reason) == (
        399,
        "funds allows 3.99 of 10 BTC",
    )  # 400 less the allowance


def test_funds_held_for_orders_it_never_saw_are_not_spent_again():
    kept = harness(balance("USDT", 9_800), balance("USDT", 50, held=150, exchange="away"))

    assert judge(kept, order(1000, exchange="away")).quantity == 49


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "min_cash allows 3.99 of 10 ETH"), ({"min_cash": 0.0, "max_gross": 0.9}, "max_gross allows 3.99 ")],
)
def test_open_buys_of_other_assets_count_as_paid_for(options, reason):
    kept = harness(balance("USDT", 2_000), balance("XRP", 1), **options)
    judge(kept, order(600, order_id="a"))

    assert judge(kept, order(1000, symbol="ETH/USDT", order_id="b")).reason.startswith(reason)


def test_funds_for_its_own_open_orders_are_not_spent_again_whatever_the_snapshot_says():
    kept = harness(balance("USDT", 9_500), balance("USDT", 500, exchange="away"))
    judge(kept, order(300, exchange="away", order_id="a"))

    assert judge(kept, order(1000, exchange="away", order_id="b")).reason == "funds allows 1.99 of 10 BTC"


def test_a_partly_filled_buy_counts_with_what_is_left_of_it():
    kept = harness()
    wish = order(1000, order_id="a")
    judge(kept, wish)
    kept.send(submitted(wish), filled(wish, 400, leaves=600))

    verdict = judge(kept, order(100, order_id="b"))

    assert 600 <= verdict.inputs["open_buys"] < 601
    assert verdict.inputs["inventory"] == 400.0


def test_gross_exposure_is_capped_over_all_assets():
    kept = harness(balance("USDT", 6_000), balance("ETH", 40), max_gross=0.45)

    assert judge(kept, order(1000)).reason == "max_gross allows 5 of 10 BTC"


def test_sells_only_what_is_there_and_not_reserved():
    kept = harness(balance("USDT", 9_000), balance("BTC", 6, held=4), balance("BTC", 50, exchange="away"))

    verdict = judge(kept, order(900, side=Side.SELL))

    assert (verdict.quantity, verdict.reason) == (600, "inventory allows 6 of 9 BTC")
    assert (verdict.inputs["owned"], verdict.inputs["free"]) == (10.0, 6.0)
    assert (
        judge(kept, order(900, side=Side.SELL, order_id="b")).quantity == 400
    )  # 600 of the 1,000 are spoken for


def test_nothing_can_be_sold_short():
    verdict = judge(harness(), order(100, side=Side.SELL, reduce_only=True))

    assert (verdict.quantity, verdict.reason) == (0, "inventory allows 0 of 1 BTC, and nothing is left")


def test_a_sell_ignores_exposure_but_not_the_size_of_an_order():
    kept = harness(balance("BTC", 100))

    assert judge(kept, order(3000, side=Side.SELL)).quantity == 1000
    assert (
        judge(kept, order(3000, price=50, side=Side.SELL, order_id="b")).quantity == 1000
    )  # it fetches the bid


@pytest.mark.parametrize("side", Side)
def test_a_contract_is_opened_either_way_within_what_is_free_and_reduced_without_limit_but_size(side):
    place = {"symbol": "BTC/USDT:USDT", "exchange": "perp"}
    kept = harness(balance("USDT", 9_500), balance("USDT", 500, exchange="perp"))
    perpetual = Instrument(0, "perp", "BTC/USDT:USDT", "BTC", "USDT", UNIT, UNIT // 100, contract="linear")
    kept.send(perpetual, touch(place["symbol"], exchange="perp"))

    assert judge(kept, order(400, side=side, **place)).quantity == 400
    opened = judge(kept, order(900, side=side, order_id="p", **place))
    assert opened.reason.startswith("funds allows")
    assert judge(kept, order(900, side=side, order_id="q", reduce_only=True, **place)).quantity == 900


@pytest.mark.parametrize("side", Side)
def test_a_fill_of_a_contract_moves_no_cash_before_a_snapshot_nor_after(side):
    place = {"symbol": "BTC/USDT:USDT", "exchange": "perp"}
    kept = harness(balance("USDT", 9_000), balance("USDT", 1000, exchange="perp"))
    perpetual = Instrument(0, "perp", "BTC/USDT:USDT", "BTC", "USDT", UNIT, UNIT // 100, contract="linear")
    kept.send(perpetual, touch(place["symbol"], exchange="perp"))
    wish = order(500, side=side, order_id="c", **place)
    assert judge(kept, wish).quantity == 500
    kept.send(submitted(wish), filled(wish, 500))

    verdict = judge(kept, order(500))

    assert (verdict.inputs["cash"], verdict.inputs["inventory"], verdict.inputs["free"]) == (
        pytest.approx(10_000),
        0.0,
        pytest.approx(9_000),
    )


def test_a_reduce_only_buy_has_nothing_to_reduce():
    verdict = judge(harness(), order(100, reduce_only=True))

    assert (verdict.quantity, verdict.reason) == (0, "a reduce-only buy has no short position to reduce")


def test_denies_before_any_snapshot():
    kept = Harness(limits)
    kept.send(BTC, touch())

    assert judge(kept, order(100)).reason == "nothing is known of account paper yet"


@pytest.mark.parametrize(
    ("message", "wish", "text"),
    [
        (money(is_marked=False), order(100), "something the account holds has no trusted price"),
        (touch(), order(100, symbol="XRP/USDT"), "XRP/USDT is not known on test"),
        (BookStale(2, "test", "BTC/USDT", 9), order(100), "the book of BTC/USDT on test is stale or crossed"),
        (touch(bid=102), order(100), "the book of BTC/USDT on test is valid or crossed"),
        (touch(), order(100, price=0), "a limit price must be positive, was 0"),
    ],
)
def test_denies_what_it_cannot_judge(message, wish, text):
    kept = harness()
    kept.send(message)

    verdict = judge(kept, wish)

    assert (verdict.quantity, verdict.reason) == (0, text)


def test_a_quote_asset_counts_at_the_mid_of_its_book_and_else_at_its_peg():
    fx = instrument("test", "USDT/USD", tick="0.01", lot="1")
    kept = harness()
    kept.send(money(balance("USDT", 10_000), currency="USD"), fx)
    pegged = judge(kept, order(5000, order_id="a")).quantity
    kept.send(OrderDenied(2, "a", "s", "paper", "test", "BTC/USDT", "other", "no"))

    kept.send(touch("USDT/USD", bid=40, ask=60))

    assert (pegged, judge(kept, order(5000, order_id="b")).quantity) == (1000, 2000)


def test_denies_a_quote_asset_that_nothing_prices():
    kept = harness(pegs={})
    kept.send(money(balance("USDT", 10_000), currency="USD"))

    assert judge(kept, order(100)).reason == "nothing says what USDT is worth in USD: name it in pegs"


def test_an_account_without_equity_may_not_buy():
    kept = harness()
    kept.send(money(balance("USDT", -5), equity=-5))

    assert judge(kept, order(100)).quantity == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_notional": "3000"}, "min_notional must be at most max_notional 2500, was 3000"),
        ({"min_notional": "few"}, "min_notional: expected a decimal number, was 'few'"),
        ({"max_notional": "-1"}, "max_notional must be at least 0, was '-1'"),
    ],
)
def test_refuses_amounts_that_make_no_sense(options, text):
    with pytest.raises(ConfigError) as refusal:
        harness(**options)

    assert text in str(refusal.value)


# --- The whole path: rules, gate, exchange and account -----------------------------------------


class _Exchange:
    """Accepts every order; fills and cancels it when a BookStale of the exchange "orders" says so."""

    def __init__(self, ctx: Any, options: Any) -> None:
        self.ctx = ctx
        self.open: dict[str, OrderSubmitted] = {}
        self.number = 0

    def on_order_submitted(self, order: OrderSubmitted) -> None:
        self.open[order.order_id] = order

    def on_book_stale(self, command: BookStale) -> None:
        if command.exchange != "orders" or not self.open:
            return
        order = list(self.open.values())[command.silent_ms % len(self.open)]
        if command.symbol == "cancel":
            del self.open[order.order_id]
            head = (self.ctx.clock.now(), 0, order.order_id, order.exchange, order.symbol)
            return self.ctx.publish(OrderCanceled(*head, order.quantity, "asked"))
        self.fill(order, max(1, order.quantity * (1 + command.silent_ms % 2) // 2))

    def fill(self, order: OrderSubmitted, quantity: int) -> None:
        traded: Instrument = self.ctx.instrument(order.exchange, order.symbol)
        price = order.price or (order.arrival_mid + order.side * 2) // 2
        self.number += 1
        leaves = order.quantity - quantity
        self.open[order.order_id] = msgspec.structs.replace(order, quantity=leaves)
        if not leaves:
            del self.open[order.order_id]
        fee = -(-traded.notional(price, quantity) * traded.taker_fee_ppm // 10**6)
        head = (
            self.ctx.clock.now(),
            0,
            order.order_id,
            self.number,
            "s",
            "paper",
            order.exchange,
            order.symbol,
        )
        tail = (Liquidity.TAKER, fee, traded.quote, 0, 0, 0, False, 0)
        self.ctx.publish(OrderFilled(*head, order.side, price, quantity, leaves, *tail))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((self.number, list(self.open.values())))

    def restore(self, state: bytes) -> None:
        self.number, orders = msgspec.msgpack.decode(state, type=tuple[int, list[OrderSubmitted]])
        self.open = {order.order_id: order for order in orders}


EXCHANGE = SimulatorSpec(id="sim-test", factory=_Exchange, publishes=(OrderFilled, OrderCanceled))
TRADED = {symbol: instrument("test", symbol, tick="1", lot="0.001") for symbol in ("BTC/USDT", "ETH/USDT")}


def whole(order_of_rules: str = "dl", **options: Any) -> Harness:
    ids = (
        {"d": "risk-drawdown", "l": "risk-limits"}
        if order_of_rules == "dl"
        else {"d": "risk-z", "l": "risk-a"}
    )
    rules = [
        msgspec.structs.replace(spec_of(drawdown), id=ids["d"]),
        msgspec.structs.replace(spec_of(limits), id=ids["l"]),
    ]
    settings_of = {"portfolio": {"opening": {"test.USDT": "10000"}, "currency": "USDT"}, ids["l"]: options}
    return Harness(*rules, EXCHANGE, portfolio, options=settings_of, with_gate=True)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["limit", "market"]),
            st.sampled_from(sorted(TRADED)),
            st.sampled_from([Side.BUY, Side.BUY, Side.SELL]),
            st.integers(1, 60_000),
            st.integers(90, 110),
        ),
        st.tuples(st.sampled_from(["fill", "fill", "cancel"]), st.integers(0, 9)),
        st.tuples(st.just("book"), st.sampled_from(sorted(TRADED)), st.integers(80, 120)),
    ),
    max_size=40,
)


def tape(steps: list[tuple[Any, ...]]) -> list[Message]:
    messages: list[Message] = [*TRADED.values(), *(touch(symbol, ts=1) for symbol in TRADED)]
    messages += [touch(symbol, ts=S + 1) for symbol in TRADED]
    for n, step in enumerate(steps):
        ts = S + 2 + n * S // 4
        if step[0] == "book":
            messages.append(touch(step[1], step[2], step[2] + 1, ts=ts))
        elif step[0] in ("fill", "cancel"):
            messages.append(BookStale(ts, "orders", step[0], step[1]))
        else:
            kind, symbol, side, quantity, price = step
            type_ = OrderType(kind)
            messages.append(order(quantity, price, side, order_id=f"o{n}", symbol=symbol, kind=type_, ts=ts))
    return messages


QUICK = settings(max_examples=80, deadline=None)


@QUICK
@given(STEPS)
def test_answers_every_order_once_and_never_enlarges_it(steps):
    kept = whole()
    wishes = {m.order_id: m for m in tape(steps) if isinstance(m, SubmitOrder)}

    kept.send(*tape(steps))

    verdicts = [verdict for verdict in kept.of(RiskVerdict) if verdict.rule == "risk-limits"]
    assert [verdict.order_id for verdict in verdicts] == list(wishes)
    for verdict in verdicts:
        assert 0 <= verdict.quantity <= wishes[verdict.order_id].quantity
        assert verdict.quantity == wishes[verdict.order_id].quantity or verdict.reason


@QUICK
@given(STEPS)
def test_every_order_let_through_is_funded_and_nothing_goes_below_zero(steps):
    kept = whole()

    for message in tape(steps):
        for output in kept.send(message):
            if isinstance(output, OrderSubmitted):
                assert kept.bus.component("portfolio").ledger.reservation(output.order_id)

    for snapshot in kept.of(PortfolioSnapshot):
        assert all(entry.free >= 0 and entry.held >= 0 for entry in snapshot.balances)


@QUICK
@given(STEPS)
def test_no_order_takes_more_than_its_limits_even_if_every_open_buy_fills(steps):
    kept = whole()
    snapshot = None

    for message in tape(steps):
        for output in kept.send(message):
            if isinstance(output, OrderSubmitted) and output.side is Side.BUY:
                check_worst_case(kept, snapshot, output)
            snapshot = output if isinstance(output, PortfolioSnapshot) else snapshot


def check_worst_case(kept: Harness, snapshot: PortfolioSnapshot, order: OrderSubmitted) -> None:
    book, traded = kept.bus.book("test", order.symbol), TRADED[order.symbol]
    owned = {entry.asset: entry.free + entry.held for entry in snapshot.balances}
    lot = traded.tick_size * traded.lot_size // UNIT
    worst = dict.fromkeys(TRADED, 0)
    for entry in kept.bus.component("sim-test").open.values():
        if entry.side is Side.BUY:  # the order itself among them
            # A market order pays at most 1 % more than there was when it left, wherever the book has gone.
            price = entry.price or -(-entry.arrival_mid * 101 // 200)
            worst[entry.symbol] += price * entry.quantity * lot

    position = owned.get(traded.base, 0) * book.best_bid + worst[order.symbol]
    assert traded.notional(order.price or book.best_ask, order.quantity) <= snapshot.equity // 10
    assert position <= snapshot.equity // 4
    assert owned["USDT"] - sum(worst.values()) >= snapshot.equity // 10


@QUICK
@given(STEPS)
def test_the_order_of_the_rules_does_not_matter(steps):
    one, other = whole("dl"), whole("ld")

    one.send(*tape(steps))
    other.send(*tape(steps))

    kinds = (OrderSubmitted, OrderFilled, PortfolioSnapshot)
    assert one.of(*kinds) == other.of(*kinds)
    assert [m.order_id for m in one.of(OrderDenied)] == [m.order_id for m in other.of(OrderDenied)]


@settings(max_examples=50, deadline=None)
@given(STEPS, st.sets(st.integers(0, 46), max_size=4))
def test_continues_exactly_after_a_restart_at_any_message(steps, cuts):
    messages = tape(steps)

    restarted = run_with_restarts(whole, messages, cuts)

    assert restarted == run_with_restarts(whole, messages, [])


def test_every_option_has_a_description():
    fields = msgspec.json.schema(limits.LimitsOptions)["$defs"]["LimitsOptions"]["properties"]

    assert all(field.get("description") for field in fields.values())
    assert to_units(limits.LimitsOptions().max_notional) == 2500 * UNIT
