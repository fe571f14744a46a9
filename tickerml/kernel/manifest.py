"""
The manifest: what a plugin says of itself without being imported.

    format = 1
    [plugin.strategy-demo]
    kinds = ["strategy"]
    publishes = ["SubmitOrder"]

It stands in a file `tickerml-plugin.toml` in the plugin's package, one table a plugin, or,
for a plugin that is one single file, in a block of comments in that file:

    # /// tickerml-plugin
    # format = 1
    # [plugin.strategy-demo]
    # kinds = ["strategy"]
    # ///

What it says binds: a plugin is loaded only when its spec agrees, and it may publish only
what is named here. A key that nobody knows is an error to `tickerml plugin check`; when
running it is a warning, so that a manifest can be written for two versions of the API.
"""

import functools
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from . import messages as m
from .convert import convert, read_toml, suggest
from .errors import ConfigError
from .hookspecs import API_VERSION, SHAPES
from .requirements import is_range, satisfies

FILE_NAME = "tickerml-plugin.toml"
FORMAT = 1
COMMAND = "command"
TIERS = ("", "loads", "conforms", "swappable", "deterministic", "edge")
_BLOCK = re.compile(r"(?m)^# /// tickerml-plugin$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_MESSAGES = frozenset(cls.__name__ for cls in m.message_types())

Words = list[str]


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it takes to run well: [plugin.ID.resources]."""

    ram_mb: Annotated[
        float,
        msgspec.Meta(ge=0, le=1e7, description="memory, MiB: the limit of a host of its own; 0 is no limit"),
    ] = 0.0
    threads: Annotated[int, msgspec.Meta(ge=1, description="threads that are busy at once")] = 1
    gpu: Annotated[bool, msgspec.Meta(description="whether it is of no use without a GPU")] = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plugin: [plugin.ID]."""

    kinds: Annotated[
        Words,
        msgspec.Meta(min_length=1, description="what it is; the first runs in a host, `command` beside it"),
    ]
    api: Annotated[str, msgspec.Meta(description="the versions of the API it works with: `>=1.0,<2`")]
    summary: Annotated[str, msgspec.Meta(description="one line for people")] = ""
    module: Annotated[
        str, msgspec.Meta(description="what is imported; by default what the entry point names")
    ] = ""
    version: Annotated[str, msgspec.Meta(description="its version; by default its distribution's")] = ""
    profiles: Annotated[Words, msgspec.Meta(description="where it makes sense: `pi`, `pc`")] = msgspec.field(
        default_factory=lambda: ["pi", "pc"]
    )
    publishes: Annotated[Words, msgspec.Meta(description="the message types it publishes, and no other")] = []
    subscribes: Annotated[Words, msgspec.Meta(description="the message types it handles")] = []
    network: Annotated[
        Words, msgspec.Meta(description="the hosts it talks to: declared and shown, not enforced")
    ] = []
    secrets: Annotated[Words, msgspec.Meta(description="names of the secrets it wants")] = []
    commands: Annotated[Words, msgspec.Meta(description="the words it adds to the command line")] = []
    native: Annotated[bool, msgspec.Meta(description="whether it brings compiled code of its own")] = False
    state_version: Annotated[
        int, msgspec.Meta(ge=1, le=1_000_000, description="version of the state it writes down")
    ] = 1
    reload: Annotated[
        str,
        msgspec.Meta(
            pattern="^(process|restart)$",
            description="`process`: swapped while the rest runs; `restart`: cannot hand over its state",
        ),
    ] = "process"
    requires: Annotated[Words, msgspec.Meta(description="ids of the plugins it needs")] = []
    tier: Annotated[str, msgspec.Meta(description="the tier of the conformance kit that it reaches")] = ""
    exempt: Annotated[
        dict[str, str], msgspec.Meta(description="checks of the kit that do not apply to it, and why")
    ] = {}
    resources: Resources = Resources()

    @property
    def kind(self) -> str:
        """What runs in a host; `command` where nothing does."""
        return self.kinds[0]


#: One file tells of a whole family, and is read again for each plugin in it. Nobody changes what it gives.
_loads = functools.lru_cache(maxsize=16)(tomllib.loads)


def read(path: Path) -> dict[str, Any]:
    """
    Return the tables of a manifest file by plugin id: a `tickerml-plugin.toml`, or a single-file plugin.

    Raises: ConfigError: unreadable, not TOML, or not of this form.
    """
    if path.suffix != ".py":
        return tables(read_toml(path, "manifest", loads=_loads), str(path))
    try:
        return tables(tomllib.loads(_block(path)), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the plugin {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: its manifest is not TOML: {error}") from None


def _block(path: Path) -> str:
    blocks = [match["content"] for match in _BLOCK.finditer(path.read_text())]
    if len(blocks) != 1:
        raise ConfigError(
            f"{path}: expected one block of comments from `# /// tickerml-plugin` to `# ///`, "
            f"was {len(blocks)}"
        )
    return "".join(line.removeprefix("#").removeprefix(" ") for line in blocks[0].splitlines(keepends=True))


def tables(data: dict[str, Any], where: str) -> dict[str, Any]:
    """
    Return the [plugin.ID] tables in the content of a manifest file.

    Raises: ConfigError: another format, or no such tables.
    """
    if (written := data.get("format")) != FORMAT:
        newer = "; upgrade tickerml" if isinstance(written, int) and written > FORMAT else ""
        raise ConfigError(f"{where}: format: expected {FORMAT}, was {written!r}{newer}")
    if unknown := [key for key in data if key not in ("format", "plugin")]:
        raise ConfigError(f"{where}: {unknown[0]}: unknown key{suggest(unknown[0], ['format', 'plugin'])}")
    if not _is_printable(data):
        raise ConfigError(f"{where}: expected text that can be shown, was some with control characters")
    found = data.get("plugin")
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{where}: expected a table [plugin.ID], was none")
    return found


def _is_printable(data: Any) -> bool:
    """Return whether all text in *data* can be shown on a terminal without changing what is there."""
    if isinstance(data, dict):
        return all(_is_printable(each) for each in (*data, *data.values()))
    if isinstance(data, list):
        return all(map(_is_printable, data))
    return not isinstance(data, str) or data.isprintable()


def parse(plugin: str, table: Any, where: str) -> tuple[Manifest, list[str]]:
    """
    Return the manifest in the table of *plugin*, and a sentence for each key that nobody knows.

    Raises: ConfigError: a key that is missing or wrong, or an API that this kernel does not have.
    """
    where = f"{where}: plugin.{plugin}"
    if not re.fullmatch("[a-z][a-z0-9-]*", plugin):
        raise ConfigError(f"{where}: an id is made of a-z, 0-9 and -, and begins with a letter")
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, was {table!r}")
    _check_api(table.get("api", ""), where)  # first: in a newer API the rest may mean something else
    known, strays = _split(table, Manifest, where)
    if isinstance(known.get("resources"), dict):
        known["resources"], more = _split(known["resources"], Resources, f"{where}.resources")
        strays += more
    found = convert(known, Manifest, where)
    _check_words(found, where)
    return found, strays


def check(path: Path) -> dict[str, Manifest]:
    """
    Return the manifests in a file, by id.

    Raises: ConfigError: whatever is wrong, and a key that nobody knows.
    """
    found = {}
    for plugin, table in read(path).items():
        found[plugin], strays = parse(plugin, table, str(path))
        if strays:
            raise ConfigError(strays[0])
    return found


def _check_api(wanted: Any, where: str) -> None:
    if not isinstance(wanted, str) or not is_range(wanted):
        raise ConfigError(f"{where}.api: expected a range of versions such as '>=1.0,<2', was {wanted!r}")
    if not satisfies(API_VERSION, wanted):
        raise ConfigError(
            f"{where}.api: this kernel has API {API_VERSION}, the plugin needs {wanted}; "
            "upgrade whichever is older"
        )


def _split(
    table: dict[str, Any], type_: type[msgspec.Struct], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of *table* that *type_* has, and a sentence for each other."""
    fields = type_.__struct_fields__
    strays = [f"{where}.{key}: unknown key{suggest(key, fields)}" for key in table if key not in fields]
    return {key: value for key, value in table.items() if key in fields}, strays


def _check_words(found: Manifest, where: str) -> None:
    for kind in found.kinds:
        if kind not in SHAPES:
            raise ConfigError(f"{where}.kinds: {kind!r} is no kind{suggest(kind, SHAPES)}")
    if extra := [kind for kind in found.kinds[1:] if kind != COMMAND]:
        raise ConfigError(f"{where}.kinds: beside the first there may be {COMMAND!r}, was {extra[0]!r}")
    for key, names in (("publishes", found.publishes), ("subscribes", found.subscribes)):
        if unknown := [name for name in names if name not in _MESSAGES]:
            raise ConfigError(
                f"{where}.{key}: {unknown[0]!r} is no message type{suggest(unknown[0], _MESSAGES)}"
            )
    for name in found.secrets:
        if not re.fullmatch("[a-z][a-z0-9-]*", name):
            raise ConfigError(f"{where}.secrets: expected names of a-z, 0-9 and -, was {name!r}")
    if found.tier not in TIERS:
        raise ConfigError(f"{where}.tier: {found.tier!r} is no tier{suggest(found.tier, TIERS)}")
