"""plugins.toml and --set: whatever is wrong is refused with the file, the key, the rule and the value."""

import re
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import ConfigError, config, registry
from tickerml.kernel.catalog import Catalog, Found, find
from tickerml.kernel.config import HostEntry, KernelSettings, Plan, PluginPlan
from tickerml.kernel.describe import describe
from tickerml.kernel.manifest import Manifest
from tickerml.kernel.resolve import resolve
from tickerml.kernel.supervisor import Supervisor

from .loadable import LOADABLE

ROOT = Path(__file__).resolve().parents[2]
WHOLE = """
format = 1

[profile.small]
plugins = ["exchange-synthetic", "sim-fifo", "portfolio", "console"]
[profile.small.kernel]
commit_ms = 100
[profile.small.options.portfolio]
currency = "EUR"

[profile.other]
plugins = ["portfolio"]

[plugin.exchange-synthetic]
host = "market"

[plugin.sim-fifo]
host = "trade"
[plugin.sim-fifo.options]
seed = 3
name = "fifo"

[plugin.portfolio]
host = "trade"
[plugin.portfolio.options]
currency = "USD"
account = "paper"

[plugin.console]
host = "ui"
"""


LIMITS = """
[host.trade]
max_rss_mb = 300
max_cpu = 0.5
"""


def load(directory: Path, text: str = WHOLE) -> config.Config:
    path = directory / "plugins.toml"
    path.write_text(text)
    return config.load(path)


def refusal(directory: Path, text: str) -> str:
    """Return what is said of a plugins.toml that is wrong, after the file's name."""
    path = directory / "plugins.toml"
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    said = str(caught.value)
    assert str(path) in said
    return said.replace(f"{path}: ", "")


def planned(found: Plan, plugin: str) -> PluginPlan:
    return next(entry for entry in found.plugins if entry.id == plugin)


# --- The file -------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nowhere\.toml.*--config"):
        config.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format = 1\n[profile", "not TOML: "),
        ("", "format: expected 1, was None"),
        ("format = 2", "format: expected 1, was 2"),
        ("format = 1\n[plugins.x]", "plugins: unknown key; did you mean 'plugin'?"),
        ("format = 1\nplugin = 3", "plugin: expected a table, was 3"),
        (
            "format = 1\n[profile]\nsmall = 3",
            "profile.small: expected `table` { key = value }, got `int`, was 3",
        ),
        ("format = 1\n[profile.small]", "profile.small: object missing required field `plugins`"),
    ],
)
def test_a_file_without_the_right_frame_is_refused(tmp_path, text, said):
    assert refusal(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('host = "ui"', 'hots = "ui"', "plugin.console.hots: unknown key; did you mean 'host'?"),
        ('host = "ui"', "xyzzy = 1", "plugin.console.xyzzy: unknown key"),
        ('host = "ui"', 'kind = "page"', "plugin.console.kind: the plugin's manifest says what it is; take"),
        ('host = "ui"', "module = 3", "plugin.console.module: expected `str`, got `int`, was 3"),
        ('host = "ui"', 'version = "new"', "plugin.console.version: expected a range such as"),
        ('host = "ui"', 'enabled = "yes"', "plugin.console.enabled: expected `bool`"),
        ("format = 1", "format = 1\nindex = [3]", "index[0]: expected `str`, got `int`, was 3"),
        ('host = "market"', 'host = "My Host"', "plugin.exchange-synthetic.host: expected `str` matching"),
        ('host = "market"', "publishes = [1]", "plugin.exchange-synthetic.publishes[0]: expected `str`"),
        ("commit_ms = 100", "commit_ms = 0", "profile.small.kernel.commit_ms: expected `int` >= 1, was 0"),
        ("commit_ms = 100", "commit_ms = 60001", "profile.small.kernel.commit_ms: expected `int` <= 60000"),
        ("commit_ms = 100", "commit_ms = 1.5", "profile.small.kernel.commit_ms: expected `int`, got `float`"),
        ("commit_ms = 100", "comit_ms = 1", "profile.small.kernel.comit_ms: unknown key; did you mean"),
        ("commit_ms = 100", 'clock = "sun"', "profile.small.kernel.clock: must be one of wall, data, was"),
        ("commit_ms = 100", 'speed = "0.0"', "profile.small.kernel.speed: expected `str` matching regex"),
        ("commit_ms = 100", "heartbeat_s = 0", "profile.small.kernel.heartbeat_s: expected `float` > 0"),
        ("commit_ms = 100", "seed = -1", "profile.small.kernel.seed: expected `int` >= 0, was -1"),
        ("[profile.other]", "[profile.other]\nkernle = 1", "profile.other.kernle: unknown key; did you mean"),
        (
            'host = "ui"',
            'host = "ui"\n[host.trade]\nmax_rs_mb = 1',
            "host.trade.max_rs_mb: unknown key; did",
        ),
        (
            'host = "ui"',
            'host = "ui"\n[host.trade]\nmax_cpu = -1',
            "host.trade.max_cpu: expected `float` >= 0",
        ),
        (
            'host = "ui"',
            'host = "ui"\n[host.trade]\nmax_lag_s = 601',
            "host.trade.max_lag_s: expected `float` <=",
        ),
        (
            'host = "ui"',
            'host = "ui"\n[host.trad]',
            "host.trad: no plugin runs in a host of this name; did you mean 'trade'?",
        ),
        (
            'plugins = ["portfolio"]',
            'plugins = ["portfolio", "portfolio"]',
            "profile.other.plugins: 'portfolio' is named more than once",
        ),
        (
            'plugins = ["portfolio"]',
            'plugins = ["portfolo"]',
            "profile.other: plugin 'portfolo' has no [plugin.portfolo] table; did you mean 'portfolio'?",
        ),
        (
            "[profile.small.options.portfolio]",
            "[profile.small.options.ledger]",
            "profile.small: plugin 'ledger' has no [plugin.ledger] table",
        ),
    ],
)
def test_each_key_is_refused_by_its_own_rule_and_shown(tmp_path, old, new, said):
    assert WHOLE.count(old) == 1

    assert refusal(tmp_path, WHOLE.replace(old, new)).startswith(said)


