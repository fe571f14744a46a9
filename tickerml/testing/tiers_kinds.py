"""What each kind has to keep to, whatever it does: checked over everything that was said in a run."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import codec, topics
from tickerml.kernel import messages as m
from tickerml.kernel.alerts import Alert
from tickerml.kernel.book import OrderBook
from tickerml.kernel.dataset import QUARANTINE_NS, dataset_of
from tickerml.kernel.enums import Severity
from tickerml.kernel.hookspecs import FeatureSetSpec
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.runs import RUN_KEY, Run

from . import tape
from .contracts_rig import Rig, SourceRig, build, scratch
from .contracts_subject import Broken, Check, Subject, expect
from .tiers_conforms import DRIVEN, undisturbed

_ENDINGS = (m.OrderRejected, m.OrderCanceled, m.OrderExpired)


def _said(rig: Rig) -> Iterable[m.Message]:
    return (output.message for output in rig.outputs)


# --- Exchange ---------------------------------------------------------------------------------------


def books(subject: Subject) -> str:
    """After every change of a book the best bid is below the best ask, or it says BookCrossed."""
    said = list(_said(undisturbed(subject)))
    crossings = {(each.exchange, each.symbol, each.seq) for each in said if isinstance(each, m.BookCrossed)}
    known: dict[tuple[str, str], OrderBook] = {}
    updates = 0
    for message in said:
        if not isinstance(message, m.BookSnapshot | m.BookDelta):
            continue
        key = message.exchange, message.symbol
        book = known.setdefault(key, OrderBook(*key))
        if isinstance(message, m.BookSnapshot):
            book.apply_snapshot(message)
        else:
            book.apply_delta(message)
        updates += 1
        is_crossed = bool(book.best_bid and book.best_ask and book.best_bid >= book.best_ask)
        expect(
            not is_crossed or (*key, message.seq) in crossings,
            f"the book of {key} was crossed by {type(message).__name__} {message.seq}: "
            f"bid {book.best_bid}, ask {book.best_ask}, in ticks",
        )
    return f"{updates} updates of {len(known)} books"


def order_of_a_feed(subject: Subject) -> str:
    """Time never goes back, prices are on a known scale, and an exchange's numbers only rise."""
    last_ts, scales = 0, set[tuple[str, str]]()
    sequences: dict[tuple[str, ...], int] = {}
    for message in _said(undisturbed(subject)):
        name = type(message).__name__
        if message.ts_recv:
            expect(message.ts_recv >= last_ts, f"{name} was received at {message.ts_recv}, before {last_ts}")
            last_ts = message.ts_recv
        if isinstance(message, m.Instrument):
            expect(message.tick_size > 0 and message.lot_size > 0, f"{message} has no tick or no lot")
            scales.add((message.exchange, message.symbol))
        elif isinstance(message, m.BookSnapshot | m.BookDelta | m.Trade | m.Quote):
            key = message.exchange, message.symbol
            expect(key in scales, f"{name} of {key} came before its Instrument")
            stream = (*key, "trade" if isinstance(message, m.Trade) else "book")
            if not isinstance(message, m.BookSnapshot | m.Quote) and message.seq:
                expect(
                    message.seq >= sequences.get(stream, 0),
                    f"{name} {message.seq} of {key} came after {sequences.get(stream)}",
                )
                sequences[stream] = message.seq
    return f"{len(scales)} instruments"


# --- From features to orders --------------------------------------------------------------------------


def columns(subject: Subject) -> str:
    """Every row has a value for each column, under the plugin's own name, and none is infinite."""
    rig = undisturbed(subject)
    assert isinstance(rig.spec, FeatureSetSpec)
    names = rig.spec.columns
    has_rows = m.FeatureVector in rig.spec.publishes
    expect(
        bool(names) == has_rows and len(set(names)) == len(names),
        f"expected columns with names of their own, and none without a FeatureVector, was {names}",
    )
    rows = 0
    for row in _said(rig):
        if not isinstance(row, m.FeatureVector):
            continue
        values = row.unpack()
        rows += 1
        expect(len(values) == len(names), f"a row has {len(values)} values for {len(names)} columns")
        expect(row.feature_set == subject.id, f"feature_set is the plugin's id, was {row.feature_set!r}")
        wild = [name for name, value in zip(names, values, strict=True) if math.isinf(value)]
        expect(not wild, f"{', '.join(wild)} is infinite; what is not known is NaN")
    return f"{rows} rows of {len(names)} columns"


