"""The bus in one thread: its order, its timers, its failures and its memory."""

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import (
    BookState,
    CancelOrder,
    ChecksumFailed,
    ExchangeSpec,
    FeatureSetSpec,
    FeatureVector,
    FeedLost,
    OrderType,
    PluginContractError,
    PluginFailed,
    PluginSpec,
    RiskRuleSpec,
    SequenceGap,
    Severity,
    Side,
    SimulatorSpec,
    SinkSpec,
    StateRefused,
    StoreSpec,
    StrategySpec,
    SubmitOrder,
    Sync,
    TimeInForce,
    TimeTick,
    codec,
)
from tickerml.kernel import messages as m
from tickerml.kernel.localbus import LocalBus, handler_name
from tickerml.kernel.testing import Market, instrument


class Journaled(LocalBus):
    """A LocalBus that writes down its outputs as (plugin, n, cause, message)."""

    def __init__(self, **settings):
        self.journal = []
        super().__init__(lambda *output: self.journal.append(output), **settings)

    @property
    def messages(self):
        return [message for _, _, _, message in self.journal]


class Component:
    """The least a component can be; subclasses add handlers."""

    def __init__(self, ctx, options):
        self.ctx = ctx

    def snapshot(self):
        return b""

    def restore(self, state):
        assert state == b""


class AnySpec(PluginSpec, frozen=True, kw_only=True):
    """May publish what the tests below send around."""

    KIND = "test"
    STAGE = 2
    MAY_PUBLISH = (Sync, CancelOrder, SubmitOrder)


def spec(plugin, factory, publishes=(Sync,), cls=AnySpec, **settings):
    return cls(id=plugin, factory=factory, publishes=publishes, **settings)


def bus_of(*specs, **settings):
    bus = Journaled(**settings)
    for each in specs:
        bus.add(each, each.options())
    return bus


def trade(ts_recv, price=100):
    return m.Trade(ts_recv, ts_recv, "test", "BTC/USDT", 1, price, 1, Side.BUY)


def order(order_id, ts_recv=0, price=1):
    limit, gtc = OrderType.LIMIT, TimeInForce.GTC
    return SubmitOrder(ts_recv, order_id, "test", "main", "test", "BTC/USDT", Side.BUY, limit, gtc, price, 1)


# --- Order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "name"),
    [(m.BookDelta, "on_book_delta"), (m.Trade, "on_trade"), (m.OrderFilled, "on_order_filled")],
)
def test_a_handler_is_named_after_the_message_it_handles(cls, name):
    assert handler_name(cls) == name


STAGES = [ExchangeSpec, FeatureSetSpec, StrategySpec, RiskRuleSpec, SimulatorSpec, StoreSpec, SinkSpec]


@given(st.permutations([(cls, plugin) for cls in STAGES for plugin in ("a", "b")]))
def test_a_message_passes_the_stages_in_order_however_they_were_added(plugins):
    called = []

    class Recording(Component):
        def on_trade(self, message):
            called.append(self.ctx.plugin)

    bus = Journaled()
    for cls, name in plugins:
        extra = {"columns": ()} if cls is FeatureSetSpec else {}
        bus.add(cls(id=f"{name}-{cls.KIND}", factory=Recording, **extra), cls.options)

    bus.deliver(trade(1), 1)

    assert called == [f"{name}-{cls.KIND}" for cls in STAGES for name in ("a", "b")]


TREES = st.recursive(
    st.just([]), lambda node: st.lists(st.tuples(st.sampled_from("abc"), node), max_size=4), max_leaves=25
)


def path_of(message):
    return tuple(map(int, message.purpose.split("/")[1:]))


class Tree(Component):
    """Publishes its own branches of a tree when it hears of their parent, and never while it is called."""

    def __init__(self, ctx, options, tree, heard):
        super().__init__(ctx, options)
        self.tree = tree
        self.heard = heard
        self.is_busy = False

    def on_sync(self, message):
        assert not self.is_busy, "called while in a handler of its own"
        self.is_busy = True
        node = self.tree
        for index in path_of(message):
            node = node[index][1]
        self.heard.append((self.ctx.plugin, message.purpose))
        for index, (plugin, _) in enumerate(node):
            if plugin == self.ctx.plugin:
                self.ctx.publish(Sync(message.ts_recv, f"{message.purpose}/{index}"))
        self.is_busy = False


def grown(tree):
    """Return a bus with components a, b and c that publish *tree*, and what they will have heard."""
    heard = []
    specs = [spec(plugin, lambda ctx, options: Tree(ctx, options, tree, heard)) for plugin in "abc"]
    return bus_of(*specs), heard


