"""A change of the plan while it runs: each step, and the way back from each."""

import msgspec
import pytest

from tickerml.kernel import PluginChanged, RiskVerdict, SwapEnded, SwapStarted, codec, control, status
from tickerml.kernel.changes import KEEP_LIMIT_NS, Tasks, compare
from tickerml.kernel.config import HostEntry, Plan
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.swap import BARRIER_LIMIT_NS, START_LIMIT_NS, TAKEOVER_LIMIT_NS
from tickerml.kernel.units import NS_PER_S

from .edges import CLIENT, JOURNAL, TOKEN, World, planned

SPARE = "rules~"
VERDICTS = [control.Component("rule-x", "risk_rule", ["RiskVerdict"])]
STATE = b"the state"


class Stage:
    """A running kernel, and the two processes of its host `rules`."""

    def __init__(self, **request) -> None:
        self.world = World()
        self.world.start_all()
        self.request = request

    @property
    def change(self):
        return status.report(self.world.kernel)["change"]

    def plan(self, **options) -> Plan:
        plan = self.world.kernel.plan
        plugins = [
            msgspec.structs.replace(entry, options=options) if entry.id == "rule-x" else entry
            for entry in plan.plugins
        ]
        return msgspec.structs.replace(plan, plugins=plugins)

    def ask(self, plan=None, **more):
        request = {"probation_s": 5.0, **self.request, **more}
        self.world.say(CLIENT, control.ChangeRequest(plan or self.plan(level=2), "a test", **request))
        return self.world.said[-1][1]

    def greet(self, components=VERDICTS, failed=None, schema=None, host="rules"):
        world, spare = self.world, f"{host}~"
        world.say(
            spare.encode(),
            control.Hello(host, world.pids[spare], TOKEN, control.PROTOCOL, schema or codec.schema_hash()),
        )
        world.say(spare.encode(), control.Present(host, components, failed or {}))

    def stand_by(self):
        self.ask()
        self.greet()
        self.world.say(SPARE.encode(), control.StandingBy("rules"))

    def give_state(self, process="rules", data=STATE, part=0, parts=1):
        number = self.world.last(process.encode(), control.Barrier).number
        note = control.StatePart("rules", number, self.world.kernel.sequencer.seq, part, parts, data)
        self.world.push(process, control.STATE + msgspec.msgpack.encode(note))

    def take_over(self):
        self.stand_by()
        self.give_state()
        told = self.world.last(SPARE.encode(), control.TakeOver)
        self.world.links[SPARE], self.world.bursts[SPARE] = told.admitted.link, 0
        self.world.epochs[SPARE] = told.admitted
        self.world.say(SPARE.encode(), control.Took("rules", []))

    def pass_time(self, ns):
        """Let time pass in which everybody who is there says so, after what was said is on disk."""
        self.settle()
        self.world.pass_time(ns)

    def settle(self):
        """Let the disk have what was said, and the kernel see it."""
        self.world.kernel.hand_over()
        self.world.commit()
        self.world.kernel.tick()

    def exit(self, process, reason="killed by SIGKILL"):
        self.world.links.pop(process, None)
        self.world.kernel.exited(process, reason)

    def is_told(self, process, type_):
        return any(to == process.encode() and isinstance(said, type_) for to, said in self.world.said)

    def outcome(self):
        return self.change["outcome"], self.change["failed_at"]


# --- What is to be done ---------------------------------------------------------------------------


def plan_of(*plugins, **more):
    base = World().kernel.plan
    return msgspec.structs.replace(base, plugins=list(plugins), **more)


def test_hosts_that_are_new_come_first_and_those_no_longer_wanted_go_last():
    sim, rule = planned("sim-x", "simulator", "trade"), planned("rule-x", "risk_rule", "rules")
    store = planned("store-x", "store", "archive")

    tasks = compare(plan_of(sim, store), plan_of(sim, rule), [])

    # The gate must learn of the new rule, so its host is swapped although its plugins are the same.
    assert tasks == Tasks([("start", "rules"), ("swap", "trade")], ["archive"])


