"""What hosts and plugins cost now: the differences between one report of the kernel and the next."""

from typing import Any, NamedTuple

from tickerml.kernel.hookspecs import SHAPES

Report = dict[str, Any]


class _Figures(NamedTuple):
    """The sums of one report."""

    at_s: float  # of the kernel's own uptime
    cpu_s: dict[tuple[str, int], float]  # by host and process
    taken: dict[str, int]  # by host: how far it is in the order
    published: dict[str, int]  # by plugin


class Costs:
    """What is used a second, by host and by plugin; what cannot be known yet is not in it."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}  # cores
        self.taken: dict[str, float] = {}  # messages a second that a host has got through
        self.published: dict[str, float] = {}  # messages a second that a plugin has published
        self._was: _Figures | None = None

    def look(self, report: Report) -> None:
        """Take the next report of a kernel; one that is not newer says nothing."""
        now, was = _figures(report), self._was
        if was is not None and now.at_s == was.at_s:
            return
        self._was = now
        if was is None or now.at_s < was.at_s:  # another session: it counts from nothing
            self.cpu, self.taken, self.published = {}, {}, {}
            return
        passed = now.at_s - was.at_s
        self.cpu = {
            host: (used - was.cpu_s[host, pid]) / passed
            for (host, pid), used in now.cpu_s.items()
            if (host, pid) in was.cpu_s
        }
        self.taken = _rates(was.taken, now.taken, passed)
        self.published = _rates(was.published, now.published, passed)


def _figures(report: Report) -> _Figures:
    shapes: dict[str, set[str]] = {}
    for row in report["plugins"]:
        shapes.setdefault(row["host"], set()).add(SHAPES.get(row["kind"], ""))
    return _Figures(
        report["uptime_s"],
        {(row["host"], row["pid"]): row["cpu_s"] for row in report["hosts"]},
        {
            row["host"]: report["seq"] - row["lag"]
            for row in report["hosts"]
            if "consumer" in shapes.get(row["host"], ())
        },
        {row["id"]: row["published"] for row in report["plugins"]},
    )


def _rates(was: dict[str, int], now: dict[str, int], passed: float) -> dict[str, float]:
    return {name: max(0, count - was[name]) / passed for name, count in now.items() if name in was}
