"""What the documentation says is what the code does: pages, commands, links, examples, log events."""

import ast
import functools
import importlib.util
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tickerml.kernel import Alert, SubmitOrder, config, hookspecs, manifest, registry
from tickerml.kernel import messages as m
from tickerml.kernel.backtest import Backtest
from tickerml.testing import contracts, tiers
from tickerml.testing.contracts_subject import LADDER
from tickerml.ui import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load(DOCS / "generate.py")


# --- Generated pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_what_the_code_says_now(name):
    text = generate.PAGES[name]()

    assert (DOCS / name).read_text() == text, "run `make docs` (python docs/generate.py)"


def test_every_reference_page_is_generated():
    written = {str(path.relative_to(DOCS)) for path in (DOCS / "reference").iterdir()}

    assert written == {name for name in generate.PAGES if name.startswith("reference/")}


def test_every_log_event_has_one_sentence_and_every_sentence_an_event():
    logged = {call.event for call in generate.logged()}

    assert logged == set(generate.EVENTS)
    assert [said for said in generate.EVENTS.values() if not re.fullmatch(r"[A-Z].*\.", said)] == []


def test_a_log_event_is_named_area_verb_and_has_named_facts():
    for call in generate.logged():
        assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", call.event), call
        assert "**" not in call.keys, call


SOURCE = """
logger.info("a.read", one=1)
self._ctx.log.warning("b.read", two=2)
tell = logger.info if calm else logger.error
tell("c.read", three=3)
math.log("d.not_read")
tell("e.not_read", "of two arguments")
"""


def test_log_events_are_found_however_the_logger_is_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    path = tmp_path / "room.py"
    path.write_text(SOURCE)

    found = {call.event: (sorted(call.levels), call.keys) for call in generate.logged_in(path)}

    assert found == {
        "a.read": (["info"], ("one",)),
        "b.read": (["warning"], ("two",)),
        "c.read": (["error", "info"], ("three",)),
    }


def test_error_messages_are_found_with_words_for_what_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    path = tmp_path / "room.py"
    path.write_text(
        'raise StoreError(f"no room in {self._path}: {type(error).__name__}{_suggest(word, known)}")\n'
        'failure = PluginNotFound(plugin, "install it")\n'
        'raise KeyError("not ours")\n'
    )

    assert [(each.type, each.text) for each in generate.raised_in(path)] == [
        ("StoreError", "no room in {path}: {type}{suggest}"),
        ("PluginNotFound", "install it"),
    ]


# --- Pages written by hand --------------------------------------------------------------------------


def prose_of(path: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page, broken = ROOT / name, []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("name", [*NAMES, *(f"docs/examples/{path.name}" for path in EXAMPLES.glob("*.*"))])
def test_no_path_of_this_machine_is_in_it(name):
    text = (ROOT / name).read_text()

    assert [path for path in (str(ROOT), str(Path.home()), "/root/", "/home/") if path in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_named_is_there(name):
    named = re.findall(r"`((?:tickerml|docs|tests|benchmarks)/[\w./-]*)`", prose_of(ROOT / name))

    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_python_and_toml_blocks_are_python_and_toml(name):
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / name).read_text(), flags=re.S | re.M):
        if language == "python":
            compile(text, name, "exec")
        elif language == "toml":
            tomllib.loads(text)


def test_the_picture_of_the_readme_is_small():
    assert (DOCS / "images" / "console.png").stat().st_size < 300_000


def test_operators_are_told_of_every_profile():
    profiles = config.load(ROOT / "plugins.toml").profiles
    told = re.findall(r"^\| `(\w+)` \| .* \|$", (DOCS / "operators.md").read_text(), flags=re.M)

    assert set(profiles) <= set(told)


def told_of(name: str, heading: str) -> list[str]:
    """Return the messages in the tables of a page's chapter."""
    chapter = (DOCS / name).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| ([^|]+?) \| .+ \|$", chapter, flags=re.M)
    return [message for message in told if message not in ("Message", "---")]


