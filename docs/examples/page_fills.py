# /// tickerml-plugin
# format = 1
# [plugin.page-fills]
# kinds = ["page"]
# api = ">=1.0,<2"
# summary = "shows the last fills on an address of this machine"
# tier = "conforms"
# ///
"""
Fills: a page that shows the last fills, on an address of this machine.

A page is a program of its own, not a component: it may have threads and a clock, and reads the run from
outside, through a Subscription. It ends when its process is told to.
"""

import threading
from collections import deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import msgspec

from tickerml.kernel import Options, OrderFilled, PageSpec, PluginError, Side, codec, hookimpl
from tickerml.kernel.client import Subscription
from tickerml.kernel.subscription import Rewound


class FillsOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it answers, and how much it shows."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65_535, description="port on 127.0.0.1; 0 for any")] = 0
    shown: Annotated[int, msgspec.Meta(ge=1, le=10_000, description="how many fills are shown")] = 50


class Server(ThreadingHTTPServer):
    """Two of them may answer on one port: the next process of this page is there before this one goes."""

    allow_reuse_port = True


def text_of(fills: Iterable[OrderFilled]) -> str:
    """Return *fills* as text, the newest first: prices in ticks, quantities in lots."""
    lines = [
        f"{'bought' if fill.side is Side.BUY else 'sold':<6} {fill.quantity:>12} at {fill.price:>12}"
        f"  {fill.exchange} {fill.symbol}  {fill.order_id}"
        for fill in fills
    ]
    return "\n".join(lines[::-1]) + "\n"


def run(ctx: Any, options: FillsOptions) -> None:
    """
    Follow the fills and answer, until the process is ended.

    Raises: PluginError: the port is taken.
    """
    fills: deque[tuple[int, OrderFilled]] = deque(maxlen=options.shown)  # (seq, fill)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text_of([fill for _, fill in list(fills)]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    try:
        server = Server(("127.0.0.1", options.port), Answers)
    except OSError as error:
        raise PluginError(
            ctx.plugin, f"cannot use port {options.port}: {error.strerror}; set another"
        ) from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ctx.log.info("page.started", url=f"http://127.0.0.1:{server.server_port}")
    subscription = Subscription(ctx.home, lossless=[b"fill."])
    while True:
        ctx.alive()  # from now on silence means that it hangs
        for event in subscription.receive(timeout_s=0.5):
            match event:
                case codec.Frame():
                    fills.append((event.seq, codec.decode(event.body)))
                case Rewound():  # what lies beyond never happened
                    kept = [each for each in fills if each[0] <= event.to_seq]
                    fills.clear()
                    fills.extend(kept)


@hookimpl
def tickerml_pages() -> list[PageSpec]:
    return [
        PageSpec(
            id="page-fills",
            factory=run,
            options=FillsOptions,
            summary="shows the last fills on an address of this machine",
        )
    ]
