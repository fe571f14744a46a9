"""Rows for the tests of the tape: some like a book's, and some of any content at all."""

import numpy as np
from hypothesis import strategies as st

from tickerml.plugins.tape import ROW, stream_name

BOOK = stream_name("book", "test", "BTC/USDT")
INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-5, 5)


def rows(count: int, start: int = 0, seed: int = 0) -> np.ndarray:
    """*count* rows like a book's: one message of three levels each ms from *start*."""
    random = np.random.default_rng(seed)
    made = np.zeros(count, ROW)
    message = np.arange(count) // 3
    made["ts_recv"] = start + message * 1_000_000 + 7
    made["ts_event"] = start + message * 1_000_000
    made["seq"] = message * 2
    made["price"] = 60_000_00 + random.integers(-500, 500, count)
    made["quantity"] = random.integers(0, 3, count) * random.integers(1, 10**8, count)
    made["side"] = random.choice([1, -1], count)
    made["is_last"] = np.arange(count) % 3 == 2
    return made


@st.composite
def any_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of any content at all: extremes of int64, lawless sides and kinds, messages without an end."""
    number = st.one_of(SMALL, INT64, st.sampled_from([-(2**63), 2**63 - 1, 0]))
    row = st.tuples(
        number, number, number, number, number, st.integers(-128, 127), st.integers(0, 255), st.booleans()
    )
    return np.array(draw(st.lists(row, min_size=1, max_size=40)), ROW)