def test_the_shipped_file_is_whole_and_each_of_its_profiles_can_be_planned():
    found = config.load(ROOT / "plugins.toml")

    for name in found.profiles:
        assert config.plan(found, name).plugins


# --- The plan -------------------------------------------------------------------------------------


def test_a_plan_lays_the_profile_over_the_entry_and_the_override_over_both(tmp_path):
    found = load(tmp_path)

    plan = config.plan(found, "small", ["portfolio.account=other", "sim-fifo.seed=5"])

    assert planned(plan, "portfolio").options == {"currency": "EUR", "account": "other"}
    assert planned(plan, "sim-fifo").options == {"seed": 5, "name": "fifo"}
    assert plan.kernel == KernelSettings(commit_ms=100)
    assert plan.ids("simulator") == ["sim-fifo"]
    assert planned(config.plan(found, "other"), "portfolio").options["currency"] == "USD"
    assert planned(config.plan(found, "small"), "sim-fifo").options["seed"] == 3


def test_a_plan_keeps_the_order_of_the_profile_and_gives_own_hosts_their_plugins_name(tmp_path):
    plan = config.plan(load(tmp_path), "small")

    assert {host: [one.id for one in members] for host, members in plan.hosts().items()} == {
        "market": ["exchange-synthetic"],
        "trade": ["sim-fifo", "portfolio"],
        "ui": ["console"],
    }


def test_pages_can_be_left_out(tmp_path):
    plan = config.plan(load(tmp_path), "small", with_pages=False)

    assert "console" not in plan.hosts()
    assert plan.ids("page") == []


def test_a_host_has_the_limits_of_its_table_and_others_the_defaults(tmp_path):
    plan = config.plan(load(tmp_path, WHOLE + LIMITS), "small")

    assert plan.limits_of("trade") == HostEntry(max_rss_mb=300, max_cpu=0.5, max_lag_s=5)
    assert plan.limits_of("market") == HostEntry(max_rss_mb=0, max_cpu=0, max_lag_s=5)


def test_a_plugin_with_a_host_of_its_own_has_limits_by_its_id(tmp_path):
    text = WHOLE.replace('host = "ui"', "") + "[host.console]\nmax_rss_mb = 200"
    plan = config.plan(load(tmp_path, text), "small")

    assert plan.limits_of("console").max_rss_mb == 200


