"""
What the arbitrage monitor costs for each book update, beside the same bus without it and with features-core.

    python benchmarks/arbitrage.py [SECONDS]
"""

import sys
import time
from types import ModuleType

import msgspec

from tickerml.exchanges import synthetic
from tickerml.kernel import BookDelta, BookSnapshot, Message
from tickerml.kernel.testing import Harness, spec_of
from tickerml.plugins import arbitrage, features_core


class _Context:
    plugin = "exchange-synthetic"
    started_ns = 1_700_000_000_000_000_000

    class log:
        info = warning = staticmethod(lambda *args, **facts: None)


def market(seconds: float) -> list[Message]:
    """Return *seconds* of four made-up exchanges that do not deviate: every look is a refusal."""
    spec = spec_of(synthetic)
    options = {"venues": ("aurora", "borealis", "cascade", "dorado"), "duration_s": seconds}
    source = spec.factory(_Context(), msgspec.convert(options, spec.options))
    return [message for _, frame in source.events() for message in frame]


def best_of(messages: list[Message], *plugins: ModuleType) -> float:
    """Return the least seconds of five runs, in turn with nothing else."""
    times = []
    for _ in range(5):
        harness = Harness(*plugins)
        start = time.perf_counter()
        harness.send(*messages)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print microseconds for each book update, and the ratio to features-core."""
    messages = market(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
    updates = sum(isinstance(message, BookDelta | BookSnapshot) for message in messages)
    bare = best_of(messages)
    monitor, features = (best_of(messages, plugin) - bare for plugin in (arbitrage, features_core))
    print(f"{updates:,} book updates; the bus alone {bare / updates * 1e6:.2f} us each")
    print(
        f"arbitrage-monitor adds {monitor / updates * 1e6:.2f} us, {monitor / features:.3f} of features-core"
    )


if __name__ == "__main__":
    main()
