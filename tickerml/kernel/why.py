"""
Why an order came to be and what became of it, as the journal of its run tells it.

Every output names the input that it was an answer to, so the way from an order back to the market is
not guessed but followed: order, wish, the message that its strategy was handling, and on through other
hosts to what an exchange said. Forward, everything that names the order is its life. What is kept for
good is there for every order of a run; the market around it for as long as the journal has it.
"""

import contextlib
import difflib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from . import codec, registry, topics
from . import messages as m
from .errors import CodecError, ConfigError, PluginError, StoreError
from .hookspecs import SHAPES
from .journal_reader import JournalReader
from .plans import Plan
from .runs import PLAN_KEY, RUN_KEY, Run, read_state
from .why_queue import Progress, queue_progress
from .why_words import Words

LOOK_BACK = 5_000  # seqs before a wish among which its strategy's last features are looked for
NEAREST = 5  # ids to offer instead of one that is not there
IDS_COMPARED = 20_000

_LIFE = (b"order.", b"fill.", b"verdict.", b"markout.", b"ledger.")
_ENDS = (m.OrderDenied, m.OrderRejected, m.OrderCanceled, m.OrderExpired)


class Told(NamedTuple):
    """One message with its place in the order, and who published it."""

    seq: int
    origin: str
    cause: int
    message: Any


class Story(msgspec.Struct, frozen=True):
    """
    What there is to tell of one order.

    *steps* are in the order they happened; each is {"seq", "ts" in ns UTC, "stage", "who", "text", "facts"},
    facts being the message's own fields. *replay* is the command that brings the host to the input that
    the wish was an answer to, "" where the journal no longer can. *notes* say what is missing.
    """

    order_id: str
    run: str
    outcome: str
    steps: list[dict[str, Any]]
    queue: Progress
    replay: str
    notes: list[str]


def tell(run_dir: Path, order_id: str, *, with_queue: bool = True) -> Story:
    """
    Return the story of *order_id* in the run at *run_dir*, also while a kernel writes it.

    Args:
        with_queue: whether the simulator is run again to see how the queue moved.
    Raises: ConfigError: no such order; the nearest ids are named. StoreError: no such run.
    """
    with contextlib.closing(JournalReader(run_dir / "journal")) as reader:
        return _Teller(reader, run_dir, order_id).tell(with_queue)


