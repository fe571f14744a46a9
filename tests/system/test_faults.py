"""Each kind of bad input or broken part gives one clear message, and the rest goes on."""

import json
import re
from pathlib import Path
from typing import Any

import lmdb
import pytest

pytestmark = pytest.mark.processes

TABLE = """
[plugin.{id}]
host = "trade"
module = "{module}"
"""


def add_broken(system: Any, module: str, kind: str = "strategy", id: str = "strategy-broken") -> None:
    system.configure(plugins=(id,), extra=TABLE.format(id=id, kind=kind, module=module), duration=30)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("raises_at_import", "plugin strategy-broken failed at load: .*this module is broken"),
        ("raises_in_handler", "plugin strategy-broken failed at Trade: RuntimeError: the hundredth trade"),
        ("raises_at_snapshot", "plugin strategy-broken failed at snapshot: RuntimeError: no state today"),
    ],
)
def test_a_broken_plugin_is_set_aside_and_the_rest_trades_on(system: Any, module: str, told: str) -> None:
    add_broken(system, module)

    done = system.run()

    assert done.returncode == 1
    assert re.search(told, done.stderr)
    summary = json.loads(done.stdout)
    assert summary["stopped_because"] == "the data ended"
    assert summary["orders"] > 5
    assert summary["fills"] > 0


def test_a_risk_rule_that_raises_is_a_no_to_every_order(system: Any) -> None:
    add_broken(system, "rule_raises", kind="risk_rule", id="risk-broken")

    summary = json.loads(system.run().stdout)

    assert summary["orders"] > 0
    assert summary["orders_denied"] == summary["orders"]
    assert summary["fills"] == 0


def test_an_option_out_of_range_stops_the_start_with_its_name_and_value(system: Any) -> None:
    done = system.run("--set", "exchange-synthetic.seed=-1")

    assert done.returncode == 2
    assert "plugin.exchange-synthetic.options.seed" in done.stderr
    assert "was -1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_refused_by_name(system: Any) -> None:
    done = system.run("--set", "sim-fifo.no_such_thing=1")

    assert done.returncode == 2
    assert "plugin.sim-fifo.options.no_such_thing: unknown key" in done.stderr


def test_a_second_kernel_on_the_same_home_is_refused(system: Any) -> None:
    system.configure(clock="wall", speed="1", duration=0)
    system.start()
    system.wait_until(lambda report: report["state"] == "running")

    second = system.run()

    assert second.returncode == 1
    assert re.search(r"another kernel \(pid \d+\) runs on", second.stderr)
    assert system.process.poll() is None


def test_a_full_journal_stops_accepting_says_so_and_loses_nothing(system: Any) -> None:
    system.configure(duration=240)  # too much for 1 MB, also where a slow disk makes few, dense records
    full = system.run("--set", "kernel.map_mb=1")
    assert full.returncode == 1
    assert len(re.findall(r"tickerml: .*is full", full.stderr)) == 1
    assert "kernel.map_mb" in full.stderr

    done = system.run("--set", "kernel.map_mb=1024")
    undisturbed = system.run("--fresh")

    assert done.returncode == 0
    assert undisturbed.returncode == 0
    assert json.loads(done.stdout)["decisions_sha256"] == json.loads(undisturbed.stdout)["decisions_sha256"]


def damage_log(path: Path, *, is_last: bool) -> None:
    """Turn bits of the first or the last record of the journal at *path*."""
    with lmdb.open(str(path), max_dbs=4) as env:
        log = env.open_db(b"log", create=False)
        with env.begin(write=True) as txn, txn.cursor(log) as cursor:
            assert cursor.last() if is_last else cursor.first()
            value = bytearray(cursor.value())
            value[60] ^= 0xFF
            cursor.put(cursor.key(), bytes(value))


def test_a_damaged_end_of_the_journal_is_set_aside_and_trading_halts(system: Any) -> None:
    system.start()
    system.wait_until(lambda report: report["seq"] >= 2000)
    system.kill("kernel", 2500)
    system.finish()
    path = system.run_dir / "journal"
    damage_log(path, is_last=True)

    done = system.run()

    report = json.loads(done.stdout)
    assert report["halted_by"].startswith("journal: the journal was damaged")
    assert re.search(r"journal\.damage_found", done.stderr)
    assert "Traceback" not in done.stderr
    assert list(path.parent.glob("journal.damaged-*"))


def test_damage_that_a_host_needs_is_named_and_not_continued(system: Any) -> None:
    system.configure(checkpoint=60.0)
    system.start()
    system.wait_until(lambda report: report["seq"] >= 2000)
    system.kill("kernel", 2500)
    system.finish()
    damage_log(system.run_dir / "journal", is_last=False)

    done = system.run()

    assert done.returncode == 5
    assert re.search(r"tickerml: the journal .* is damaged .*needs\s+that to go on", done.stderr)
    assert "tickerml journal repair" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def capture_config(system: Any) -> str:
    config: Path = system.config
    config.write_text(
        config.read_text()
        .replace("exchange-synthetic", "exchange-capture")
        .replace("options = { duration_s = 60 }", "")
    )
    return "exchange-capture.files"


def test_a_missing_capture_is_named(system: Any, capture_config: str) -> None:
    done = system.run("--set", f'{capture_config}=["nowhere.gz"]')

    assert done.returncode != 0
    assert "nowhere.gz" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_capture_is_played_up_to_the_damage(
    system: Any, capture_config: str, tmp_path: Path
) -> None:
    import gzip

    line = (
        '{ts} {{"stream":"btcusdt@trade","data":{{"e":"trade","E":{ms},"s":"BTCUSDT","t":{n},'
        '"p":"60000.00","q":"0.01000","T":{ms},"m":false,"M":true}}}}\n'
    )
    lines = [
        line.format(ts=1_700_000_000_000_000_000 + n * 10**7, ms=1_700_000_000_000 + n * 10, n=n)
        for n in range(20_000)
    ]
    path = tmp_path / "cut_btcusdt.gz"
    whole = gzip.compress("".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])

    done = system.run("--set", f'{capture_config}=["{path}"]')

    assert done.returncode == 1
    assert "cut_btcusdt.gz" in done.stderr
    assert json.loads(done.stdout)["messages"] > 1000
