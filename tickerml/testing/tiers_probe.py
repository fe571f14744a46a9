"""
What can only be seen in a process of its own: imports, leaks, clocks, the seed of hashes.

    python -m tickerml.testing.tiers_probe WHAT FILE SUBJECT

The answer goes into FILE, as JSON; what a plugin prints does not disturb it.
"""

import contextlib
import datetime
import functools
import gc
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tickerml.kernel import limits

from .contracts_rig import build, digest, run, scratch
from .contracts_subject import Broken, Subject

HEAVY = ("torch", "nicegui", "fastapi", "ccxt", "numba", "tensorflow", "pandas", "matplotlib", "sklearn")
BEFORE_RELOADS = 200  # inputs, so that there is a state to move
RELOADS = 50
WARM_RELOADS = 30  # after which the allocator has what it needs
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def ask(what: str, subject: Subject, *, limit_s: float = 60.0, **environment: str) -> dict[str, Any]:
    """
    Return what the probe *what* has found.

    Raises: Broken: the process did not end well, or not within *limit_s*.
    """
    with scratch() as directory:
        answer = directory / "answer.json"
        command = [sys.executable, "-m", __name__, what, str(answer), msgspec.json.encode(subject).decode()]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                timeout=limit_s,
                cwd=directory,
            )
        except subprocess.TimeoutExpired:
            raise Broken(f"it did not come to an end within {limit_s:g} s") from None
        if not answer.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            last = f": {lines[-1]}" if lines else ""
            ended = (
                limits.signal_name(-done.returncode)
                if done.returncode < 0
                else f"exit code {done.returncode}"
            )
            raise Broken(f"the process it was tried in ended with {ended}{last}")
        found: dict[str, Any] = json.loads(answer.read_bytes())
    if "broken" in found:
        raise Broken(found["broken"])
    return found


