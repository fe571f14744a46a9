# /// tickerml-plugin
# format = 1
# [plugin.features-depth]
# kinds = ["feature_set"]
# api = ">=1.0,<2"
# summary = "spread, and how the depth of five levels is shared between the sides"
# publishes = ["FeatureVector"]
# subscribes = ["BookSnapshot", "BookDelta"]
# tier = "edge"
# ///
"""
Depth: two numbers of the book, a row for every message that changes it.

A feature set is pure: market data in, FeatureVector out. This one remembers nothing.
"""

from array import array

from tickerml.kernel import (
    BookDelta,
    BookSnapshot,
    Context,
    FeatureSetSpec,
    FeatureVector,
    Options,
    StateRefused,
    hookimpl,
)

COLUMNS = ("spread_bps", "depth_imbalance")  # the second in [-1, 1], + where bids outweigh asks
DEPTH = 5  # levels a side


class DepthFeatures:
    """Answers each change of a book that is trusted."""

    def __init__(self, ctx: Context, options: Options) -> None:
        self._ctx = ctx

    def on_book_snapshot(self, snapshot: BookSnapshot) -> None:
        self._answer(snapshot)

    def on_book_delta(self, delta: BookDelta) -> None:
        self._answer(delta)

    def _answer(self, change: BookSnapshot | BookDelta) -> None:
        book = self._ctx.book(change.exchange, change.symbol)  # it holds the change already
        if not book.is_trusted:
            return
        spread_bps = (book.best_ask - book.best_bid) * 2e4 / book.mid2
        bids, asks = book.bids.quantity_within(DEPTH), book.asks.quantity_within(DEPTH)
        values = array("d", [spread_bps, (bids - asks) / (bids + asks)])
        self._ctx.publish(
            FeatureVector(
                self._ctx.clock.now(),
                change.ts_event,
                change.exchange,
                change.symbol,
                self._ctx.plugin,
                values.tobytes(),
            )
        )

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        if state:
            raise StateRefused(self._ctx.plugin, f"expected no state, was {len(state)} bytes")


@hookimpl
def tickerml_feature_sets() -> list[FeatureSetSpec]:
    return [
        FeatureSetSpec(
            id="features-depth",
            factory=DepthFeatures,
            publishes=(FeatureVector,),
            columns=COLUMNS,
            summary="spread, and how the depth of five levels is shared between the sides",
        )
    ]
