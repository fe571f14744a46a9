"""The sequencer: one order over everything, and nothing in it that its origin may not say."""

import itertools
from collections import Counter
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.kernel import CodecError, OrderType, Side, TimeInForce, codec, topics
from tickerml.kernel import messages as m
from tickerml.kernel.sequencer import Sequencer, SequencerState, roll_forward

SYMBOLS = ("BTC/USDT", "ETH/USDT")


def trade(ts: int, symbol: str = "BTC/USDT") -> m.Trade:
    return m.Trade(ts, ts, "test", symbol, ts, 100, 5, Side.BUY)


def order(ts: int, symbol: str = "BTC/USDT") -> m.SubmitOrder:
    limit, gtc = OrderType.LIMIT, TimeInForce.GTC
    return m.SubmitOrder(ts, f"o-{ts}", "mine", "paper", "test", symbol, Side.BUY, limit, gtc, 100, 5)


def fill(ts: int) -> m.OrderFilled:
    return m.OrderFilled(
        ts, ts, f"o-{ts}", 1, "mine", "paper", "test", "BTC/USDT", Side.BUY, 100, 5, 0,
        m.Liquidity.MAKER, 7, "USDT", 3, 1, 10, False, 201,
    )  # fmt: skip


def frame_of(
    sequencer: Sequencer,
    origin: int,
    message: m.Message,
    cause: int,
    n: int = 0,
    *,
    epoch: int = 0,
    topic: bytes = b"",
) -> bytes:
    """Return *message* as the host of *origin* pushes it."""
    return codec.pack_output(
        topic or topics.topic_of(message),
        origin,
        epoch or sequencer.epoch(origin),
        n,
        cause,
        codec.encode(message),
    )


class Output(NamedTuple):
    """One thing that a random run does: a component publishes, or the kernel announces."""

    component: int
    kind: int
    symbol: str


OUTPUTS = st.builds(Output, st.integers(0, 2), st.integers(0, 2), st.sampled_from(SYMBOLS))


class Run:
    """A sequencer with a market, a strategy and the kernel itself talking."""

    def __init__(self, state: SequencerState | None = None) -> None:
        self.sequencer = Sequencer(state)
        self.market = self.sequencer.admit("market", [m.Trade, m.FeedSummarized])
        self.strategy = self.sequencer.admit("strategy", [m.SubmitOrder, m.PluginFailed])

    def do(self, cause: int, output: Output) -> bytes:
        """Have *output* published; returns the stamped frame."""
        ts = cause + 1
        if output.component == 0:
            announced = [m.TimeTick(ts), m.HaltTrading(ts, "a person", "lunch"), m.Sync(ts, "flow")]
            return self.sequencer.announce(announced[output.kind])
        if output.component == 1:
            summary = m.FeedSummarized(ts, "test", ts, 0, 0, 0)
            said: m.Message = [trade(ts, output.symbol), summary, trade(ts, output.symbol)][output.kind]
            origin = self.market
        else:
            failed = m.PluginFailed(ts, "strategy", "strategy", "on_trade", "it broke")
            said = [order(ts, output.symbol), failed, order(ts, output.symbol)][output.kind]
            origin = self.strategy
        stamped = self.sequencer.accept(frame_of(self.sequencer, origin, said, cause))
        assert stamped is not None
        return stamped


def run_of(outputs: list[Output]) -> tuple[Run, list[bytes]]:
    run = Run()
    return run, [run.do(cause, output) for cause, output in enumerate(outputs)]


@given(st.lists(OUTPUTS, max_size=40))
def test_everything_has_one_place_in_the_order_and_in_its_topic(outputs):
    _, stamped = run_of(outputs)

    frames = [codec.unpack(raw) for raw in stamped]
    assert [frame.seq for frame in frames] == list(range(1, len(outputs) + 1))
    seen: Counter[bytes] = Counter()
    for frame in frames:
        seen[frame.topic] += 1
        assert frame.tseq == seen[frame.topic]


def test_what_is_stamped_is_what_was_pushed():
    run = Run()
    message = order(7)

    stamped = run.sequencer.accept(frame_of(run.sequencer, run.strategy, message, 42, 3))

    assert stamped is not None
    frame = codec.unpack(stamped)
    assert (frame.topic, frame.origin, frame.cause, frame.n) == (b"order.test.BTC-USDT.", run.strategy, 42, 3)
    assert codec.decode(frame.body) == message


