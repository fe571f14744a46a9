"""What is left of a tape whose writer was killed, or whose last commit tore; tape_faults.py has more."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("tape_faults.py")


@pytest.fixture(scope="module")
def faults() -> Any:
    spec = importlib.util.spec_from_file_location("tape_faults", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.processes
@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_has_lost_nothing_that_it_said_was_sealed(tmp_path, faults, seed):
    assert faults.kill(tmp_path / "tape.mdb", random.Random(seed)) > 0


@pytest.mark.parametrize("seed", range(10))
def test_a_commit_that_tore_never_was(tmp_path, faults, seed):
    assert faults.tear(tmp_path / "tape.mdb", random.Random(seed)) > 0
