"""
What an exchange holds against an order: its size, a price too far from the average, and a crowd.

The average is that of the trades of the last minutes, weighted by what they traded, as Binance's filter
PERCENT_PRICE_BY_SIDE has it; of minutes it knows whole ones and the one that is under way. Where nothing
has traded for so long it is the price of the last trade, and before any trade the mid of the book.

KuCoin asks something else of a price: an order may not trade its way through the book too far from the
best price of the other side. How far that is, is known from what is displayed. A limit order that would
go further is refused, and a market order stops there.

Sources: Binance, "Filters" of the spot API: PERCENT_PRICE_BY_SIDE, MAX_NUM_ORDERS. KuCoin, spot API, "Price
protection mechanisms" of order placement.
"""

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    PPM,
    BookState,
    Instrument,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    Trade,
    format_units,
)

from . import core_book
from . import core_state as cs

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
        limits = f"{low / PPM:g} to {high / PPM:g}" if high else f"no less than {low / PPM:g}"
        # A decimal more than prices have: an average lies between them.
        average = format_units(10 * traded // lots * rules.tick_size // 10)
        price = rules.price_text(order.price)
        return f"a {order.side.name} must be at {limits} times the average price {average}, was at {price}"


def size_refusal(rules: Instrument, order: OrderSubmitted, price: int) -> str:
    """Return why *order* is too small or too large at *price*, in ticks; "" where it is not."""
    quantity, was = order.quantity, rules.quantity_text(order.quantity)
    if quantity < rules.min_quantity:
        return f"quantity must be at least {rules.quantity_text(rules.min_quantity)}, was {was}"
    if 0 < rules.max_quantity < quantity:
        return f"quantity must be at most {rules.quantity_text(rules.max_quantity)}, was {was}"
    if price <= 0:
        return f"a limit order needs a price above 0, was {rules.price_text(price)}"
    if (notional := rules.notional(price, quantity)) < rules.min_notional:
        least, was = format_units(rules.min_notional), format_units(notional)
        return f"notional must be at least {least} {rules.quote}, was {was}"
    if 0 < rules.max_notional < notional:
        most, was = format_units(rules.max_notional), format_units(notional)
        return f"notional must be at most {most} {rules.quote}, was {was}"
    return ""


def can_rest(order: OrderSubmitted) -> bool:
    """Whether the terms of *order* let it wait in the book."""
    terms = (TimeInForce.GTC, TimeInForce.POST_ONLY)
    return order.order_type is OrderType.LIMIT and order.time_in_force in terms


def listing_refusal(rules: Instrument | None, order: OrderSubmitted) -> str:
    """Return why nothing like *order* can be matched in its symbol; "" where it can."""
    if rules is None:
        return f"{order.exchange} has not listed {order.symbol}"
    if rules.contract not in ("", "linear"):
        return f"only spot and linear contracts are simulated, and {order.symbol} is {rules.contract}"
    if rules.is_sampled and can_rest(order):
        return "a sampled book shows no queue to rest in: only IOC, FOK and MARKET orders are simulated"
    return ""


def doubt_refusal(state: BookState) -> str:
    """Return why nothing is matched on a book that cannot be trusted, and is *state*."""
    doubt = state if state is not BookState.VALID else "crossed or one-sided"
    return f"nothing is matched on a book in doubt, and this one was {doubt}"


def market_limit(rules: Instrument, side: Side, best: int, protection_bps: int) -> int:
    """Return the last price, in ticks, that a market order takes where the other side's best is *best*."""
    share = protection_bps * core_book.PPM_A_BPS
    if rules.price_limit_ppm:
        share = min(share, rules.price_limit_ppm)
    return core_book.worst_price(cs.BID if side is Side.BUY else cs.ASK, best, share)


def depth_refusal(core: cs.Core, rules: Instrument, order: OrderSubmitted) -> str:
    """Return why *order* would trade too far from the best price of the other side; "" where it would not."""
    if order.order_type is not OrderType.LIMIT or not rules.price_limit_ppm:
        return ""
    side = cs.ASK if order.side is Side.BUY else cs.BID
    best = core_book.best_price(core, side)
    last = market_limit(rules, order.side, best, PPM // core_book.PPM_A_BPS)
    if order.side * (order.price - last) <= 0 or order.side * (_reached(core, side, order) - last) <= 0:
        return ""
    share, stop, asked = rules.price_limit_ppm / PPM, rules.price_text(last), rules.price_text(order.price)
    limit = f"{share:.2%} from the other side's best price {rules.price_text(best)}, which is {stop}"
    return f"an order may not trade further than {limit}; at {asked} this one would"


def _reached(core: cs.Core, side: int, order: OrderSubmitted) -> int:
    # The worst price, in ticks, that *order* would trade at against what *side* displays.
    leaves, price = order.quantity, 0
    for i in range(core.head[cs.LEVELS + side] - 1, -1, -1):
        key = core.keys[side][i]
        if leaves <= 0 or order.side * (core_book.key_of(side, key) - order.price) > 0:
            break
        price, leaves = core_book.key_of(side, key), leaves - core.sizes[side][key]
    return price


def post_only_refusal(rules: Instrument, price: int, best: int) -> str:
    """Return why a post-only order at *price* is refused where the other side's best is *best*, in ticks."""
    asked, best_price = rules.price_text(price), rules.price_text(best)
    return f"post-only at {asked} would take: the other side's best was {best_price}"


def own_refusal(rules: Instrument, price: int, other: str) -> str:
    """Return why a post-only order at *price*, in ticks, is refused where its account's *other* rests."""
    return f"post-only at {rules.price_text(price)} would take our own order {other}"


def crowd_refusal(rules: Instrument, count: int) -> str:
    """Return why an order is one too many beside the *count* that its account has open; "" if it is not."""
    if rules.max_orders and count >= rules.max_orders:
        return f"an account may have {rules.max_orders} orders open in {rules.symbol}, and {count} are"
    return ""


def _has_band(rules: Instrument) -> bool:
    return any(rules.buy_band_ppm) or any(rules.sell_band_ppm)
