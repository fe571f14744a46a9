"""What the page Risk knows: the answers of each rule, what was denied, the level of the kill switch."""

from tickerml.kernel import (
    OrderDenied,
    OrderType,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
)
from tickerml.ui import risk
from tickerml.ui.risk import RiskBoard

NOW = 1_700_000_000_000_000_000
PLUGINS = [
    {"id": "risk-limits", "kind": "risk_rule", "state": "active"},
    {"id": "risk-losses", "kind": "risk_rule", "state": "failed"},
    {"id": "portfolio", "kind": "store", "state": "active"},
]


def wish(order_id="a", quantity=10):
    head = (NOW, order_id, "trend", "paper", "low", "BTC/USDT", Side.BUY, OrderType.LIMIT)
    return SubmitOrder(*head, TimeInForce.GTC, 100, quantity)


def verdict(quantity, order_id="a", rule="risk-limits"):
    return RiskVerdict(
        NOW, order_id, rule, quantity, "" if quantity == 10 else "too much", {"equity": 9500.5}
    )


def board(*messages):
    board = RiskBoard()
    for message in messages:
        board.take(message)
    return board


def rows(board):
    names = [name for name, _ in risk.RULES]
    return {row.cells[0]: dict(zip(names, row.cells, strict=True)) for row in board.rule_rows(PLUGINS)}


def test_each_answer_is_counted_as_what_it_was():
    known = board(wish(), verdict(10), verdict(4), verdict(0), verdict(0))
    row = rows(known)["risk-limits"]

    assert (row["Allowed"], row["Reduced"], row["Denied"]) == ("1", "1", "2")
    assert row["Its numbers"] == "equity 9,500.5"
    assert row["Last no"].endswith("too much")
    assert known.summary() == "4 verdicts · 1 allowed · 1 reduced · 2 denied · 0 orders denied"


def test_a_rule_that_has_not_been_asked_is_there_with_its_state_and_stores_are_not():
    found = rows(board())

    assert list(found) == ["risk-limits", "risk-losses"]
    assert (found["risk-losses"]["State"], found["risk-losses"]["Last"]) == ("failed", "–")


def test_a_verdict_of_a_rule_that_is_gone_is_still_shown():
    assert rows(board(wish(), verdict(10, rule="risk-old")))["risk-old"]["State"] == "not in this run"


def test_denied_orders_are_listed_newest_first_and_bounded():
    denials = [
        OrderDenied(NOW, f"d{n}", "trend", "paper", "low", "BTC/USDT", "risk-limits", "no")
        for n in range(300)
    ]
    known = board(*denials)

    assert len(known.denied_rows()) == risk.DENIED_KEPT
    assert known.denied_rows()[0].cells[1] == "d299"
    assert known.summary().endswith("300 orders denied")
