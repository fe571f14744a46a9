"""Tier `loads`: what can be known of a plugin without running it."""

from typing import Any, get_type_hints

import msgspec

from tickerml.kernel import registry
from tickerml.kernel.hookspecs import Options
from tickerml.kernel.manifest import COMMAND

from .contracts_subject import Check, Subject, expect
from .tiers_probe import ask

IMPORT_LIMIT_S = (
    1.0  # of processor time, beyond what the kernel itself imports; a Pi takes about four times it
)
_HOSTED = ("consumer", "source", "live", "page")
_probed: dict[bytes, dict[str, Any]] = {}


def _import(subject: Subject) -> dict[str, Any]:
    """Return what one import in a fresh process came to."""
    key = msgspec.json.encode(subject)
    if key not in _probed:
        _probed[key] = ask("import", subject)
    return _probed[key]


def manifest(subject: Subject) -> str:
    """Its manifest is valid, has no key that nobody knows, and says in one line what the plugin does."""
    said = subject.manifest
    expect(not subject.unknown, "; ".join(subject.unknown))
    expect(said.summary.strip(), "expected a summary in the manifest, was none")
    expect(set(said.profiles) <= {"pi", "pc"}, f"expected profiles of pi and pc, was {said.profiles}")
    blank = [check for check, reason in said.exempt.items() if not reason.strip()]
    expect(not blank, f"expected a reason for every exemption, was none for {', '.join(blank)}")
    expect(
        bool(said.commands) == (COMMAND in said.kinds),
        f"a {COMMAND} lists its words under `commands`, and nothing else does; was {said.commands}",
    )
    return f"{', '.join(said.kinds)} for API {said.api}"


def spec(subject: Subject) -> str:
    """Its module offers one spec, and it says what the manifest says."""
    found, _ = subject.load()
    said = subject.manifest
    names = [cls.__name__ for cls in registry.load(subject.id, subject.module, subject.paths).publishes]
    expect(
        sorted(names) == sorted(said.publishes),
        f"publishes: the spec says {sorted(names)}, the manifest {sorted(said.publishes)}; make them one",
    )
    expect(
        found.state_version == said.state_version,
        f"state_version: the spec says {found.state_version}, the manifest {said.state_version}",
    )
    expect(found.summary.strip(), "expected a summary in the spec, was none")
    return f"{type(found).__name__} with state version {found.state_version}"


def speed(subject: Subject) -> str:
    """Importing it takes less than a second of processor time."""
    seconds = float(_import(subject)["seconds"])
    expect(seconds < IMPORT_LIMIT_S, f"importing it took {seconds:.2f} s, the most is {IMPORT_LIMIT_S:g} s")
    return f"{seconds:.2f} s"


def quiet(subject: Subject) -> str:
    """Importing it starts no thread or process, opens no socket, and writes no file."""
    found = _import(subject)
    expect(not found["done"], f"while imported it {'; '.join(found['done'])}; do that in the component")
    expect(not found["threads"], f"importing it left {found['threads']} threads running")
    expect(found["files"] <= 0, f"importing it left {found['files']} files open")
    return "nothing but code"


def slim(subject: Subject) -> str:
    """Importing it brings nothing that a Pi has no room for, if it is for one."""
    heavy = _import(subject)["heavy"]
    expect(
        "pi" not in subject.manifest.profiles or not heavy,
        f"its profiles name pi, and it imports {', '.join(heavy)}; import that where it is used, or say "
        'profiles = ["pc"]',
    )
    return f"imports {', '.join(heavy)}" if heavy else "nothing heavy"


def options(subject: Subject) -> str:
    """Every option has a default, a description and a schema, and comes back from plugins.toml as it was."""
    type_ = registry.load(subject.id, subject.module, subject.paths).options
    expect(issubclass(type_, Options), f"expected options derived from Options, was {type_.__name__}")
    config = type_.__struct_config__
    expect(
        config.frozen and config.forbid_unknown_fields,
        f"{type_.__name__} must be frozen and forbid unknown fields, or nobody notices a typo",
    )
    hints = get_type_hints(type_, include_extras=True)
    for field in type_.__struct_fields__:
        texts = [getattr(meta, "description", None) for meta in getattr(hints[field], "__metadata__", ())]
        expect(any(texts), f"option {field} has no msgspec.Meta(description=…)")
    try:
        value = type_()
        msgspec.json.schema(type_)
        again = msgspec.convert(msgspec.to_builtins(value), type_)
    except (TypeError, msgspec.ValidationError) as error:
        raise AssertionError(f"options: {error}") from None
    expect(again == value, f"the defaults {value} came back as {again}")
    return f"{len(type_.__struct_fields__)} options"


def words(subject: Subject) -> str:
    """It adds the commands that its manifest lists, each with help."""
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.callback()(lambda: None)  # so that one command alone is a word as well
    add = getattr(subject.find(), "tickerml_commands", None)
    expect(add is not None, "a command is added by a hook tickerml_commands(app), was none")
    assert add is not None
    add(app)
    said = subject.manifest.commands
    group = typer.main.get_command(app)
    there = set(getattr(group, "commands", {}))
    expect(there == set(said), f"the manifest lists {sorted(said)}, the hook adds {sorted(there)}")
    for word in said:
        result = CliRunner().invoke(app, [word, "--help"])
        expect(result.exit_code == 0, f"{word} --help ended with {result.exit_code}: {result.output.strip()}")
    return ", ".join(said)


CHECKS = (
    Check("loads.manifest", manifest),
    Check("loads.import", speed),
    Check("loads.quiet", quiet),
    Check("loads.slim", slim),
    Check("loads.spec", spec, _HOSTED),
    Check("loads.options", options, _HOSTED),
    Check("conforms.words", words, kinds=(COMMAND,)),
)
