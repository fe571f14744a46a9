"""
Packages of plugins from elsewhere: resolved by pip, and each version put into a folder of its own.

The environment that the kernel runs in is never changed. A plugin uses what is there as it
is, or is refused; what is not there goes with it into HOME/plugins/site/DISTRIBUTION/VERSION,
which only the hosts that run it see. So two versions of a plugin lie side by side, one of
them can be tried while the other trades, and to go back is to name the other one.

A folder counts once plugins.lock names it. Whatever ends a command before that leaves at most
a folder that nobody reads, which the next command removes.
"""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tickerml.kernel import PackageError, lock_file
from tickerml.kernel.hookspecs import ENTRY_POINTS
from tickerml.kernel.lock_file import LockRecord
from tickerml.kernel.requirements import normalized

_UNFINISHED = ".new"
#: Written by pip for itself, or different on every machine.
_NOT_COMPARED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")

Tell = Callable[[str], None]


class Sources(msgspec.Struct, frozen=True):
    """Where pip looks: the index it is configured with, unless offline, and these folders or pages."""

    is_offline: bool = False
    find_links: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Return pip's options that say so."""
        links = [argument for link in self.find_links for argument in ("--find-links", link)]
        return [*(["--no-index"] if self.is_offline else []), *links]


ANY = Sources()


def site(home: Path) -> Path:
    """Return where the packages of *home* lie."""
    return home / "plugins" / "site"


# --- What is asked for ------------------------------------------------------------------------------


def to_pip(spec: str) -> str:
    """
    Return *spec* as pip wants it: a name, a folder, a wheel or a git URL.

    Raises: PackageError: it is a path where nothing is.
    """
    if "://" in spec or spec.startswith("git+"):
        return spec
    path = Path(spec).expanduser()
    if path.exists():
        if path.is_dir() and not (path / "pyproject.toml").exists():
            raise PackageError(
                f"cannot install {spec}: a folder must have a pyproject.toml; "
                "a plugin that is one file goes into HOME/plugins"
            )
        if path.suffix == ".py":
            raise PackageError(f"cannot install {spec}: put a plugin that is one file into HOME/plugins")
        return str(path.resolve())
    if "/" in spec or spec.endswith(".whl"):
        raise PackageError(f"cannot install {spec}: there is no such file or folder")
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^]]*\])?\s*([=<>!~].*)?$", spec):
        raise PackageError(
            f"cannot install {spec!r}: expected the name of a package, a folder, a wheel or a git URL "
            "like git+https://example.org/plugin.git"
        )
    return spec


def resolve(spec: str, sources: Sources, tell: Tell) -> LockRecord:
    """
    Return what installing *spec* would put into its folder; everything that is installed here stays as it is.

    Raises: PackageError: nothing offers it, or it needs another version of what is installed here.
    """
    wanted = to_pip(spec)
    with tempfile.TemporaryDirectory() as directory:
        installed = Path(directory, "installed.txt")
        installed.write_text("\n".join(_environment()))
        report = Path(directory, "report.json")
        arguments = ["--dry-run", "--report", str(report), "--constraint", str(installed), wanted]
        _pip(f"install {spec}", [*sources.arguments(), *arguments], tell)
        found = json.loads(report.read_text())["install"]
    asked = [item for item in found if item.get("requested")]
    if not asked:
        raise PackageError(
            f"cannot install {spec}: it is part of the environment that TickerML runs in already; "
            "see `tickerml plugin list`"
        )
    itself = asked[0]
    others = sorted(_requirement(item) for item in found if item is not itself)
    return LockRecord(
        distribution=normalized(itself["metadata"]["name"]),
        version=itself["metadata"]["version"],
        spec=wanted,
        requirements=[_requirement(itself), *others],
    )


def _environment() -> Iterator[str]:
    for one in metadata.distributions():
        if one.metadata["Name"] and one.version:
            yield f"{one.metadata['Name']}=={one.version}"