def test_an_override_moves_and_disables_plugins(tmp_path):
    plan = config.plan(load(tmp_path), "small", ["portfolio.host=money", "sim-fifo.enabled=false"])

    assert planned(plan, "portfolio").host == "money"
    assert "sim-fifo" not in [one.id for members in plan.hosts().values() for one in members]
    assert plan.ids("simulator") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ('"3"', "3"),
        ('["a", "b"]', ["a", "b"]),
        ('{ x = "1" }', {"x": "1"}),
        ("plain", "plain"),
        ("a=b", "a=b"),
        ("", ""),
        ("two words", "two words"),
    ],
)
def test_the_value_of_an_override_is_toml_or_else_plain_text(text, value):
    assert config.parse_override(f"some-plugin.some_option={text}") == ("some-plugin", "some_option", value)


@pytest.mark.parametrize(("speed", "kept"), [("10", "10"), ("0.5", "0.5"), ("max", "max"), ('"2"', "2")])
def test_a_speed_may_be_written_as_the_number_it_is(tmp_path, speed, kept):
    assert config.plan(load(tmp_path), "small", [f"kernel.speed={speed}"]).kernel.speed == kept


@pytest.mark.parametrize("speed", ["0", "0.0", "-1", "fast", "inf", "nan", "1e400"])
def test_a_speed_that_is_none_is_refused(tmp_path, speed):
    with pytest.raises(ConfigError, match=r"small\.kernel\.speed: expected .* was '"):
        config.plan(load(tmp_path), "small", [f"kernel.speed={speed}"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("portfolio", "--set portfolio: expected plugin.option=value"),
        ("portfolio=3", "--set portfolio=3: expected plugin.option=value"),
        ("Portfolio.x=3", "--set Portfolio.x=3: expected plugin.option=value"),
        ("portfolo.x=3", "profile 'small' has no plugin 'portfolo'; did you mean 'portfolio'?"),
        ("kernel.commit_ms=0", "profile.small.kernel.commit_ms: expected `int` >= 1, was 0"),
        ("kernel.comit_ms=1", "profile.small.kernel.comit_ms: unknown key; did you mean 'commit_ms'?"),
        ("portfolio.enabled=maybe", "--set portfolio.enabled: expected `bool`, got `str`, was 'maybe'"),
        ("portfolio.host=No!", "--set portfolio.host: expected `str` matching regex"),
        ("portfolio.host=market", "host 'market' of profile 'small' mixes exchange plugins with others"),
        ("portfolio.host=ui", "host 'ui' of profile 'small' mixes page plugins with others"),
    ],
)
def test_an_override_that_cannot_be_is_refused(tmp_path, override, said):
    with pytest.raises(ConfigError) as caught:
        config.plan(load(tmp_path), "small", [override])

    assert said in str(caught.value)


def test_an_unknown_profile_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="no profile 'smal'; did you mean 'small'\\?; it has small, other"):
        config.plan(load(tmp_path), "smal")


def test_a_plan_comes_back_whole_from_where_it_is_kept(tmp_path):
    plan = config.plan(load(tmp_path), "small", ["portfolio.account=other"])

    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


# --- Who may run, and do what ------------------------------------------------------------------------


def found(plugin: str, kind: str = "strategy", **manifest: object) -> Found:
    """Return a plugin as the catalog would have found it."""
    said = {"kinds": [kind], "api": ">=1.0", **manifest}
    return Found(
        id=plugin, manifest=msgspec.convert(said, Manifest), distribution="d", version="1.5", module=plugin
    )


def planned_of(
    *plugins: Found, tables: str = "", profile: str = "x", overrides: tuple[str, ...] = ()
) -> Plan:
    """Return the plan of a profile with these plugins; each has a host of its own."""
    entries = "".join(f"[plugin.{each.id}]\n" for each in plugins if f"[plugin.{each.id}]" not in tables)
    names = [each.id for each in plugins]
    text = f"format = 1\n[profile.{profile}]\nplugins = {names}\n{entries}{tables}"
    with tempfile.TemporaryDirectory() as directory:
        written = load(Path(directory), text)
    catalog = Catalog({each.id: [each] for each in plugins}, [])
    return config.plan(written, profile, list(overrides), catalog=catalog)


