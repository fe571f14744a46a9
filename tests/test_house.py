"""
The house as a whole: what may import what, what must be written down, and how large a room may be.

Run with -s to see the floors: a module stands one floor above the highest module it imports.
"""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec
import pytest

import tickerml.kernel
from tickerml.kernel import messages, topics
from tickerml.kernel.localbus import handler_name
from tickerml.kernel.testing import spec_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY_POINTS = PROJECT["project"]["entry-points"]["tickerml.plugins"]

MAX_LINES = 600
HEAVY = ("torch", "nicegui", "fastapi", "ccxt", "numba", "onnxruntime", "numpy")
SLIM_FAMILIES = ("exchanges", "plugins", "risk", "strategies")
PLUGIN_FAMILIES = (*SLIM_FAMILIES, "ui")
#: A component sees the time and chance through its context alone; an exchange with a live feed is excepted.
NONDETERMINISTIC = {"time", "random", "secrets", "uuid", "socket", "asyncio", "threading", "datetime"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((ROOT / "tickerml").rglob("*.py"))}
MODULES = sorted(FILES)


def in_family(module: str, *families: str) -> bool:
    return any(f"{module}.".startswith(f"tickerml.{family}.") for family in families)


SLIM = [module for module in MODULES if in_family(module, "kernel", *SLIM_FAMILIES)]
COMPONENTS = [module for module in MODULES if in_family(module, *SLIM_FAMILIES)]


# --- Imports ----------------------------------------------------------------------------------------


class Imported(NamedTuple):
    """What importing one module in a process of its own came to."""

    error: str
    heavy: frozenset[str]


AT_ONCE = 40  # modules that one process is forked for
#: Packages that are not ours and not heavy; what has them already saves each module a third of a second.
OUTSIDE = ("aiohttp", "lmdb", "msgspec", "pluggy", "structlog", "tomlkit", "typer", "zmq", "zstandard")
IMPORT_EACH = f"""
import contextlib, importlib, json, os, sys, traceback
packages, *modules = sys.argv[1:]
for name in packages.split():
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
assert not any(name.partition(".")[0] == "tickerml" for name in sys.modules)
for module in modules:
    if os.fork():
        os.wait()
        continue
    error, needed = "", []
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        needed = [missing.name]
        error = "" if missing.name in {HEAVY} else traceback.format_exc()
    except BaseException:
        error = traceback.format_exc()
    heavy = [*needed, *(name for name in {HEAVY} if name in sys.modules)]
    print(json.dumps([module, error, heavy]), flush=True)
    os._exit(0)
"""


