"""The fill-model tournament: who sees what, what each is told to have gained, and `tickerml tournament`."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from tests.kernel.recorded import ODD_PLUGINS, LiveRun, plan, write
from tests.oracles.market import START, Level, Shadow, generate
from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    BookState,
    CancelOrder,
    ConfigError,
    FeedEnded,
    Message,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    OrderType,
    Side,
    TimeInForce,
    TimeTick,
    TournamentMeasured,
    Trade,
    codec,
    convert,
    pack_levels,
)
from tickerml.kernel.testing import Harness, Market, instrument, run_with_restarts
from tickerml.plugins import sim_fifo, tournament
from tickerml.plugins import tournament_contest as contests
from tickerml.plugins.matching import EngineState
from tickerml.plugins.queue_models import QueueChoice
from tickerml.plugins.simulate_run import run as simulated
from tickerml.plugins.simulate_venues import Row, Wish, open_venue
from tickerml.plugins.tournament_contest import Contest
from tickerml.plugins.tournament_naive import MARGINS, NaiveEngine

BUY, SELL = Side.BUY, Side.SELL
PLUGIN = "sim-fifo"
NAMES = ("test", "BTC/USDT")
TIFS = {"GTC": TimeInForce.GTC, "GTX": TimeInForce.POST_ONLY, "IOC": TimeInForce.IOC}
BIDS, ASKS = [(9_990, 10), (9_980, 20)], [(10_010, 10), (10_020, 20)]


def moved(row: Level) -> BookDelta | Trade:
    ts, kind, side, price, quantity = row
    if kind == "trade":
        return Trade(ts, ts, *NAMES, 0, price, quantity, BUY if side == "buy" else SELL)
    packed = pack_levels([(price, quantity)])
    return BookDelta(ts, ts, *NAMES, 0, *((packed, b"") if side == "bid" else (b"", packed)))


def sent(shadow: Shadow) -> OrderSubmitted:
    side, tif = (SELL if shadow.side else BUY), TIFS[shadow.tif]
    return submitted(shadow.ts, shadow.order_id, side, shadow.price, shadow.quantity, tif)


def submitted(
    at: int,
    order_id: str = "a",
    side: Side = BUY,
    price: int = 9_990,
    quantity: int = 5,
    tif: TimeInForce = TimeInForce.GTC,
) -> OrderSubmitted:
    kind = OrderType.LIMIT if price else OrderType.MARKET
    return OrderSubmitted(at, order_id, "s", "paper", *NAMES, side, kind, tif, price, quantity, 20_000)


def tape(seed: int, events: int, orders: int) -> list[Message]:
    """Return a generated market with our orders in it, in the order of time."""
    rows, shadows = generate(seed, events, orders)
    book = BookSnapshot(START, START, *NAMES, 0, b"", b"")
    found: list[tuple[int, int, Message]] = [(START, 0, instrument()), (START, 0, book)]
    found += [(row[0], 1, moved(row)) for row in rows]
    found += [(one.ts, 2, sent(one)) for one in shadows]
    found += [
        (one.cancel, 2, CancelOrder(one.cancel, one.order_id, *NAMES, "asked"))
        for one in shadows
        if one.cancel is not None
    ]
    return [message for _, _, message in sorted(found, key=lambda each: each[:2])]


def play(contest: Contest, messages: list[Message]) -> list[Message]:
    """Give *contest* the messages as an exchange has them; return what it answers."""
    answers: list[Message] = []
    for message in messages:
        match message:
            case OrderSubmitted():
                answers += contest.submit(message, message.ts_recv)
            case CancelOrder():
                answers += contest.cancel(message.order_id, message.reason, message.ts_recv)
            case BookSnapshot():
                answers += contest.on_book_snapshot(message, message.ts_event)
            case BookDelta():
                answers += contest.on_book_delta(message, message.ts_event)
            case Trade():
                answers += contest.on_trade(message, message.ts_event)
    return answers


def open_contest(*models: str, own: str = "risk-averse", **settings: Any) -> Contest:
    contest = Contest(*NAMES, own=own, models=models, **settings)
    contest.instrument = instrument()
    return contest


def small(*models: str, bids: Any = BIDS, asks: Any = ASKS, **settings: Any) -> tuple[Contest, Market]:
    contest, market = open_contest(*models, **settings), Market()
    contest.on_book_snapshot(market.book(START, bids, asks), START)
    return contest, market


def filled(contest: Contest) -> dict[str, int]:
    return {model: tally.quantity for model, tally in zip(contest.models, contest.tallies, strict=True)}


# --- What the models see --------------------------------------------------------------------------


def test_the_real_model_in_its_own_shadow_has_exactly_the_real_fills(monkeypatch):
    heard: dict[int, list[bytes]] = {}
    add = contests.Tally.add
    monkeypatch.setattr(
        contests.Tally,
        "add",
        lambda tally, fill, rules: (
            heard.setdefault(id(tally), []).append(codec.encode(fill)),
            add(tally, fill, rules),
        )[1],
    )
    contest = open_contest("risk-averse", "touch")

    answers = play(contest, tape(3, 4_000, 80))

    real, shadow, _ = (heard[id(tally)] for tally in contest.tallies)
    assert len(real) > 30
    assert real == [codec.encode(answer) for answer in answers if isinstance(answer, OrderFilled)]
    assert shadow == real
    assert contest.tallies[1] == contest.tallies[0]


@pytest.mark.parametrize("seed", [3, 4])
def test_on_a_generated_market_the_others_fill_at_least_what_the_real_one_does(seed):
    contest = open_contest("log", "uniform", "cross")

    play(contest, tape(seed, 4_000, 80))

    lots = filled(contest)
    assert lots["risk-averse"] < min(lots["log"], lots["uniform"], lots["cross"])


def test_touch_fills_even_in_a_crossed_book_in_which_nothing_is_real():
    contest, market = small("touch", bids=[(9_990, 1_000)])
    contest.submit(submitted(START + 1), START + 1)
    contest.on_book_delta(market.delta(START + 2, asks=[(9_990, 1)]), START + 2)

    assert filled(contest) == {"risk-averse": 0, "touch": 5}


@pytest.mark.parametrize("model", sorted(MARGINS))
def test_the_naive_models_are_those_of_the_command_simulate(model):
    rows, shadows = generate(5, 3_000, 60)
    engine = NaiveEngine(*NAMES, MARGINS[model])
    engine.instrument = instrument()
    fills: list[OrderFilled] = []
    for message in tape(5, 3_000, 60):
        match message:
            case OrderSubmitted():
                fills += engine.submit(message, message.ts_recv)
            case CancelOrder():
                engine.cancel(message.order_id, message.reason, message.ts_recv)
            case BookSnapshot():
                engine.on_book_snapshot(message, message.ts_event)
            case BookDelta():
                fills += engine.on_book_delta(message, message.ts_event)
            case Trade():
                fills += engine.on_trade(message, message.ts_event)
    wishes = [
        Wish(s.order_id, s.ts, order.side, s.price, s.quantity, OrderType.LIMIT, TIFS[s.tif], s.cancel)
        for s in shadows
        for order in [sent(s)]
    ]
    books = {"bid": (0,), "ask": (1,), "sell": (0,), "buy": (1,)}
    market = [Row(ts, kind, books[side], price, quantity) for ts, kind, side, price, quantity in rows]
    venue = open_venue(model, QueueChoice(), instrument(), (1, 1000))
    theirs, _ = simulated(venue, market, wishes, 0)

    ours = sorted((f.ts_event, f.order_id, f.price, f.quantity, f.liquidity == "maker") for f in fills)
    assert len(ours) > 20
    assert ours == sorted((f.ts, f.order_id, f.price, f.quantity, f.is_maker) for f in theirs)


def test_who_is_refused_for_real_is_asked_of_no_model():
    contest, _ = small("touch")
    contest.distrust(BookState.RESYNCING)

    (answer,) = contest.submit(submitted(START + 1, price=10_010), START + 1)

    assert isinstance(answer, OrderRejected)
    assert filled(contest) == {"risk-averse": 0, "touch": 0}


def test_a_cancellation_and_a_replacement_reach_every_model():
    contest, market = small("log", "touch")
    contest.submit(submitted(START + 1, "a"), START + 1)
    contest.submit(submitted(START + 1, "b"), START + 1)
    contest.cancel("a", "asked", START + 2)
    contest.replace("b", 9_990, 2, START + 3)
    contest.on_trade(market.trade(START + 4, 9_980, 100, SELL), START + 4)
    contest.on_book_delta(market.delta(START + 5, [(9_990, 0)], [(9_985, 3)]), START + 5)

    assert filled(contest) == {"risk-averse": 2, "log": 2, "touch": 2}


def test_a_replacement_that_is_refused_for_real_is_asked_of_no_model():
    contest, market = small("touch")
    contest.submit(submitted(START + 1, tif=TimeInForce.POST_ONLY), START + 1)
    contest.replace("a", 10_010, 5, START + 2)
    contest.on_book_delta(market.delta(START + 3, asks=[(9_990, 9)]), START + 3)

    assert filled(contest)["touch"] == 5


def test_a_post_only_order_that_is_repriced_is_so_for_every_model():
    contest, market = small("touch", reprice=True)
    contest.submit(submitted(START + 1, price=10_015, tif=TimeInForce.POST_ONLY), START + 1)
    contest.on_book_delta(market.delta(START + 2, asks=[(10_009, 9)]), START + 2)

    assert filled(contest) == {"risk-averse": 5, "touch": 5}
    assert contest.tallies[1].cash == contest.tallies[0].cash


@pytest.mark.parametrize("is_restored", [False, True])
@pytest.mark.parametrize(("seconds", "lots"), [(59, 5), (61, 0)])
def test_an_order_that_was_filled_for_real_waits_a_minute_where_it_was_not(seconds, lots, is_restored):
    contest, market = small("touch")
    contest.submit(submitted(START + 1), START + 1)
    contest.on_trade(market.trade(START + 2, 9_990, 15, SELL), START + 2)
    assert filled(contest) == {"risk-averse": 5, "touch": 0}

    if is_restored:
        engine, state = (
            msgspec.msgpack.encode(contest.state()),
            msgspec.msgpack.encode(contest.contest_state()),
        )
        contest = open_contest("touch")
        contest.restore(msgspec.msgpack.decode(engine, type=EngineState))
        contest.restore_contest(msgspec.msgpack.decode(state, type=contests.ContestState))
    later = START + seconds * NS_PER_S
    contest.on_book_delta(market.delta(later, [(9_990, 0)], [(9_990, 3)]), later)

    assert filled(contest) == {"risk-averse": 5, "touch": lots}


def test_cross_wants_the_best_beyond_or_a_print_through():
    contest, market = small("touch", "cross")
    contest.submit(submitted(START + 1), START + 1)
    contest.on_book_delta(market.delta(START + 2, [(9_990, 0)], [(9_990, 3)]), START + 2)
    assert filled(contest) == {"risk-averse": 3, "touch": 5, "cross": 0}

    contest.on_trade(market.trade(START + 3, 9_989, 1, SELL), START + 3)

    assert filled(contest)["cross"] == 5


def test_a_book_in_doubt_is_in_doubt_for_every_model():
    contest, market = small("log", "touch")
    contest.submit(submitted(START + 1), START + 1)
    contest.distrust(BookState.RESYNCING)
    contest.on_trade(market.trade(START + 2, 9_980, 50, SELL), START + 2)
    contest.on_book_delta(market.delta(START + 3, [(9_990, 0)], [(9_980, 3)]), START + 3)

    assert filled(contest) == {"risk-averse": 0, "log": 0, "touch": 0}


def test_a_side_that_is_empty_has_no_best_that_reaches_anybody():
    contest, market = small("touch", asks=[(10_010, 10)])
    contest.submit(submitted(START + 1), START + 1)
    contest.on_book_delta(market.delta(START + 2, asks=[(10_010, 0)]), START + 2)

    assert filled(contest) == {"risk-averse": 0, "touch": 0}


# --- What each has gained -------------------------------------------------------------------------


def test_the_result_is_cash_after_fees_and_the_position_at_the_mid():
    contest, market = small("touch", bids=[(9_990, 100)], asks=[(10_010, 100)])
    contest.submit(submitted(START + 1, "a", BUY, 10_010, 7, TimeInForce.IOC), START + 1)
    contest.submit(submitted(START + 1, "b", BUY, 9_990, 4), START + 1)
    contest.on_book_delta(market.delta(START + 2, [(9_990, 0), (9_980, 5)], [(9_990, 1)]), START + 2)

    measured = contest.measure(START + 3, 9_980 + 9_990)

    step = 10**10 * 10**7 // 10**12  # units of quote that one tick times one lot is worth
    assert measured is not None
    real, touch = measured.results
    bought, mid2 = 10_010 * 7 + 9_990, 9_980 + 9_990
    fees = -(-10_010 * 7 * step // 1000) + -(-9_990 * step // 1000)
    assert (real.orders, real.fills, real.quantity, real.position) == (2, 2, 8, 8)
    assert (real.notional, real.fees) == (bought * step, fees)
    assert real.pnl == 8 * mid2 * step // 2 - bought * step - fees
    assert real.optimism == 0
    assert (touch.orders, touch.quantity) == (2, 11)
    assert touch.optimism == touch.pnl - real.pnl
    assert touch.optimism == 3 * (mid2 - 2 * 9_990) * step // 2 - 3 * 9_990 * step // 1000
    assert (measured.asset, measured.accepted, measured.mid2) == ("USDT", 2, mid2)


def test_it_is_told_only_when_it_has_changed_and_by_the_last_mid_when_there_is_none():
    contest, _ = small("touch")
    assert contest.measure(START, 20_000) is None

    contest.submit(submitted(START + 1, price=10_010), START + 1)
    first = contest.measure(START + 2, 20_000)

    assert first is not None
    assert contest.measure(START + 3, 0) is None
    second = contest.measure(START + 4, 20_002)
    assert second is not None
    assert second.results[0].pnl > first.results[0].pnl


# --- In the simulator -----------------------------------------------------------------------------


def build(*models: str, **options: Any) -> Harness:
    given = {"latency_ms": {"test": (20, 60)}, "tournament": models, **options}
    return Harness(sim_fifo, options={PLUGIN: given}, seed=4)


def long_tape() -> list[Message]:
    messages = tape(6, 16_000, 60)
    end = max(message.ts_recv for message in messages)
    return [*messages, TimeTick(end + NS_PER_S), FeedEnded(end + NS_PER_S, "test", 1, 0)]


def test_a_tournament_changes_nothing_of_what_is_real():
    messages = long_tape()
    alone, beside = build(), build("log", "touch")

    alone.send(*messages)
    beside.send(*messages)

    told = beside.of(TournamentMeasured)
    assert alone.outputs == [message for message in beside.outputs if message not in told]
    assert len(told) == 2  # after a minute, and at the end
    assert told[0].ts_recv % (60 * NS_PER_S) == 0
    fills = beside.of(OrderFilled)
    assert told[-1].results[0].quantity == sum(fill.quantity for fill in fills)
    assert told[-1].results[0].fees == sum(fill.fee for fill in fills)
    assert [result.model for result in told[-1].results] == ["risk-averse", "log", "touch"]


def test_restored_in_the_middle_it_goes_on_as_if_nothing_had_been():
    messages = long_tape()
    models = ("log", "by-size", "touch", "cross")
    uninterrupted = build(*models)
    uninterrupted.send(*messages)

    cut = run_with_restarts(lambda: build(*models), messages, range(150, len(messages), 900))

    assert [codec.encode(message) for message in cut] == [
        codec.encode(message) for message in uninterrupted.outputs
    ]


def test_a_restored_simulator_does_not_measure_twice_as_often():
    market = Market()
    first, again = build("log"), build("log")
    first.send(instrument(), market.book(START, BIDS, ASKS), submitted(START))
    again.bus.restore(first.bus.snapshot())
    again._inputs = first._inputs
    for harness in (first, again):
        harness.send(submitted(START + NS_PER_S, "b"))

    assert again.bus.snapshot() == first.bus.snapshot()


def test_other_models_begin_anew_with_the_orders_that_rest():
    market = Market()
    harness = build("log")
    harness.send(instrument(), market.book(START, BIDS, ASKS), submitted(START))
    harness.send(market.delta(START + 200 * NS_PER_MS, [(9_980, 21)]))
    other = build("touch")
    other.bus.restore(harness.bus.snapshot())
    other._inputs = 10
    other.send(market.delta(START + 300 * NS_PER_MS, [(9_990, 0)], [(9_990, 2)]))
    other.send(FeedEnded(START + NS_PER_S, "test", 1, 0))

    (told,) = other.of(TournamentMeasured)
    assert [(each.model, each.quantity) for each in told.results] == [("risk-averse", 2), ("touch", 5)]


def test_a_queue_model_may_be_chosen_by_exchange():
    market = Market()
    harness = build(queue_models={"test": {"model": "uniform"}, "other": {"model": "log"}})
    harness.send(instrument(), market.book(START, [(9_990, 100)], ASKS), submitted(START))
    harness.send(market.delta(START + 100 * NS_PER_MS, [(9_990, 200)]))
    harness.send(market.delta(START + 200 * NS_PER_MS, [(9_990, 100)]))

    (order,) = harness.bus.component(PLUGIN).open_orders()
    assert order["queue_ahead"] < 100  # risk-averse would not have moved us


@pytest.mark.parametrize("wrong", ["queue_models", "tournament"])
def test_a_model_that_does_not_exist_is_one_clear_error(wrong):
    given: Any = {"test": {"model": "fifo"}} if wrong == "queue_models" else ["log", "fifo"]
    with pytest.raises(ConfigError, match=rf"sim-fifo.*{wrong}"):
        convert.convert({wrong: given}, sim_fifo.SimFifoOptions, "plugins.toml: plugin.sim-fifo.options")


# --- The command ----------------------------------------------------------------------------------


def command(*words: str | Path) -> Result:
    app = typer.Typer()
    tournament.tickerml_commands(app)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    sys.path.insert(0, str(ODD_PLUGINS))
    home = tmp_path_factory.mktemp("home")
    made = plan('sim-fifo.tournament=["log", "touch"]')
    write(home / "runs" / "tiny" / "0001", LiveRun(made).run())
    yield home
    sys.path.remove(str(ODD_PLUGINS))


def test_the_command_shows_the_band_and_each_model_in_money(home):
    result = command("--home", home)

    assert result.exit_code == 0
    _, first, header, real, *_ = result.output.splitlines()
    assert first.startswith("USDT: ")
    assert header.split() == ["model", "orders", "filled", "fills", "notional", "fees", "P&L", "optimism"]
    assert real.startswith("risk-averse (real)")
    assert "the same orders: P&L from " in result.output


def test_the_command_gives_exact_money_as_json(home):
    said = json.loads(command("--home", home, "--json").output)

    (band,) = said["bands"]
    assert said["run"].endswith("0001")
    assert [model["model"] for model in band["models"]] == ["risk-averse", "log", "touch"]
    assert band["models"][0]["optimism"] == "0"
    assert band["models"][0]["fills"] > 0


def test_money_of_two_quote_assets_is_never_added():
    results = [contests.ModelResult("log", 1, 1, 1, 5, 1, 1, 7, 0)]
    told = [
        TournamentMeasured(9, "a", "BTC/USD", "USD", 1, 1, results),
        TournamentMeasured(9, "a", "BTC/USDT", "USDT", 1, 2, results),
        TournamentMeasured(8, "b", "ETH/USDT", "USDT", 1, 3, results),
    ]

    usd, usdt = tournament.bands_of(told)

    assert (usd["asset"], usd["accepted"], usd["until"]) == ("USD", 1, 9)
    assert (usdt["markets"], usdt["accepted"]) == (["a BTC/USDT", "b ETH/USDT"], 5)
    assert (usdt["models"][0]["pnl"], usdt["pnl_high"]) == ("0.000000000014", "0.000000000014")


def test_what_is_real_is_one_row_though_exchanges_have_models_of_their_own():
    told = [
        TournamentMeasured(
            9, name, "A/B", "B", 1, 1, [contests.ModelResult(model, 1, 1, 1, 5, 1, 1, pnl, over)]
        )
        for name, model, pnl, over in (("x", "log", 7, 0), ("y", "by-size", 1, 0))
    ]
    told = [
        msgspec.structs.replace(
            one, results=[*one.results, contests.ModelResult("touch", 1, 1, 1, 5, 1, 1, 9, 2)]
        )
        for one in told
    ]

    (band,) = tournament.bands_of(told)

    assert [(row["model"], row["is_real"]) for row in band["models"]] == [
        ("by-size, log", True),
        ("touch", False),
    ]
    assert (band["pnl_low"], band["models"][1]["optimism"]) == ("0.000000000008", "0.000000000004")


def test_the_command_says_what_is_wrong_with_what_was_named(tmp_path, home):
    with pytest.raises(ConfigError, match="there is no run in"):
        command("--home", tmp_path)
    with pytest.raises(ConfigError, match="there is no journal at"):
        command("--run", tmp_path)
    write(tmp_path / "runs" / "tiny" / "0001", LiveRun(plan()).run())
    with pytest.raises(ConfigError, match="has measured no tournament: name its models in"):
        command("--home", tmp_path)
