"""One of a kind per home: an advisory lock that the system drops when the process ends."""

import fcntl
import os
from pathlib import Path

from .errors import StoreError


class Held(Exception):
    """Another process, whose pid is the argument, holds the lock; who asks for it says what that means."""


def hold(home: Path, name: str) -> int:
    """
    Return the descriptor of HOME/*name*, locked, with our pid in it; closing it gives the lock back.

    Raises: Held. StoreError: the home cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot use the home {home}: {error.strerror}; choose another with --home"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(file, 20, 0).decode() or "unknown"
        os.close(file)
        raise Held(holder) from None
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    return file