def test_nothing_that_is_the_same_is_touched_unless_it_is_named():
    plan = plan_of(planned("sim-x", "simulator", "trade"), planned("store-x", "store", "archive"))

    assert compare(plan, plan, []) == Tasks([], [])
    assert compare(plan, plan, ["archive"]) == Tasks([("swap", "archive")], [])


def test_other_limits_are_another_process():
    plan = plan_of(planned("store-x", "store", "archive"))
    limited = msgspec.structs.replace(plan, limits={"archive": HostEntry(max_rss_mb=50)})

    assert compare(plan, limited, []) == Tasks([("swap", "archive")], [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "other"}, "cannot change while it runs"),
        ({"plugins": [planned("store-x", "store", "elsewhere")]}, "store-x cannot move from host archive"),
    ],
)
def test_what_cannot_be_changed_live_is_refused_with_what_to_do(change, said):
    plan = plan_of(planned("store-x", "store", "archive"))

    told = compare(plan, msgspec.structs.replace(plan, **change), [])

    assert said in told
    assert "tickerml restart" in told


def test_a_rule_that_cannot_run_does_not_drop_out_of_the_gate_in_silence():
    plan = plan_of(planned("rule-x", "risk_rule", "rules"))
    blocked = msgspec.structs.replace(plan.plugins[0], blocked="needs api >=2.0")

    told = compare(plan, msgspec.structs.replace(plan, plugins=[blocked]), [])

    assert told == (
        "rule-x, without which nothing may trade, is blocked: needs api >=2.0; see to it, or disable it"
    )


# --- Forward --------------------------------------------------------------------------------------


def test_a_swap_goes_through_its_steps_and_is_permanent_after_its_probation():
    stage = Stage()
    steps = []

    answer = stage.ask(files={"plugins.toml.new": "plugins.toml"})
    steps.append(stage.change["step"])
    stage.greet()
    steps.append(stage.change["step"])
    stage.world.say(SPARE.encode(), control.StandingBy("rules"))
    steps.append(stage.change["step"])
    stage.give_state()
    steps.append(stage.change["step"])
    stage.world.say(SPARE.encode(), control.Took("rules", []))
    steps.append(stage.change["step"])
    placed_in_probation = list(stage.world.placed)
    stage.pass_time(6 * NS_PER_S)

    assert answer == control.Accepted(1)
    assert steps == ["starting", "standby", "barrier", "takeover", "probation"]
    assert stage.outcome() == ("permanent", "")
    assert placed_in_probation == []
    assert stage.world.placed == [{"plugins.toml.new": "plugins.toml"}]
    assert stage.is_told("rules", control.Stop)
    assert [type(message) for message in stage.world.of(SwapStarted, SwapEnded)] == [SwapStarted, SwapEnded]


def test_the_state_is_in_the_journal_before_anybody_goes_on_from_it():
    stage = Stage()
    stage.take_over()
    stage.world.kernel.hand_over()
    stage.world.commit()

    journal = JournalReader(JOURNAL, opener=stage.world.disk.open)
    (newest, *_) = journal.checkpoints("rules")
    journal.close()

    assert newest.state == STATE


def test_what_the_one_before_still_says_is_refused_by_its_epoch():
    stage = Stage()
    world = stage.world
    stage.take_over()
    before = len(world.of(RiskVerdict))
    verdict = RiskVerdict(1, "rule-x", "o", 1, "late")
    old = world.epochs["rules"]
    world.push("rules", world.output("rules", verdict, 10**6, old))
    new = world.epochs[SPARE]
    world.push(SPARE, world.output(SPARE, verdict, 10**6, new))

    assert len(world.of(RiskVerdict)) == before + 1
    assert any(why.endswith("older epoch") for why in world.kernel.sequencer.refused)


def test_a_large_state_is_passed_on_part_by_part():
    stage = Stage()
    stage.stand_by()

    stage.give_state(data=b"one", part=0, parts=2)
    asked_before = stage.is_told("rules", control.MoreState)
    first = stage.world.last(SPARE.encode(), control.TakeOver)
    stage.world.say(SPARE.encode(), control.PartTaken("rules", 0))
    stage.give_state(data=b"two", part=1, parts=2)

    assert not asked_before
    assert stage.is_told("rules", control.MoreState)
    assert (first.data, first.admitted) == (b"one", None)
    assert stage.world.last(SPARE.encode(), control.TakeOver).admitted is not None


