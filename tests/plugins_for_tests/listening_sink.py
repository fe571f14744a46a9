"""A sink that remembers, outside of its state, what it was told: the world it carries alerts into."""

from tickerml.kernel import Alert, Context, Options, Severity, SinkSpec, hookimpl

WORLD: list[tuple[int, str]] = []  # (ts, key) of every alert that was sent, by whatever process


class ListeningSink:
    """Tells the world."""

    def __init__(self, ctx: Context, options: Options) -> None:
        pass

    def emit(self, alert: Alert) -> None:
        """Send *alert*."""
        WORLD.append((alert.ts, alert.key))

    def snapshot(self) -> bytes:
        """Return nothing: it only carries."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing back."""


@hookimpl
def tickerml_sinks() -> list[SinkSpec]:
    """Offer the sink."""
    return [
        SinkSpec(
            id="listening-sink",
            factory=ListeningSink,
            min_severity=Severity.INFO,
            summary="remembers what it was told",
        )
    ]
