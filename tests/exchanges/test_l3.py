"""Books of single orders: against a naive model, and from the two feeds that send them."""

import json
from typing import Any
from zlib import crc32

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tickerml.exchanges.l3 import IndependentReserveFeed, KrakenL3Feed
from tickerml.exchanges.l3_book import L3Book, QueuePosition
from tickerml.kernel import (
    BookDelta,
    BookOrders,
    BookSnapshot,
    BookState,
    ChecksumFailed,
    Message,
    OrderBook,
    SequenceGap,
    Side,
    levels,
    single_orders,
)

from .recordings import recorded, replayed

MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z
MADE = "2023-11-14T22:13:20.5Z"


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# --- The book ---------------------------------------------------------------------------------------


def test_an_order_keeps_its_place_when_it_shrinks_and_loses_it_when_it_grows_or_moves() -> None:
    book = L3Book()
    for order_id in "abc":
        book.add(order_id, Side.BUY, 100, 5)

    book.modify("a", 100, 2)
    assert book.position("c") == QueuePosition(2, 7)
    book.modify("a", 100, 3)
    assert book.position("a") == QueuePosition(2, 10)
    book.modify("b", 99, 5)
    book.modify("b", 100, 5)
    assert list(next(book.queues(Side.BUY, 1))[1]) == ["c", "a", "b"]


def test_a_match_takes_from_an_order_and_ends_it() -> None:
    book = L3Book()
    book.add("a", Side.SELL, 100, 5)
    book.add("b", Side.SELL, 100, 5)

    book.match("a", 4)
    assert book.position("b") == QueuePosition(1, 1)
    book.match("a", 1)
    assert book.position("b") == QueuePosition(0, 0)
    assert "a" not in book


def test_what_an_order_cannot_do_is_refused() -> None:
    book = L3Book()
    book.add("a", Side.BUY, 100, 5)

    with pytest.raises(ValueError, match="added once"):
        book.add("a", Side.BUY, 100, 5)
    with pytest.raises(ValueError, match="quantity above 0"):
        book.add("b", Side.BUY, 100, 0)
    with pytest.raises(ValueError, match="1 lots short"):
        book.match("a", 6)
    with pytest.raises(ValueError, match="expected an order of the book"):
        book.delete("b")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "modify", "match", "delete", "trim"]),
        st.integers(0, 9),
        st.sampled_from([Side.BUY, Side.SELL]),
        st.integers(1, 5),
        st.integers(0, 4),
    ),
    max_size=100,
)


