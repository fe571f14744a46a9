"""
Write docs/reference from the code, so that neither can say what the other does not.

    python docs/generate.py            write the pages, and the files that other pages show
    python docs/generate.py --check    exit 1 and name the pages that are not what the code says

A page is a function that returns its text. What the code cannot say, one sentence for each
log event, stands in EVENTS below; a test holds it to the events that the code really logs.
"""

import argparse
import ast
import enum
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
import typer

from tickerml.kernel import (
    Context,
    Timer,
    alerts,
    clock,
    config,
    dataset,
    enums,
    errors,
    hookspecs,
    manifest,
    messages,
    registry,
    testing,
    topics,
)
from tickerml.kernel.book import BookSide, OrderBook
from tickerml.kernel.gate import GATE, GateSpec
from tickerml.kernel.hookspecs import HOOKS, PluginSpec, TickerMLSpecs
from tickerml.kernel.localbus import handler_name
from tickerml.plugins import calibrate, data, parity, portfolio_command, simulate, tca, tournament, why
from tickerml.testing import tiers
from tickerml.testing.contracts_subject import LADDER, Check
from tickerml.ui import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tickerml"
DOCS = ROOT / "docs"

#: What each log event tells its reader.
EVENTS = {
    "bar.print_late": "A print came when the bar of its interval had been published; it is in none.",
    "bus.burst_refused": "The kernel was pushed bytes that are not a burst of frames; they were dropped.",
    "bus.message_skipped": "A host was sent a message that it cannot read; it went on without it.",
    "canary.lost": "A host does not hand back the number that crosses the whole pipeline every second.",
    "canary.returned": "A host hands the number that crosses the pipeline back again.",
    "change.began": "A change of plugins has begun: its number, why, and the hosts it touches.",
    "change.ended": "A change of plugins is permanent or rolled back, and in the latter case why.",
    "console.began_again": "What the console showed no longer holds, or is too old; it starts afresh.",
    "console.fell_behind": "The console was sent more than it took, and reads the rest from the journal.",
    "console.message_skipped": "The console met a message that it could not show, and went on.",
    "console.password_created": "A first operator password was made and written to this file.",
    "console.reading_failed": "The console could not read the bus or the journal; it tries again.",
    "console.started": "The console answers at this address.",
    "dataset.journal_skipped": "An earlier run's journal cannot be opened; a trainer learns without it.",
    "feed.audit_failed": "A book is not what REST says; the second time in a row it is fetched anew.",
    "feed.book_audited": "A book was compared with what REST says of it, and is the same.",
    "feed.channel_lost": "Trades or quotes of a pair have stopped while its book goes on; it connects anew.",
    "feed.channel_resumed": "A channel that was lost speaks again.",
    "feed.checksum_failed": "Our book is not the exchange's, by its checksum; untrusted until it comes anew.",
    "feed.connected": "An exchange's feed is up and subscribed.",
    "feed.frame_skipped": "A frame did not follow the exchange's format; it was counted and left out.",
    "feed.gap_seen": "An update is missing; the book is untrusted until its next snapshot.",
    "feed.lost": "A feed is down: its books are untrusted until it is back.",
    "feed.request_failed": "A REST request failed and will be repeated.",
    "feed.resynced": "A book is whole again after a gap or a loss.",
    "feed.snapshot_refused": "The exchange did not give a book; the symbol stays untrusted until it does.",
    "feed.summarized": "What a feed has seen, once a minute instead of a line a message.",
    "feed.symbols_unlisted": "The exchange does not list these symbols; the others are followed.",
    "host.caught_up": "A host that was late is with the others again.",
    "host.checkpoint_refused": "A checkpoint could not be taken back; the one before it is tried.",
    "host.failed": "A host cannot run at all; it is quarantined.",
    "host.fell_behind": "A host was sent more than it took, and reads the rest from the journal.",
    "host.fell_late": "A host takes messages more than a second after they were ordered.",
    "host.joined_late": "A new host found no state to take the books from; it starts with what comes now.",
    "host.started": "A host has restored its state, caught up and is ready.",
    "host.stopped": "A host's process is gone; restart_in_ms is -1 when it stays so.",
    "journal.checkpoint_damaged": "A stored checkpoint is damaged; the one before it is used.",
    "journal.checkpoints_lost": "No checkpoint of a host is whole; it is rebuilt from the whole journal.",
    "journal.clock_jumped": "The clock went ahead by over an hour; nothing is pruned for hot_hours.",
    "journal.cut": "A damaged end of the journal was cut off; what it was lies in a file beside it.",
    "journal.damage_found": "A part of the journal is damaged.",
    "journal.failed": "The journal cannot be written; nothing is accepted until it can.",
    "journal.grown": "The journal's file has become larger than its map, which was doubled.",
    "journal.kept_mended": "What was damaged of what is kept for good was written again, or left out.",
    "journal.recovered": "The journal can be written again, and what waited is.",
    "journal.salvaged": "What could be read of a broken journal was copied into a new one.",
    "kernel.started": "Every host is ready and the sources have been let go.",
    "kernel.state_changed": "What `status` says of the whole has changed, for this reason.",
    "kernel.stood_still": "The kernel did not run for so long; no host is blamed for its silence then.",
    "kernel.stop_forced": "A step of the clean stop took more than 20 s; these hosts were killed.",
    "kernel.stopping": "A clean stop has begun, for this reason.",
    "order.denied": "The gate turned an order away; rule says who wanted that.",
    "order.filled": "Part or all of an order traded; prices in ticks, quantities in lots.",
    "order.repeated": "An order id came twice; the simulator ignored the second.",
    "plugin.failed": "A plugin raised and was set aside; the others go on.",
    "plugin.warned": "A plugin runs although something in its manifest is not as it should be.",
    "plugin.observer_failed": "A plugin's observing hook raised; nothing else came of it.",
    "portfolio.liquidated": "An exchange closed a perpetual by force: what secured it was too little.",
    "portfolio.funding_pending": "A funding payment is not booked: its rate or mark was never told.",
    "portfolio.reservation_failed": "An order wants more than the account has; nothing was reserved for it.",
    "risk.halted": "Trading is halted until a person resumes it.",
    "risk.resumed": "A person lifted the halt.",
    "swap.rolled_back": "The process that was there before goes on: in which step that was decided, and why.",
    "swap.taken_over": "Another process goes on from a host's state; `gap_ms` is from the barrier to that.",
    "tape.block_sealed": "A block of market data was written to the tape.",
    "tape.pruned": "The oldest blocks of the tape were taken off it, by its days or its budget.",
    "transfer.denied": "The gate turned a transfer away; reason says why.",
    "watchdog.not_told": "Whoever watches over the kernel could not be told something; told once a time.",
}