def walk(tree, prefix):
    """Yield (plugin, path) depth first: a's branches of a node, then b's, then c's, each as written."""
    for index, (plugin, branch) in sorted(enumerate(tree), key=lambda branch: branch[1][0]):
        yield plugin, f"{prefix}/{index}"
        yield from walk(branch, f"{prefix}/{index}")


@given(TREES)
def test_an_output_and_all_its_consequences_come_before_the_next_output(tree):
    bus, heard = grown(tree)

    bus.deliver(Sync(1, "root"), 1)

    expected = list(walk(tree, "root"))
    assert [(plugin, message.purpose) for plugin, _, _, message in bus.journal] == expected
    purposes = ["root", *(purpose for _, purpose in expected)]
    assert heard == [(plugin, purpose) for purpose in purposes for plugin in "abc"]


@given(st.lists(TREES, max_size=3), st.integers(0, 2**40))
def test_outputs_are_numbered_from_zero_for_each_component_and_cause(trees, first_cause):
    for cause, tree in enumerate(trees, first_cause):
        bus, _ = grown(tree)
        bus.deliver(Sync(1, "root"), cause)
        bus.deliver(Sync(1, "root"), cause + 1)

        for plugin, named in itertools.product("abc", (cause, cause + 1)):
            numbers = [n for author, n, of, _ in bus.journal if (author, of) == (plugin, named)]
            assert numbers == list(range(len(numbers)))
        assert len(bus.journal) == 2 * len(list(walk(tree, "root")))


def test_a_chain_of_consequences_may_be_longer_than_the_stack_of_python():
    class Countdown(Component):
        def on_sync(self, message):
            if left := int(message.purpose):
                self.ctx.publish(Sync(1, str(left - 1)))

    bus = bus_of(spec("countdown", Countdown))

    bus.deliver(Sync(1, "5000"), 1)

    assert len(bus.journal) == 5000


def test_a_component_is_given_only_what_plugins_toml_leaves_it():
    bus = bus_of(spec("deaf", Counting, subscribes=("Quote",)), spec("hearing", Counting))

    bus.deliver(trade(1), 1)

    assert (bus.component("deaf").count, bus.component("hearing").count) == (0, 1)
    assert m.Trade not in bus_of(spec("deaf", Counting, subscribes=())).wanted_types


# --- Time -----------------------------------------------------------------------------------------


class Alarms(Component):
    """Sets the timers it was given, and those that belong to a timer when that fires."""

    def __init__(self, ctx, options, alarms, log):
        super().__init__(ctx, options)
        self.alarms = alarms
        self.log = log

    def set(self, key):
        for index, (delay, priority, _) in enumerate(self.alarms_of(key)):
            self.ctx.set_timer(self.ctx.clock.now() + delay, f"{key}/{index}", priority)

    def alarms_of(self, key):
        alarms = self.alarms
        for index in key.split("/")[1:]:
            alarms = alarms[int(index)][2]
        return alarms

    def on_sync(self, message):
        self.set("")

    def on_timer(self, timer):
        self.log.append((timer.key, timer.ts, self.ctx.clock.now()))
        self.set(timer.key)

    def on_trade(self, message):
        self.log.append(("trade", message.ts_recv, self.ctx.clock.now()))


ALARMS = st.recursive(
    st.just([]),
    lambda later: st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4), later), max_size=4),
    max_leaves=12,
)


def naive_alarms(alarms, times):
    """The same by the rule as it is written, looking for the next timer in a plain list."""
    log, now, count, waiting = [], 0, itertools.count(), []

    def add(key, later):
        for index, (delay, priority, more) in enumerate(later):
            waiting.append((now + delay, priority, next(count), f"{key}/{index}", more))

    add("", alarms)
    for ts in times:
        while waiting and min(waiting)[0] < ts:
            due = min(waiting)
            waiting.remove(due)
            now = max(now, due[0])
            log.append((due[3], due[0], now))
            add(due[3], due[4])
        now = max(now, ts)
        log.append(("trade", ts, now))
    return log


@given(ALARMS, st.lists(st.integers(0, 40), max_size=8))
def test_timers_fire_before_a_later_message_and_after_one_at_their_very_time(alarms, times):
    log = []
    bus = bus_of(spec("alarms", lambda ctx, options: Alarms(ctx, options, alarms, log)))
    bus.deliver(Sync(0, "start"), 0)

    for cause, ts in enumerate(times, 1):
        bus.deliver(trade(ts), cause)

    assert log == naive_alarms(alarms, times)


@pytest.mark.parametrize(
    ("due", "expected"), [(9, ["timer", "trade"]), (10, ["trade"]), (11, ["trade"])], ids=str
)
def test_a_timer_before_at_and_after_the_time_of_a_message(due, expected):
    log = []

    class Waiting(Component):
        def on_sync(self, message):
            self.ctx.set_timer(due, "wake")

        def on_timer(self, timer):
            log.append("timer")

        def on_trade(self, message):
            log.append("trade")

    bus = bus_of(spec("waiting", Waiting))
    bus.deliver(Sync(0, ""), 0)

    bus.deliver(trade(10), 1)

    assert log == expected
    bus.deliver(TimeTick(12), 2)
    assert sorted(log) == ["timer", "trade"]


