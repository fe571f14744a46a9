"""
What the console knows of risk: each rule's answers and numbers, and what was denied.

As in state.py everything is bounded, and texts are made here. Counts are since the console began to
read.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tickerml.kernel import (
    NS_PER_S,
    HaltLevel,
    Message,
    OrderDenied,
    RiskVerdict,
    SubmitOrder,
)

from .rows import Row

DENIED_KEPT = 200
WISHES_KEPT = 2_000

RULES = (
    ("Rule", ""),
    ("State", ""),
    ("Allowed", "r num"),
    ("Reduced", "r num"),
    ("Denied", "r num"),
    ("Last", "r num"),
    ("Its numbers", "wrap"),
    ("Last no", "wrap"),
)
DENIED = (("Time", ""), ("Order", ""), ("Exchange", ""), ("Symbol", ""), ("Rule", ""), ("Reason", "wrap"))

#: What each level of the kill switch does, from the lowest.
LEVELS = (
    (HaltLevel.RUN, "Trading", "Orders pass when every rule agrees."),
    (HaltLevel.NO_NEW, "No new orders", "Open orders stay; only a rule's own reducing order passes."),
    (HaltLevel.CANCEL, "Cancel", "No order passes, and the open ones are canceled."),
    (HaltLevel.FLATTEN, "Flatten", "And what is held is sold, at most 1 % behind the best price."),
)


class _Rule:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: RiskVerdict | None = None
        self.last_no = ""


class RiskBoard:
    """The content of the page Risk."""

    def __init__(self) -> None:
        self.version = 0  # rises with every change
        self._rules: dict[str, _Rule] = {}
        self._wishes: OrderedDict[str, int] = OrderedDict()  # order id -> lots
        self._denied: deque[OrderDenied] = deque(maxlen=DENIED_KEPT)
        self._denials = 0

    def take(self, message: Message) -> None:
        """Take one message; those that are not about risk are ignored."""
        match message:
            case SubmitOrder():
                self._wishes[message.order_id] = message.quantity
                if len(self._wishes) > WISHES_KEPT:
                    self._wishes.popitem(last=False)
                return
            case RiskVerdict():
                self._judge(message)
            case OrderDenied():
                self._denied.append(message)
                self._denials += 1
            case _:
                return
        self.version += 1

    def _judge(self, verdict: RiskVerdict) -> None:
        rule = self._rules.setdefault(verdict.rule, _Rule())
        wish = self._wishes.get(verdict.order_id, verdict.quantity)
        answer = "denied" if verdict.quantity <= 0 else "reduced" if verdict.quantity < wish else "allowed"
        rule.counts[answer] += 1
        rule.last = verdict
        if answer != "allowed":
            rule.last_no = f"{_clock(verdict.ts_recv)} {verdict.reason}"

    # --- Out ------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return one line: how many answers there were, and how many a no."""
        total: Counter[str] = Counter()
        for rule in self._rules.values():
            total += rule.counts
        parts = [f"{total[answer]:,} {answer}" for answer in ("allowed", "reduced", "denied")]
        return " · ".join([f"{total.total():,} verdicts", *parts, f"{self._denials:,} orders denied"])

    def rule_rows(self, plugins: Iterable[dict[str, Any]]) -> list[Row]:
        """
        Return the rules in the columns of RULES.

        Args:
            plugins: those of the kernel's report, which say of each rule how it is.
        """
        states = {each["id"]: each["state"] for each in plugins if each["kind"] == "risk_rule"}
        return [
            _rule_row(name, states.get(name, "not in this run"), self._rules.get(name, _Rule()))
            for name in sorted({*states, *self._rules})
        ]

    def denied_rows(self) -> list[Row]:
        """Return the denied orders, newest first, in the columns of DENIED."""
        return [
            Row(
                f"{each.order_id} {each.ts_recv}",
                [_clock(each.ts_recv), each.order_id, each.exchange, each.symbol, each.rule, each.reason],
            )
            for each in reversed(self._denied)
        ]


def _rule_row(name: str, state: str, rule: _Rule) -> Row:
    inputs = rule.last.inputs if rule.last else {}
    cells = [
        name,
        state,
        *(f"{rule.counts[answer]:,}" for answer in ("allowed", "reduced", "denied")),
        _clock(rule.last.ts_recv) if rule.last else "–",
        " · ".join(f"{key} {value:,.6g}" for key, value in sorted(inputs.items())),
        rule.last_no,
    ]
    is_well = state == "active"
    tones = ["", "up" if is_well else "down", "", "warn" if rule.counts["reduced"] else ""]
    return Row(name, cells, "", [*tones, "down" if rule.counts["denied"] else ""])


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts / NS_PER_S, UTC).strftime("%H:%M:%S")
