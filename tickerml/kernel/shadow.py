"""
What a shadow would have published beside what was published. Sans-IO.

Both are named by component, cause and number, so an output of one is compared with
the very output of the other, byte for byte. One that has no counterpart although the
other side has long passed its cause has none.
"""

from collections.abc import Mapping

from . import codec, control

PATIENCE = 20_000  # messages after its cause by which an output's counterpart must have come
EXAMPLES = 10  # differences that are told in full

_Name = tuple[str, int, int]  # component, cause, n


class Comparison:
    """Compares until it is asked for its report."""

    def __init__(self, origins: Mapping[str, int]) -> None:
        """
        Args:
            origins: the components that publish, with their numbers.
        """
        self.is_running = False
        self._names = {number: component for component, number in origins.items()}
        self._since = self._last_cause = 0
        self._ours: dict[_Name, bytes] = {}
        self._theirs: dict[_Name, bytes] = {}
        self._counts = {"equal": 0, "different": 0, "only_old": 0, "only_new": 0}
        self._examples: list[str] = []

    def begin(self, position: int) -> None:
        """The shadow has its state, and handles what comes after *position*."""
        self.is_running = True
        self._since = position

    def published(self, frame: codec.Frame) -> None:
        """The process that publishes has published *frame*."""
        self._last_cause = max(self._last_cause, frame.cause)
        if frame.cause > self._since:
            self._meet((self._names[frame.origin], frame.cause, frame.n), frame.body, is_ours=False)
            self._give_up(frame.seq - PATIENCE)

    def would_publish(self, component: str, n: int, cause: int, body: bytes) -> None:
        """The shadow has answered the input *cause* with *body*."""
        self._meet((component, cause, n), body, is_ours=True)

    def _meet(self, name: _Name, body: bytes, *, is_ours: bool) -> None:
        here, there = (self._ours, self._theirs) if is_ours else (self._theirs, self._ours)
        other = there.pop(name, None)
        if other is None:
            here[name] = body
        elif other == body:
            self._counts["equal"] += 1
        else:
            old, new = (other, body) if is_ours else (body, other)
            self._count("different", name, f"{_show(old)}, now {_show(new)}")

    def _count(self, what: str, name: _Name, told: str) -> None:
        self._counts[what] += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(f"{what.replace('_', ' ')}: {name[0]} because of seq {name[1]}: {told}")

    def _give_up(self, before: int) -> None:
        """Count what was to be met by now; both are in the order of their causes."""
        for what, side in (("only_new", self._ours), ("only_old", self._theirs)):
            while side and (name := next(iter(side)))[1] <= before:
                self._count(what, name, _show(side.pop(name)))

    def report(self, host: str, position: int) -> control.Shadowed:
        """Return how it went so far; the shadow has handled everything up to *position*."""
        self._give_up(min(position, self._last_cause - 1))
        return control.Shadowed(host, **self._counts, examples=list(self._examples))


def _show(body: bytes) -> str:
    return str(codec.decode(body))
