"""
Leave a system running and see whether anything grows.

    python benchmarks/soak.py [--minutes N] [--rate R] [--out DIRECTORY] [--json]

The whole headless set trades a synthetic market of R messages a second by the wall
clock, a twentieth of them stamped trades by which tick to order is timed. Every ten
seconds one row goes to DIRECTORY/samples.csv:

    memory of each process (RSS, PSS, and of its own alone without mapped files, MB of 2**20
    bytes), its file handles and threads;
    the journal's file, and in it what the log and what is kept for good take, MB;
    messages stamped, and how far the disk and the slowest host are behind;
    tick to order since the row before, p50 and p99, ms

and every minute report.json and curves.svg are written anew, so what was measured
stays when this is ended, however that happens. The journal keeps market data for a
sixth of the time, so that within it old data is dropped as often as new data comes;
the curves are judged from when the first has been dropped.
"""

import argparse
import contextlib
import csv
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "chaos"))

from budget import quantiles
from system import STAMPED, System

from tickerml.kernel import BusError, KernelUnreachable, SubmitOrder, codec

SAMPLE_S = 10.0
BOOKS = 8  # of the synthetic market
BURSTS = 1.13  # more than its rate says, for its bursts and what the hosts publish of their own
STAMPED_SHARE = 0.05
ORDERS_PER_S = 4  # stamped ones: enough for a p99 of a minute, few enough for what is kept for good
MB = 2**20
#: What counts as flat: the column's name begins with this, and it rises by at most so much an hour.
FLAT = {
    "rss": 4.0,
    "pss": 4.0,
    "own": 2.0,
    "handles": 1.0,
    "threads": 0.5,
    "log_mb": 2.0,
    "lag": 100.0,
    "p99_ms": 2.0,
}
FLAT_PER_CENT = 5.0  # of its mean an hour, where that is more


class Latencies:
    """Tick to order of the stamped orders, as they pass on the bus."""

    def __init__(self, system: System) -> None:
        self._client = system.client
        self._client.subscribe(b"order.bench.")
        self.found: list[float] = []

    def listen(self, seconds: float) -> None:
        """Collect for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for raw in self._client.receive(int(min(left, 0.5) * 1000) + 1):
                message = codec.decode(codec.unpack(raw).body)
                if isinstance(message, SubmitOrder) and message.reason:
                    self.found.append(int(message.reason) / 1e6)

    def take(self) -> dict[str, float]:
        """Return p50 and p99 since the last time, ms."""
        found, self.found = quantiles(self.found), []
        return {"p50_ms": found["p50"], "p99_ms": found["p99"]} if found["count"] else {}


# --- One sample -----------------------------------------------------------------------------------


def of_process(name: str, pid: int) -> dict[str, float]:
    """Return memory, file handles and threads of a process; nothing where it is gone."""
    base = Path(f"/proc/{pid}")
    try:
        fields = dict(line.split(":", 1) for line in (base / "smaps_rollup").read_text().splitlines()[1:])
        status = dict(line.split(":", 1) for line in (base / "status").read_text().splitlines())
        handles = len(list((base / "fd").iterdir()))
    except OSError:
        return {}
    return {
        f"rss_{name}": round(int(fields["Rss"].split()[0]) / 1024, 2),
        f"pss_{name}": round(int(fields["Pss"].split()[0]) / 1024, 2),
        f"own_{name}": round(int(fields["Anonymous"].split()[0]) / 1024, 2),
        f"handles_{name}": handles,
        f"threads_{name}": int(status["Threads"]),
    }


def of_journal(path: Path) -> dict[str, float]:
    """Return the size of the journal's file, and what its log and its kept messages take of it, MB."""
    found = {"file_mb": round((path / "data.mdb").stat().st_size / MB, 3)}
    with lmdb.open(str(path), readonly=True, max_dbs=8, lock=False) as env, env.begin() as txn:
        for table in ("log", "kept"):
            stat = txn.stat(env.open_db(table.encode(), txn=txn, create=False))
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            found[f"{table}_mb"] = round(pages * stat["psize"] / MB, 3)
    return found


