"""
The command line.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 no kernel answers.
With --json every command prints one object on stdout, also for an error.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tickerml.kernel import (
    CodecError,
    ConfigError,
    KernelUnreachable,
    Message,
    StoreError,
    TickerMLError,
    codec,
    config,
    control,
    log,
    registry,
    runs,
)
from tickerml.kernel.app import Settings
from tickerml.kernel.client import Client, read_beacon
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.report import show

app = typer.Typer(
    name="tickerml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
plugin_app = typer.Typer(help="List, inspect, enable and disable plugins.", no_args_is_help=True)
journal_app = typer.Typer(help="Look into the journal.", no_args_is_help=True)
app.add_typer(plugin_app, name="plugin")
app.add_typer(journal_app, name="journal")

Home = Annotated[
    Path,
    typer.Option("--home", envvar="TICKERML_HOME", help="Where all state lives.", show_default="~/.tickerml"),
]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration.", show_default="./plugins.toml, else HOME/plugins.toml"
    ),
]
ProfileName = Annotated[str, typer.Option("--profile", help="Which profile of plugins.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="plugin.option=value, for this run; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DEFAULT_HOME = Path("~/.tickerml")


def _find_config(path: Path | None, home: Path) -> config.Config:
    if path is None:
        path = next((p for p in (Path("plugins.toml"), home / "plugins.toml") if p.exists()), None)
    if path is None:
        raise ConfigError(
            f"there is no plugins.toml here or in {home}; name one with --config, or go to the project's root"
        )
    return config.load(path)


def _duration(text: str) -> float:
    """Return seconds of "90", "20s", "10m", "1h30m"."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not text or not parts:
        raise ConfigError(f"--for {text}: expected a duration like 20s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def _print(report: dict[str, Any], as_json: bool) -> None:
    show(report, sys.stdout, as_json=as_json)


@contextlib.contextmanager
def _progress(label: str, as_json: bool) -> Iterator[Any]:
    """Give a function that shows how far something is, at most five times a second and only to a person."""
    shown_at = time.monotonic()
    is_quiet = as_json or not sys.stderr.isatty()

    def update(text: str) -> None:
        nonlocal shown_at
        if not is_quiet and time.monotonic() - shown_at > 0.2:
            shown_at = time.monotonic()
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{label}: {text}"[:width] + "\x1b[K", end="", file=sys.stderr, flush=True)

    yield update
    if not is_quiet:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(version("tickerml"))
        raise typer.Exit


@app.callback()
def root(
    wants_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A crypto paper-trading system that learns. It never sends a live order."""


# --- Running --------------------------------------------------------------------------------------


@app.command()
def run(
    profile: ProfileName = "demo",
    overrides: Overrides = None,
    speed: Annotated[
        str | None, typer.Option(help="How fast recorded or synthetic data plays: a factor, or max.")
    ] = None,
    duration: Annotated[str, typer.Option("--for", help="Stop after this long: 20s, 10m, 1h30m.")] = "0",
    no_console: Annotated[bool, typer.Option("--no-console", help="Leave the console out.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin a new run instead of continuing the last.")
    ] = False,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Start the kernel and trade on paper until stopped (Ctrl-C, SIGTERM, `tickerml stop`)."""
    home = home.expanduser()
    changes = [*(overrides or ()), *([f"kernel.speed={speed}"] if speed else [])]
    plan = config.plan(_find_config(config_path, home), profile, changes, with_pages=not no_console)
    settings = Settings(
        plan=plan,
        home=str(home.resolve()),
        duration_s=_duration(duration),
        as_json=as_json,
        is_fresh=fresh,
    )
    sys.stdout.flush()
    # The kernel takes this process over: what the command line needed would be dead weight for months.
    os.execv(
        sys.executable,
        [sys.executable, "-m", "tickerml.kernel.app", msgspec.json.encode(settings).decode()],
    )


@app.command()
def backtest(
    profile: ProfileName = "capture",
    overrides: Overrides = None,
    speed: Annotated[
        str | None, typer.Option(help="Accepted for symmetry with run; a backtest is always at max.")
    ] = None,
    duration: Annotated[
        str, typer.Option("--for", help="Stop after this much market time: 20s, 10m, 1h30m.")
    ] = "0",
    no_console: Annotated[
        bool, typer.Option("--no-console", help="Accepted for symmetry with run; a backtest has none.")
    ] = True,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Run a profile's components over its recorded or synthetic data, in this process, at full speed."""
    from tickerml.kernel.backtest import Backtest

    log.configure(as_json=as_json or None, level=30)
    changes = [*(overrides or ()), "kernel.clock=data", "kernel.speed=max"]
    plan = config.plan(_find_config(config_path, home.expanduser()), profile, changes, with_pages=False)
    test = Backtest(plan)
    with _progress("backtest", as_json) as update:
        for count, ts in enumerate(test.run(int(_duration(duration) * 1e9)), 1):
            if count % 1000 == 0:
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ts // 10**9))
                figures = test.summary.report()
                update(
                    f"{count:,} frames to {moment}  orders {figures['orders']:,}  fills {figures['fills']:,}"
                )
    _print(test.summary.report(), as_json)
    for plugin, error in test.summary.failed.items():
        print(f"tickerml: plugin {plugin} failed at {error}", file=sys.stderr)
    if test.summary.failed:
        raise typer.Exit(1)


@app.command()
def replay(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with what the live run published.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="A run's directory.", show_default="the newest")
    ] = None,
    host: Annotated[str, typer.Option(help="Which host to replay.")] = "trade",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Replay a recorded run from its journal; with --verify, exit 1 at the first byte that differs."""
    from tickerml.kernel.replay import Verification

    log.configure(as_json=as_json or None, level=30)
    verification = Verification(_run_dir(run_dir, home), host)
    with _progress("replay", as_json) as update:
        for seq in verification.run():
            if seq % 1000 == 0:
                update(
                    f"{seq:,} of {verification.head:,} messages, {verification.outputs:,} outputs compared"
                )
    report = verification.report()
    _print(report, as_json)
    if verify and not report["verified"]:
        raise typer.Exit(1)


def _run_dir(given: Path | None, home: Path) -> Path:
    found = given or runs.latest(home.expanduser())
    if found is None:
        raise StoreError(f"there is no run in {home.expanduser()}; start one with `tickerml run`")
    return found


# --- A running kernel -----------------------------------------------------------------------------


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show what runs, where, and how it does."""
    report = Client(home.expanduser()).status()
    if as_json:
        return _print(report, True)
    print(
        f"{report['state']}  profile {report['profile']}  session {report['session']}  "
        f"up {report['uptime_s']:.0f} s  {report['seq']:,} messages, {report['messages_per_s']:,.0f}/s"
    )
    if report["halted_by"]:
        print(f"halted by {report['halted_by']}")
    _table(report["hosts"], ["host", "state", "pid", "restarts", "lag", "rss_mb", "reason"])
    _table(report["plugins"], ["id", "kind", "host", "state", "reason"])
    _print(report["summary"], False)


@app.command()
def stop(
    home: Home = DEFAULT_HOME,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Stop the kernel cleanly: everything is flushed before it ends."""
    client = Client(home.expanduser())
    client.request(control.ShutdownRequest("tickerml stop"))
    deadline = time.monotonic() + timeout
    with contextlib.suppress(KernelUnreachable):
        while read_beacon(home.expanduser()).pid == client.beacon.pid:
            if time.monotonic() > deadline:
                raise KernelUnreachable(
                    f"the kernel (pid {client.beacon.pid}) has not ended after {timeout:g} s"
                )
            time.sleep(0.05)
    _print({"stopped": True, "pid": client.beacon.pid}, as_json)


@app.command()
def halt(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Halt trading: cancel open orders and take no new ones until `resume`."""
    done = Client(home.expanduser()).request(control.HaltRequest("operator", reason))
    _print({"halted": True, "seq": done.seq}, as_json)


@app.command()
def resume(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Lift a halt."""
    done = Client(home.expanduser()).request(control.ResumeRequest("operator", reason))
    _print({"resumed": True, "seq": done.seq}, as_json)


# --- Plugins --------------------------------------------------------------------------------------


@plugin_app.command("list")
def list_plugins(
    profile: Annotated[str, typer.Option(help="Only this profile's.")] = "",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """List every plugin that plugins.toml names or that is installed; works with the kernel off."""
    found = _find_config(config_path, home.expanduser())
    if profile:
        config.plan(found, profile)
    live: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(KernelUnreachable):
        live = {row["id"]: row for row in Client(home.expanduser()).status()["plugins"]}
    installed = registry.installed()
    rows = []
    for name in sorted({*found.plugins, *installed}):
        entry = found.plugins.get(name)
        profiles = [key for key, value in found.profiles.items() if name in value.plugins]
        if profile and profile not in profiles:
            continue
        is_present = name in installed or bool(entry and entry.module)
        state = "not configured" if entry is None else "stopped" if entry.enabled else "disabled"
        reason = "" if is_present else "no installed package offers it"
        distribution = installed[name].dist if name in installed else None
        rows.append(
            {
                "id": name,
                "kind": entry.kind if entry else "",
                "version": distribution.version if distribution else "",
                "host": entry.host if entry else "",
                "enabled": bool(entry and entry.enabled),
                "profiles": profiles,
                "state": live.get(name, {}).get("state", state if is_present else "missing"),
                "reason": live.get(name, {}).get("reason", reason),
            }
        )
    if as_json:
        return _print({"plugins": rows}, True)
    _table(rows, ["id", "kind", "version", "host", "state", "profiles", "reason"])


@plugin_app.command("info")
def plugin_info(
    plugin: str, home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Show a plugin's kind, options and permissions; it is imported in a process of its own."""
    import subprocess

    found = _find_config(config_path, home.expanduser())
    if plugin not in found.plugins and plugin not in registry.installed():
        raise ConfigError(f"there is no plugin {plugin!r}; see `tickerml plugin list`")
    entry = found.plugins.get(plugin)
    report: dict[str, Any] = {"id": plugin, "configured": msgspec.to_builtins(entry) if entry else None}
    answer = subprocess.run(
        [sys.executable, "-m", "tickerml.kernel.describe", plugin, entry.module if entry else ""],
        capture_output=True,
        text=True,
        timeout=60,
    )
    report |= json.loads(answer.stdout) if answer.returncode == 0 else {"error": answer.stderr.strip()}
    _print(report, as_json)
    if answer.returncode:
        raise typer.Exit(1)


def _set_enabled(plugin: str, is_enabled: bool, home: Path, config_path: Path | None, as_json: bool) -> None:
    home = home.expanduser()
    try:
        done = Client(home).request(control.PluginRequest(plugin, is_enabled), timeout_s=10)
        report = {"plugin": plugin, "enabled": is_enabled, "live": True, "seq": done.seq}
    except KernelUnreachable:
        config.set_enabled(_find_config(config_path, home).path, plugin, is_enabled)
        report = {"plugin": plugin, "enabled": is_enabled, "live": False}
    _print(report, as_json)


@plugin_app.command("enable")
def enable_plugin(
    plugin: str, home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Enable a plugin in plugins.toml, and at once where a kernel runs."""
    _set_enabled(plugin, True, home, config_path, as_json)


@plugin_app.command("disable")
def disable_plugin(
    plugin: str, home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Disable a plugin in plugins.toml, and at once where a kernel runs."""
    _set_enabled(plugin, False, home, config_path, as_json)


# --- The journal ----------------------------------------------------------------------------------


def _describe_frame(raw: bytes) -> dict[str, Any]:
    frame = codec.unpack(raw)
    try:
        message: Message | str = codec.decode(frame.body)
    except CodecError as error:
        message = str(error)
    fields = (
        {name: getattr(message, name) for name in message.__struct_fields__}
        if isinstance(message, Message)
        else {"error": message}
    )
    return {
        "seq": frame.seq,
        "topic": frame.topic.decode(),
        "cause": frame.cause,
        "type": type(message).__name__,
        **json.loads(msgspec.json.encode(fields)),
    }


def _print_frames(frames: list[bytes], as_json: bool) -> None:
    rows = [_describe_frame(raw) for raw in frames]
    if as_json:
        return _print({"messages": rows}, True)
    for row in rows:
        head = f"{row.pop('seq'):>10}  {row.pop('topic'):<32} {row.pop('type'):<18}"
        row.pop("cause")
        print(head, " ".join(f"{key}={str(value)[:48]}" for key, value in row.items()))


@journal_app.command("tail")
def journal_tail(
    count: Annotated[int, typer.Option("-n", min=1, help="How many messages.")] = 20,
    kept: Annotated[
        bool, typer.Option("--kept", help="Only decisions, orders, fills and what else is kept for good.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="A run's directory.", show_default="the newest")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show the last messages."""
    reader = JournalReader(_run_dir(run_dir, home) / "journal")
    step, frames = count, []
    while True:
        after = max(0, reader.head() - step)
        frames = list(reader.frames(after, table="kept" if kept else "log"))
        if len(frames) >= count or not after:
            break
        step *= 4
    _print_frames(frames[-count:], as_json)


@journal_app.command("show")
def journal_show(
    first: Annotated[int, typer.Argument(help="The first seq to show.")] = 1,
    last: Annotated[int | None, typer.Argument(help="The last.", show_default="the first")] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="A run's directory.", show_default="the newest")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show a range of messages, with what caused them."""
    reader = JournalReader(_run_dir(run_dir, home) / "journal")
    _print_frames(list(reader.frames(first - 1, first if last is None else last)), as_json)


# --- Doctor ---------------------------------------------------------------------------------------


@app.command()
def doctor(home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False) -> None:
    """Check this machine, the configuration, every plugin and the journal; exit 1 when something is wrong."""
    from tickerml.kernel.doctor import examine

    report = examine(home.expanduser(), config_path)
    if as_json:
        _print(report, True)
    else:
        for check in report["checks"]:
            print(f"{'ok   ' if check['ok'] else 'WRONG'}  {check['check']:<24} {check['detail']}")
    if not report["ok"]:
        raise typer.Exit(1)


def _table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    texts = [[", ".join(v) if isinstance(v := row[c], list) else str(v) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *texts]) for i in range(len(columns))]
    for line in [columns, *texts]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command line; the console script."""
    try:
        app()
    except TickerMLError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": str(error), "type": type(error).__name__}))
        print(f"tickerml: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 3 if isinstance(error, KernelUnreachable) else 1)


if __name__ == "__main__":
    main()
