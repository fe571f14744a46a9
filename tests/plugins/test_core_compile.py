"""The compiled core does what the interpreted one does, number for number; it needs numba."""

from random import Random
from typing import Any

import pytest

from tickerml.plugins import core_compile, core_match, core_replay
from tickerml.plugins import core_state as cs

pytest.importorskip("numba")


def event(draw: Random) -> tuple[int, int, int, int]:
    """Return kind, side, price and lots of anything near 100."""
    side = draw.randint(0, 1)
    return int(draw.random() < 0.2), side, 100 + (2 * side - 1) * draw.randint(1, 9), draw.randint(1, 30)


def story(functions: Any) -> list[list[int]]:
    """Return what orders and a market of one seed lead to, by *functions* or, of None, interpreted."""
    draw, told = Random(5), []
    core = cs.new_core(2, 3, cs.CANCEL_NEWEST, cs.DEFAULT)
    cs.make_room(core, 400, 400)
    submit = functions.submit if functions else core_match.submit
    replay = functions.replay if functions else core_replay.replay
    array: Any = list
    if functions:
        np = pytest.importorskip("numpy")
        core = core_compile.as_arrays(core, 400, 400)
        array = lambda numbers: np.array(numbers, np.int64)  # noqa: E731
    core.head[cs.STATE] = cs.VALID
    for number in range(300):
        events = [event(draw) for _ in range(20)]
        kinds, sides = array([e[0] for e in events]), array([e[1] for e in events])
        rows = array([n for e in events for n in e[2:]])
        times = array([10**9 * (number + 1) + i for i in range(20)])
        at = 0
        while at < 20:
            at = replay(core, kinds, sides, rows, times, at)
            told.append([int(n) for n in core.out[: core.head[cs.EVENTS] * cs.OUT]])
        side, price = draw.randint(0, 1), 100 + draw.randint(-9, 9)
        if core.head[cs.LEVELS] and core.head[cs.LEVELS + 1] and number < 150:
            end = submit(core, number, side, price, price, 7, number % 3, True, False, 0, int(times[-1]))
            told.append([int(end), *(int(n) for n in core.out[: core.head[cs.EVENTS] * cs.OUT])])
    return [*told, [int(n) for n in core.head[: cs.LOT_DENOMINATOR]]]


def test_compiled_and_interpreted_tell_the_same_story() -> None:
    told = story(None)

    assert sum(map(len, told)) > 2_000
    assert story(core_compile.compiled()) == told