#: The unit of every number in a message, by field; where a name means two things, by "Message.field".
UNITS = {
    **dict.fromkeys(("ts_recv", "ts_event", "ts", "next_ts"), "ns UTC"),
    **dict.fromkeys(("horizon_ns", "wait_ns", "entry_ns"), "ns"),
    **dict.fromkeys(("retry_in_ms", "silent_ms", "restart_in_ms"), "ms"),
    **dict.fromkeys(("price", "bid", "ask", "mark"), "ticks"),
    **dict.fromkeys(
        ("quantity", "bid_quantity", "ask_quantity", "min_quantity", "max_quantity", "leaves", "queue_ahead"),
        "lots",
    ),
    **dict.fromkeys(("bids", "asks"), "packed pairs of ticks and lots"),
    "BookOrders.orders": "packed: side, number, ticks, lots",
    **dict.fromkeys(("arrival_mid", "fill_mid", "TournamentMeasured.mid2"), "half ticks: bid + ask"),
    **dict.fromkeys(("TournamentMeasured.accepted", "ModelResult.orders"), "orders"),
    "ModelResult.fills": "fills",
    "ModelResult.position": "lots",
    **dict.fromkeys(
        [f"ModelResult.{name}" for name in ("notional", "fees", "pnl", "optimism")], "1e-12 of asset"
    ),
    "tick_size": "1e-12 of quote",
    "lot_size": "1e-12 of base",
    "min_notional": "1e-12 of quote",
    **dict.fromkeys(("maker_fee_ppm", "taker_fee_ppm"), "millionths of the notional"),
    "fee": "1e-12 of fee_asset",
    **dict.fromkeys(("equity", "peak", "opening", "realized", "unrealized", "fees"), "1e-12 of currency"),
    **dict.fromkeys(("Position.realized", "Position.unrealized", "Position.fees", "cost"), "1e-12 of quote"),
    **dict.fromkeys(("free", "held", "margin", "in_flight", "amount", "received"), "1e-12 of asset"),
    **dict.fromkeys(
        ("funding", "withdrawal_fees", "accrued", "cash", "unrealized_value"), "1e-12 of currency"
    ),
    **dict.fromkeys(("Position.funding", "Position.accrued", "Position.margin"), "1e-12 of quote"),
    **dict.fromkeys(("TransferStarted.fee",), "1e-12 of asset"),
    **dict.fromkeys(
        [f"PositionLiquidated.{name}" for name in ("realized", "fee", "collateral", "required")],
        "1e-12 of asset",
    ),
    **dict.fromkeys(("buy_band_ppm", "sell_band_ppm"), "millionths of the average price"),
    "average_minutes": "min",
    "max_orders": "orders",
    "max_notional": "1e-12 of quote",
    "entry_fees_ppm": "millionths",
    "price_limit_ppm": "millionths of the other side's best price",
    "confidence": "fraction",
    "arrives_ts": "ns UTC",
    **dict.fromkeys(("drawdown", "max_drawdown"), "fraction of the peak"),
    "markout_bps": "1e-4 of the fill's price",
    "fraction": "of the most that may be held",
    "LegsSettled.expected": "1e-12 of quote",
    "level": "of the kill switch: a HaltLevel",
    **dict.fromkeys(("seq", "expected", "was"), "the exchange's own number"),
    **dict.fromkeys(("messages", "skipped", "gaps", "crossed_books", "books", "valid_books"), "count"),
    **dict.fromkeys(("parsed", "crossed", "checksums_ok", "checksums_bad"), "count"),
    "reasons": "count by reason",
    "streams": "counts by symbol",
    "clock_offset_ns": "ns",
    "interval_s": "s",
    **dict.fromkeys(("ChecksumFailed.expected", "ChecksumFailed.was"), "CRC32"),
    "index": "ticks",
    **dict.fromkeys(("open", "high", "low", "close"), "ticks"),
    "volume": "lots",
    "vwap": "1e-6 ticks",
    "trades": "count",
    "DataAnomaly.count": "count",
    **dict.fromkeys(("DataAnomaly.value", "DataAnomaly.limit"), "as the kind says: see Anomaly"),
    **dict.fromkeys(("age_ns", "gap_ns", "latency_ns"), "ns"),
    **dict.fromkeys(("rate", "predicted", "cap", "floor"), "1e-12 of the notional"),
    **dict.fromkeys(("buy_price", "sell_price", "fx_price"), "ticks"),
    **dict.fromkeys(("bought", "sold", "left", "funded", "ArbitrageSeen.quantity"), "1e-12 of base"),
    **dict.fromkeys(("gross", "net", "best_net", "captured", "legs"), "1e-12 of quote"),
    **dict.fromkeys(("unwinding", "left_cost", "LegsSettled.fees"), "1e-12 of quote"),
    **dict.fromkeys(("gross_bps", "net_bps", "best_net_bps", "theta_bps"), "1e-4 of what is sold"),
    **dict.fromkeys(("first_ts", "last_ts", "started_ts"), "ns UTC"),
    "depth_left": "lots",
    "fill_spread": "ticks: ask - bid",
    "orders_ahead": "orders, estimated",
    "fill": "number of the fill within its order, from 0",
    "step": "number of the step, from 1",
    **dict.fromkeys(("session", "number", "epoch"), "number, from 1"),
    "pid": "process id",
    "values": "packed float64, in the units of the columns",
    **dict.fromkeys(("metrics", "inputs"), "as whoever publishes it says"),
}