class Naive:
    """One list of orders a side and price, in the order in which they queue."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, Side, int, int]] = []

    def index(self, order_id: str) -> int:
        return next(n for n, order in enumerate(self.orders) if order[0] == order_id)

    def set(self, order_id: str, price: int, quantity: int) -> None:
        n = self.index(order_id)
        _, side, was_at, was = self.orders.pop(n)
        if quantity and price == was_at and quantity <= was:
            self.orders.insert(n, (order_id, side, price, quantity))
        elif quantity:
            self.orders.append((order_id, side, price, quantity))

    def queue(self, side: Side, price: int) -> list[tuple[str, int]]:
        return [(i, quantity) for i, s, p, quantity in self.orders if (s, p) == (side, price)]

    def l2(self, side: Side) -> dict[int, int]:
        prices = {price for _, each, price, _ in self.orders if each is side}
        return {price: sum(lots for _, lots in self.queue(side, price)) for price in prices}

    def trim(self, depth: int) -> None:
        kept = {side: sorted(self.l2(side), key=lambda price: -price * side)[:depth] for side in Side}
        self.orders = [order for order in self.orders if order[2] in kept[order[1]]]


@given(STEPS)
def test_it_is_the_naive_book_in_every_queue_and_its_l2_follows(
    steps: list[tuple[str, int, Side, int, int]],
) -> None:
    book, naive, l2 = L3Book(), Naive(), OrderBook("x", "A/B")
    l2.state = BookState.VALID
    for seq, (what, number, side, price, quantity) in enumerate(steps):
        order_id = f"o{number}"
        if what == "trim":
            book.trim(quantity + 1)
            naive.trim(quantity + 1)
        elif what == "add":
            if order_id not in book and quantity:
                book.add(order_id, side, price, quantity)
                naive.orders.append((order_id, side, price, quantity))
        elif order_id in book:
            _, _, at, has = naive.orders[naive.index(order_id)]
            if what == "modify":
                book.modify(order_id, price, quantity)
                naive.set(order_id, price, quantity)
            elif what == "match" and quantity <= has:
                book.match(order_id, quantity)
                naive.set(order_id, at, has - quantity)
            elif what == "delete":
                book.delete(order_id)
                naive.set(order_id, at, 0)
        l2.apply_delta(BookDelta(0, 0, "x", "A/B", seq, *book.drain()))

    assert len(book) == len(naive.orders)
    for side, kept in ((Side.BUY, l2.bids), (Side.SELL, l2.asks)):
        assert kept.quantities == naive.l2(side)
        assert {price: list(queue.items()) for price, queue in book.queues(side, 99)} == {
            price: naive.queue(side, price) for price in naive.l2(side)
        }
    for order_id, side, price, _ in naive.orders:
        before = naive.queue(side, price)
        before = before[: [each for each, _ in before].index(order_id)]
        assert book.position(order_id) == QueuePosition(len(before), sum(lots for _, lots in before))


@given(STEPS)
def test_what_it_tells_of_single_orders_is_every_queue_by_number(
    steps: list[tuple[str, int, Side, int, int]],
) -> None:
    book, told = L3Book(), dict[int, list[int]]()  # number: side, price, lots
    for what, number, side, price, quantity in steps:
        order_id = f"o{number}"
        if what == "trim":
            book.trim(quantity + 1)
        elif what == "add" and order_id not in book and quantity:
            book.add(order_id, side, price, quantity)
        elif what == "modify" and order_id in book:
            book.modify(order_id, price, quantity)
        elif what == "delete" and order_id in book:
            book.delete(order_id)
        singles = list(single_orders(book.drain_orders()))
        assert [single[0] for single in singles] == sorted((s[0] for s in singles), reverse=True)
        for sign, place, at, lots in singles:
            told.setdefault(place, [sign, at, 0])[2] += lots

    for side in Side:
        for price, queue in book.queues(side, 99):
            there = sorted((place, has[2]) for place, has in told.items() if has[:2] == [side, price])
            assert [lots for _, lots in there if lots] == list(queue.values())
    assert sum(lots > 0 for _, _, lots in told.values()) == len(book)


def test_after_all_orders_are_forgotten_numbers_go_on() -> None:
    book = L3Book()
    book.add("a", Side.BUY, 100, 5)
    book.clear()
    book.add("b", Side.BUY, 100, 5)

    assert list(single_orders(book.drain_orders())) == [(1, 2, 100, 5)]


# --- Independent Reserve ----------------------------------------------------------------------------

ALL_ORDERS = (
    "https://api.independentreserve.com/Public/GetAllOrders?primaryCurrencyCode=eth&secondaryCurrencyCode=aud"
)


def event(nonce: int, kind: str, order_id: str, ms: int = MS, **more: Any) -> bytes:
    data = {"OrderType": "LimitBid", "OrderGuid": order_id, **more}
    return raw({"Channel": "orderbook-eth", "Nonce": nonce, "Data": data, "Time": ms, "Event": kind})


def new(nonce: int, order_id: str, ms: int = MS, aud: float = 100.5, **more: Any) -> bytes:
    return event(nonce, "NewOrder", order_id, ms, Price={"aud": aud, "usd": 70.1}, **{"Volume": 2.0, **more})


def all_orders(*bids: tuple[str, float, float]) -> bytes:
    listed = [{"Guid": order_id, "Price": price, "Volume": volume} for order_id, price, volume in bids]
    asks = [{"Guid": "ask", "Price": 101.0, "Volume": 1.0}]
    return raw({"BuyOrders": listed, "SellOrders": asks, "CreatedTimestampUtc": MADE})


def reserve() -> IndependentReserveFeed:
    return IndependentReserveFeed("independentreserve", structlog.get_logger())


def test_a_book_is_whole_at_the_first_frame_from_after_the_reply() -> None:
    feed = reserve()

    early = feed.on_frame(1, new(5, "a"))
    replied = feed.on_reply(2, ALL_ORDERS, all_orders(("a", 100.5, 2.0), ("b", 100.5, 1.0)))
    known = feed.on_frame(3, new(6, "b", MS + 400))
    later = feed.on_frame(4, new(7, "c", MS + 600))

    assert (early, replied, known) == ([], [], [])
    assert kinds(later) == ["Instrument", "BookOrders", "BookSnapshot"]
    assert feed.orders("eth-aud").position("c") == QueuePosition(2, 3 * 10**8)
    assert feed.book("eth-aud").bids.top(1) == [(10_050_000_000, 5 * 10**8)]


def test_a_heartbeat_from_after_the_reply_will_do() -> None:
    feed = reserve()
    feed.on_reply(2, ALL_ORDERS, all_orders(("a", 100.5, 2.0)))

    assert kinds(feed.on_frame(3, raw({"Event": "Heartbeat", "Time": MS + 600}))) == [
        "Instrument",
        "BookOrders",
        "BookSnapshot",
    ]


def whole(*bids: tuple[str, float, float]) -> IndependentReserveFeed:
    feed = reserve()
    feed.on_reply(1, ALL_ORDERS, all_orders(*bids))
    feed.on_frame(2, event(1, "OrderCanceled", "nobody", MS + 600))
    return feed


def test_orders_come_change_and_go_level_by_level() -> None:
    feed = whole(("a", 100.5, 2.0))

    messages = [
        *feed.on_frame(3, new(2, "b", MS + 700)),
        *feed.on_frame(4, event(3, "OrderChanged", "a", MS + 700, Volume=0.5)),
        *feed.on_frame(5, event(4, "OrderCanceled", "b", MS + 700)),
        *feed.on_frame(6, event(5, "OrderChanged", "a", MS + 700, Volume=0)),
    ]

    told = [list(levels(message.bids)) for message in messages if isinstance(message, BookDelta)]
    assert told == [[(10_050_000_000, lots)] for lots in (4 * 10**8, 25 * 10**7, 5 * 10**7, 0)]
    assert feed.book("eth-aud").best_bid == 0


def test_a_jump_of_the_nonce_is_a_gap_and_wants_a_new_reply() -> None:
    feed = whole(("a", 100.5, 2.0))

    gap = feed.on_frame(3, new(4, "b", MS + 700))
    assert gap == [SequenceGap(3, "independentreserve", "ETH/AUD", 2, 4)]
    assert feed.needs_snapshot("eth-aud")
    feed.on_reply(4, ALL_ORDERS, all_orders(("a", 100.5, 2.0)))
    back = feed.on_frame(5, new(5, "c", MS + 800))

    assert kinds(back) == ["BookOrders", "BookSnapshot", "BookResynced"]
    assert sorted(each for each in "abc" if each in feed.orders("eth-aud")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (new(2, "b", MS + 700, OrderType="Market"), "malformed order"),
        (new(2, "b", MS + 700, Volume="much"), "number off the grid"),
    ],
)
def test_an_order_that_cannot_be_read_is_a_gap(bad: bytes, reason: str) -> None:
    feed = whole(("a", 100.5, 2.0))

    assert kinds(feed.on_frame(3, bad)) == ["SequenceGap"]
    assert feed.tally.reasons == {reason: 1}


def test_a_reply_that_names_an_order_twice_is_skipped() -> None:
    feed = reserve()
    feed.on_reply(1, ALL_ORDERS, all_orders(("a", 100.5, 2.0), ("a", 100.4, 2.0)))

    assert feed.on_frame(2, event(1, "OrderCanceled", "nobody", MS + 600)) == []
    assert feed.tally.reasons == {"malformed reply": 1}
    assert feed.needs_snapshot("eth-aud")


def test_other_frames_are_known_or_skipped_with_their_reason() -> None:
    feed = reserve()
    for frame in ({"Event": "Subscriptions"}, {"Event": "Trade"}, {"Event": "Error", "Data": "no"}):
        feed.on_frame(1, raw(frame))

    assert feed.tally.reasons == {"unsupported stream": 1, "error frame": 1}


def test_names_are_ours_and_theirs() -> None:
    assert reserve().symbol_of("xbt-aud") == "BTC/AUD"
    assert reserve().wire_of("BTC/AUD") == "xbt-aud"


@pytest.mark.captures
def test_the_recorded_session_has_every_nonce_and_never_crosses() -> None:
    name = "l3_independentreserve/20220403_l3_eth_snx_etc_eos"

    feed, messages = replayed(reserve(), *recorded(f"{name}.ws.txt", f"{name}.snapshots.txt"))

    summary = feed.summary(1)
    assert (summary.messages, summary.skipped, summary.gaps, summary.crossed_books) == (952, 0, 0, 0)
    assert (summary.books, summary.valid_books) == (1, 1)
    assert sum(isinstance(message, BookSnapshot) for message in messages) == 1
    book, orders = feed.book("eth-aud"), feed.orders("eth-aud")
    for side, l2 in ((Side.BUY, book.bids), (Side.SELL, book.asks)):
        assert l2.quantities == {price: sum(queue.values()) for price, queue in orders.queues(side, 10_000)}


# --- Kraken -----------------------------------------------------------------------------------------


def order(order_id: str, price: str, quantity: str, what: str = "") -> str:
    happened = f'"event":"{what}",' if what else ""
    return f'{{{happened}"order_id":"{order_id}","limit_price":{price},"order_qty":{quantity}}}'


def level3(kind: str, text: str, bids: str = "", asks: str = "") -> bytes:
    """*text*: what the checksum is of, asks first, each price and quantity without its point."""
    told = f'"symbol":"BTC/USD","checksum":{crc32(text.encode())},"bids":[{bids}],"asks":[{asks}]'
    stamp = '"timestamp":"2023-11-14T22:13:20.000000Z"'
    return f'{{"channel":"level3","type":"{kind}","data":[{{{told},{stamp}}}]}}'.encode()


BIDS = ",".join((order("b1", "100.0", "0.50000000"), order("b2", "100.0", "1.20000000")))
ASKS = order("a1", "100.1", "0.80000000")
START = "100180000000" + "100050000000" + "1000120000000"


def level3_feed(depth: int = 10) -> KrakenL3Feed:
    return KrakenL3Feed("kraken", structlog.get_logger(), depth=depth)


def test_the_checksum_covers_every_order_in_its_place() -> None:
    feed = level3_feed()

    start = feed.on_frame(1, level3("snapshot", START, BIDS, ASKS))
    smaller = feed.on_frame(
        2,
        level3(
            "update", START.replace("50000000", "40000000", 1), order("b1", "100.0", "0.40000000", "modify")
        ),
    )

    assert kinds(start) == ["Instrument", "BookOrders", "BookSnapshot"]
    assert kinds(smaller) == ["BookOrders", "BookDelta"]
    assert feed.orders("BTC/USD").position("b2") == QueuePosition(1, 40_000_000)
    assert (feed.tally.count("BTC/USD").checksums_ok, feed.tally.valid_books) == (2, 1)


def test_orders_in_another_order_are_another_book() -> None:
    feed = level3_feed()
    swapped = "100180000000" + "1000120000000" + "100050000000"

    failed = feed.on_frame(1, level3("snapshot", swapped, BIDS, ASKS))
    unheard = feed.on_frame(2, level3("update", START, order("b1", "100.0", "0.4", "modify")))
    back = feed.on_frame(3, level3("snapshot", START, BIDS, ASKS))

    assert kinds(failed) == ["Instrument", "ChecksumFailed"]
    assert isinstance(failed[1], ChecksumFailed)
    assert failed[1].expected == crc32(swapped.encode())
    assert unheard == []
    assert kinds(back)[:2] == ["BookOrders", "BookSnapshot"]


def test_an_order_that_nobody_knows_is_a_gap() -> None:
    feed = level3_feed()
    feed.on_frame(1, level3("snapshot", START, BIDS, ASKS))

    assert kinds(feed.on_frame(2, level3("update", START, order("b9", "100.0", "0", "delete")))) == [
        "SequenceGap"
    ]
    assert feed.tally.reasons == {"broken book": 1}


def test_a_price_that_falls_out_of_the_depth_is_deleted_from_the_l2_book_too() -> None:
    feed = level3_feed(depth=1)
    ask = order("a1", "100.3", "0.80000000")
    feed.on_frame(1, level3("snapshot", START.replace("1001", "1003"), BIDS, ask))
    text = "1003" + "80000000" + "1002" + "30000000"

    singles, delta = feed.on_frame(2, level3("update", text, order("b3", "100.2", "0.30000000", "add")))

    assert isinstance(singles, BookOrders)
    assert isinstance(delta, BookDelta)
    came_and_left = [(price, lots) for _, _, price, lots in single_orders(singles.orders)]
    assert came_and_left == [(1002, 30_000_000), (1000, -50_000_000), (1000, -120_000_000)]
    assert list(levels(delta.bids)) == [(1002, 30_000_000), (1000, 0)]
    assert "b1" not in feed.orders("BTC/USD")


def test_the_other_channels_are_krakens_own() -> None:
    feed = level3_feed()

    assert feed.on_frame(1, b'{"channel":"heartbeat"}') == []
    assert feed.on_frame(1, b"{") == []
    assert feed.tally.reasons == {"malformed frame": 1}
