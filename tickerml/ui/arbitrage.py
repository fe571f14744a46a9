"""
What the console knows of arbitrage and funding: opportunities, pairs of legs, and what perpetuals pay.

As in state.py everything is bounded, and texts are made here. Totals are since the console began to
read; the rows are the last so many.
"""

from collections import Counter, OrderedDict, deque
from datetime import UTC, datetime

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    UNIT,
    ArbitrageEnded,
    ArbitrageSeen,
    FundingUpdated,
    Instrument,
    LegsSettled,
    Position,
)

from .rows import Row, signed, tone_of

OPPORTUNITIES_KEPT = 200
SETTLED_KEPT = 100
DAY_S = 86_400
HIGH, HIGHER = 10**9, 5 * 10**9  # 0.1 % and 0.5 % of the notional for an interval

OPPORTUNITIES = (
    ("First seen", ""),
    ("Asset", ""),
    ("Buy", ""),
    ("Sell", ""),
    ("Quantity", "r num"),
    ("Funded", "r num"),
    ("Gross", "r num"),
    ("Net", "r num"),
    ("Theta", "r num"),
    ("Profit", "r num"),
    ("Lifetime", "r num"),
    ("Could be had", ""),
)
LEGS = (
    ("Settled", ""),
    ("Asset", ""),
    ("Pair", ""),
    ("Outcome", ""),
    ("Bought", "r num"),
    ("Sold", "r num"),
    ("Expected", "r num"),
    ("Legs", "r num"),
    ("Leg risk", "r num"),
    ("Together", "r num"),
    ("Left", "r num"),
    ("Took", "r num"),
)
FUNDING = (
    ("Exchange", ""),
    ("Symbol", ""),
    ("Rate", "r num"),
    ("Predicted", "r num"),
    ("A day", "r num"),
    ("Every", "r num"),
    ("Next payment", "r num"),
    ("Position", "r num"),
    ("Accrued", "r num"),
    ("Booked", "r num"),
)


class _Opportunity:
    def __init__(self, seen: ArbitrageSeen) -> None:
        self.first = self.last = seen
        self.end: ArbitrageEnded | None = None


class ArbitrageBoard:
    """The content of the page Arbitrage & Funding."""

    def __init__(self) -> None:
        self.version = 0  # rises with every change
        self._opportunities: OrderedDict[str, _Opportunity] = OrderedDict()
        self._settled: deque[LegsSettled] = deque(maxlen=SETTLED_KEPT)
        self._funding: dict[tuple[str, str], FundingUpdated] = {}
        self._counts: Counter[str] = Counter()
        self._money: dict[str, list[int]] = {}  # quote -> what legs and leg risk came to

    def take(self, message: ArbitrageSeen | ArbitrageEnded | LegsSettled | FundingUpdated) -> None:
        """Take one message."""
        self.version += 1
        match message:
            case ArbitrageSeen():
                self._see(message)
            case ArbitrageEnded():
                self._counts["ended"] += 1
                self._counts["capturable"] += message.is_capturable
                if known := self._opportunities.get(message.opportunity):
                    known.end = message
            case LegsSettled():
                self._settled.append(message)
                self._counts[message.outcome] += 1
                money = self._money.setdefault(message.quote, [0, 0])
                money[0] += message.legs
                money[1] += message.unwinding
            case FundingUpdated():
                self._funding[message.exchange, message.symbol] = message

    def _see(self, seen: ArbitrageSeen) -> None:
        if known := self._opportunities.get(seen.opportunity):
            known.last = seen
            return
        self._counts["found"] += 1
        self._opportunities[seen.opportunity] = _Opportunity(seen)
        if len(self._opportunities) > OPPORTUNITIES_KEPT:
            self._opportunities.popitem(last=False)

    # --- Out ------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return one line on opportunities: how many there were, and how many one could have had."""
        counts = self._counts
        return f"{counts['found']:,} found · {counts['ended']:,} over · {counts['capturable']:,} could be had"

    def legs_summary(self) -> str:
        """Return one line on pairs of legs: what both sides came to, and what leg risk did, by quote."""
        money = [
            f"legs {signed(legs)} {quote}, leg risk {signed(unwinding)} {quote}"
            for quote, (legs, unwinding) in sorted(self._money.items())
        ]
        pairs = sum(self._counts[each] for each in ("both", "repaired", "unwound", "left", "none"))
        return " · ".join([f"{pairs:,} pair{'s' if pairs != 1 else ''}", *money])

    def opportunity_rows(self) -> list[Row]:
        """Return the opportunities, newest first, in the columns of OPPORTUNITIES."""
        return [_opportunity_row(each) for each in reversed(self._opportunities.values())]

    def legs_rows(self) -> list[Row]:
        """Return the pairs that are settled, newest first, in the columns of LEGS."""
        return [_legs_row(each) for each in reversed(self._settled)]

    def funding_rows(
        self,
        now_ns: int,
        positions: dict[tuple[str, str], Position],
        instruments: dict[tuple[str, str], Instrument],
    ) -> list[Row]:
        """
        Return what each perpetual pays, in the columns of FUNDING.

        Args:
            now_ns: the time of the market, to count down from.
        """
        return [
            _funding_row(self._funding[key], now_ns, positions.get(key), instruments.get(key))
            for key in sorted(self._funding)
        ]