def only(plan: Plan) -> PluginPlan:
    (plugin,) = plan.plugins
    return plugin


def test_what_a_plugin_is_and_may_do_is_its_manifests_to_say():
    plugin = only(
        planned_of(
            found("strategy-x", publishes=["SubmitOrder", "CancelOrder"], state_version=4, reload="restart")
        )
    )

    assert (plugin.kind, plugin.version, plugin.module) == ("strategy", "1.5", "strategy-x")
    assert (plugin.state_version, plugin.reload, plugin.blocked) == (4, "restart", "")
    assert plugin.publishes == plugin.declares == ["SubmitOrder", "CancelOrder"]


def test_plugins_toml_can_only_take_from_it():
    asked = found("x", publishes=["SubmitOrder", "CancelOrder"], subscribes=["Trade"], secrets=["key"])
    table = '[plugin.x]\npublishes = ["CancelOrder"]\nsubscribes = ["Trade"]\nsecrets = ["key"]\n'

    plan = planned_of(asked, tables=table)

    assert only(plan).publishes == ["CancelOrder"]
    assert only(plan).subscribes == ["Trade"]
    assert plan.secrets_of("x") == only(plan).secrets == ["key"]
    assert plan.secrets_of("y") == []
    assert only(planned_of(asked)).secrets == []


@pytest.mark.parametrize(
    ("manifest", "table", "reason"),
    [
        ({}, 'publishes = ["SubmitOrder"]', "publishes: expected some of what its manifest names (nothing)"),
        (
            {"secrets": ["a"]},
            'secrets = ["b"]',
            "secrets: expected some of what its manifest names (a), was 'b'",
        ),
        ({}, 'subscribes = ["Trade"]', "subscribes: expected some of what its manifest names (nothing)"),
        ({}, 'version = ">=2"', "plugins.toml wants version >=2, installed is 1.5"),
        ({"publishes": ["OrderFilled"]}, "", "its manifest: a strategy may not publish OrderFilled"),
        ({"kinds": ["command"]}, "", "a command runs in no host; take it out of the profile"),
        ({"requires": ["y"]}, "", "needs y, which the profile does not name"),
    ],
)
def test_a_plugin_that_asks_for_too_much_or_lacks_something_is_blocked_with_the_reason(
    manifest, table, reason
):
    plan = planned_of(found("x", **manifest), tables=f"[plugin.x]\n{table}\n")

    assert reason in only(plan).blocked
    assert plan.hosts() == {}


def test_who_requires_a_plugin_that_does_not_run_does_not_run_either_and_so_on():
    chain = [found("a", requires=["b"]), found("b", requires=["c"]), found("c"), found("d")]

    plan = planned_of(*chain, tables="[plugin.c]\nenabled = false\n")

    assert {plugin.id: plugin.blocked for plugin in plan.plugins} == {
        "a": "needs b, which is blocked",
        "b": "needs c, which is disabled",
        "c": "",
        "d": "",
    }


def test_plugins_that_require_each_other_in_a_circle_are_blocked_with_the_circle():
    plan = planned_of(
        found("a", requires=["b"]), found("b", requires=["c"]), found("c", requires=["b"]), found("d")
    )

    reasons = {plugin.id: plugin.blocked for plugin in plan.plugins}
    assert reasons["b"] == "requires itself in a circle: b -> c -> b"
    assert reasons["c"] == "requires itself in a circle: c -> b -> c"
    assert reasons["a"] == "needs b, which is blocked"
    assert reasons["d"] == ""


def test_two_plugins_that_bring_different_versions_of_something_do_not_share_a_host():
    def bringing(plugin: str, *what: str) -> Found:
        return msgspec.structs.replace(found(plugin), brings=[f"{plugin}==1", *what])

    plugins = bringing("a", "numba==0.60"), bringing("b", "Numba==0.61"), bringing("c", "numba==0.60")
    together = "".join(f'[plugin.{name}]\nhost = "all"\n' for name in "abc")

    shared, apart = planned_of(*plugins, tables=together), planned_of(*plugins)

    assert [plugin.blocked for plugin in shared.plugins] == [
        "",
        "brings Numba==0.61, and a in the same host 0.60; give it a host of its own",
        "",
    ]
    assert [plugin.blocked for plugin in apart.plugins] == ["", "", ""]