OBSERVERS = ("tickerml_component_state", "tickerml_diagnostics")
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
HEADER = "<!-- Written by docs/generate.py from the code; change the code and run `make docs`. -->\n"


# --- Markdown -------------------------------------------------------------------------------------


def page(title: str, introduction: str, *sections: str) -> str:
    """Return a whole page."""
    return "\n".join([HEADER, f"# {title}\n", introduction.strip() + "\n", *sections]).rstrip() + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, and a bar within one is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def prose(text: str) -> str:
    """Return a paragraph written over several lines as one, which is how Markdown likes it."""
    return " ".join(text.split()) + "\n"


def code(text: object) -> str:
    """Return *text* as code in a line of prose; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def paragraph(thing: object) -> str:
    """Return the docstring of *thing* as one line per paragraph, and one per item of a list."""
    text = inspect.getdoc(thing) or ""
    text = "\n\n".join(re.sub(r"\s*\n(?!- )\s*", " ", part.strip()) for part in text.split("\n\n"))
    # on_<message> outside of code would be taken for HTML.
    return "`".join(
        re.sub(r"<(?=[a-z])", r"\<", part) if n % 2 == 0 else part for n, part in enumerate(text.split("`"))
    )


def cell(thing: object) -> str:
    """Return the docstring of *thing* for a table."""
    return paragraph(thing).replace("\n\n", "<br>")


# --- Types and values -----------------------------------------------------------------------------


def spell_type(hint: Any) -> str:
    """Return a type as an author or an operator would say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = spell_bounds(arguments[1:])
        return spell_type(arguments[0]) + (f" ({bounds})" if bounds else "")
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{value}"' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else spell_type(part) for part in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return "[" + ", ".join(map(spell_type, arguments)) + "]"
    if origin in (list, tuple):
        return f"list of {spell_type(arguments[0])}"
    if origin is dict:
        return f"table of {spell_type(arguments[1])} by {spell_type(arguments[0])}"
    return "anything" if hint is Any else str(getattr(hint, "__name__", hint))


def spell_bounds(metas: Iterable[Any]) -> str:
    """Return the bounds that msgspec.Meta objects set."""
    said = []
    for meta in metas:
        if not isinstance(meta, msgspec.Meta):
            continue
        words = {
            "ge": "≥",
            "gt": ">",
            "le": "≤",
            "lt": "<",
            "min_length": "length ≥",
            "max_length": "length ≤",
        }
        said += [
            f"{word} {getattr(meta, name)}" for name, word in words.items() if getattr(meta, name) is not None
        ]
        if meta.pattern is not None:
            said.append(f"matches `{meta.pattern}`")
    return ", ".join(said)


