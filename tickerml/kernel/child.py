"""
Doing something in a forked child, so that what would end this process ends the child.

LMDB trusts its pages: a damaged one can make it read beyond the map, assert, or go in
circles. Whoever must know whether a file can be read reads it in a child first.
"""

import faulthandler
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import msgspec

from . import errors
from .errors import StoreCorrupt, StoreError

_LENGTH = struct.Struct("<I")


def run_in_child(
    work: Callable[[], Iterable[Any]], what: str, advice: str = "", *, limit_s: float = 30.0
) -> Iterator[Any]:
    """
    Yield what *work* yields in a forked child; its items must be msgpack's.

    Args:
        what, advice: how the message begins when the child does not end well, and how it ends.
        limit_s: how long the child may take for one item.
    Raises: StoreError: the one that the work raised. StoreCorrupt: the child crashed, or took too long.
    """
    reading, writing = os.pipe()
    said = os.memfd_create("said")
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(work, writing, said)
    os.close(writing)
    try:
        try:
            yield from _receive(reading, limit_s)
        except TimeoutError as error:
            raise StoreCorrupt(f"{what} {error}{advice}") from None
        reason = _reason(os.waitpid(child, 0)[1])
        child = 0
        if reason:
            words = os.pread(said, 300, 0).decode(errors="replace").strip()
            raise StoreCorrupt(f"{what} {reason}{': ' * bool(words)}{words}{advice}")
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reading)
        os.close(said)


def _work(work: Callable[[], Iterable[Any]], writing: int, said: int) -> NoReturn:
    code = 1
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        try:
            for item in work():
                _send(writing, [0, item])
        except StoreError as error:
            _send(writing, [1, type(error).__name__, str(error)])
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(code)  # nothing of the parent's is flushed, closed or unlocked twice


def _send(writing: int, item: list[Any]) -> None:
    data = memoryview(msgspec.msgpack.encode(item))
    data = memoryview(_LENGTH.pack(len(data)) + data)
    while data:
        data = data[os.write(writing, data) :]


def _receive(reading: int, limit_s: float) -> Iterator[Any]:
    while head := _read(reading, _LENGTH.size, limit_s):
        tag, *item = msgspec.msgpack.decode(_read(reading, _LENGTH.unpack(head)[0], limit_s))
        if tag:
            raise getattr(errors, item[0])(item[1])
        yield item[0]


def _read(reading: int, size: int, limit_s: float) -> bytes:
    """Return *size* bytes, b"" where the child has closed its end."""
    data, deadline = b"", time.monotonic() + limit_s
    while len(data) < size:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"did not come to an end within {limit_s:g} s")
        part = os.read(reading, size - len(data))
        if not part:
            return b""
        data += part
    return data


def _reason(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"ended its process with {signal.Signals(os.WTERMSIG(status)).name}"
    return f"failed with code {code}" if (code := os.waitstatus_to_exitcode(status)) else ""
