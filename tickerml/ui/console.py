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
        from .pages.frame import Desk
        from .pages.site import build_site
        from .shelf import Shelf
    except ImportError as error:
        if error.name and error.name.startswith("tickerml"):
            raise
        raise ConfigError(f"the console needs the extra: pip install 'tickerml[console]' ({error})") from None
    listener = take_address(ctx.data_dir, options)
    access = Access(ctx.data_dir)
    if access.new_password:
        ctx.log.info("console.password_created", path=str(access.new_password), notice=True)
    follower = Follower(ctx.home, ConsoleState(), ctx.log)
    desk = Desk(follower, Shelf(ctx.home), ctx.profile, options.drawdown_limit)
    site = build_site(desk, access)

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


class Serving(msgspec.Struct, frozen=True):
    """Which console of a home serves, and where: the content of serving.json."""

    pid: int
    kernel: int  # pid of its kernel
    address: str
    port: int


def take_address(directory: Path, options: ConsoleOptions) -> socket.socket:
    """
    Return a socket at the address, which begins to listen when it is served.

    It is shared with none but a console of the same kernel that is about to be replaced.

    Args:
        directory: where the consoles of this home say who serves.
    Raises: PluginError: the address cannot be used.
    """
    path = directory / "serving.json"
    try:
        if not _is_ours(path, options):
            _bind(options, shares=False).close()
        listener = _bind(options, shares=True)
    except OSError as error:
        reason = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise PluginError(
            PLUGIN,
            f"cannot use {options.address}:{options.port}: {reason}; set another with --set console.port=N",
        ) from None
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    serving = Serving(os.getpid(), os.getppid(), options.address, options.port)
    path.with_suffix(".new").write_bytes(msgspec.json.encode(serving))
    path.with_suffix(".new").replace(path)
    return listener


def _is_ours(path: Path, options: ConsoleOptions) -> bool:
    """Whether the console before this one, of the same kernel, serves at the same address."""
    try:
        there = msgspec.json.decode(path.read_bytes(), type=Serving)
        os.kill(there.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return False
    return (there.kernel, there.address, there.port) == (os.getppid(), options.address, options.port)


def _bind(options: ConsoleOptions, *, shares: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares and hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((options.address, options.port))
        if not shares:
            listener.listen()  # two sockets may bind the same address, but only one can listen on it
    except OSError:
        listener.close()
        raise
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
