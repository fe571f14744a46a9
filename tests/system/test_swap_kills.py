"""Kill -9 in the middle of each step of a swap: nothing is lost or comes twice, the right version goes on."""

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tickerml.kernel.messages import SwapEnded

from .swapping import HOST, Swapping

pytestmark = pytest.mark.processes

#: By step: the trouble that makes it last, in the candidate; the present process is always slow to hand over.
STEPS: dict[str, dict[str, Any]] = {
    "starting": {"trouble": "constructor: sleep", "lasts_s": 1.0},
    "shadow": {"shadow_s": 30.0},
    "barrier": {},
    "takeover": {"trouble": "restore: sleep", "lasts_s": 1.0},
    "probation": {"probation_s": 30.0},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swapping]:
    """A home through all of whose kernels the order of messages goes on."""
    swapping = Swapping(tmp_path_factory.mktemp("swapping"), trouble="snapshot: sleep", lasts_s=0.5)
    swapping.start()
    yield swapping
    swapping.stop()
    assert swapping.faults() == []


@pytest.fixture
def system(shared: Swapping) -> Iterator[Swapping]:
    """That home; afterwards it is as it was, with nothing lost."""
    before = shared.config.read_text()
    yield shared
    shared.wait_until(lambda report: report["state"] == "running")
    shared.run_on()
    assert shared.config.read_text() == before
    assert shared.faults() == []


def candidate_of(system: Swapping, old: int) -> int:
    """Return the process id of the one that is to take over, or has taken over, from *old*."""
    kernel = system.status()["pid"]
    children = Path(f"/proc/{kernel}/task/{kernel}/children").read_text().split()
    (found,) = {int(pid) for pid in children} - {old, system.pid("market")}
    return found


@pytest.mark.parametrize("step", STEPS)
def test_after_a_kill_of_the_kernel_the_version_of_before_goes_on(system: Swapping, step: str) -> None:
    system.change(**{"reload": (HOST,), **STEPS[step]})
    system.until_step(step)

    system.kill()
    system.start()

    assert system.status()["change"] is None


def test_after_a_kill_of_the_kernel_a_permanent_change_stays(system: Swapping) -> None:
    system.change(factor=37, probation_s=0.0)
    assert system.outcome()["outcome"] == "permanent"

    system.kill()
    system.start()

    assert "factor = 37" in system.config.read_text()
    system.run_on()
    system.change(probation_s=0.0)
    assert system.outcome()["outcome"] == "permanent"
    system.factors += [37, 31]


@pytest.mark.parametrize("step", ["shadow", "probation"])
def test_a_clean_stop_in_the_middle_of_a_change_leaves_everything_as_it_was(
    system: Swapping, step: str
) -> None:
    system.change(reload=(HOST,), probation_s=60.0, shadow_s=60.0 if step == "shadow" else 0.0)
    system.until_step(step)

    system.stop()

    assert not system.config.with_suffix(".new").exists()
    assert [each.outcome for each in system.messages() if isinstance(each, SwapEnded)][-1] == "rolled back"
    system.start()


@pytest.mark.parametrize("step", ["starting", "takeover", "probation"])
def test_after_a_kill_of_the_candidate_the_one_before_goes_on(system: Swapping, step: str) -> None:
    pid = system.pid()
    system.change(**{"reload": (HOST,), **STEPS[step]})
    system.until_step(step)

    os.kill(candidate_of(system, pid), SIGKILL)

    outcome = system.outcome()
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", step)
    assert outcome["error"] == "the new process has ended: killed by SIGKILL"
    assert system.pid() == pid


def test_after_a_kill_of_the_present_process_the_host_is_started_again(system: Swapping) -> None:
    pid = system.pid()
    system.change(reload=(HOST,))
    system.until_step("barrier")

    os.kill(pid, SIGKILL)

    outcome = system.outcome()
    assert (outcome["outcome"], outcome["failed_at"]) == ("rolled back", "barrier")
    assert outcome["error"] == "the present process has ended: killed by SIGKILL"


def test_after_a_kill_of_the_one_before_the_change_goes_on(system: Swapping) -> None:
    pid = system.pid()
    system.change(reload=(HOST,), probation_s=1.0)
    system.until_step("probation")

    os.kill(pid, SIGKILL)

    assert system.outcome()["outcome"] == "permanent"
    assert system.pid() != pid


def test_after_a_kill_of_both_the_host_is_started_again(system: Swapping) -> None:
    pid = system.pid()
    system.change(reload=(HOST,), probation_s=30.0)
    system.until_step("probation")

    os.kill(pid, SIGKILL)
    os.kill(system.pid(), SIGKILL)

    assert system.outcome()["outcome"] == "rolled back"
