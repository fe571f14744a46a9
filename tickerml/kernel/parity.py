"""
The parity certificate: a day of paper trading, run again through the backtest, fill by fill, and once
more as an environment for agents runs it (parity_outside.py).

What reached the trading host is taken from the journal in its order and given to the bus that
`tickerml backtest` builds; every order event, verdict and fill that comes out is held against what was
published, byte for byte. A day is what followed from the inputs of that day, UTC. Where the day ends
the bus is written down beside the certificate, so the next one begins there, and the journal needs to
hold market data for little more than a day.
"""

import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from . import backtest, codec, registry, topics
from . import messages as m
from .errors import CodecError, ConfigError, StoreError
from .journal_reader import JournalReader
from .parity_outside import Outside
from .plans import Plan, PluginPlan
from .replay import Difference
from .runs import PLAN_KEY, RUN_KEY, Run, read_state
from .units import NS_PER_S

DAY_NS = 86_400 * NS_PER_S
CERTIFIED = topics.DECISION_KINDS | {"markout", "ledger", "portfolio", "transfer"}
STATES_KEPT = 2

_SYSTEM = topics.topic("system")


class Place(msgspec.Struct, frozen=True):
    """Where a certificate ended: the bus behind seq *position*; *plan* is a digest of what it ran."""

    position: int
    plan: str
    bus: bytes


