"""Packages of plugins as strangers publish them, made on the spot: a project, a wheel, a git repository."""

import base64
import hashlib
import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from tickerml.kernel import PackageError

MODULE = """
import msgspec
from tickerml.kernel import Options, StrategySpec, hookimpl
class Wishes(Options):
    size: int = 1
class Strategy:
    def __init__(self, ctx, options):
        pass
    def snapshot(self):
        return b""
    def restore(self, state):
        pass
@hookimpl
def tickerml_strategies():
    return [StrategySpec(id="{id}", summary="does nothing", factory=Strategy, options=Wishes)]
"""

BACKEND = """
import os, shutil
from pathlib import Path
def build_wheel(directory, settings=None, metadata=None):
    (wheel,) = Path(__file__).parent.glob("built/*.whl")
    shutil.copy(wheel, directory)
    return wheel.name
"""


class Stranger:
    """One distribution with one or more plugins; every change of it makes another wheel."""

    def __init__(self, directory: Path, name: str = "tickerml-strategy-demo", version: str = "0.1.0") -> None:
        self.directory = directory
        self.name = name
        self.version = version
        self.ids = [name.removeprefix("tickerml-")]
        self.requires: list[str] = []
        self.manifest = "kinds = ['strategy']\napi = '>=1.0,<2'\nsummary = 'does nothing'\n"
        self.code = MODULE

    @property
    def module(self) -> str:
        """Its top package."""
        return self.name.replace("-", "_")

    def files(self) -> dict[str, str]:
        """What its wheel holds, without the records."""
        tables = "".join(f"[plugin.{plugin}]\n{self.manifest}" for plugin in self.ids)
        found = {f"{self.module}/__init__.py": self.code.replace("{id}", next(iter(self.ids), ""))}
        if self.manifest:
            found[f"{self.module}/tickerml-plugin.toml"] = f"format = 1\n{tables}"
        return found

    def entry_points(self) -> str:
        """What it offers."""
        return "[tickerml.plugins]\n" + "".join(f"{plugin} = {self.module}\n" for plugin in self.ids)

    def wheel(self) -> Path:
        """Write its wheel; returns where it is."""
        info = f"{self.module}-{self.version}.dist-info"
        about = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        about += [f"Requires-Dist: {each}" for each in self.requires]
        kind = ["Wheel-Version: 1.0", "Generator: test", "Root-Is-Purelib: true", "Tag: py3-none-any"]
        files = self.files() | {
            f"{info}/METADATA": "\n".join([*about, ""]),
            f"{info}/WHEEL": "\n".join([*kind, ""]),
            f"{info}/entry_points.txt": self.entry_points() if self.ids else "",
        }
        path = self.directory / f"{self.module}-{self.version}-py3-none-any.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text)
            records = [f"{name},sha256={_sha256(text)},{len(text)}" for name, text in files.items()]
            archive.writestr(f"{info}/RECORD", "\n".join([*records, f"{info}/RECORD,,", ""]))
        return path

    def project(self) -> Path:
        """Write a folder that pip builds the wheel from, without any network; returns it."""
        folder = self.directory / f"{self.name}-{self.version}"
        offered = "".join(f'{plugin} = "{self.module}"\n' for plugin in self.ids)
        texts = self.files() | {
            "backend.py": BACKEND,
            "pyproject.toml": (
                '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
                f'[project]\nname = "{self.name}"\nversion = "{self.version}"\n'
                f"dependencies = {self.requires!r}\n"
                f'[project.entry-points."tickerml.plugins"]\n{offered}'
            ),
        }
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        built = folder / "built"
        built.mkdir(exist_ok=True)
        self.wheel().rename(built / f"{self.module}-{self.version}-py3-none-any.whl")
        return folder

    def repository(self) -> str:
        """Commit the project to a git repository; returns the URL that pip takes."""
        folder = self.project()
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(folder)]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "First"]):
            subprocess.run([*git, *command], check=True)
        return f"git+file://{folder}"


def _sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def pretend_pip(shelf: Path) -> Callable[[str, list[str], object], None]:
    """Return what stands in for packages._pip and takes no time: it knows the wheels on *shelf* alone."""

    def wheel_of(requirement: str) -> Path:
        named = re.fullmatch(r"([\w.-]+)(?:==([\w.]+))?", requirement)
        if named is None:
            return Path(requirement.rpartition("file://")[2])
        pattern = f"{named[1].replace('-', '_')}-{named[2] or '*'}-py3-none-any.whl"
        found = sorted(shelf.glob(pattern))
        if not found:
            raise PackageError(f"there is no {requirement}")
        return found[-1]

    def pip(deed: str, arguments: list[str], tell: object) -> None:
        if "--report" in arguments:
            asked = arguments[-1]
            wheel = wheel_of(asked)
            name, version = wheel.name.split("-")[:2]
            item = {
                "metadata": {"name": name.replace("_", "-"), "version": version},
                "is_direct": asked.endswith(".whl"),
                "requested": True,
                "download_info": {"url": f"file://{wheel}", "archive_info": {}},
            }
            Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({"install": [item]}))
            return
        target = Path(arguments[arguments.index("--target") + 1])
        for requirement in arguments[arguments.index("--target") + 2 :]:
            with zipfile.ZipFile(wheel_of(requirement)) as archive:
                archive.extractall(target)

    return pip