def orders(subject: Subject) -> str:
    """Each order has an id of its own, the plugin's name, a quantity, and a price only if it is LIMIT."""
    seen: set[str] = set()
    for order in _said(undisturbed(subject)):
        if isinstance(order, m.SubmitOrder):
            expect(order.order_id not in seen, f"order id {order.order_id!r} was used twice")
            seen.add(order.order_id)
            expect(order.strategy == subject.id, f"strategy is the plugin's id, was {order.strategy!r}")
            expect(
                order.quantity > 0, f"{order.order_id}: expected a positive quantity, was {order.quantity}"
            )
            is_priced = order.order_type is m.OrderType.LIMIT
            expect(
                (order.price > 0) == is_priced,
                f"{order.order_id}: a {order.order_type.value} order has {'a' if is_priced else 'no'} price, "
                f"was {order.price}",
            )
        elif isinstance(order, m.CancelOrder):
            expect(order.order_id in seen, f"it cancels {order.order_id!r}, which is not its own")
    return f"{len(seen)} orders"


def verdicts(subject: Subject) -> str:
    """Every order gets one verdict, and none allows more than was asked for."""
    asked: dict[str, int] = {}
    answered: set[str] = set()
    for message in undisturbed(subject).heard:
        if isinstance(message, m.SubmitOrder):
            asked[message.order_id] = message.quantity
        elif isinstance(message, m.RiskVerdict) and message.rule == subject.id:
            expect(message.order_id in asked, f"a verdict on {message.order_id!r}, which nobody asked for")
            expect(message.order_id not in answered, f"two verdicts on {message.order_id!r}")
            answered.add(message.order_id)
            quantity = asked[message.order_id]
            expect(
                0 <= message.quantity <= quantity,
                f"{message.order_id}: allowed {message.quantity} of {quantity} lots; a rule can only reduce",
            )
            expect(
                message.quantity == quantity or message.reason, f"{message.order_id} was cut without a reason"
            )
    silent = [order_id for order_id in asked if order_id not in answered]
    expect(not silent, f"no verdict on {silent[:1]}, and silence is a denial; answer in on_submit_order")
    return f"{len(answered)} verdicts"


def conserves(subject: Subject) -> str:
    """Fills and what is left add up to each order, no price is worse than asked, and an end is the end."""
    left: dict[str, int] = {}
    asked: dict[str, m.OrderSubmitted] = {}
    fills = 0
    for message in undisturbed(subject).heard:
        if isinstance(message, m.OrderSubmitted):
            left[message.order_id] = message.quantity
            asked[message.order_id] = message
        elif isinstance(message, m.OrderAccepted):
            expect(message.order_id in left, f"it accepted {message.order_id!r}, which is not open")
        elif isinstance(message, m.OrderFilled):
            fills += 1
            _check_fill(message, left, asked)
        elif isinstance(message, _ENDINGS):
            expect(message.order_id in left, f"{message.order_id!r} ended and was not open")
            rest, open_ = getattr(message, "leaves", left[message.order_id]), left.pop(message.order_id)
            expect(rest == open_, f"{message.order_id} ended with {rest} lots open of {open_}")
    return f"{len(asked)} orders, {fills} fills"


def _check_fill(fill: m.OrderFilled, left: dict[str, int], asked: dict[str, m.OrderSubmitted]) -> None:
    name = fill.order_id
    expect(name in left, f"{name!r} was filled and is not open")
    expect(0 < fill.quantity <= left[name], f"{name}: filled {fill.quantity} lots, open were {left[name]}")
    left[name] -= fill.quantity
    expect(fill.leaves == left[name], f"{name}: leaves {fill.leaves} lots, what is open is {left[name]}")
    order = asked[name]
    is_fair = order.order_type is m.OrderType.MARKET or order.side * (order.price - fill.price) >= 0
    expect(is_fair, f"{name}: filled at {fill.price}, its limit is {order.price}")
    expect(fill.side is order.side, f"{name}: filled on the other side")
    if not fill.leaves:
        del left[name]


# --- Stores, sinks ------------------------------------------------------------------------------------


def money(subject: Subject) -> str:
    """Of what a ledger says, the peak is the highest equity, and a drawdown is a fraction of it."""
    count = 0
    for each in _said(undisturbed(subject)):
        if isinstance(each, m.PortfolioSnapshot):
            count += 1
            expect(each.equity <= each.peak, f"equity {each.equity} is above its peak {each.peak}")
            expect(
                0 <= each.drawdown <= each.max_drawdown, f"drawdown {each.drawdown} of {each.max_drawdown}"
            )
            names = [(each.exchange, each.asset) for each in each.balances]
            expect(len(set(names)) == len(names), f"a balance is listed twice in {names}")
    return f"{count} snapshots"


