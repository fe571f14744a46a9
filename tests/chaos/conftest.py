"""The campaigns are programs of their own, with their rooms beside them; so are the benchmarks."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]