def _opportunity_row(opportunity: _Opportunity) -> Row:
    seen, end = opportunity.last, opportunity.end
    net = end.best_net if end else seen.net
    lifetime = (end.last_ts if end else seen.ts_recv) - seen.first_ts
    chance, tone = "open", ""
    if end is not None:
        chance, tone = (f"yes, {signed(end.captured)}", "up") if end.is_capturable else ("no", "down")
    through = f" via {seen.fx_symbol}" if seen.fx_symbol else ""
    cells = [
        _clock(seen.first_ts),
        seen.base,
        f"{seen.buy_exchange} {seen.buy_symbol}",
        f"{seen.sell_exchange} {seen.sell_symbol}{through}",
        _amount(opportunity.first.quantity),
        _amount(seen.funded),
        f"{seen.gross_bps:.1f} bps",
        f"{end.best_net_bps if end else seen.net_bps:.1f} bps",
        f"{seen.theta_bps:.1f} bps",
        f"{signed(net)} {seen.quote}",
        f"{lifetime / NS_PER_MS:,.0f} ms" if lifetime < 10 * NS_PER_S else f"{lifetime / NS_PER_S:,.1f} s",
        chance,
    ]
    return Row(seen.opportunity, cells, "", [""] * 11 + [tone])


def _legs_row(settled: LegsSettled) -> Row:
    total = settled.legs + settled.unwinding
    cells = [
        _clock(settled.ts_recv),
        settled.base,
        settled.pair.partition("@")[0],
        settled.outcome,
        _amount(settled.bought),
        _amount(settled.sold),
        signed(settled.expected),
        signed(settled.legs),
        signed(settled.unwinding),
        f"{signed(total)} {settled.quote}",
        _amount(settled.left),
        f"{(settled.ts_recv - settled.started_ts) / NS_PER_MS:,.0f} ms",
    ]
    is_left = settled.outcome == "left"
    tones = [""] * 3 + ["down" if is_left else ""] + [""] * 3
    tones += [tone_of(settled.legs), tone_of(settled.unwinding), tone_of(total), "down" if is_left else ""]
    return Row(settled.pair, cells, "", tones)


def _funding_row(
    funding: FundingUpdated, now_ns: int, position: Position | None, instrument: Instrument | None
) -> Row:
    daily = funding.rate * DAY_S // funding.interval_s if funding.interval_s else 0
    size = abs(funding.rate)
    tone = "down" if size >= HIGHER else "warn" if size >= HIGH else ""
    held = "–"
    if position and position.quantity and instrument:
        held = f"{_amount(position.quantity * instrument.lot_size)} {instrument.base}"
    cells = [
        funding.exchange,
        funding.symbol,
        _percent(funding.rate),
        _percent(funding.predicted) if funding.predicted else "–",
        _percent(daily) if daily else "–",
        f"{funding.interval_s / 3600:g} h" if funding.interval_s else "–",
        _countdown(funding.next_ts - now_ns) if funding.next_ts else "–",
        held,
        signed(position.accrued) if position else "–",
        signed(position.funding) if position else "–",
    ]
    tones = ["", "", tone]
    return Row(f"{funding.exchange} {funding.symbol}", cells, "", tones)


def _percent(units: int) -> str:
    return f"{units / UNIT:+.4%}"


def _countdown(left_ns: int) -> str:
    if left_ns <= 0:
        return "due"
    hours, rest = divmod(left_ns // NS_PER_S, 3600)
    return f"in {hours}:{rest // 60:02}:{rest % 60:02}"


def _amount(units: int) -> str:
    return f"{units / UNIT:,.6f}".rstrip("0").rstrip(".")


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts / NS_PER_S, UTC).strftime("%H:%M:%S")
