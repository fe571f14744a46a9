"""The kill file: heeded once, whatever is in it, wherever it lies."""

import pytest

from tickerml.kernel import HaltLevel
from tickerml.kernel.killfile import NAME, TAKEN, KillFile


@pytest.mark.parametrize(
    ("content", "level"), [("", 2), ("1", 1), ("3\n", 3), ("0", 2), ("4", 2), ("flatten", 2), ("3" * 99, 2)]
)
def test_it_asks_for_the_level_in_it_and_else_for_two(tmp_path, content, level):
    (tmp_path / NAME).write_text(content)

    assert KillFile(tmp_path).take() == level


def test_it_is_heeded_once_and_kept_under_another_name(tmp_path):
    watch = KillFile(tmp_path)
    assert watch.take() is HaltLevel.RUN

    (tmp_path / NAME).touch()
    assert (watch.take(), watch.take()) == (HaltLevel.CANCEL, HaltLevel.RUN)
    assert (tmp_path / TAKEN).exists()

    (tmp_path / NAME).write_text("3")
    assert watch.take() is HaltLevel.FLATTEN


def test_one_that_cannot_be_renamed_is_heeded_once_until_it_is_gone(tmp_path):
    (tmp_path / TAKEN).mkdir()
    (tmp_path / NAME).touch()
    watch = KillFile(tmp_path)
    assert (watch.take(), watch.take()) == (HaltLevel.CANCEL, HaltLevel.RUN)

    (tmp_path / NAME).unlink()
    watch.take()
    (tmp_path / NAME).touch()
    assert watch.take() is HaltLevel.CANCEL


def test_a_directory_of_that_name_is_one_too(tmp_path):
    (tmp_path / NAME).mkdir()

    assert KillFile(tmp_path).take() is HaltLevel.CANCEL
