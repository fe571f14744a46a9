"""The core's features in the pass are those of the live plugin, bit for bit, whoever runs the core."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import (
    NS_PER_MS,
    NS_PER_S,
    BookDelta,
    BookSnapshot,
    BookStale,
    FeatureVector,
    Message,
    SequenceGap,
    Side,
    Trade,
    levels,
)
from tickerml.kernel.testing import Harness, Market, instrument
from tickerml.plugins import core_features, core_play, core_player, features_core
from tickerml.plugins import core_state as cs
from tickerml.plugins.core_features import new_sampler
from tickerml.plugins.core_player import Player

GRID = 100 * NS_PER_MS
START = 1_700_000_000 * NS_PER_S
TICK = 5 * 10**10


def market(draw: Random, count: int) -> list[Message]:
    """Return *count* messages of one symbol, whose book is doubted now and then; some are long apart."""
    source, at = Market(), START + draw.choice((0, draw.randint(0, NS_PER_S)))  # on the grid or not
    tape: list[Message] = [source.book(at, bids=side(draw, -1, 25), asks=side(draw, 1, 25))]
    for _ in range(count):
        waits = draw.choice((0, 1, NS_PER_MS, GRID, 3 * GRID, draw.randint(0, NS_PER_S)))
        at += waits if draw.random() < 0.995 else 200 * NS_PER_S
        chance = draw.random()
        if chance < 0.02:
            doubt = draw.choice(
                (SequenceGap(at, "test", "BTC/USDT", 5, 7), BookStale(at, "test", "BTC/USDT", 9))
            )
            tape.append(doubt)
        elif chance < 0.06:
            tape.append(source.book(at, bids=side(draw, -1, 25), asks=side(draw, 1, 25)))
        elif chance < 0.5:
            tape.append(source.trade(at, 1_000, draw.randint(1, 10**6), draw.choice((Side.BUY, Side.SELL))))
        else:
            nearest = draw.choice((1, 1, 1, 1, 1, 0, -1))  # which crosses the book
            tape.append(
                source.delta(at, bids=side(draw, -1, 2, nearest), asks=side(draw, 1, draw.randint(0, 2)))
            )
    return tape


def side(draw: Random, sign: int, count: int, nearest: int = 1) -> list[tuple[int, int]]:
    """Return *count* levels or fewer of one side, of which some are empty."""
    prices = {1_000 + sign * draw.randint(nearest, 30) for _ in range(count)}
    return [(price, draw.choice((0, draw.randint(1, 10**6)))) for price in sorted(prices)]


def stretch(tape: list[Message]) -> tuple[list[int], list[int]]:
    """Return the messages and rows of core_play that *tape* is, by the time of receipt."""
    messages, rows = list[int](), list[int]()
    for message in tape:
        first, bids, asks = len(rows) // 2, list[tuple[int, int]](), list[tuple[int, int]]()
        kind = core_play.RESYNCS if isinstance(message, SequenceGap) else core_play.BECOMES_STALE
        if isinstance(message, BookSnapshot | BookDelta):
            kind = core_play.SNAPSHOT if isinstance(message, BookSnapshot) else core_play.DELTA
            bids, asks = list(levels(message.bids)), list(levels(message.asks))
        elif isinstance(message, Trade):
            kind = core_play.HIT_ASK if message.aggressor is Side.BUY else core_play.HIT_BID
            bids = [(message.price, message.quantity)]
        for level in (*bids, *asks):
            rows += level
        messages += (kind, message.ts_recv, message.ts_recv, first, first + len(bids))
    return [*messages, core_play.DELTA, 0, 0, len(rows) // 2, 0], rows


def core() -> cs.Core:
    """Return a core that waits for its first snapshot."""
    return cs.new_core(0, 1, cs.CANCEL_NEWEST, cs.DEFAULT)


def sampled(tape: list[Message], is_compiled: bool = False) -> dict[int, bytes]:
    """Return the core's row of each grid point."""
    player = Player(core(), is_compiled, sampler=new_sampler(tick_size=TICK))
    player.play(*stretch(tape), [])
    times, values = player.sampled()
    assert len(set(times.tolist())) == len(times)
    return {time: bits(row) for time, row in zip(times.tolist(), values, strict=True)}


