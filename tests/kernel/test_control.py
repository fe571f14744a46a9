"""What the kernel and its peers say to each other beside the bus."""

import os
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import BusError, HandshakeRefused, KernelUnreachable, control
from tickerml.kernel.client import read_beacon
from tickerml.kernel.config import KernelSettings, Plan, PluginPlan
from tickerml.kernel.control import Beacon, Hello

SAMPLES = {
    str: "text",
    int: 7,
    bool: True,
    dict[str, int]: {"a": 1},
    dict[bytes, int]: {b"trade.": 3},
    tuple[int, int]: (3, 5),
    dict[str, tuple[int, int]]: {"a": (1, 2)},
    dict[str, tuple[str, str]]: {"a": ("load", "it broke")},
    dict[str, typing.Any]: {"state": "running", "hosts": [1, 2.5, None]},
    list[str]: ["a", "b"],
    list[control.Component]: [control.Component("p", "store", ["Trade"])],
    list[PluginPlan]: [
        PluginPlan(id="p", kind="store", host="h", enabled=True, module="", publishes=None, options={"x": 1})
    ],
    KernelSettings: KernelSettings(seed=9),
    control.Role: control.Role.PAGE,
    bytes: b"\x00\xff",
    float: 1.5,
    dict[str, str]: {"a.new": "a"},
    Plan: Plan(config="c", profile="p", kernel=KernelSettings(), plugins=[]),
    control.Admitted | None: control.Admitted({"a": 1}, {"a": 2}, {"a": (1, 2)}, 3, {b"trade.": 3}, 4),
}
SPOKEN = [cls for cls in control._Control.__subclasses__() if cls is not control.Component]


@pytest.mark.parametrize("cls", SPOKEN, ids=lambda cls: cls.__name__)
def test_everything_said_comes_back_as_it_was(cls):
    hints = typing.get_type_hints(cls)
    said = cls(*(SAMPLES[hints[name]] for name in cls.__struct_fields__))

    heard = control.decode(control.encode(said))

    assert type(heard) is cls
    assert heard == said


def test_a_newer_peer_may_say_more_than_we_know():
    newer = msgspec.msgpack.encode({"type": "Done", "seq": 5, "mood": "good"})

    assert control.decode(newer) == control.Done(5)


@given(st.binary(max_size=40))
def test_noise_is_an_error_of_the_bus(noise):
    try:
        heard = control.decode(noise)
    except BusError:
        return
    assert type(heard) in SPOKEN


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        control.encode(control.HaltRequest("xx", "y")).replace(b"xx", b"\xff\xfe"),
        b"\x82\xa4type\xa6Status\xa6report" + b"\x81\xa1a" * 100_000,
        control.encode(control.Component("p", "store", [])),
    ],
    ids=["nothing", "text that is none", "nested too deep", "a part of a message"],
)
def test_what_cannot_be_read_is_refused_and_shown(noise):
    with pytest.raises(BusError, match="expected a control message, was b'"):
        control.decode(noise)


def test_a_host_is_welcome_only_with_the_token_protocol_and_types_of_this_kernel():
    hello = Hello("trade", 5, "secret", control.PROTOCOL, "abc")
    control.check_hello(hello, "secret", "abc")

    for refused, said in [
        (msgspec.structs.replace(hello, token="guess"), "was not started by this kernel"),
        (msgspec.structs.replace(hello, token=""), "was not started by this kernel"),
        (msgspec.structs.replace(hello, protocol=99), "speaks protocol 99, this kernel 3"),
        (
            msgspec.structs.replace(hello, schema="xyz"),
            r"other message types \(xyz\) than this kernel \(abc\)",
        ),
    ]:
        with pytest.raises(HandshakeRefused, match=said):
            control.check_hello(refused, "secret", "abc")


def test_a_token_is_taken_from_the_environment_once_and_no_child_inherits_it(monkeypatch):
    monkeypatch.setenv(control.TOKEN_VARIABLE, "secret")

    assert control.take_token() == "secret"
    assert control.TOKEN_VARIABLE not in os.environ
    assert control.take_token() == ""


def test_no_two_tokens_are_the_same():
    assert len({control.new_token() for _ in range(100)}) == 100


# --- Where a running kernel is found --------------------------------------------------------------


def test_a_kernel_is_found_through_its_beacon(tmp_path):
    beacon = Beacon(os.getpid(), "/run/somewhere", "demo", "runs/demo/0001", 3)
    control.beacon_path(tmp_path).write_bytes(msgspec.json.encode(beacon))

    assert read_beacon(tmp_path) == beacon


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{}",
        b"not json",
        b'{"pid":"x"}',
        msgspec.json.encode(Beacon(2**22 + 1, "/r", "demo", "d", 1)),
    ],
    ids=["none", "empty", "no fields", "noise", "wrong type", "of a process that is gone"],
)
def test_without_a_living_kernel_there_is_none_to_reach(tmp_path, content):
    if content is not None:
        control.beacon_path(tmp_path).write_bytes(content)

    with pytest.raises(KernelUnreachable, match="start one with `tickerml run`"):
        read_beacon(tmp_path)
