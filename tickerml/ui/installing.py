"""
Plugins come, change and go: what `tickerml plugin` and the console do with them.

Each deed is made within a `changes.turn`, says what it wants to a person before it does it
(`Asker.ask`), and either happens in full or leaves everything as it was.
"""

import hashlib
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tomlkit

from tickerml.kernel import ConfigError, KernelUnreachable, PackageError, catalog, lock_file
from tickerml.kernel.catalog import Catalog, Found
from tickerml.kernel.hookspecs import ENTRY_POINTS
from tickerml.kernel.lifecycle import Lifecycle
from tickerml.kernel.lock_file import LockEntry, LockRecord
from tickerml.kernel.manifest import Manifest
from tickerml.kernel.plans import Plan
from tickerml.kernel.requirements import normalized, satisfies

from . import changes, packages
from .changes import AT_ONCE, Pace, Turn
from .documents import Documents
from .packages import ANY, Sources

Answer = dict[str, Any]
_GONE = Pace(probation_s=0.0)  # there is no new version that could fail


class Dialog(NamedTuple):
    """How a deed talks to whoever wants it: ask raises PackageError for a no, tell shows how far it is."""

    ask: Callable[[str, list[str]], None]
    tell: Callable[[str], None] = lambda text: None


# --- Switching on and off ---------------------------------------------------------------------------


def enable(at: Turn, plugin: str, dialog: Dialog, *, profile: str = "", pace: Pace = AT_ONCE) -> Answer:
    """
    Add a plugin to a profile and enable it, at once where a kernel runs that profile.

    Raises: PackageError: it cannot run, and why. ConfigError: there is no such plugin or profile.
    """
    found = _find(at, plugin)
    if found.problem:
        raise PackageError(f"{plugin} cannot be enabled: {found.problem}")
    joined = "" if found.kind == "command" else profile or _profile_for(at, plugin)

    def edit(documents: Documents) -> None:
        documents.set_enabled(plugin, True)
        if joined:
            documents.join(joined, plugin)

    proposal, reason = changes.propose(at.home, at.config, edit, at.report), f"enable {plugin}"
    changes.check(proposal, reason)
    again = _down(at, plugin, proposal.plan)
    change = changes.carry_out(at, proposal, reason, pace=pace, reload=again, show=dialog.tell)
    return {"plugin": plugin, "enabled": True, **_told(change)}


def _down(at: Turn, plugin: str, plan: Plan | None) -> list[str]:
    """Return the host of a plugin that *plan* runs and the kernel does not: it failed, or keeps dying."""
    planned = [each for each in plan.plugins if each.id == plugin and each.will_run] if plan else []
    states = [row["state"] for row in at.report["plugins"] if row["id"] == plugin] if at.report else []
    is_down = not states or states[0] in (Lifecycle.FAILED, Lifecycle.QUARANTINED, Lifecycle.STOPPED)
    return [planned[0].host] if planned and is_down else []


def disable(at: Turn, plugin: str, dialog: Dialog, *, profile: str = "") -> Answer:
    """
    Disable a plugin, or take it out of one profile, at once where a kernel runs it.

    Raises: PackageError: another one needs it. ConfigError: there is no such plugin or profile.
    """
    _find(at, plugin)

    def edit(documents: Documents) -> None:
        if profile:
            documents.leave(profile, plugin)
        else:
            documents.set_enabled(plugin, False)

    change = changes.make(at, edit, f"disable {plugin}", pace=_GONE, show=dialog.tell)
    return {"plugin": plugin, "enabled": False, **_told(change)}


def reload(at: Turn, plugin: str, dialog: Dialog, *, pace: Pace = AT_ONCE) -> Answer:
    """
    Replace the host of a plugin by a fresh one, with the code and the options that are there now.

    Raises: PackageError: it does not run. KernelUnreachable: no kernel runs. ChangeRolledBack.
    """
    if at.report is None:
        raise KernelUnreachable(f"no kernel runs on {at.home}; start one with `tickerml run`")
    _find(at, plugin)
    proposal = changes.propose(at.home, at.config, lambda documents: None, at.report)
    planned = [each for each in proposal.plan.plugins if each.id == plugin] if proposal.plan else []
    if not planned or not planned[0].will_run:
        why = (
            planned[0].blocked or "it is disabled" if planned else f"profile {at.report['profile']} has none"
        )
        raise PackageError(f"{plugin} does not run, so it cannot be reloaded: {why}")
    change = changes.carry_out(
        at, proposal, f"reload {plugin}", pace=pace, reload=[planned[0].host], show=dialog.tell
    )
    return {"plugin": plugin, "reloaded": True, **_told(change)}


