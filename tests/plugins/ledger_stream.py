"""
Random streams for the ledger: orders, fills, replacements, ends, funding and transfers, and its laws.

A stream is a list of steps; a step that the state does not allow (a fill of an order that has ended)
is skipped, so every list is a valid stream and shrinks well. The laws are numbered as in the ledger's
specification. The tests hold each of them to small streams, tests/campaigns/ledger.py all of them to
a million operations.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tickerml.kernel import (
    UNIT,
    Instrument,
    Liquidity,
    OrderFilled,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    to_units,
)
from tickerml.kernel.testing import instrument
from tickerml.plugins import ledger_linear
from tickerml.plugins.ledger import (
    ROUNDING_ALLOWANCE,
    Bucket,
    InsufficientFunds,
    Ledger,
    LedgerState,
    Transfer,
    buy_reserve,
)

FEE_PPM = 2600
LEVERAGE = 3
BTC = instrument("test", "BTC/USDT", taker_fee_ppm=FEE_PPM)
# Its notional does not come out even, so everything that rounds does.
ETH = instrument("test", "ETH/USDT", tick="0.00000001", lot="0.0000001", taker_fee_ppm=FEE_PPM)
PERP = Instrument(
    0,
    "perp",
    "BTC/USDT-PERP",
    "BTC",
    "USDT",
    to_units("0.01"),
    to_units("0.00001"),
    maker_fee_ppm=1000,
    taker_fee_ppm=FEE_PPM,
    contract="linear",
)
INSTRUMENTS = {traded.symbol: traded for traded in (BTC, ETH, PERP)}
OPENING = {("test", "USDT"): to_units("10000"), ("test", "BTC"): 0, ("perp", "USDT"): to_units("5000")}
EXCHANGES = ("test", "perp", "other")

Step = tuple[Any, ...]


def submitted(
    order_id: str,
    side: Side,
    quantity: int,
    price: int,
    symbol: str = "BTC/USDT",
    order_type: OrderType = OrderType.LIMIT,
    arrival_mid: int = 0,
) -> OrderSubmitted:
    head = (0, order_id, "s", "paper", INSTRUMENTS[symbol].exchange, symbol)
    return OrderSubmitted(*head, side, order_type, TimeInForce.GTC, price, quantity, arrival_mid)


def filled(
    order_id: str,
    fill: int,
    side: Side,
    quantity: int,
    price: int,
    *,
    symbol: str = "BTC/USDT",
    leaves: int = 0,
    fee: int | None = None,
    fee_asset: str = "USDT",
    ts_event: int = 0,
) -> OrderFilled:
    traded = INSTRUMENTS[symbol]
    charged = -(-traded.notional(price, quantity) * FEE_PPM // 10**6) if fee is None else fee
    head = (0, ts_event, order_id, fill, "s", "paper", traded.exchange, symbol, side, price, quantity, leaves)
    return OrderFilled(*head, Liquidity.TAKER, charged, fee_asset, 0, 0, 0, False, 0)


class Stream:
    """Plays steps onto a ledger, and remembers what it should then hold."""

    def __init__(self, check: Callable[["Stream"], None] = lambda stream: None) -> None:
        self.ledger = Ledger(OPENING, leverage=LEVERAGE)
        self.events: list[tuple[str, tuple[Any, ...]]] = []  # methods of the ledger, and what they were given
        self.symbols: dict[str, str] = {}  # by order
        self.ordered: dict[str, int] = {}  # lots, as last replaced
        self.filled: dict[str, int] = {}
        self.ended: set[str] = set()
        self.sent = self.arrived = self.withdrawn = self.funded = 0
        self._check = check

    def play(self, steps: list[Step]) -> "Stream":
        for step in steps:
            getattr(self, step[0])(*step[1:])
            self._check(self)
        return self

    def _do(self, method: str, *given: Any) -> Any:
        result = getattr(self.ledger, method)(*given)
        self.events.append((method, given))
        return result

    def _open(self, which: int) -> str | None:
        open_ids = list(self.ledger.state.reservations)
        return open_ids[which % len(open_ids)] if open_ids else None

    def order(self, symbol: str, side: Side, price: int, quantity: int) -> None:
        order = submitted(f"o{len(self.events)}", side, quantity, price, symbol)
        try:
            self._do("submit", order, INSTRUMENTS[symbol])
        except InsufficientFunds:
            return
        self.symbols[order.order_id] = symbol
        self.ordered[order.order_id], self.filled[order.order_id] = quantity, 0

    def trade(self, which: int, quantity: int, better: int, fee_in_base: bool) -> None:
        if (order_id := self._open(which)) is None:
            return
        entry, traded = self.ledger.reservation(order_id), INSTRUMENTS[self.symbols[order_id]]
        quantity = min(quantity, entry.leaves)
        in_base = fee_in_base and entry.side is Side.BUY and not traded.contract
        fill = filled(
            order_id,
            len(self.events),
            entry.side,
            quantity,
            max(1, entry.price - entry.side * better),
            symbol=traded.symbol,
            leaves=entry.leaves - quantity,
            fee=quantity * traded.lot_size // 1000 if in_base else None,
            fee_asset=traded.base if in_base else "USDT",
        )
        self._do("fill", fill, traded)
        self.filled[order_id] += quantity

    def cancel(self, which: int) -> None:
        if (order_id := self._open(which)) is not None:
            self._do("end", order_id)
            self.ended.add(order_id)

    def replace(self, which: int, price: int, leaves: int) -> None:
        if (order_id := self._open(which)) is None:
            return
        entry, traded = self.ledger.reservation(order_id), INSTRUMENTS[self.symbols[order_id]]
        leaves = min(leaves, 2 * entry.leaves)
        _, shortfall = self._do("replace", order_id, price, leaves, traded)
        self.ordered[order_id] = self.filled[order_id] + leaves
        if shortfall:  # no gate lets that happen; nothing more is known of such an order
            self.cancel(list(self.ledger.state.reservations).index(order_id))

    def fund(self, mark: int, rate: int) -> None:
        position = self.ledger.state.inventories.get(("perp", PERP.symbol))
        quantity = position.quantity if position else 0
        amount, _ = self._do("settle", PERP, len(self.events), quantity, mark, rate)
        self.funded += amount

    def send(self, source: str, destination: str, amount: int, fee: int) -> None:
        transfer = Transfer("USDT", source, destination, amount, 0)
        if source == destination or amount + fee > self.ledger.amount(source, "USDT"):
            return
        self._do("send", f"t{len(self.events)}", amount + fee, fee, transfer)
        self.sent += amount + fee
        self.withdrawn += fee

    def arrive(self, which: int) -> None:
        if in_flight := list(self.ledger.state.transfers.items()):
            key, transfer = in_flight[which % len(in_flight)]
            self._do("receive", key)
            self.arrived += transfer.received


def replay(events: list[tuple[str, tuple[Any, ...]]], ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger(OPENING, leverage=LEVERAGE)
    for method, given in events:
        getattr(ledger, method)(*given)
    return ledger


def restored(ledger: Ledger, encode: Callable[[Any], bytes], decode: Callable[..., Any]) -> Ledger:
    """Return *ledger* as a restart would."""
    return Ledger(state=decode(encode(ledger.state), type=LedgerState), leverage=LEVERAGE)


# --- The laws ---------------------------------------------------------------------------------------


def sums_to_zero(stream: Stream) -> None:
    assert set(stream.ledger.sums().values()) <= {0}


def nothing_on_spot_below_zero(stream: Stream) -> None:
    for balance in stream.ledger.balances():
        assert balance.held >= 0
        assert balance.margin >= 0
        assert balance.in_flight >= 0
        assert balance.free >= 0 or balance.exchange == "perp"


def held_is_reserved(stream: Stream) -> None:
    held: dict[tuple[str, str], int] = {}
    for order_id, entry in stream.ledger.state.reservations.items():
        traded = INSTRUMENTS[stream.symbols[order_id]]
        key = (entry.exchange, entry.asset)
        held[key] = held.get(key, 0) + entry.amount
        assert entry.leaves == stream.ordered[order_id] - stream.filled[order_id]
        if traded.contract:
            continue
        is_buy = entry.side is Side.BUY
        need = buy_reserve(traded, entry.price, entry.leaves, FEE_PPM) if is_buy else 0
        need += 0 if is_buy else entry.leaves * traded.lot_size
        assert need <= entry.amount <= need + (ROUNDING_ALLOWANCE if is_buy else 0)
    for exchange in EXCHANGES:
        for asset in ("BTC", "ETH", "USDT"):
            assert stream.ledger.amount(exchange, asset, Bucket.HELD) == held.get((exchange, asset), 0)


def ended_orders_hold_nothing(stream: Stream) -> None:
    for order_id in stream.ended:
        assert stream.ledger.reservation(order_id) is None
    done = [key for key, quantity in stream.ordered.items() if stream.filled[key] == quantity]
    assert all(stream.ledger.reservation(order_id) is None for order_id in done)


def fills_stay_within_orders(stream: Stream) -> None:
    for order_id, quantity in stream.ordered.items():
        is_open = stream.ledger.reservation(order_id) is not None
        assert stream.filled[order_id] <= quantity
        if order_id not in stream.ended:
            assert (stream.filled[order_id] == quantity) == (not is_open)


def parts_are_equity(stream: Stream, price: int = 6_000_000) -> None:
    ledger = stream.ledger
    parts = sum(amount for (_, asset), amount in OPENING.items() if asset == "USDT") - stream.withdrawn
    equity = sum(ledger.total(exchange, "USDT") for exchange in EXCHANGES)
    for inventory in ledger.inventories():
        traded = INSTRUMENTS[inventory.symbol]
        gain = ledger_linear.gain(traded, inventory.quantity, inventory.cost, price)
        parts += inventory.realized + gain - inventory.fees + inventory.funding
        equity += gain
        if not traded.contract:
            assert inventory.quantity == ledger.total("test", inventory.base)
            equity += inventory.cost
    assert parts == equity


def margin_secures_positions(stream: Stream) -> None:
    position = stream.ledger.state.inventories.get(("perp", PERP.symbol))
    cost = position.cost if position else 0
    assert stream.ledger.amount("perp", "USDT", Bucket.MARGIN) == -(-cost // LEVERAGE)
    assert cost > 0 if position and position.quantity else cost == 0


def transfers_conserve(stream: Stream) -> None:
    ledger = stream.ledger
    in_flight = sum(ledger.amount(exchange, "USDT", Bucket.IN_FLIGHT) for exchange in EXCHANGES)
    fees = sum(ledger.amount(exchange, "USDT", Bucket.WITHDRAWAL_FEE) for exchange in EXCHANGES)
    assert in_flight == sum(transfer.received for transfer in ledger.state.transfers.values())
    assert stream.sent == in_flight + stream.arrived + fees
    assert fees == stream.withdrawn
    assert ledger.amount("perp", "USDT", Bucket.FUNDING) == -stream.funded


#: Those that hold after every step, by their numbers.
LAWS: dict[str, Callable[[Stream], None]] = {
    "1": sums_to_zero,
    "2": nothing_on_spot_below_zero,
    "3": held_is_reserved,
    "4": ended_orders_hold_nothing,
    "5": fills_stay_within_orders,
    "6": parts_are_equity,
    "6, of derivatives": margin_secures_positions,
    "10": transfers_conserve,
}

# --- Strategies -------------------------------------------------------------------------------------

SYMBOLS = st.sampled_from(sorted(INSTRUMENTS))
PRICES = st.one_of(st.integers(1, 6_100_000), st.integers(5_900_000, 6_100_000))
LOTS = st.one_of(st.integers(1, 40), st.integers(1, 20_000_000), st.integers(1_000, 30_000))
WHICH = st.integers(0, 7)
ORDERS = st.tuples(st.just("order"), SYMBOLS, st.sampled_from(list(Side)), PRICES, LOTS)
TRADES = st.tuples(st.just("trade"), WHICH, LOTS, st.integers(0, 2_000), st.booleans())
CANCELS = st.tuples(st.just("cancel"), WHICH)
REPLACEMENTS = st.tuples(st.just("replace"), WHICH, PRICES, LOTS)
FUNDINGS = st.tuples(
    st.just("fund"), st.integers(5_000_000, 7_000_000), st.integers(-(10**10), 10**10).filter(bool)
)
SENDINGS = st.tuples(
    st.just("send"),
    st.sampled_from(EXCHANGES),
    st.sampled_from(EXCHANGES),
    st.integers(1, 1000 * UNIT),
    st.integers(0, 5 * UNIT),
)
ARRIVALS = st.tuples(st.just("arrive"), WHICH)
STEPS = st.one_of(ORDERS, ORDERS, TRADES, TRADES, TRADES, CANCELS, REPLACEMENTS, FUNDINGS, SENDINGS, ARRIVALS)
STREAMS = st.lists(STEPS, max_size=30)