def sample(system: System, report: dict[str, Any]) -> dict[str, float]:
    """Return one row."""
    row: dict[str, float] = {
        "seq": report["seq"],
        "uncommitted": report["seq"] - report["committed"],
        "lag": max((host["lag"] for host in report["hosts"]), default=0),
        "restarts": sum(host["restarts"] for host in report["hosts"]),
    }
    for name, pid in [("kernel", report["pid"]), *((host["host"], host["pid"]) for host in report["hosts"])]:
        row |= of_process(name, pid)
    row["pss_total"] = round(sum(value for key, value in row.items() if key.startswith("pss_")), 2)
    with contextlib.suppress(lmdb.Error, OSError):
        row |= of_journal(system.run_dir / "journal")
    return row


# --- What the rows say ----------------------------------------------------------------------------


def slope_per_hour(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the least-squares line, in units of *values* an hour; 0.0 below three points."""
    if len(values) < 3:
        return 0.0
    mean_t, mean_v = sum(times_s) / len(times_s), sum(values) / len(values)
    spread = sum((t - mean_t) ** 2 for t in times_s)
    covered = sum((t - mean_t) * (v - mean_v) for t, v in zip(times_s, values, strict=True))
    return covered / spread * 3600 if spread else 0.0


def judge(rows: list[dict[str, float]], warm_s: float) -> dict[str, dict[str, Any]]:
    """Return for each column its first, last, mean and slope after the warm-up, and whether it is flat."""
    warm = [row for row in rows if row["t_s"] >= warm_s]
    judged: dict[str, dict[str, Any]] = {}
    for name in sorted({name for row in warm for name in row} - {"t_s", "seq"}):
        points = [(row["t_s"], row[name]) for row in warm if name in row]
        values = [value for _, value in points]
        slope, mean = slope_per_hour([t for t, _ in points], values), sum(values) / len(values)
        judged[name] = {
            "first": values[0],
            "last": values[-1],
            "mean": round(mean, 2),
            "slope_per_hour": round(slope, 3),
        }
        limits = [limit for prefix, limit in FLAT.items() if name.startswith(prefix)]
        if limits:
            judged[name]["is_flat"] = slope <= max(limits[0], mean * FLAT_PER_CENT / 100)
    return judged


PANELS: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("PSS, MB", "pss_"),
    ("memory of its own, MB", "own_"),
    ("file handles", "handles_"),
    ("journal, MB", ("file_mb", "log_mb", "kept_mb")),
    ("tick to order, ms", ("p50_ms", "p99_ms")),
    ("messages behind", ("lag", "uncommitted")),
)
COLOURS = ("#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#475569")
WIDTH, HEIGHT, LEFT, TOP = 420, 150, 46, 24


def draw(rows: list[dict[str, float]]) -> str:
    """Return the curves as SVG: two columns of panels, each from 0 to its largest value."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH + 20}" height="{3 * (HEIGHT + 40)}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (title, chosen) in enumerate(PANELS):
        names = chosen if isinstance(chosen, tuple) else _columns(rows, chosen)
        x, y = number % 2 * WIDTH, number // 2 * (HEIGHT + 40)
        parts += [f'<g transform="translate({x},{y})">', *_panel(rows, title, names), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _columns(rows: list[dict[str, float]], prefix: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row if name.startswith(prefix)))


def _panel(rows: list[dict[str, float]], title: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    end = max((row["t_s"] for row in rows), default=0.0) or 1.0
    top = max((row[name] for row in rows for name in names if name in row), default=0.0) or 1.0
    right, bottom = WIDTH - 20, TOP + HEIGHT - 30
    parts = [
        f'<text x="{LEFT}" y="14" font-weight="bold">{title}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#94a3b8"/>',
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{top:,.4g}</text>',
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{end / 60:.0f} min</text>',
    ]
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + row['t_s'] / end * (right - LEFT):.1f},{bottom - row[name] / top * (bottom - TOP):.1f}"
            for row in rows
            if name in row
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        label = name.split("_", 1)[1] if name.startswith(("pss_", "own_", "handles_")) else name
        parts.append(f'<text x="{LEFT + 62 * number}" y="{bottom + 28}" fill="{colour}">{label}</text>')
    return parts


# --- The soak -------------------------------------------------------------------------------------


class Keeper:
    """The files: rows are added as they come, the rest is written anew from time to time."""

    def __init__(self, directory: Path, warm_s: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, float]] = []
        self.problems: list[str] = []
        self._directory = directory
        self._warm_s = warm_s
        self._file = (directory / "samples.csv").open("w", newline="")
        self._columns: list[str] = []

    def add(self, row: dict[str, float]) -> None:
        """Keep *row*; a column that was not there at first is left to report.json."""
        self.rows.append(row)
        if not self._columns:
            self._columns = [*row, *(name for name in ("p50_ms", "p99_ms") if name not in row)]
            csv.writer(self._file).writerow(self._columns)
        csv.writer(self._file).writerow([row.get(name, "") for name in self._columns])
        self._file.flush()

    def report(self) -> dict[str, Any]:
        """Return what the rows say so far."""
        columns = judge(self.rows, self._warm_s)
        last = self.rows[-1] if self.rows else {"t_s": 0.0, "seq": 0}
        rising = [name for name, found in columns.items() if not found.get("is_flat", True)]
        return {
            "minutes": round(last["t_s"] / 60, 1),
            "warm_up_minutes": round(self._warm_s / 60, 1),
            "messages": last["seq"],
            "messages_per_s": round(last["seq"] / last["t_s"], 1) if last["t_s"] else 0.0,
            "problems": self.problems,
            "rising": rising,
            "is_flat": bool(columns) and not rising and not self.problems,
            "columns": columns,
        }

    def write(self) -> None:
        """Write report.json and curves.svg anew."""
        (self._directory / "report.json").write_text(json.dumps(self.report(), indent=1))
        (self._directory / "curves.svg").write_text(draw(self.rows))