def configure(at: Turn, plugin: str, options: Answer, dialog: Dialog, *, pace: Pace = AT_ONCE) -> Answer:
    """
    Lay *options* over those of a plugin, None for the default, at once where a kernel runs it.

    Raises: ConfigError: there is no such plugin. ChangeRolledBack: it does not take them, and why.
    """
    _find(at, plugin)
    reason = f"set {', '.join(options)} of {plugin}"
    change = changes.make(
        at, lambda documents: documents.set_options(plugin, options), reason, pace=pace, show=dialog.tell
    )
    return {"plugin": plugin, "options": options, **_told(change)}


def _find(at: Turn, plugin: str) -> Found:
    table = Documents(at.config).data.get("plugin", {}).get(plugin)
    there = changes.catalog_of(at.home, at.config)
    if table is None and plugin not in there.plugins:
        raise ConfigError(f"there is no plugin {plugin!r}; see `tickerml plugin list`")
    return there.choose(plugin, (table or {}).get("module", ""))


def _profile_for(at: Turn, plugin: str) -> str:
    """Return the profile that a plugin joins where none is named; "" when it is in one."""
    if at.report:
        return str(at.report["profile"])
    documents = Documents(at.config)
    if documents.profiles_of(plugin):
        return ""
    profiles = list(documents.data.get("profile", {}))
    if len(profiles) != 1:
        raise ConfigError(
            f"{plugin} is in no profile; name one with --profile: {', '.join(profiles) or 'none'}"
        )
    return str(profiles[0])


def _told(change: Answer | None) -> Answer:
    """Return what there is to say of how a kernel made a change."""
    if change is None:
        return {"live": False}
    facts = {"live": True, "change": change["number"], "gap_ms": change.get("gap_ms")}
    return facts | ({"shadow": change["shadow"]} if change.get("shadow") else {})


# --- Installing -------------------------------------------------------------------------------------


def install(at: Turn, spec: str, dialog: Dialog, *, sources: Sources = ANY, in_place: bool = False) -> Answer:
    """
    Install what *spec* names, a package of one or more plugins, and leave them disabled.

    Args:
        in_place: use the project in the folder *spec* where it lies, whatever is written there later.
    Raises: PackageError: it cannot be installed beside what is here, is no plugin, or was not wanted.
    """
    record = _project(spec) if in_place else packages.resolve(spec, sources, dialog.tell)
    was = Documents(at.config).locked().items()
    if there := [plugin for plugin, entry in was if entry.distribution == record.distribution]:
        raise PackageError(
            f"{record.distribution} is installed already; see `tickerml plugin upgrade {there[0]}`, "
            f"or first `tickerml plugin uninstall {there[0]}`"
        )
    if in_place:
        return _enter(at, record, _examine(at, record, record), dialog)
    with packages.fetched(record, at.home, sources, dialog.tell) as whole:
        return _enter(at, whole, _examine(at, whole, packages.unfinished(whole)), dialog)


def _enter(at: Turn, record: LockRecord, found: dict[str, Found], dialog: Dialog) -> Answer:
    for each in found.values():
        dialog.ask(f"Install {each.id} {record.version}?", permissions(each))
    records = _records(record, found)
    if not record.path:
        packages.keep(record, at.home)

    def edit(documents: Documents) -> None:
        for plugin, each in found.items():
            documents.set_current(plugin, records[plugin])
            if documents.names(plugin):
                documents.set_enabled(plugin, False)
            else:
                documents.append(_block(each, record))

    changes.make(at, edit, f"install {record.distribution}", pace=_GONE)
    return {"installed": sorted(found), "distribution": record.distribution, "version": record.version}


def _project(spec: str) -> LockRecord:
    """Return the record of a project that is used where it lies."""
    folder = Path(spec).expanduser().resolve()
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        name, version = str(project["name"]), str(project.get("version", "0"))
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise PackageError(
            f"cannot use {spec} in place: expected a folder whose pyproject.toml has a [project], "
            f"was {error or 'something else'}"
        ) from None
    return LockRecord(distribution=normalized(name), version=version, spec=str(folder), path=str(folder))