def test_who_requires_a_plugin_waits_for_its_host():
    plan = planned_of(found("a", "store", requires=["b"]), found("b", "store"), found("m", "exchange"))

    assert plan.needs() == {"a": {"b"}, "b": set(), "m": {"a", "b"}}


def test_what_is_broken_is_blocked_and_strictness_makes_that_an_error(tmp_path, monkeypatch):
    broken = Found(id="x", problem="its manifest is not TOML")

    assert only(planned_of(broken)).blocked == "its manifest is not TOML"

    monkeypatch.setenv("TICKERML_STRICT", "1")
    with pytest.raises(ConfigError, match=r"plugin\.x: its manifest is not TOML \(TICKERML_STRICT is 1\)"):
        planned_of(broken)
    assert only(planned_of(broken, tables="[plugin.x]\nenabled = false\n")).will_run is False


def test_trading_must_not_begin_while_a_rule_a_simulator_or_what_may_be_one_is_blocked():
    def blocked(plugin: str, kind: str) -> Found:
        return msgspec.structs.replace(found(plugin, kind), problem="broken")

    plan = planned_of(
        blocked("rule", "risk_rule"),
        blocked("sim", "simulator"),
        blocked("ledger", "store"),
        blocked("tape", "store"),
        blocked("strategy", "strategy"),
        Found(id="unknown", problem="no manifest"),
        Found(id="unwanted", problem="no manifest"),
        tables='[plugin.unwanted]\nenabled = false\n[plugin.ledger]\nhost = "sim"\n',
    )

    assert plan.missing_vital() == ["rule", "sim", "ledger", "unknown"]


@pytest.mark.parametrize(("profile", "warnings"), [("x", 0), ("pc", 0), ("pi", 1)])
def test_a_profile_that_a_plugin_is_not_made_for_is_a_warning(profile, warnings):
    plugin = only(planned_of(found("x", profiles=["pc"]), profile=profile))

    assert len(plugin.warnings) == warnings
    assert plugin.blocked == ""