class Side(msgspec.Struct):
    """What one of the two sides published in the day, by type, and a digest of all its bytes in order."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    digest: Any = msgspec.field(default_factory=hashlib.sha256)

    def add(self, output: "Output") -> None:
        """Count one."""
        self.counts[type(output.message).__name__] += 1
        self.digest.update(output.body)


class Output(NamedTuple):
    """One message as one side published it."""

    plugin: str
    n: int
    cause: int
    body: bytes
    message: m.Message


class Parity:
    """Runs one day of one run again; certificate() says how it compares."""

    def __init__(self, run_dir: Path, first_ns: int, end_ns: int) -> None:
        """
        Args:
            first_ns, end_ns: the day, ns UTC; 0 and 2**63 for the whole run.
        Raises: StoreError: no such run, or its beginning and the state of the day before are gone.
            ConfigError: it has no simulator. PluginError: a plugin cannot be loaded.
        """
        self._journal = JournalReader(run_dir / "journal")
        data = self._journal.meta(PLAN_KEY)
        if not data:
            raise StoreError(f"the run in {run_dir} does not say what it ran")
        self.plan = msgspec.json.decode(data, type=Plan)
        self._run = msgspec.msgpack.decode(self._journal.meta(RUN_KEY), type=Run)
        self._digest = hashlib.sha256(data).hexdigest()
        self._dir = run_dir / "parity"
        self._first_ns, self._end_ns = first_ns, end_ns
        self._members = _trading_members(self.plan)
        loaded = [(member, *registry.load_planned(member, self.plan.config)) for member in self._members]
        self._bus = backtest.build(self.plan, loaded, self._record, started_ns=self._run.started_ns)
        self._outside = Outside(self.plan, loaded, self._run.started_ns, self._bus.wanted_types)
        state = read_state(self._journal)
        self._names = state.origins
        own = {*self._bus.plugins}
        self._own = {number for number, name in enumerate(self._names) if name in own}
        self._away = state.away.get(self._members[0].host, (0, 0))
        self._replayed: deque[Output] = deque()
        self._first_seq = self._end_seq = 2**63  # of the inputs of the day, and of the next
        self._start = self._begin()
        self.head = self._journal.head()
        self.inputs = 0
        self.live, self.again = Side(), Side()
        self.difference: Difference | None = None
        self.stopped_at = 0

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _begin(self) -> int:
        for path in sorted(self._dir.glob("*.state"), reverse=True):
            with contextlib.suppress(msgspec.MsgspecError, ValueError):  # of another version: as if absent
                place = msgspec.msgpack.decode(path.read_bytes(), type=Place)
                is_past = int(path.stem) <= self._first_ns and place.plan == self._digest
                if is_past and place.position >= self._journal.first() - 1:
                    self._bus.restore(place.bus)
                    self._outside.bus.restore(place.bus)
                    return place.position
        if self._journal.first() != 1:
            raise StoreError(
                f"the beginning of the run in {self._dir.parent} has been pruned, and no certificate of the "
                "day before is there to go on from: set kernel.hot_hours to 26 or more and certify daily"
            )
        return 0

    # --- Running ------------------------------------------------------------------------------

    def run(self) -> Iterator[int]:
        """Run to the end of the day or of the journal; yields seq, for progress."""
        prefixes = tuple(topics.prefixes([*self._bus.wanted_types, m.Sync]))
        for raw in self._journal.frames(self._start):
            frame = codec.unpack(raw)
            if frame.origin in self._own:
                if frame.cause >= self._end_seq:
                    self._miss(frame.seq)
                    break
                if frame.cause > self._start:
                    self._compare(frame)
            elif frame.topic.startswith(prefixes) and frame.seq < self._end_seq and not self._take(frame):
                break
            yield frame.seq
        self._outside.finish()

    def _take(self, frame: codec.Frame) -> bool:
        """Give the bus one input; returns whether what follows may still be compared."""
        try:
            message = codec.decode(frame.body)
        except CodecError:  # live it was skipped too
            return True
        if frame.topic == _SYSTEM and self._is_changed(message):
            self.stopped_at = frame.seq
            return False
        if message.ts_recv >= self._end_ns:
            self._end_seq = frame.seq
            self._keep(frame.seq - 1)
            return True
        if message.ts_recv >= self._first_ns:
            self._first_seq = min(self._first_seq, frame.seq)
        is_kept = self._away[0] < frame.seq <= self._away[1]
        self._outside.take(frame.seq, message, is_kept)
        if is_kept:
            self._bus.keep(message)
        else:
            self.inputs += self._first_seq <= frame.seq
            self._bus.deliver(message, frame.seq)
        return True

    def _is_changed(self, message: m.Message) -> bool:
        host = self._members[0].host
        is_swap = isinstance(message, m.SwapStarted) and message.host == host
        return is_swap or isinstance(message, m.PluginChanged)

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        output = Output(plugin, n, cause, codec.encode(message), message)
        if self.difference is None:
            self._replayed.append(output)
        else:
            self._count(self.again, output)

    def _count(self, side: Side, output: Output) -> None:
        if output.cause >= self._first_seq and topics.KIND_OF[type(output.message)] in CERTIFIED:
            side.add(output)

    def _compare(self, frame: codec.Frame) -> None:
        message = codec.decode(frame.body)
        live = Output(self._names[frame.origin], frame.n, frame.cause, frame.body, message)
        self._count(self.live, live)
        self._outside.hear(live.plugin, live.cause, message, live.body, self._first_seq <= live.cause)
        if self.difference is not None:
            return
        again = self._replayed[0] if self._replayed else None
        if again is None or live[:4] != again[:4]:
            shown = str(again.message) if again else "nothing"
            self._differ(Difference(frame.seq, live.plugin, str(message), shown))
        else:
            self._count(self.again, self._replayed.popleft())

    def _differ(self, difference: Difference) -> None:
        # From here on each side is only counted.
        self.difference = difference
        while self._replayed:
            self._count(self.again, self._replayed.popleft())

    def _miss(self, seq: int) -> None:
        """Take what was never published, although its host went on to the inputs of the next day."""
        if self._replayed and self.difference is None:
            missed = self._replayed[0]
            self._differ(Difference(seq, missed.plugin, "nothing", str(missed.message)))

    def _keep(self, position: int) -> None:
        """Write down where the day ends, for the next one."""
        self._dir.mkdir(exist_ok=True)
        place = Place(position, self._digest, self._bus.snapshot())
        path = self._dir / f"{self._end_ns:020}.state"
        path.with_suffix(".new").write_bytes(msgspec.msgpack.encode(place))
        path.with_suffix(".new").replace(path)
        for old in sorted(self._dir.glob("*.state"))[:-STATES_KEPT]:
            old.unlink()

    # --- What came of it ----------------------------------------------------------------------

    def certificate(self) -> dict[str, Any]:
        """Return what both sides did and whether it is the same, ready for JSON."""
        # A host that still has to answer the last inputs has not contradicted them.
        owed = Counter(type(output.message).__name__ for output in self._replayed)
        return {
            "certified": self.difference is None
            and self._outside.difference is None
            and not self.stopped_at
            and self.inputs > 0,
            "day": _day(self._first_ns) if self._first_ns else "all",
            "is_day_over": self._end_seq < 2**63,
            "run": str(self._dir.parent),
            "inputs": self.inputs,
            "live": dict(sorted(self.live.counts.items())),
            "backtest": dict(sorted(self.again.counts.items())),
            "unpublished": dict(sorted(owed.items())),
            "live_sha256": self.live.digest.hexdigest(),
            "backtest_sha256": self.again.digest.hexdigest(),
            "environment": self._outside.report(),
            "versions": {
                "tickerml": version("tickerml"),
                **{each.id: each.version for each in self._members},
            },
            "plan_sha256": self._digest,
            "schema": codec.schema_hash(),
            "began_behind_seq": self._start,
            "stopped_at": self.stopped_at or None,
            "difference": msgspec.to_builtins(self.difference) if self.difference else None,
        }


def _trading_members(plan: Plan) -> list[PluginPlan]:
    """
    Return the plugins of the host that trades.

    Raises: ConfigError: there is none.
    """
    for members in plan.hosts().values():
        if any(member.kind == "simulator" for member in members):
            return members
    raise ConfigError(f"profile {plan.profile} has no simulator, so it traded nothing that could be compared")


def _day(ts: int) -> str:
    return datetime.fromtimestamp(ts // NS_PER_S, UTC).date().isoformat()