def test_what_a_timer_causes_comes_before_the_next_timer_and_in_the_name_of_the_message():
    class Waking(Component):
        def on_trade(self, message):
            for ts in (3, 2):
                self.ctx.set_timer(ts, f"at {ts}")

        def on_timer(self, timer):
            self.ctx.publish(Sync(timer.ts, timer.key))

        def on_sync(self, message):
            if message.purpose == "at 2":
                self.ctx.publish(Sync(message.ts_recv, "because of 2"))

    bus = bus_of(spec("waking", Waking))
    bus.deliver(trade(1), 7)

    bus.deliver(TimeTick(9), 8)

    assert [(n, cause, message.purpose) for _, n, cause, message in bus.journal] == [
        (0, 8, "at 2"),
        (1, 8, "because of 2"),
        (2, 8, "at 3"),
    ]


def test_the_clock_never_goes_back_and_a_type_that_nobody_wants_does_not_move_it():
    class Listening(Component):
        def on_trade(self, message):
            self.ctx.publish(Sync(self.ctx.clock.now(), ""))

    bus = bus_of(spec("listening", Listening))

    bus.deliver(trade(10), 1)
    bus.deliver(Sync(50, "unwanted"), 2)
    bus.deliver(trade(5), 3)

    assert [message.ts_recv for message in bus.messages] == [10, 10]
    assert m.Trade in bus.wanted_types
    assert Sync not in bus.wanted_types


# --- Failure --------------------------------------------------------------------------------------


class Fragile(Component):
    """Publishes an order for each trade, and raises after publishing at the price of 13."""

    def on_trade(self, message):
        self.ctx.publish(order(f"{self.ctx.plugin}-{message.ts_recv}"))
        if message.price == 13:
            raise RuntimeError("thirteen")


class Sturdy(Component):
    """Echoes every trade and every failure."""

    def on_trade(self, message):
        self.ctx.publish(Sync(message.ts_recv, f"trade {message.price}"))

    def on_plugin_failed(self, message):
        self.ctx.publish(Sync(message.ts_recv, f"{message.plugin} failed"))


def fragile_and_sturdy():
    return bus_of(spec("fragile", Fragile, (SubmitOrder,)), spec("sturdy", Sturdy))


def test_a_component_that_raises_is_set_aside_its_outputs_are_dropped_and_the_others_go_on():
    bus = fragile_and_sturdy()

    for ts, price in enumerate((12, 13, 14), 1):
        bus.deliver(trade(ts, price), ts)

    failure = PluginFailed(2, "fragile", "test", "Trade", "RuntimeError: thirteen")
    assert bus.messages == [
        order("fragile-1"),
        Sync(1, "trade 12"),
        failure,
        Sync(2, "fragile failed"),
        Sync(2, "trade 13"),
        Sync(3, "trade 14"),
    ]
    assert bus.journal[2][:3] == ("fragile", 0, 2)
    assert bus.failed == {"fragile"}


def test_a_component_that_publishes_what_it_did_not_declare_is_set_aside():
    class Lying(Component):
        def on_trade(self, message):
            self.ctx.publish(Sync(1, "declared"))
            self.ctx.publish(order("undeclared"))

    bus = bus_of(spec("lying", Lying), spec("sturdy", Sturdy))

    bus.deliver(trade(1), 1)

    failure, *others = bus.messages
    assert failure.plugin == "lying"
    assert "published SubmitOrder, which its spec does not declare" in failure.error
    assert others == [Sync(1, "lying failed"), Sync(1, "trade 100")]


def test_a_component_without_a_method_for_its_timer_is_set_aside():
    class Forgetful(Component):
        def on_trade(self, message):
            self.ctx.set_timer(2, "never heard")

    bus = bus_of(spec("forgetful", Forgetful), spec("sturdy", Sturdy))
    bus.deliver(trade(1), 1)

    bus.deliver(trade(3), 2)

    failures = [message for message in bus.messages if isinstance(message, PluginFailed)]
    assert [(failure.plugin, failure.stage, failure.ts_recv) for failure in failures] == [
        ("forgetful", "timer", 2)
    ]
    assert bus.messages[-1] == Sync(3, "trade 100")


