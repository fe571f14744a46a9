"""
NautilusTrader 1.231 on the files of market.py, for benchmarks/truth.py.

    PYTHON tests/oracles/nautilus.py --events E.csv --orders O.csv

runs in an environment that has it (Python 3.12 or newer, and nothing of ours), and prints as JSON what
became of the orders that were filled: lots, liquidity, first and last time and last price in ticks. Its
book is L2, its latency 50 ms, its queues are tracked (queue_position) unless --no-queue; --consume has it
remember what we took (liquidity_consumption).
"""

import argparse
import csv
import json
import subprocess
from decimal import Decimal
from pathlib import Path

LATENCY = 50_000_000
VERSION = "1.231.0"


def why_not(python: str) -> str:
    """Return why *python* cannot be asked, nothing where it can."""
    check = "from importlib.metadata import version; print(version('nautilus_trader'))"
    found = subprocess.run([python, "-c", check], capture_output=True, text=True).stdout.strip()
    if found == VERSION:
        return ""
    return f"{python} has nautilus_trader {found or 'not at all'}, and {VERSION} is compared with"


def ask(python: str, events: Path, orders: Path, *options: str) -> dict[str, list[object]]:
    """Return what it says in the environment of *python*."""
    command = [python, __file__, "--events", str(events), "--orders", str(orders), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answer: dict[str, list[object]] = json.loads(output.splitlines()[-1])
    return answer


def peer(events: Path, orders: Path, has_queue: bool, consumes: bool) -> dict[str, list[object]]:
    """Run Nautilus; return what became of the orders that were filled."""
    from nautilus_trader.backtest.config import BacktestEngineConfig
    from nautilus_trader.backtest.engine import BacktestEngine
    from nautilus_trader.backtest.models import LatencyModel
    from nautilus_trader.config import LoggingConfig, RiskEngineConfig, StrategyConfig
    from nautilus_trader.model.currencies import BTC, USDT
    from nautilus_trader.model.data import BookOrder, OrderBookDelta, TradeTick
    from nautilus_trader.model.enums import (
        AccountType,
        AggressorSide,
        BookAction,
        BookType,
        LiquiditySide,
        OmsType,
        OrderSide,
        TimeInForce,
    )
    from nautilus_trader.model.identifiers import ClientOrderId, InstrumentId, Symbol, TradeId, Venue
    from nautilus_trader.model.instruments import CurrencyPair
    from nautilus_trader.model.objects import Money, Price, Quantity
    from nautilus_trader.trading.strategy import Strategy

    rows, wishes = list(csv.DictReader(events.open())), list(csv.DictReader(orders.open()))
    tick, lot = (Decimal(1).scaleb(Decimal(rows[0][name]).as_tuple().exponent) for name in ("price", "qty"))
    venue = Venue("SIM")
    symbol = Symbol("BTCUSDT")
    instrument = CurrencyPair(
        InstrumentId(symbol, venue),
        symbol,
        BTC,
        USDT,
        -tick.as_tuple().exponent,
        -lot.as_tuple().exponent,
        Price.from_str(str(tick)),
        Quantity.from_str(str(lot)),
        0,
        0,
        maker_fee=Decimal(0),
        taker_fee=Decimal(0),
        margin_init=Decimal(0),
        margin_maint=Decimal(0),
    )

    def read(number, row):  # type: ignore[no-untyped-def]
        price, quantity, ts = Price.from_str(row["price"]), Quantity.from_str(row["qty"]), row["ts_exchange"]
        if row["kind"] == "trade":
            aggressor = AggressorSide.BUYER if row["side"] == "buy" else AggressorSide.SELLER
            made = TradeId(str(number))
            return TradeTick(instrument.id, price, quantity, aggressor, made, int(ts), int(ts))
        side = OrderSide.BUY if row["side"] == "bid" else OrderSide.SELL
        action = BookAction.UPDATE if float(row["qty"]) else BookAction.DELETE
        order = BookOrder(side, price, quantity, 0)
        return OrderBookDelta(instrument.id, action, order, 128, number, int(ts), int(ts))

    class Sends(Strategy):
        def on_start(self) -> None:
            for number, wish in enumerate(wishes):
                self.clock.set_time_alert_ns(f"send {number}", int(wish["ts"]), self.sends)
                if wish["cancel_ts"]:
                    self.clock.set_time_alert_ns(f"take {number}", int(wish["cancel_ts"]), self.takes_back)

        def sends(self, event) -> None:  # type: ignore[no-untyped-def]
            wish = wishes[int(event.name.split()[1])]
            order = self.order_factory.limit(
                instrument.id,
                OrderSide.BUY if wish["side"] == "buy" else OrderSide.SELL,
                Quantity.from_str(wish["qty"]),
                Price.from_str(wish["price"]),
                TimeInForce.IOC if wish["tif"] == "IOC" else TimeInForce.GTC,
                post_only=wish["tif"] == "GTX",
                client_order_id=ClientOrderId(wish["order_id"]),
            )
            self.submit_order(order)

        def takes_back(self, event) -> None:  # type: ignore[no-untyped-def]
            order = self.cache.order(ClientOrderId(wishes[int(event.name.split()[1])]["order_id"]))
            if order is not None and not order.is_closed:
                self.cancel_order(order)

        def on_order_filled(self, event) -> None:  # type: ignore[no-untyped-def]
            name, ts = event.client_order_id.value, event.ts_event
            lots = int(Decimal(str(event.last_qty)) / lot)
            liquidity = "maker" if event.liquidity_side == LiquiditySide.MAKER else "taker"
            one = found.setdefault(name, [0, liquidity, ts, ts, 0])
            one[0] += lots
            one[3], one[4] = ts, int(Decimal(str(event.last_px)) / tick)

    found: dict[str, list[object]] = {}
    engine = BacktestEngine(
        BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True)
        )
    )
    engine.add_venue(
        venue,
        OmsType.NETTING,
        AccountType.MARGIN,
        [Money(10**9, USDT), Money(10**6, BTC)],
        latency_model=LatencyModel(LATENCY),
        book_type=BookType.L2_MBP,
        queue_position=has_queue,
        liquidity_consumption=consumes,
    )
    engine.add_instrument(instrument)
    engine.add_data([read(number, row) for number, row in enumerate(rows, 1)])
    engine.add_strategy(Sends(StrategyConfig(strategy_id="SENDS-1")))
    engine.run()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--orders", type=Path, required=True)
    parser.add_argument("--no-queue", action="store_true")
    parser.add_argument("--consume", action="store_true")
    given = parser.parse_args()
    print(json.dumps(peer(given.events, given.orders, not given.no_queue, given.consume)))


if __name__ == "__main__":
    main()