def bits(row: object) -> bytes:
    """Return the floats of *row* as they are, with every NaN the same."""
    numbers = np.array(row, np.float64)
    numbers[np.isnan(numbers)] = math.nan
    return numbers.tobytes()


@given(seed=st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_rows_are_those_of_the_live_plugin(seed: int) -> None:
    tape = market(Random(seed), 300)
    bus = Harness(features_core)
    bus.send(instrument(tick="0.05"), *tape)

    live = {row.ts_event: bits(row.unpack()) for row in bus.of(FeatureVector)}

    assert sampled(tape) == live


def test_the_markets_of_these_tests_have_rows_of_every_kind() -> None:
    rows = sampled(market(Random(1), 3_000))
    columns = np.array([np.frombuffer(row) for row in rows.values()])

    assert len(rows) > 2_000
    assert np.isnan(columns).all(axis=1).sum() > 10  # of a book in doubt
    assert np.isnan(columns[:, -1]).sum() > 500  # of windows that are not whole
    assert not np.isnan(columns).any(axis=1).all()
    assert max(np.diff(list(rows))) > 100 * NS_PER_S  # silence


@given(seed=st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_compiled_and_interpreted_rows_are_equal_bit_for_bit(seed: int) -> None:
    pytest.importorskip("numba")
    tape = market(Random(seed), 300)

    assert sampled(tape, is_compiled=True) == sampled(tape)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_room_that_was_too_small_changes_nothing(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_compiled:
        pytest.importorskip("numba")
    tape = market(Random(2), 500)
    wide = sampled(tape, is_compiled)

    monkeypatch.setattr(core_player, "_ROWS", 3)

    assert sampled(tape, is_compiled) == wide


def test_a_stretch_may_be_played_in_pieces() -> None:
    tape = market(Random(3), 400)
    player = Player(core(), sampler=new_sampler(tick_size=TICK))

    for first in range(0, len(tape), 50):
        player.play(*stretch(tape[first : first + 50]), [])

    times, values = player.sampled()
    assert {time: bits(row) for time, row in zip(times.tolist(), values, strict=True)} == sampled(tape)


def test_our_orders_are_not_in_the_rows_and_the_rows_change_no_fill() -> None:
    tape = market(Random(4), 600)
    sent, draw = list[int](), Random(5)
    for number, message in enumerate(tape[::20]):
        price, at = 1_000 + draw.randint(-5, 5), message.ts_recv
        sent += (at, number, number % 2, price, draw.randint(1, 10**5), 0, 0)
    watched = Player(core(), sampler=new_sampler(tick_size=TICK))

    told = watched.play(*stretch(tape), sent)

    assert told == Player(core()).play(*stretch(tape), sent)
    assert sum(event == cs.FILLED for event in told[:: core_play.TOLD]) > 5
    times, values = watched.sampled()
    assert {time: bits(row) for time, row in zip(times.tolist(), values, strict=True)} == sampled(tape)


def test_a_grid_of_a_millisecond_has_a_row_for_each() -> None:
    source = Market()
    book = source.book(START, bids=[(999, 3)], asks=[(1_001, 1)])
    tape = [book, *(source.trade(START + i * NS_PER_MS, 1_001, 1, Side.BUY) for i in range(1, 1_100))]
    player = Player(core(), sampler=new_sampler(grid_ms=1))

    player.play(*stretch(tape), [])

    times, values = player.sampled()
    assert np.diff(times).tolist() == [NS_PER_MS] * 1_098
    assert np.isnan(values[:1_000, 6]).all()
    assert (values[1_001:, 6] == 1.0).all()
    assert np.isnan(values[:, 5]).all()  # the mid, while no tick size is known
    assert core_features.COLUMNS == features_core.COLUMNS