def spell_value(value: Any) -> str:
    """Return a default as TOML would have it."""
    match value:
        case None:
            return "not set"
        case enum.Enum():
            return value.name
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case dict():
            pairs = ", ".join(f'"{key}" = {spell_value(each)}' for key, each in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case list() | tuple():
            return "[" + ", ".join(map(spell_value, value)) + "]"
        case msgspec.Struct():
            return "all defaults"
        case _:
            return str(value)


def fields(cls: type[msgspec.Struct]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, hint, default or NODEFAULT) of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        yield field.name, hints[field.name], default


def options_table(cls: type[msgspec.Struct]) -> str:
    """Return a row for each option: name, type, default, bounds, description."""
    rows = []
    for name, hint, default in fields(cls):
        plain, metas = (
            (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        )
        said = [meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description]
        shown = "required" if default is msgspec.NODEFAULT else code(spell_value(default))
        rows.append([code(name), spell_type(plain), shown, spell_bounds(metas), " ".join(said)])
    return table(["Key", "Type", "Default", "Bounds", "What it is"], rows) if rows else "It has no options.\n"


# --- Messages -------------------------------------------------------------------------------------


def published_by_kernel() -> frozenset[str]:
    """Return the message types that the kernel's own process makes."""
    trees = [ast.parse((PACKAGE / "kernel" / name).read_text()) for name in ("core.py", "changes.py")]
    return frozenset(
        node.func.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "m"
    )


def publishers(cls: type[messages.Message]) -> list[str]:
    """Return who may publish *cls*."""
    specs: list[type[PluginSpec]] = [*HOOKS.values(), GateSpec]
    found = [spec.KIND for spec in specs if cls in spec.MAY_PUBLISH]
    if cls is messages.PluginFailed:
        found.append("whoever failed, in its own name")
    return found + (["the kernel"] if cls.__name__ in published_by_kernel() else [])


def message_section(cls: type[messages.Message]) -> str:
    """Return what there is to say of one message type."""
    kind = topics.KIND_OF[cls]
    names = [name for name, _, _ in fields(cls)]
    address = ".".join([kind, *(f"<{name}>" for name in ("exchange", "symbol") if name in names), ""])
    keeping = "kept for good" if kind in topics.KEPT_KINDS else "hot"
    rows = field_rows(cls)
    said_by = ", ".join(publishers(cls))
    facts = f"Topic `{address}` · {keeping} · handler `{handler_name(cls)}` · published by {said_by}"
    return f"### {cls.__name__}\n\n{paragraph(cls)}\n\n{facts}\n\n" + table(FIELD_COLUMNS, rows)


FIELD_COLUMNS = ["Field", "Type", "Unit", "Default"]


def unit_of(cls: type[msgspec.Struct], name: str) -> str:
    """Return the unit of a field; nothing for what has none, such as text."""
    return UNITS.get(f"{cls.__name__}.{name}", UNITS.get(name, ""))


def is_number(hint: Any) -> bool:
    """Whether a field of this type is a number, or numbers packed or by name, and so has a unit."""
    if get_origin(hint) is dict:
        return is_number(get_args(hint)[1])
    return hint in (int, float, bytes)


def field_rows(cls: type[msgspec.Struct]) -> list[list[str]]:
    """Return [name, type, unit, default] of each field."""
    return [
        [
            code(name),
            spell_type(hint),
            unit_of(cls, name) if is_number(hint) else "",
            "" if default is msgspec.NODEFAULT else code(spell_value(default)),
        ]
        for name, hint, default in fields(cls)
    ]


def struct_section(cls: type[msgspec.Struct]) -> str:
    """Return what there is to say of a struct inside of messages."""
    return f"### {cls.__name__}\n\n{paragraph(cls)}\n\n" + table(FIELD_COLUMNS, field_rows(cls))


def enum_section(cls: enum.EnumMeta) -> str:
    """Return what there is to say of an enumeration."""
    members: dict[str, enum.Enum] = dict(cls.__members__)
    rows = [[code(name), code(member.value)] for name, member in members.items()]
    return f"### {cls.__name__}\n\n{paragraph(cls)}\n\n" + table(["Member", "On the wire"], rows)


def messages_page() -> str:
    """Return docs/reference/messages.md."""
    kinds = [
        [
            code(f"{kind}."),
            "for good" if kind in topics.KEPT_KINDS else "`kernel.hot_hours`",
            ", ".join(f"[{cls.__name__}](#{cls.__name__.lower()})" for cls in classes),
        ]
        for kind, classes in topics.KINDS.items()
    ]
    decisions = ", ".join(code(kind) for kind in sorted(topics.DECISION_KINDS))
    choices = [
        each
        for each in vars(enums).values()
        if isinstance(each, enum.EnumMeta) and each.__module__ == enums.__name__
    ]
    return page(
        "Messages",
        paragraph(messages),
        "## Kinds and topics\n",
        prose(f"""
            A topic is `kind.exchange.SYMBOL.`: every segment is closed by a dot, the slash of a symbol
            becomes a dash, and what a message does not name is left out. The kind says how long the journal
            keeps it.
            The kinds {decisions} are decisions: `decisions_sha256` is a chain over their bytes.
        """),
        table(["Kind", "Kept", "Message types"], kinds),
        "## Message types\n",
        *map(message_section, messages.message_types()),
        "## Inside of messages\n",
        struct_section(messages.Balance),
        struct_section(messages.LedgerLeg),
        struct_section(messages.Passport),
        struct_section(messages.Position),
        struct_section(messages.ModelResult),
        struct_section(messages.StreamCount),
        "## Enumerations\n",
        *map(enum_section, choices),
    )


# --- Hooks and specs ------------------------------------------------------------------------------


def members_table(cls: type) -> str:
    """Return a row for each public method and property of *cls*."""
    rows = []
    is_protocol = getattr(cls, "_is_protocol", False)
    for name, member in vars(cls).items():
        if name == "__init__" and not is_protocol:
            rows.append([code(f"{cls.__name__}{signature(member).removesuffix(' -> None')}")])
            rows[-1].append(cell(member) if member.__doc__ else "")
        elif name.startswith("_"):
            continue
        elif isinstance(member, property):
            rows.append([code(name), cell(member)])
        elif inspect.isfunction(member):
            rows.append([code(f"{name}{signature(member)}"), cell(member)])
    return table(["Member", "What it does"], rows)


def signature(function: Callable[..., Any]) -> str:
    """Return the arguments of *function* as its author wrote them, without self and modules' names."""
    found = inspect.signature(function)
    parameters = [each for each in found.parameters.values() if each.name != "self"]
    text = str(found.replace(parameters=parameters))
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text).replace("module: module", "module")


def spec_section(hook: str, spec: type[PluginSpec]) -> str:
    """Return what there is to say of one hook and its spec."""
    rows = [
        [
            code(name),
            spell_type(hint),
            "required" if default is msgspec.NODEFAULT else code(spell_value(default)),
        ]
        for name, hint, default in fields(spec)
        if name not in PluginSpec.__struct_fields__
    ]
    extra = "\n" + table(["Own field", "Type", "Default"], rows) if rows else ""
    may = (
        ", ".join(f"[{cls.__name__}](messages.md#{cls.__name__.lower()})" for cls in spec.MAY_PUBLISH)
        or "nothing"
    )
    return (
        f"### {hook}\n\n{paragraph(getattr(TickerMLSpecs, hook))}\n\n"
        f"Returns `{spec.__name__}` · kind `{spec.KIND}` · host `{spec.SHAPE}` · stage {spec.STAGE}\n\n"
        f"{paragraph(spec)}\n\nMay publish: {may}.\n{extra}"
    )


def hooks_page() -> str:
    """Return docs/reference/hooks.md."""
    common = [
        ["`id`", "the plugin's id, equal to its entry point's name"],
        ["`factory`", "called as factory(ctx, options); returns the component"],
        ["`options`", "the class of its options, a subclass of `Options`"],
        ["`publishes`", "the message types it may publish, within what its kind may"],
        ["`state_version`", "of what snapshot() writes; of the version before, what migrate() makes of it"],
        ["`summary`", "one line for lists"],
        ["`subscribes`", "names of the only messages it is given; set from plugins.toml"],
    ]
    assert [row[0].strip("`") for row in common] == list(PluginSpec.__struct_fields__)
    rows = [
        [code(f"{each.__name__}{signature(each)}"), cell(each)]
        for each in (testing.spec_of, testing.run_with_restarts, testing.instrument)
    ]
    return page(
        "Hooks and specs",
        paragraph(hookspecs),
        "## Hooks\n",
        prose("""
            A hook takes no arguments and returns specs, never live objects. A plugin implements exactly one,
            for exactly one spec, and beside it, if it likes, the command's and the observers'. Within a host,
            components are called in the order of their stages, and by id within one.
        """),
        *[spec_section(hook, spec) for hook, spec in HOOKS.items()],
        f"### tickerml_commands\n\n{paragraph(TickerMLSpecs.tickerml_commands)} Kind `command`; it runs in "
        "no host, but when one of its words is the first of a command line.\n",
        "## Observers\n",
        *[f"### {hook}\n\n{paragraph(getattr(TickerMLSpecs, hook))}\n" for hook in OBSERVERS],
        f"### StateChange\n\n{paragraph(hookspecs.StateChange)}\n",
        table(FIELD_COLUMNS, field_rows(hookspecs.StateChange)),
        "## PluginSpec: the fields of every spec\n",
        table(["Field", "What it is"], common),
        f"## The gate\n\n{paragraph(GateSpec)} Its id is `{GATE}` and its stage {GateSpec.STAGE}.\n",
        f"## Component\n\n{paragraph(hookspecs.Component)}\n",
        members_table(hookspecs.Component),
        *[
            part
            for protocol in (hookspecs.Source, hookspecs.LiveFeed, hookspecs.Sink, hookspecs.Trainer)
            for part in (f"## {protocol.__name__}\n\n{paragraph(protocol)}\n", members_table(protocol))
        ],
        f"## Alert\n\n{paragraph(alerts.Alert)}\n",
        table(FIELD_COLUMNS, field_rows(alerts.Alert)),
        prose(f"Worth an alert may be: {', '.join(code(cls.__name__) for cls in alerts.ALERTING)}."),
        f"## Dataset\n\n{paragraph(hookspecs.Dataset)}\n",
        members_table(hookspecs.Dataset),
        prose(f"It may hold: {', '.join(code(cls.__name__) for cls in dataset.MARKET)}."),
        f"## Context\n\n{paragraph(Context)}\n",
        members_table(Context),
        f"## Timer\n\n{paragraph(Timer)}\n",
        f"## Clock\n\n{paragraph(clock.Clock)}\n",
        members_table(clock.Clock),
        f"## OrderBook\n\n{paragraph(OrderBook)}\n",
        members_table(OrderBook),
        f"### BookSide\n\n{paragraph(BookSide)}\n",
        members_table(BookSide),
        f"## tickerml.kernel.testing\n\n{paragraph(testing)}\n",
        table(["Function", "What it does"], rows),
        f"### Harness\n\n{paragraph(testing.Harness)}\n",
        members_table(testing.Harness),
        f"### Market\n\n{paragraph(testing.Market)}\n",
        members_table(testing.Market),
    )


# --- Configuration --------------------------------------------------------------------------------


def plugin_section(plugin: str) -> str:
    """Return what there is to say of a built-in plugin and its options."""
    spec = registry.load(plugin)
    says = ", ".join(cls.__name__ for cls in spec.publishes) or "nothing"
    module = registry.installed()[plugin].value
    return (
        f"### {plugin}\n\n{spec.summary}\n\nKind `{spec.KIND}` · module `{module}` · "
        f"publishes {says}\n\n{options_table(spec.options)}"
    )


def builtin_plugins() -> list[str]:
    """Return the ids of the plugins that come with this package and run in a host: all but commands."""
    return [
        name
        for name, entry in registry.installed().items()
        if entry.value.startswith("tickerml.") and not name.startswith("command-")
    ]


def configuration_page() -> str:
    """Return docs/reference/configuration.md."""
    return page(
        "Configuration",
        prose("""
            One file, plugins.toml, says which plugins run, in which process and with which options. It is
            `--config`, else `./plugins.toml`, else `HOME/plugins.toml`. `format = 1` stands at its top. An
            unknown key is refused, and so is a value outside of its bounds, with the file, the key, the rule
            and the value.
        """),
        prose("""
            For one run, `--set plugin.option=value` overrides an option, `--set plugin.host=name` and `--set
            plugin.enabled=false` a key of its entry, and `--set kernel.key=value` a kernel setting. The value
            is TOML, or else plain text. What is set in `[profile.NAME.options.ID]` goes before
            `[plugin.ID.options]`, and `--set` before both.
        """),
        f"## [profile.NAME]\n\n{paragraph(config.Profile)}\n",
        options_table(config.Profile),
        f"## [profile.NAME.kernel]\n\n{paragraph(config.KernelSettings)}\n",
        options_table(config.KernelSettings),
        f"## [plugin.ID]\n\n{paragraph(config.PluginEntry)}\n",
        options_table(config.PluginEntry),
        prose("""
            A host holds either exchanges, or news sources, or trainers, or pages, or anything else; a mixture
            is refused. The gate is built in the host of the simulator. What a plugin is its manifest says;
            `publishes`, `subscribes` and `secrets` can only take from what is said there. One that cannot run
            is blocked, with the reason, and the others run without it; a blocked risk rule or simulator keeps
            trading halted. `index = ["…"]` at the top names files and URLs that `tickerml plugin search`
            looks in.
        """),
        f"## [host.NAME]\n\n{paragraph(config.HostEntry)}\n",
        options_table(config.HostEntry),
        f"## tickerml-plugin.toml: [plugin.ID]\n\n{paragraph(manifest.Manifest)}\n",
        options_table(manifest.Manifest),
        f"## tickerml-plugin.toml: [plugin.ID.resources]\n\n{paragraph(manifest.Resources)}\n",
        options_table(manifest.Resources),
        "## [plugin.ID.options] of the built-in plugins\n",
        *map(plugin_section, builtin_plugins()),
    )


# --- Commands -------------------------------------------------------------------------------------


def parameter_rows(callback: Callable[..., Any], command: Any) -> Iterator[list[str]]:
    """Yield a row for each argument and option of one command."""
    hints = typing.get_type_hints(callback)
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_argument = parameter.param_type_name == "argument"
        kind = (
            "flag"
            if getattr(parameter, "is_flag", False)
            else spell_type(hints[parameter.name]).removesuffix(" or nothing")
        )
        shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
        default = "required" if parameter.required else "" if shown in (None, False, "") else code(shown)
        name = parameter.name.upper() if is_argument else ", ".join(parameter.opts)
        variable = f" Or the variable `{parameter.envvar}`." if parameter.envvar else ""
        yield [
            code(name),
            kind.replace("Path", "path").replace("str", "text"),
            default,
            (parameter.help or "") + variable,
        ]


def command_section(words: str, callback: Callable[..., Any], command: Any) -> str:
    """Return what there is to say of one command."""
    usage = "".join(f" {each.name.upper()}" for each in command.params if each.param_type_name == "argument")
    rows = parameter_rows(callback, command)
    return f"## {words}\n\n```console\n{words}{usage} [OPTIONS]\n```\n\n{paragraph(callback)}\n\n" + table(
        ["Argument or option", "Value", "Default", "What it is"], rows
    )


def brought_by_plugins() -> typer.Typer:
    """Return the words that our own command plugins bring, as commands.py adds them."""
    app = typer.Typer()
    for plugin in (data, portfolio_command, simulate, why, parity, tca, tournament, calibrate):
        plugin.tickerml_commands(app)
    return app


def commands() -> Iterator[tuple[str, Callable[..., Any], Any]]:
    """Yield (words, function, parsed command) for every command, in the order of the source."""
    brought = brought_by_plugins()
    single = typer.Typer()
    single.registered_commands = brought.registered_commands
    groups = [*cli.app.registered_groups, *brought.registered_groups]
    for prefix, group in (
        ("tickerml", cli.app),
        ("tickerml", single),
        *((f"tickerml {each.name}", each.typer_instance) for each in groups),
    ):
        assert group is not None
        parsed: Any = typer.main.get_command(group)
        if (own := group.registered_callback) and own.callback and parsed.invoke_without_command:
            yield prefix, own.callback, parsed
        for registered in group.registered_commands:
            assert registered.callback is not None
            name = registered.name or registered.callback.__name__.replace("_", "-")
            yield f"{prefix} {name}", registered.callback, parsed.commands[name]


def commands_page() -> str:
    """Return docs/reference/commands.md."""
    found = list(commands())
    overview = [[f"[`{words}`](#{words.replace(' ', '-')})", cell(callback)] for words, callback, _ in found]
    return page(
        "Commands",
        paragraph(cli),
        prose("""
            Every command takes `--help`. No command but `run`, `backtest` and `replay` needs a plugin to
            load, and none of the others imports one into its own process. `data` is brought by a plugin of
            ours, and so may any other word be by one of yours: then that plugin is imported, and no other.
        """),
        table(["Command", "What it does"], overview),
        *[command_section(*each) for each in found],
    )


# --- The conformance kit --------------------------------------------------------------------------


def classes_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (class, kind, docstring) of the contracts in *path*, which need pytest to be imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["Contract"]:
            kinds = [each.value for each in node.body if isinstance(each, ast.Assign)]
            yield node.name, ast.literal_eval(kinds[0]), ast.get_docstring(node) or ""


def fixtures_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of the pytest fixtures in *path*."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and "pytest.fixture" in map(ast.unparse, node.decorator_list):
            yield node.name, inspect.cleandoc(ast.get_docstring(node) or "")


def asked_of(check: Check) -> str:
    """Return of which plugins a check is asked."""
    if check.kinds:
        return ", ".join(code(kind) for kind in check.kinds)
    shapes = {"consumer": "consumers", "source": "sources", "live": "live feeds", "page": "pages"}
    asked = [shapes[shape] for shape in check.shapes if shape in shapes]
    return "every plugin" if "command" in check.shapes else ", ".join(asked)


def kit_page() -> str:
    """Return docs/reference/kit.md."""
    checks = list(tiers.CHECKS.values())
    sections = []
    for tier in LADDER:
        rows = [
            [code(each.id), each.sentence, asked_of(each), f"{each.limit_s:g}"]
            for each in checks
            if each.tier == tier
        ]
        sections.append(f"## {tier}\n\n" + table(["Check", "What it asks", "Of", "Limit, s"], rows))
    contracts = [
        [code(name), code(kind), said]
        for name, kind, said in classes_in(PACKAGE / "testing" / "contracts.py")
    ]
    fixtures = [
        [code(name), said.replace("\n\n", "<br>").replace("\n", " ")]
        for name, said in fixtures_in(PACKAGE / "testing" / "plugin.py")
    ]
    return page(
        "Conformance kit",
        prose("""
            What `tickerml plugin check` and the contracts of `tickerml.testing.contracts` ask of a plugin,
            tier by tier. A plugin has reached a tier when it passes every check of it and of those before
            it. The manifest may leave a check out, with a reason: `exempt = { "edge.p99" = "why" }`. How to
            use it is in [plugin authors](../plugin-authors.md#the-conformance-kit).
        """),
        prose("""
            A consumer is a feature set, a strategy, a risk rule, a simulator, a store or a sink; a source is
            an exchange with data of its own, or a trainer; a live feed is an exchange that says `is_live`,
            or a news source.
        """),
        *sections,
        "## Contract classes\n",
        table(
            ["Class", "Kind", "What it holds the plugin to, beside what is asked of every kind"], contracts
        ),
        "## Fixtures\n",
        prose("The package brings them as a pytest plugin; nothing is imported before one is used."),
        table(["Fixture", "What it gives"], fixtures),
    )


# --- Log events -----------------------------------------------------------------------------------


class Logged(NamedTuple):
    """One call that logs: where, at which level and with which keys."""

    event: str
    levels: frozenset[str]
    keys: tuple[str, ...]
    module: str


def logged_in(path: Path) -> Iterator[Logged]:
    """
    Yield every log call of one file.

    A call counts that has the name of an event, "area.verb", as its one positional argument, and whose
    function is a level of a logger, or a local name that one was given to (`tell = logger.info`).
    """
    tree = ast.parse(path.read_text())
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    aliases: dict[str, frozenset[str]] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and (found := _levels_in(node.value))
        ):
            aliases[node.targets[0].id] = found
    for node in ast.walk(tree):
        if (
            not isinstance(node, ast.Call)
            or len(node.args) != 1
            or not isinstance(node.args[0], ast.Constant)
        ):
            continue
        event = node.args[0].value
        levels = (
            aliases.get(node.func.id, frozenset())
            if isinstance(node.func, ast.Name)
            else _levels_in(node.func)
        )
        if levels and isinstance(event, str):
            yield Logged(event, levels, tuple(each.arg or "**" for each in node.keywords), module)


