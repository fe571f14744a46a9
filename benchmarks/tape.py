"""
The tape against Parquet and SQLite, on the same rows, in the same run.

    python benchmarks/tape.py [--json] [--rows 100000000] [--rounds 3]

The captures are found through TICKERML_CAPTURES, else beside the repository; each is imported as
`tickerml data import` does it, without the quotes. Parquet needs pyarrow.

bytes_per_row   of all books and of all trades of the captures: what the tape's blocks take, the
                recorder's own books included but not counted as rows; and what Parquet takes for the
                same rows without them, with zstd, in the smaller of two encodings (its default, and
                differences); by capture, and in all
ingest, read    hftbacktest's books: from an array into a synced file, the tape in portions of 32
                blocks; and from the file into arrays, again and again in one process, the tape into
                memory that it has had, as Arrow does by itself. M rows/s at best; ns of CPU a row,
                median, least and most of the rounds, and the ratio of the medians: on a busy machine
                only these say much. tape is what the slim set has, compiled needs numba. columns
                gives each column an array of its own, as Parquet is read; two unpacks the time and
                the price alone
first_read      the same for the first read in a process of its own, as a script does it: Arrow keeps
                the memory that it has had, and NumPy gives it back
instant         ms to rebuild the book at a random instant of a synthetic tape of --rows rows

Whoever is compared takes turns in each of --rounds.
"""

import argparse
import json
import logging
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog

from tickerml.plugins.data_import import Settings, import_files
from tickerml.plugins.tape import ROW, Sealing, TapeReader, TapeWriter, stream_name
from tickerml.plugins.tape_rows import Kind
from tickerml.plugins.tape_tables import columns_of

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

CAPTURES = Path(os.environ.get("TICKERML_CAPTURES", Path(__file__).parents[2] / "shared" / "data")) / "raw_ws"
BLOCK = 16_384
STREAM = stream_name("book", "bench", "BTC/USDT")
TWO = ("ts_recv", "price")
PEERS = ("parquet", "sqlite")
NUMBERS = ("ts_recv", "ts_event", "seq", "price", "quantity")
ENCODINGS: tuple[dict[str, Any], ...] = (
    {},
    {"use_dictionary": ["side", "kind"], "column_encoding": dict.fromkeys(NUMBERS, "DELTA_BINARY_PACKED")},
)


def quiet(text: str, fraction: float = 0.0) -> None:
    """Show nothing."""


def write_parquet(rows: np.ndarray, path: Path, encoding: dict[str, Any]) -> None:
    """Write *rows* as a Parquet file that is on the disk when this returns."""
    table = pyarrow.table(columns_of(rows))
    with path.open("wb") as file:
        pyarrow.parquet.write_table(table, file, compression="zstd", **encoding)
        file.flush()
        os.fsync(file.fileno())


def sizes(folder: Path) -> list[dict[str, Any]]:
    """Return what the books and the trades of each capture take."""
    found = []
    for source in sorted({path.parent for path in CAPTURES.glob("*/*")}):
        tape = folder / source.name
        for group in groups(source):
            import_files(group, tape, Settings(quotes=False), quiet)
        reader = TapeReader(tape)
        for kind in ("book", "trade"):
            streams = [name for name in reader.streams() if name.startswith(f"{kind}|")]
            figures = {"capture": source.name, "kind": kind, "rows": 0, "tape": 0, "parquet": 0}
            for stream in streams:
                rows = reader.read(stream)
                figures["rows"] += len(rows)
                figures["tape"] += sum(block.stored_bytes for block in reader.blocks(stream))
                figures["parquet"] += parquet_bytes(rows, folder / "rows.parquet")
            found.append(figures)
    return found


def groups(source: Path) -> list[list[Path]]:
    """Return the files of *source* that are imported together: those of a day, or of a symbol."""
    files = sorted(source.iterdir())
    if all(path.suffix == ".gz" for path in files):
        names = sorted({path.name.rsplit("_", 1)[0] for path in files})
        return [[path for path in files if path.name.startswith(name)] for name in names]
    days = sorted({path.name.split("_", 1)[0] for path in files})
    return [[path for path in files if path.name.startswith(day)] for day in days]


def parquet_bytes(rows: np.ndarray, path: Path) -> int:
    """Return what *rows* take as Parquet, in the better encoding; 0 without pyarrow."""
    if pyarrow is None:
        return 0
    least = []
    for encoding in ENCODINGS:
        write_parquet(rows, path, encoding)
        least.append(path.stat().st_size)
    return min(least)


class Clock(NamedTuple):
    """What something took: seconds on the wall, and of the processor."""

    wall: float
    cpu: float