def test_the_timers_of_a_failed_component_are_forgotten():
    class Doomed(Component):
        def on_trade(self, message):
            self.ctx.set_timer(2, "unreachable")
            raise RuntimeError("doomed")

        def on_timer(self, timer):
            self.ctx.publish(Sync(timer.ts, "from beyond"))

    bus = bus_of(spec("doomed", Doomed))

    bus.deliver(trade(1), 1)
    bus.deliver(TimeTick(9), 2)

    assert [type(message) for message in bus.messages] == [PluginFailed]


def test_a_component_that_fails_on_hearing_of_a_failure_takes_nobody_with_it():
    class Nervous(Component):
        def on_plugin_failed(self, message):
            raise RuntimeError(f"oh no, {message.plugin}")

    bus = bus_of(
        spec("fragile", Fragile, (SubmitOrder,)),
        spec("nervous", Nervous),
        spec("panicky", Nervous),
        spec("sturdy", Sturdy),
    )

    bus.deliver(trade(1, price=13), 1)

    assert bus.failed == {"fragile", "nervous", "panicky"}
    heard = [message.purpose for message in bus.messages if isinstance(message, Sync)]
    assert heard == ["nervous failed", "panicky failed", "fragile failed", "trade 13"]


def test_a_component_whose_snapshot_raises_is_set_aside_and_the_others_are_written_down():
    class Unwritable(Component):
        def on_trade(self, message):
            self.ctx.publish(Sync(message.ts_recv, "unwritable"))

        def snapshot(self):
            raise RuntimeError("no ink")

    def build():
        return bus_of(spec("unwritable", Unwritable), spec("counting", Counting))

    bus, copy = build(), build()
    bus.deliver(trade(1), 1)

    copy.restore(bus.snapshot())
    bus.deliver(trade(2), 2)

    assert copy.component("counting").count == 1
    assert copy.failed == {"unwritable"}
    assert [type(message) for message in bus.messages] == [Sync, Sync, PluginFailed, Sync]
    assert bus.messages[2].stage == "snapshot"


def test_refuses_a_spec_that_wants_to_publish_what_its_kind_may_not():
    rogue = StrategySpec(id="rogue", factory=Component, publishes=(m.OrderFilled, SubmitOrder))

    with pytest.raises(PluginContractError, match="rogue: a strategy may not publish OrderFilled"):
        bus_of(rogue)


# --- Sources --------------------------------------------------------------------------------------


def test_what_a_source_yields_goes_out_in_its_order_and_name():
    bus = bus_of(spec("source", Component), spec("sturdy", Sturdy))

    bus.emit("source", [Sync(1, "first"), Sync(1, "second")], cause=7)
    bus.emit("source", [Sync(2, "third")], cause=8)

    assert bus.journal == [
        ("source", 0, 7, Sync(1, "first")),
        ("source", 1, 7, Sync(1, "second")),
        ("source", 0, 8, Sync(2, "third")),
    ]


def test_what_a_source_yields_moves_its_clock():
    bus = bus_of(spec("source", Component))

    bus.emit("source", [Sync(7, "later"), Sync(3, "earlier")], cause=1)

    assert bus.component("source").ctx.clock.now() == 7


def test_a_source_that_yields_what_it_did_not_declare_is_refused():
    bus = bus_of(spec("source", Component))

    with pytest.raises(PluginContractError, match="published TimeTick"):
        bus.emit("source", [TimeTick(1)], cause=1)


# --- What everybody knows -------------------------------------------------------------------------


def test_books_and_instruments_follow_the_messages():
    bus, market, known = Journaled(), Market(), instrument()

    bus.deliver(known, 1)
    bus.deliver(market.book(1, bids=[(99, 5)], asks=[(101, 5)]), 2)
    bus.deliver(market.delta(2, bids=[(100, 1)]), 3)

    assert bus.instruments == {("test", "BTC/USDT"): known}
    assert bus.book("test", "BTC/USDT").best_bid == 100
    assert bus.book("test", "BTC/USDT").is_trusted
    assert bus.book("test", "ETH/USDT").state is BookState.RESYNCING


@pytest.mark.parametrize(
    ("event", "state", "after_delta"),
    [
        (FeedLost(3, "test", "closed", 100), BookState.RESYNCING, BookState.RESYNCING),
        (SequenceGap(3, "test", "BTC/USDT", 5, 7), BookState.RESYNCING, BookState.RESYNCING),
        (ChecksumFailed(3, "test", "BTC/USDT", 5, 7), BookState.RESYNCING, BookState.RESYNCING),
        (m.BookStale(3, "test", "BTC/USDT", 5000), BookState.STALE, BookState.VALID),
        (FeedLost(3, "another", "closed", 100), BookState.VALID, BookState.VALID),
    ],
    ids=["lost", "gap", "checksum", "stale", "elsewhere"],
)
def test_the_health_of_a_feed_decides_whether_its_books_are_believed(event, state, after_delta):
    bus, market = Journaled(), Market()
    bus.deliver(market.book(1, bids=[(99, 5)], asks=[(101, 5)]), 1)

    bus.deliver(event, 2)

    book = bus.book("test", "BTC/USDT")
    assert book.state is state
    bus.deliver(market.delta(4, bids=[(99, 6)]), 3)
    assert book.state is after_delta
    bus.deliver(market.book(5, bids=[(99, 5)], asks=[(101, 5)]), 4)
    assert book.state is BookState.VALID


