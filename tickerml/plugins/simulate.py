"""
`tickerml simulate`: a fixed list of orders against a fixed market, for anyone who wants to check.

    tickerml simulate --events E.csv --orders O.csv --out fills.csv --status status.csv

events   ts_exchange,ts_local,kind,side,price,qty     kind depth (side bid|ask, qty the level's new size,
         0 deletes), trade (side buy|sell: the aggressor), clear (side bid|ask|both; price and qty may be
         blank). Sorted by ts_exchange; rows of one time happen as they are written.
orders   order_id,ts,side,price,qty,type,tif,cancel_ts   ts and cancel_ts are when we send, ns; type
         LIMIT|MARKET (whose price may be blank), tif GTC|GTX|IOC|FOK; a blank cancel_ts is never.
fills    order_id,seq,ts_exchange,ts_local,price,qty,liquidity,fee,leaves, sorted by ts_exchange; seq
         counts the fills of an order from 1, and ts_local is ts_exchange plus the response latency.
status   order_id,status,filled_qty,leaves,ts_exchange, as the orders are listed: filled, canceled,
         expired, rejected, or open at the end; ts_exchange is when it last changed.

A command arrives when it was sent plus the entry latency; at equal times the market comes first, then
orders, then cancels, each as listed. What arrives after the last event meets the book as it is then.
Numbers are exact decimals, money is rounded up at 1e-12 of the quote asset.

Exit codes: 0 done; 2 wrong usage or input, and nothing is written.
"""

from pathlib import Path
from typing import Annotated

import typer

from tickerml.kernel import ConfigError, hookimpl

from .queue_models import queue_model
from .simulate_block import COMPILED_FROM, is_to_be_compiled, run_block
from .simulate_files import Grid, decimal_of, read_events, read_orders, scale_of, write_fills, write_status
from .simulate_run import run
from .simulate_venues import PROFILES, open_venue


def simulate(
    events: Annotated[Path, typer.Option(help="The market, as CSV.")],
    orders: Annotated[Path, typer.Option(help="What to send, as CSV.")],
    out: Annotated[Path, typer.Option(help="Where the fills go, as CSV.")],
    status: Annotated[Path, typer.Option(help="Where the end of each order goes, as CSV.")],
    profile: Annotated[
        str, typer.Option(help="Whose rules: default, hftbacktest, touch, cross.")
    ] = "default",
    queue: Annotated[
        str, typer.Option(help="Who leaves a queue: risk-averse, by-size, log, uniform, power:n, l3-exact.")
    ] = "risk-averse",
    entry_ms: Annotated[str, typer.Option(help="From us to the exchange.")] = "50",
    response_ms: Annotated[str, typer.Option(help="From the exchange to us.")] = "50",
    tick: Annotated[
        str, typer.Option(help="The step of prices.", show_default="the decimals in the files")
    ] = "",
    lot: Annotated[
        str, typer.Option(help="The step of quantities.", show_default="the decimals in the files")
    ] = "",
    maker: Annotated[
        str, typer.Option(help="Fee of a maker, as a fraction; below 0 for a rebate.")
    ] = "0.001",
    taker: Annotated[str, typer.Option(help="Fee of a taker, as a fraction.")] = "0.001",
    seed: Annotated[int, typer.Option(help="Of what is drawn; with constant latencies nothing is.")] = 0,
    is_compiled: Annotated[
        bool | None,
        typer.Option(
            "--compiled/--interpreted",
            help="By numba, to the same files.",
            show_default=f"compiled from {COMPILED_FROM:,} events on, where numba is",
        ),
    ] = None,
) -> None:
    """Send a fixed list of orders through the matching core and write what would have become of them."""
    try:
        if profile not in PROFILES:
            raise ValueError(f"--profile must be one of {', '.join(PROFILES)}, was {profile!r}")
        model = queue_model(queue)
        if profile == "hftbacktest" and queue in ("by-size", "l3-exact"):
            raise ValueError(f"--queue must be risk-averse, log or power:n by that profile, was {queue!r}")
        entry, response = (
            _nanoseconds(entry_ms, "--entry-ms"),
            _nanoseconds(response_ms, "--response-ms"),
        )
        grid = Grid(
            decimal_of(tick, "--tick", above=0) if tick else scale_of("price", events, orders),
            decimal_of(lot, "--lot", above=0) if lot else scale_of("qty", events, orders),
            decimal_of(maker, "--maker"),
            decimal_of(taker, "--taker"),
        )
        market, wishes = read_events(events, grid), read_orders(orders, grid)
        rules, ratio = grid.instrument(), grid.lot.as_integer_ratio()
        if is_compiled := is_to_be_compiled(is_compiled, market, wishes, ratio):
            fills, ends = run_block(profile, model, rules, ratio, market, wishes, entry, is_compiled)
        else:
            fills, ends = run(open_venue(profile, model, rules, ratio), market, wishes, entry)
        write_fills(out, fills, grid, response)
        write_status(status, ends, grid)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    filled = sum(end.status == "filled" for end in ends)
    how = ", compiled" if is_compiled else ""
    print(f"{len(ends)} orders: {filled} filled, {len(fills)} fills; {out} and {status} written{how}")
    for end in ends:
        if end.status == "rejected":
            print(f"{end.order_id} rejected: {end.reason}")


def _nanoseconds(text: str, option: str) -> int:
    ns = decimal_of(text, option, at_least=0) * 10**6
    if ns != int(ns):
        raise ValueError(f"{option} must be whole nanoseconds, was {text} ms")
    return int(ns)


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml simulate`."""
    app.command("simulate")(simulate)
