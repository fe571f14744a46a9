"""The calendar of a tape: what is there, what is doubtful, and what the command says of a real one."""

import pytest

from tickerml.kernel import StoreError
from tickerml.ui.coverage import DAYS, HINTS, ask, calendar, run_dirs, size

from .tapes import DAY, FIRST, record

S = 1_000_000_000


def stream(days, gaps=(), name="book|kraken|BTC/USD", unsealed=0):
    rows = sum(day["rows"] for day in days.values())
    return {
        "stream": name,
        "rows": rows,
        "unsealed": unsealed,
        "bytes": 4 * rows,
        "days": days,
        "gaps": list(gaps),
    }


def day(covered, rows=1000):
    return {"covered": covered, "rows": rows, "bytes": 4 * rows}


def cells(shown):
    return [[cell["level"] for cell in row["cells"]] for row in shown["rows"]]


def test_days_run_from_the_first_to_the_last_of_any_stream_without_a_hole():
    shown = calendar(
        [
            stream({"2024-06-01": day(1.0), "2024-06-04": day(0.1)}),
            stream({"2024-06-02": day(0.6)}, name="trade|kraken|BTC/USD"),
        ]
    )

    assert shown["days"] == ["2024-06-01", "2024-06-02", "2024-06-03", "2024-06-04"]
    assert cells(shown) == [[4, 0, 0, 1], [0, 3, 0, 0]]
    assert shown["summary"] == "2 streams · 3,000 rows · 12.0 kB"
    assert shown["rows"][1]["name"] == "kraken BTC/USD"


def test_a_gap_makes_each_day_it_touches_doubtful_and_is_told_with_its_reason():
    gaps = [
        {"start": FIRST + DAY - 60 * S, "end": FIRST + DAY + 60 * S, "reason": "feed lost: closed"},
        {"start": FIRST + 2 * DAY, "end": FIRST + 2 * DAY + 9000 * S, "reason": "not recorded"},
    ]
    (row,) = calendar([stream({f"2024-06-0{n}": day(0.95) for n in (1, 2, 3)}, gaps)])["rows"]

    assert [cell["is_doubtful"] for cell in row["cells"]] == [True, True, False]
    assert row["cells"][0]["hint"] == [
        "book kraken BTC/USD on 2024-06-01",
        "22.8 h recorded, 60.0 s of it in doubt; 1,000 rows, 4.0 kB in blocks begun in it",
        "23:59:00 for 2 min: feed lost: closed",
    ]
    assert row["cells"][2]["hint"][2] == "00:00:00 for 2.5 h: not recorded"


def test_a_silence_is_no_doubt_and_no_data_either():
    gap = {"start": FIRST, "end": FIRST + DAY, "reason": "silence: nothing came"}
    (row,) = calendar([stream({"2024-06-01": day(1.0)}, [gap])])["rows"]

    assert (row["cells"][0]["level"], row["cells"][0]["is_doubtful"]) == (1, False)
    assert row["cells"][0]["hint"][2] == "00:00:00 for 24.0 h: silence: nothing came"


def test_times_that_are_in_doubt_twice_are_counted_once():
    spans = ((0, 3600), (1800, 7200), (3600, 5400))
    gaps = [
        {"start": FIRST + a * S, "end": FIRST + b * S, "reason": f"checksum failed {a}"} for a, b in spans
    ]
    (row,) = calendar([stream({"2024-06-01": day(0.5)}, gaps)])["rows"]

    assert row["cells"][0]["hint"][1].startswith("12.0 h recorded, 2.0 h of it in doubt;")
    assert row["cells"][0]["level"] == 2


def test_of_many_gaps_a_few_are_named_and_the_rest_counted():
    gaps = [{"start": FIRST + n * S, "end": FIRST + n * S, "reason": "checksum failed"} for n in range(40)]
    (row,) = calendar([stream({"2024-06-01": day(1.0)}, gaps)])["rows"]

    assert row["cells"][0]["hint"][-1] == f"and {40 - HINTS} more"


def test_of_many_days_the_newest_are_shown_and_that_is_said():
    days = {f"20{year}-06-01": day(1.0) for year in (23, 24)}
    shown = calendar([stream(days)])

    assert (len(shown["days"]), shown["days"][-1]) == (DAYS, "2024-06-01")
    assert shown["note"] == f"the newest {DAYS} of 367 days"


def test_what_is_in_no_block_yet_is_counted_and_said():
    waiting = {**stream({"2024-06-01": day(0.1)}, unsealed=1000, name="trade|kraken|BTC/USD"), "bytes": 0}
    shown = calendar([stream({"2024-06-01": day(0.1)}, unsealed=40), waiting])

    assert shown["summary"] == "2 streams · 2,000 rows, 1,040 of them in no block yet · 4.0 kB"
    assert [row["detail"] for row in shown["rows"]] == ["1,000 rows, 4.0 kB", "1,000 rows, in no block yet"]


def test_where_nothing_is_in_a_block_there_are_no_bytes():
    waiting = {**stream({"2024-06-01": day(0.1)}, unsealed=1000), "bytes": 0}

    assert calendar([waiting])["summary"] == "1 streams · 1,000 rows, in no block yet"


def test_an_empty_tape_has_no_days():
    assert calendar([])["days"] == []


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (4_000, "4.0 kB"), (345_678, "346 kB"), (5e9, "5.0 GB")]
)
def test_sizes_are_said_as_people_say_them(count, text):
    assert size(count) == text


def test_the_command_says_what_the_recorder_wrote(tmp_path):
    run = tmp_path / "runs" / "demo" / "0001"
    record(run)
    (tmp_path / "runs" / "demo" / "0002").mkdir()

    assert run_dirs(tmp_path) == [run]
    shown = calendar(ask(run))
    by_name = {(row["kind"], row["name"]): row["cells"] for row in shown["rows"]}
    one, two = by_name["book", "one BTC/USDT"], by_name["book", "two BTC/USDT"]

    assert len(shown["days"]) == 20
    assert [cell["level"] for cell in one[:19]] == [4] * 19
    assert two[5]["is_doubtful"]
    assert any("feed lost: closed by the server" in line for line in two[5]["hint"])
    assert not two[3]["is_doubtful"]


def test_what_is_no_tape_is_refused_with_the_words_of_the_command(tmp_path):
    with pytest.raises(StoreError, match="expected a tape at"):
        ask(tmp_path / "nothing")
