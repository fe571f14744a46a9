"""The flow pauses a source that runs ahead, knows when everything has been taken, and ends in order."""

from tickerml.kernel.flow import PAUSE_BEHIND, PROCEED_BEHIND, STEP_LIMIT_NS, Ending, Flow, Pacing, Step
from tickerml.kernel.supervisor import Host, HostPhase


def consumer(position: int, phase: HostPhase = HostPhase.READY) -> Host:
    host = Host("trade")
    host.position, host.phase = position, phase
    return host


def test_pauses_once_when_the_slowest_is_far_behind_and_proceeds_once_when_it_is_near() -> None:
    flow, fast, slow = Flow(), consumer(100_000), consumer(100_000 - PAUSE_BEHIND - 1)

    said = [flow.pace(100_000, [fast, slow]), flow.pace(100_000, [fast, slow])]
    slow.position = 100_000 - PROCEED_BEHIND + 1
    said += [flow.pace(100_000, [fast, slow]), flow.pace(100_000, [fast, slow])]

    assert said == [Pacing.PAUSE, None, Pacing.PROCEED, None]


def test_without_consumers_nobody_is_behind() -> None:
    assert Flow().pace(10**9, []) is None


def test_is_drained_only_when_all_have_taken_a_marker_that_nothing_followed() -> None:
    flow, host = Flow(), consumer(10)
    assert flow.wants_marker([host])
    flow.marked(11)
    assert not flow.is_drained(11, [host])

    host.position = 11

    assert flow.is_drained(11, [host])
    assert not flow.is_drained(12, [host])
    assert flow.wants_marker([host])


def test_a_consumer_that_is_coming_back_has_taken_nothing_yet() -> None:
    flow, host = Flow(), consumer(99, HostPhase.STARTING)
    flow.marked(50)

    assert not flow.is_drained(50, [host])
    assert not flow.wants_marker([host])


def test_an_ending_goes_step_by_step_and_keeps_its_first_reason() -> None:
    ending = Ending()
    assert not ending.advance(0, is_done=True)
    ending.ask("SIGTERM")
    ending.ask("SIGINT")

    steps = []
    while ending.advance(0, is_done=True):
        steps.append(ending.step)

    assert steps == [Step.SOURCES, Step.DRAIN, Step.HOSTS, Step.OVER]
    assert ending.reason == "SIGTERM"


def test_a_step_waits_until_it_is_done_and_is_late_after_its_limit() -> None:
    ending = Ending()
    ending.ask("stop")
    ending.advance(0, is_done=False)

    assert not ending.advance(1, is_done=False)
    assert ending.step is Step.SOURCES
    assert not ending.is_late(STEP_LIMIT_NS)
    assert ending.is_late(STEP_LIMIT_NS + 1)
    assert not ending.is_late(STEP_LIMIT_NS + 2)
