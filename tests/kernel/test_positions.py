"""What an account holds, and what an order may take of it without ever flipping it."""

import msgspec
import pytest

from tickerml.kernel import Side
from tickerml.kernel.positions import Positions
from tickerml.kernel.testing import instrument

SPOT = instrument("test", "BTC/USDT", lot="0.01")
DOLLARS = instrument("test", "BTC/USD", lot="0.001")
PERPETUAL = msgspec.structs.replace(SPOT, exchange="perp", contract="linear")
LISTED = {(each.exchange, each.symbol): each for each in (SPOT, DOLLARS, PERPETUAL)}


def reducible(positions, exchange, symbol, side):
    return positions.reducible(("paper", exchange, symbol), side, lambda *market: LISTED.get(market))


@pytest.mark.parametrize(("lots", "buy", "sell"), [(7, 0, 7), (-5, 5, 0), (0, 0, 0)])
def test_a_contract_is_reduced_by_the_other_side_and_no_further_than_to_nothing(lots, buy, sell):
    positions = Positions({("paper", "perp", "BTC/USDT"): lots} if lots else {})

    assert reducible(positions, "perp", "BTC/USDT", Side.BUY) == buy
    assert reducible(positions, "perp", "BTC/USDT", Side.SELL) == sell


def test_spot_of_one_base_is_one_position_in_the_lots_of_whatever_is_sold():
    positions = Positions({("paper", "test", "BTC/USDT"): 7, ("other", "test", "BTC/USDT"): 100})

    assert reducible(positions, "test", "BTC/USD", Side.SELL) == 70
    assert reducible(positions, "test", "BTC/USD", Side.BUY) == 0
    assert reducible(positions, "perp", "BTC/USDT", Side.SELL) == 0