@functools.cache
def texts_of_the_package() -> str:
    """Return every text that is written out in the package, with … for what is filled in."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "tickerml").rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    filled = [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return "\n".join(plain + filled)


def test_the_messages_that_operators_are_told_of_are_in_the_code():
    told = told_of("operators.md", "Messages and what to do")

    assert len(told) > 50
    assert unknown_among(told) == []


def test_the_mistakes_that_authors_are_told_of_are_in_the_code():
    told = told_of("plugin-authors.md", "Common mistakes")

    assert len(told) > 20
    assert unknown_among(told) == []


def unknown_among(told: list[str]) -> list[str]:
    """Return the messages of which the package has no part written out."""
    texts = texts_of_the_package()
    return [
        message
        for message in told
        if not any(
            len(part) > 5 and part in texts
            for part in (each.strip(" .") for each in re.split(r"…|[,/:;]| >= |\d+", message))
        )
    ]


# --- Commands ---------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield (page, line) for each command line of a console block or in code in the text."""
    for name, page in zip(NAMES, PAGES, strict=True):
        for block in re.findall(r"^```console\n(.*?)^```$", page.read_text(), flags=re.S | re.M):
            yield from ((name, line) for line in block.splitlines())
        for line in re.findall(r"`((?:tickerml|make|python\d?|\.venv/bin/\w+) [^`]+)`", prose_of(page)):
            yield from ((name, part.strip()) for part in line.split("&&"))


#: Words of the command line that an example adds.
OF_EXAMPLES = ["fees"]

#: A reference page shows every command with its options in general.
LINES = sorted({line for line in command_lines() if not line[0].startswith("docs/reference/")})


def words_of(line: str) -> list[str]:
    """Return the words of a command line, without the variables set before it."""
    words = shlex.split(line)
    while "=" in words[0]:
        words.pop(0)
    return words


def parse(command: Any, words: list[str], parent: Any = None) -> None:
    """Parse *words* as `tickerml WORDS` does, and run nothing."""
    context = command.make_context(command.name, list(words), parent=parent)
    is_own = getattr(command, "invoke_without_command", False) and (not words or words[0].startswith("-"))
    if hasattr(command, "commands") and not is_own:
        name, *rest = words
        parse(command.commands[name], rest, context)


#: The word that a plugin of ours brings, as commands.py adds it.
DATA = typer.main.get_command(generate.brought_by_plugins())


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_line_can_be_given(page, line):
    program, *arguments = words_of(line)
    match Path(program).name:
        case "tickerml" if arguments[0] not in OF_EXAMPLES:
            parse(DATA if arguments[0] in DATA.commands else typer.main.get_command(cli.app), arguments)
        case "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.M)
        case "python" | "python3" if arguments[0].endswith(".py"):
            text = (ROOT / arguments[0]).read_text()
            assert [flag for flag in arguments if flag.startswith("--") and f'"{flag}"' not in text] == []
        case "tickerml" | "python" | "python3" | "pip" | "pytest" | "ssh" | "cp" | "export":
            pass
        case other:
            pytest.fail(f"{page} shows a command that nobody checks: {other}")


def test_every_command_is_shown_in_the_readme_or_where_plugins_are_told_of():
    told = ("README.md", "docs/operators.md", "docs/plugin-authors.md")
    shown = [words_of(line)[1:] for page, line in LINES if page in told and line.startswith("tickerml ")]
    in_readme = [
        words_of(line)[1:] for page, line in LINES if page == "README.md" and line.startswith("tickerml ")
    ]
    words = [name.split()[1:] for name, _, _ in generate.commands()]

    def missing(lines: list[list[str]], wanted: list[list[str]]) -> list[list[str]]:
        return [each for each in wanted if not any(line[: len(each)] == each for line in lines)]

    assert missing(shown, words) == []
    assert missing(in_readme, [each for each in words if each[0] != "plugin"]) == []


@pytest.mark.parametrize("line", ["run --profil demo", "plugin forget console", "journal tail -n none"])
def test_a_wrong_command_line_is_found(line):
    # Which library parses the command line differs between the versions of typer, and so do its exceptions.
    with pytest.raises(Exception, match=r"--profil|forget|integer"):
        parse(typer.main.get_command(cli.app), line.split())


# --- What authors are told of ------------------------------------------------------------------------

GUIDE = (DOCS / "plugin-authors.md").read_text()
HOOK_NAMES = sorted(name for name in vars(hookspecs.TickerMLSpecs) if name.startswith("tickerml_"))
CHECKS = sorted(tiers.CHECKS)
CONTRACTS = [cls.__name__ for cls in contracts.Contract.__subclasses__()]
FIXTURES = [name for name, _ in generate.fixtures_in(ROOT / "tickerml" / "testing" / "plugin.py")]


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_a_hook_is_in_the_reference_and_is_shown_at_work(name):
    assert f"### {name}\n" in (DOCS / "reference" / "hooks.md").read_text()
    assert re.search(rf"@hookimpl\ndef {name}\(", GUIDE)


