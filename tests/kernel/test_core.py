"""The kernel's own decisions: whom it starts, ends, fences, answers and halts for."""

import re

import msgspec
import pytest

from tickerml.kernel import (
    BookStale,
    Canary,
    FeedConnected,
    FeedEnded,
    HaltTrading,
    HostStarted,
    HostStopped,
    RiskVerdict,
    Side,
    TimeTick,
    Trade,
    TradingHalted,
    codec,
    control,
    status,
)
from tickerml.kernel.core import RESTART
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.sequencer import KERNEL
from tickerml.kernel.supervisor import MAX_RESTARTS
from tickerml.kernel.testing import Market
from tickerml.kernel.units import NS_PER_MS, NS_PER_S
from tickerml.testing.disk import Trouble

from .edges import CLIENT, JOURNAL, TOKEN, World


def trade(n: int) -> Trade:
    return Market().trade(n, 100, 1, Side.BUY)


# --- Starting and ending hosts --------------------------------------------------------------------


def give_up(world: World, host: str) -> None:
    for _ in range(MAX_RESTARTS):
        world.kernel.exited(host, "killed by SIGSEGV")
        world.links.pop(host, None)
        world.pass_time(3 * NS_PER_S)


def test_hosts_are_started_in_the_order_of_need_and_sources_let_go_last():
    world = World()
    first = list(world.spawned)

    world.start("archive")
    world.start("rules")
    world.kernel.tick()
    then = world.spawned[len(first) :]
    world.start("trade")
    world.kernel.tick()
    is_started = world.kernel.is_started
    world.start("market")
    world.kernel.tick()

    assert first == ["rules", "archive"]
    assert then == ["trade"]
    assert world.spawned[-1] == "market"
    assert (is_started, world.kernel.is_started) == (False, True)
    assert world.last(b"market", control.Start)


def test_a_host_without_a_rule_that_trading_needs_halts_it_when_it_is_given_up():
    world = World()
    world.start_all()
    give_up(world, "rules")

    (halt,) = world.of(HaltTrading)
    assert halt.source == "supervisor"
    assert "rule-x" in halt.reason


def test_a_host_that_nothing_needs_is_given_up_without_a_halt():
    world = World()
    world.start_all()
    give_up(world, "archive")

    assert world.of(HaltTrading) == []
    assert world.of(HostStopped)[-1].restart_in_ms == -1


def test_a_host_that_takes_more_than_it_may_is_ended_with_the_figure():
    world = World()
    world.start_all()
    world.overused["trade"] = "uses 312 MB of memory, its limit is 300 MB"

    world.pass_time(NS_PER_S)

    assert world.killed == [("trade", "uses 312 MB of memory, its limit is 300 MB")]


def test_a_stranger_is_not_welcome():
    world = World()

    world.say(b"x", control.Hello("trade", 9, "guess", control.PROTOCOL, codec.schema_hash()))
    world.say(b"y", control.Hello("rules", 9, TOKEN, control.PROTOCOL, codec.schema_hash()))

    assert "was not started by this kernel" in world.said[0][1].reason
    assert "is not the one this kernel started" in world.said[1][1].reason


# --- What comes in --------------------------------------------------------------------------------


def test_a_host_whose_burst_was_lost_is_ended_and_nothing_behind_it_is_taken():
    world = World()
    world.start_all()
    world.push("market", world.output("market", trade(1), 1))

    world.push("market", world.output("market", trade(3), 3), skipped=1)

    assert len(world.of(Trade)) == 1
    assert world.killed[0][0] == "market"
    assert re.search(r"its burst \d+ came after \d+", world.killed[0][1])


