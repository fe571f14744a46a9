"""
The command line.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 no kernel answers;
of status also 4 degraded or stopping, 5 halted.
With --json every command prints one object on stdout, also for an error.
"""

import contextlib
import json
import os
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tickerml.kernel import (
    ConfigError,
    KernelUnreachable,
    TickerMLError,
    config,
    control,
    guard,
    log,
    registry,
)
from tickerml.kernel.client import Client, read_beacon
from tickerml.kernel.core import Settings

from . import cli_dev, cli_journal, cli_status
from .terminal import DEFAULT_HOME, AsJson, ConfigPath, Home, RunDir, find_run, print_report, progress

app = typer.Typer(
    name="tickerml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
plugin_app = typer.Typer(help="List, inspect, enable and disable plugins.", no_args_is_help=True)
app.add_typer(plugin_app, name="plugin")
app.add_typer(cli_journal.app, name="journal")
app.add_typer(cli_dev.app, name="dev")

ProfileName = Annotated[str, typer.Option("--profile", help="Which profile of plugins.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="plugin.option=value, for this run; may be repeated.")
]


def _find_config(path: Path | None, home: Path) -> config.Config:
    if path is None:
        path = next((p for p in (Path("plugins.toml"), home / "plugins.toml") if p.exists()), None)
    if path is None:
        raise ConfigError(
            f"there is no plugins.toml here or in {home}; name one with --config, or go to the project's root"
        )
    return config.load(path)


def _duration(text: str, option: str = "--for") -> float:
    """Return seconds of "90", "20s", "10m", "1h30m"."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not text or not parts:
        raise ConfigError(f"{option} {text}: expected a duration like 20s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


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
    guarded: Annotated[
        bool,
        typer.Option("--guard", help="Start the kernel again when it dies or hangs, where systemd does not."),
    ] = False,
    watchdog: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence after which --guard takes it for hung.")
    ] = 10.0,
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
    command = _kernel_command(settings)
    if guarded:
        again = _kernel_command(msgspec.structs.replace(settings, is_fresh=False))
        task = guard.Settings(
            home=settings.home, first=command, again=again, watchdog_s=watchdog, as_json=as_json
        )
        command = [sys.executable, "-m", "tickerml.kernel.guard", msgspec.json.encode(task).decode()]
    sys.stdout.flush()
    # The kernel takes this process over: what the command line needed would be dead weight for months.
    os.execv(sys.executable, command)


def _kernel_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "tickerml.kernel.app", msgspec.json.encode(settings).decode()]


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
    with progress("backtest", as_json) as update:
        for count, ts in enumerate(test.run(int(_duration(duration) * 1e9)), 1):
            if count % 1000 == 0:
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ts // 10**9))
                figures = test.summary.report()
                update(
                    f"{count:,} frames to {moment}  orders {figures['orders']:,}  fills {figures['fills']:,}"
                )
    print_report(test.summary.report(), as_json)
    for plugin, error in test.summary.failed.items():
        print(f"tickerml: plugin {plugin} failed at {error}", file=sys.stderr)
    if test.summary.failed:
        raise typer.Exit(1)


@app.command()
def replay(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with what the live run published.")
    ] = False,
    run_dir: RunDir = None,
    host: Annotated[str, typer.Option(help="Which host to replay.")] = "trade",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Replay a recorded run from its journal; with --verify, exit 1 at the first byte that differs."""
    from tickerml.kernel.replay import Verification

    log.configure(as_json=as_json or None, level=30)
    verification = Verification(find_run(run_dir, home), host)
    with progress("replay", as_json) as update:
        for seq in verification.run():
            if seq % 1000 == 0:
                update(
                    f"{seq:,} of {verification.head:,} messages, {verification.outputs:,} outputs compared"
                )
    report = verification.report()
    print_report(report, as_json)
    if verify and not report["verified"]:
        raise typer.Exit(1)


# --- A running kernel -----------------------------------------------------------------------------


@app.command()
def status(
    wait_for: Annotated[
        str,
        typer.Option(
            help="Wait for this state first: running, degraded, halted, dead, ... Then 0 is: it is so."
        ),
    ] = "",
    timeout: Annotated[str, typer.Option(help="How long to wait at most: 30s, 5m.")] = "30s",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what runs and how it does; exit 0 running or starting, 3 dead, 4 degraded, 5 halted."""
    home = home.expanduser()
    if wait_for and not _await_state(home, wait_for, _duration(timeout, "--timeout"), as_json):
        print(f"tickerml: waited {timeout} for {wait_for}, which did not come", file=sys.stderr)
        raise typer.Exit(_show_status(home, as_json) or 1)
    if wait_for == cli_status.DEAD:
        return print_report({"state": cli_status.DEAD}, as_json)
    code = _show_status(home, as_json)
    if code and not wait_for:
        raise typer.Exit(code)


def _show_status(home: Path, as_json: bool) -> int:
    """Print how the kernel of *home* is; returns the exit code that says the same."""
    watcher = guard.read_report(home)
    try:
        report = Client(home).status()
    except KernelUnreachable as error:
        raise KernelUnreachable(
            f"{error}; {cli_status.guarded(watcher)}" if watcher else str(error)
        ) from None
    if as_json:
        print_report({**report, "guard": msgspec.to_builtins(watcher)}, True)
    else:
        for line in cli_status.headline(report, watcher, time.time_ns()):
            print(line)
        _table(cli_status.host_rows(report), cli_status.HOST_COLUMNS)
        _table(report["plugins"], ["id", "kind", "host", "state", "reason"])
        print_report(report["summary"], False)
    return cli_status.EXIT_CODES[report["state"]]


def _await_state(home: Path, wanted: str, timeout_s: float, as_json: bool) -> bool:
    """Wait until the kernel of *home* is in the state *wanted*; returns whether it came to be."""
    known = [*cli_status.EXIT_CODES, cli_status.DEAD]
    if wanted not in known:
        raise ConfigError(f"--wait-for {wanted}: expected one of {', '.join(known)}")
    began = time.monotonic()
    with progress("status", as_json) as update:
        while (state := _state_of(home)) != wanted:
            elapsed = time.monotonic() - began
            if elapsed > timeout_s:
                return False
            update(f"waiting for {wanted}, it is {state}  {elapsed:.0f} s")
            time.sleep(0.1)
    return True


def _state_of(home: Path) -> str:
    try:
        client = Client(home)
    except KernelUnreachable:
        return cli_status.DEAD
    try:
        return str(client.status()["state"])
    except KernelUnreachable:
        return cli_status.DEAD
    finally:
        client.close()


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
    print_report({"stopped": True, "pid": client.beacon.pid}, as_json)


@app.command()
def restart(
    home: Home = DEFAULT_HOME,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next session.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Stop the kernel cleanly and start it again in its place, with the arguments it was started with."""
    home = home.expanduser()
    client = Client(home)
    before, began = client.beacon, time.monotonic()
    client.request(control.RestartRequest("tickerml restart"))
    client.close()
    with progress("restart", as_json) as update:
        while (report := _next_session(home, before.session)) is None:
            elapsed = time.monotonic() - began
            if elapsed > timeout:
                raise KernelUnreachable(
                    f"session {before.session} (pid {before.pid}) was not followed by another within "
                    f"{timeout:g} s; see what the kernel wrote to its stderr"
                )
            update(f"waiting for the session after {before.session}  {elapsed:.0f} s")
            time.sleep(0.05)
    answer = {
        "restarted": True,
        "session": report["session"],
        "state": report["state"],
        "pid": report["pid"],
        "seconds": round(time.monotonic() - began, 1),
    }
    print_report(answer, as_json)


def _next_session(home: Path, session: int) -> dict[str, Any] | None:
    """Return the status of the session that follows *session*; None while there is none."""
    with contextlib.suppress(KernelUnreachable):
        client = Client(home)
        try:
            return client.status() if client.beacon.session > session else None
        finally:
            client.close()
    return None


@app.command()
def halt(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Halt trading: cancel open orders and take no new ones until `resume`."""
    done = Client(home.expanduser()).request(control.HaltRequest("operator", reason))
    print_report({"halted": True, "seq": done.seq}, as_json)


@app.command()
def resume(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Lift a halt."""
    done = Client(home.expanduser()).request(control.ResumeRequest("operator", reason))
    print_report({"resumed": True, "seq": done.seq}, as_json)


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
        return print_report({"plugins": rows}, True)
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
    print_report(report, as_json)
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
    print_report(report, as_json)


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


# --- Doctor ---------------------------------------------------------------------------------------


@app.command()
def doctor(home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False) -> None:
    """Check this machine, the configuration, every plugin and the journal; exit 1 when something is wrong."""
    from tickerml.kernel.doctor import examine

    report = examine(home.expanduser(), config_path)
    if as_json:
        print_report(report, True)
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
