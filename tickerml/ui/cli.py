"""
The command line.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 no kernel answers;
of plugin also 4 tried and rolled back; of status also 4 degraded or stopping, 5 halted.
With --json every command prints one object on stdout, also for an error.
"""

import contextlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from tickerml.kernel import (
    ChangeRolledBack,
    ConfigError,
    KernelUnreachable,
    TickerMLError,
    config,
    control,
    guard,
    log,
)
from tickerml.kernel.client import Client, read_beacon
from tickerml.kernel.core import Settings

from . import cli_dev, cli_exchange, cli_journal, cli_plugin, cli_status, commands
from .changes import find_config
from .terminal import (
    DEFAULT_HOME,
    AsJson,
    ConfigPath,
    Home,
    RunDir,
    find_run,
    parse_seconds,
    print_report,
    print_table,
    progress,
)

app = typer.Typer(
    name="tickerml",
    cls=commands.Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_plugin.app, name="plugin")
app.add_typer(cli_journal.app, name="journal")
app.add_typer(cli_dev.app, name="dev")
app.add_typer(cli_exchange.app, name="exchange")

ProfileName = Annotated[str, typer.Option("--profile", help="Which profile of plugins.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="plugin.option=value, for this run; may be repeated.")
]


def _find_config(path: Path | None, home: Path) -> config.Config:
    return config.load(find_config(home, path))


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
    found = _find_config(config_path, home)
    there = config.catalog_of(found, home)
    plan = config.plan(found, profile, changes, catalog=there)
    if no_console:
        # Said as --set says it, so that a change of plugins while it runs does not bring the console.
        changes += [f"{plugin.id}.enabled=false" for plugin in plan.plugins if plugin.kind == "page"]
        plan = config.plan(found, profile, changes, catalog=there)
    settings = Settings(
        plan=plan,
        home=str(home.resolve()),
        duration_s=parse_seconds(duration),
        as_json=as_json,
        is_fresh=fresh,
        again=_run_again(found.path, profile, changes, home, duration, as_json),
    )
    command = [sys.executable, "-m", "tickerml.kernel.app", msgspec.json.encode(settings).decode()]
    if guarded:
        task = guard.Settings(
            home=settings.home, first=command, again=settings.again, watchdog_s=watchdog, as_json=as_json
        )
        command = [sys.executable, "-m", "tickerml.kernel.guard", msgspec.json.encode(task).decode()]
    sys.stdout.flush()
    # The kernel takes this process over: what the command line needed would be dead weight for months.
    os.execv(sys.executable, command)


def _run_again(
    config_path: Path, profile: str, changes: list[str], home: Path, duration: str, as_json: bool
) -> list[str]:
    """Return the command that goes on with the run, as plugins.toml and plugins.lock are by then."""
    options = ["--profile", profile, "--home", str(home.resolve()), "--config", str(config_path.resolve())]
    options += [word for change in changes for word in ("--set", change)]
    options += ["--for", duration, *(["--json"] if as_json else [])]
    return [sys.executable, "-m", "tickerml.ui.cli", "run", *options]


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
    found = _find_config(config_path, home.expanduser())
    there = config.catalog_of(found, home.expanduser())
    plan = config.plan(found, profile, changes, with_pages=False, catalog=there)
    test = Backtest(plan)
    with progress("backtest", as_json) as update:
        for count, ts in enumerate(test.run(int(parse_seconds(duration) * 1e9)), 1):
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
    to: Annotated[
        int,
        typer.Option("--to", min=1, help="Stop behind this seq, and show its books and open orders."),
    ] = 2**63 - 1,
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
        for seq in verification.run(to):
            if seq % 1000 == 0:
                update(
                    f"{seq:,} of {verification.head:,} messages, {verification.outputs:,} outputs compared"
                )
    report = verification.report()
    print_report({**report, **(verification.standing() if to < 2**63 - 1 else {})}, as_json)
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
    if wait_for and not _await_state(home, wait_for, parse_seconds(timeout, "--timeout"), as_json):
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
        print_table(cli_status.host_rows(report), cli_status.HOST_COLUMNS)
        print_table(report["plugins"], ["id", "kind", "host", "state", "reason"])
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
    """
    Stop the kernel cleanly and start it again in its place, with the arguments it was started with.

    It takes plugins.toml and plugins.lock as they are now; where those are in error, it is not stopped.
    """
    home = home.expanduser()
    client = Client(home)
    before, began = client.beacon, time.monotonic()
    _check_configuration(client.status(), home)
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


def _check_configuration(report: dict[str, Any], home: Path) -> None:
    """
    Raises: ConfigError: a kernel that is started with the configuration of *report* would refuse it.
    """
    found = config.load(Path(report["config"]))
    config.plan(found, report["profile"], report["overrides"], catalog=config.catalog_of(found, home))


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
    level: Annotated[
        int,
        typer.Option(
            min=1, max=3, help="1: no new orders. 2: cancel the open ones too. 3: sell what is held."
        ),
    ] = 2,
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Halt trading: cancel open orders and take no new ones until `resume`."""
    _halt(level, reason, home, as_json)


@app.command()
def kill(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Cancel every order, sell all that is held at up to 1 % behind the best price, and halt: level 3."""
    _halt(3, reason, home, as_json)


def _halt(level: int, reason: str, home: Path, as_json: bool) -> None:
    done = Client(home.expanduser()).request(control.HaltRequest("operator", reason, level))
    print_report({"halted": True, "level": level, "seq": done.seq}, as_json)


@app.command()
def resume(
    reason: Annotated[str, typer.Option(help="Why; it is journaled.")] = "by hand",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Lift a halt."""
    done = Client(home.expanduser()).request(control.ResumeRequest("operator", reason))
    print_report({"resumed": True, "seq": done.seq}, as_json)


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


def main() -> None:
    """Run the command line; the console script."""
    as_json = "--json" in sys.argv
    try:
        own = {*typer.main.get_command(app).commands}  # type: ignore[attr-defined]
        if not commands.run_plugin_command(sys.argv[1:], own):
            code = app(standalone_mode=not as_json)
            sys.exit(code if isinstance(code, int) else 0)
    except TickerMLError as error:
        _fail(error, str(error), _exit_code(error), as_json)
    except typer.Abort as error:
        _fail(error, "interrupted", 1, as_json)
    except Exception as error:
        # With --json typer leaves wrong usage to us, so that it can be an object, too.
        explain: Any = getattr(error, "format_message", None)
        if explain is None:
            raise
        _fail(error, explain(), 2, as_json)


def _exit_code(error: TickerMLError) -> int:
    match error:
        case ConfigError():
            return 2
        case KernelUnreachable():
            return 3
        case ChangeRolledBack():
            return 4
        case _:
            return 1


def _fail(error: Exception, text: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"error": text, "type": type(error).__name__}))
    print(f"tickerml: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
