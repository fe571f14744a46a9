"""
hftbacktest's events, as its npz files hold them.

One array of records: ev, exch_ts, local_ts, px, qty, and others that are of no use here. The low
byte of ev is the type: 1 depth, 2 trade, 3 depth cleared, 4 depth snapshot; its flags say whether the
event is one that a local observer saw, and the side. Events of one time and type are one
message; a clearing and the snapshot behind it are one whole book, and a clearing without one is a
gap: what the book is then nobody says.

Source: github.com/nkaz001/hftbacktest, docs "Data".
"""

import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tickerml.kernel import (
    UNIT,
    BookDelta,
    BookSnapshot,
    ConfigError,
    Instrument,
    Message,
    SequenceGap,
    Side,
    Trade,
)

_DEPTH, _TRADE, _CLEAR, _SNAPSHOT = 1, 2, 3, 4
_LOCAL, _BUY = 1 << 30, 1 << 29
_FIELDS = {"ev", "exch_ts", "local_ts", "px", "qty"}
_MAX_DECIMALS = 8

Events = npt.NDArray[Any]


def read_events(path: Path) -> Events:
    """
    Return the events in *path* that a local observer saw, in their order.

    Raises: ConfigError: it cannot be read, or is no such file.
    """
    try:
        with np.load(path) as archive:
            arrays = [archive[name] for name in archive.files]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read {path} as npz: {error}") from None
    # What in the archive is no array comes as bytes.
    names = [set(getattr(array, "dtype", np.dtype(int)).names or ()) for array in arrays]
    found = [array for array, its in zip(arrays, names, strict=True) if its >= _FIELDS]
    if len(found) != 1:
        raise ConfigError(
            f"{path}: expected an npz with an array of hftbacktest's events, was an archive with {len(found)}"
        )
    events = found[0]
    seen: Events = events[(events["ev"] & _LOCAL) != 0]
    return seen


def step_of(values: npt.NDArray[np.float64]) -> int:
    """Return the coarsest decimal step that all *values* are multiples of, in units of 1e-12."""
    for decimals in range(_MAX_DECIMALS):
        scaled = values * 10**decimals
        if np.allclose(scaled, np.rint(scaled), rtol=0, atol=1e-4):
            return UNIT // int(10**decimals)
    return UNIT // int(10**_MAX_DECIMALS)


def event_messages(events: Events, exchange: str, symbol: str) -> Iterator[tuple[int, list[Message]]]:
    """Yield (ts_recv, messages) for each run of *events* of one time and type, the Instrument first."""
    if not len(events):
        return
    tick, lot = step_of(events["px"]), step_of(events["qty"])
    base, quote = symbol.split("/", 1)
    first = int(events["local_ts"][0])
    yield first, [Instrument(first, exchange, symbol, base, quote, tick, lot)]
    numbers = np.stack(
        [np.rint(events["px"] * (UNIT / tick)), np.rint(events["qty"] * (UNIT / lot))], axis=1
    ).astype(np.int64)
    types = (events["ev"] & 0xFF).astype(np.int64)
    whole = np.where(types == _CLEAR, _SNAPSHOT, types)
    heads = np.stack([events["local_ts"], events["exch_ts"], whole])
    cuts = np.flatnonzero((heads[:, 1:] != heads[:, :-1]).any(axis=0)) + 1
    for start, end in pairwise([0, *cuts.tolist(), len(events)]):
        run = events[start:end]
        ts = int(run["local_ts"][0])
        is_bid = (run["ev"] & _BUY) != 0
        yield (
            ts,
            _messages(
                types[start:end], ts, int(run["exch_ts"][0]), exchange, symbol, is_bid, numbers[start:end]
            ),
        )


def _messages(
    types: npt.NDArray[np.int64],
    ts: int,
    ts_event: int,
    exchange: str,
    symbol: str,
    is_bid: npt.NDArray[np.bool_],
    numbers: npt.NDArray[np.int64],
) -> list[Message]:
    if types[0] == _TRADE:
        return [
            Trade(ts, ts_event, exchange, symbol, 0, price, quantity, Side.BUY if buys else Side.SELL)
            for (price, quantity), buys in zip(numbers.tolist(), is_bid.tolist(), strict=True)
        ]
    named = types != _CLEAR
    bids, asks = (numbers[named & side].tobytes() for side in (is_bid, ~is_bid))
    if types[0] == _DEPTH:
        return [BookDelta(ts, ts_event, exchange, symbol, 0, bids, asks)]
    if types[0] in (_CLEAR, _SNAPSHOT) and (bids or asks):
        return [BookSnapshot(ts, ts_event, exchange, symbol, 0, bids, asks)]
    return [SequenceGap(ts, exchange, symbol, 0, 0)] if types[0] == _CLEAR else []