def test_a_message_of_more_than_fifteen_fields_is_admitted():
    sequencer = Sequencer()
    simulator = sequencer.admit("sim", [m.OrderFilled])
    raw = frame_of(sequencer, simulator, fill(5), 1)
    assert codec.encode(fill(5))[0] == 0xDC  # an array16, whose tag stands two bytes further on

    stamped = sequencer.accept(raw)

    assert stamped is not None
    assert codec.decode(codec.unpack(stamped).body) == fill(5)
    assert sequencer.summary.report()["fills"] == 1


@pytest.mark.parametrize("cls", m.message_types(), ids=lambda cls: cls.__name__)
def test_each_type_passes_from_the_one_who_declared_it_and_from_nobody_else(cls):
    sequencer = Sequencer()
    declared = sequencer.admit("declared", [cls])
    others = sequencer.admit("others", [other for other in m.message_types() if other is not cls])
    topic = topics.topic(topics.KIND_OF[cls])
    values = [0, *("x" for _ in cls.__struct_fields__[1:])]
    body = codec.encode(cls(*values))  # only the tag matters here: not every kind is decoded on its way

    for origin in (declared, others):
        sequencer.accept(codec.pack_output(topic, origin, sequencer.epoch(origin), 0, 1, body))

    assert not [why for why in sequencer.refused if why.startswith("declared") and "malformed" not in why]
    assert [why for why in sequencer.refused if why.startswith("others")] == [
        f"others: {cls.__name__} on {topic.decode()}"
    ]


def test_a_strategy_can_never_publish_a_fill():
    run = Run()
    forged = fill(1)

    stamped = run.sequencer.accept(frame_of(run.sequencer, run.strategy, forged, 1))

    assert stamped is None
    assert run.sequencer.seq == 0
    assert run.sequencer.refused == {"strategy: OrderFilled on fill.test.BTC-USDT.": 1}


def test_a_declared_type_does_not_pass_on_a_topic_of_another_kind():
    run = Run()
    disguised = frame_of(run.sequencer, run.strategy, order(1), 1, topic=b"fill.test.BTC-USDT.")
    longer = frame_of(run.sequencer, run.strategy, order(1), 2, topic=b"orders.test.")

    assert run.sequencer.accept(disguised) is None
    assert run.sequencer.accept(longer) is None
    assert set(run.sequencer.refused) == {
        "strategy: SubmitOrder on fill.test.BTC-USDT.",
        "strategy: SubmitOrder on orders.test.",
    }


def test_an_older_epoch_is_fenced_off_and_counted():
    run = Run()
    late = frame_of(run.sequencer, run.strategy, order(2), 2)
    assert run.sequencer.accept(frame_of(run.sequencer, run.strategy, order(1), 1)) is not None

    successor = run.sequencer.admit("strategy", [m.SubmitOrder])

    assert successor == run.strategy
    assert run.sequencer.accept(late) is None
    assert run.sequencer.accept(late) is None
    assert run.sequencer.refused == {"strategy: an older epoch": 2}
    assert run.sequencer.accept(frame_of(run.sequencer, successor, order(2), 2)) is not None


def test_the_permissions_of_an_older_epoch_end_with_it():
    run = Run()
    first = frame_of(run.sequencer, run.strategy, order(1), 1)
    assert run.sequencer.accept(first) is not None

    run.sequencer.admit("strategy", [m.CancelOrder])

    assert run.sequencer.accept(frame_of(run.sequencer, run.strategy, order(2), 2)) is None
    assert "SubmitOrder" in next(iter(run.sequencer.refused))


def test_nobody_speaks_from_an_earlier_session_or_without_being_admitted():
    run = Run()
    before = frame_of(run.sequencer, run.strategy, order(1), 1)
    restarted = Sequencer(msgspec.msgpack.decode(run.sequencer.to_bytes(), type=SequencerState))
    stranger = codec.pack_output(b"order.", 900, 1, 0, 1, codec.encode(order(1)))

    assert restarted.accept(before) is None
    assert restarted.accept(stranger) is None
    assert restarted.seq == 0
    assert {why.split(":")[0] for why in restarted.refused} == {"strategy", "900"}


