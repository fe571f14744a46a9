"""A plugin that returns its name instead of its spec."""

from tickerml.kernel import hookimpl


@hookimpl
def tickerml_strategies() -> list[str]:
    return ["odd"]
