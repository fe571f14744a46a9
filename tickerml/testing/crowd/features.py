"""A feature set of two numbers, for strategies and stores that read whatever comes."""

from array import array

from tickerml.kernel import BookDelta, Context, FeatureSetSpec, FeatureVector, Options, hookimpl


class Features:
    """A row for every change of a book; remembers nothing."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx

    def on_book_delta(self, delta: BookDelta) -> None:
        """Publish the mid and the spread, in ticks."""
        book = self._ctx.book(delta.exchange, delta.symbol)
        if book.is_trusted:
            values = array("d", [(book.best_bid + book.best_ask) / 2, book.best_ask - book.best_bid])
            self._ctx.publish(
                FeatureVector(
                    self._ctx.clock.now(),
                    delta.ts_event,
                    delta.exchange,
                    delta.symbol,
                    "kit-features",
                    values.tobytes(),
                )
            )

    def snapshot(self) -> bytes:
        """Return nothing: there is nothing to remember."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing back."""


@hookimpl
def tickerml_feature_sets() -> list[FeatureSetSpec]:
    """Offer the features."""
    return [
        FeatureSetSpec(
            id="kit-features",
            factory=Features,
            publishes=(FeatureVector,),
            columns=("mid", "spread"),
            summary="mid and spread, in ticks",
        )
    ]