def test_nobody_speaks_in_the_name_of_the_kernel():
    run = Run()
    halt = m.HaltTrading(1, "operator", "forged")

    assert run.sequencer.accept(frame_of(run.sequencer, 0, halt, 1)) is None

    assert run.sequencer.refused == {"kernel: HaltTrading on control.": 1}
    assert codec.unpack(run.sequencer.announce(halt)).origin == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_what_was_said_before_is_dropped_by_its_cause_and_number(names):
    run = Run()
    last, expected = (-1, -1), []
    for name in names:
        if name > last:
            last = name
            expected.append(name)

    stamped = [
        run.sequencer.accept(frame_of(run.sequencer, run.strategy, order(1), cause, n)) for cause, n in names
    ]

    taken = [codec.unpack(raw) for raw in stamped if raw is not None]
    assert [(frame.cause, frame.n) for frame in taken] == expected
    assert run.sequencer.duplicates == len(names) - len(expected)
    assert run.sequencer.last_output(run.strategy) == last


def test_a_repeat_is_known_after_a_restart_and_one_component_says_nothing_for_another():
    run = Run()
    run.sequencer.accept(frame_of(run.sequencer, run.strategy, order(9), 9, 1))

    again = Run(msgspec.msgpack.decode(run.sequencer.to_bytes(), type=SequencerState))

    assert again.sequencer.last_output(again.strategy) == (9, 1)
    assert again.sequencer.accept(frame_of(again.sequencer, again.strategy, order(9), 9, 1)) is None
    assert again.sequencer.accept(frame_of(again.sequencer, again.market, trade(9), 9, 1)) is not None


@pytest.mark.parametrize(
    "frame",
    [b"", b"\0", b"order.", b"order.\0\1\0", codec.pack_output(b"order.", 1, 1, 0, 1, b"")],
    ids=["empty", "only the end of a topic", "only a topic", "cut in its name", "no body"],
)
def test_what_is_no_frame_is_said_to_be_none_and_takes_no_place(frame):
    run = Run()

    assert run.sequencer.accept(frame) is None

    assert list(run.sequencer.refused.values()) == [1]
    assert run.sequencer.seq == 0


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_random_bytes_take_no_place_whatever_they_are(noise):
    run = Run()

    for frame in (noise, b"order.\0" + noise):
        assert run.sequencer.accept(frame) is None

    assert run.sequencer.seq == 0


def test_a_decision_that_cannot_be_read_leaves_no_hole_in_the_numbers():
    run = Run()
    # A plugin's slip: msgspec checks on reading only.
    wrong = msgspec.structs.replace(order(1), price=1.5)

    assert run.sequencer.accept(frame_of(run.sequencer, run.strategy, wrong, 1)) is None

    assert run.sequencer.refused == {"strategy: a malformed SubmitOrder": 1}
    assert run.sequencer.take_kept() == []
    stamped = run.sequencer.accept(frame_of(run.sequencer, run.strategy, order(1), 1))
    assert stamped is not None
    assert (codec.unpack(stamped).seq, codec.unpack(stamped).tseq) == (1, 1)


@given(st.lists(OUTPUTS, max_size=40))
def test_what_is_kept_for_good_is_exactly_the_kinds_that_are(outputs):
    run, stamped = run_of(outputs)

    kept = run.sequencer.take_kept()

    assert kept == [raw for raw in stamped if topics.parse(codec.unpack(raw).topic)[0] in topics.KEPT_KINDS]
    assert run.sequencer.take_kept() == []


@given(outputs=st.lists(OUTPUTS, min_size=1, max_size=40), data=st.data())
def test_rolling_forward_from_any_point_gives_the_state_of_a_run_never_interrupted(outputs, data):
    cut = data.draw(st.integers(0, len(outputs)))
    run, written, journal = Run(), b"", []
    for cause, output in enumerate(outputs):
        if cause == cut:
            written = run.sequencer.to_bytes()
        journal.append(run.do(cause, output))
    written = written or run.sequencer.to_bytes()

    rolled = roll_forward(written, journal[cut:])

    assert rolled == msgspec.msgpack.decode(run.sequencer.to_bytes(), type=SequencerState)
    continued = Run(rolled)
    assert continued.sequencer.summary.report() == run.sequencer.summary.report()
    assert continued.sequencer.session == run.sequencer.session + 1
    assert continued.sequencer.epoch(continued.strategy) == run.sequencer.epoch(run.strategy) + 1
    after = [codec.unpack(one.do(99, Output(2, 0, "BTC/USDT"))) for one in (run, continued)]
    assert after[0]._replace(epoch=0) == after[1]._replace(epoch=0)


# --- Who was there --------------------------------------------------------------------------------


def started(host, *components):
    return m.HostStarted(0, host, 1, 1, list(components))


