"""
One Kraken book kept in step with the exchange by the CRC32 that comes with every update.

Kraken numbers nothing. Instead each message says what the CRC32 of the ten best asks and the
ten best bids is once its changes are made:

    asks, best first     5872.90  0.36000000   ->  "587290" "36000000"
    bids, best first     5872.80  1.00000000   ->  "587280" "100000000"
    crc32("58729036000000..." + "587280100000000...")

The digits are those of the text on the wire, its decimal point and leading zeros removed:
"0.36000000" and 0.36 are one number and two checksums, so the text's digits are kept with
every level. They are read once: the same few thousand texts come again and again. And a side
is joined anew only when one of its ten best changed, which half of all updates do not do.

The book must be cut to the subscribed depth after every update, because Kraken does not say
when a level falls out of it; the deltas given out delete what was cut, so whoever applies them
has the same book. A lost update of a level below the tenth is seen when the level rises into
the ten best, and not before: that is as much as the checksum can show.

The numbers of snapshots and deltas (seq) are our own count: Kraken has none.
Source: Kraken API center, "Book checksum (WebSocket v1)" and "(WebSocket v2)".
"""

from bisect import bisect_left
from collections.abc import Sequence
from struct import Struct
from typing import Protocol
from zlib import crc32

import msgspec

from tickerml.kernel import (
    BookDelta,
    BookSide,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    Grid,
    Instrument,
    MalformedMessage,
    Message,
)

from .decimals import decimals_of
from .keeper import Keeper

_TOP = 10  # levels of each side that the checksum covers
_REMEMBERED = 1 << 11  # texts of prices, and of quantities, of one book
_INT64 = 2**63
_RESYNCING, _VALID = BookState.RESYNCING, BookState.VALID
_pack = Struct("<qq").pack


class Level(Protocol):
    """A price and a quantity as the raw JSON of the wire, quoted or not."""

    @property
    def price(self) -> msgspec.Raw:
        """In the quote asset."""

    @property
    def qty(self) -> msgspec.Raw:
        """In the base asset; 0 deletes the level."""


class Update(Protocol):
    """The levels that changed, or all of them; checksum is None where the protocol gives none."""

    @property
    def bids(self) -> Sequence[Level]:
        """Best first in a whole book."""

    @property
    def asks(self) -> Sequence[Level]:
        """Best first in a whole book."""

    @property
    def checksum(self) -> int | None:
        """Of the book after the changes."""


class _Texts(dict[bytes, tuple[int, bytes]]):
    # The text of a number -> how many steps of a grid it is, and its digits for the checksum.

    def __init__(self, step: int) -> None:
        self._parse = Grid(step).parse
        self._decimals = decimals_of(step)

    def __missing__(self, text: bytes) -> tuple[int, bytes]:
        number = text.strip(b'"')
        whole, _, fraction = number.partition(b".")
        digits = whole + fraction
        if not digits.isdigit():
            raise ValueError(f"expected a decimal number, was {text[:40]!r}")
        places = self._decimals - len(fraction)
        steps = int(digits) * 10**places if places >= 0 else self._parse(number.decode())
        if steps >= _INT64:
            raise ValueError(f"expected less than 2**63 steps, was {text[:40]!r}")
        if len(self) >= _REMEMBERED:
            self.clear()
        read = self[text] = steps, digits.lstrip(b"0")
        return read


class _Side(BookSide):
    # One side of the book that keeps the digits of its levels, and those of the ten best joined.
    __slots__ = ("_digits", "_prices", "_sizes", "crc", "joined")

    def __init__(self, sign: int, prices: _Texts, sizes: _Texts) -> None:
        super().__init__(sign)
        self._prices = prices
        self._sizes = sizes
        self._digits: list[bytes] = []  # of the price and the quantity of each of keys, in their order
        self.joined = b""
        self.crc = 0

    def clear(self) -> None:
        super().clear()
        self._digits.clear()
        self.joined = b""
        self.crc = 0

    def take(self, levels: Sequence[Level], depth: int) -> bytes:
        # Make the changes and cut to *depth*; return them packed, what was cut as deletions.
        sign, keys, quantities, digits = self._sign, self.keys, self.quantities, self._digits
        prices, sizes = self._prices, self._sizes
        tenth = keys[-_TOP] if len(keys) >= _TOP else -_INT64
        best = -_INT64
        packed = b""
        for level in levels:
            price, price_digits = prices[bytes(level.price)]
            quantity, quantity_digits = sizes[bytes(level.qty)]
            packed += _pack(price, quantity)
            key = sign * price
            at = bisect_left(keys, key)
            if not quantity:
                if quantities.pop(price, None) is None:
                    continue
                del keys[at], digits[at]
            elif price in quantities:
                quantities[price] = quantity
                digits[at] = price_digits + quantity_digits
            else:
                quantities[price] = quantity
                keys.insert(at, key)
                digits.insert(at, price_digits + quantity_digits)
            if key > best:
                best = key
        if best >= tenth:
            self.joined = b"".join(digits[: -_TOP - 1 : -1])
            self.crc = crc32(self.joined)
        if len(keys) > depth:
            packed += self._cut(len(keys) - depth)
        return packed

    def _cut(self, extra: int) -> bytes:
        prices = [self._sign * key for key in self.keys[:extra]]
        del self.keys[:extra], self._digits[:extra]
        for price in prices:
            del self.quantities[price]
        return b"".join([_pack(price, 0) for price in prices])


