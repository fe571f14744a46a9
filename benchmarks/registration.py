"""
What pluggy costs, against calls without it, in the same run.

    python benchmarks/registration.py [--json] [--rounds R]

register_us        to make a manager for one plugin, register it and check its hooks: once per start
hook_call_us       to ask a plugin for its specs through the hook; call_us without it
hook_call_ratio    the one divided by the other
hook_calls_per_plugin  while it is loaded, built and asked for its diagnosis
hook_calls_per_message  while messages are delivered to a component
message_us         to deliver one message through the host's bus; handler_us is the bare call of its handler
bus_ratio          the one divided by the other
hooked_handler_us  the same handler, called through a hook: what each message would cost more

Each figure is the best of R rounds: what disturbs a round makes it slower, never faster.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pluggy
from bench_swap import EXCHANGE, SYMBOL, SwapOptions

from tickerml.kernel import Side, Trade, registry
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.observers import Observers

PLUGIN, MODULE = "swap-features", "bench_swap:feature_set"
MESSAGES = 20_000
CALLS = 2_000


def best_us(action: Callable[[], Any], count: int, rounds: int) -> float:
    """Return what one call of *action* takes at best, in microseconds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter_ns()
        for _ in range(count):
            action()
        best = min(best, (time.perf_counter_ns() - began) / count / 1000)
    return best


@contextmanager
def counted_hook_calls() -> Any:
    """Give a list that has one element for each hook call."""
    calls: list[str] = []
    called = pluggy.HookCaller.__call__

    def count(self: pluggy.HookCaller, **arguments: object) -> Any:
        calls.append(self.name)
        return called(self, **arguments)

    pluggy.HookCaller.__call__ = count  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        pluggy.HookCaller.__call__ = called  # type: ignore[method-assign]


class Offer:
    """A plugin whose hook is called for every message, as ours are not."""

    def __init__(self, handle: Callable[[Trade], None]) -> None:
        self._handle = handle

    @pluggy.HookimplMarker("message")
    def on_trade(self, trade: Trade) -> None:
        self._handle(trade)


class Hooks:
    """The hook for that."""

    @pluggy.HookspecMarker("message")
    def on_trade(self, trade: Trade) -> None:
        raise NotImplementedError


def by_hook(handle: Callable[[Trade], None]) -> Callable[..., Any]:
    """Return a hook that calls *handle*."""
    manager = pluggy.PluginManager("message")
    manager.add_hookspecs(Hooks)
    manager.register(Offer(handle))
    called: Callable[..., Any] = manager.hook.on_trade
    return called


def measure(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    module = registry.import_plugin(PLUGIN, MODULE)
    manager = registry.register(PLUGIN, module)
    register = best_us(lambda: registry.register(PLUGIN, module), CALLS // 20, rounds)
    through_hook = best_us(manager.hook.tickerml_feature_sets, CALLS, rounds)
    direct = best_us(module.tickerml_feature_sets, CALLS, rounds)

    outputs: list[Any] = []
    with counted_hook_calls() as calls:
        spec = registry.load(PLUGIN, MODULE)
        bus = LocalBus(lambda *output: outputs.append(output))
        bus.add(spec, SwapOptions(state_bytes=100_000))
        Observers({PLUGIN: module}).diagnostics(PLUGIN)
        loading = len(calls)
        trades = [
            Trade(number, number, EXCHANGE, SYMBOL, number, 6_000_000, 1000, Side.BUY)
            for number in range(1, MESSAGES + 1)
        ]
        for number, trade in enumerate(trades, 1):
            bus.deliver(trade, number)
        delivered = len(calls) - loading
    assert len(outputs) == MESSAGES

    sink = LocalBus(lambda *output: None)
    sink.add(spec, SwapOptions(state_bytes=100_000))
    trade = trades[0]
    context = SimpleNamespace(plugin=PLUGIN, publish=lambda message: None)
    component = spec.factory(context, SwapOptions(state_bytes=100_000))
    hook = by_hook(component.on_trade)
    message = best_us(lambda: sink.deliver(trade, 1), MESSAGES, rounds)
    handler = best_us(lambda: component.on_trade(trade), MESSAGES, rounds)
    hooked = best_us(lambda: hook(trade=trade), MESSAGES, rounds)
    return {
        "register_us": round(register, 1),
        "hook_call_us": round(through_hook, 2),
        "call_us": round(direct, 2),
        "hook_call_ratio": round(through_hook / direct, 1),
        "hook_calls_per_plugin": loading,
        "hook_calls_per_message": delivered / MESSAGES,
        "message_us": round(message, 2),
        "handler_us": round(handler, 2),
        "bus_ratio": round(message / handler, 2),
        "hooked_handler_us": round(hooked, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7, help="of which the best counts")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<23} {value}")


if __name__ == "__main__":
    main()