def clocked(action: Callable[[], Any]) -> Clock:
    """Return what *action* takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Clock(time.perf_counter() - wall, time.process_time() - cpu)


def real_rows(folder: Path) -> np.ndarray:
    """Return the books of all of hftbacktest's captures, one behind the other."""
    reader, parts = TapeReader(folder / "binance"), []
    for stream in reader.streams():
        if stream.startswith("book|"):
            rows = reader.read(stream)
            rows = rows[rows["kind"] != Kind.GAP]
            if parts:
                rows["ts_recv"] += parts[-1]["ts_recv"][-1] - rows["ts_recv"][0] + 1
            parts.append(rows)
    return np.concatenate(parts)


def seal(path: Path, rows: np.ndarray, is_compiled: bool = False, portion: int = 32) -> None:
    """Write *rows* as a tape, *portion* blocks at a time."""
    path.unlink(missing_ok=True)
    writer = TapeWriter(path, is_compiled=is_compiled)
    blocks = [
        Sealing(STREAM, number, rows[start : start + BLOCK])
        for number, start in enumerate(range(0, len(rows), BLOCK))
    ]
    for start in range(0, len(blocks), portion):
        writer.seal_all(blocks[start : start + portion])


def fill_sqlite(path: Path, rows: np.ndarray) -> None:
    """Write *rows* into SQLite, a block a transaction."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.execute(f"create table rows ({', '.join(f'{name} integer' for name in ROW.names)})")
    for start in range(0, len(rows), BLOCK):
        with connection:
            connection.executemany(
                "insert into rows values (?, ?, ?, ?, ?, ?, ?, ?)", rows[start : start + BLOCK].tolist()
            )
    connection.close()


def read_sqlite(path: Path) -> np.ndarray:
    """Return all that is in it."""
    connection = sqlite3.connect(path)
    found = np.array(connection.execute("select * from rows").fetchall(), np.int64)
    connection.close()
    return found


def read_parquet(path: Path, names: list[str] | None = None) -> list[np.ndarray]:
    """Return its columns, or those of *names*."""
    table = pyarrow.parquet.read_table(path, columns=names)
    return [column.combine_chunks().to_numpy(zero_copy_only=False) for column in table.columns]


FIRST = """
import sys, time
from pathlib import Path
import pyarrow.parquet
from tickerml.plugins.tape import TapeReader

sys.path.insert(0, sys.argv[1])
from tape import STREAM, read_parquet

