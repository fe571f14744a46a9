"""
The console: a web page on this machine from which one person watches and stops a run.

It is a process of its own, fed by the bus like everybody else, so that a headless machine
never imports it and a crash of it stops nothing. This room is the plugin and its start;
state.py is what is known, follow.py how it gets here, access.py who may see it, pages/
what it looks like. Whatever needs NiceGUI is imported only once a console really starts.
"""

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol

import msgspec

from tickerml.kernel import ConfigError, Options, PageSpec, PluginError, hookimpl

from .state import ConsoleState

PLUGIN = "console"
DRAIN_S = 2  # for open pages to be told, on the way out


class ConsoleOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the console listens."""

    address: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="address to listen on; put TLS before any that is not loopback",
        ),
    ] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535, description="port to listen on")] = 8080
    drawdown_limit: Annotated[
        float,
        msgspec.Meta(gt=0, le=1, description="end of the drawdown bar; the limit of risk-drawdown"),
    ] = 0.25


class PageContext(Protocol):
    """What the kernel tells a page."""

    plugin: str
    home: Path
    profile: str
    run_dir: Path
    data_dir: Path
    log: Any

    def alive(self) -> None:
        """Say, at least once a second, that pages are served."""


def run_console(ctx: PageContext, options: ConsoleOptions) -> None:
    """
    Serve the console until SIGTERM.

    Raises: ConfigError: the extra is not installed. PluginError: the address cannot be used.
    """
    signal.signal(signal.SIGTERM, _end)  # uvicorn has its own while it serves, and then passes the signal on
    os.environ["NICEGUI_STORAGE_PATH"] = str(ctx.data_dir / "nicegui")  # read when nicegui is imported
    try:
        import uvicorn

        from .access import Access, Gate
        from .follow import Follower
        from .pages.site import build_site
    except ImportError as error:
        if error.name and error.name.startswith("tickerml"):
            raise
        raise ConfigError(f"the console needs the extra: pip install 'tickerml[console]' ({error})") from None
    listener = _listen(options)
    access = Access(ctx.data_dir)
    if access.new_password:
        ctx.log.info("console.password_created", path=str(access.new_password), notice=True)
    follower = Follower(ctx.home, ConsoleState(), ctx.log)
    site = build_site(follower, access, ctx.profile, options.drawdown_limit)

    async def tell() -> None:
        ctx.alive()

    server = uvicorn.Server(
        uvicorn.Config(
            Gate(site, access),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
            callback_notify=tell,
            timeout_notify=1,
        )
    )
    follower.start()
    ctx.log.info("console.started", url=f"http://{options.address}:{options.port}", notice=True)
    try:
        server.run(sockets=[listener])
    finally:
        follower.stop()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _listen(options: ConsoleOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.address, options.port))
        listener.listen()  # two sockets may bind the same address, but only one can listen on it
    except OSError as error:
        listener.close()
        reason = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise PluginError(
            PLUGIN,
            f"cannot use {options.address}:{options.port}: {reason}; set another with --set console.port=N",
        ) from None
    return listener


@hookimpl
def tickerml_pages() -> Iterable[PageSpec]:
    """Offer the console."""
    return [
        PageSpec(
            id=PLUGIN,
            factory=run_console,
            options=ConsoleOptions,
            summary="Watch and stop a run from a browser on this machine",
        )
    ]