def test_what_a_dead_incarnation_still_says_is_neither_published_nor_taken_down():
    world = World()
    world.start_all()
    earlier, link, count = world.epochs["rules"], world.links["rules"], world.bursts["rules"]
    world.kernel.exited("rules", "killed by SIGKILL")
    world.links.pop("rules")
    world.pass_time(NS_PER_S)
    world.start("rules")
    before = world.kernel.sequencer.seq
    verdict = RiskVerdict(1, "o-1", "rule-x", 5, "")
    note = control.CHECKPOINT + msgspec.msgpack.encode(control.HostCheckpoint("rules", 99, b"state"))

    world.bursts["rules"] = count
    world.push("rules", world.output("rules", verdict, 7, earlier), note, link=link)
    world.commit()

    assert world.of(RiskVerdict) == []
    assert world.kernel.sequencer.seq == before
    assert world.kernel.sequencer.refused == {"rule-x: an older epoch": 1}
    assert JournalReader(JOURNAL, opener=world.disk.open).checkpoints("rules") == []


def test_the_books_of_a_dead_source_are_stale_until_it_speaks_again():
    world = World()
    world.start_all()
    world.push("market", world.output("market", FeedConnected(1, "kraken", ["BTC/USD", "ETH/USD"]), 1))

    world.kernel.exited("market", "killed by SIGKILL")

    assert [(stale.exchange, stale.symbol) for stale in world.of(BookStale)] == [
        ("kraken", "BTC/USD"),
        ("kraken", "ETH/USD"),
    ]


def test_where_time_is_the_datas_nothing_was_missed_while_a_source_was_away():
    world = World(clock="data", speed="max")
    world.start_all()
    world.push("market", world.output("market", FeedConnected(1, "kraken", ["BTC/USD"]), 1))

    world.kernel.exited("market", "killed by SIGKILL")

    assert world.of(BookStale) == []


# --- Promises and the journal ---------------------------------------------------------------------


def test_a_person_is_answered_when_the_halt_is_on_disk_and_not_before():
    world = World()
    world.commit()

    world.say(CLIENT, control.HaltRequest("operator", "enough"))
    world.kernel.hand_over()
    early = [message for to, message in world.said if to == CLIENT]
    world.commit()

    assert early == []
    assert world.last(CLIENT, control.Done).seq == world.writer.committed
    assert world.of(HaltTrading)


@pytest.mark.parametrize(
    ("wants", "is_hurried"),
    [
        (control.HaltRequest("operator", "enough"), True),
        (control.ResumeRequest("operator", "go on"), True),
        (control.StatusRequest(), False),
    ],
)
def test_the_disk_is_hurried_for_those_who_wait_for_it_and_for_nobody_else(monkeypatch, wants, is_hurried):
    world = World()
    world.commit()
    hurried = []
    monkeypatch.setattr(world.writer, "hurry", lambda: hurried.append(world.writer.backlog))

    world.say(CLIENT, wants)
    world.kernel.hand_over()
    world.kernel.hand_over()

    assert hurried == ([1] if is_hurried else [])


def test_the_disk_is_hurried_for_a_host_that_reads_what_is_before_its_marker(monkeypatch):
    world = World()
    world.start_all()
    world.commit()
    hurried = []
    monkeypatch.setattr(world.writer, "hurry", lambda: hurried.append(world.writer.backlog))

    world.say(b"trade", control.SyncRequest("trade"))
    world.kernel.hand_over()

    assert hurried == [1]


def test_while_the_disk_is_full_nothing_is_accepted_or_promised_and_then_it_goes_on():
    world = World()
    world.start_all()
    world.commit()
    world.disk.trouble = Trouble.FULL
    world.push("market", world.output("market", trade(1), 1))
    world.kernel.hand_over()

    done = world.commit()
    world.pass_time(2 * NS_PER_S)
    world.say(CLIENT, control.ResumeRequest("operator", "go on"))
    ticks = len(world.of(TimeTick, Canary))
    world.pass_time(2 * NS_PER_S)
    state, halted_by = status.report(world.kernel)["state"], status.report(world.kernel)["halted_by"]
    world.disk.trouble = Trouble.NONE
    world.commit()
    world.pass_time(2 * NS_PER_S)

    assert not done
    assert (
        "is full" in world.last(CLIENT, control.Refused).reason or world.last(CLIENT, control.Refused).reason
    )
    assert (state, halted_by.partition(":")[0]) == ("halted", "journal")
    assert world.listening == [False, True]
    assert len(world.of(TimeTick, Canary)) > ticks
    assert status.report(world.kernel)["state"] != "halted"


