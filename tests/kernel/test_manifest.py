"""A manifest is read without importing anything, and whatever is wrong with one is said with its place."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import ConfigError, manifest
from tickerml.kernel.hookspecs import API_VERSION, SHAPES
from tickerml.kernel.manifest import Manifest
from tickerml.kernel.requirements import satisfies

WHOLE = """
format = 1

[plugin.strategy-demo]
kinds = ["strategy", "command"]
api = ">=1.0,<2"
summary = "a demonstration"
publishes = ["SubmitOrder"]
subscribes = ["FeatureVector"]
secrets = ["api-key"]
tier = "conforms"

[plugin.strategy-demo.resources]
ram_mb = 200
"""


def check(directory: Path, text: str) -> dict[str, Manifest]:
    path = directory / manifest.FILE_NAME
    path.write_text(text)
    return manifest.check(path)


def test_a_manifest_says_what_a_plugin_is_and_leaves_the_rest_at_its_defaults(tmp_path):
    said = check(tmp_path, WHOLE)["strategy-demo"]

    assert (said.kind, said.publishes, said.resources.ram_mb) == ("strategy", ["SubmitOrder"], 200.0)
    assert (said.profiles, said.state_version, said.reload, said.native) == (
        ["pi", "pc"],
        1,
        "process",
        False,
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "", "format: expected 1, was None"),
        ("format = 1", "format = 2", "format: expected 1, was 2; upgrade tickerml"),
        ("format = 1", "format = 1\nplugins = 3", "plugins: unknown key; did you mean 'plugin'?"),
        ("format = 1", "format = ", "not TOML"),
        ('api = ">=1.0,<2"', "", "strategy-demo: object missing required field `api`"),
        ('api = ">=1.0,<2"', 'api = "1"', "strategy-demo.api: expected a range of versions"),
        ('api = ">=1.0,<2"', 'api = ">=2.0"', "this kernel has API 1.0, the plugin needs >=2.0"),
        ('kinds = ["strategy", "command"]', "", "object missing required field `kinds`"),
        ('"strategy", "command"', "", "strategy-demo.kinds: expected `array` of length >= 1"),
        ('"strategy", "command"', '"stratgy"', "kinds: 'stratgy' is no kind; did you mean 'strategy'?"),
        ('"strategy", "command"', '"strategy", "store"', "beside the first there may be 'command', was 'st"),
        ('"SubmitOrder"', '"SubmitOrdr"', "publishes: 'SubmitOrdr' is no message type; did you mean"),
        ('"FeatureVector"', '"Vector"', "subscribes: 'Vector' is no message type"),
        ('"api-key"', '"Api Key"', "secrets: expected names of a-z, 0-9 and -, was 'Api Key'"),
        ('"conforms"', '"conform"', "tier: 'conform' is no tier; did you mean 'conforms'?"),
        (
            'tier = "conforms"',
            'reload = "never"',
            "strategy-demo.reload: must be one of process, restart, was",
        ),
        ('tier = "conforms"', "state_version = 0", "strategy-demo.state_version: expected `int` >= 1, was 0"),
        ('tier = "conforms"', "tiers = 3", "strategy-demo.tiers: unknown key; did you mean 'tier'?"),
        ("ram_mb = 200", "ram = 200", "strategy-demo.resources.ram: unknown key; did you mean 'ram_mb'?"),
        ('"a demonstration"', '"\\u001b[2J"', "expected text that can be shown, was some with control"),
        ('summary = "a', '"\\u0007" = "a', "expected text that can be shown, was some with control"),
        ("ram_mb = 200", "ram_mb = inf", "strategy-demo.resources.ram_mb: expected `float` <= 1"),
        ("ram_mb = 200", "ram_mb = nan", "strategy-demo.resources.ram_mb: expected `float`"),
        ("format = 1", f"format = 1\nx = {'[' * 5000}{']' * 5000}", "not TOML"),
        ("ram_mb = 200", "ram_mb = -1", "strategy-demo.resources.ram_mb: expected `float` >= 0"),
        ("[plugin.strategy-demo]", "[plugin.Strategy_Demo]", "an id is made of a-z, 0-9 and -"),
    ],
)
def test_each_key_is_refused_by_its_own_rule_and_with_the_file(tmp_path, old, new, said):
    assert WHOLE.count(old) >= 1

    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        check(tmp_path, WHOLE.replace(old, new, 1))

    assert str(tmp_path / manifest.FILE_NAME) in str(caught.value)


def test_a_file_without_a_table_is_no_manifest(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a table \[plugin\.ID\], was none"):
        check(tmp_path, "format = 1")


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"plugin\.x: expected a table, was 3"):
        check(tmp_path, "format = 1\nplugin.x = 3")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["strategy", ">=1.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*Manifest.__struct_fields__, "colour"])


@given(st.text(), st.dictionaries(KEYS, VALUES) | VALUES)
def test_whatever_stands_in_a_table_it_is_a_manifest_or_an_error_of_configuration(plugin, table):
    if isinstance(table, dict):
        table = {"kinds": ["store"], "api": ">=1.0", **table}
    with contextlib.suppress(ConfigError):
        said, _ = manifest.parse(plugin, table, "m.toml")
        assert said.kind in SHAPES
        assert satisfies(API_VERSION, said.api)


def test_when_running_a_key_that_nobody_knows_is_a_warning():
    said, strays = manifest.parse(
        "x", {"kinds": ["store"], "api": ">=1", "colour": 1, "resources": {"watts": 3}}, "m.toml"
    )

    assert said.kind == "store"
    assert strays == [
        "m.toml: plugin.x.colour: unknown key",
        "m.toml: plugin.x.resources.watts: unknown key",
    ]


SINGLE = """'''A plugin in one file.'''
# /// tickerml-plugin
# format = 1
# [plugin.sink-bell]
# kinds = ["sink"]
#
# api = ">=1.0,<2"
# ///

raise SystemExit("never run")
"""


def test_a_single_file_carries_its_manifest_in_a_block_of_comments_and_is_not_run(tmp_path):
    path = tmp_path / "bell.py"
    path.write_text(SINGLE)

    assert manifest.check(path)["sink-bell"].kind == "sink"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass", "expected one block of comments from `# /// tickerml-plugin` to `# ///`, was 0"),
        (SINGLE + SINGLE, "was 2"),
        (SINGLE.replace("format = 1", "format ="), "its manifest is not TOML"),
    ],
)
def test_a_single_file_without_one_is_refused(tmp_path, text, said):
    path = tmp_path / "bell.py"
    path.write_text(text)

    with pytest.raises(ConfigError, match=re.escape(said)):
        manifest.check(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the plugin .*nowhere\.py"):
        manifest.read(tmp_path / "nowhere.py")
    with pytest.raises(ConfigError, match=r"cannot read the manifest .*tickerml-plugin\.toml"):
        manifest.read(tmp_path / "tickerml-plugin.toml")