@pytest.mark.parametrize(
    "event",
    [
        FeedLost(3, "test", "closed", 100),
        SequenceGap(3, "test", "BTC/USDT", 5, 7),
        ChecksumFailed(3, "test", "BTC/USDT", 5, 7),
    ],
    ids=lambda message: type(message).__name__,
)
def test_when_a_book_last_missed_something_is_known_after_a_restart_too(event):
    bus, copy, market = Journaled(), Journaled(), Market()
    bus.deliver(market.book(1, bids=[(99, 5)], asks=[(101, 5)]), 1)
    bus.deliver(event, 2)
    bus.deliver(market.book(5, bids=[(99, 5)], asks=[(101, 5)]), 3)

    copy.restore(bus.snapshot())

    assert bus.book("test", "BTC/USDT").passport(10).gap_ns == 7
    assert copy.book("test", "BTC/USDT").passport(10) == bus.book("test", "BTC/USDT").passport(10)


def test_a_book_published_on_the_bus_is_known_before_anyone_handles_it():
    class Silence(Component):
        def on_trade(self, message):
            self.ctx.publish(m.BookStale(message.ts_recv, "test", "BTC/USDT", 5000))

    class Looking(Component):
        def on_book_stale(self, message):
            self.ctx.publish(Sync(message.ts_recv, self.ctx.book("test", "BTC/USDT").state))

    silence = ExchangeSpec(id="silence", factory=Silence, publishes=(m.BookStale,))
    bus = bus_of(silence, spec("looking", Looking))
    bus.deliver(Market().book(1, bids=[(99, 5)], asks=[(101, 5)]), 1)

    bus.deliver(trade(2), 2)

    assert bus.messages[-1] == Sync(2, "stale")


# --- Chance ---------------------------------------------------------------------------------------

KEYS = st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3).map(tuple)


def uniform(seed, plugin, key):
    return bus_of(spec(plugin, Component), seed=seed).component(plugin).ctx.uniform(*key)


@given(st.integers(0, 2**64), st.sampled_from(["sim-fifo", "strategy-x"]), KEYS)
def test_a_random_number_is_a_function_of_seed_plugin_and_key_alone(seed, plugin, key):
    bus = bus_of(spec(plugin, Component), spec("another", Component), seed=seed)
    ctx = bus.component(plugin).ctx
    bus.deliver(trade(1), 1)
    ctx.uniform("something", "else")

    drawn = ctx.uniform(*key)

    assert 0 <= drawn < 1
    assert drawn == ctx.uniform(*key) == uniform(seed, plugin, key)
    assert drawn != uniform(seed + 1, plugin, key)
    assert drawn != uniform(seed, plugin + "2", key)
    assert drawn != ctx.uniform(*key, 0)


def test_the_number_one_and_the_text_1_are_different_keys():
    assert uniform(0, "sim", (1, "a")) != uniform(0, "sim", ("1", "a"))


def test_random_numbers_are_spread_evenly():
    ctx = bus_of(spec("sim", Component)).component("sim").ctx
    drawn = [ctx.uniform("latency", key) for key in range(10_000)]

    tenths = [sum(math.floor(number * 10) == tenth for number in drawn) for tenth in range(10)]
    chi_square = sum((count - 1000) ** 2 / 1000 for count in tenths)
    followed = [abs(second - first) for first, second in itertools.pairwise(drawn)]
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001
    assert sum(followed) / len(followed) == pytest.approx(1 / 3, abs=0.01)  # neighbours are independent


# --- Memory ---------------------------------------------------------------------------------------


class Counting(Component):
    """Remembers how many trades it has seen."""

    count = 0

    def on_trade(self, message):
        self.count += 1
        self.ctx.publish(Sync(message.ts_recv, f"trade {self.count}"))

    def snapshot(self):
        return msgspec.msgpack.encode(self.count)

    def restore(self, state):
        self.count = msgspec.msgpack.decode(state, type=int)


class Migrating(Counting):
    """Counts as the version before did, and says from which it came."""

    came_from = 0

    @classmethod
    def migrate(cls, state, version):
        cls.came_from = version
        return state