def _levels_in(node: ast.expr) -> frozenset[str]:
    """Return the levels that the expression *node* takes from something whose name ends in log or logger."""
    candidates = (
        [node]
        if isinstance(node, ast.Attribute)
        else [node.body, node.orelse]
        if isinstance(node, ast.IfExp)
        else []
    )
    return frozenset(
        each.attr
        for each in candidates
        if isinstance(each, ast.Attribute)
        and each.attr in LEVELS
        and re.search(r"log(ger)?$", ast.unparse(each.value))
    )


@functools.cache
def logged() -> list[Logged]:
    """Return every log call of the package."""
    return [call for path in sorted(PACKAGE.rglob("*.py")) for call in logged_in(path)]


def log_events_page() -> str:
    """Return docs/reference/log-events.md."""
    calls = logged()
    rows = []
    for event in sorted({call.event for call in calls}):
        here = [call for call in calls if call.event == event]
        levels = sorted({level for call in here for level in call.levels}, key=LEVELS.index)
        keys = list(dict.fromkeys(key for call in here for key in call.keys))
        modules = sorted({call.module.removeprefix("tickerml.") for call in here})
        rows.append(
            [
                code(event),
                ", ".join(levels),
                ", ".join(map(code, keys)),
                EVENTS.get(event, ""),
                ", ".join(map(code, modules)),
            ]
        )
    return page(
        "Log events",
        prose("""
            Events are `area.verb_in_past`, with the facts as keys. The kernel writes to its own stderr, JSON
            lines unless that is a terminal; each host writes JSON lines to `HOME/logs/HOST.log`. Every line
            has `event`, `level` and `timestamp` (ISO 8601, UTC); a plugin's lines have `plugin` as well, and
            `exception` holds a traceback where `exc_info` is a key. `backtest` and `replay` show warnings and
            errors only.
        """),
        table(["Event", "Level", "Keys", "What it says", "Logged in"], rows),
    )


