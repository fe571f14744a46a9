"""The inlet: a lost burst is noticed, a repeated one dropped, and the dead leave no notes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerml.kernel import CodecError, codec
from tickerml.kernel.inlet import Inlet, Taken

FRAME = b"trade.\0" + bytes(20)
NOTE = b"\0Pprogress"


def burst(link: int, number: int, *frames: bytes) -> bytes:
    return codec.pack_burst(list(frames or (FRAME,)), link, number)


def test_frames_and_notes_come_out_apart_and_in_order():
    inlet = Inlet()
    link = inlet.open("trade")

    taken = inlet.take(burst(link, 1, FRAME, NOTE, FRAME + b"2", NOTE + b"2"))

    assert taken == Taken("trade", [FRAME, FRAME + b"2"], [NOTE, NOTE + b"2"])


def test_a_repeated_burst_is_dropped_and_counted():
    inlet = Inlet()
    link = inlet.open("trade")
    inlet.take(burst(link, 1))

    assert inlet.take(burst(link, 1)) is None
    assert inlet.repeated == 1


def test_a_lost_burst_is_named_and_nothing_behind_it_is_taken():
    inlet = Inlet()
    link = inlet.open("trade")
    inlet.take(burst(link, 1))

    for number in (3, 4):
        taken = inlet.take(burst(link, number, FRAME, NOTE))

        assert taken is not None
        assert (taken.frames, taken.notes) == ([], [])
        assert f"burst {number} came after 1" in taken.lost


def test_a_late_burst_of_an_earlier_incarnation_brings_its_frames_to_be_refused_and_no_notes():
    inlet = Inlet()
    earlier = inlet.open("trade")
    inlet.open("trade")

    assert inlet.take(burst(earlier, 1, FRAME, NOTE)) == Taken("trade", [FRAME], [])


def test_nor_does_the_other_process_of_a_host_leave_notes_once_it_has_been_replaced():
    inlet = Inlet()
    candidate = inlet.open("trade~")
    inlet.open("trade")

    assert inlet.take(burst(candidate, 1, FRAME, NOTE)) == Taken("trade~", [FRAME], [])
    assert inlet.take(burst(candidate, 3)) == Taken("trade~", [], [])


def test_what_an_earlier_incarnation_lost_is_not_held_against_its_successor():
    inlet = Inlet()
    earlier = inlet.open("trade")
    inlet.open("trade")

    assert inlet.take(burst(earlier, 5)) == Taken("trade", [], [])


def test_a_burst_of_nobody_we_know_is_dropped():
    assert Inlet().take(burst(1, 1)) is None


def test_what_is_no_burst_is_refused():
    with pytest.raises(CodecError):
        Inlet().take(b"hello")


@given(st.lists(st.sampled_from(["send", "lose", "repeat"]), max_size=30))
def test_what_is_taken_is_a_prefix_of_what_was_sent(fates):
    inlet = Inlet()
    link = inlet.open("market")
    taken = []
    for number, fate in enumerate(fates, 1):
        for _ in range({"send": 1, "lose": 0, "repeat": 2}[fate]):
            found = inlet.take(burst(link, number, FRAME + bytes([number])))
            taken += found.frames if found else []

    sent = [FRAME + bytes([number]) for number in range(1, len(fates) + 1)]
    first_lost = fates.index("lose") if "lose" in fates else len(fates)
    assert taken == sent[:first_lost]