class Trader(Counting):
    """Uses everything that a context offers: the book, the instrument, timers, chance and time."""

    def on_trade(self, message):
        self.count += 1
        book, known = self.ctx.book("test", "BTC/USDT"), self.ctx.instrument("test", "BTC/USDT")
        lot = known.lot_size if known else 0
        order_id = f"{self.count} {self.ctx.uniform(self.count)} {book.state} {book.mid2} {book.seq} {lot}"
        self.ctx.publish(order(order_id, self.ctx.clock.now(), message.price))
        self.ctx.set_timer(self.ctx.clock.now() + message.price % 7, f"{self.count}", message.price % 3)

    def on_timer(self, timer):
        self.ctx.publish(CancelOrder(self.ctx.clock.now(), timer.key, "test", "BTC/USDT", str(timer.ts)))


class Mortal(Counting):
    """Fails at the third order it hears of."""

    def on_submit_order(self, message):
        self.count += 1
        if self.count == 3:
            raise RuntimeError("enough")
        self.ctx.publish(Sync(message.ts_recv, f"order {self.count}"))


SIDE = st.lists(st.tuples(st.integers(90, 110), st.integers(0, 3)), max_size=3)
STEP = st.one_of(
    st.builds(lambda price: lambda market, ts: trade(ts, price), st.integers(1, 50)),
    st.builds(lambda bids, asks: lambda market, ts: market.book(ts, bids, asks), SIDE, SIDE),
    st.builds(lambda bids, asks: lambda market, ts: market.delta(ts, bids, asks), SIDE, SIDE),
    st.sampled_from(
        [
            lambda market, ts: TimeTick(ts),
            lambda market, ts: instrument(),
            lambda market, ts: FeedLost(ts, "test", "closed", 1),
            lambda market, ts: SequenceGap(ts, "test", "BTC/USDT", 1, 2),
            lambda market, ts: m.BookStale(ts, "test", "BTC/USDT", 1),
        ]
    ),
)
TAPES = st.lists(st.tuples(st.integers(0, 4), STEP), min_size=1, max_size=30)


def trading_bus():
    return bus_of(
        spec("trader", Trader, (SubmitOrder, CancelOrder)),
        spec("mortal", Mortal),
        spec("sturdy", Sturdy),
        seed=3,
    )


def assert_cuts_change_nothing(messages, cuts):
    whole, cut, journal = trading_bus(), trading_bus(), []

    for cause, message in enumerate(messages):
        whole.deliver(message, cause)
        if cause in cuts:
            state = cut.snapshot()
            journal += cut.journal
            cut = trading_bus()
            cut.restore(state)
        cut.deliver(message, cause)

    assert journal + cut.journal == whole.journal
    assert cut.snapshot() == whole.snapshot()


@given(TAPES, st.sets(st.integers(1, 29), min_size=1))
def test_moving_the_state_to_a_new_bus_anywhere_changes_nothing(tape, cuts):
    times, market = itertools.accumulate(delay for delay, _ in tape), Market()

    assert_cuts_change_nothing([make(market, ts) for ts, (_, make) in zip(times, tape, strict=True)], cuts)


@pytest.mark.parametrize("position", range(1, 12))
def test_the_instrument_the_book_the_timers_and_the_failures_are_all_in_the_state(position):
    market = Market()
    tape = [
        instrument(),
        market.book(1, bids=[(99, 5)], asks=[(101, 5)]),
        trade(2, price=6),
        trade(2, price=5),
        market.delta(3, bids=[(100, 2)]),
        m.BookStale(4, "test", "BTC/USDT", 1),
        trade(5, price=6),
        SequenceGap(6, "test", "BTC/USDT", 1, 2),
        trade(7, price=4),
        TimeTick(9),
        trade(10, price=3),
        TimeTick(99),
    ]

    assert_cuts_change_nothing(tape, {position})


def test_a_failed_component_stays_failed_after_a_restart():
    bus, copy = fragile_and_sturdy(), fragile_and_sturdy()
    bus.deliver(trade(1, price=13), 1)

    copy.restore(bus.snapshot())
    copy.deliver(trade(2), 2)

    assert copy.failed == {"fragile"}
    assert copy.messages == [Sync(2, "trade 100")]


def test_a_failed_component_that_a_person_enabled_again_begins_anew():
    bus, copy = fragile_and_sturdy(), fragile_and_sturdy()
    bus.deliver(trade(1, price=13), 1)

    copy.restore(bus.snapshot(), revived=["fragile"])
    copy.deliver(trade(2, price=13), 2)

    assert copy.failed == {"fragile"}
    assert type(copy.messages[0]) is m.PluginFailed


def test_a_component_that_is_new_since_the_snapshot_starts_empty_and_one_that_is_gone_is_forgotten():
    old = bus_of(spec("counting", Counting), spec("gone", Counting))
    old.deliver(trade(1), 1)
    new = bus_of(spec("counting", Counting), spec("added", Counting))

    new.restore(old.snapshot())

    assert new.component("counting").count == 1
    assert new.component("added").count == 0
    assert new.failed == set()