# --- Errors ---------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.TickerMLError]]:
    """Return every exception type, a base before those below it."""
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.TickerMLError)
    ]


class Raised(NamedTuple):
    """One place that raises: the type and the message, with {names} for what is filled in."""

    type: str
    text: str
    module: str


def raised_in(path: Path) -> Iterator[Raised]:
    """Yield what one file raises with a message of its own."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("tickerml.")
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for node in sorted(calls, key=lambda call: call.lineno):
        # A message is made where the error is, also where the error is returned or kept to be raised later.
        if isinstance(node.func, ast.Name) and node.func.id in _ERROR_NAMES:
            text = "".join(_spell_text(each) for each in node.args[-1:])
            if text:
                yield Raised(node.func.id, " ".join(text.split()), module)


_ERROR_NAMES = frozenset(cls.__name__ for cls in error_classes())


def _spell_text(node: ast.expr) -> str:
    """Return a text as it reads, with {names} in it; nothing when it is not written out here."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            parts.append("{" + _spell_value(part.value) + "}")
        elif isinstance(part, ast.Constant):
            parts.append(str(part.value))
    return "".join(parts)


def _spell_value(node: ast.expr) -> str:
    """Return a word for what is filled in: the last name in it, or the helper that makes it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("_"):
        return node.func.id.strip("_")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        node = node.func.value
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", "", ast.unparse(node)))
    return str((names or ["value"])[-1]).replace("__name__", "type").strip("_")


def exit_code(cls: type[errors.TickerMLError]) -> str:
    """Return what a command that ends with this error exits with."""
    return (
        "2"
        if issubclass(cls, errors.ConfigError)
        else "3"
        if issubclass(cls, errors.KernelUnreachable)
        else "4"
        if issubclass(cls, errors.ChangeRolledBack)
        else "1"
    )


def errors_page() -> str:
    """Return docs/reference/errors.md."""
    said: dict[str, dict[str, list[str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for each in raised_in(path):
            said.setdefault(each.type, {}).setdefault(each.text, []).append(each.module)
    sections = []
    for cls in error_classes():
        base = next(iter(cls.__bases__)).__name__
        under = f"A {base}. " if base != "Exception" else ""
        rows = [
            [text, ", ".join(map(code, dict.fromkeys(modules)))]
            for text, modules in said.get(cls.__name__, {}).items()
        ]
        sections.append(
            f"## {cls.__name__}\n\n{paragraph(cls).partition('; exit code')[0].rstrip('.')}. "
            f"{under}Exit code {exit_code(cls)}.\n"
            + ("\n" + table(["Message", "Raised in"], rows) if rows else "")
        )
    return page(
        "Errors",
        prose("""
            Every message that TickerML raises on purpose, with `{names}` for what is filled in. Messages
            read: what was asked, the rule, what it was, what to do.
            [Operators](../operators.md#messages-and-what-to-do) says what to do about those that a person
            meets. A business "no" (an order denied, a halt) is a message on the bus and no error. Of the
            `FeedError`s, one in a frame skips that frame and one in a connection reconnects; none ends a run.
        """),
        *sections,
    )


# --- Pages with files in them ---------------------------------------------------------------------


def embed(name: str) -> str:
    """Return the page *name* with the files that it shows as they are now."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}```{found[3]}\n{(DOCS / found[2]).read_text()}```\n"

    return re.sub(r"(<!-- file: (\S+) -->\n)```(\w+)\n.*?```\n", block, (DOCS / name).read_text(), flags=re.S)


PAGES: dict[str, Callable[[], str]] = {
    "reference/messages.md": messages_page,
    "reference/hooks.md": hooks_page,
    "reference/configuration.md": configuration_page,
    "reference/commands.md": commands_page,
    "reference/kit.md": kit_page,
    "reference/log-events.md": log_events_page,
    "reference/errors.md": errors_page,
    "plugin-authors.md": lambda: embed("plugin-authors.md"),
}


def main() -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write what docs/ takes from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a page is out of date"
    )
    is_check = parser.parse_args().check
    stale = []
    for name, build in PAGES.items():
        path, text = DOCS / name, build()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not is_check:
            path.write_text(text)
    print(f"{'out of date' if is_check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
