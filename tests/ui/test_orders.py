"""What the page Orders & Queue knows: places in queues, lives of orders, fills with their mark-outs."""

import pytest

from tickerml.kernel import (
    NS_PER_S,
    Liquidity,
    MarkoutMeasured,
    OrderAccepted,
    OrderCanceled,
    OrderDenied,
    OrderFilled,
    OrderReplaced,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
)
from tickerml.kernel.testing import Market, instrument
from tickerml.ui import orders
from tickerml.ui.orders import OrdersBoard, matching
from tickerml.ui.state import ConsoleState

S = NS_PER_S
NOW = 1_700_000_000 * S
PLACE = ("low", "BTC/USDT")


def sent(order_id="a", side=Side.BUY, price=100, ts=NOW):
    head = (ts, order_id, "trend", "paper", *PLACE, side)
    return OrderSubmitted(*head, OrderType.LIMIT, TimeInForce.GTC, price, 10, 201)


def accepted(order_id="a", ahead=40, ts=NOW + S // 10):
    return OrderAccepted(ts + S // 20, ts, order_id, *PLACE, ahead, 4)


def trade(price, quantity, aggressor=Side.SELL, ts=NOW + S):
    return Trade(ts, ts, *PLACE, 1, price, quantity, aggressor)


def filled(order_id="a", leaves=0, toxic=False, ts=NOW + 2 * S):
    head = (ts + S // 20, ts, order_id, 1, "trend", "paper", *PLACE, Side.BUY, 100, 10 - leaves, leaves)
    fees = (Liquidity.MAKER, 5 * 10**11, "USDT")
    return OrderFilled(*head, *fees, 40, 4, 2 * S, toxic, 201, None, S // 10, False, 3)


@pytest.fixture
def state():
    state = ConsoleState()
    state.apply(instrument("low", tick="1", lot="0.1"))
    state.apply(Market("low").book(NOW, [(100, 90), (99, 50)], [(101, 50)]))
    return state


def opened(state):
    (row,) = state.orders.open_rows(state.markets, NOW + 5 * S)
    return dict(zip([name for name, _ in orders.OPEN], row.cells, strict=True))


def told(state, *messages):
    for message in messages:
        state.apply(message)
    return state


def test_an_order_on_its_way_has_no_place_yet(state):
    row = opened(told(state, sent()))

    assert (row["Ahead"], row["Place in the queue"]) == ("on its way", "0.000")
    assert (row["Price"], row["Open"], row["Age"]) == ("100", "1.0", "5.0 s")


def test_prints_at_its_price_bring_it_forward(state):
    row = opened(told(state, sent(), accepted(), trade(100, 10)))

    assert (row["Ahead"], row["Place in the queue"]) == ("3.0", "0.250")


@pytest.mark.parametrize(
    ("print_", "ahead"),
    [
        (trade(100, 10, Side.BUY), "4.0"),  # took from the other side
        (trade(101, 10), "4.0"),  # not as deep as ours
        (trade(99, 1), "0.0"),  # through ours: nobody was left
        (trade(100, 999), "0.0"),
    ],
)
def test_other_prints_do_not_unless_they_go_through_it(state, print_, ahead):
    assert opened(told(state, sent(), accepted(), print_))["Ahead"] == ahead


def test_no_more_can_be_ahead_than_its_level_has(state):
    told(state, sent(), accepted())
    told(state, Market("low").book(NOW + S, [(100, 12)], [(101, 50)]))

    assert opened(state)["Ahead"] == "1.2"
    told(state, Market("low").book(NOW + 2 * S, [(100, 80)], [(101, 50)]))
    assert opened(state)["Ahead"] == "1.2"  # who came since is behind us


def test_a_replaced_order_stands_where_the_exchange_says(state):
    replaced = OrderReplaced(NOW + S, NOW + S, "a", *PLACE, 99, 5, 50)
    row = opened(told(state, sent(), accepted(), trade(100, 10), replaced))

    assert (row["Price"], row["Open"], row["Ahead"]) == ("99", "0.5", "5.0")


def test_the_life_of_an_order_says_how_long_each_part_of_it_took(state):
    told(state, sent(), accepted(), filled(leaves=4), filled("b"))
    canceled = OrderCanceled(NOW + 4 * S, NOW + 3 * S, "a", *PLACE, 4, "enough")
    (row,) = told(state, canceled).orders.recent_rows(state.markets)
    cells = dict(zip([name for name, _ in orders.RECENT], row.cells, strict=True))

    assert cells["Life"] == "sent → accepted 100 ms → part filled 1.9 s → canceled 1.0 s"
    assert (cells["Quantity"], cells["Filled"], cells["Why it ended"]) == ("1.0", "0.6", "enough")
    assert state.orders.summary() == "0 open · 1 canceled"


def test_a_denied_order_is_among_the_recent_with_its_rule(state):
    denied = OrderDenied(NOW, "d", "trend", "paper", *PLACE, "risk-limits", "too much")
    (row,) = told(state, denied).orders.recent_rows(state.markets)

    assert row.cells[-1] == "risk-limits: too much"
    assert row.cells[5:8] == ["", "", ""]


def test_a_fill_shows_latency_toxicity_and_its_markouts_as_they_come(state):
    mark = MarkoutMeasured(NOW + 3 * S, "a", 1, *PLACE, Liquidity.MAKER, S, -1.25)
    (row,) = told(state, sent(), accepted(), filled(toxic=True), mark).orders.fill_rows(state.markets)
    cells = dict(zip([name for name, _ in orders.FILLS], row.cells, strict=True))

    assert (cells["Behind"], cells["Latency"], cells["Toxic"]) == ("4.0", "100 + 50 ms", "predicted")
    assert (cells["1 s"], cells["10 s"], cells["Fee"]) == ("-1.25", "", "0.5000 USDT")


def test_the_filter_wants_every_word_somewhere_in_the_row(state):
    rows = told(state, sent("a1"), sent("b2")).orders.open_rows(state.markets, NOW)

    assert [row.id for row in matching(rows, "BTC b2")] == ["b2"]
    assert len(matching(rows, "")) == 2
    assert matching(rows, "btc nowhere") == []


def test_what_is_kept_is_bounded_and_what_is_open_stays(state):
    told(state, sent("first"))
    for number in range(600):
        denied = OrderDenied(NOW, f"d{number}", "trend", "paper", *PLACE, "risk-limits", "no")
        told(state, denied, filled(f"f{number}"))

    assert [row.id for row in state.orders.open_rows(state.markets, NOW)] == ["first"]
    assert len(state.orders.recent_rows(state.markets)) == orders.SHOWN
    assert len(state.orders.fill_rows(state.markets)) == orders.SHOWN
    assert len(OrdersBoard().fill_rows({})) == 0