def import_each(packages: tuple[str, ...], modules: list[str]) -> dict[str, Imported]:
    """Import each of *modules* in a fork of a process that has imported *packages* and nothing of ours."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH, " ".join(packages), *modules],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    found = {module: Imported(error, frozenset(heavy)) for module, error, heavy in rows}
    return {
        module: found.get(module, Imported(f"it ended the process: {told.stderr}", frozenset()))
        for module in modules
    }


@pytest.fixture(scope="session")
def imported() -> Iterator[Callable[[str], Imported]]:
    others = [module for module in MODULES if module not in SLIM]
    found: dict[str, Future[dict[str, Imported]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for packages, modules in ((OUTSIDE, SLIM), ((*OUTSIDE, "nicegui"), others)):
            for start in range(0, len(modules), AT_ONCE):
                part = modules[start : start + AT_ONCE]
                found |= dict.fromkeys(part, pool.submit(import_each, packages, part))
        yield lambda module: found[module].result()[module]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_imports_alone_in_a_fresh_process_without_a_warning(module, imported):
    assert imported(module).error == ""


@pytest.mark.parametrize("module", SLIM)
def test_the_slim_set_pulls_in_nothing_heavy(module, imported):
    allowed = {"numpy"} if module != "tickerml.kernel" else set()
    if in_family(module, "strategies"):
        allowed.add("onnxruntime")

    assert imported(module).heavy <= allowed


def imports_of(module: str) -> set[str]:
    """Return the modules of ours that *module* imports, anywhere in it."""
    path, found = FILES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                found.add(inner if inner in FILES else origin)
    return (found & FILES.keys()) - {module}


@cache
def graph() -> dict[str, set[str]]:
    return {module: imports_of(module) for module in MODULES}


@cache
def floors() -> dict[str, int]:
    """Return the floor of each module; raises graphlib.CycleError, which names a circle."""
    floor: dict[str, int] = {}
    for module in TopologicalSorter(graph()).static_order():
        floor[module] = 1 + max((floor[below] for below in graph()[module]), default=-1)
    return floor


def test_no_import_goes_in_a_circle():
    drawing: dict[int, list[str]] = {}
    for module, floor in sorted(floors().items()):
        drawing.setdefault(floor, []).append(module.removeprefix("tickerml."))

    print()
    for floor in sorted(drawing, reverse=True):
        print(f"{floor:3}  {'  '.join(drawing[floor])}")
    assert set(floors()) == set(MODULES)


def test_the_graph_sees_every_kind_of_import():
    graph_of_testing = graph()["tickerml.kernel.testing"]

    assert {f"tickerml.kernel.{name}" for name in ("messages", "gate", "localbus")} <= graph_of_testing
    assert "tickerml.kernel" not in graph_of_testing
    assert "tickerml.kernel.messages" in graph()["tickerml.kernel"]
    assert "tickerml.kernel" in graph()["tickerml.strategies.imbalance"]


def test_kernel_rooms_do_not_import_their_own_hall():
    rooms = [module for module in MODULES if in_family(module, "kernel")]

    assert [room for room in rooms if "tickerml.kernel" in graph()[room]] == []


def test_the_door_plate_of_a_family_is_one_docstring():
    for family in (*PLUGIN_FAMILIES, "trainers"):
        tree = ast.parse(FILES[f"tickerml.{family}"].read_text())
        assert len(tree.body) == 1
        assert ast.get_docstring(tree)


def test_the_hall_exports_exactly_its_public_names():
    hall = vars(tickerml.kernel)
    public = {name for name, it in hall.items() if name[0] != "_" and not isinstance(it, types.ModuleType)}

    assert len(tickerml.kernel.__all__) == len(set(tickerml.kernel.__all__))
    assert set(tickerml.kernel.__all__) == public


def test_the_hall_is_in_the_order_of_isort():
    def rank(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert tickerml.kernel.__all__ == sorted(tickerml.kernel.__all__, key=rank)


# --- Plugins ----------------------------------------------------------------------------------------


def hooks_in(module: str) -> list[str]:
    tree = ast.parse(FILES[module].read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("tickerml_")
    ]


OFFERING = [module for module in MODULES if in_family(module, *PLUGIN_FAMILIES) and hooks_in(module)]


def test_every_entry_point_is_a_file():
    missing = {name: module for name, module in ENTRY_POINTS.items() if module not in FILES}

    assert missing == {}


def test_every_file_that_offers_a_plugin_is_one_entry_point():
    assert sorted(ENTRY_POINTS.values()) == OFFERING
    assert {module: len(hooks_in(module)) for module in OFFERING} == dict.fromkeys(OFFERING, 1)


#: The plugins that a host runs; a command has no spec.
WITH_SPECS = sorted(
    name
    for name, module in ENTRY_POINTS.items()
    if module not in FILES or hooks_in(module) != ["tickerml_commands"]
)


@pytest.fixture(params=WITH_SPECS)
def spec(request):
    module = ENTRY_POINTS[request.param]
    if module not in FILES:
        pytest.skip(f"{module} is missing, which a test above reports")
    try:
        return spec_of(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name in HEAVY:
            pytest.skip(f"needs {error.name}")
        raise


def test_a_plugin_has_the_id_of_its_entry_point_and_says_what_it_does(spec, request):
    assert spec.id == request.node.callspec.params["spec"]
    assert spec.summary


def test_a_plugin_publishes_only_what_its_kind_may(spec):
    assert set(spec.publishes) <= set(spec.MAY_PUBLISH)


def test_every_option_is_described_and_has_a_default(spec):
    config = spec.options.__struct_config__
    assert (config.frozen, config.forbid_unknown_fields) == (True, True)
    assert spec.options() == spec.options()  # everything has a default

    hints = get_type_hints(spec.options, include_extras=True)
    for field in spec.options.__struct_fields__:
        described = [meta.description for meta in getattr(hints[field], "__metadata__", ())]
        assert any(described), f"{spec.id} has an option {field} without a msgspec.Meta(description=...)"


def components_in(module: str) -> list[ast.ClassDef]:
    """Return the classes of *module* that are built as factory(ctx, options)."""
    found = []
    for node in ast.parse(FILES[module].read_text()).body:
        if isinstance(node, ast.ClassDef):
            methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
            arguments = [each.arg for each in methods["__init__"].args.args] if "__init__" in methods else []
            if arguments[1:2] == ["ctx"]:
                found.append(node)
    return found


def test_every_handler_of_a_component_is_named_after_a_message_that_exists():
    known = {handler_name(cls) for cls in messages.message_types()} | {"on_timer"}
    handlers = {
        (f"{module}.{component.name}", node.name)
        for module in [*COMPONENTS, "tickerml.kernel.gate"]
        for component in components_in(module)
        for node in component.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("on_")
    }

    assert ("tickerml.kernel.gate.Gate", "on_submit_order") in handlers
    assert [handler for handler in sorted(handlers) if handler[1] not in known] == []


def outside_imports(module: str) -> set[str]:
    """Return the top-level names of the packages that *module* imports by their full names."""
    nodes = list(ast.walk(ast.parse(FILES[module].read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    origins = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.split(".")[0] for name in (*plain, *origins) if name}


def is_program(module: str) -> bool:
    """Whether *module* is a command: a person runs it, here and now."""
    return "def tickerml_commands(" in FILES[module].read_text()


@pytest.mark.parametrize(
    "module", [name for name in COMPONENTS if not in_family(name, "exchanges") and not is_program(name)]
)
def test_components_take_time_and_chance_from_their_context_alone(module):
    assert outside_imports(module) & NONDETERMINISTIC == set()


# --- Words ------------------------------------------------------------------------------------------


def test_every_message_is_documented_and_has_a_kind():
    for cls in messages.message_types():
        assert cls.__doc__, cls
        assert cls in topics.KIND_OF, cls


def test_a_message_type_is_exported_by_the_hall():
    exported = set(tickerml.kernel.__all__)

    assert {cls.__name__ for cls in messages.message_types()} <= exported


def test_message_types_are_structs_that_cannot_be_changed():
    for cls in messages.message_types():
        config = cls.__struct_config__
        assert isinstance(config, msgspec.structs.StructConfig)
        assert (config.frozen, config.array_like, config.gc) == (True, True, False), cls


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for_and_is_not_too_long(module):
    text = FILES[module].read_text()
    lines = len(text.splitlines())

    assert ast.get_docstring(ast.parse(text))
    assert lines <= MAX_LINES


def sources() -> list[Path]:
    """Return the text files of the tree: those git would take, or every Python file where it cannot say."""
    git = ["git", "ls-files", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        listed = []
    paths = [ROOT / line for line in listed] or [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def test_nothing_is_left_to_do():
    unfinished = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if unfinished.search(line)
    ]

    assert found == []