class ChecksumSync(Keeper):
    """One symbol's book in step with the exchange, by the rules at the top; it does no I/O."""

    __slots__ = ("_asks", "_bids", "depth")

    def __init__(self, instrument: Instrument, depth: int, *, was_whole: bool = False) -> None:
        """
        Args:
            depth: levels of each side that are subscribed to, at least ten; may be set before a snapshot.
            was_whole: an earlier feed had this book, so its first snapshot is a resync.
        """
        super().__init__(instrument.exchange, instrument.symbol, was_whole=was_whole)
        self.depth = depth
        prices, sizes = _Texts(instrument.tick_size), _Texts(instrument.lot_size)
        self._bids = self.book.bids = _Side(+1, prices, sizes)
        self._asks = self.book.asks = _Side(-1, prices, sizes)

    def on_whole(self, ts_recv: int, ts_event: int, whole: Update) -> list[Message]:
        """
        Take a whole book; return it, BookResynced after a loss, or ChecksumFailed.

        Raises: MalformedMessage: a number cannot be read; say on_missing() then.
        """
        book = self.book
        self._bids.clear()
        self._asks.clear()
        bids, asks = self._take(whole)
        if whole.checksum is not None and self._crc() != whole.checksum:
            return self._failed(ts_recv, whole.checksum)
        snapshot = BookSnapshot(ts_recv, ts_event, book.exchange, book.symbol, book.seq + 1, bids, asks)
        book.state = _VALID
        book.seq, book.ts_event, book.ts_recv = snapshot.seq, ts_event, ts_recv
        return [snapshot, *self._crossed(ts_recv), *self._resynced(ts_recv)]

    def on_update(self, ts_recv: int, ts_event: int, update: Update) -> list[Message]:
        """
        Take one update; return it, nothing while a snapshot is awaited, or ChecksumFailed.

        Raises: MalformedMessage: a number cannot be read, or no checksum; say on_missing() then.
        """
        book = self.book
        if book.state is _RESYNCING:
            return []
        if (checksum := update.checksum) is None:
            raise MalformedMessage("malformed frame: expected a checksum with an update, was none")
        bids, asks = self._take(update)
        if self._crc() != checksum:
            return self._failed(ts_recv, checksum)
        delta = BookDelta(ts_recv, ts_event, book.exchange, book.symbol, book.seq + 1, bids, asks)
        book.state = _VALID  # a silent book speaks again
        book.seq, book.ts_event, book.ts_recv = delta.seq, ts_event, ts_recv
        bid, ask = self._bids.keys, self._asks.keys
        if self._was_crossed or (bid and ask and bid[-1] + ask[-1] >= 0):
            return [delta, *self._crossed(ts_recv)]
        return [delta]

    def _take(self, update: Update) -> tuple[bytes, bytes]:
        bids, asks = update.bids, update.asks
        try:
            return (
                self._bids.take(bids, self.depth) if bids else b"",
                self._asks.take(asks, self.depth) if asks else b"",
            )
        except (ValueError, OverflowError) as error:
            raise MalformedMessage(f"number off the grid: {self.book.symbol}: {error}") from None

    def _crc(self) -> int:
        return crc32(self._bids.joined, self._asks.crc)

    def _failed(self, ts_recv: int, checksum: int) -> list[Message]:
        self.on_lost()
        return [ChecksumFailed(ts_recv, self.book.exchange, self.book.symbol, checksum, self._crc())]
