"""A list of orders and a list of market events in one stretch, by the compiled core if it is wanted."""

from collections.abc import Iterable, Iterator

from tickerml.kernel import Instrument, OrderType, Side, TimeInForce

from . import core_peers, core_play
from . import core_state as cs
from .core_compile import is_available
from .core_player import COMPILED_LIMIT, Player
from .exchange_filters import own_refusal, post_only_refusal
from .queue_models import QueueChoice
from .simulate_run import SUBMIT, End, Filled, Tally, arrivals, messages_of
from .simulate_venues import PROFILES, TERMS, Happened, Row, Wish

#: From so many events on it is faster, once the compiled core is on the disk.
COMPILED_FROM = 200_000


def is_to_be_compiled(
    asked: bool | None, events: list[Row], wishes: list[Wish], lot: tuple[int, int]
) -> bool:
    """
    Return whether the compiled core is to play: as *asked*, else where that is faster.

    Raises: ValueError: it was asked for and cannot.
    """
    if asked is None:
        asked = len(events) >= COMPILED_FROM and is_available() and fits(events, wishes, lot)
    elif asked and not is_available():
        raise ValueError("--compiled wants numba, which is not installed: pip install 'tickerml[pc]'")
    elif asked and not fits(events, wishes, lot):
        raise ValueError(
            "--compiled wants every price and quantity below 2**40 steps, and these have more; "
            "leave it out, or take larger steps"
        )
    return asked


def fits(events: Iterable[Row], wishes: Iterable[Wish], lot: tuple[int, int]) -> bool:
    """Whether every number is small enough for the compiled core."""
    most = max((max(one.price, one.quantity) for many in (events, wishes) for one in many), default=0)
    return max(most * lot[0], lot[1]) < COMPILED_LIMIT


def run_block(
    profile: str,
    queue: QueueChoice,
    rules: Instrument,
    lot: tuple[int, int],
    events: list[Row],
    wishes: list[Wish],
    entry_ns: int,
    is_compiled: bool,
) -> tuple[list[Filled], list[End]]:
    """
    Do what simulate_run.run() does on a venue of *profile*, in one call of the core.

    Only what is rejected has a reason.
    """
    is_default = profile == "default"
    prevention = cs.CANCEL_NEWEST if is_default else cs.STP_NONE
    core = cs.new_core(queue.model, queue.power, prevention, PROFILES[profile], lot)
    core.head[cs.STATE] = cs.VALID
    messages, rows = market_of(events, is_default)
    commands = commands_of(wishes, entry_ns, is_default)
    told, tally = Player(core, is_compiled).play(messages, rows, commands), Tally(wishes, entry_ns)
    for e in range(0, len(told), core_play.TOLD):
        event = told[e : e + core_play.TOLD]
        tally.take_in([_happened(event, wishes, rules)], event[cs.OUT])
    return tally.fills, [tally.ends[wish.order_id] for wish in wishes]


def market_of(events: Iterable[Row], is_default: bool) -> tuple[list[int], list[int]]:
    """Return the messages and rows of core_play for *events*: by default those of one time go together."""
    messages, rows = list[int](), list[int]()
    groups: Iterator[list[Row]] = messages_of(events) if is_default else ([event] for event in events)
    for group in groups:
        at, first = group[0].ts, len(rows) // 2
        if group[0].kind == "trade":
            kind = core_play.HIT_BID + group[0].sides[0]
            sides = [[(group[0].price, group[0].quantity)], []]
        elif group[0].kind == "order":
            kind, sides = core_play.SINGLES, [[], []]
            for row in group:
                sides[0] += ((1 - 2 * row.sides[0], row.number), (row.price, row.quantity))
        else:
            kind, sides = _changes(group)
        rows += (number for levels in sides for level in levels for number in level)
        ts_event = 0 if group[0].kind == "trade" else at
        messages += (kind, at, ts_event, first, first + len(sides[0]))
    messages += (core_play.DELTA, 0, 0, len(rows) // 2, 0)
    return messages, rows


def _changes(group: list[Row]) -> tuple[int, list[list[tuple[int, int]]]]:
    # Which sides are emptied, and what is set on each after that.
    emptied, sides = 0, list[list[tuple[int, int]]]([[], []])
    for row in group:
        for side in row.sides:
            if row.kind == "clear":
                emptied |= 1 << side
                sides[side].clear()
            else:
                sides[side].append((row.price, row.quantity))
    if emptied:  # the last word on each level
        sides = [list(dict(levels).items()) for levels in sides]
    return emptied, sides


def commands_of(wishes: list[Wish], entry_ns: int, is_default: bool) -> list[int]:
    """Return the commands of core_play for *wishes*, which are numbered as they are listed."""
    commands = list[int]()
    for at, what, number, wish in arrivals(wishes, entry_ns):
        side = cs.BID if wish.side is Side.BUY else cs.ASK
        quantity = wish.quantity if what == SUBMIT else 0
        commands += (at, number, side, wish.price, quantity, _terms(wish, is_default), 0)
    return commands


def _terms(wish: Wish, is_default: bool) -> int:
    if wish.order_type is not OrderType.MARKET:
        return TERMS[wish.time_in_force]
    if is_default and wish.time_in_force is TimeInForce.FOK:
        return core_play.MARKET_FOK
    if is_default and wish.time_in_force is TimeInForce.POST_ONLY:
        return core_play.MARKET_POST_ONLY
    return core_peers.MARKET


def _happened(event: list[int], wishes: list[Wish], rules: Instrument) -> Happened:
    wish, kind, leaves = wishes[event[cs.E_NUMBER]], event[cs.E_KIND], event[cs.E_LEAVES]
    if kind == cs.FILLED:
        status, price, quantity = "open" if leaves else "filled", event[cs.E_PRICE], event[cs.E_QUANTITY]
        return Happened(wish.order_id, status, price, quantity, bool(event[cs.E_MAKER]))
    if kind == cs.REFUSED:
        return Happened(wish.order_id, "rejected", reason=_reason(event, wish, wishes, rules))
    return Happened(wish.order_id, _STATUS[kind])


_STATUS = {
    cs.RESTING: "open",
    cs.EXPIRED: "expired",
    cs.CANCELED: "canceled",
    cs.CANCELED_BY: "canceled",
    cs.DECREMENTED: "open",
}


def _reason(event: list[int], wish: Wish, wishes: list[Wish], rules: Instrument) -> str:
    why, best, other = event[cs.E_LEFT], event[cs.E_PRICE], event[cs.E_OTHER]
    if why == core_play.IN_DOUBT:
        return "nothing is matched on a book in doubt, and this one was crossed or one-sided"
    if why == core_play.NEVER_POST_ONLY:
        return "a market order takes, so it cannot be post-only"
    if why == core_play.WOULD_TAKE:
        return post_only_refusal(rules, wish.price, best)
    return own_refusal(rules, wish.price, wishes[other].order_id)
