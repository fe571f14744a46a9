"""`plugin check`: what is good passes, what is wrong is named, and a broken plugin hurts nobody."""

import base64
import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tickerml.kernel import ConfigError
from tickerml.testing import check, contracts_subject, scaffold, tiers

from .broken_plugins import write

#: Those that start a real kernel.
REAL = ("swappable.kill", "deterministic.process", "conforms.stays")


def told(target, *only):
    """Return {check: detail} of what failed, and the report."""
    report = check.run(target, only=only)
    (row,) = report["plugins"]
    return {each["id"]: each["detail"] for each in row["checks"] if not each["ok"]}, report


def test_a_good_plugin_passes_everything_that_needs_no_second_process(tmp_path):
    failed, report = told(write(tmp_path), *[name for name in tiers.CHECKS if name not in REAL])

    assert failed == {}
    assert report["ok"]
    assert (report["plugins"][0]["claimed"], report["plugins"][0]["reached"]) == ("edge", "edge")
    assert json.loads(json.dumps(report)) == report


WRONG = {
    "loads.manifest": ({"manifest": "tire = 'edge'"}, "tire: unknown key"),
    "loads.spec": ({"more_types": "CancelOrder"}, r"the spec says \['CancelOrder', 'SubmitOrder'\]"),
    "loads.quiet": ({"at_import": "socket.socket()"}, "opened a socket"),
    "conforms.builds": ({"at_build": "1 / 0"}, "raised ZeroDivisionError"),
    "conforms.handlers": ({"more_methods": "def on_trade(self, trade): pass"}, "it handles Trade"),
    "conforms.publishes": (
        {"in_handler": 'self.ctx.publish(RiskVerdict(1, "o", "r", 1))'},
        "published RiskVerdict, which its spec does not declare",
    ),
    "conforms.closes": (
        {"at_build": "threading.Thread(target=time.sleep, args=[60], daemon=True).start()"},
        "threads running",
    ),
    "conforms.orders": ({"order_id": '"always"'}, "order id 'always' was used twice"),
    "swappable.cuts": ({"snapshot": "msgspec.msgpack.encode(0)"}, "with its state moved at inputs"),
    "swappable.repeats": ({"snapshot": "msgspec.msgpack.encode(time.time_ns())"}, "two snapshots in a row"),
    "swappable.damaged": ({"restore": "self.seen = len(state)"}, "damaged bytes"),
    "swappable.versions": (
        {"more_methods": "def migrate(self, state, version): return 1 / 0"},
        "raise StateRefused",
    ),
    "swappable.reloads": (
        {"at_import": "KEPT = []", "at_build": "KEPT.append(bytearray(500_000))"},
        "50 reloads grew the process by",
    ),
    "deterministic.twice": (
        {"at_import": "COUNT = itertools.count()", "quantity": "1 + next(COUNT)"},
        "in a second run: output 0",
    ),
    "deterministic.hashseed": ({"quantity": '1 + hash("x") % 1000'}, "PYTHONHASHSEED"),
    "deterministic.clock": ({"in_handler": "time.time() and random.random()"}, "time.time at odd.py"),
    "edge.memory": (
        {"at_import": "BALLAST = bytearray(os.urandom(1)) * 90_000_000"},
        "it takes .* MiB, the most is 64",
    ),
    "edge.p99": ({"in_handler": "sum(range(100_000))"}, "µs an event, the most is 250"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_by_its_own_check(name, tmp_path):
    parts, words = WRONG[name]

    failed, report = told(write(tmp_path, **parts), name)

    assert list(failed) == [name]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failed[name])
    assert not report["ok"]
    assert failed[name] in check.show(report)


def test_a_message_with_a_field_of_the_wrong_type_cannot_be_read_back(tmp_path):
    failed, _ = told(write(tmp_path, quantity='"many"'), "conforms.publishes")

    assert "cannot be read back" in failed["conforms.publishes"]


@pytest.mark.parametrize(
    ("at_import", "words"),
    [
        ("sys.exit(3)", "import raised SystemExit"),
        ("raise ValueError('no')", "ValueError: no"),
        ("import nothing_of_this_name", "No module named"),
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
    ids=["exits", "raises", "lacks", "exits at once", "crashes"],
)
def test_a_plugin_that_cannot_be_imported_fails_to_load_and_hurts_nobody(at_import, words, tmp_path):
    failed, report = told(
        write(tmp_path, at_import=at_import), "loads.import", "loads.spec", "conforms.builds"
    )

    assert list(failed) == ["loads.import", "loads.spec"]  # and what comes after is not tried
    assert all(words in detail for detail in failed.values())
    assert report["plugins"][0]["reached"] == ""


def test_a_check_that_does_not_come_back_is_ended_and_the_next_goes_on(tmp_path, monkeypatch):
    hasty = tiers.CHECKS["conforms.publishes"]._replace(limit_s=1.0)
    monkeypatch.setitem(tiers.CHECKS, "conforms.publishes", hasty)
    endless = write(tmp_path, in_handler="while self.seen > 20: pass")

    failed, _ = told(endless, "conforms.publishes", "conforms.handlers")

    assert failed == {"conforms.publishes": "it did not come to an end within 1 s"}


def test_what_the_manifest_exempts_is_not_run_and_its_reason_is_shown(tmp_path):
    target = write(tmp_path, order_id='"always"', manifest='exempt = {"conforms.orders" = "one order only"}')

    failed, report = told(target, "conforms.orders")

    assert failed == {}
    assert report["plugins"][0]["checks"][0]["status"] == "exempt"
    assert "– orders        one order only" in check.show(report)


def test_a_claim_that_is_not_kept_is_said(tmp_path):
    report = check.run(
        write(tmp_path, order_id='"always"'), "conforms", only=["loads.spec", "conforms.orders"]
    )

    assert (report["ok"], report["plugins"][0]["reached"]) == (False, "loads")
    assert "reaches loads, asked was conforms" in check.show(report)


def test_a_broken_manifest_is_a_problem_and_not_an_exception(tmp_path):
    path = Path(write(tmp_path))
    path.write_text(path.read_text().replace('kinds = ["strategy"]', 'kinds = ["stratgy"]'))

    report = check.run(str(path))

    assert not report["ok"]
    assert "did you mean 'strategy'" in report["plugins"][0]["problem"]
    assert "cannot be checked" in check.show(report)


def test_a_wheel_is_checked_without_being_installed(tmp_path):
    scaffold.create("sink", "demo", tmp_path)
    project = tmp_path / "tickerml-sink-demo"
    wheel = tmp_path / "tickerml_sink_demo-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (project / "src").rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(project / "src"))
        info = "tickerml_sink_demo-0.1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tickerml-sink-demo\nVersion: 0.1.0\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[tickerml.plugins]\nsink-demo = tickerml_sink_demo\n")

    _, report = told(str(wheel), "loads.spec", "conforms.builds")

    assert report["ok"], check.show(report)
    assert report["plugins"][0]["id"] == "sink-demo"
    assert "tickerml_sink_demo" not in sys.modules


@pytest.mark.parametrize("target", ["no-such-plugin", "missing.whl"])
def test_a_target_that_there_is_not_is_one_clear_error(target):
    with pytest.raises(ConfigError, match="is neither a folder, a file or a wheel"):
        check.run(target)


def test_an_unknown_tier_or_check_is_one_clear_error():
    with pytest.raises(ConfigError, match="expected one of loads, conforms"):
        check.run("sink-file", "gold")
    with pytest.raises(ConfigError, match=r"there is no check 'loads\.gold'"):
        check.run("sink-file", only=["loads.gold"])


def test_no_check_runs_a_plugin_in_this_process(tmp_path):
    threads = threading.active_count()
    marker = tmp_path / "marker"
    write(tmp_path, at_import=f"open({str(marker)!r}, 'a').write(str(os.getpid()) + ' ')")

    check.run(str(tmp_path / "odd.py"), only=["loads.spec"])

    assert str(os.getpid()) not in marker.read_text().split()
    assert threading.active_count() == threads


def test_every_check_says_what_it_asks_in_one_sentence():
    for name, asked in tiers.CHECKS.items():
        assert name.partition(".")[0] in contracts_subject.LADDER
        assert asked.sentence.endswith("."), name
        assert len(asked.sentence) <= 110, name


def test_the_probe_of_files_is_not_fooled_by_reading(tmp_path):
    readable = tmp_path / "data.bin"
    readable.write_bytes(base64.b64encode(b"x"))

    failed, _ = told(write(tmp_path, at_import=f"open({str(readable)!r}).read()"), "loads.quiet")

    assert failed == {}
