"""The commands that look into a journal, check it, and make it whole."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer

from tickerml.kernel import CodecError, Message, StoreError, codec, log, repair, runs
from tickerml.kernel.journal import Damage, JournalReader
from tickerml.kernel.runs import HomeLock
from tickerml.kernel.verify import verify

from .terminal import DEFAULT_HOME, AsJson, Home, RunDir, find_run, print_report, progress

app = typer.Typer(help="Look into the journal, check it, make it whole.", no_args_is_help=True)


def _journal(run_dir: Path | None, home: Path) -> Path:
    return find_run(run_dir, home) / "journal"


def _describe(raw: bytes) -> dict[str, Any]:
    frame = codec.unpack(raw)
    try:
        message: Message | str = codec.decode(frame.body)
    except CodecError as error:
        message = str(error)
    fields = (
        {name: getattr(message, name) for name in message.__struct_fields__}
        if isinstance(message, Message)
        else {"error": message}
    )
    return {
        "seq": frame.seq,
        "topic": frame.topic.decode(),
        "cause": frame.cause,
        "type": type(message).__name__,
        **json.loads(msgspec.json.encode(fields)),
    }


def _print_frames(frames: list[bytes], as_json: bool) -> None:
    rows = [_describe(raw) for raw in frames]
    if as_json:
        return print_report({"messages": rows}, True)
    for row in rows:
        head = f"{row.pop('seq'):>10}  {row.pop('topic'):<32} {row.pop('type'):<18}"
        row.pop("cause")
        print(head, " ".join(f"{key}={str(value)[:48]}" for key, value in row.items()))


@app.command("tail")
def journal_tail(
    count: Annotated[int, typer.Option("-n", min=1, help="How many messages.")] = 20,
    kept: Annotated[
        bool, typer.Option("--kept", help="Only decisions, orders, fills and what else is kept for good.")
    ] = False,
    run_dir: RunDir = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show the last messages."""
    reader = JournalReader(_journal(run_dir, home))
    step, frames = count, []
    while True:
        after = max(0, reader.head() - step)
        frames = list(reader.frames(after, table="kept" if kept else "log"))
        if len(frames) >= count or not after:
            break
        step *= 4
    _print_frames(frames[-count:], as_json)


@app.command("show")
def journal_show(
    first: Annotated[int, typer.Argument(help="The first seq to show.")] = 1,
    last: Annotated[int | None, typer.Argument(help="The last.", show_default="the first")] = None,
    run_dir: RunDir = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show a range of messages, with what caused them."""
    reader = JournalReader(_journal(run_dir, home))
    _print_frames(list(reader.frames(first - 1, first if last is None else last)), as_json)


@app.command("verify")
def journal_verify(
    run_dir: RunDir = None,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Read the whole journal and name what is damaged or missing; exit 1 when something is."""
    log.configure(as_json=as_json or None, level=50)
    report: dict[str, Any] = {}
    with progress("verify", as_json) as update:
        for report in verify(_journal(run_dir, home)):
            if "seq" in report:
                update(f"{report['seq']:,} of {report['head']:,} messages")
    if as_json:
        print_report(report, True)
    else:
        _print_verdict(report)
    if not report["ok"]:
        raise typer.Exit(1)


def _print_verdict(report: dict[str, Any]) -> None:
    if report["unreadable"]:
        print(f"unreadable: {report['unreadable']}")
        return
    print(
        f"{'whole' if report['ok'] else 'DAMAGED'}  {report['journal']}  {report['messages']:,} messages in "
        f"{report['records']:,} records, seq {report['first_seq']} to {report['last_seq']}, "
        f"{report['kept']:,} kept for good"
    )
    for found in report["damaged"]:
        print(f"{found['table']}  {Damage(found['first_seq'], found['last_seq'], found['reason'])}")
    for host, found in report["checkpoints"].items():
        print(f"checkpoints of {host}: at {', '.join(map(str, found['whole'])) or 'none'}")
        for reason in found["damaged"]:
            print(f"  {reason}")


@app.command("repair")
def journal_repair(
    run_dir: RunDir = None,
    is_agreed: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a damaged journal one that a kernel can go on from; nothing is deleted, only set aside."""
    log.configure(as_json=as_json or None, level=50)
    path = _journal(run_dir, home)
    done: list[str] = []
    with contextlib.closing(HomeLock(_home_of(path) or home.expanduser())):
        while (needed := repair.diagnose(path, runs.rebuilt_hosts)).words:
            print(needed.words, file=sys.stderr)
            if needed.remedy == repair.Remedy.NOTHING.value:
                raise typer.Exit(1)
            if not is_agreed:
                typer.confirm("Do that?", abort=True, err=True)
            done.append(repair.apply(path, needed, time.strftime("%Y%m%dT%H%M%S")))
    print_report({"repaired": bool(done), "done": done}, as_json)


def _home_of(journal: Path) -> Path | None:
    """Return the HOME of a run at HOME/runs/PROFILE/NUMBER; None for one that lies elsewhere."""
    parents = journal.absolute().parents
    return parents[3] if len(parents) > 3 and parents[2].name == "runs" else None


@app.command("export")
def journal_export(
    out: Annotated[str, typer.Option("--out", help="The file to write; - is stdout.")] = "-",
    after: Annotated[int, typer.Option(help="Only what comes after this seq.")] = 0,
    until: Annotated[int, typer.Option(help="The last seq.", show_default="the end")] = 2**63 - 1,
    topic: Annotated[
        str, typer.Option(help="Only topics that begin so, such as fill. or trade.kraken.")
    ] = "",
    kept: Annotated[bool, typer.Option("--kept", help="Only what is kept for good.")] = False,
    skips: Annotated[
        bool, typer.Option("--skip-damaged", help="Go on behind what is damaged, instead of ending there.")
    ] = False,
    run_dir: RunDir = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Write messages as JSON lines: seq, topic, origin, cause, type, and the message's own fields."""
    log.configure(level=50)
    with contextlib.closing(JournalReader(_journal(run_dir, home))) as reader, _open(out) as file:
        names = runs.origins(reader)
        with progress("export", out == "-") as update:
            for count, raw in enumerate(_frames(reader, after, until, "kept" if kept else "log", skips)):
                if raw.startswith(topic.encode()):
                    row = _describe(raw)
                    number = codec.unpack(raw).origin
                    origin = names[number] if number < len(names) else str(number)
                    file.write(json.dumps({"seq": row.pop("seq"), "origin": origin, **row}) + "\n")
                if count % 1000 == 0:
                    update(f"{count:,} messages")


@contextlib.contextmanager
def _open(out: str) -> Iterator[TextIO]:
    if out == "-":
        yield sys.stdout
        return
    try:
        with Path(out).open("w") as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}") from None


def _frames(reader: JournalReader, after: int, until: int, table: str, skips: bool) -> Iterator[bytes]:
    if not skips:
        yield from reader.frames(after, until, table)
        return
    for found in reader.scan(after, table):
        if isinstance(found, Damage):
            if found.first_seq > until:
                return
            print(f"tickerml: skipped {found}", file=sys.stderr)
            continue
        for raw in found.frames:
            seq = codec.unpack(raw).seq
            if seq > until:
                return
            if seq > after:
                yield raw