def test_a_shadow_runs_first_and_tells_what_differs():
    stage = Stage(shadow_s=10.0)
    stage.stand_by()
    in_shadow = stage.change["step"]
    stage.world.say(SPARE.encode(), control.Shadowed("rules", 5, 1, 0, 0, ["different: …"]))
    stage.pass_time(11 * NS_PER_S)
    stage.world.say(SPARE.encode(), control.StandingBy("rules"))

    assert in_shadow == "shadow"
    assert stage.is_told(SPARE, control.ShadowOver)
    assert stage.change["step"] == "barrier"
    assert stage.change["shadow"] == {
        "equal": 5, "different": 1, "only_old": 0, "only_new": 0, "examples": ["different: …"],
    }  # fmt: skip


def test_what_does_not_take_the_bus_has_no_shadow():
    stage = Stage()

    refused = stage.ask(stage.world.kernel.plan, reload=["market"], shadow_s=600.0)

    assert isinstance(refused, control.Refused)
    assert "ask without one" in refused.reason
    assert stage.change is None


def test_a_source_beside_what_has_a_shadow_is_swapped_without_one():
    stage = Stage()

    stage.ask(reload=["market"], shadow_s=600.0)
    stage.greet([control.Component("exchange-x", "exchange", ["Trade"])], host="market")

    assert not stage.world.last(b"market~", control.StandBy).with_shadow


def test_a_second_change_is_refused_while_one_is_under_way():
    stage = Stage()
    stage.ask()

    told = stage.ask()

    assert isinstance(told, control.Refused)
    assert "change 1 (a test) is under way" in told.reason