@pytest.mark.parametrize(("version", "is_taken"), [(1, False), (2, True), (3, True), (4, False)])
def test_a_component_takes_the_state_of_its_own_version_and_migrates_the_one_before(version, is_taken):
    old = bus_of(spec("counting", Counting, state_version=version))
    old.deliver(trade(1), 1)
    new = bus_of(spec("counting", Migrating, state_version=3), spec("sturdy", Sturdy))

    new.restore(old.snapshot())

    assert ("counting" not in new.failed) is is_taken
    assert new.component("counting").count == int(is_taken)
    assert (Migrating.came_from == 2) is (version == 2)
    Migrating.came_from = 0


def test_the_state_of_the_version_before_is_refused_by_a_component_that_cannot_migrate_it():
    old = bus_of(spec("counting", Counting, state_version=1))
    new = bus_of(spec("counting", Counting, state_version=2), spec("sturdy", Sturdy))

    new.restore(old.snapshot())

    assert new.failed == {"counting"}
    assert new.failures["counting"].startswith("restore: StateRefused: counting: cannot take state version 1")
    assert "migrate()" in new.failures["counting"]


def test_failures_tell_what_failed_here_and_not_what_had_failed_before():
    class Brittle(Counting):
        def on_trade(self, message):
            raise ValueError("brittle")

    old, new = bus_of(spec("it", Brittle)), bus_of(spec("it", Brittle))
    old.deliver(trade(1), 1)

    new.restore(old.snapshot())

    assert old.failures == {"it": "Trade: ValueError: brittle"}
    assert (new.failed, new.failures) == ({"it"}, {})


# --- Secrets --------------------------------------------------------------------------------------


def test_a_component_is_given_the_secrets_it_was_granted_and_no_others():
    bus = Journaled()
    keyed = bus.add(spec("keyed", Component), None, {"api-key": "s3cret"})
    bare = bus.add(spec("bare", Component), None)

    assert keyed.ctx.secret("api-key") == "s3cret"
    with pytest.raises(PluginContractError, match=r"\[plugin.bare\] secrets, and set \w+_API_KEY"):
        bare.ctx.secret("api-key")


# --- Sinks ----------------------------------------------------------------------------------------


class Listening(Component):
    """A sink that writes down what it is told."""

    def __init__(self, ctx, options):
        super().__init__(ctx, options)
        self.told = []

    def emit(self, alert):
        self.told.append((alert.severity, alert.key))


def sink(plugin="sink", factory=Listening, **settings):
    return SinkSpec(id=plugin, factory=factory, **settings)


LOST, CONNECTED = FeedLost(1, "test", "cut", 0), m.FeedConnected(2, "test", [])
HALTED = m.TradingHalted(3, "risk", "too much")


def test_a_sink_is_told_of_what_matters_at_least_as_much_as_it_asks_for():
    calm, nosy = sink("calm"), sink("nosy", min_severity=Severity.INFO)
    bus = bus_of(calm, nosy)

    for number, message in enumerate((LOST, CONNECTED, trade(3), HALTED), 1):
        bus.deliver(message, number)

    assert [key for _, key in bus.component("calm").told] == ["feed/test", "trading"]
    assert [key for _, key in bus.component("nosy").told] == ["feed/test", "feed/test", "trading"]


def test_a_severity_that_the_component_has_goes_before_that_of_its_spec():
    class Fussy(Listening):
        min_severity = Severity.CRITICAL

    bus = bus_of(sink(factory=Fussy))

    bus.deliver(LOST, 1)
    bus.deliver(HALTED, 2)

    assert bus.component("sink").told == [(Severity.CRITICAL, "trading")]


def test_behind_each_alert_that_was_taken_the_bus_says_so_in_the_name_of_the_sink():
    bus = bus_of(sink())

    bus.deliver(LOST, 7)
    bus.deliver(HALTED, 8)

    assert bus.journal == [
        ("sink", 0, 7, m.AlertSent(1, "sink", Severity.WARNING, "feed/test")),
        ("sink", 0, 8, m.AlertSent(3, "sink", Severity.CRITICAL, "trading")),
    ]


def test_a_sink_that_raises_is_set_aside_and_the_other_is_told_of_it():
    class Deaf(Listening):
        def emit(self, alert):
            raise OSError("no route")

    bus = bus_of(sink("a-deaf", Deaf), sink("b-well"))

    bus.deliver(LOST, 1)
    bus.deliver(HALTED, 2)

    assert bus.failed == {"a-deaf"}
    assert ("plugin/a-deaf") in [key for _, key in bus.component("b-well").told]
    assert [each.sink for each in bus.messages if isinstance(each, m.AlertSent)] == ["b-well"] * 3


