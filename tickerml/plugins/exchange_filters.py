"""
What an exchange holds against an order beside its size: a price too far from the average, and a crowd.

The average is that of the trades of the last minutes, weighted by what they traded, as Binance's filter
PERCENT_PRICE_BY_SIDE has it; of minutes it knows whole ones and the one that is under way. Where nothing
has traded for so long it is the price of the last trade, and before any trade the mid of the book.

Source: Binance, "Filters" of the spot API: PERCENT_PRICE_BY_SIDE, MAX_NUM_ORDERS.
"""

import msgspec

from tickerml.kernel import NS_PER_S, PPM, Instrument, OrderSubmitted, OrderType, Side, Trade

_MINUTE_NS = 60 * NS_PER_S


class AveragePrice(msgspec.Struct, array_like=True):
    """The trades of one symbol by the minute, kept only where a rule asks for them."""

    minutes: list[tuple[int, int, int]] = []  # minute, ticks times lots, lots
    last: int = 0  # ticks

    def take(self, rules: Instrument | None, trade: Trade, at: int) -> None:
        """Count *trade*, which happened at *at*, ns."""
        if rules is None or not _has_band(rules):
            return
        minute, traded, lots = at // _MINUTE_NS, 0, 0
        if self.minutes and self.minutes[-1][0] == minute:
            _, traded, lots = self.minutes.pop()
        self.minutes = [each for each in self.minutes if each[0] > minute - rules.average_minutes]
        self.minutes.append((minute, traded + trade.price * trade.quantity, lots + trade.quantity))
        self.last = trade.price

    def average(self, at: int, span: int, mid2: int) -> tuple[int, int]:
        """
        Return the average of the *span* minutes up to *at*, ns, as ticks times lots and lots.

        Args:
            mid2: twice the mid of the book, in ticks.
        """
        recent = [each for each in self.minutes if each[0] > at // _MINUTE_NS - span]
        if lots := sum(each[2] for each in recent):
            return sum(each[1] for each in recent), lots
        return (self.last, 1) if self.last else (mid2, 2)

    def refusal(self, rules: Instrument, order: OrderSubmitted, at: int, mid2: int) -> str:
        """Return why the price of *order* is too far from the average; "" where it is not."""
        if order.order_type is not OrderType.LIMIT or not _has_band(rules):
            return ""
        low, high = rules.buy_band_ppm if order.side is Side.BUY else rules.sell_band_ppm
        traded, lots = self.average(at, rules.average_minutes, mid2)
        share = order.price * lots * PPM
        if low * traded <= share and (not high or share <= high * traded):
            return ""
        limits = f"{low / PPM:g} to {high / PPM:g}" if high else f"at least {low / PPM:g}"
        average = f"the average price, {traded / lots:.1f} ticks"
        return f"a {order.side.name} must be at {limits} times {average}, was at {order.price}"


def crowd_refusal(rules: Instrument, count: int) -> str:
    """Return why an order is one too many beside the *count* that its account has open; "" if it is not."""
    if rules.max_orders and count >= rules.max_orders:
        return f"an account may have {rules.max_orders} orders open in {rules.symbol}, and {count} are"
    return ""


def _has_band(rules: Instrument) -> bool:
    return any(rules.buy_band_ppm) or any(rules.sell_band_ppm)
