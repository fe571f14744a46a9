"""A stream of operations on an account under all rules of risk, and what must hold after each."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel import (
    UNIT,
    Balance,
    CancelOrder,
    FeedSummarized,
    FundingUpdated,
    HaltTrading,
    Liquidity,
    MarkoutMeasured,
    Message,
    OrderCanceled,
    OrderDenied,
    OrderExpired,
    OrderRejected,
    OrderSubmitted,
    PortfolioSnapshot,
    Position,
    ResumeTrading,
    RiskVerdict,
    SequenceGap,
    Side,
    SubmitOrder,
    TimeInForce,
    TimeTick,
    TradingHalted,
    TradingResumed,
    catalog,
    registry,
)
from tickerml.kernel.gate import GATE, gate_spec
from tickerml.kernel.testing import Harness

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.risk import trading

S, MIN = trading.S, trading.MIN
Place = tuple[str, str]
SPOT: list[Place] = [("test", "BTC/USDT"), ("test", "ETH/USDT")]
PERP: Place = ("perp", "BTC/USDT:USDT")
PLACES = [*SPOT, PERP]
CENT = UNIT // 100  # a lot at a price of one tick, units: all money below is in these
MID = 1000
CASH = {"test": 700_000, "perp": 300_000}
SPECS = {
    plugin: registry.load(plugin)
    for plugin, found in sorted(catalog.find().plugins.items())
    if found.is_ours and found.manifest and found.manifest.kinds == ["risk_rule"]
}
#: Those that may be renamed: a stop's orders are named after it, and what is told of them names them.
PERMUTED = [name for name in SPECS if name != "risk-stops"]
#: So that a strategy without a record may stake enough for the other limits to matter, and a short
#: stream comes past the warm-ups.
OPTIONS: dict[str, dict[str, Any]] = {
    "risk-kelly": {"base_fraction": 0.25},
    "risk-markout": {"warmup_fills": 2},
    "risk-volatility": {"warmup_min": 2},
    "risk-correlation": {"warmup_min": 2},
    "risk-fat-finger": {"open_orders": 6},
}
LOOSE = {"asset": 0.40, "exchange": 0.40, "gross": 0.95, "contracts": 2.0, "min_cash": 0.10}
TIGHT = {"asset": 0.30, "exchange": 0.35, "gross": 0.25, "contracts": 0.15, "min_cash": 0.75}
MAX_POSITION, MAX_ORDER, MAX_DRAWDOWN = 0.25, 0.10, 0.25


def built(ranks: dict[str, int], is_tight: bool) -> Harness:
    """Return a gate and all rules, which answer by their *ranks*, those without one last."""
    of = TIGHT if is_tight else LOOSE
    options = OPTIONS | {
        "risk-exposure": {f"max_{name}": of[name] for name in ("asset", "exchange", "gross", "contracts")},
        "risk-limits": {"min_cash": of["min_cash"]},
    }
    ids = {name: f"{ranks[name]:02}-{name}" if name in ranks else name for name in SPECS}
    specs = [msgspec.structs.replace(SPECS[name], id=ids[name]) for name in SPECS]
    return Harness(
        *specs, gate_spec(list(ids.values())), options={ids[name]: each for name, each in options.items()}
    )


def decision(message: Message) -> tuple[str, str, int] | None:
    """Return what *message* says was decided: what, of which order, and how much; None where nothing."""
    if isinstance(message, OrderSubmitted | OrderDenied):
        return type(message).__name__, message.order_id, getattr(message, "quantity", 0)
    return None


def decided(tape: list[Message], permuted: list[str], cut: int, is_tight: bool) -> list[tuple[str, str, int]]:
    """Return what is decided about *tape* by rules that answer as *permuted*, restarted before *cut*."""
    ranks = {name: rank for rank, name in enumerate(permuted)}
    harness, outputs = built(ranks, is_tight), []
    for at, message in enumerate(tape):
        if at == cut:
            state = harness.bus.snapshot()
            harness = built(ranks, is_tight)
            harness.bus.restore(state)
            harness._inputs = at
        outputs += harness.send(message)
    return [found for each in outputs if (found := decision(each))]


class Live(NamedTuple):
    """An order that the gate has let pass, and what is open of it."""

    order: OrderSubmitted
    leaves: int
    worst: int  # the most that a lot may come to, ticks
    opens: bool  # whether it may make a position larger


class Stream:
    """The account, the exchange and the market that the rules hear of; play() is one operation."""

    def __init__(self, is_tight: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.tape: list[Message] = []
        self.decisions: list[tuple[str, str, int]] = []
        self._limits = TIGHT if is_tight else LOOSE
        self._harness = built({}, is_tight)
        self._now, self._number = S, 0
        self._mids = dict.fromkeys(PLACES, MID)
        self._cash, self._lots, self._cost = dict(CASH), dict.fromkeys(PLACES, 0), dict.fromkeys(PLACES, 0)
        self._live: dict[str, Live] = {}
        self._told_equity = self._told_contracts = 0  # what the rules know, and of what is on "perp"
        self._peak, self._breached, self._is_stopped = 0, 0, False
        self._level = 0
        self._doubted: set[Place] = set()  # books that are not to be trusted: a last mark counts instead
        self._send(trading.BTC, trading.ETH, trading.PERP)
        self._quote()
        self._tell_money()

    def play(self, step: bytes) -> None:
        """Do the operation that the bytes *step* stand for, and check what must hold after it."""
        kind, which, size = step[0] % 16, step[1], int.from_bytes(step[2:6])
        self._now += (1, S // 100, S // 20, S)[step[1] % 4]
        before, is_market = self._uses(), kind in (6, 7, 10)
        if kind < 6:
            self._order(which, size)
        elif kind < 8:
            self._move(which, size)
        elif kind == 8:
            self._fill(which, size)
        elif kind == 9:
            self._end(which, size)
        elif kind == 10:
            self._lose(size)
            self._tell_money()
        elif kind == 11:
            self._wait(size)
        elif kind < 14:
            self._quote()
        elif kind == 14:
            self._trouble(which, size)
        elif which % 8:
            self._send(ResumeTrading(self._now, "person", ""))
        else:
            self._send(HaltTrading(self._now, "person", "", 1 + size % 3))
        self._check_promises()
        if not is_market and not self._doubted:
            self._check_growth(before)

    # --- Operations ---------------------------------------------------------------------------

    def _order(self, which: int, size: int) -> None:
        exchange, symbol = place = PLACES[which % 3]
        side = (Side.BUY, Side.SELL)[which // 3 % 2]
        if place in SPOT and side is Side.SELL and not self._lots[place] and size & 3:
            side = Side.BUY  # there is nothing to sell
        price = self._mids[place] + (size >> 8) % 31 - 15 if size & 7 else MID + (size >> 8) % 300 - 150
        self._number += 1
        self._send(
            trading.order(
                1 + (size >> 16) % 200,
                max(1, price),
                side,
                ts=self._now,
                order_id=f"o-{self._number if size & 0xF0 else max(1, self._number - 1)}",
                strategy=f"s{which % 2}",
                symbol=symbol,
                exchange=exchange,
                force=(TimeInForce.GTC, TimeInForce.IOC)[size >> 4 & 1],
                reduce_only=which >= 200,
            )
        )

    def _move(self, which: int, size: int) -> None:
        reach = (3, 3, 3, 3, 3, 3, 12, 120)[which % 8]
        place = PLACES[which // 8 % 3]
        self._mids[place] = min(2000, max(500, self._mids[place] + size % (2 * reach + 1) - reach))
        self._quote(place)

    def _quote(self, *places: Place) -> None:
        for exchange, symbol in places or PLACES:
            self._doubted.discard((exchange, symbol))
            mid = self._mids[exchange, symbol]
            self._send(trading.touch(mid - 1, mid + 1, symbol=symbol, exchange=exchange, ts=self._now))

    def _fill(self, which: int, size: int) -> None:
        """A market may give what an order's price is not behind: a buy below the bid waits its turn."""
        fit = [each for each in self._live.values() if self._bid(_place(each.order)) <= each.order.price]
        if not fit:
            return
        live = fit[which % len(fit)]
        order, quantity = live.order, 1 + size % live.leaves if size & 1 else live.leaves
        quantity = min(quantity, live.leaves)
        leaves = live.leaves - quantity
        self._book_trade(_place(order), order.side, order.price, quantity)
        if leaves:
            self._live[order.order_id] = live._replace(leaves=leaves)
        else:
            del self._live[order.order_id]
        fill = trading.filled(
            quantity,
            order.price,
            order.side,
            ts=self._now,
            leaves=leaves,
            order_id=order.order_id,
            strategy=order.strategy,
            symbol=order.symbol,
            exchange=order.exchange,
        )
        self.counts["fills"] += 1
        self._send(fill)
        if size & 2:
            self._tell_money()

    def _book_trade(self, place: Place, side: Side, price: int, quantity: int) -> None:
        lots, cost = self._lots[place], self._cost[place]
        closing = min(quantity, abs(lots)) if lots * side < 0 else 0
        removed = cost * closing // abs(lots) if closing else 0
        opened = price * (quantity - closing)
        self._lots[place] = lots + side * quantity
        self._cost[place] = cost - removed + opened
        if place == PERP:  # money moves with the result alone
            self._cash["perp"] += -side * (price * closing - removed)
        else:
            self._cash[place[0]] -= side * price * quantity

    def _end(self, which: int, size: int) -> None:
        if not self._live:
            return
        order_id = sorted(self._live)[which % len(self._live)]
        live = self._live.pop(order_id)
        head = (self._now, self._now, order_id, *_place(live.order))
        ends: list[Message] = [
            OrderCanceled(*head, live.leaves, "asked"),
            OrderExpired(*head, live.leaves, "ioc"),
            OrderRejected(*head, "no"),
        ]
        self._send(ends[size % 3])

    def _wait(self, size: int) -> None:
        self._now += (S, 2 * S, 5 * S, 20 * S)[size % 4] if size % 32 else 5 * MIN
        self._send(TimeTick(self._now))
        self._quote()

    def _trouble(self, which: int, size: int) -> None:
        place = PLACES[which % 3]
        now = self._now
        makers: list[Message] = [
            SequenceGap(now, *place, 1, 2),
            FundingUpdated(now, now, *PERP, 1, 1, size % 10**10 - 5 * 10**9, 0, 0, 28_800),
            FeedSummarized(now, place[0], 100, size % 3, 0, 0, clock_offset_ns=size % (S // 2)),
            MarkoutMeasured(now, "o-1", 0, *place, Liquidity.MAKER, 10 * S, size % 12 - 9.0),
        ]
        if which // 3 % 4 == 0:
            self._doubted.add(place)
        self._send(makers[which // 3 % 4])

    def _lose(self, size: int) -> None:
        """Now and then an eighth of the money that nothing open needs is gone."""
        if size % 8 == 0:
            self._cash["test"] -= max(0, self._cash["test"] - self._open_buys()) // 8

    def _tell_money(self) -> None:
        balances = [Balance(name, "USDT", cash * CENT, 0) for name, cash in self._cash.items()]
        balances += [Balance(e, s.partition("/")[0], self._lots[e, s] * UNIT // 100, 0) for e, s in SPOT]
        positions = [
            Position(*place, lots, self._cost[place] * CENT, self._bid(place), 0, 0, 0)
            for place, lots in self._lots.items()
            if lots
        ]
        equity = sum(self._cash.values()) + sum(self._lots[p] * self._bid(p) for p in SPOT)
        equity += self._lots[PERP] * self._bid(PERP) - _sign(self._lots[PERP]) * self._cost[PERP]
        self._told_equity, self._told_contracts, value = equity, self._cash["perp"], equity * CENT
        head = (self._now, "paper", "USDT", value, value, value, 0, 0, 0, 0.0, 0.0, True)
        self._send(PortfolioSnapshot(*head, balances, positions))
        self._check_drawdown(equity)

    # --- What comes of them ---------------------------------------------------------------------

    def _send(self, *messages: Message) -> None:
        for message in messages:
            self.tape.append(message)
            outputs = self._harness.send(message)
            del self._harness.outputs[:]
            self.decisions += [found for each in outputs if (found := decision(each))]
            self._take(message, outputs)

    def _take(self, message: Message, outputs: list[Message]) -> None:
        before = self._level
        asked = [each for each in (message, *outputs) if isinstance(each, SubmitOrder)]
        self._check_answers(asked, outputs)
        for each in outputs:  # in the order in which they were published
            if isinstance(each, TradingHalted):
                assert each.level > self._level, "a halt went down by itself"
                self._level = each.level
                self.counts[f"halts by {each.source.removeprefix('risk-')}"] += 1
            elif isinstance(each, TradingResumed):
                assert isinstance(message, ResumeTrading), "nobody resumed"
                self._level = 0
            elif isinstance(each, OrderSubmitted):
                self._check_halt(each)
                opens = any(wish.order_id == each.order_id and not self._reduces(wish) for wish in asked)
                self._live[each.order_id] = Live(each, each.quantity, self._worst(each), opens)
                if opens:
                    self._check_limits(each)
        assert self._harness.bus.component(GATE).level == self._level
        if before < 2 <= self._level:
            told = {each.order_id for each in outputs if isinstance(each, CancelOrder)}
            assert told >= {name for name, live in self._live.items() if live.order.strategy != GATE}, (
                "a halt left an order open"
            )
        if isinstance(message, ResumeTrading) and self._is_stopped:
            self._peak, self._breached, self._is_stopped = self._told_equity, 0, False

    def _worst(self, order: OrderSubmitted) -> int:
        return max(order.price, self._bid(_place(order))) if order.side is Side.SELL else order.price

    def _bid(self, place: Place) -> int:
        return self._mids[place] - 1

    @staticmethod
    def _reduces(order: SubmitOrder) -> bool:
        return order.reduce_only or (order.side is Side.SELL and (order.exchange, order.symbol) in SPOT)

    def _uses(self) -> dict[str, int]:
        """Return what of each limit is used: positions at the bid, what may open more at its worst price."""
        uses: Counter[str] = Counter()
        stakes = [(place, abs(lots) * self._bid(place)) for place, lots in self._lots.items()]
        stakes += [
            (_place(live.order), live.worst * live.leaves) for live in self._live.values() if live.opens
        ]
        for (exchange, symbol), value in stakes:
            uses["contracts" if (exchange, symbol) == PERP else "gross"] += value
            uses[f"exchange {exchange}"] += value
            uses[f"asset {symbol.partition('/')[0]}"] += value
        return dict(uses)

    # --- What must hold -----------------------------------------------------------------------

    def _check_answers(self, asked: list[SubmitOrder], outputs: list[Message]) -> None:
        verdicts: dict[str, list[RiskVerdict]] = {}
        for each in outputs:
            if isinstance(each, RiskVerdict):
                verdicts.setdefault(each.order_id, []).append(each)
        answers = [each for each in outputs if isinstance(each, OrderSubmitted | OrderDenied)]
        for wish in asked:
            given = verdicts[wish.order_id]
            assert sorted(each.rule for each in given) == sorted(SPECS), "a rule answered not once"
            assert all(0 <= each.quantity <= wish.quantity for each in given), "a rule enlarged an order"
            (answer,) = (each for each in answers if each.order_id == wish.order_id)
            least = min(each.quantity for each in given)
            if isinstance(answer, OrderSubmitted):
                held_to_less = wish.reduce_only and answer.quantity < least
                assert 0 < answer.quantity == least or held_to_less, "what passed is not what all allow"
                self.counts["reduced" if answer.quantity < wish.quantity else "passed whole"] += 1
            else:
                self.counts[f"denied by {answer.rule.removeprefix('risk-')}"] += 1

    def _check_halt(self, order: OrderSubmitted) -> None:
        if order.strategy == GATE:
            assert self._level == 3, "the gate sold without being asked to"
        elif self._level:
            assert (self._level, order.strategy) == (1, "risk-stops"), "an order passed a halt"

    def _check_limits(self, order: OrderSubmitted) -> None:
        """Hold what has just passed, and may open something, to every limit."""
        equity, uses, limits = self._told_equity, self._uses(), self._limits
        place, base = _place(order), order.symbol.partition("/")[0]
        value = self._worst(order) * order.quantity
        assert value <= MAX_ORDER * equity, "max_order is broken"
        if self._doubted:
            return
        same = [p for p in PLACES if p[1].partition("/")[0] == base]
        net = sum(self._lots[p] * self._bid(p) for p in same) * order.side
        coming = sum(
            live.worst * live.leaves
            for live in self._live.values()
            if live.opens and _place(live.order) in same and live.order.side is order.side
        )
        assert net + coming <= MAX_POSITION * equity, "max_position is broken"
        kind = "contracts" if place == PERP else "gross"
        for name, limit in ((kind, kind), (f"exchange {place[0]}", "exchange"), (f"asset {base}", "asset")):
            assert uses[name] <= limits[limit] * equity, f"max_{limit} is broken"
        open_now = [each for each in self._live.values() if each.order.strategy == order.strategy]
        assert len(open_now) <= OPTIONS["risk-fat-finger"]["open_orders"], "too many are open"
        if order.side is Side.BUY and place in SPOT:
            # What closing a contract brought is in the account when the account says so.
            left = self._cash["test"] + self._told_contracts - self._open_buys()
            assert left >= limits["min_cash"] * equity, "min_cash is broken"

    def _open_buys(self) -> int:
        return sum(
            live.worst * live.leaves
            for live in self._live.values()
            if live.order.side is Side.BUY and live.order.exchange == "test"
        )

    def _check_promises(self) -> None:
        """What holds always: nothing is promised twice, and what is not there cannot be given."""
        assert self._open_buys() <= self._cash["test"], "cash is promised twice"
        for place in SPOT:
            offered = sum(
                live.leaves
                for live in self._live.values()
                if _place(live.order) == place and live.order.side is Side.SELL
            )
            assert 0 <= offered <= self._lots[place], "an inventory is promised twice"

    def _check_growth(self, before: dict[str, int]) -> None:
        """Where neither the market nor the equity moved, nothing grows beyond its limit."""
        for name, used in self._uses().items():
            limit = self._limits[name.partition(" ")[0]] * self._told_equity
            assert used <= max(limit, before.get(name, 0)), f"{name} grew to {used}, its limit is {limit}"

    def _check_drawdown(self, equity: int) -> None:
        """A quarter lost on two marks a second apart halts at level 3, whatever else is going on."""
        self._peak = max(self._peak, equity)
        if self._peak - equity < MAX_DRAWDOWN * self._peak:
            self._breached = 0
        elif not self._breached:
            self._breached = self._now
        elif self._now - self._breached >= S:
            self._is_stopped = True
        assert not self._is_stopped or self._level == 3, "a quarter is lost, and trading goes on"


def _place(order: OrderSubmitted) -> Place:
    return order.exchange, order.symbol


def _sign(lots: int) -> int:
    return (lots > 0) - (lots < 0)