def test_the_kernels_own_state_is_a_checkpoint_like_any_other():
    world = World()
    world.start_all()
    world.pass_time(11 * NS_PER_S)
    world.commit()

    newest, first = JournalReader(JOURNAL, opener=world.disk.open).checkpoints(KERNEL)

    assert first.position < newest.position <= world.kernel.sequencer.seq


def test_what_the_journal_lost_halts_trading_before_anything_is_traded():
    world = World(repaired="the journal lost seq 5 to 9")

    (halt,) = world.of(HaltTrading)

    assert halt == HaltTrading(halt.ts_recv, "journal", "the journal lost seq 5 to 9")


@pytest.mark.parametrize("level", [0, 3])
def test_a_gate_that_begins_anew_is_told_of_the_halt_that_holds(level):
    world = World()
    if level:
        halted = TradingHalted(1, "risk-drawdown", "drawdown 26.00 % >= 25.00 %: stop", level)
        world.kernel.sequencer.summary.add(halted, codec.encode(halted))
    gate = control.Component("gate", "gate", ["TradingHalted"])

    world.start("archive")
    world.start("rules")
    world.kernel.tick()
    world.start("trade")
    assert world.of(HaltTrading) == []  # there is no gate in it yet
    world.say(b"trade", control.Present("trade", [gate], {}))

    told = [(each.source, each.reason, each.level) for each in world.of(HaltTrading)]
    assert told == [("risk-drawdown", "drawdown 26.00 % >= 25.00 %: stop", 3)] * bool(level)
    assert isinstance(world.published[-1], HaltTrading if level else HostStarted)


# --- Alive means trading --------------------------------------------------------------------------


def canaries(world: World) -> list[int]:
    return [
        message.number
        for to, message in world.said
        if to == b"market" and isinstance(message, control.Canary)
    ]


def answer(world: World, host: str, number: int) -> None:
    world.push(host, control.CANARY + msgspec.msgpack.encode(control.CanaryNote(host, number)))


def test_a_canary_sets_out_each_second_and_is_ordered_when_the_source_has_pushed_it():
    world = World()
    world.start_all()

    world.pass_time(3 * NS_PER_S)
    answer(world, "market", canaries(world)[0])

    assert len(canaries(world)) == 3
    assert [(canary.number, canary.host) for canary in world.of(Canary)] == [(canaries(world)[0], "market")]


def test_a_host_that_does_not_hand_the_canary_back_is_named_since_when():
    world = World()
    world.start_all()
    for _ in range(8):
        world.pass_time(NS_PER_S)
        for host in ("market", "rules", "archive"):
            answer(world, host, canaries(world)[-1])

    report = status.report(world.kernel)

    assert report["state"] == "degraded"
    (condition,) = report["degraded"]
    assert condition["part"] == "trade"
    assert "no canary" in condition["reason"]
    assert condition["since_ns"] < world.wall()


def test_a_machine_whose_clock_was_set_back_is_told_of():
    world = World()
    world.start_all()
    world.set_back_ns = 3600 * NS_PER_S

    (condition,) = status.report(world.kernel)["degraded"]

    assert condition["part"] == "clock"
    assert "set back" in condition["reason"]


def test_when_everybody_answers_it_is_running():
    world = World()
    world.start_all()
    for _ in range(8):
        world.pass_time(NS_PER_S)
        for host in ("market", "rules", "archive", "trade"):
            answer(world, host, canaries(world)[-1])

    assert status.report(world.kernel)["state"] == "running"
    assert status.report(world.kernel)["degraded"] == []