def _requirement(item: dict[str, Any]) -> str:
    """Return what asks pip for exactly this again."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    if not item["is_direct"]:
        return f"{name}=={version}"
    origin = item["download_info"]
    if "vcs_info" not in origin:
        return f"{name} @ {origin['url']}"
    pinned = f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return pinned + (f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else "")


def is_by_name(spec: str) -> bool:
    """Whether *spec* is looked up in an index, so that a newer version may be there."""
    return not urlsplit(spec).scheme and "/" not in spec and not spec.endswith(".whl")


def name_in(spec: str) -> str:
    """Return the name in a *spec* that is looked up in an index."""
    return re.split(r"[\s\[=<>!~]", spec, maxsplit=1)[0]


# --- Putting it there -------------------------------------------------------------------------------


def unfinished(record: LockRecord) -> LockRecord:
    """Return *record* with the folder in which it is looked at before it counts."""
    return msgspec.structs.replace(record, version=record.version + _UNFINISHED)


@contextlib.contextmanager
def fetched(record: LockRecord, home: Path, sources: Sources, tell: Tell) -> Iterator[LockRecord]:
    """
    Have *record* fetched into its unfinished folder, and give it with the digest of what came.

    Within, `keep` makes it last. Where that is not reached, or an exception follows, nothing is left of it.

    Raises: PackageError: pip failed, or what came is not what *record* already says.
    """
    folder, is_new = lock_file.folder(home, unfinished(record)), not lock_file.folder(home, record).exists()
    remove(home, unfinished(record))
    try:
        arguments = ["--no-deps", "--no-compile", "--no-warn-script-location", "--target", str(folder)]
        _pip(f"install {record.spec}", [*sources.arguments(), *arguments, *record.requirements], tell)
        found = digest(folder)
        if record.sha256 and record.sha256 != found:
            raise PackageError(
                f"{record.distribution} {record.version} is not what plugins.lock says: expected sha256 "
                f"{record.sha256[:16]}…, was {found[:16]}…; what it comes from has changed, or brings "
                "compiled code for another machine: look at it, and `tickerml plugin install` it again"
            )
        yield msgspec.structs.replace(record, sha256=found)
    except BaseException:
        if is_new:
            remove(home, record)
        raise
    finally:
        remove(home, unfinished(record))


def keep(record: LockRecord, home: Path) -> None:
    """Let what was fetched take the place of whatever is in its folder."""
    folder = lock_file.folder(home, record)
    shutil.rmtree(folder, ignore_errors=True)
    lock_file.folder(home, unfinished(record)).rename(folder)


def digest(folder: Path) -> str:
    """Return the sha256 of everything in *folder* that is the same on every machine."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if not path.is_file() or "__pycache__" in inner.parts or inner.parts[0] == "bin":
            continue
        if path.parent.suffix == ".dist-info" and path.name in _NOT_COMPARED:
            continue
        total.update(f"{inner.as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def is_whole(record: LockRecord, home: Path) -> bool:
    """Whether the folder of *record* is there and holds what it should."""
    if record.path:
        return Path(record.path).is_dir()
    folder = lock_file.folder(home, record)
    return folder.is_dir() and digest(folder) == record.sha256


def remove(home: Path, record: LockRecord) -> None:
    """Remove the folder of *record*, and that of its distribution when it was the last; missing is fine."""
    folder = lock_file.folder(home, record)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def sweep(home: Path) -> None:
    """Remove what commands that did not come to their end have left."""
    for folder in site(home).glob(f"*/*{_UNFINISHED}"):
        shutil.rmtree(folder, ignore_errors=True)


def offers(record: LockRecord, home: Path) -> list[str]:
    """Return the ids of the plugins in the folder of *record*; imports none of them."""
    for found in metadata.distributions(path=[str(lock_file.folder(home, record))]):
        if normalized(found.metadata["Name"] or "") == record.distribution:
            return sorted(entry.name for entry in found.entry_points.select(group=ENTRY_POINTS))
    return []


# --- pip --------------------------------------------------------------------------------------------


def _pip(deed: str, arguments: list[str], tell: Tell) -> None:
    """
    Run `pip install`, telling what it says line by line.

    Raises: PackageError: it failed; the reason is in pip's own words.
    """
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    if any(" @ file:" in each for each in arguments):
        options.append("--no-cache-dir")  # a folder named like a release is else built once and for ever
    command = [sys.executable, "-m", "pip", "install", *options, *arguments]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                tell(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise PackageError(f"cannot {deed}: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """Return why pip failed, in one line; both sides of a conflict are in it."""
    if "The conflict is caused by:" in lines:
        after = lines[lines.index("The conflict is caused by:") + 1 :]
        sides = [line.strip() for line in after[: after.index("")] if line.strip()] if "" in after else after
        here = [side.replace("The user requested (constraint) ", "") for side in sides]
        return "; ".join(
            side if side == full else f"installed here, and kept as it is, is {side}"
            for side, full in zip(here, sides, strict=True)
        )
    if lines and lines[-1].endswith("No module named pip"):
        return "this environment has no pip; `python -m ensurepip` brings it"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors[0] if errors else (lines[-1] if lines else "pip said nothing")