class _Teller:
    def __init__(self, reader: JournalReader, run_dir: Path, order_id: str) -> None:
        plan = reader.meta(PLAN_KEY)
        if not plan:
            raise StoreError(f"the run in {run_dir} does not say what it ran")
        self._reader = reader
        self._run_dir = run_dir
        self._order_id = order_id
        self._run = msgspec.msgpack.decode(reader.meta(RUN_KEY), type=Run)
        self._plan = msgspec.json.decode(plan, type=Plan)
        self._names = read_state(reader).origins
        self._first = reader.first()
        self._notes: list[str] = []

    def tell(self, with_queue: bool) -> Story:
        """Return the story."""
        life = list(self._life())
        if not life:
            raise ConfigError(self._unknown())
        wish = next((each for each in life if isinstance(each.message, m.SubmitOrder)), life[0])
        origin, features = self._before(wish)
        sent = next((each for each in life if isinstance(each.message, m.OrderSubmitted)), None)
        queue = self._queue(sent, life) if sent and with_queue else Progress()
        words = Words(self._instrument(wish), self._columns(features))
        steps = [
            words.step(*each, stage)
            for stage, found in (("market", origin), ("features", features))
            for each in found
        ]
        steps += [words.step(*each) for each in life] + [words.move(move) for move in queue.moves]
        steps.sort(key=lambda step: step["seq"])
        if queue.note:
            self._notes.append(f"queue: {queue.note}")
        outcome = words.outcome([each.message for each in life])
        return Story(
            self._order_id, str(self._run_dir), outcome, steps, queue, self._replay(wish), self._notes
        )

    # --- Its life -----------------------------------------------------------------------------

    def _life(self) -> Iterator[Told]:
        mark = self._order_id.encode()
        for raw in self._reader.frames(table="kept"):
            if raw.startswith(_LIFE) and mark in raw:
                told = self._told(raw)
                if told and self._order_id in (
                    getattr(told.message, "order_id", None),
                    getattr(told.message, "key", None),
                ):
                    yield told

    def _told(self, raw: bytes) -> Told | None:
        frame = codec.unpack(raw)
        try:
            message = codec.decode(frame.body)
        except CodecError:
            self._notes.append(f"seq {frame.seq} is of a version with other messages")
            return None
        return Told(frame.seq, self._name(frame.origin), frame.cause, message)

    def _name(self, origin: int) -> str:
        return self._names[origin] if origin < len(self._names) else str(origin)

    def _unknown(self) -> str:
        ids: dict[str, None] = {}
        for raw in self._reader.frames(table="kept"):
            if raw.startswith(b"order.") and (told := self._told(raw)):
                ids[getattr(told.message, "order_id", "")] = None
        near = difflib.get_close_matches(self._order_id, list(ids)[-IDS_COMPARED:], NEAREST, 0.4)
        if not ids:
            return f"no order {self._order_id!r}: the run in {self._run_dir} has had none yet"
        return (
            f"no order {self._order_id!r} among the {len(ids):,} of the run in {self._run_dir}; "
            f"the nearest are {', '.join(near or list(ids)[-NEAREST:])}"
        )

    # --- What was before it -------------------------------------------------------------------

    def _before(self, wish: Told) -> tuple[list[Told], list[Told]]:
        """Return the causes of *wish*, an exchange's message first, and the features it was made from."""
        chain: list[Told] = []
        seq = wish.cause
        while seq and seq >= self._first and (told := self._at(seq)):
            chain.insert(0, told)
            seq = told.cause if self._is_answer(told.origin) else 0
        if not chain:
            self._notes.append("market: what the order was an answer to is no longer in the journal")
            return [], []
        last: Told | None = None
        for raw in self._reader.frames(max(self._first - 1, wish.seq - LOOK_BACK), wish.seq - 1):
            if raw.startswith(b"feature.") and (told := self._told(raw)) and _is_same(told, wish):
                last = told
        return [each for each in chain if each != last], [last] if last else []

    def _at(self, seq: int) -> Told | None:
        return next((self._told(raw) for raw in self._reader.frames(seq - 1, seq)), None)

    def _is_answer(self, name: str) -> bool:
        kind = next((plugin.kind for plugin in self._plan.plugins if plugin.id == name), "")
        return SHAPES.get(kind) == "consumer"

    def _columns(self, features: list[Told]) -> tuple[str, ...]:
        for told in features:
            planned = next((each for each in self._plan.plugins if each.id == told.origin), None)
            if planned is None:
                continue
            with contextlib.suppress(PluginError, ConfigError):
                return getattr(registry.load_planned(planned, self._plan.config)[0], "columns", ())
        return ()

    def _instrument(self, wish: Told) -> m.Instrument | None:
        last = None
        for raw in self._reader.frames(table="kept"):
            if raw.startswith(topics.topic("instrument", wish.message.exchange, wish.message.symbol)):
                last = self._told(raw)
            if codec.unpack(raw).seq > wish.seq and last:
                break
        return last.message if last and isinstance(last.message, m.Instrument) else None

    # --- Replay -------------------------------------------------------------------------------

    def _queue(self, sent: Told, life: list[Told]) -> Progress:
        assert isinstance(sent.message, m.OrderSubmitted)
        if not any(isinstance(each.message, m.OrderAccepted) for each in life):
            return Progress()
        until = max(
            each.seq for each in life if isinstance(each.message, (*_ENDS, m.OrderFilled, m.OrderAccepted))
        )
        if not any(
            isinstance(each.message, _ENDS) or getattr(each.message, "leaves", 1) == 0 for each in life
        ):
            until = self._reader.head()  # it is open still
        fates = [each.message for each in life]
        try:
            return queue_progress(
                self._reader,
                self._run,
                self._plan,
                self._names,
                sent.message,
                seq=sent.seq,
                until=until,
                fates=fates,
            )
        except (PluginError, ConfigError) as error:
            return Progress(note=f"the simulator of that run cannot be loaded: {error}")

    def _replay(self, wish: Told) -> str:
        host = next(
            (each.host for each in self._plan.plugins if each.kind == "simulator" and each.will_run), ""
        )
        if self._first != 1 or not host:
            self._notes.append(
                "replay: the journal no longer has the beginning of the run (kernel.hot_hours)"
            )
            return ""
        where = shlex.quote(str(self._run_dir))
        return f"tickerml replay --run {where} --host {host} --to {wish.cause or wish.seq}"


def _is_same(told: Told, wish: Told) -> bool:
    one, other = told.message, wish.message
    return (one.exchange, one.symbol) == (other.exchange, other.symbol)