# --- The end --------------------------------------------------------------------------------------


def test_a_sign_of_life_does_not_overtake_the_outputs_and_end_the_run():
    world = World(clock="data", speed="max")
    world.start_all()
    world.push("market", world.output("market", FeedEnded(1, "exchange-x", 1, 0), 1))
    for _ in range(10):
        for host in world.links:
            world.say(host.encode(), control.Beat(host, []))
        world.pass_time(100 * NS_PER_MS, are_beating=False)
    is_ending = bool(world.kernel.ending.reason)

    world.pass_time(NS_PER_S)

    assert not is_ending
    assert world.kernel.ending.reason == "the data ended"


def test_a_run_over_data_whose_source_is_given_up_ends_and_is_not_complete():
    world = World(clock="data", speed="max")
    world.start_all()

    give_up(world, "market")
    world.pass_time(NS_PER_S)

    assert world.kernel.ending.reason == "a source of the data is quarantined"
    assert not world.kernel.is_complete


def test_by_the_wall_clock_it_waits_for_a_person_to_see_to_the_source():
    world = World()
    world.start_all()

    give_up(world, "market")
    world.pass_time(NS_PER_S)

    assert world.kernel.ending.reason == ""


def end_of_data(world: World) -> None:
    world.push("market", world.output("market", FeedEnded(1, "exchange-x", 1, 0), 1))
    world.kernel.hand_over()


def test_the_data_has_not_ended_for_a_run_while_the_journal_fails_and_takes_nothing_from_the_hosts():
    world = World()
    world.start_all()
    world.disk.trouble = Trouble.READ_ONLY
    end_of_data(world)
    world.commit()
    world.pass_time(NS_PER_S, are_beating=False)
    was_ending = bool(world.kernel.ending.reason)

    world.disk.trouble = Trouble.NONE
    world.commit()
    world.pass_time(NS_PER_S)

    assert not was_ending
    assert world.kernel.ending.reason == "the data ended"
    assert world.kernel.is_complete


@pytest.mark.parametrize("is_failing", [False, True])
def test_a_run_that_is_not_drained_because_its_journal_fails_ends_and_is_not_complete(is_failing):
    world = World()
    world.start_all()
    end_of_data(world)
    world.pass_time(200 * NS_PER_MS)
    world.disk.trouble = Trouble.READ_ONLY if is_failing else Trouble.NONE
    world.commit()
    world.kernel.exited("market", "exit code 0")
    world.links.pop("market")
    world.pass_time(500 * NS_PER_MS, are_beating=not is_failing)
    world.disk.trouble = Trouble.NONE
    world.commit()
    for host in list(world.links):
        world.kernel.exited(host, "exit code 0")
    world.links.clear()
    world.pass_time(NS_PER_S)

    assert world.kernel.is_over
    assert world.kernel.ending.reason == "the data ended"
    assert world.kernel.is_complete == (not is_failing)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(control.ShutdownRequest("enough"), "enough"), (control.RestartRequest("new code"), RESTART)],
)
def test_it_stops_the_sources_first_and_then_everybody_at_once(request_, reason):
    world = World()
    world.start_all()

    world.say(CLIENT, request_)
    world.pass_time(100 * NS_PER_MS)
    told = [to for to, message in world.said if isinstance(message, control.Stop)]
    world.kernel.exited("market", "exit code 0")
    world.links.pop("market")
    for host in ("rules", "archive", "trade"):
        world.tell_position(host, world.kernel.sequencer.seq + 100)
    world.pass_time(NS_PER_S)
    then = [to for to, message in world.said if isinstance(message, control.Stop)][len(told) :]
    for host in ("rules", "archive", "trade"):
        world.kernel.exited(host, "exit code 0")
    world.links.clear()
    world.pass_time(NS_PER_S)

    assert told == [b"market"]
    assert sorted(then) == [b"archive", b"rules", b"trade"]
    assert world.kernel.is_over
    assert world.kernel.ending.reason == reason
