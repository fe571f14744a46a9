"""
A trainer in a few lines: the mean price of every symbol, learned a hundred trades a step.

It is honest: it resumes from its state, and its model is a file whose digest it tells.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated

import msgspec

from tickerml.kernel import (
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


class TinyTrainerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it learns."""

    batch: Annotated[int, msgspec.Meta(ge=1, description="trades a step")] = 100
    steps: Annotated[int, msgspec.Meta(ge=0, description="steps at most; 0 for no limit")] = 0


class _State(msgspec.Struct):
    taken: int = 0
    steps: int = 0
    sums: dict[str, tuple[int, int]] = {}  # symbol -> sum of prices in ticks, trades
    is_done: bool = False


class TinyTrainer:
    """Takes means."""

    def __init__(self, ctx: Context, options: TinyTrainerOptions) -> None:
        self._ctx = ctx
        self._options = options
        self._state = _State()

    def fit(self, dataset: Dataset) -> Iterator[Sequence[Message]]:
        """Yield a report a step, and the model at the end."""
        state = self._state
        trades = islice(dataset.messages(Trade), state.taken, None)
        while not state.is_done:
            batch = list(islice(trades, self._options.batch))
            if batch and (not self._options.steps or state.steps < self._options.steps):
                yield [self._step(batch)]
            else:
                state.is_done = True
                yield [self._finish()]

    def _step(self, batch: Sequence[Message]) -> TrainingReported:
        state = self._state
        for trade in batch:
            assert isinstance(trade, Trade)
            total, count = state.sums.get(trade.symbol, (0, 0))
            state.sums[trade.symbol] = (total + trade.price, count + 1)
        state.taken += len(batch)
        state.steps += 1
        now, name = self._ctx.clock.now(), self._ctx.plugin
        return TrainingReported(now, name, state.steps, {"trades": float(state.taken)})

    def _finish(self) -> ModelTrained:
        means = {symbol: total / count for symbol, (total, count) in sorted(self._state.sums.items())}
        data = msgspec.json.encode(means)
        self._ctx.data_dir.mkdir(parents=True, exist_ok=True)
        path = self._ctx.data_dir / "means.json"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return ModelTrained(self._ctx.clock.now(), self._ctx.plugin, str(path), digest, means)

    def snapshot(self) -> bytes:
        """Return what has been learned so far."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, state: bytes) -> None:
        """Go on from there."""
        self._state = msgspec.msgpack.decode(state, type=_State)


@hookimpl
def tickerml_trainers() -> list[TrainerSpec]:
    """Offer the trainer."""
    return [
        TrainerSpec(
            id="tiny-trainer",
            factory=TinyTrainer,
            options=TinyTrainerOptions,
            publishes=(TrainingReported, ModelTrained),
            summary="learns the mean price of every symbol",
        )
    ]
