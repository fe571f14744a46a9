"""What strategy_hello does, on a bus in one thread and a market written by hand."""

import strategy_hello

from tickerml.kernel import NS_PER_S, Liquidity, Message, OrderFilled, Side, SubmitOrder
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts

market = Market("aurora", "BTC/USDT")


def build() -> Harness:
    return Harness(strategy_hello, options={"strategy-hello": {"streak": 3, "hold_s": 10}})


def filled(ts: int, order_id: str, side: Side, price: int, quantity: int) -> OrderFilled:
    """Return what the simulator would say of an order that was filled at once and whole."""
    return OrderFilled(
        ts_recv=ts,
        ts_event=ts,
        order_id=order_id,
        fill=0,
        strategy="strategy-hello",
        account="paper",
        exchange="aurora",
        symbol="BTC/USDT",
        side=side,
        price=price,
        quantity=quantity,
        leaves=0,
        liquidity=Liquidity.TAKER,
        fee=0,
        fee_asset="USDT",
        queue_ahead=0,
        orders_ahead=0,
        wait_ns=0,
        is_toxic_predicted=False,
        arrival_mid=0,
    )


def tape() -> list[Message]:
    return [
        instrument("aurora", "BTC/USDT", tick="0.01", lot="0.00001"),
        market.book(1 * NS_PER_S, bids=[(5_000_000, 900)], asks=[(5_000_100, 900)]),
        *[market.trade(second * NS_PER_S, 5_000_100, 10, Side.BUY) for second in (2, 3, 4)],
        filled(5 * NS_PER_S, "strategy-hello-0", Side.BUY, 5_000_100, 199),
        market.trade(16 * NS_PER_S, 5_000_000, 10, Side.SELL),
    ]


def test_buys_at_the_best_ask_after_three_buyers_in_a_row() -> None:
    harness = build()
    harness.send(*tape()[:4])
    (order,) = harness.send(tape()[4])

    assert isinstance(order, SubmitOrder)
    assert (order.side, order.price, order.quantity) == (Side.BUY, 5_000_100, 199)
    assert order.reason == "3 buyers in a row"


def test_a_seller_ends_the_streak() -> None:
    harness = build()
    harness.send(*tape()[:4])

    assert harness.send(market.trade(4 * NS_PER_S, 5_000_000, 10, Side.SELL), tape()[4]) == []


def test_sells_what_it_bought_ten_seconds_later() -> None:
    harness = build()
    harness.send(*tape()[:-1])
    (order,) = harness.send(tape()[-1])

    assert isinstance(order, SubmitOrder)
    assert (order.side, order.price, order.quantity) == (Side.SELL, 5_000_000, 199)
    assert order.ts_recv == 15 * NS_PER_S


def test_goes_on_after_a_restart_at_any_message_as_if_nothing_had_been() -> None:
    undisturbed = build().send(*tape())

    assert run_with_restarts(build, tape(), cuts=range(len(tape()))) == undisturbed
    assert len(undisturbed) == 2
