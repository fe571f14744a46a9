"""
The catalog: every plugin there is on this machine, found without importing one of them.

    origin      where it lies                                     its id comes from
    package     the environment that the kernel itself runs in     the entry point
    overlay     HOME/plugins/site, the version in plugins.lock     the entry point
    folder      HOME/plugins/NAME.py, one single file              its own manifest
    module      a module that plugins.toml names                   plugins.toml

A plugin that is broken is in it, with its problem: no manifest or one that is wrong, an
API that this kernel does not have, a requirement that is not there, an id that two lay
claim to. Then neither of them runs, unless plugins.toml says which module is meant.

TICKERML_PLUGINS=a,b in the environment leaves out all plugins but these and our own;
empty, it leaves out all but our own.
"""

import hashlib
import importlib.util
import os
import tomllib
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

import msgspec

from . import lock_file, manifest
from .convert import suggest
from .errors import ConfigError
from .hookspecs import ENTRY_POINTS
from .lock_file import LockEntry
from .manifest import Manifest
from .requirements import normalized, unmet

ALLOWED_VARIABLE = "TICKERML_PLUGINS"
OURS = "tickerml"  # the distribution whose plugins are built in


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin; *problem* says why it cannot run, in the words a person is shown."""

    id: str
    manifest: Manifest | None = None
    problem: str = ""
    warnings: list[str] = []
    origin: str = "package"
    distribution: str = ""
    version: str = ""
    module: str = ""  # a dotted name, or the path of a single file
    paths: list[str] = []  # what a host that runs it puts in front of sys.path
    file: str = ""  # of the manifest
    brings: list[str] = []  # what lies in paths, each as "name==version"
    duplicates: list[str] = []  # where the others of this id lie

    @property
    def kind(self) -> str:
        """What runs in a host; "" when its manifest cannot be read."""
        return self.manifest.kind if self.manifest else ""

    @property
    def is_ours(self) -> bool:
        """Whether it comes with TickerML itself."""
        return self.distribution == OURS


class Catalog:
    """What find() has found."""

    def __init__(self, found: Mapping[str, list[Found]], problems: list[str]) -> None:
        self.problems = problems  # of plugins.lock, as a whole
        self._found = found
        self.plugins = {plugin: _one_of(claims) for plugin, claims in sorted(found.items())}

    def choose(self, plugin: str, module: str = "") -> Found:
        """
        Return what *plugin* is in a plugins.toml that names *module* for it, or none.

        One that is nowhere has a problem that says so.
        """
        if module:
            claims = [found for found in self._found.get(plugin, []) if found.module == module]
            return claims[0] if len(claims) == 1 else _named(plugin, module)
        if plugin in self.plugins:
            return self.plugins[plugin]
        reason = "no installed package offers this plugin"
        reason += suggest(plugin, self.plugins) or "; install it, or take it out of plugins.toml"
        return Found(id=plugin, problem="; ".join([reason, *self.problems]))


def find(home: Path | None = None, lock: Path | None = None) -> Catalog:
    """
    Return every plugin there is.

    Args:
        home: the home whose folder of single files and installed packages is looked at.
        lock: the plugins.lock that says which version of those is current.
    """
    importlib.invalidate_caches()  # a folder may have been filled a moment ago
    problems: list[str] = []
    found: dict[str, list[Found]] = {}
    for each in _all(home, lock, problems):
        found.setdefault(each.id, []).append(_allowed(each))
    return Catalog(found, problems)


def in_folder(folder: Path) -> list[Found]:
    """Return what the distributions in *folder* offer: a `pip install --target`, or an unpacked wheel."""
    importlib.invalidate_caches()
    return [
        found
        for distribution in distributions(path=[str(folder)])
        for found in _offered(distribution, "overlay", [str(folder)])
    ]


def in_project(project: Path) -> list[Found]:
    """Return what the pyproject.toml in *project* offers, run where it lies."""
    try:
        declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        offered, name = declared["entry-points"][ENTRY_POINTS], declared["name"]
        version = declared.get("version", "")
    except (OSError, KeyError, TypeError, ValueError):
        return []
    return [
        _in_place(plugin, LockEntry(distribution=name, version=version, path=str(project)))
        for plugin in offered
    ]


def in_file(path: Path) -> list[Found]:
    """Return what the single file *path* offers."""
    return list(_single_file(path))


def _all(home: Path | None, lock: Path | None, problems: list[str]) -> Iterator[Found]:
    names: set[str] = set()
    for distribution in distributions():
        try:
            offered = list(_offered(distribution, "package", []))
        except Exception as error:  # a half-removed package raises as it likes
            problems.append(f"the package {distribution} cannot be read: {type(error).__name__}: {error}")
            continue
        if not {each.distribution for each in offered} & names:  # the first on sys.path is imported
            yield from offered
        names |= {each.distribution for each in offered}
    if home is None:
        return
    try:
        locked = lock_file.read(lock) if lock else {}
    except ConfigError as error:
        locked = {}
        problems.append(str(error))
    for plugin, entry in locked.items():
        yield _locked(plugin, entry, home)
    for path in sorted((home / "plugins").glob("*.py")):
        yield from _single_file(path)


def _one_of(claims: list[Found]) -> Found:
    if len(claims) == 1:
        return claims[0]
    places = [f"{each.origin} {each.distribution or each.module} ({each.module})" for each in claims]
    return msgspec.structs.replace(
        claims[0],
        problem=f"{len(claims)} plugins have this id: {', '.join(places)}; uninstall all but one, or "
        f"say which with [plugin.{claims[0].id}] module",
        duplicates=places,
    )


def _allowed(found: Found) -> Found:
    names = os.environ.get(ALLOWED_VARIABLE)
    if found.is_ours or found.problem or names is None or found.id in names.split(","):
        return found
    reason = f"left out by the environment: {ALLOWED_VARIABLE} is {names!r}"
    return msgspec.structs.replace(found, problem=reason)


# --- The four places --------------------------------------------------------------------------------


def _offered(distribution: Distribution, origin: str, paths: list[str]) -> Iterator[Found]:
    """Yield what one installed distribution offers."""
    entries = [entry for entry in distribution.entry_points if entry.group == ENTRY_POINTS]
    if not entries:
        return
    name, version = normalized(distribution.name), distribution.version  # each reads all of its metadata
    for entry in entries:
        found = Found(
            id=entry.name,
            origin=origin,
            distribution=name,
            version=version,
            module=entry.value,
            paths=paths,
        )
        lacking = [] if name == OURS else unmet(distribution.requires or [], paths)
        if lacking:
            found = msgspec.structs.replace(
                found, problem=f"its package {name} needs what is not installed: {', '.join(lacking)}"
            )
        yield _with_manifest(found)


def _locked(plugin: str, entry: LockEntry, home: Path) -> Found:
    """Return the version of *plugin* that plugins.lock says is current."""
    if entry.path:
        return _in_place(plugin, entry)
    folder = lock_file.folder(home, entry)
    try:
        found = next(
            found
            for distribution in distributions(path=[str(folder)])
            for found in _offered(distribution, "overlay", [str(folder)])
            if found.id == plugin
        )
    except Exception as error:  # StopIteration among them: it is not there, or only half
        return Found(
            id=plugin,
            origin="overlay",
            distribution=normalized(entry.distribution),
            version=entry.version,
            problem=f"{folder} does not hold it{f' ({error})' if str(error) else ''}; "
            "`tickerml plugin sync` installs what plugins.lock names",
        )
    found = msgspec.structs.replace(found, brings=entry.requirements)
    if entry.manifest_sha256 and found.file and _sha256(found.file) != entry.manifest_sha256:
        return msgspec.structs.replace(
            found,
            problem=f"{found.file} is not the manifest that was installed; "
            "`tickerml plugin sync` restores it",
        )
    return found


def _in_place(plugin: str, entry: LockEntry) -> Found:
    """Return a plugin whose project is run where it lies, as `install -e` has it."""
    project = Path(entry.path)
    found = Found(
        id=plugin,
        origin="overlay",
        distribution=normalized(entry.distribution),
        version=entry.version,
        paths=[str(source) for source in (project / "src", project) if source.is_dir()],
    )
    try:
        declared = tomllib.loads((project / "pyproject.toml").read_text())
        module = declared["project"]["entry-points"][ENTRY_POINTS][plugin]
        requires = declared["project"].get("dependencies", [])
        lacking = unmet(requires, found.paths)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return msgspec.structs.replace(
            found,
            problem=f"{project}/pyproject.toml does not offer it; "
            f'it needs [project.entry-points."{ENTRY_POINTS}"] {plugin} = "MODULE"',
        )
    problem = f"it needs what is not installed: {', '.join(lacking)}" if lacking else ""
    return _with_manifest(msgspec.structs.replace(found, module=module, problem=problem))


def _single_file(path: Path) -> Iterator[Found]:
    try:
        tables = manifest.read(path)
    except ConfigError as error:
        yield Found(
            id=path.stem.replace("_", "-"),
            origin="folder",
            module=str(path),
            file=str(path),
            problem=str(error),
        )
        return
    for plugin in tables:
        yield _parsed(Found(id=plugin, origin="folder", module=str(path), file=str(path)), tables[plugin])


def _named(plugin: str, module: str) -> Found:
    """Return a plugin whose module plugins.toml names."""
    found = Found(id=plugin, origin="module", module=module)
    if module.endswith(".py"):
        path = Path(module)
        return next(
            (_allowed(each) for each in _single_file(path) if each.id == plugin or each.problem),
            msgspec.structs.replace(found, problem=f"{module}: its manifest has no [plugin.{plugin}]"),
        )
    return _allowed(_with_manifest(found))


# --- Its manifest -----------------------------------------------------------------------------------


def _with_manifest(found: Found) -> Found:
    """Return *found* with the manifest that lies nearest to its module, or with what is wrong with it."""
    try:
        folders = _folders(found.module.partition(":")[0], found.paths)
    except (ImportError, ValueError, OSError) as error:
        return _blame(found, f"its module {found.module} cannot be looked for: {error}")
    if not folders:
        return _blame(found, f"its module {found.module} is nowhere to be found")
    for folder in folders:
        path = folder / manifest.FILE_NAME
        if not path.exists():
            continue
        try:
            tables = manifest.read(path)
        except ConfigError as error:
            return _blame(msgspec.structs.replace(found, file=str(path)), str(error))
        if found.id in tables:
            return _parsed(msgspec.structs.replace(found, file=str(path)), tables[found.id])
    return _blame(found, f"no {manifest.FILE_NAME} with [plugin.{found.id}] lies beside {found.module}")


def _parsed(found: Found, table: object) -> Found:
    try:
        said, warnings = manifest.parse(found.id, table, found.file)
    except ConfigError as error:
        return _blame(found, str(error))
    found = msgspec.structs.replace(
        found, manifest=said, warnings=warnings, version=said.version or found.version or "0"
    )
    return (
        found
        if not said.module or found.origin == "module"
        else msgspec.structs.replace(found, module=said.module)
    )


def _blame(found: Found, problem: str) -> Found:
    """Return *found* with a *problem* added to those it has."""
    return msgspec.structs.replace(found, problem="; ".join(filter(None, [found.problem, problem])))


def _folders(module: str, paths: list[str]) -> list[Path]:
    """Return the folder of *module* and those above it up to its top package; imports none of them."""
    top, *rest = module.split(".")
    spec = PathFinder.find_spec(top, paths) or importlib.util.find_spec(top)
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        return []
    if not spec.submodule_search_locations:
        return [Path(spec.origin or "").parent] if not rest else []
    roots = [Path(place) for place in spec.submodule_search_locations]
    for root in roots:
        inner = root.joinpath(*rest)
        if inner.is_dir():
            return [inner, *inner.parents[: len(rest)]]
        if any(inner.parent.glob(f"{inner.name}.*")):
            return [inner.parent, *inner.parent.parents[: len(rest) - 1]]
    return []


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