def kernel_started(*hosts):
    return m.KernelStarted(0, 1, "0", "demo", list(hosts))


def connected(sequencer):
    """Have a feed say that it is connected; its host was announced before."""
    number = sequencer.admit("market", [m.FeedConnected])
    message = m.FeedConnected(0, "test", ["BTC/USDT"])
    return sequencer.accept(frame_of(sequencer, number, message, sequencer.seq + 1))


def test_a_host_that_was_there_before_the_feeds_has_missed_nothing():
    sequencer = Sequencer()
    sequencer.announce(kernel_started("trade"))
    sequencer.announce(started("trade"))
    connected(sequencer)
    sequencer.announce(m.HostStopped(0, "trade", "it died", 500))

    assert sequencer.absence("trade") == (0, 0)


def test_a_host_that_joins_has_missed_what_was_before_and_stays_so_whatever_becomes_of_it():
    sequencer = Sequencer()
    connected(sequencer)
    before = sequencer.absence("guest")
    sequencer.announce(started("guest"))
    sequencer.announce(m.HostStopped(0, "guest", m.STOPPED, -1))
    sequencer.announce(kernel_started("guest"))

    assert before == (0, 1)
    assert sequencer.absence("guest") == (0, 1)


@pytest.mark.parametrize(
    "gone", [m.HostStopped(0, "guest", m.REMOVED, -1), kernel_started("trade")], ids=["removed", "left out"]
)
def test_a_host_that_comes_back_has_missed_what_was_meanwhile(gone):
    sequencer = Sequencer()
    sequencer.announce(started("guest"))
    connected(sequencer)
    sequencer.announce(gone)
    left = sequencer.seq
    sequencer.announce(m.Sync(0, "meanwhile"))
    meanwhile = sequencer.absence("guest")
    sequencer.announce(started("guest"))

    assert meanwhile == sequencer.absence("guest") == (left, left + 1)


@given(
    st.lists(
        st.sampled_from(
            [
                started("trade"),
                started("guest"),
                m.HostStopped(0, "guest", m.REMOVED, -1),
                m.HostStopped(0, "guest", m.STOPPED, -1),
                kernel_started("trade"),
                kernel_started("trade", "guest"),
                None,
            ]
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_who_was_away_is_known_from_the_journal_too(events, cut):
    sequencer, written = Sequencer(), b""
    sequencer.admit("market", [])
    journal = [sequencer.announce(kernel_started()), sequencer.announce(started("market", "market"))]
    for number, event in enumerate(events):
        if number == cut:
            written = sequencer.to_bytes()
        journal.append(sequencer.announce(event) if event else connected(sequencer))

    rolled = Sequencer(roll_forward(written, journal[cut + 2 :] if written else journal))

    for host in ("trade", "guest"):
        assert rolled.absence(host) == sequencer.absence(host)


def test_rolling_forward_over_a_journal_with_a_hole_is_refused():
    _run, journal = run_of([Output(1, 0, "BTC/USDT")] * 4)

    with pytest.raises(CodecError, match="continues with seq 4 after 2"):
        roll_forward(b"", [journal[0], journal[1], journal[3]])


@given(st.lists(OUTPUTS, max_size=40))
def test_a_burst_is_ordered_as_its_frames_one_by_one_are(outputs):
    apart, together = Run(), Run()
    frames = [
        frame_of(apart.sequencer, apart.market, trade(n), n, topic=b"trade.test.%d." % (n % 3 // 2))
        for n, _ in enumerate(outputs)
    ]

    stamped, runs = together.sequencer.accept_all(frames)

    assert stamped == [apart.sequencer.accept(frame) for frame in frames]
    assert [topic + tail for topic, _, tails in runs for tail in tails] == stamped
    assert all(one != after for (one, *_), (after, *_) in itertools.pairwise(runs))


@given(st.lists(OUTPUTS, max_size=40))
def test_every_run_tells_how_many_frames_of_each_kind_there_were(outputs):
    run = Run()
    frames = [frame_of(run.sequencer, run.market, trade(n), n) for n, _ in enumerate(outputs, 1)]
    published = [run.sequencer.announce(m.Sync(0, "x"))]

    _, runs = run.sequencer.accept_all(frames)

    counts = Counter({"sync": len(published)})
    for head, packed, tails in runs:
        counts[topics.parse(head[:-1])[0]] += len(tails)
        assert packed == codec.pack_kind_counts(*(counts[kind] for kind in topics.KINDS))
