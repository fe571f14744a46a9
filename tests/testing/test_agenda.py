"""Virtual time."""

from tickerml.testing.agenda import Agenda, Clock


def test_events_happen_in_the_order_of_their_times_and_then_of_their_planning():
    agenda, told = Agenda(), []
    for name, at in (("c", 20), ("a", 10), ("b", 10)):
        agenda.at(at, lambda name=name: told.append((agenda.now, name)))

    while not agenda.is_empty:
        agenda.step()

    assert told == [(10, "a"), (10, "b"), (20, "c")]
    assert agenda.steps == 3


def test_what_is_planned_for_the_past_happens_now():
    agenda, told = Agenda(), []
    agenda.at(10, lambda: agenda.at(5, lambda: told.append(agenda.now)))
    agenda.step()
    agenda.step()

    assert told == [10]


def test_a_clock_drifts_and_only_its_wall_can_be_set():
    agenda = Agenda()
    clock = Clock(agenda, offset=7, drift_ppm=500_000, wall=1_000)
    agenda.at(100, lambda: None)
    agenda.step()
    clock.set_wall(-40)

    assert clock.monotonic() == 157
    assert clock.wall() == 1_000 + 150 - 40
