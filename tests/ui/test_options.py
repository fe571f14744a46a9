import re
from pathlib import Path

import msgspec
import pytest

from tickerml.kernel.config import Config, Profile
from tickerml.kernel.plans import PluginEntry
from tickerml.ui.options import changed, fields

SCHEMAS = {
    "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
    "share": {"type": "number", "exclusiveMinimum": 0, "default": 0.5, "description": "of equity"},
    "is_keen": {"type": "boolean", "default": False},
    "mode": {"enum": ["maker", "taker"], "default": "maker"},
    "name": {"type": "string", "pattern": "^[a-z]+$", "default": "a"},
    "symbols": {"type": "array", "items": {"type": "string"}, "default": []},
    "limit": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}], "default": None},
    "account": {"type": "string", "minLength": 1},
}


def form(options=None, profile=None, overrides=()):
    entry = PluginEntry(options={"account": "paper"} | (options or {}))
    config = Config(
        path=Path("plugins.toml"),
        profiles={"demo": Profile(plugins=["p"], options={"p": profile or {}})},
        plugins={"p": entry},
    )
    return fields("p", SCHEMAS, config, {"profile": "demo", "overrides": list(overrides)})


def field(name, **how):
    return next(each for each in form(**how) if each.name == name)


def test_each_option_gets_the_field_that_its_type_needs():
    looks = {each.name: each.look for each in form()}

    assert looks == {
        "size": "integer",
        "share": "number",
        "is_keen": "switch",
        "mode": "choice",
        "name": "text",
        "symbols": "json",
        "limit": "integer",
        "account": "text",
    }


def test_a_rule_names_bounds_and_default():
    assert field("size").rule == "at least 1, at most 9, default 3"
    assert field("share").rule == "more than 0, default 0.5"
    assert field("limit").rule == "at least 0, default none"
    assert field("account").rule == "must be given"


def test_what_holds_is_what_was_said_last_and_the_form_says_by_whom():
    said = field("size", options={"size": 4}, profile={"size": 5}, overrides=["p.size=6", "q.size=7"])
    by_profile = field("size", options={"size": 4}, profile={"size": 5})
    own = field("size", options={"size": 4})

    assert [(each.value, each.fixed_by) for each in (said, by_profile, own)] == [
        (6, "--set"),
        (5, "profile demo"),
        (4, ""),
    ]


@pytest.mark.parametrize(
    ("name", "written", "why"),
    [
        ("size", "0", "size: expected at least 1, at most 9, was 0"),
        ("size", "1.5", "size: expected a whole number, was 1.5"),
        ("size", "many", "size: expected a number, was 'many'"),
        ("share", "0", "share: expected more than 0, was 0"),
        ("share", "nan", "share: expected a number, was nan"),
        ("limit", "-1", "limit: expected at least 0, was -1"),
        ("name", "A", "name: expected ^[a-z]+$, was 'A'"),
        ("account", "", "account: expected a text, was nothing"),
        ("symbols", "{}", "symbols: expected a JSON array, was {}"),
        ("symbols", "[", "symbols: expected JSON: "),
    ],
)
def test_what_is_against_the_rule_is_refused_with_the_rule(name, written, why):
    with pytest.raises(ValueError, match="^" + re.escape(why)):
        changed(form(), {name: written})


def test_only_what_was_changed_is_written():
    written = {"size": "3", "share": "0.5", "is_keen": True, "name": "b", "symbols": '["X"]', "limit": ""}

    assert changed(form(), written) == {"is_keen": True, "name": "b", "symbols": ["X"]}


def test_the_default_and_nothing_take_the_option_out():
    found = form({"size": 4, "share": 0.9, "limit": 5})

    assert changed(found, {"size": "3", "share": "", "limit": ""}) == {
        "size": None,
        "share": None,
        "limit": None,
    }


def test_a_whole_number_stays_one_and_a_fraction_becomes_one():
    new = changed(form(), {"size": "7", "share": "1"})

    assert msgspec.json.encode(new) == b'{"size":7,"share":1.0}'


def test_what_another_says_is_not_written():
    assert changed(form(overrides=["p.size=6"]), {"size": "7"}) == {}