@pytest.mark.parametrize("cls", m.message_types(), ids=lambda cls: cls.__name__)
def test_a_message_is_in_the_reference_with_a_sentence(cls):
    _, _, section = (DOCS / "reference" / "messages.md").read_text().partition(f"### {cls.__name__}\n\n")

    assert re.match(r"[A-Z1s].*\n", section)
    for field in cls.__struct_fields__:
        assert f"| `{field}` |" in section.partition("\n### ")[0]


@pytest.mark.parametrize(
    "cls", [*m.message_types(), m.Balance, m.Position, Alert, hookspecs.StateChange], ids=lambda c: c.__name__
)
def test_every_number_of_a_message_has_its_unit(cls):
    numbers = [name for name, hint, _ in generate.fields(cls) if generate.is_number(hint)]

    assert [name for name in numbers if not generate.unit_of(cls, name)] == []


def test_every_unit_is_of_a_field_that_there_is():
    within = [m.Balance, m.ModelResult, m.Passport, m.Position, m.StreamCount]
    classes = [*m.message_types(), *within, Alert, hookspecs.StateChange]
    known = {name for cls in classes for name in cls.__struct_fields__}
    known |= {f"{cls.__name__}.{name}" for cls in classes for name in cls.__struct_fields__}

    assert set(generate.UNITS) <= known


def test_the_manifest_in_the_guide_names_every_key_and_holds():
    (block,) = [
        text for text in re.findall(r"^```toml\n(.*?)^```$", GUIDE, flags=re.S | re.M) if "\nkinds" in text
    ]
    table = manifest.tables(tomllib.loads(block), "the guide")["strategy-demo"]

    found, strays = manifest.parse("strategy-demo", table, "the guide")

    assert strays == []
    assert set(table) == set(manifest.Manifest.__struct_fields__)
    assert set(table["resources"]) == set(manifest.Resources.__struct_fields__)
    assert found.tier == "edge"


@pytest.mark.parametrize("key", [*manifest.Manifest.__struct_fields__, *manifest.Resources.__struct_fields__])
def test_a_key_of_the_manifest_is_explained(key):
    rows = [row for row in GUIDE.splitlines() if row.startswith("| `")]

    assert key == "resources" or any(f"`{key}`" in row.partition(" | ")[0] for row in rows)


@pytest.mark.parametrize("name", [*CONTRACTS, *FIXTURES, *LADDER])
def test_a_contract_a_fixture_and_a_tier_are_in_the_guide_and_in_the_reference(name):
    assert f"`{name}`" in GUIDE
    assert re.search(rf"`{name}`|^## {name}$", (DOCS / "reference" / "kit.md").read_text(), flags=re.M)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_of_the_kit_is_in_the_reference_with_a_sentence(name):
    rows = (DOCS / "reference" / "kit.md").read_text()

    assert re.search(rf"^\| `{re.escape(name)}` \| [A-Z9].*\. \| .+ \| \d+ \|$", rows, flags=re.M)


def test_a_contract_has_a_line_in_the_reference_for_every_kind():
    found = list(generate.classes_in(ROOT / "tickerml" / "testing" / "contracts.py"))

    assert [name for name, _, _ in found] == CONTRACTS
    assert {kind for _, kind, _ in found} == set(hookspecs.SHAPES)


# --- Examples ---------------------------------------------------------------------------------------


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def test_the_example_strategy_loads_as_a_file_of_plugins_toml():
    spec = registry.load("strategy-hello", module=str(EXAMPLES / "strategy_hello.py"))

    assert spec.KIND == "strategy"
    assert spec.publishes == (SubmitOrder,)


def test_the_tests_of_the_example_pass(examples):
    module = load(EXAMPLES / "test_strategy_hello.py")
    tests = [each for name, each in vars(module).items() if name.startswith("test_")]

    assert len(tests) == 4
    for test in tests:
        test()


def test_the_example_trades_in_a_backtest_of_its_own_configuration(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = config.plan(config.load(EXAMPLES / "plugins.toml"), "hello", ["kernel.clock=data"])
    test = Backtest(plan)
    for _ in test.run(60 * 10**9):
        pass

    report = test.summary.report()
    assert report["fills"] >= 2
    assert report["failed_plugins"] == {}
