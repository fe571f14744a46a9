"""The harness that plugin authors get runs the real bus, and its restarts catch a forgetful component."""

import types

import msgspec
import pytest

from tickerml.kernel import (
    BookState,
    Grid,
    Options,
    OrderDenied,
    OrderSubmitted,
    OrderType,
    PluginFailed,
    RiskRuleSpec,
    RiskVerdict,
    Side,
    StoreSpec,
    StrategySpec,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    Trade,
    TradingHalted,
    hookimpl,
    levels,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts, spec_of


class BuyerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    quantity: int = 1


class Buyer:
    """Buys at the price of every trade, under a number of its own."""

    def __init__(self, ctx, options):
        self.ctx = ctx
        self.quantity = options.quantity
        self.count = 0

    def on_trade(self, trade):
        self.count += 1
        limit, gtc = OrderType.LIMIT, TimeInForce.GTC
        self.ctx.publish(
            SubmitOrder(
                trade.ts_recv,
                f"buyer-{self.count}",
                "buyer",
                "main",
                trade.exchange,
                trade.symbol,
                Side.BUY,
                limit,
                gtc,
                trade.price,
                self.quantity,
            )
        )

    def snapshot(self):
        return msgspec.msgpack.encode(self.count)

    def restore(self, state):
        self.count = msgspec.msgpack.decode(state, type=int)


class Forgetful(Buyer):
    """A buyer whose snapshot is not whole."""

    def snapshot(self):
        return b""

    def restore(self, state):
        pass


def buyer_spec(factory=Buyer):
    return StrategySpec(id="buyer", factory=factory, options=BuyerOptions, publishes=(SubmitOrder,))


def module_with(**hooks):
    module = types.ModuleType("stranger")
    for name, specs in hooks.items():
        setattr(module, name, hookimpl(lambda specs=specs: specs))
    return module


TAPE = [Market().trade(ts, 100 + ts, 1, Side.BUY) for ts in range(1, 8)]


def test_a_plugin_may_be_given_as_its_module_with_its_options():
    harness = Harness(module_with(tickerml_strategies=[buyer_spec()]), options={"buyer": {"quantity": 3}})

    (asked,) = harness.send(TAPE[0])

    assert (asked.order_id, asked.quantity, asked.price) == ("buyer-1", 3, 101)


@pytest.mark.parametrize("specs", [[], [buyer_spec(), buyer_spec()]], ids=["none", "two"])
def test_a_module_offers_exactly_one_spec(specs):
    with pytest.raises(ValueError, match=f"expected one spec in stranger, was {len(specs)}"):
        spec_of(module_with(tickerml_strategies=specs))


def test_an_option_that_a_plugin_does_not_have_is_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field `amount`"):
        Harness(buyer_spec(), options={"buyer": {"amount": 3}})


def test_send_returns_what_was_published_because_of_it_and_outputs_keep_all():
    harness = Harness(buyer_spec())

    first = harness.send(TAPE[0])
    second = harness.send(TAPE[1], TAPE[2])

    assert [len(first), len(second)] == [1, 2]
    assert harness.outputs == first + second == harness.of(SubmitOrder)
    assert harness.of(Trade) == []


def test_the_gate_of_a_harness_waits_for_its_risk_rules():
    class Refusing:
        def __init__(self, ctx, options):
            self.ctx = ctx

        def on_submit_order(self, order):
            self.ctx.publish(RiskVerdict(order.ts_recv, order.order_id, "refusing", 0, "never"))

    rule = RiskRuleSpec(id="refusing", factory=Refusing, publishes=(RiskVerdict,))

    free = Harness(buyer_spec(), with_gate=True)
    ruled = Harness(buyer_spec(), rule, with_gate=True)

    assert [type(answer) for answer in free.send(TAPE[0])] == [SubmitOrder, OrderSubmitted]
    assert [type(answer) for answer in ruled.send(TAPE[0])] == [SubmitOrder, RiskVerdict, OrderDenied]


def test_the_gate_of_a_harness_halts_when_its_ledger_fails():
    class Broken:
        def __init__(self, ctx, options):
            pass

        def on_trade(self, trade):
            raise RuntimeError("no money")

    harness = Harness(StoreSpec(id="ledger", factory=Broken), with_gate=True)

    assert [type(answer) for answer in harness.send(TAPE[0])] == [PluginFailed, TradingHalted]


def test_restarts_change_nothing_for_a_component_whose_snapshot_is_whole():
    def build():
        return Harness(buyer_spec())

    for cut in range(len(TAPE)):
        assert run_with_restarts(build, TAPE, {cut}) == run_with_restarts(build, TAPE, ())
    assert run_with_restarts(build, TAPE, range(len(TAPE))) == run_with_restarts(build, TAPE, ())


def test_restarts_show_a_component_that_forgets():
    def build():
        return Harness(buyer_spec(Forgetful))

    assert run_with_restarts(build, TAPE, {3}) != run_with_restarts(build, TAPE, ())


def test_an_instrument_is_written_in_decimal_text():
    known = instrument(symbol="ETH/USD", tick="0.01", lot="0.0001", min_notional="10")

    assert (known.base, known.quote) == ("ETH", "USD")
    assert Grid(known.tick_size).parse("1234.56") == 123456
    assert known.notional(123456, 10_000) == 123456 * 10**10
    assert known.min_notional == 10 * 10**12


def test_a_market_by_hand_numbers_its_messages_and_receives_them_late():
    market = Market("kraken", "ETH/USD", latency_ns=30)

    book = market.book(100, bids=[(9, 1)], asks=[(11, 2)])
    trade = market.trade(110, 11, 2, Side.BUY)
    delta = market.delta(120, asks=[(11, 0)])

    assert [message.seq for message in (book, trade, delta)] == [1, 2, 3]
    assert [message.ts_recv - message.ts_event for message in (book, trade, delta)] == [30, 30, 30]
    assert {(message.exchange, message.symbol) for message in (book, trade, delta)} == {("kraken", "ETH/USD")}
    assert list(levels(delta.asks)) == [(11, 0)]


def test_a_harness_keeps_the_books_of_the_market_it_is_sent():
    harness, market = Harness(), Market()

    harness.send(market.book(1, bids=[(9, 1)], asks=[(11, 2)]), market.delta(2, bids=[(10, 4)]), TimeTick(3))

    book = harness.bus.book("test", "BTC/USDT")
    assert (book.state, book.best_bid, book.best_ask) == (BookState.VALID, 10, 11)


def test_secrets_are_given_to_every_component_of_a_harness():
    harness = Harness(
        StrategySpec(id="keyed", factory=Buyer, options=BuyerOptions), secrets={"api-key": "s3cret"}
    )

    assert harness.bus.component("keyed").ctx.secret("api-key") == "s3cret"
