"""The confidence rule: who doubts opens nothing, and who says nothing is not asked."""

import msgspec
import pytest

from tickerml.kernel import Side
from tickerml.risk import confidence as plugin

from .trading import judge, order, rule


def sure(confidence, **fields):
    return msgspec.structs.replace(order(7, **fields), confidence=confidence)


@pytest.mark.parametrize(
    ("confidence", "allowed"), [(1.0, 7), (0.3, 7), (0.2999, 0), (0.0, 0), (-1.0, 0), (float("nan"), 0)]
)
def test_less_than_thirty_percent_is_too_little(confidence, allowed):
    assert judge(rule(plugin), sure(confidence)).quantity == allowed


def test_the_denial_says_how_sure_the_strategy_is():
    verdict = judge(rule(plugin, least=0.6), sure(0.25))

    assert verdict.reason == "s is 25% sure of it, less than 60%"
    assert verdict.inputs == {"confidence": 0.25}


def test_what_says_nothing_and_what_reduces_passes():
    kept = rule(plugin)

    assert judge(kept, order(7, order_id="a")).quantity == 7
    assert judge(kept, sure(0.1, side=Side.SELL, order_id="b")).quantity == 7
    assert judge(kept, sure(0.1, reduce_only=True, order_id="c")).quantity == 7