def _examine(at: Turn, record: LockRecord, place: LockRecord) -> dict[str, Found]:
    """
    Return the plugins that *record* brings, by id, read from *place*; none of them is imported.

    Raises: PackageError: there is none, one is broken, or one has the id of another.
    """
    offered = _offered_in_place(record) if record.path else packages.offers(place, at.home)
    if not offered:
        raise PackageError(
            f"{record.distribution} {record.version} is no plugin: it has no entry point in {ENTRY_POINTS!r}"
        )
    locked = Documents(at.config).locked()
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as file:
        tables = {plugin: msgspec.to_builtins(place) for plugin in offered}
        file.write(tomlkit.dumps({"format": lock_file.FORMAT, "plugin": tables}))
        file.flush()
        there = catalog.find(at.home, Path(file.name))
    found = {plugin: there.plugins[plugin] for plugin in offered}
    for plugin, each in found.items():
        other = locked.get(plugin)
        if other and other.distribution != record.distribution:
            raise PackageError(
                f"cannot install {record.spec}: {other.distribution} has a plugin {plugin} already"
            )
        if each.problem:
            text = each.problem.replace(str(lock_file.folder(at.home, place)), record.distribution)
            raise PackageError(f"cannot install {record.spec}: {plugin}: {text}")
    return found


def _offered_in_place(record: LockRecord) -> list[str]:
    project = tomllib.loads((Path(record.path) / "pyproject.toml").read_text())["project"]
    return sorted(project.get("entry-points", {}).get(ENTRY_POINTS, {}))


def _records(record: LockRecord, found: dict[str, Found]) -> dict[str, LockRecord]:
    """Return what plugins.lock will say of each plugin; its files must still lie where they were found."""
    if record.path:  # its manifest may be written anew at any time
        return dict.fromkeys(found, record)
    return {
        plugin: msgspec.structs.replace(
            record, manifest_sha256=hashlib.sha256(Path(each.file).read_bytes()).hexdigest()
        )
        for plugin, each in found.items()
    }


def permissions(found: Found) -> list[str]:
    """Return what a plugin asks for, a line each, as a person is shown it."""
    said = found.manifest or Manifest(kinds=["command"], api="")
    asked = [
        ("publishes", said.publishes),
        ("subscribes", said.subscribes),
        ("secrets", said.secrets),
        ("network", said.network),
        ("needs plugins", said.requires),
        ("adds commands", said.commands),
    ]
    lines = [f"{found.id} {found.version}, {' and '.join(said.kinds)}: {said.summary}".rstrip(": ")]
    lines += [f"  {what}: {', '.join(names)}" for what, names in asked if names]
    lines += ["  brings compiled code of its own"] if said.native else []
    return [*lines, "  It runs in a process of its own, as you: this is no sandbox. Install what you trust."]


def _block(found: Found, record: LockRecord) -> str:
    """Return what plugins.toml says of a plugin that has just come."""
    said = found.manifest or Manifest(kinds=["command"], api="")
    lines = [
        f"# {record.distribution} {record.version}: {said.summary}".rstrip(": "),
        f"[plugin.{found.id}]",
        "enabled = false",
        'host = "own"',
        f"# publishes = {json.dumps(said.publishes)} # all that it asks for; name fewer to allow fewer",
        *([f"secrets = {json.dumps(said.secrets)}"] if said.secrets else []),
        *([f"# network = {json.dumps(said.network)} # declared, not enforced"] if said.network else []),
    ]
    return "\n".join(lines)


# --- Upgrading and going back -----------------------------------------------------------------------


