"""
`tickerml plugin new KIND NAME`: a package that already passes its checks.

The texts lie in templates/, a folder a kind; a word in double braces stands for what only
the name decides.
"""

import json
import keyword
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tickerml.kernel import NS_PER_S
from tickerml.kernel import messages as m
from tickerml.kernel.clock import DATA_CLOCK_START_NS
from tickerml.kernel.convert import suggest
from tickerml.kernel.errors import ConfigError
from tickerml.kernel.hookspecs import SHAPES
from tickerml.kernel.manifest import COMMAND

from . import tape

TEMPLATES = Path(__file__).parent / "templates"
MAX_NAME = 40  # characters: it becomes part of a distribution, a module and a file name
PAYLOAD_FRAMES = 40
PAYLOAD_SEED = 6  # of a market that turns often enough for a strategy to act
SAMPLE_ITEMS = 20
_WORD = re.compile(r"\{\{(\w+)\}\}")

#: kind -> (what it does, in a line; how far it reaches)
_ABOUT = {
    "exchange": ("plays recorded frames of one exchange", "edge"),
    "feature_set": ("mid, spread and who is buying", "edge"),
    "strategy": ("buys where bids outweigh asks", "edge"),
    "risk_rule": ("cuts every order down to a largest notional", "edge"),
    "simulator": ("fills at once, or at a print", "edge"),
    "trainer": ("learns how far prices move", "edge"),
    "store": ("writes every fill into a CSV file", "edge"),
    "sink": ("writes alerts into a text file", "edge"),
    "news_source": ("follows a file of news items", "swappable"),
    "page": ("shows how the system is, as JSON", "conforms"),
    "command": ("says how many messages the newest run has", "conforms"),
}
_PUBLISHES = {
    "exchange": (
        "Instrument",
        "BookSnapshot",
        "BookDelta",
        "Trade",
        "FeedConnected",
        "FeedEnded",
        "FeedSummarized",
    ),
    "feature_set": ("FeatureVector",),
    "strategy": ("SubmitOrder",),
    "risk_rule": ("RiskVerdict",),
    "simulator": ("OrderAccepted", "OrderFilled", "OrderCanceled", "OrderExpired"),
    "trainer": ("TrainingReported", "ModelTrained"),
    "sink": ("AlertSent",),
    "news_source": ("NewsItem", "FeedConnected", "FeedLost", "FeedSummarized"),
}
_ENDINGS = ("OrderFilled", "OrderDenied", "OrderRejected", "OrderCanceled", "OrderExpired")
_SUBSCRIBES = {
    "feature_set": ("Trade", "BookDelta"),
    "strategy": ("BookDelta", *_ENDINGS),
    "risk_rule": ("SubmitOrder",),
    "simulator": ("OrderSubmitted", "Trade", "CancelOrder"),
    "store": ("OrderFilled",),
}


def create(kind: str, name: str, into: Path) -> list[Path]:
    """
    Write the package tickerml-KIND-NAME into the folder *into*, all of it or nothing.

    Args:
        kind: one of the eleven; `risk-rule` is `risk_rule`.
        name: of a-z, 0-9 and -: what it is called beside its kind.
    Returns: the files, in the order of their names.
    Raises: ConfigError: there is no such kind, the name is not one, the folder is there already or cannot
        be written.
    """
    kind = kind.replace("-", "_")
    if kind not in SHAPES:
        raise ConfigError(f"there is no kind {kind!r}{suggest(kind, SHAPES)}; there are {', '.join(SHAPES)}")
    _check_name(name)
    words = _words(kind, name)
    project = Path(into) / words["distribution"]
    if project.exists():
        raise ConfigError(f"{project} is there already; choose another name, or take it away")
    try:
        Path(into).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tickerml-new-", dir=into) as directory:
            unfinished = Path(directory) / "project"
            for path, text in _files(kind, words):
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).write_text(text)
            unfinished.rename(project)
    except OSError as error:
        raise ConfigError(f"cannot write {project}: {error.strerror}") from None
    return sorted(path for path in project.rglob("*") if path.is_file())


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"name: expected up to {MAX_NAME} of a-z, 0-9 and single dashes between them, first a letter; "
            f"was {name!r}"
        )
    if keyword.iskeyword(name):
        raise ConfigError(f"name: {name!r} is a word of Python; choose another")


