"""
`tickerml plugin`: find, install, run, swap, take back and remove plugins.

No command imports a plugin into this process, and all but `reload` work without a kernel.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 no kernel answers where
one is needed; 4 the kernel tried the change and took it back, and everything is as it was.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from tickerml.kernel import ConfigError, KernelUnreachable, config, lock_file
from tickerml.kernel.catalog import Catalog
from tickerml.kernel.client import Client
from tickerml.kernel.lock_file import LockEntry

from . import changes, documents, installing, inventory
from .changes import PROBATION_S, Pace
from .costs import Costs
from .installing import Dialog
from .packages import Sources
from .terminal import (
    DEFAULT_HOME,
    AsJson,
    ConfigPath,
    Home,
    ask,
    parse_seconds,
    print_report,
    print_table,
    progress,
)

app = typer.Typer(help="Find, install, run, swap, take back and remove plugins.", no_args_is_help=True)

LIST_COLUMNS = ["id", "kind", "version", "host", "state", "profiles", "reason"]
TOP_COLUMNS = ["host", "state", "pid", "cpu", "rss_mb", "messages_per_s", "lag_s", "restarts", "plugins"]

_SHOWN_OF_A_MANIFEST = (
    "summary",
    "publishes",
    "subscribes",
    "network",
    "secrets",
    "commands",
    "native",
    "requires",
    "reload",
)

Yes = Annotated[bool, typer.Option("--yes", help="Agree to everything that would be asked.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use no index, only what --find-links names.")]
FindLinks = Annotated[
    list[str] | None,
    typer.Option("--find-links", help="A folder or page with packages, as pip has it; may be repeated."),
]
InProfile = Annotated[
    str,
    typer.Option("--profile", help="Which profile.", show_default="the running kernel's, or the only one"),
]
Shadow = Annotated[str, typer.Option(help="First run it beside the old one for this long and compare: 10m.")]
Probation = Annotated[
    str, typer.Option(help="How long it may still be taken back.", show_default=f"{PROBATION_S:g}s")
]
NoProbation = Annotated[bool, typer.Option("--no-probation", help="Make it permanent at once.")]


@app.callback()
def plugin() -> None:
    """Find, install, run, swap, take back and remove plugins."""


def _pace(shadow: str, probation: str, no_probation: bool) -> Pace:
    wait_s = 0.0 if no_probation else parse_seconds(probation, "--probation")
    return Pace(parse_seconds(shadow, "--shadow"), wait_s)


@contextmanager
def _changing(
    home: Path, config_path: Path | None, label: str, *, is_yes: bool = False, as_json: bool = False
) -> Iterator[tuple[changes.Turn, Dialog]]:
    """Give the turn to change plugins, and a dialog with whoever is at the terminal."""
    with changes.turn(home.expanduser(), config_path) as at, progress(label, as_json) as update:
        yield at, Dialog(lambda question, lines: ask(question, lines, is_yes=is_yes), update)


def _look(home: Path, given: Path | None) -> tuple[config.Config, Catalog, dict[str, LockEntry], Any]:
    """Return plugins.toml, the catalog, plugins.lock and the status of the kernel that runs with them."""
    home, report = home.expanduser(), None
    with suppress(KernelUnreachable):
        report = changes.running(home)
    path = changes.find_config(home, given, None if given else report)
    loaded = config.load(path)
    if report and Path(report.get("config", "")) != path.resolve():
        report = None
    return loaded, changes.catalog_of(home, path), lock_file.read(documents.lock_beside(path)), report


# --- Looking ----------------------------------------------------------------------------------------


@app.command("list")
def list_plugins(
    profile: Annotated[str, typer.Option(help="Only this profile's.")] = "",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    List every plugin that is installed or named in plugins.toml; one that is broken with the reason.

    Works with the kernel off; with it on, states are the kernel's.
    """
    found, there, locked, report = _look(home, config_path)
    if profile:
        config.plan(found, profile, catalog=there)
    rows = inventory.rows(found, there, locked, report)
    rows = [row for row in rows if not profile or profile in row["profiles"]]
    if as_json:
        return print_report({"plugins": rows, "problems": there.problems}, True)
    print_table(rows, LIST_COLUMNS)
    for problem in there.problems:
        typer.echo(f"tickerml: {problem}", err=True)


