"""A market, an account and orders with round numbers, for the tests of the rules."""

from types import ModuleType
from typing import Any

from tickerml.kernel import (
    NS_PER_S,
    UNIT,
    Balance,
    Instrument,
    Liquidity,
    Message,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    PortfolioSnapshot,
    Position,
    RiskVerdict,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
)
from tickerml.kernel.testing import Harness, Market, instrument, spec_of

S = NS_PER_S
MIN = 60 * S
DEEP = 10**9

#: A lot is worth 1 USDT at a price of 100; no fees, so that the numbers are round.
BTC = instrument("test", "BTC/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)
ETH = instrument("test", "ETH/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)
AWAY = instrument("away", "BTC/USDT", tick="1", lot="0.01", maker_fee_ppm=0, taker_fee_ppm=0)
#: A linear perpetual of the same size.
PERP = Instrument(0, "perp", "BTC/USDT:USDT", "BTC", "USDT", UNIT, UNIT // 100, contract="linear")


def touch(
    bid: int = 100,
    ask: int = 101,
    *,
    symbol: str = "BTC/USDT",
    exchange: str = "test",
    ts: int = 1,
    deep: int = DEEP,
) -> Message:
    return Market(exchange, symbol).book(ts, bids=[(bid, deep)], asks=[(ask, deep)])


def position(lots: int, cost: int, *, symbol: str = "BTC/USDT", exchange: str = "test") -> Position:
    return Position(exchange, symbol, lots, cost * UNIT, 100, 0, 0, 0)


def money(
    ts: int,
    equity: int = 10_000,
    *positions: Position,
    cash: int | None = None,
    is_marked: bool = True,
    account: str = "paper",
) -> PortfolioSnapshot:
    value = equity * UNIT
    balances = [Balance("test", "USDT", (equity if cash is None else cash) * UNIT, 0)]
    balances += [
        Balance(p.exchange, p.symbol.partition("/")[0], p.quantity * UNIT // 100, 0)
        for p in positions
        if ":" not in p.symbol
    ]
    head = (ts, account, "USDT", value, value, value, 0, 0, 0, 0.0, 0.0, is_marked)
    return PortfolioSnapshot(*head, balances, list(positions))


def order(
    quantity: int = 100,
    price: int = 100,
    side: Side = Side.BUY,
    *,
    ts: int = 2,
    order_id: str = "o",
    strategy: str = "s",
    symbol: str = "BTC/USDT",
    exchange: str = "test",
    kind: OrderType = OrderType.LIMIT,
    force: TimeInForce = TimeInForce.GTC,
    reduce_only: bool = False,
) -> SubmitOrder:
    head = (ts, order_id, strategy, "paper", exchange, symbol, side, kind, force)
    return SubmitOrder(*head, price if kind is OrderType.LIMIT else 0, quantity, reduce_only)


def submitted(wish: SubmitOrder) -> OrderSubmitted:
    head = (wish.ts_recv, wish.order_id, wish.strategy, wish.account, wish.exchange, wish.symbol, wish.side)
    return OrderSubmitted(*head, wish.order_type, wish.time_in_force, wish.price, wish.quantity, 201)


def filled(
    quantity: int,
    price: int,
    side: Side = Side.BUY,
    *,
    ts: int = 3,
    leaves: int = 0,
    fee: int = 0,
    order_id: str = "o",
    strategy: str = "s",
    symbol: str = "BTC/USDT",
    exchange: str = "test",
    fee_asset: str = "USDT",
) -> OrderFilled:
    head = (ts, ts, order_id, 0, strategy, "paper", exchange, symbol, side)
    return OrderFilled(*head, price, quantity, leaves, Liquidity.TAKER, fee, fee_asset, 0, 0, 0, False, 0)


def rule(module: ModuleType, **options: Any) -> Harness:
    """The rule of *module* in a market in which everything is known, and nothing of an account."""
    kept = Harness(module, options={spec_of(module).id: options})
    kept.send(BTC, ETH, AWAY, PERP, touch(), touch(symbol="ETH/USDT"), touch(exchange="away"))
    kept.send(touch(symbol="BTC/USDT:USDT", exchange="perp"))
    return kept


def judge(kept: Harness, wish: SubmitOrder) -> RiskVerdict:
    (verdict,) = [answer for answer in kept.send(wish) if isinstance(answer, RiskVerdict)]
    return verdict


def until(ts: int, step: int = S, start: int = 0) -> list[Message]:
    """The time, and nothing else, up to *ts*."""
    return [TimeTick(at) for at in range(start, ts + 1, step)]