def upgrade(
    at: Turn,
    plugin: str,
    dialog: Dialog,
    *,
    to: str = "",
    origin: str = "",
    pace: Pace = AT_ONCE,
    sources: Sources = ANY,
) -> Answer:
    """
    Go over to another version of a plugin, and of those that come with it, while everything runs on.

    Args:
        to: the version; by default the newest that plugins.toml and what is installed allow.
        origin: where from, when not from where it came: a name, a folder, a wheel or a git URL.
    Raises: PackageError: there is no such version, or it must not run. ChangeRolledBack: it did not do.
    """
    documents = Documents(at.config)
    entry = _installed(documents, plugin)
    spec = origin or _newer(entry, to, _wanted(documents, plugin))
    record = packages.resolve(spec, sources, dialog.tell)
    if record.distribution != entry.distribution:
        raise PackageError(
            f"cannot upgrade {plugin}: it comes with {entry.distribution}, not {record.distribution}"
        )
    if record.version == entry.version and not entry.path:
        if packages.is_by_name(spec):
            return {"plugin": plugin, "upgraded": False, "version": entry.version, "live": False}
        raise PackageError(
            f"cannot upgrade {plugin}: {spec} is version {record.version}, which is installed already; "
            "give it another version"
        )
    before = documents.records()
    ids = documents.together(plugin)
    with packages.fetched(record, at.home, sources, dialog.tell) as whole:
        found = _examine(at, whole, packages.unfinished(whole))
        _compare(at, documents, found, ids, dialog)
        records = _records(whole, found)
        packages.keep(whole, at.home)

        def edit(edited: Documents) -> None:
            for each in found.values():
                edited.set_current(each.id, records[each.id])
                if not edited.names(each.id):
                    edited.append(_block(each, whole))

        change = changes.make(
            at,
            edit,
            f"upgrade {plugin} from {entry.version} to {record.version}",
            pace=pace,
            show=dialog.tell,
        )
    _remove_unused(at, before)
    return {
        "plugin": plugin,
        "upgraded": True,
        "from": entry.version,
        "version": record.version,
        **_told(change),
    }


def _installed(documents: Documents, plugin: str) -> LockEntry:
    locked = documents.locked()
    if plugin not in locked:
        raise PackageError(
            f"{plugin} was not installed by `tickerml plugin install`, so there is nothing to change"
        )
    return locked[plugin]


def _wanted(documents: Documents, plugin: str) -> str:
    return str(documents.data.get("plugin", {}).get(plugin, {}).get("version", ""))


def _newer(entry: LockEntry, to: str, wanted: str) -> str:
    """Return what to ask pip for."""
    if entry.path:
        raise PackageError(
            f"{entry.distribution} is used where it lies, in {entry.path}: `tickerml plugin reload` takes "
            "what is written there; name a package with --from"
        )
    if not packages.is_by_name(entry.spec):
        if to:
            raise PackageError(
                f"{entry.distribution} came from {entry.spec}, where there is one version; "
                "name another with --from"
            )
        return entry.spec
    if to and not satisfies(to, wanted):
        raise PackageError(
            f"plugins.toml wants version {wanted}, asked for is {to}; change plugins.toml first"
        )
    return packages.name_in(entry.spec) + (f"=={to}" if to else wanted)


def _compare(
    at: Turn, documents: Documents, found: dict[str, Found], ids: Iterable[str], dialog: Dialog
) -> None:
    """
    Ask about what the new version of each plugin may do that the one before may not.

    Raises: PackageError: a no, or a plugin is gone from the new version, or plugins.toml does not want it.
    """
    there = changes.catalog_of(at.home, at.config)
    if gone := [plugin for plugin in ids if plugin not in found]:
        raise PackageError(f"the new version no longer brings {gone[0]}; uninstall that first")
    for plugin, each in found.items():
        if not satisfies(each.version, wanted := _wanted(documents, plugin)):
            raise PackageError(f"plugins.toml wants version {wanted} of {plugin}, this is {each.version}")
        old = permissions(there.choose(plugin))[1:]
        if more := [line for line in permissions(each)[1:] if line not in old]:
            dialog.ask(f"{plugin} {each.version} asks for more than before. Go on?", more)


def rollback(
    at: Turn, plugin: str, dialog: Dialog, *, pace: Pace = AT_ONCE, sources: Sources = ANY
) -> Answer:
    """
    Go back to the version of a plugin that ran before the present one, by the same way.

    Raises: PackageError: there is none. ChangeRolledBack.
    """
    documents = Documents(at.config)
    entry = _installed(documents, plugin)
    if not entry.history:
        raise PackageError(
            f"{plugin} {entry.version} is the only version there was; there is none to go back to"
        )
    before, target = documents.records(), entry.history[0]
    _restore(at, target, sources, dialog)

    def edit(edited: Documents) -> None:
        for each in documents.together(plugin):
            history = documents.locked()[each].history
            if history and history[0].version == target.version:
                edited.step_back(each)
            else:  # it came with the version that is left
                edited.forget(each)
                edited.comment_out(each)

    reason = f"roll {plugin} back from {entry.version} to {target.version}"
    change = changes.make(at, edit, reason, pace=pace, show=dialog.tell)
    _remove_unused(at, before)
    return {"plugin": plugin, "from": entry.version, "version": target.version, **_told(change)}