def rss_mb() -> float:
    """Return the resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- Importing --------------------------------------------------------------------------------------


def _import(subject: Subject) -> dict[str, Any]:
    """Import it alone and tell what that took and left behind."""
    done: list[str] = []
    sys.addaudithook(functools.partial(_note, done))
    threads, files = threading.active_count(), set(os.listdir("/proc/self/fd"))
    known = set(sys.modules)
    began = time.process_time()
    subject.find()
    seconds = time.process_time() - began
    gc.collect()
    return {
        "seconds": seconds,
        "done": list(dict.fromkeys(done)),
        "threads": threading.active_count() - threads,
        "files": len(set(os.listdir("/proc/self/fd")) - files),
        "heavy": [name for name in HEAVY if name in sys.modules and name not in known],
    }


def _note(done: list[str], event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"):
        done.append("opened a socket")
    elif event in ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn"):
        done.append("started a process")
    elif event == "_thread.start_new_thread":
        done.append("started a thread")
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir"):
        done.append(f"changed the file system ({event} {arguments[0]})")
    elif event == "open" and _is_writing(*arguments):
        done.append(f"opened {arguments[0]} for writing")


def _is_writing(path: object, mode: object, flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & _WRITING) and path != os.devnull


# --- Running ----------------------------------------------------------------------------------------


def _digest(subject: Subject) -> dict[str, Any]:
    rig = run(subject)
    return {"digest": digest(rig.outputs), "outputs": len(rig.outputs)}


def _memory(subject: Subject) -> dict[str, Any]:
    """Tell how much memory it takes beyond that of the kit: from before its import to the end of a run."""
    import numpy  # noqa: F401 - belongs to the base: every kind may use it

    before = rss_mb()
    run(subject)
    gc.collect()
    return {"mb": rss_mb() - before}


def _reloads(subject: Subject) -> dict[str, Any]:
    """Move its state 50 times to a new build and tell by how much the process has grown."""
    grown = before = 0.0
    with scratch() as directory:
        rig = build(subject, directory)
        for _ in range(BEFORE_RELOADS):
            rig.step()
        for number in range(WARM_RELOADS + RELOADS):
            if number % 10 == 0:
                gc.collect()  # circles of objects are no leak
            if number == WARM_RELOADS:
                before = rss_mb()
            rig.step()
            fresh = build(subject, directory)
            rig.move_to(fresh)
            fresh.outputs, fresh.heard = [], []
            rig = fresh
        del fresh
        gc.collect()
        grown = rss_mb() - before
    return {"mb": grown, "reloads": RELOADS}


# --- No clock ---------------------------------------------------------------------------------------


class _Guard:
    """Notes whoever asks the machine for the time or for chance while a handler runs."""

    def __init__(self) -> None:
        self.tripped: list[str] = []
        self._is_inside = False

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run a handler."""
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False

    def wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return *original*, watched."""

        def watched(*arguments: Any, **named: Any) -> Any:
            if self._is_inside and (place := _caller()):
                self.tripped.append(f"{name} at {place}")
            return original(*arguments, **named)

        return watched

    def install(self) -> None:
        """Put the guard before everything that tells the time or draws a number."""
        for module, names in _GUARDED.items():
            for name in names:
                setattr(module, name, self.wrap(f"{module.__name__}.{name}", getattr(module, name)))
        for name in (
            "random",
            "randrange",
            "randint",
            "choice",
            "shuffle",
            "uniform",
            "gauss",
            "getrandbits",
        ):
            setattr(random, name, self.wrap(f"random.{name}", getattr(random, name)))
        system = random.SystemRandom
        system.getrandbits = self.wrap("SystemRandom", system.getrandbits)  # type: ignore[method-assign]
        datetime.datetime = self._datetime()  # type: ignore[misc]

    def _datetime(self) -> Any:
        real: Any = datetime.datetime
        guard = self

        class Meta(type):
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, real)

        class Watched(real, metaclass=Meta):  # type: ignore[misc]
            now = classmethod(lambda cls, tz=None: guard.wrap("datetime.now", real.now)(tz))
            utcnow = classmethod(lambda cls: guard.wrap("datetime.utcnow", real.now)(datetime.UTC))
            today = classmethod(lambda cls: guard.wrap("datetime.today", real.today)())

        return Watched


_GUARDED: dict[Any, tuple[str, ...]] = {
    time: ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"),
    os: ("urandom", "getrandom"),
    secrets: ("token_bytes", "token_hex", "randbits", "randbelow"),
    uuid: ("uuid1", "uuid4"),
}
_EXCUSED = ("structlog", "logging", "tickerml.kernel")  # a log line has a time; it is no output


def _caller() -> str:
    """Return where the plugin asked; "" when something excused did, in its name."""
    frame, place = sys._getframe(2), ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == __name__:
            return place
        if module.partition(".")[0] in _EXCUSED[:2] or module.startswith(_EXCUSED[2]):
            return place if place else ""
        place = place or f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return place


def _clock(subject: Subject) -> dict[str, Any]:
    guard = _Guard()
    guard.install()
    run(subject, around=guard.inside)
    return {"tripped": list(dict.fromkeys(guard.tripped))}


PROBES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "import": _import,
    "digest": _digest,
    "memory": _memory,
    "reloads": _reloads,
    "clock": _clock,
}


def quiet() -> None:
    """Let nobody write log lines: a check runs a plugin many times."""
    import structlog

    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)


def _drop(logger: Any, name: str, event: Any) -> Any:
    import structlog

    raise structlog.DropEvent


def main(arguments: list[str]) -> int:
    """Run one probe; returns the exit code."""
    what, answer, encoded = arguments
    quiet()
    sys.dont_write_bytecode = True
    limits.die_with_parent(signal.SIGKILL)
    tempfile.tempdir = str(Path(answer).parent)
    subject = msgspec.json.decode(encoded, type=Subject)
    try:
        found = PROBES[what](subject)
    except Broken as error:
        found = {"broken": str(error)}
    except Exception as error:
        found = {"broken": f"{type(error).__name__}: {error}"}
    Path(answer).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
