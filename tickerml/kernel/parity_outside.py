"""
The third side of a parity certificate: the day once more, as an environment for agents runs it.

The strategies are silent here. What they published is said in their names from outside, at the instant
of the input or the timer at which they did, as an agent acts in a rollout. Everything behind them, from
the rules to the simulator, is the same code, and its fills must be the same bytes.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import backtest, codec
from . import messages as m
from .backtest import Loaded
from .config import Plan
from .hookspecs import Options, StrategySpec
from .rollout import mute


class Fill(NamedTuple):
    """One fill: the input that it followed from, and its bytes."""

    cause: int
    body: bytes


class Outside:
    """Runs the inputs again, with the strategies' messages as actions, and compares the fills."""

    def __init__(
        self, plan: Plan, loaded: Sequence[Loaded], started_ns: int, wanted: frozenset[type[m.Message]]
    ) -> None:
        """
        Args:
            wanted: the message types that make a difference to the bus with its strategies.
        """
        self.strategies = {spec.id for _, spec, _ in loaded if isinstance(spec, StrategySpec)}
        silent = [
            (member, mute(spec), Options()) if isinstance(spec, StrategySpec) else (member, spec, options)
            for member, spec, options in loaded
        ]
        self.bus = backtest.build(plan, silent, self._record, started_ns=started_ns)
        self._publishes = {spec.id: spec.publishes for _, spec, _ in silent}
        self._wanted = wanted
        self._inputs: deque[tuple[int, m.Message, bool]] = deque()
        self._said: defaultdict[int, deque[tuple[str, m.Message]]] = defaultdict(deque)
        self._live: deque[Fill] = deque()
        self._here: deque[Fill] = deque()
        self._last = 0  # the last cause that was heard of
        self.fills = 0
        self.digest = hashlib.sha256()
        self.difference: tuple[Fill | None, Fill | None] | None = None  # live, here

    def _record(self, plugin: str, n: int, cause: int, message: m.Message) -> None:
        if isinstance(message, m.OrderFilled):
            self._here.append(Fill(cause, codec.encode(message)))

    # --- What happened live -------------------------------------------------------------------

    def take(self, seq: int, message: m.Message, is_kept: bool) -> None:
        """Take one input; *is_kept*: the host was away, and it only keeps the books."""
        self._inputs.append((seq, message, is_kept))

    def hear(self, plugin: str, cause: int, message: m.Message, body: bytes, is_counted: bool) -> None:
        """Take what the host published because of the input *cause*, in its order."""
        self._last = cause
        self._run(before=cause)
        if plugin in self.strategies:
            if type(message) in self._publishes[plugin]:
                self._said[cause].append((plugin, message))
        elif isinstance(message, m.OrderFilled):
            self._live.append(Fill(cause, body))
            if is_counted:
                self.fills += 1
                self.digest.update(body)

    def finish(self) -> None:
        """Compare to the end; what live has not published of its last input does not count against it."""
        self._run(before=self._last + 1)
        unpublished = self._here[0] if self._here and self._here[0].cause < self._last else None
        if self.difference is None and (self._live or unpublished):
            self.difference = (self._live[0] if self._live else None, unpublished)

    def report(self) -> dict[str, Any]:
        """Return the fills of the day and the first that is not the same, ready for JSON."""
        live, here = (_spell(each) for each in self.difference or (None, None))
        return {
            "fills": self.fills,
            "fills_sha256": self.digest.hexdigest(),
            "difference": {"live": live, "environment": here} if self.difference else None,
        }

    # --- The same from outside ----------------------------------------------------------------

    def _run(self, before: int) -> None:
        while self._inputs and self._inputs[0][0] < before:
            seq, message, is_kept = self._inputs.popleft()
            if is_kept:
                self.bus.keep(message)
            elif type(message) in self._wanted:
                self._deliver(seq, message)
            self._compare()

    def _deliver(self, seq: int, message: m.Message) -> None:
        actions = self._said.pop(seq, deque())
        self.bus.begin(seq)
        while self.bus.is_due(message.ts_recv):
            self.bus.fire()
            self._say(actions)
        if type(message) in self.bus.wanted_types:
            self.bus.deliver(message, seq)
        else:  # of interest to a strategy alone
            self.bus.clock.advance(message.ts_recv)
        self._say(actions)

    def _say(self, actions: deque[tuple[str, m.Message]]) -> None:
        while actions and actions[0][1].ts_recv <= self.bus.clock.now():
            plugin, message = actions.popleft()
            self.bus.say(plugin, [message])

    def _compare(self) -> None:
        while self._live and self._here:
            live, here = self._live.popleft(), self._here.popleft()
            if live != here and self.difference is None:
                self.difference = (live, here)


def _spell(fill: Fill | None) -> str:
    return str(codec.decode(fill.body)) if fill else "nothing"