def test_a_person_may_end_the_probation():
    stage = Stage()
    stage.take_over()

    stage.world.say(CLIENT, control.SettleRequest())
    stage.pass_time(NS_PER_S // 10)

    assert stage.outcome() == ("permanent", "")


# --- Back -----------------------------------------------------------------------------------------


def test_a_candidate_that_cannot_load_changes_nothing():
    stage = Stage(files={"a": "b"})
    stage.ask()

    stage.greet(components=[], failed={"rule-x": ("load", "import raised SystemExit: 3")})

    assert stage.outcome() == ("rolled back", "starting")
    assert "rule-x failed at load: import raised SystemExit: 3" in stage.change["error"]
    assert not stage.is_told("rules", control.Barrier)
    assert (SPARE, stage.change["error"]) in stage.world.killed
    assert stage.world.dropped == [{"a": "b"}]
    assert stage.world.placed == []


def test_a_candidate_that_wants_to_say_what_it_may_not_is_refused():
    stage = Stage()
    stage.ask()

    stage.greet(components=[control.Component("rule-x", "risk_rule", ["OrderFilled"])])

    assert stage.outcome() == ("rolled back", "starting")
    assert "may not publish OrderFilled" in stage.change["error"]


def test_a_candidate_that_dies_before_it_takes_over_changes_nothing():
    stage = Stage()
    stage.ask()
    stage.greet()

    stage.exit(SPARE)

    assert stage.outcome() == ("rolled back", "standby")
    assert status.report(stage.world.kernel)["state"] == "running"


def test_one_that_never_gets_ready_is_not_waited_for():
    stage = Stage()
    stage.ask()

    stage.pass_time(START_LIMIT_NS + NS_PER_S)

    assert stage.outcome() == ("rolled back", "starting")


def test_where_the_present_one_does_not_stop_it_goes_on_as_before():
    stage = Stage()
    stage.stand_by()

    stage.pass_time(BARRIER_LIMIT_NS + NS_PER_S)

    assert stage.outcome() == ("rolled back", "barrier")
    assert stage.is_told("rules", control.Resume)
    assert stage.world.kernel.berths.name_of("rules") == "rules"


@pytest.mark.parametrize("how", ["refuses", "dies", "hangs"])
def test_where_the_new_one_does_not_go_on_from_the_state_the_old_one_does(how):
    stage = Stage()
    stage.stand_by()
    stage.give_state()

    match how:
        case "refuses":
            stage.world.say(SPARE.encode(), control.NotTaken("rules", "rule-x: it is too old"))
        case "dies":
            stage.exit(SPARE)
        case "hangs":
            stage.pass_time(TAKEOVER_LIMIT_NS + NS_PER_S)
    back = stage.world.last(b"rules", control.TakeOver)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert (back.data, back.parts) == (b"", 0)
    assert back.admitted.epochs["rule-x"] > stage.world.epochs["rules"].epochs["rule-x"]
    assert stage.outcome() == ("rolled back", "takeover")
    assert stage.world.kernel.berths.name_of("rules") == "rules"


def test_one_that_fails_in_its_probation_hands_its_state_back():
    stage = Stage()
    stage.take_over()

    stage.world.say(SPARE.encode(), control.Beat("rules", ["rule-x"]))
    stage.world.kernel.tick()
    stage.give_state(SPARE, data=b"later")
    back = stage.world.last(b"rules", control.TakeOver)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert back.data == b"later"
    assert stage.outcome() == ("rolled back", "probation")
    assert "rule-x failed" in stage.change["error"]
    assert any(process == SPARE for process, _ in stage.world.killed)


def test_one_that_dies_in_its_probation_leaves_the_other_its_own_state():
    stage = Stage()
    stage.take_over()

    stage.exit(SPARE)
    back = stage.world.last(b"rules", control.TakeOver)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert back.data == b""
    assert stage.outcome() == ("rolled back", "probation")
    assert status.report(stage.world.kernel)["state"] == "running"
    assert stage.world.spawned.count("rules") == 1


def test_where_both_are_gone_the_host_is_started_again_with_the_plan_before():
    stage = Stage()
    stage.take_over()
    stage.exit("rules")

    stage.exit(SPARE)
    stage.world.kernel.tick()
    stage.pass_time(3 * NS_PER_S)

    assert stage.outcome() == ("rolled back", "probation")
    assert stage.world.spawned[-1].startswith("rules")
    assert stage.world.kernel.plan == stage.world.kernel.settings.plan


def test_a_person_may_cancel_in_the_probation():
    stage = Stage()
    stage.take_over()

    stage.world.say(CLIENT, control.CancelRequest("I changed my mind"))
    stage.give_state(SPARE)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert stage.outcome() == ("rolled back", "probation")
    assert stage.change["error"] == "I changed my mind"


def test_nothing_is_permanent_before_the_states_it_rests_on_are_on_disk():
    stage = Stage(probation_s=0.0, files={"plugins.toml.new": "plugins.toml"})
    stage.take_over()
    stage.world.kernel.hand_over()
    stage.world.kernel.tick()
    placed_too_early = list(stage.world.placed)
    outcome_before = stage.outcome()

    stage.settle()

    assert placed_too_early == []
    assert outcome_before == ("", "")
    assert stage.world.placed == [{"plugins.toml.new": "plugins.toml"}]
    assert stage.outcome() == ("permanent", "")


def test_a_disk_that_never_takes_those_states_rolls_it_back():
    stage = Stage(probation_s=0.0)
    stage.take_over()
    stage.world.pass_time(KEEP_LIMIT_NS - 1)
    assert stage.change["error"] == ""
    stage.world.pass_time(1)
    stage.give_state(SPARE)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert stage.outcome() == ("rolled back", "probation")
    assert "the journal has not taken what it rests on within 60 s" in stage.change["error"]


def test_files_that_cannot_be_put_in_place_roll_it_back():
    stage = Stage(probation_s=0.0)
    stage.world.place_error = "cannot put plugins.toml in its place: no space left"
    stage.take_over()
    stage.settle()
    stage.give_state(SPARE)
    stage.world.say(b"rules", control.Took("rules", []))
    stage.world.kernel.tick()

    assert stage.outcome() == ("rolled back", "probation")
    assert "no space left" in stage.change["error"]


def test_another_version_of_the_state_is_no_use_to_the_one_before():
    stage = Stage()
    plan = stage.plan()
    plugins = [
        msgspec.structs.replace(entry, state_version=2) if entry.id == "rule-x" else entry
        for entry in plan.plugins
    ]
    stage.ask(msgspec.structs.replace(plan, plugins=plugins))
    stage.greet()
    stage.world.say(SPARE.encode(), control.StandingBy("rules"))
    stage.give_state()
    told = stage.world.last(SPARE.encode(), control.TakeOver)
    stage.world.links[SPARE], stage.world.bursts[SPARE] = told.admitted.link, 0
    stage.world.say(SPARE.encode(), control.Took("rules", []))
    note = control.HostCheckpoint("rules", 99, b"version 2")
    stage.world.push(SPARE, control.CHECKPOINT + msgspec.msgpack.encode(note))
    stage.world.kernel.hand_over()
    stage.world.commit()
    journal = JournalReader(JOURNAL, opener=stage.world.disk.open)
    states = [checkpoint.state for checkpoint in journal.checkpoints("rules")]
    journal.close()
    stage.world.say(CLIENT, control.CancelRequest("no"))
    stage.give_state(SPARE, data=b"version 2")

    assert states == [STATE]
    assert stage.world.last(b"rules", control.TakeOver).data == b""


# --- Hosts that come and go -----------------------------------------------------------------------


def test_a_plugin_that_is_taken_out_is_let_go_when_it_is_permanent():
    stage = Stage(probation_s=0.0)
    plan = stage.plan()
    without = [entry for entry in plan.plugins if entry.id != "news-x"]

    stage.ask(msgspec.structs.replace(plan, plugins=without))
    stage.settle()

    assert stage.outcome() == ("permanent", "")
    assert stage.is_told("archive", control.Stop)
    (changed,) = stage.world.of(PluginChanged)
    assert (changed.plugin, changed.is_enabled) == ("news-x", False)


def test_a_plugin_that_is_new_gets_a_process_and_one_that_cannot_run_is_taken_back():
    stage = Stage()
    plan = stage.plan()
    more = [*plan.plugins, planned("store-y", "store", "more")]
    stage.ask(msgspec.structs.replace(plan, plugins=more))
    spawned = list(stage.world.spawned)

    stage.world.say(
        b"more",
        control.Hello(
            "more",
            stage.world.pids["more"],
            TOKEN,
            control.PROTOCOL,
            codec.schema_hash(),
        ),
    )
    stage.world.say(b"more", control.Present("more", [], {"store-y": ("load", "no such module")}))
    stage.world.say(b"more", control.Ready("more", control.Role.CONSUMER))
    stage.pass_time(NS_PER_S)

    assert spawned[-1] == "more"
    assert stage.change["outcome"] == "rolled back"
    assert "no such module" in stage.change["error"]
    assert stage.is_told("more", control.Stop)


def test_a_new_host_that_never_gets_ready_is_not_waited_for():
    stage = Stage()
    plan = stage.plan()
    stage.ask(msgspec.structs.replace(plan, plugins=[*plan.plugins, planned("store-y", "store", "more")]))

    stage.pass_time(START_LIMIT_NS)
    assert stage.change["outcome"] == ""
    stage.pass_time(2 * NS_PER_S)

    assert stage.change["outcome"] == "rolled back"
    assert "host more cannot be started: it does not get ready" in stage.change["error"]


def test_a_plugin_that_is_new_and_runs_is_there_for_good_after_its_probation():
    stage = Stage(probation_s=2.0)
    plan = stage.plan()
    stage.ask(msgspec.structs.replace(plan, plugins=[*plan.plugins, planned("store-y", "store", "more")]))

    stage.world.start("more")
    stage.pass_time(NS_PER_S)
    assert stage.change["step"] == "probation"
    stage.pass_time(2 * NS_PER_S)

    assert stage.outcome() == ("permanent", "")
    assert [(each.plugin, each.is_enabled) for each in stage.world.of(PluginChanged)] == [("store-y", True)]


def test_the_end_of_the_run_ends_a_change_and_makes_nothing_permanent():
    stage = Stage(files={"a": "b"})
    stage.take_over()

    stage.world.say(CLIENT, control.ShutdownRequest("enough"))
    stage.pass_time(NS_PER_S)

    assert stage.outcome() == ("rolled back", "probation")
    assert stage.world.placed == []
    assert stage.world.dropped == [{"a": "b"}]
