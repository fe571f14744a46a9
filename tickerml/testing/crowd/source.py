"""An exchange that plays a tape: a file that tape.save() wrote, or the made-up one of a seed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from tickerml.kernel import Context, ExchangeSpec, FeedEnded, FeedSummarized, Message, Options, hookimpl

from .. import tape


class SourceOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is played."""

    file: Annotated[str, msgspec.Meta(description="a tape; empty for the made-up one")] = ""
    seed: Annotated[int, msgspec.Meta(description="of the made-up tape")] = 0
    frames: Annotated[int, msgspec.Meta(ge=1, description="length of the made-up tape")] = 400


class TapeSource:
    """Counts messages; everything else is in the tape."""

    def __init__(self, ctx: Context, options: SourceOptions) -> None:
        self._ctx = ctx
        whole = tape.load(Path(options.file)) if options.file else tape.generate(options.seed, options.frames)
        self._tape = [message for message in tape.market_only(whole) if not isinstance(message, FeedEnded)]
        self._at = 0

    def events(self) -> Iterator[tuple[int, Sequence[Message]]]:
        """Yield one message at a time."""
        while self._at < len(self._tape):
            message = self._tape[self._at]
            self._at += 1
            yield message.ts_recv, [message]
        if self._at == len(self._tape):
            self._at += 1
            ts = self._tape[-1].ts_recv if self._tape else self._ctx.started_ns
            yield ts, [FeedEnded(ts, self._ctx.plugin, len(self._tape), 0)]

    def summarize(self) -> list[Message]:
        """Return how much was played."""
        return [FeedSummarized(self._ctx.clock.now(), tape.EXCHANGE, self._at, 0, 0, 0)]

    def snapshot(self) -> bytes:
        """Return the count."""
        return msgspec.msgpack.encode(self._at)

    def restore(self, state: bytes) -> None:
        """Take the count back."""
        self._at = msgspec.msgpack.decode(state, type=int)


@hookimpl
def tickerml_exchanges() -> list[ExchangeSpec]:
    """Offer the source."""
    return [
        ExchangeSpec(
            id="kit-source",
            factory=TapeSource,
            options=SourceOptions,
            publishes=ExchangeSpec.MAY_PUBLISH,
            summary="plays a tape",
        )
    ]