@pytest.mark.parametrize(
    ("tables", "overrides", "limit"),
    [
        ("", (), 200),
        ('[plugin.x]\nhost = "shared"\n', (), 0),
        ("[host.x]\nmax_cpu = 1.0\n", (), 200),
        ("[host.x]\nmax_rss_mb = 0\n", (), 0),
        ("[host.x]\nmax_rss_mb = 300\n", ("host.x.max_rss_mb=400",), 400),
        ("", ("host.x.max_rss_mb=50",), 50),
    ],
)
def test_a_host_of_its_own_may_take_what_the_manifest_says_unless_a_person_says_otherwise(
    tables, overrides, limit
):
    plan = planned_of(found("x", resources={"ram_mb": 200}), tables=tables, overrides=overrides)

    assert plan.limits_of(only(plan).host).max_rss_mb == limit


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("host.y.max_rss_mb=1", "--set host.y: no plugin of profile 'x' runs in a host of this name"),
        ("host.x.max_rs_mb=1", "--set host.x.max_rs_mb: unknown key; did you mean 'max_rss_mb'?"),
        ("host.x.max_cpu=-1", "--set host.x.max_cpu: expected `float` >= 0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(override, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        planned_of(found("x"), overrides=(override,))


def test_a_plan_remembers_what_was_said_for_this_run_so_that_the_next_plan_says_it_again(tmp_path):
    plan = config.plan(load(tmp_path), "small", ["sim-fifo.seed=5"], with_pages=False)

    assert plan.overrides == ["sim-fifo.seed=5", "console.enabled=false"]
    assert config.plan(load(tmp_path), "small", plan.overrides).hosts() == plan.hosts()


# --- Who needs whom ---------------------------------------------------------------------------------

KINDS = ("exchange", "feature_set", "strategy", "risk_rule", "simulator", "store", "page")


def needs_of(**hosts: str) -> dict[str, set[str]]:
    """Return the needs of a plan with these hosts, each with its kinds of plugin, by their first letters."""
    plugins = [
        PluginPlan(
            id=f"{host}-{kind}",
            kind=next(name for name in KINDS if name.startswith(kind)),
            host=host,
            enabled=True,
            module="",
            publishes=None,
            options={},
        )
        for host, kinds in hosts.items()
        for kind in kinds.split()
    ]
    return Plan(config="", profile="x", kernel=KernelSettings(), plugins=plugins).needs()


def test_data_is_let_in_when_everyone_is_there_who_takes_it_and_pages_are_nobodys_concern():
    assert needs_of(market="e", trade="f st ri si", record="sto", console="p") == {
        "market": {"trade", "record"},
        "trade": set(),
        "record": set(),
        "console": set(),
    }


def test_strategies_wait_for_the_rules_simulators_and_features_of_other_hosts():
    needs = needs_of(trade="str", rules="ri", sim="si sto", features="f", tape="sto", other="str")

    assert needs["trade"] == needs["other"] == {"rules", "sim", "features"}
    assert needs["rules"] == needs["sim"] == needs["features"] == needs["tape"] == set()


def test_of_two_hosts_that_would_wait_for_each_other_the_first_by_name_does_not():
    assert needs_of(a="str ri", b="str si", c="str") == {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert needs_of(a="str", b="str si") == {"a": {"b"}, "b": set()}


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.sampled_from(("e", "p")) | st.sets(st.sampled_from(("f", "str", "ri", "si", "sto")), min_size=1),
    )
)
def test_needs_are_never_a_circle(hosts):
    needs = needs_of(**{host: " ".join(sorted(kinds)) for host, kinds in hosts.items()})

    Supervisor(hosts, 1, needs=needs)
    assert needs.keys() == hosts.keys()
    assert all(host not in needed for host, needed in needs.items())


# --- The options of every installed plugin --------------------------------------------------------

SHIPPED = config.load(ROOT / "plugins.toml")
FOUND = find()
#: Of every option, a value of a type it cannot have.
WRONG_TYPE = {"integer": "three", "number": "three", "string": 3, "boolean": "yes", "array": 3, "object": 3}


def plan_of(plugin: str, options: dict[str, object]) -> PluginPlan:
    return resolve(FOUND.choose(plugin), SHIPPED.plugins[plugin], options, "demo")


@pytest.mark.parametrize("plugin", LOADABLE)
def test_a_plugin_has_a_table_in_the_shipped_file_and_its_defaults_are_within_its_own_bounds(plugin):
    spec, options = registry.load_planned(plan_of(plugin, {}), "plugins.toml")

    assert options == msgspec.convert(msgspec.to_builtins(options), spec.options)


@pytest.mark.parametrize("plugin", LOADABLE)
def test_an_option_that_a_plugin_does_not_have_is_refused_by_name(plugin):
    with pytest.raises(ConfigError, match=rf"c\.toml: plugin\.{plugin}\.options\.no_such_thing: unknown key"):
        registry.load_planned(plan_of(plugin, {"no_such_thing": 1}), "c.toml")


@pytest.mark.parametrize("plugin", LOADABLE)
def test_every_option_refuses_a_value_of_another_type_and_one_out_of_its_bounds(plugin):
    spec = registry.load(plugin)
    for name, rule in describe(spec)["options"].items():
        wrong = [WRONG_TYPE[str(rule["type"])]] if "type" in rule else []
        wrong += ["no such choice"] if "enum" in rule else []
        wrong += [rule["minimum"] - 1] if "minimum" in rule else []
        wrong += [rule["maximum"] + 1] if "maximum" in rule else []
        wrong += [rule["exclusiveMinimum"]] if "exclusiveMinimum" in rule else []
        wrong += [rule["exclusiveMaximum"]] if "exclusiveMaximum" in rule else []
        assert wrong, f"{plugin}.{name} has no rule this test knows how to break: {rule}"
        for value in wrong:
            with pytest.raises(ConfigError, match=rf"plugin\.{plugin}\.options\.{name}: .*, was "):
                registry.load_planned(plan_of(plugin, {name: value}), "c.toml")
