# /// tickerml-plugin
# format = 1
# [plugin.trainer-hours]
# kinds = ["trainer"]
# api = ">=1.0,<2"
# summary = "learns which part of the prints falls into each hour of the day"
# publishes = ["TrainingReported", "ModelTrained"]
# tier = "edge"
# ///
"""
Hours: a trainer that learns which part of the prints falls into each hour of the day.

Between two steps it may be stopped, moved and resumed, so all it has learned is in its state.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated

import msgspec

from tickerml.kernel import (
    NS_PER_S,
    Context,
    Dataset,
    Message,
    ModelTrained,
    Options,
    Trade,
    TrainerSpec,
    TrainingReported,
    hookimpl,
)


class HoursOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much it does in one step."""

    batch: Annotated[int, msgspec.Meta(ge=1, description="prints a step: less than a second's work")] = 10_000


class _State(msgspec.Struct):
    steps: int = 0
    prints: list[int] = msgspec.field(default_factory=lambda: [0] * 24)  # by hour, UTC


class HoursTrainer:
    """Counts."""

    def __init__(self, ctx: Context, options: HoursOptions) -> None:
        self._ctx = ctx
        self._batch = options.batch
        self._state = _State()

    def fit(self, dataset: Dataset) -> Iterator[Sequence[Message]]:
        """Yield a report a step, from where the restored state left off, and the model at the end."""
        trades = islice(dataset.messages(Trade), sum(self._state.prints), None)
        while batch := list(islice(trades, self._batch)):
            for trade in batch:
                self._state.prints[trade.ts_recv // (3600 * NS_PER_S) % 24] += 1
            self._state.steps += 1
            now, metrics = self._ctx.clock.now(), {"prints": float(sum(self._state.prints))}
            yield [TrainingReported(now, self._ctx.plugin, self._state.steps, metrics)]
        yield [self._model()]

    def _model(self) -> ModelTrained:
        total = sum(self._state.prints)
        shares = {f"{hour:02}": count / total for hour, count in enumerate(self._state.prints) if count}
        data, path = msgspec.json.encode(shares), self._ctx.data_dir / "hours.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return ModelTrained(self._ctx.clock.now(), self._ctx.plugin, str(path), digest, shares)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            id="trainer-hours",
            factory=HoursTrainer,
            options=HoursOptions,
            publishes=(TrainingReported, ModelTrained),
            summary="learns which part of the prints falls into each hour of the day",
        )
    ]
