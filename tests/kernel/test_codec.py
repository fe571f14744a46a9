"""Bytes on the wire: every message comes back whole, old and new readers agree, frames keep their parts."""

import enum
import functools
import os
import subprocess
import sys
import types
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import CodecError, Message, Side, TimeTick, codec, topics
from tickerml.kernel import messages as m

INT64 = st.integers(-(2**63), 2**63 - 1)


@functools.cache
def values_of(hint: object) -> st.SearchStrategy:
    """Return a strategy for any value of the type *hint*, as message fields use them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if origin is dict:
        return st.dictionaries(*map(values_of, arguments), max_size=3)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values_of(argument) for argument in arguments])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = typing.get_type_hints(hint)
        return st.builds(hint, *[values_of(fields[name]) for name in hint.__struct_fields__])
    plain = {
        int: INT64,
        str: st.text(max_size=8),
        bool: st.booleans(),
        bytes: st.binary(max_size=32),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    return plain[hint]


def configured(name: str, fields: list, module_tag: str) -> type:
    """Return a struct in the same configuration as a message, under the tag it has on the wire."""
    return msgspec.defstruct(name, fields, frozen=True, array_like=True, gc=False, tag=module_tag)


@pytest.mark.parametrize("cls", m.message_types(), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(cls, data):
    message = data.draw(values_of(cls))

    decoded = codec.decode(codec.encode(message))

    assert type(decoded) is cls
    assert decoded == message


@given(values_of(m.Trade))
def test_the_same_message_is_always_the_same_bytes(trade):
    again = codec.decode(memoryview(codec.encode(trade)))

    assert codec.encode(again) == codec.encode(trade)


@given(st.binary(max_size=64))
def test_refuses_bytes_that_are_no_message(body):
    try:
        message = codec.decode(body)
    except CodecError:
        return
    assert isinstance(message, Message)


@given(values_of(m.SubmitOrder), st.data())
def test_a_message_cut_short_is_refused_and_never_misread(order, data):
    body = codec.encode(order)

    with pytest.raises(CodecError, match="expected an encoded message"):
        codec.decode(body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    "foreign",
    [
        ["Weather", 1],
        ["TimeTick"],
        ["TimeTick", "soon"],
        ["TimeTick", 1.5],
        ["Trade", 1, 1, "x", "A/B", 1, 1, 1, 7],
        ["HaltTrading", 1, None, ""],
        {"TimeTick": 1},
        1,
    ],
    ids=repr,
)
def test_refuses_an_unknown_type_and_a_field_of_the_wrong_type(foreign):
    with pytest.raises(CodecError):
        codec.decode(msgspec.msgpack.encode(foreign))


def test_refuses_text_that_is_not_utf_8():
    body = codec.encode(m.HaltTrading(1, "person", "why")).replace(b"why", b"w\xffy")

    with pytest.raises(CodecError):
        codec.decode(body)


def test_a_message_names_its_type_and_then_its_fields_in_order():
    body = codec.encode(m.Trade(1, 2, "kraken", "BTC/USD", 3, 4, 5, Side.SELL))

    assert msgspec.msgpack.decode(body) == ["Trade", 1, 2, "kraken", "BTC/USD", 3, 4, 5, -1]


# --- Evolution: fields are only ever appended, with a default ---------------------------------------

OLD = configured("OldTick", [("ts_recv", int)], "TimeTick")
NEW = configured(
    "NewTick", [("ts_recv", int), ("source", str, "kernel"), ("drift_ns", int, 0)], module_tag="TimeTick"
)


def test_the_example_structs_are_configured_like_the_messages():
    for name in ("frozen", "array_like", "gc", "tag", "forbid_unknown_fields", "omit_defaults"):
        assert getattr(OLD.__struct_config__, name) == getattr(TimeTick.__struct_config__, name)


@given(INT64, st.text(), INT64)
def test_an_old_reader_understands_a_new_writer(ts_recv, source, drift_ns):
    body = codec.encode(NEW(ts_recv, source, drift_ns))

    assert codec.decode(body) == TimeTick(ts_recv)
    assert msgspec.msgpack.decode(body, type=OLD) == OLD(ts_recv)


@given(INT64)
def test_a_new_reader_understands_an_old_writer_and_fills_in_the_defaults(ts_recv):
    body = codec.encode(TimeTick(ts_recv))

    assert msgspec.msgpack.decode(body, type=NEW) == NEW(ts_recv, "kernel", 0)


@given(values_of(m.SubmitOrder))
def test_a_writer_from_before_a_field_had_been_appended_is_read_with_its_default(order):
    fields = msgspec.msgpack.decode(codec.encode(order))
    before = msgspec.msgpack.encode(fields[:-3])
    defaults = {"reduce_only": False, "reason": "", "confidence": None}

    assert codec.decode(before) == msgspec.structs.replace(order, **defaults)


# --- Frames -----------------------------------------------------------------------------------------

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
TOPIC = st.text("abcXYZ.-/", max_size=20).map(str.encode)


@given(TOPIC, U16, U32, U32, U64, U64, U64, st.binary())
def test_a_frame_keeps_all_its_parts_through_packing_stamping_and_unpacking(
    topic, origin, epoch, n, cause, seq, tseq, body
):
    output = codec.pack_output(topic, origin, epoch, n, cause, body)
    name_topic, at, *name = codec.split_output(output)

    frame = codec.unpack(codec.stamp(output, at, seq, tseq))

    assert (name_topic, name) == (topic, [origin, epoch, n, cause])
    assert frame == (topic, seq, tseq, origin, epoch, n, cause, body)
    assert frame == codec.Frame(topic, seq, tseq, origin, epoch, n, cause, body)


@given(TOPIC, U64, U64)
def test_a_frame_begins_with_its_topic_so_that_zeromq_can_filter_it(topic, seq, tseq):
    output = codec.pack_output(topic, 1, 2, 3, 4, b"body")

    assert output.startswith(topic + b"\0")
    assert codec.stamp(output, len(topic) + 1, seq, tseq).startswith(topic + b"\0")


@given(TOPIC, st.integers(0, 17))
def test_refuses_a_frame_that_ends_within_its_header(topic, kept):
    output = codec.pack_output(topic, 1, 2, 3, 4, b"")
    stamped = codec.stamp(output, len(topic) + 1, 5, 6)

    with pytest.raises(CodecError, match="expected an output frame"):
        codec.split_output(output[: len(topic) + 1 + kept])
    with pytest.raises(CodecError, match="expected a bus frame"):
        codec.unpack(stamped[: len(topic) + 1 + 16 + kept])
    with pytest.raises(CodecError):
        codec.unpack(topic)


@given(st.lists(st.binary()))
def test_a_burst_gives_back_its_frames(frames):
    assert codec.unpack_burst(codec.pack_burst(frames, 3, 9)) == (3, 9, frames)


@given(st.lists(st.binary(min_size=1), min_size=1), st.data())
def test_refuses_a_burst_that_was_cut_or_grew(frames, data):
    burst = codec.pack_burst(frames, 1, 1)

    with pytest.raises(CodecError, match=r"of frames|frames and their lengths|expected a burst"):
        codec.unpack_burst(burst[: data.draw(st.integers(0, len(burst) - 1))])
    with pytest.raises(CodecError, match=r"of frames|frames and their lengths"):
        codec.unpack_burst(burst + b"more")


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20))
def test_a_run_gives_back_its_frames_and_is_filtered_as_each_of_them(tails):
    topic = b"trade.kraken.BTC-USD.\0"

    counts = tuple(range(len(topics.KINDS)))
    run = codec.pack_run(topic, codec.pack_kind_counts(*counts), tails)

    assert codec.unpack_kind_counts(run) == counts
    assert codec.unpack_run(run) == [topic + tail for tail in tails]
    assert run.startswith(topic)


def test_processes_agree_on_the_schema_hash():
    code = "from tickerml.kernel import codec; print(codec.schema_hash())"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == codec.schema_hash()