def _words(kind: str, name: str) -> dict[str, str]:
    """Return what each word in braces stands for."""
    plugin = f"{kind.replace('_', '-')}-{name}"
    summary, tier = _ABOUT[kind]
    camel = "".join(part.capitalize() for part in name.split("-"))
    facts = [f"{key} = {json.dumps(list(names))}" for key, names in _facts(kind)]
    return {
        "id": plugin,
        "name": name,
        "kind": kind,
        "words": kind.replace("_", " "),
        "summary": summary,
        "tier": tier,
        "distribution": f"tickerml-{plugin}",
        "module": f"tickerml_{plugin}".replace("-", "_"),
        "Class": camel,
        "Title": name.replace("-", " ").capitalize(),
        "contract": "".join(part.capitalize() for part in kind.split("_")) + "Contract",
        "facts": "\n".join(facts + ([f'commands = ["{name}"]'] if kind == COMMAND else [])),
    }


def _facts(kind: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "publishes", _PUBLISHES.get(kind, ())
    yield "subscribes", _SUBSCRIBES.get(kind, ())


def _files(kind: str, words: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file."""
    package = f"src/{words['module']}"
    for path, template in (
        ("pyproject.toml", "common/pyproject.toml"),
        ("README.md", "common/README.md"),
        (".github/workflows/check.yml", "common/check.yml"),
        (".gitignore", "common/gitignore"),
        (f"{package}/tickerml-plugin.toml", "common/manifest.toml"),
        (f"{package}/__init__.py", f"{kind}/plugin.py"),
        ("tests/test_plugin.py", f"{kind}/test.py"),
    ):
        yield path, _filled(template, words)
    yield f"{package}/py.typed", ""
    if kind in _PAYLOADS:
        payload = _PAYLOADS[kind]()
        yield "tests/payload.jsonl", payload
        yield "tests/golden/payload.jsonl", _filled(f"{kind}/golden.jsonl", words)
        if kind in _WITH_SAMPLE:
            yield f"{package}/sample.jsonl", payload


def _filled(template: str, words: dict[str, str]) -> str:
    text = (TEMPLATES / f"{template}.tmpl").read_text()
    return _WORD.sub(lambda found: words[found[1]], text)


# --- Payloads -----------------------------------------------------------------------------------------


def _market() -> str:
    with tempfile.TemporaryDirectory(prefix="tickerml-new-") as directory:
        path = Path(directory) / "payload.jsonl"
        tape.save(path, tape.market_only(tape.generate(PAYLOAD_SEED, PAYLOAD_FRAMES)))
        return path.read_text()


def _frames() -> str:
    """Return the made-up tape as an exchange with a format of its own would have sent it."""
    lines = []
    for message in tape.generate(PAYLOAD_SEED, PAYLOAD_FRAMES):
        if isinstance(message, m.BookSnapshot | m.BookDelta | m.Trade):
            frame = {
                "type": "trade",
                "received": message.ts_recv,
                "time": message.ts_event,
                "symbol": message.symbol,
                "seq": message.seq,
            }
            if isinstance(message, m.Trade):
                side = "buy" if message.aggressor is m.Side.BUY else "sell"
                rest: dict[str, object] = {**_level(message.price, message.quantity), "side": side}
            else:
                kind = "book" if isinstance(message, m.BookSnapshot) else "change"
                rest = {"type": kind, "bids": _pairs(message.bids), "asks": _pairs(message.asks)}
            lines.append(json.dumps(frame | rest))
    return "\n".join(lines) + "\n"


def _level(price: int, quantity: int) -> dict[str, str]:
    return {
        "price": f"{price // 100}.{price % 100:02}",
        "quantity": f"{quantity // 10**5}.{quantity % 10**5:05}",
    }


def _pairs(packed: bytes) -> list[list[str]]:
    return [list(_level(price, quantity).values()) for price, quantity in m.levels(packed)]


def _items() -> str:
    lines = [
        json.dumps(
            {
                "id": str(number),
                "published": DATA_CLOCK_START_NS + number * 60 * NS_PER_S,
                "title": f"Made-up headline {number}",
                "url": f"https://example.org/{number}",
            }
        )
        for number in range(SAMPLE_ITEMS)
    ]
    return "\n".join(lines) + "\n"


_PAYLOADS: dict[str, Callable[[], str]] = {
    **dict.fromkeys(("feature_set", "strategy", "risk_rule", "simulator", "trainer"), _market),
    "exchange": _frames,
    "news_source": _items,
}
_WITH_SAMPLE = ("exchange", "news_source")  # the package itself plays it
