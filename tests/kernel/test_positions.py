"""What an account holds, and what an order may take of it without ever flipping it."""

import msgspec
import pytest

from tickerml.kernel import Liquidity, OrderFilled, PortfolioSnapshot, Position, Side
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


@pytest.mark.parametrize(("exchange", "left"), [("test", 3), ("perp", 4)])
def test_a_fee_in_the_base_asset_is_gone_from_spot_rounded_up_and_not_from_a_contract(exchange, left):
    positions = Positions()
    head = (1, 1, "o", 0, "s", "paper", exchange, "BTC/USDT", Side.BUY, 100, 4, 0)

    positions.fill(
        OrderFilled(*head, Liquidity.TAKER, 1, "BTC", 0, 0, 0, False, 0), LISTED[exchange, "BTC/USDT"]
    )

    assert positions.lots == {("paper", exchange, "BTC/USDT"): left}


def test_a_snapshot_says_all_of_its_account_and_nothing_of_another():
    key = ("other", "test", "BTC/USDT")
    positions = Positions({key: 3, ("paper", "test", "BTC/USDT"): 5, ("paper", "perp", "BTC/USDT"): 2})
    held = [Position("test", "BTC/USD", 7, 0, 0, 0, 0, 0), Position("test", "BTC/USDT", 0, 0, 0, 0, 0, 0)]

    positions.take(PortfolioSnapshot(1, "paper", "USD", 0, 0, 0, 0, 0, 0, 0.0, 0.0, True, [], held))

    assert positions.lots == {key: 3, ("paper", "test", "BTC/USD"): 7}