@app.command("info")
def plugin_info(
    plugin: str, home: Home = DEFAULT_HOME, config_path: ConfigPath = None, as_json: AsJson = False
) -> None:
    """
    Show a plugin's manifest, permissions, options and files, and what is wrong with it.

    It is loaded in a process of its own; exit 1 when it cannot be.
    """
    report = inventory.info(plugin, *_look(home, config_path))
    if as_json:
        print_report(report, True)
    else:
        _show_info(report)
    if report["error"]:
        raise typer.Exit(1)


def _show_info(report: dict[str, Any]) -> None:
    facts = {key: value for key, value in report.items() if key not in ("manifest", "configured", "options")}
    said = report["manifest"] or {}
    files = facts.pop("files")
    _print(facts | {key: said[key] for key in _SHOWN_OF_A_MANIFEST if said.get(key)} | files, False)
    if report["options"]:
        typer.echo()
        rows = [
            {"option": name, "default": json.dumps(schema.get("default")), "": schema.get("description", "")}
            for name, schema in report["options"].items()
        ]
        print_table(rows, ["option", "default", ""])


@app.command("search")
def search_plugins(
    text: Annotated[
        str, typer.Argument(help="Words of an id, a kind or a summary; none is everything.")
    ] = "",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Search the manifests that are here, and the indexes that plugins.toml names.

    An index is a file or a URL: `index = ["https://example.org/plugins.json"]`, a JSON list of
    {"id", "kinds", "summary", "spec"}. No public registry is searched.
    """
    found, there, _, _ = _look(home, config_path)
    rows, problems = inventory.search(text, found, there)
    if as_json:
        return print_report({"plugins": rows, "problems": problems}, True)
    print_table(rows, ["id", "kinds", "spec", "source", "summary"])
    for problem in problems:
        typer.echo(f"tickerml: {problem}", err=True)


@app.command("doctor")
def plugin_doctor(
    plugin: Annotated[str, typer.Argument(help="Only this one.", show_default="all")] = "",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Load each plugin in a throwaway process and name those that are broken; exit 1 when one is."""
    found, there, locked, _ = _look(home, config_path)
    names = sorted({*found.plugins, *there.plugins, *locked})
    if plugin and plugin not in names:
        raise ConfigError(f"there is no plugin {plugin!r}; see `tickerml plugin list`")
    checks = []
    with progress("doctor", as_json) as update:
        for name in [plugin] if plugin else names:
            update(f"loading {name}")
            entry = found.plugins.get(name)
            is_ok, said = inventory.load_apart(there.choose(name, entry.module if entry else ""))
            checks.append({"plugin": name, "ok": is_ok, "detail": "loads" if is_ok else said["error"]})
    is_well = all(check["ok"] for check in checks)
    if as_json:
        print_report({"ok": is_well, "plugins": checks, "problems": there.problems}, True)
    else:
        for check in checks:
            typer.echo(f"{'ok   ' if check['ok'] else 'WRONG'}  {check['plugin']:<24} {check['detail']}")
    if not is_well:
        raise typer.Exit(1)


@app.command("logs")
def plugin_logs(
    plugin: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what a plugin has logged, from the log of its host.

    With --follow and --json each line is printed as it was written, one JSON object a line.
    """
    found, _, _, report = _look(home, config_path)
    host, is_alone = inventory.host_of(plugin, found, report)
    home = home.expanduser()
    past = inventory.log_lines(home, plugin, host, is_alone=is_alone)[-lines or None :] if lines else []
    if as_json and not follow:
        return print_report({"plugin": plugin, "host": host, "lines": past}, True)
    show: Callable[[str], str] = str if as_json else inventory.show_line
    for line in past:
        typer.echo(show(line))
    with suppress(KeyboardInterrupt):
        for line in inventory.follow_log(home, plugin, host, is_alone=is_alone) if follow else ():
            typer.echo(show(line))


@app.command("top")
def plugin_top(
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what every host and the plugins in it cost, again and again; once with --json."""
    client, costs = Client(home.expanduser()), Costs()
    try:
        costs.look(client.status())
        rows: list[dict[str, Any]] = []
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(interval)
                report = client.status()
                costs.look(report)
                rows = inventory.cost_rows(report, costs)
                if as_json or once:
                    break
                typer.echo("\x1b[H\x1b[J", nl=False)
                print_table(rows, TOP_COLUMNS)
    finally:
        client.close()
    if as_json:
        print_report({"hosts": rows}, True)
    elif once:
        print_table(rows, TOP_COLUMNS)


# --- Installing and removing ------------------------------------------------------------------------


@app.command("install")
def install_plugin(
    specs: Annotated[
        list[str] | None, typer.Argument(help="A name, a folder, a wheel or a git URL.", show_default=False)
    ] = None,
    editable: Annotated[
        list[Path] | None,
        typer.Option(
            "--editable", "-e", help="Use the project in this folder where it lies; may be repeated."
        ),
    ] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Enable it, too.")] = False,
    profile: InProfile = "",
    probation: Probation = f"{PROBATION_S:g}s",
    no_probation: NoProbation = False,
    yes: Yes = False,
    offline: Offline = False,
    find_links: FindLinks = None,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Install a plugin into a folder of its own, after showing what it asks for; it is left disabled.

    Nothing that is installed here is changed: a plugin that needs another version of it is refused.

    tickerml plugin install tickerml-strategy-demo
    tickerml plugin install ./tickerml-strategy-demo --enable --profile demo
    tickerml plugin install git+https://example.org/plugin.git --yes
    """
    wanted = [(spec, False) for spec in specs or ()] + [(str(path), True) for path in editable or ()]
    if not wanted:
        raise ConfigError("what is to be installed? Name a package, a folder, a wheel or a git URL")
    answers, pace = [], _pace("0", probation, no_probation)
    with _changing(home, config_path, "install", is_yes=yes, as_json=as_json) as (at, dialog):
        if profile and profile not in config.load(at.config).profiles:
            raise ConfigError(f"{at.config}: there is no profile {profile!r}")
        for spec, in_place in wanted:
            sources = Sources(offline, tuple(find_links or ()))
            answer = installing.install(at, spec, dialog, sources=sources, in_place=in_place)
            if enable:
                for each in answer["installed"]:
                    answer |= {"enabled": installing.enable(at, each, dialog, profile=profile, pace=pace)}
            answers.append(answer)
    _print(answers[0] if len(answers) == 1 else {"packages": answers}, as_json)


@app.command("uninstall")
def uninstall_plugin(
    plugin: str,
    yes: Yes = False,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Stop a plugin and remove it with every version of it; its options stay in plugins.toml as comments.

    Refused while another enabled plugin requires it.
    """
    with _changing(home, config_path, "uninstall", is_yes=yes, as_json=as_json) as (at, dialog):
        answer = installing.uninstall(at, plugin, dialog)
    _print(answer, as_json)


@app.command("sync")
def sync_plugins(
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Refuse when plugins.toml and plugins.lock disagree.")
    ] = False,
    offline: Offline = False,
    find_links: FindLinks = None,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Make what is installed equal to plugins.lock: on a fresh machine, or when a folder was damaged.

    Each package is fetched in exactly the locked version, and its files must have the locked sha256.
    """
    with _changing(home, config_path, "sync", as_json=as_json) as (at, dialog):
        sources = Sources(offline, tuple(find_links or ()))
        answer = installing.sync(at, dialog, is_frozen=frozen, sources=sources)
    _print(answer, as_json)


# --- Changing what runs -----------------------------------------------------------------------------


@app.command("enable")
def enable_plugin(
    plugin: str,
    profile: InProfile = "",
    probation: Probation = f"{PROBATION_S:g}s",
    no_probation: NoProbation = False,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Add a plugin to a profile and enable it in plugins.toml, and at once where a kernel runs.

    One that has failed, or whose process kept dying, is started again.
    """
    pace = _pace("0", probation, no_probation)
    with _changing(home, config_path, "enable", as_json=as_json) as (at, dialog):
        answer = installing.enable(at, plugin, dialog, profile=profile, pace=pace)
    _print(answer, as_json)


@app.command("disable")
def disable_plugin(
    plugin: str,
    profile: Annotated[str, typer.Option(help="Only take it out of this profile.")] = "",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Disable a plugin in plugins.toml, and now where a kernel runs: it finishes what it has and ends."""
    with _changing(home, config_path, "disable", as_json=as_json) as (at, dialog):
        answer = installing.disable(at, plugin, dialog, profile=profile)
    _print(answer, as_json)


@app.command("reload")
def reload_plugin(
    plugin: str,
    shadow: Shadow = "0",
    probation: Probation = f"{PROBATION_S:g}s",
    no_probation: NoProbation = False,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Swap a plugin for itself, with the options and the code that are there now, while everything runs on.

    What shares its host is swapped with it. Exit 4: it did not do, and what ran before runs on.
    """
    pace = _pace(shadow, probation, no_probation)
    with _changing(home, config_path, "reload", as_json=as_json) as (at, dialog):
        answer = installing.reload(at, plugin, dialog, pace=pace)
    _print(answer, as_json)


@app.command("upgrade")
def upgrade_plugin(
    plugin: str,
    to: Annotated[str, typer.Option(help="The version.", show_default="the newest that fits")] = "",
    origin: Annotated[
        str, typer.Option("--from", help="From elsewhere: a name, a folder, a wheel or a git URL.")
    ] = "",
    shadow: Shadow = "0",
    probation: Probation = f"{PROBATION_S:g}s",
    no_probation: NoProbation = False,
    yes: Yes = False,
    offline: Offline = False,
    find_links: FindLinks = None,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Go over to another version while everything runs on; the one before stays, to go back to.

    With --shadow the new version first runs beside the old on live input, and how their outputs differ
    is shown. Exit 4: it did not do, and what ran before runs on.

    tickerml plugin upgrade strategy-demo --shadow 10m
    tickerml plugin upgrade strategy-demo --from ./tickerml-strategy-demo
    """
    pace = _pace(shadow, probation, no_probation)
    with _changing(home, config_path, "upgrade", is_yes=yes, as_json=as_json) as (at, dialog):
        sources = Sources(offline, tuple(find_links or ()))
        answer = installing.upgrade(at, plugin, dialog, to=to, origin=origin, pace=pace, sources=sources)
    _print(answer, as_json)


@app.command("rollback")
def rollback_plugin(
    plugin: str,
    shadow: Shadow = "0",
    probation: Probation = f"{PROBATION_S:g}s",
    no_probation: NoProbation = False,
    offline: Offline = False,
    find_links: FindLinks = None,
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the version that ran before, by the same way as an upgrade."""
    pace = _pace(shadow, probation, no_probation)
    with _changing(home, config_path, "rollback", as_json=as_json) as (at, dialog):
        sources = Sources(offline, tuple(find_links or ()))
        answer = installing.rollback(at, plugin, dialog, pace=pace, sources=sources)
    _print(answer, as_json)


def _print(answer: dict[str, Any], as_json: bool) -> None:
    shadow = answer.get("shadow")
    if not as_json and shadow:
        answer = answer | {"shadow": changes.describe_shadow(shadow)}
    if not as_json:
        answer = {
            key: ", ".join(value) if isinstance(value, list) else value for key, value in answer.items()
        }
    print_report(answer, as_json)
    if not as_json and shadow:
        for example in shadow.get("examples", []):
            typer.echo(f"  {example}")


# --- For authors ------------------------------------------------------------------------------------


@app.command("check")
def check_plugin(
    target: Annotated[
        str, typer.Argument(help="A folder, a file, a wheel, or the id of an installed plugin.")
    ],
    tier: Annotated[
        str, typer.Option(help="How far: loads, conforms, swappable, deterministic or edge.")
    ] = "edge",
    home: Home = DEFAULT_HOME,
    config_path: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """
    Try whether a plugin keeps every promise that its kind makes; exit 1 when one is broken.

    tickerml plugin check ./tickerml-strategy-demo --tier conforms
    """
    from tickerml.testing import check  # no other command should wait for it

    lock = None
    with suppress(ConfigError):  # a folder can be checked anywhere
        lock = documents.lock_beside(changes.find_config(home.expanduser(), config_path))
    report = check.run(target, tier, home=home.expanduser(), lock=lock)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        typer.echo(check.show(report))
    if not report["ok"]:
        raise typer.Exit(1)


@app.command("new")
def new_plugin(
    kind: Annotated[
        str, typer.Argument(help="exchange, strategy, risk_rule, ...: see docs/plugin-authors.md")
    ],
    name: Annotated[str, typer.Argument(help="Its name, without the kind: demo")],
    into: Annotated[Path, typer.Option(help="The folder to make it in.", show_default="here")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """
    Write a package with a new plugin, its options, its manifest and its tests, which passes its checks.

    tickerml plugin new strategy demo
    """
    from tickerml.testing import scaffold  # no other command should wait for it

    paths = [str(path) for path in scaffold.create(kind, name, into)]
    if as_json:
        return print_report({"created": paths}, True)
    for path in paths:
        typer.echo(path)