def soak(system: System, keeper: Keeper, minutes: float, is_quiet: bool) -> None:
    """Run *system* and keep a row every ten seconds."""
    system.start()
    system.wait_until(lambda report: report["state"] == "running", what="start")
    latencies = Latencies(system)
    began, written = time.monotonic(), 0.0
    while (since := time.monotonic() - began) < minutes * 60:
        latencies.listen(SAMPLE_S - since % SAMPLE_S)
        if not system.is_alive:
            keeper.problems.append(f"the kernel ended{system.last_words()}")
            return
        try:
            report = system.status(timeout_s=10)
        except (KernelUnreachable, BusError) as error:
            keeper.problems.append(f"{time.monotonic() - began:.0f} s: {error}")
            latencies = Latencies(system)
            continue
        row = {"t_s": round(time.monotonic() - began, 1), **sample(system, report), **latencies.take()}
        keeper.add(row)
        if report["state"] != "running":
            keeper.problems.append(f"{row['t_s']:.0f} s: {report['state']}")
        if row["t_s"] - written >= 60:
            written = row["t_s"]
            keeper.write()
            if not is_quiet:
                print(
                    f"{row['t_s'] / 60:6.1f} min  {row['seq']:>11,.0f} messages  "
                    f"PSS {row['pss_total']:.1f} MB  "
                    f"journal {row.get('file_mb', 0):.1f} MB  p99 {row.get('p99_ms', 0):.1f} ms",
                    file=sys.stderr,
                    flush=True,
                )


def main() -> int:
    """Soak as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2_000.0, help="messages a second")
    parser.add_argument("--out", type=Path, default=None, help="where to write; a new directory by default")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="tell nothing on the way")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="tickerml-soak-"))
    print(f"writing to {out}", file=sys.stderr)
    hot_s = arguments.minutes * 60 / 6
    stamped = max(1, int(arguments.rate * STAMPED_SHARE))
    system = System(
        clock="wall",
        duration_s=0,
        rate=arguments.rate * (1 - STAMPED_SHARE) / BOOKS / BURSTS,
        stamped_rate=stamped,
        every=max(1, stamped // ORDERS_PER_S),
        hot_hours=hot_s / 3600,
        checkpoint_s=10.0,
        trading="",  # as it comes
        **STAMPED,
    )
    keeper = Keeper(out, hot_s + 120)
    # Ended from outside, the files are written and the processes are taken along.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        soak(system, keeper, arguments.minutes, arguments.quiet)
    finally:
        keeper.write()
        system.close()
    report = keeper.report()
    print(json.dumps(report, indent=None if arguments.json else 1))
    return 0 if report["is_flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
