"""
`tickerml exchange serve`: every exchange that TickerML knows, on this machine, with faults on demand.

It is for whoever writes or tries a connector; tickerml.testing.exchanges is what it serves.
"""

import asyncio
from typing import Annotated, Any

import typer

from tickerml.kernel import ConfigError

app = typer.Typer(help="Exchanges on this machine, for trying connectors.", no_args_is_help=True)


class _ServeCommand(typer.core.TyperCommand):
    # The faults are told of where they are defined, which is loaded for nobody else's help.
    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tickerml.testing.exchanges.faults import described

        faults = [f"{name}: {text}" for name, text in described()]
        self.epilog = "\n\n".join(["The faults, for POST /_faults/NAME:", *faults])
        super().format_help(ctx, formatter)


@app.callback()
def exchange() -> None:
    """Exchanges on this machine, for trying connectors."""


@app.command("serve", cls=_ServeCommand)
def serve(
    exchanges: Annotated[
        list[str] | None, typer.Argument(help="Which exchanges.", show_default="all there are")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.", min=0)] = 8765,
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbol", help="BASE/QUOTE; may be repeated.", show_default="all it lists"),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Updates a second of each market.", min=0.001)] = 10.0,
    speed: Annotated[
        float, typer.Option("--speed", help="How fast time goes for markets and recordings.", min=0.001)
    ] = 1.0,
    levels: Annotated[int, typer.Option("--levels", help="Levels of each side, about.", min=20)] = 120,
    seed: Annotated[int, typer.Option("--seed", help="Decides everything that happens.")] = 0,
    captures: Annotated[
        list[str] | None,
        typer.Option(
            "--capture", help="EXCHANGE=FILE: play a recording; may be repeated.", show_default=False
        ),
    ] = None,
) -> None:
    """
    Serve exchanges on this machine, REST and WebSocket, in the formats of today.

    Point a connector's rest_url and ws_url at what is printed. POST /_faults/NAME?exchange=kraken
    lets something go wrong, GET /_books/kraken/BTC-USD is the true book.
    """
    from . import exchange_server  # no other command should wait for it to be loaded

    try:
        server = exchange_server.build(exchanges or [], symbols or [], levels, seed, captures or [])
        asyncio.run(exchange_server.serve(server, host, port, rate, speed))
    except (ValueError, OSError) as error:
        raise ConfigError(f"exchange serve: {error}") from None
    except KeyboardInterrupt:
        return
