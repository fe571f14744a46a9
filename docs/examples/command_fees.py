# /// tickerml-plugin
# format = 1
# [plugin.command-fees]
# kinds = ["command"]
# api = ">=1.0,<2"
# summary = "adds `tickerml fees`: what the newest run has paid in fees"
# commands = ["fees"]
# tier = "conforms"
# ///
"""
Fees: a command, `tickerml fees`, that says what the newest run has paid in fees.

A command runs where it is typed and in no host. Its module is imported only when its word is used.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tickerml.kernel import OrderFilled, codec, format_units, hookimpl
from tickerml.kernel.journal_reader import JournalReader
from tickerml.kernel.runs import latest


def fees(home: Path) -> Counter[str]:
    """
    Return what the newest run of *home* has paid, in units of 1e-12 by asset.

    Raises: StoreError: its journal cannot be read.
    """
    paid: Counter[str] = Counter()
    if run_dir := latest(home):
        journal = JournalReader(run_dir / "journal")
        try:
            for raw in journal.frames(table="kept"):  # fills are kept for good
                frame = codec.unpack(raw)
                if frame.topic.startswith(b"fill.") and isinstance(
                    fill := codec.decode(frame.body), OrderFilled
                ):
                    paid[fill.fee_asset] += fill.fee
        finally:
            journal.close()
    return paid


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    @app.command("fees")
    def show(
        home: Annotated[Path, typer.Option(envvar="TICKERML_HOME", help="Where runs are kept.")] = Path(
            "~/.tickerml"
        ),
    ) -> None:
        """Say what the newest run has paid in fees."""
        for asset, units in sorted(fees(home.expanduser()).items()):
            typer.echo(f"{format_units(units, 2)} {asset}")