def test_a_sink_publishes_nothing_itself():
    class Chatty(Listening):
        def on_trade(self, message):
            self.ctx.publish(m.AlertSent(1, "sink", Severity.INFO, "mine"))

    bus = bus_of(sink(factory=Chatty))

    bus.deliver(trade(1), 1)

    assert bus.failures["sink"].startswith("Trade: PluginContractError: sink: published AlertSent")


def test_alerts_are_worth_a_subscription_only_where_there_is_a_sink():
    assert m.TradingHalted in bus_of(sink()).wanted_types
    assert m.TradingHalted not in bus_of(spec("counting", Counting)).wanted_types


@given(st.lists(st.sampled_from([LOST, CONNECTED, HALTED, trade(4)]), max_size=12), st.data())
def test_after_a_crash_an_alert_is_sent_again_only_where_nobody_has_heard_that_it_was(tape, data):
    kinds = {"counting": spec("counting", Failing), "sink": sink(min_severity=Severity.INFO)}
    whole = bus_of(*kinds.values())
    for number, message in enumerate(tape, 1):
        whole.deliver(message, number)
    heard = data.draw(st.integers(0, len(whole.journal)))  # how many outputs were in the order at the crash
    last = {plugin: (cause, n) for plugin, n, cause, _ in whole.journal[:heard]}

    again = bus_of(*kinds.values(), is_said=lambda plugin, n, cause: (cause, n) <= last.get(plugin, (-1, -1)))
    for number, message in enumerate(tape, 1):
        again.deliver(message, number)

    assert again.journal == whole.journal
    sent = [message.key for _, _, _, message in whole.journal[heard:] if isinstance(message, m.AlertSent)]
    assert [key for _, key in again.component("sink").told] == sent


class Failing(Component):
    """Fails at its first trade, so that an alert follows from an output of the same input."""

    def on_trade(self, message):
        raise ValueError("at once")


def test_a_component_that_cannot_take_its_state_is_set_aside_and_says_so():
    class Amnesiac(Counting):
        def restore(self, state):
            raise ValueError("what was I")

    old, new = bus_of(spec("it", Counting)), bus_of(spec("it", Amnesiac), spec("sturdy", Sturdy))
    old.deliver(trade(1), 1)

    new.restore(old.snapshot())
    new.deliver(trade(2), 2)

    failure = new.messages[0]
    assert (failure.plugin, failure.stage) == ("it", "restore")
    assert "what was I" in failure.error
    assert new.messages[1:] == [Sync(1, "it failed"), Sync(2, "trade 100")]


@given(st.binary(max_size=40))
def test_refuses_a_state_that_is_none(data):
    with pytest.raises(StateRefused, match="kernel: expected"):
        Journaled().restore(data)


def test_refuses_a_state_of_another_format():
    fields = msgspec.msgpack.decode(Journaled().snapshot())
    fields[0] += 1

    with pytest.raises(StateRefused, match="expected state format 1, was 2"):
        Journaled().restore(msgspec.msgpack.encode(fields))


def test_a_component_is_told_who_it_is_and_when_the_run_began(tmp_path):
    bus = bus_of(spec("counting", Counting), started_ns=77, data_dir=tmp_path)
    ctx = bus.component("counting").ctx

    assert (ctx.plugin, ctx.started_ns, ctx.data_dir) == ("counting", 77, tmp_path / "counting")
    assert bus.plugins == ["counting"]
    assert ctx.instrument("test", "BTC/USDT") is None


def test_feature_vectors_reach_strategies_in_the_same_delivery():
    class Feature(Component):
        def on_trade(self, message):
            self.ctx.publish(FeatureVector(1, 1, "test", "BTC/USDT", "price", b""))

    class Strategy(Component):
        def on_feature_vector(self, vector):
            self.ctx.publish(order(f"on {vector.feature_set}"))

    feature = FeatureSetSpec(id="price", factory=Feature, publishes=(FeatureVector,), columns=())
    bus = bus_of(StrategySpec(id="strategy", factory=Strategy, publishes=(SubmitOrder,)), feature)

    bus.deliver(trade(1), 1)

    assert [type(message) for message in bus.messages] == [FeatureVector, SubmitOrder]


def test_an_input_that_cannot_be_read_is_skipped_and_the_next_is_taken():
    heard = []

    class Listens:
        def __init__(self, ctx, options):
            pass

        def on_trade(self, message):
            heard.append(message.price)

    bus = bus_of(spec("listens", Listens))
    good = codec.encode(Market().trade(1, 100, 1, Side.BUY))

    bus.deliver_encoded(codec.encode(Market().trade(1, 100.5, 1, Side.BUY)), 1)
    bus.deliver_encoded(good, 2)

    assert heard == [100]