def _restore(at: Turn, record: LockRecord, sources: Sources, dialog: Dialog) -> bool:
    """Have the folder of *record* hold what it should; returns whether anything had to be done."""
    if packages.is_whole(record, at.home):
        return False
    if record.path:
        raise PackageError(f"{record.distribution} was used in {record.path}, which is not there any more")
    with packages.fetched(record, at.home, sources, dialog.tell) as whole:
        packages.keep(whole, at.home)
    return True


def _remove_unused(at: Turn, before: Iterable[LockRecord]) -> None:
    """Remove the folders of the versions that plugins.lock has forgotten."""
    kept = {(record.distribution, record.version) for record in Documents(at.config).records()}
    for record in before:
        if not record.path and (record.distribution, record.version) not in kept:
            packages.remove(at.home, record)


# --- Going ------------------------------------------------------------------------------------------


def uninstall(at: Turn, plugin: str, dialog: Dialog) -> Answer:
    """
    Remove a plugin, those that come with it, and every version of them; its options stay as comments.

    Raises: PackageError: another plugin needs it, it was not installed, or a no.
    """
    documents = Documents(at.config)
    if plugin not in documents.locked():
        raise PackageError(_why_it_stays(_find(at, plugin)))
    ids, before = documents.together(plugin), documents.records()
    there = changes.catalog_of(at.home, at.config)
    if needed := _needed_by(there, documents, ids):
        raise PackageError(f"{needed[0]} needs {plugin}; uninstall or disable that first")
    rows = at.report["plugins"] if at.report else []
    running = [row["id"] for row in rows if row["id"] in ids and row["state"] == "active"]
    dialog.ask(
        f"Uninstall {', '.join(ids)}?",
        [f"{each} runs now, and will be stopped." for each in running],
    )

    def edit(edited: Documents) -> None:
        for each in ids:
            edited.forget(each)
            edited.comment_out(each)

    change = changes.make(at, edit, f"uninstall {plugin}", pace=_GONE, show=dialog.tell)
    _remove_unused(at, before)
    return {"uninstalled": ids, **_told(change)}


def _why_it_stays(found: Found) -> str:
    if found.is_ours:
        return f"{found.id} is part of TickerML; `tickerml plugin disable {found.id}` switches it off"
    if found.origin == "folder":
        return f"{found.id} is a file of yours: delete {found.file}"
    return (
        f"{found.id} was not installed by `tickerml plugin install`; remove it the way it came, or "
        f"`tickerml plugin disable {found.id}`"
    )


def _needed_by(there: Catalog, documents: Documents, ids: list[str]) -> list[str]:
    tables = documents.data.get("plugin", {})
    return [
        each.id
        for each in there.plugins.values()
        if each.id not in ids
        and each.manifest
        and {*each.manifest.requires} & {*ids}
        and tables.get(each.id, {}).get("enabled", each.id in tables)
    ]


# --- A fresh machine --------------------------------------------------------------------------------


def sync(at: Turn, dialog: Dialog, *, is_frozen: bool = False, sources: Sources = ANY) -> Answer:
    """
    Make what is installed equal to plugins.lock, to the byte.

    Args:
        is_frozen: refuse where plugins.toml and plugins.lock do not agree.
    Raises: PackageError: they do not, or a package cannot be had as it was.
    """
    documents = Documents(at.config)
    differences = _differences(at, documents)
    if is_frozen and differences:
        raise PackageError(f"plugins.toml and plugins.lock disagree: {'; '.join(differences)}")
    current = {(entry.distribution, entry.version): entry for entry in documents.locked().values()}
    restored = [
        f"{entry.distribution} {entry.version}"
        for entry in current.values()
        if _restore(at, entry, sources, dialog)
    ]
    return {"restored": restored, "kept": len(current) - len(restored), "differences": differences}


def _differences(at: Turn, documents: Documents) -> list[str]:
    tables, locked = documents.data.get("plugin", {}), documents.locked()
    there = changes.catalog_of(at.home, at.config)
    lacking = [
        f"[plugin.{plugin}] is neither installed nor in plugins.lock"
        for plugin, table in tables.items()
        if plugin not in locked and plugin not in there.plugins and not table.get("module")
    ]
    unnamed = [
        f"{plugin} is locked, and has no [plugin.{plugin}]" for plugin in locked if plugin not in tables
    ]
    other = [
        f"[plugin.{plugin}] wants version {wanted}, locked is {entry.version}"
        for plugin, entry in locked.items()
        if not satisfies(entry.version, wanted := _wanted(documents, plugin))
    ]
    return lacking + unnamed + other