def emits(subject: Subject) -> str:
    """It takes an alert of every severity, short or long, in any script, twice over."""
    taken = 0
    with scratch() as directory:
        component = build(subject, directory).component
        for severity in Severity:
            for title in ("halted", "交易已停止 — “halt”\n\t\0", "x" * 10_000):
                alert = Alert(1, severity, f"kit/{severity.value}", title, title)
                for _ in range(2):
                    try:
                        component.emit(alert)
                    except Exception as error:
                        raise Broken(f"emit() of {severity.value} {title[:20]!r} raised {error!r}") from error
                    taken += 1
    return f"{taken} alerts"


# --- Trainer ------------------------------------------------------------------------------------------


def quarantine(subject: Subject) -> str:
    """What it learns does not change by anything of the last 30 days: rows planted there are not seen."""
    past = tape.market_only(tape.generate(0, 200))
    cut = past[len(past) * 2 // 3].ts_recv
    clean = [message for message in past if message.ts_recv < cut]
    poison = [_poisoned(message) for message in past if message.ts_recv >= cut]
    with scratch() as directory:
        learned = [
            _fitted(subject, directory / name, rows, cut)
            for name, rows in (("clean", clean), ("poisoned", clean + poison))
        ]
    expect(learned[0] == learned[1], "what it learned changed with rows of the last 30 days")
    return f"{len(poison)} rows planted, none seen"


def _poisoned(message: m.Message) -> m.Message:
    changed: dict[str, Any] = {}
    if isinstance(message, m.Trade):
        changed = {"price": message.price * 1000}
    elif isinstance(message, m.BookSnapshot | m.BookDelta):
        changed = {"bids": b"", "asks": b""}
    return type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | changed)


def _write_run(run_dir: Path, rows: list[m.Message]) -> None:
    """Write the journal of a run in which *rows* came."""
    run_dir.mkdir(parents=True)
    frames = []
    for seq, message in enumerate(rows, 1):
        topic = topics.topic_of(message)
        output = codec.pack_output(topic, 1, 1, 0, seq, codec.encode(message))
        frames.append(codec.stamp(output, len(topic) + 1, seq, seq))
    writer = JournalWriter(run_dir / "journal", map_mb=64, commit_ms=1)
    writer.put_meta(
        RUN_KEY,
        msgspec.msgpack.encode(Run(profile="pc", number=1, fingerprint="", started_ns=rows[0].ts_recv)),
    )
    writer.start()
    writer.append(frames, [], [])
    writer.close()
    expect(writer.error is None, f"the kit could not write a journal: {writer.error}")


def _fitted(subject: Subject, home: Path, rows: list[m.Message], cut: int) -> str:
    """Return what it learns in a home with one earlier run of *rows*, 30 days after *cut*."""
    _write_run(home / "runs" / "pc" / "0001", rows)
    run_dir = home / "runs" / "pc" / "0002"
    rig = build(subject, run_dir)
    assert isinstance(rig, SourceRig)
    rig.dataset = dataset_of(home, run_dir, cut + QUARANTINE_NS)
    learned: list[object] = []
    for output in rig.finish().outputs:
        message = output.message
        if isinstance(message, m.ModelTrained):
            learned.append((message.sha256, message.metrics))  # its path is that of the directory
        else:
            learned.append(message)
    expect(any(isinstance(each, tuple) for each in learned), "it ended without ModelTrained")
    return repr(learned)


CHECKS = (
    Check("conforms.books", books, DRIVEN, ("exchange",)),
    Check("conforms.order", order_of_a_feed, DRIVEN, ("exchange",)),
    Check("conforms.columns", columns, DRIVEN, ("feature_set",)),
    Check("conforms.orders", orders, DRIVEN, ("strategy",)),
    Check("conforms.verdicts", verdicts, DRIVEN, ("risk_rule",)),
    Check("conforms.conserves", conserves, DRIVEN, ("simulator",)),
    Check("conforms.money", money, DRIVEN, ("store",)),
    Check("conforms.emits", emits, DRIVEN, ("sink",)),
    Check("conforms.quarantine", quarantine, DRIVEN, ("trainer",)),
)