what, path = sys.argv[2], Path(sys.argv[3])
read = {"tape": lambda: TapeReader(path).read(STREAM), "parquet": lambda: read_parquet(path)}[what]
began = time.perf_counter()
read()
print(time.perf_counter() - began)
"""


def first_read(what: str, path: Path, rounds: int) -> float:
    """Return the seconds that the first read takes in a process of its own, its imports not counted."""
    command = [sys.executable, "-c", FIRST, str(Path(__file__).parent), what, str(path)]
    return min(float(subprocess.check_output(command)) for _ in range(rounds))


def speeds(folder: Path, rounds: int) -> dict[str, Any]:
    """Return how fast rows go in and out, and the ratios to Parquet and SQLite."""
    rows = real_rows(folder)
    tape, parquet, lite = folder / "speed.mdb", folder / "speed.parquet", folder / "speed.sqlite"
    few = rows[: len(rows) // 8]  # SQLite's turn would take most of the time
    forms = {"tape": False, **({"compiled": True} if find_spec("numba") else {})}
    ingest: dict[str, Callable[[], Any]] = {"sqlite": lambda: fill_sqlite(lite, few)}
    read: dict[str, Callable[[], Any]] = {"sqlite": lambda: read_sqlite(lite)}
    two: dict[str, Callable[[], Any]] = {}
    if pyarrow:
        ingest["parquet"] = lambda: write_parquet(rows, parquet, {})
        read["parquet"] = lambda: read_parquet(parquet)
        two["parquet"] = lambda: read_parquet(parquet, list(TWO))
    for name, is_compiled in forms.items():
        ingest[name] = partial(seal, tape, rows, is_compiled)
        ingest[name]()
        reader = TapeReader(tape, is_compiled=is_compiled)
        whole, apart = reader.read(STREAM), reader.columns(STREAM)
        assert whole.tobytes() == rows.tobytes()
        read[name] = partial(reader.read, STREAM, into=whole)
        read[f"{name}_columns"] = partial(reader.columns, STREAM, into=apart)
        two[name] = partial(reader.columns, STREAM, TWO, into=apart)
    found = {
        "ingest": compared(ingest, len(rows), rounds),
        "read": compared(read, len(rows), rounds),
        "two": compared(two, len(rows), rounds),
    }
    if pyarrow:
        took = {name: first_read(name, path, rounds) for name, path in (("tape", tape), ("parquet", parquet))}
        found["first_read"] = {name: round(len(rows) / wall / 1e6, 2) for name, wall in took.items()}
        found["first_read"]["to_parquet"] = round(took["parquet"] / took["tape"], 2)
    return found


def compared(actions: dict[str, Callable[[], Any]], count: int, rounds: int) -> dict[str, Any]:
    """Return what each of *actions* took a row, and the ratios to those that are not ours."""
    took: dict[str, list[Clock]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            took[name].append(clocked(action))
    found: dict[str, Any] = {}
    cpu: dict[str, float] = {}
    for name, clocks in took.items():
        rows = count // 8 if name == "sqlite" else count
        ns = sorted(clock.cpu * 1e9 / rows for clock in clocks)
        cpu[name] = statistics.median(ns)
        found[name] = {
            "m_rows_s": round(rows / min(clock.wall for clock in clocks) / 1e6, 2),
            "cpu_ns": [round(value, 1) for value in (cpu[name], ns[0], ns[-1])],
        }
    for name, figures in found.items():
        if name not in PEERS:
            figures |= {f"to_{peer}": round(cpu[peer] / cpu[name], 2) for peer in PEERS if peer in cpu}
    return found


def instants(folder: Path, count: int, asked: int = 200) -> dict[str, Any]:
    """Return how long it takes to find a book in a synthetic tape of *count* rows."""
    path = folder / "large.mdb"
    made = np.zeros(BLOCK, ROW)
    chance = np.random.default_rng(1)
    made["ts_recv"] = np.arange(BLOCK) // 8 * 10**7
    made["price"] = 6_000_000 + np.cumsum(chance.integers(-2, 3, BLOCK)) + chance.integers(-500, 500, BLOCK)
    made["quantity"] = chance.integers(0, 3, BLOCK) * chance.integers(1, 10**6, BLOCK)
    made["side"] = np.where(chance.random(BLOCK) < 0.5, 1, -1)
    made["kind"][:800], made["ts_recv"][:800] = Kind.SNAPSHOT, 0
    made["is_last"][7::8] = True
    made["is_last"][:799], made["is_last"][799] = False, True
    step = int(made["ts_recv"][-1]) + 10**7
    blocks = -(-count // BLOCK)
    writer, began = TapeWriter(path, is_compiled=bool(find_spec("numba"))), time.perf_counter()
    for start in range(0, blocks, 64):
        sealings = []
        for number in range(start, min(start + 64, blocks)):
            rows = made.copy()
            rows["ts_recv"] += number * step
            sealings.append(Sealing(STREAM, number, rows))
        writer.seal_all(sealings)
    filled = time.perf_counter() - began
    reader, pick = TapeReader(path), random.Random(1)
    took = []
    for _ in range(asked):
        ts = pick.randrange(blocks * step)
        began = time.perf_counter()
        book = reader.book_at("bench", "BTC/USDT", ts)
        took.append((time.perf_counter() - began) * 1000)
        assert ts - 10**9 < book.ts_recv <= ts
    took.sort()
    return {
        "rows": blocks * BLOCK,
        "file_mb": round(path.stat().st_size / 1e6),
        "filled_s": round(filled, 1),
        "p50_ms": round(took[len(took) // 2], 2),
        "p99_ms": round(took[int(len(took) * 0.99)], 2),
    }


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Return all figures."""
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "pyarrow": bool(pyarrow)}
    report: dict[str, Any] = {"machine": machine}
    if CAPTURES.is_dir():
        captures = sizes(folder)
        report["captures"] = [per_row(figures) for figures in captures]
        report["bytes_per_row"] = {
            kind: per_row(
                {
                    name: sum(figures[name] for figures in captures if figures["kind"] == kind)
                    for name in ("rows", "tape", "parquet")
                }
            )
            for kind in ("book", "trade")
        }
        report |= speeds(folder, rounds)
    if rows:
        report["instant"] = instants(folder, rows)
    report["load_at_the_end"] = {"load": os.getloadavg()[0]}
    return report


def per_row(figures: dict[str, Any]) -> dict[str, Any]:
    """Return *figures* with bytes a row in the place of bytes."""
    return {
        name: round(value / max(figures["rows"], 1), 2) if name in ("tape", "parquet") else value
        for name, value in figures.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the synthetic tape; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3, help="in which all take turns")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), arguments.rows, arguments.rounds)
    if arguments.json:
        print(json.dumps(report))
        return
    for figures in report.pop("captures", []):
        print(*(f"{name} {value}" for name, value in figures.items()), sep="  ")
    for name, figures in report.items():
        print(f"{name:14}", *(f"{each} {value}" for each, value in figures.items()), sep="  ")


if __name__ == "__main__":
    sys.exit(main())
