"""Which run a command reads: how it is named, and what is said where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tickerml.kernel import ConfigError, StoreCorrupt, StoreError, log, runs

RunDir = Annotated[
    Path | None, typer.Option("--run", help="The directory of a run.", show_default="the newest run")
]
Home = Annotated[
    Path,
    typer.Option("--home", envvar="TICKERML_HOME", help="Where all state lives.", show_default="~/.tickerml"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
HOME = Path("~/.tickerml")


def find_run(given: Path | None, home: Path) -> Path:
    """
    Return the run's directory that was *given*, or the newest of *home*.

    Raises: ConfigError: there is none.
    """
    home = home.expanduser()
    found = given or runs.latest(home)
    if found is None:
        raise ConfigError(f"there is no run in {home}; start one with `tickerml run`, or name one with --run")
    return found


@contextmanager
def reading() -> Iterator[None]:
    """Keep the log out of the way, and let whatever is wrong with what was named be wrong usage."""
    log.configure(level=50)
    try:
        yield
    except StoreCorrupt:
        raise
    except StoreError as error:
        raise ConfigError(str(error)) from None
