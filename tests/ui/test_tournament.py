"""What the page Orders & Queue says of a tournament: each asset has a band, each fill model a row."""

from tickerml.kernel import UNIT, ModelResult, TournamentMeasured
from tickerml.ui.orders import OrdersBoard
from tickerml.ui.tournament import MODELS


def result(model, pnl, optimism=0, orders=2, fills=3):
    money = (round(each * UNIT) for each in (100, 0.1))
    return ModelResult(model, orders, fills, 30, *money, 5, round(pnl * UNIT), round(optimism * UNIT))


def told(*results, exchange="low", symbol="BTC/USDT", asset="USDT", accepted=4):
    return TournamentMeasured(1, exchange, symbol, asset, 200, accepted, list(results))


def board(*messages):
    orders = OrdersBoard()
    for message in messages:
        orders.take(message)
    return orders.tournament


def cells(board, column):
    return [row.cells[[name for name, _ in MODELS].index(column)] for row in board.rows()]


def test_without_a_tournament_there_is_nothing_to_say():
    assert (board().summary(), board().rows()) == ("", [])


def test_the_band_reaches_from_who_gains_least_to_who_gains_most_beside_what_is_real():
    known = board(told(result("risk-averse", -1.5), result("log", 0.25, 1.75), result("touch", 6, 7.5)))

    assert known.summary() == "the same 4 orders: P&L from -1.50 to +6.00 USDT (-1.50 real)"
    assert cells(known, "Model") == ["risk-averse (real)", "log", "touch"]
    assert cells(known, "P&L") == ["-1.50", "+0.25", "+6.00"]
    assert cells(known, "Optimism") == ["", "+1.75", "+7.50"]
    assert [row.tones[5:] for row in known.rows()] == [["down", ""], ["up", "warn"], ["up", "warn"]]


def test_markets_of_one_asset_are_added_and_of_another_are_not():
    known = board(
        told(result("risk-averse", 1), result("touch", 2, 1)),
        told(result("log", 3), result("touch", 5, 2), exchange="high"),
        told(result("risk-averse", 9), exchange="eu", asset="EUR"),
    )

    assert cells(known, "Asset") == ["EUR", "USDT", "USDT"]
    assert cells(known, "Model") == ["risk-averse (real)", "log, risk-averse (real)", "touch"]
    assert cells(known, "P&L") == ["+9.00", "+4.00", "+7.00"]
    assert cells(known, "Orders filled") == ["2", "4", "4"]
    assert "the same 8 orders: P&L from +4.00 to +7.00 USDT (+4.00 real)" in known.summary()


def test_the_last_word_on_a_market_counts():
    known = board(told(result("risk-averse", 1)), told(result("risk-averse", 2), accepted=9))

    assert known.summary() == "the same 9 orders: P&L from +2.00 to +2.00 USDT (+2.00 real)"
