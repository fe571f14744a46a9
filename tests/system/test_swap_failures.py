"""Whatever is wrong with a candidate, the one before goes on with nothing lost, and the reason is shown."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickerml.kernel import BusError, control

from .swapping import Swapping

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swapping]:
    """A system that goes through all of this in one run."""
    swapping = Swapping(tmp_path_factory.mktemp("swapping"))
    swapping.start()
    yield swapping
    swapping.stop()
    assert swapping.faults() == []


@pytest.fixture
def system(shared: Swapping) -> Iterator[Swapping]:
    """That system; afterwards it is as it was, with nothing lost."""
    before = shared.config.read_text()
    yield shared
    assert shared.config.read_text() == before
    assert not shared.config.with_suffix(".new").exists()
    shared.wait_until(lambda report: report["state"] == "running")
    shared.run_on()
    assert shared.faults() == []


@pytest.fixture
def same_process(system: Swapping) -> Iterator[Swapping]:
    """That system; the process that was at work is so afterwards."""
    pids = system.pid(), system.pid("market")
    yield system
    assert (system.pid(), system.pid("market")) == pids


TROUBLES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "a crash at import",
        {"module": "swapped_breaks"},
        "starting",
        "import raised RuntimeError: this version",
    ),
    ("a crash at configure", {"trouble": "constructor: raise"}, "starting", "trouble in the constructor"),
    ("bad options", {"no_such_option": 1}, "starting", "no_such_option: unknown key"),
    ("more to say", {"module": "swapped_wants_more"}, "starting", "publishes SubmitOrder"),
    ("a refused state", {"trouble": "restore: refuse"}, "takeover", "this state is not for me"),
    ("a crash at restore", {"trouble": "restore: raise"}, "takeover", "trouble in the restore"),
    ("a loop at restore", {"trouble": "restore: loop"}, "takeover", "no sign of life"),
    ("an end in probation", {"trouble": "handler: exit"}, "probation", "exit code 3"),
    ("a crash in probation", {"trouble": "handler: raise"}, "probation", "Trade: RuntimeError: trouble"),
    (
        "what it may not say",
        {"trouble": "handler: publish"},
        "probation",
        "published Trade, which its spec does not declare",
    ),
    ("a leak", {"trouble": "handler: leak"}, "probation", r"uses \d+ MB of memory, its limit is 70 MB"),
    ("a loop", {"trouble": "handler: loop"}, "probation", "no sign of life"),
    ("a market at configure", {"market": "constructor: raise"}, "starting", "trouble in the constructor"),
    ("a market at restore", {"market": "restore: raise"}, "takeover", "trouble in the restore"),
    ("a market that ends", {"market": "events: exit"}, "probation", "exit code 3"),
    ("a market that raises", {"market": "events: raise"}, "probation", "RuntimeError: trouble in the events"),
]


@pytest.mark.parametrize(("change", "step", "told"), [t[1:] for t in TROUBLES], ids=[t[0] for t in TROUBLES])
def test_a_candidate_in_trouble_is_rolled_back(
    same_process: Swapping, change: dict[str, Any], step: str, told: str
) -> None:
    same_process.change(probation_s=5.0, **change)

    outcome = same_process.outcome()

    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", step)
    assert re.search(told, outcome["error"])


def test_where_the_second_host_of_a_change_fails_the_first_is_rolled_back_too(same_process: Swapping) -> None:
    same_process.change(market="none", trouble="restore: raise")

    outcome = same_process.outcome()

    assert outcome["hosts"] == ["market", "subject"]
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "takeover")
    assert "trouble in the restore" in outcome["error"]


def test_a_candidate_of_another_schema_is_rolled_back(same_process: Swapping) -> None:
    other = same_process.python / "sitecustomize.py"
    other.write_text("from tickerml.kernel import codec\ncodec.schema_hash = lambda: 'of another version'\n")

    same_process.change(reload=("subject",))

    outcome = same_process.outcome()
    other.unlink()
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "starting")
    assert re.search("has other message types .of another version", outcome["error"])


# --- What a person does ---------------------------------------------------------------------------


def test_a_change_that_is_cancelled_in_its_shadow_has_touched_nothing(same_process: Swapping) -> None:
    same_process.change(factor=37, shadow_s=30.0)
    same_process.until_step("shadow")

    same_process.client.request(control.CancelRequest("on second thoughts"))

    outcome = same_process.outcome()
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "shadow")
    assert outcome["error"] == "on second thoughts"


def test_a_second_change_is_refused_while_one_is_under_way(same_process: Swapping) -> None:
    same_process.change(probation_s=30.0, reload=("subject",))

    with pytest.raises(BusError, match=r"change \d+ \(test\) is under way: \w+; wait for it, or cancel it"):
        same_process.change(factor=37)

    same_process.client.request(control.CancelRequest("enough"))
    assert same_process.outcome()["outcome"] == "rolled back"


def test_a_shadow_counts_what_is_equal_and_what_is_not_and_then_takes_over(system: Swapping) -> None:
    system.change(reload=("subject",), shadow_s=0.5, probation_s=0.0)
    equal = system.outcome()
    system.change(factor=37, shadow_s=0.5, probation_s=30.0)
    different = system.until_step("probation")
    system.client.request(control.SettleRequest())
    outcome = system.outcome()
    written = system.config.read_text()
    system.run_on()
    system.change(probation_s=0.0)
    system.outcome()
    system.factors += [37, 31]

    assert equal["outcome"] == outcome["outcome"] == "permanent"
    assert equal["shadow"]["equal"] > 50
    assert [equal["shadow"][each] for each in ("different", "only_old", "only_new")] == [0, 0, 0]
    assert different["shadow"]["different"] > 50
    assert re.match(
        r"different: swapped because of seq \d+: FeatureVector", different["shadow"]["examples"][0]
    )
    assert "factor = 37" in written
    system.run_on()
    assert system.faults() == []


def test_a_rollback_in_probation_hands_the_state_back(same_process: Swapping) -> None:
    same_process.change(factor=37, probation_s=30.0)
    same_process.until_step("probation")
    same_process.run_on()

    same_process.client.request(control.CancelRequest("on second thoughts"))

    outcome = same_process.outcome()
    same_process.factors += [37, 31]
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "probation")


def test_a_present_process_that_does_not_hand_over_goes_on(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    system = Swapping(tmp_path, trouble="snapshot: sleep", lasts_s=2.5)
    request.addfinalizer(system.kill)
    system.start()
    pid = system.pid()
    system.change(reload=("subject",))

    outcome = system.outcome()

    system.run_on()
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "barrier")
    assert outcome["error"] == "the present process has not handed over its state within 2 s"
    assert system.pid() == pid
    assert system.faults() == []
