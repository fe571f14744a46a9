"""A stretch in one call of the core is the same as an event at a time, by every profile's rules."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import Instrument, OrderType, Side, TimeInForce, to_units
from tickerml.plugins import core_play, simulate_block
from tickerml.plugins import core_state as cs
from tickerml.plugins.core_player import COMPILED_LIMIT, Player
from tickerml.plugins.queue_models import queue_model
from tickerml.plugins.simulate_block import commands_of, fits, is_to_be_compiled, market_of, run_block
from tickerml.plugins.simulate_run import End, Filled, run
from tickerml.plugins.simulate_venues import EXCHANGE, PROFILES, SYMBOL, Row, Wish, open_venue

LOT = (1, 1000)
RULES = Instrument(0, EXCHANGE, SYMBOL, "BASE", "QUOTE", to_units("1"), to_units("0.001"))


def market(draw: Random, count: int) -> list[Row]:
    """Return *count* events near 100, of which some are of one time."""
    events, ts = [Row(1, "depth", (side,), 99 + 2 * side, 50) for side in (cs.BID, cs.ASK)], 1
    for _ in range(count):
        ts += draw.choice((0, 0, 3, 10))
        side, chance = draw.randint(0, 1), draw.random()
        price = 100 + (2 * side - 1) * draw.randint(-1, 6)
        if chance < 0.03:
            events.append(Row(ts, "clear", draw.choice(((0,), (1,), (0, 1))), 0, 0))
        elif chance < 0.1:
            lots = draw.randint(-30, 30)
            events.append(Row(ts, "order", (side,), price, lots, draw.randint(1, 2 * len(events))))
        elif chance < 0.3:
            events.append(Row(ts, "trade", (side,), price, draw.randint(1, 20)))
        else:
            events.append(Row(ts, "depth", (side,), price, draw.choice((0, draw.randint(1, 60)))))
    return events


def orders(draw: Random, count: int, until: int) -> list[Wish]:
    """Return *count* orders of every kind near 100, some of which are taken back."""
    made = []
    for number in range(count):
        ts, kind = draw.randint(0, until), draw.choice((OrderType.LIMIT,) * 5 + (OrderType.MARKET,))
        price = (
            100 + draw.choice((-30, 30, draw.randint(-5, 5), draw.randint(-5, 5)))
            if kind is OrderType.LIMIT
            else 0
        )
        side, tif = draw.choice((Side.BUY, Side.SELL)), draw.choice(list(TimeInForce))
        cancel = ts + draw.randint(0, 200) if draw.random() < 0.5 else None
        refused = "off the grid" if draw.random() < 0.05 else ""
        made.append(Wish(f"o{number}", ts, side, price, draw.randint(1, 40), kind, tif, cancel, refused))
    return made


def told(result: tuple[list[Filled], list[End]]) -> tuple[list[Filled], list[End]]:
    """Return *result* with the reasons of what was rejected only."""
    fills, ends = result
    return fills, [end if end.status == "rejected" else end._replace(reason="") for end in ends]


@given(
    seed=st.integers(0, 10**9),
    profile=st.sampled_from(sorted(PROFILES)),
    queue=st.sampled_from(["risk-averse", "log", "power:3", "uniform", "l3-exact"]),
)
def test_one_call_does_what_an_event_at_a_time_does(seed: int, profile: str, queue: str) -> None:
    draw = Random(seed)
    events, wishes = market(draw, 150), orders(draw, 25, 600)
    venue = open_venue(profile, queue_model(queue), RULES, LOT)

    block = run_block(profile, queue_model(queue), RULES, LOT, events, wishes, 7, False)

    assert block == told(run(venue, events, wishes, 7))


def test_the_markets_of_these_tests_have_every_end_and_reason() -> None:
    draw = Random(3)
    events, wishes = market(draw, 2_000), orders(draw, 400, 8_000)

    fills, ends = run_block("default", queue_model("log"), RULES, LOT, events, wishes, 7, False)

    assert len(fills) > 50
    assert {end.status for end in ends} == {"filled", "open", "canceled", "expired", "rejected"}
    assert len({end.reason.split(" ")[0] for end in ends if end.reason}) == 4


@settings(max_examples=20)
@given(seed=st.integers(0, 10**9), profile=st.sampled_from(sorted(PROFILES)))
def test_room_that_was_too_small_changes_nothing(seed: int, profile: str) -> None:
    draw = Random(seed)
    events, wishes = market(draw, 80), orders(draw, 90, 300)

    narrow, wide = (
        story(Player(core_of(profile), levels=levels), profile, events, wishes) for levels in (2, 500)
    )

    assert narrow == wide


def core_of(profile: str) -> cs.Core:
    """Return a core of *profile* with a book that is valid and empty."""
    core = cs.new_core(1, 1, cs.CANCEL_NEWEST, PROFILES[profile], LOT)
    core.head[cs.STATE] = cs.VALID
    return core


def story(player: Player, profile: str, events: list[Row], wishes: list[Wish]) -> tuple[list[int], list[int]]:
    """Return what *player* tells of it all, and its head after it."""
    is_default = profile == "default"
    messages, rows = market_of(events, is_default)
    result = player.play(messages, rows, commands_of(wishes, 7, is_default))
    head = player.core.head
    head[cs.NEXT_FREE] = 0  # how many slots there are is not a part of the story
    return result, head


def test_a_stretch_may_be_played_in_pieces() -> None:
    draw = Random(11)
    events = market(draw, 400)
    messages, rows = market_of(events, True)
    commands = commands_of(orders(draw, 60, 1_500), 7, True)
    player, pieces = Player(core_of("default")), list[int]()

    for begin in range(0, 2_000, 100):
        stretch = chunks(messages[: -core_play.MESSAGE], core_play.MESSAGE)
        first = sum(one[core_play.M_AT] < begin for one in stretch) * core_play.MESSAGE
        end = sum(one[core_play.M_AT] < begin + 100 for one in stretch) * core_play.MESSAGE
        sent = [c for c in chunks(commands, core_play.COMMAND) if begin <= c[core_play.C_AT] < begin + 100]
        here = [number for command in sent for number in command]
        pieces += player.play(messages[first : end + core_play.MESSAGE], rows, here)

    assert pieces == Player(core_of("default")).play(messages, rows, commands)
    assert len(pieces) > 50 * core_play.TOLD


def chunks(numbers: list[int], size: int) -> list[list[int]]:
    """Return *numbers* by *size*."""
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def test_numbers_that_would_not_fit_are_not_compiled() -> None:
    small = [Row(1, "depth", (0,), 99, 10)]

    assert fits(small, [], LOT)
    assert not fits([*small, Row(2, "depth", (0,), 99, COMPILED_LIMIT)], [], LOT)
    assert not fits(small, orders(Random(1), 1, 9), (10**12, 1))


@given(
    seed=st.integers(0, 10**9),
    profile=st.sampled_from(sorted(PROFILES)),
    queue=st.sampled_from(["risk-averse", "log", "power:3", "uniform", "l3-exact"]),
)
def test_compiled_and_interpreted_do_the_same(seed: int, profile: str, queue: str) -> None:
    pytest.importorskip("numba")
    draw = Random(seed)
    events, wishes = market(draw, 200), orders(draw, 40, 700)

    found = [
        run_block(profile, queue_model(queue), RULES, LOT, events, wishes, 7, fast) for fast in (True, False)
    ]

    assert found[0] == found[1]


def test_what_is_compiled_is_what_was_asked_for_else_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_block, "COMPILED_FROM", 3)
    few = [Row(1, "depth", (0,), 99, 10)] * 2
    huge = [Row(1, "depth", (0,), 99, COMPILED_LIMIT)] * 4

    monkeypatch.setattr(simulate_block, "is_available", lambda: True)
    assert is_to_be_compiled(True, few, [], LOT)
    assert not is_to_be_compiled(None, few, [], LOT)
    assert is_to_be_compiled(None, few * 2, [], LOT)
    assert not is_to_be_compiled(False, few * 2, [], LOT)
    assert not is_to_be_compiled(None, huge, [], LOT)
    with pytest.raises(ValueError, match="below 2\\*\\*40"):
        is_to_be_compiled(True, huge, [], LOT)

    monkeypatch.setattr(simulate_block, "is_available", lambda: False)
    assert not is_to_be_compiled(None, few * 2, [], LOT)
    with pytest.raises(ValueError, match="numba, which is not installed"):
        is_to_be_compiled(True, few, [], LOT)
