"""The compiled core does what the interpreted one does, number for number; it needs numba."""

from bisect import bisect_left
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.plugins import core_columns, core_compile, core_play
from tickerml.plugins import core_state as cs
from tickerml.plugins.core_player import Player, pack_market

DEFAULT_KINDS = (*range(8), *[core_play.DELTA] * 40, *[core_play.SNAPSHOT] * 4, *[core_play.HIT_BID] * 4)
PEER_KINDS = (core_play.DELTA,) * 9 + (core_play.HIT_BID, core_play.HIT_ASK) * 2


def stretch(draw: Random, number: int, is_peer: bool) -> tuple[list[int], list[int], list[int]]:
    """Return messages, rows and commands of anything near 100, at the time *number*."""
    messages, rows, commands = list[int](), list[int](), list[int]()
    for i in range(20):
        kind = draw.choice(PEER_KINDS if is_peer else DEFAULT_KINDS)
        first, at = len(rows) // 2, 1_000 * number + 10 * i
        count = 1 if is_peer or kind in (core_play.HIT_BID, core_play.HIT_ASK) else draw.randint(1, 4)
        middle = first + draw.randint(0, count)
        messages += (kind, at, draw.choice((0, at, at - 15)), first, middle)
        for j in range(first, first + count):
            rows += (
                100 + draw.randint(1, 9) * (-1 if j < middle else 1),
                draw.choice((0, draw.randint(1, 30))),
            )
    messages += (core_play.DELTA, 0, 0, len(rows) // 2, 0)
    for i in range(draw.randint(0, 3)):
        taken_back, terms = draw.random() < 0.3, draw.randint(0, 4 if is_peer else 6)
        order = draw.randint(0, 3 * number) if taken_back else 3 * number + i
        price = 100 + draw.choice((-30, 30, draw.randint(-9, 9)))
        quantity = 0 if taken_back else draw.randint(1, 20)
        at = 1_000 * number + 60 * i
        commands += (at, order, draw.randint(0, 1), price, quantity, terms, draw.randint(0, 1))
    return messages, rows, commands


@pytest.mark.parametrize("self_trade", range(5))
@pytest.mark.parametrize("model", [(0, 1), (1, 1), (2, 3), (3, 1)])
def test_compiled_and_interpreted_tell_the_same_story(self_trade: int, model: tuple[int, int]) -> None:
    pytest.importorskip("numba")
    assert_same(Random(5), cs.new_core(*model, self_trade, cs.DEFAULT))


@pytest.mark.parametrize("profile", [cs.HFTBACKTEST, cs.TOUCH, cs.CROSS])
@pytest.mark.parametrize("model", [(0, 1), (1, 1), (2, 3)])
def test_compiled_and_interpreted_peers_tell_the_same_story(profile: int, model: tuple[int, int]) -> None:
    pytest.importorskip("numba")
    assert_same(Random(7), cs.new_core(*model, cs.STP_NONE, profile, (1, 1000)))


def assert_same(draw: Random, core: cs.Core) -> None:
    """Play 200 stretches both ways, and compare what they tell and what they are after each."""
    is_peer = core.head[cs.PROFILE] != cs.DEFAULT
    players = [Player(core_compile.unpack(core_compile.pack(core, 16, 0)), fast) for fast in (True, False)]
    told = 0
    for number in range(1, 200):
        given = stretch(draw, number, is_peer)
        compiled, interpreted = (player.play(*given) for player in players)
        assert compiled == interpreted
        told += len(compiled) // core_play.TOLD
    assert told > 200
    compiled_core, interpreted_core = (player.core for player in players)
    assert compiled_core.head == interpreted_core.head
    assert compiled_core[1:9] == interpreted_core[1:9]
    assert (compiled_core.orders, compiled_core.queue) == (interpreted_core.orders, interpreted_core.queue)


def test_columns_are_packed_into_messages_of_one_time_with_bids_first() -> None:
    np = pytest.importorskip("numpy")
    #                         a level of each side, a print, and two more
    columns = [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [103, 99, 99, 98, 97], [5, 6, 1, 7, 0], [10, 10, 10, 10, 20]]

    messages, rows = pack_market(*(np.array(column) for column in columns))

    delta, hit_bid = core_play.DELTA, core_play.HIT_BID
    assert chunks(messages.tolist(), core_play.MESSAGE) == [
        [delta, 10, 10, 0, 1],
        [hit_bid, 10, 0, 2, 3],
        [delta, 10, 10, 3, 4],
        [delta, 20, 20, 4, 5],
        [0, 0, 0, 5, 0],
    ]
    assert chunks(rows.tolist(), 2) == [[99, 6], [103, 5], [99, 1], [98, 7], [97, 0]]


def chunks(numbers: list[int], size: int) -> list[list[int]]:
    """Return *numbers* by *size*."""
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def test_a_packed_core_is_the_same_when_it_is_unpacked_and_has_more_room() -> None:
    draw, player = Random(5), Player(cs.new_core(1, 1, cs.CANCEL_NEWEST, cs.DEFAULT))
    for number in range(1, 60):
        player.play(*stretch(draw, number, False))
    core = player.core

    again = core_compile.unpack(core_compile.pack(core, 2_000, 500))

    assert core.head[cs.ORDERS] > 3
    assert again[1:9] == core[1:9]
    assert again.orders[: len(core.orders)] == core.orders


@given(count=st.integers(0, 150), key=st.integers(-1, 200), cut=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_column_is_searched_as_a_list_is(count: int, key: int, cut: int, seed: int) -> None:
    column = sorted(Random(seed).sample(range(200), count))
    low = min(cut, count)

    assert core_columns.search(column, key, low, count) == bisect_left(column, key, low)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**9))
def test_levels_are_set_in_columns_as_in_a_list_and_nothing_is_written_beyond_their_room(seed: int) -> None:
    draw, room = Random(seed), 60 + core_columns.SPARE
    head, keys, sizes, known = [0], [0] * room + [-7], [0] * room + [-7], dict[int, int]()

    for _ in range(300):
        key, size = draw.randrange(60), draw.choice((0, draw.randint(1, 9), draw.randint(1, 9)))
        assert core_columns.set_level(head, 0, keys, sizes, key, size) == known.pop(key, 0)
        if size:
            known[key] = size

        assert keys[: head[0]] == sorted(known)
        assert sizes[: head[0]] == [known[one] for one in sorted(known)]
    assert keys[room] == sizes[room] == -7
