"""
Messages to bytes and back, and the frame they travel in.

Encoders and decoders are made once, here. The frame of one message on the bus:

    topic 0x00 | seq u64 | tseq u64 | origin u16 | epoch u32 | n u32 | cause u64 | body

seq is the kernel's one order over everything; tseq counts within the topic (a
filtered subscriber sees gaps in seq, never in tseq). (origin, cause, n) names an
output for good: the component, the input that caused it, and how many it had
already published for that input. A host sends the same frame without seq and tseq.
"""

import enum
import hashlib
import struct
from typing import Any, NamedTuple, Union, get_type_hints

import msgspec

from . import messages as m
from .errors import CodecError
from .topics import KINDS

_encoder = msgspec.msgpack.Encoder()
_any_message: Any = Union[m.message_types()]  # noqa: UP007 - a union of types that are known only at run time
_decoder: msgspec.msgpack.Decoder[m.Message] = msgspec.msgpack.Decoder(_any_message)

_STAMP = struct.Struct("<QQ")  # seq, tseq
NAME = struct.Struct("<HIIQ")  # origin, epoch, n, cause
_HEADER = struct.Struct("<QQHIIQ")
_COUNT = struct.Struct("<I")
_BURST = struct.Struct("<II")  # link, number
_KIND_COUNTS = struct.Struct(f"<{len(KINDS)}I")

pack_kind_counts = _KIND_COUNTS.pack

encode = _encoder.encode


def decode(body: bytes | memoryview) -> m.Message:
    """
    Return the message in *body*.

    Raises: CodecError: not a message of a type we know.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"expected an encoded message, was {bytes(body[:40])!r}: {error}") from None


class Frame(NamedTuple):
    """One message as the bus carries it."""

    topic: bytes
    seq: int
    tseq: int
    origin: int
    epoch: int
    n: int
    cause: int
    body: bytes


def pack_output(topic: bytes, origin: int, epoch: int, n: int, cause: int, body: bytes) -> bytes:
    """Return the frame of an output as a host pushes it, not yet stamped."""
    return b"%b\0%b%b" % (topic, NAME.pack(origin, epoch, n, cause), body)


def split_output(frame: bytes) -> tuple[bytes, int, int, int, int, int]:
    """
    Return (topic, offset of the name, origin, epoch, n, cause) of an unstamped *frame*.

    Raises: CodecError: too short to be one.
    """
    at = frame.find(b"\0") + 1
    if not at or len(frame) < at + NAME.size:
        raise CodecError(f"expected an output frame, was {frame[:40]!r}")
    return frame[: at - 1], at, *NAME.unpack_from(frame, at)


def pack_stamp(seq: int, tseq: int) -> bytes:
    """Return a place in the order, which goes between the topic and the name of a frame."""
    return _STAMP.pack(seq, tseq)


def stamp(frame: bytes, at: int, seq: int, tseq: int) -> bytes:
    """Return an output *frame*, whose name starts at *at*, with its place in the order."""
    return frame[:at] + pack_stamp(seq, tseq) + frame[at:]


def unpack(frame: bytes) -> Frame:
    """
    Return the parts of a stamped *frame*.

    Raises: CodecError: too short to be one.
    """
    at = frame.find(b"\0") + 1
    if not at or len(frame) < at + _HEADER.size:
        raise CodecError(f"expected a bus frame, was {frame[:40]!r}")
    return Frame._make((frame[: at - 1], *_HEADER.unpack_from(frame, at), frame[at + _HEADER.size :]))


def _join(frames: list[bytes]) -> bytes:
    """Return *frames* as one: their number and lengths, u32 each, and then themselves."""
    return struct.pack(f"<I{len(frames)}I", len(frames), *map(len, frames)) + b"".join(frames)


def pack_burst(frames: list[bytes], link: int, number: int) -> bytes:
    """
    Return *frames* as one burst, which is pushed as one ZeroMQ frame.

    A multipart would cost its receiver six times as much.

    Args:
        link: the incarnation of the host that pushes it.
        number: counts that incarnation's bursts from 1, so that a lost one is noticed.
    """
    return _BURST.pack(link, number) + _join(frames)


def unpack_burst(burst: bytes) -> tuple[int, int, list[bytes]]:
    """
    Return (link, number, frames) of a burst.

    Raises: CodecError: not a burst.
    """
    try:
        link, number = _BURST.unpack_from(burst)
    except struct.error:
        raise CodecError(f"expected a burst, was {burst[:40]!r}") from None
    return link, number, _split(burst, _BURST.size, b"")


def pack_run(topic: bytes, kind_counts: bytes, tails: list[bytes]) -> bytes:
    """
    Return consecutive stamped frames of one topic as the one ZeroMQ frame they are published in.

    With it goes how many frames of every kind have been published, itself included: so a
    subscriber to some kinds knows at every run whether any was dropped on any of them, before
    it takes what follows.

    Args:
        topic: with its closing 0x00, so that subscriptions match as they do on a single frame.
        kind_counts: of pack_kind_counts, modulo 2**32, in the order of topics.KINDS.
        tails: what follows the topic in each frame.
    """
    return topic + kind_counts + _join(tails)


def unpack_kind_counts(run: bytes) -> tuple[int, ...]:
    """
    Return the kind counts of a run.

    Raises: CodecError: not a run.
    """
    try:
        return _KIND_COUNTS.unpack_from(run, run.find(b"\0") + 1)
    except struct.error:
        raise CodecError(f"expected a run, was {run[:40]!r}") from None


def unpack_run(run: bytes) -> list[bytes]:
    """
    Return the stamped frames of a run.

    Raises: CodecError: not a run.
    """
    at = run.find(b"\0") + 1
    return _split(run, at + _KIND_COUNTS.size, run[:at])


def _split(data: bytes, at: int, prefix: bytes) -> list[bytes]:
    try:
        (count,) = _COUNT.unpack_from(data, at)
        lengths = struct.unpack_from(f"<{count}I", data, at + 4)
    except struct.error:
        raise CodecError(f"expected frames and their lengths, was {data[:40]!r}") from None
    at, frames = at + 4 + 4 * count, []
    for length in lengths:
        frames.append(prefix + data[at : at + length])
        at += length
    if at != len(data):
        raise CodecError(f"expected {at} bytes of frames, was {len(data)}")
    return frames


def schema_hash() -> str:
    """
    Return a digest of every message type: names, fields, types, defaults and the members of enums, in order.

    Two processes that agree on it read each other's bytes.
    """
    digest = hashlib.sha256()
    within = (m.Balance, m.Passport, m.Position, m.StreamCount)
    types: tuple[type[msgspec.Struct], ...] = (*m.message_types(), *within)
    for cls in types:
        hints = get_type_hints(cls)
        fields = [(name, _spell(hints[name])) for name in cls.__struct_fields__]
        digest.update(repr((cls.__name__, fields, cls.__struct_defaults__)).encode())
    return digest.hexdigest()[:16]


def _spell(hint: Any) -> str:
    is_enum = isinstance(hint, enum.EnumMeta)
    return f"{hint} {[(member.name, member.value) for member in hint]}" if is_enum else str(hint)
