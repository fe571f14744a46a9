"""
Commands for those who work on TickerML itself.

`simulate` runs the whole system in a world that breaks it (tickerml.testing.world). It is for a
checkout: what it finds is for whoever changes the kernel, not for whoever trades.
"""

from typing import Annotated

import typer

app = typer.Typer(help="For those who work on TickerML itself.", no_args_is_help=True)


@app.callback()
def dev() -> None:
    """For those who work on TickerML itself."""


@app.command("simulate")
def simulate_command(
    seed: Annotated[int, typer.Option("--seed", help="The first seed, or the only one.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.", min=1)] = 1,
    trace: Annotated[bool, typer.Option("--trace", help="Show what happens in the one seed.")] = False,
    with_no_faults: Annotated[
        bool, typer.Option("--no-faults", help="Leave the faults of the one seed out.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--processes", help="How many run at once.", show_default="one a core", min=0)
    ] = 0,
    limit_s: Annotated[
        float, typer.Option("--limit", help="Stop after this many seconds.", show_default="never")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Run the whole system under simulated faults and check that nothing is lost.

    A seed decides everything: the market, the network, the disk, and what goes wrong. A seed that
    fails is shrunk to the fewest faults that still break it, and can be run again with --trace.
    """
    from . import simulation  # no other command should wait for the world to be loaded

    if seeds == 1:
        is_green = simulation.run_one(seed, is_traced=trace, with_no_faults=with_no_faults, as_json=as_json)
    else:
        many = range(seed, seed + seeds)
        is_green = simulation.run_many(many, processes=processes, limit_s=limit_s, as_json=as_json)
    raise typer.Exit(0 if is_green else 1)
