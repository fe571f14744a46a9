"""
How late each consumer is, by time, and when that is hopeless. Sans-IO; times are monotonic, ns.

A count of messages does not say how late somebody is: a thousand are a moment in a busy
market and an hour in a quiet one. So the kernel notes when it stamped the messages that
every consumer takes, its canaries and markers, and a consumer is as late as the first of
them that it has not taken. The head of the order would not do: a consumer that listens
to little stands behind it for as long as nothing comes that it listens to.
"""

from bisect import bisect_left

import structlog

from .health import Condition
from .units import NS_PER_MS, NS_PER_S

STEP_NS = 10 * NS_PER_MS  # what is stamped within this time of each other is noted as one
CAPACITY = 4_096  # notes; when there are more, the older half is forgotten
WARN_NS = NS_PER_S
GAIN = 0.1  # of the limit, by which a late consumer must have gained within the limit
GAIN_BACKLOG = 0.02  # of its backlog, the same in messages

logger = structlog.get_logger()


class Lag:
    """
    Remembers when what was stamped.

    Of a marker a second it keeps half an hour at least: who is behind by more is said to be
    behind by that.
    """

    def __init__(self) -> None:
        self._seqs: list[int] = []  # the last of each note
        self._times: list[int] = []  # when its first was stamped

    def note(self, seq: int, now: int) -> None:
        """The message *seq*, which every consumer takes, has been stamped."""
        if self._times and now - self._times[-1] < STEP_NS:
            self._seqs[-1] = seq
            return
        self._seqs.append(seq)
        self._times.append(now)
        if len(self._seqs) > CAPACITY:
            del self._seqs[: CAPACITY // 2], self._times[: CAPACITY // 2]

    def behind_ns(self, position: int, now: int) -> int:
        """Return how long ago the first message beyond *position* was stamped; 0 when there is none."""
        at = bisect_left(self._seqs, position + 1)
        return max(0, now - self._times[at]) if at < len(self._seqs) else 0


class _Late:
    """What is known of one host that is late."""

    def __init__(self) -> None:
        self.behind_ns = 0
        self.looked_at = 0
        self.best_backlog = 0
        self.best_ns = 0  # how little it was behind when it last gained
        self.stuck_ns = 0  # for how long it has not gained


class LagWatch:
    """
    Says once that a host is late, once that it has caught up, and when there is no hope.

    Hopeless is who has been behind by more than the limit for as long as the limit, and gained
    neither a tenth of it nor a fiftieth of its backlog. Not to be asked in runs at full speed,
    where the sources wait.
    """

    def __init__(self) -> None:
        self._late: dict[str, _Late] = {}

    def look(self, host: str, behind_ns: int, max_lag_ns: int, now: int, *, backlog: int = 0) -> str:
        """
        Return why *host*, which is ready, is hopelessly late; "" while it is not.

        Args:
            max_lag_ns: how late it may be; 0 when there is no limit.
            backlog: how many messages it has not taken. After a burst one may work through them as
                fast as anybody can, and be later by the minute.
        """
        if behind_ns < WARN_NS:
            self._is_near(host, behind_ns)
            return ""
        if host not in self._late:
            self._late[host] = _Late()
            logger.warning("host.fell_late", host=host, behind_s=round(behind_ns / NS_PER_S, 1))
        return self._judge(self._late[host], behind_ns, max_lag_ns, now, backlog)

    def _is_near(self, host: str, behind_ns: int) -> None:
        late = self._late.get(host)
        if late is None:
            return
        late.behind_ns, late.best_ns, late.best_backlog, late.stuck_ns = behind_ns, 0, 0, 0
        # Half the threshold, so that a host around it is not told of again and again.
        if behind_ns < WARN_NS // 2:
            del self._late[host]
            logger.info("host.caught_up", host=host)

    def _judge(self, late: _Late, behind_ns: int, max_lag_ns: int, now: int, backlog: int) -> str:
        # A kernel that stood still counts its absence as one second, whoever was late in it.
        elapsed = min(now - late.looked_at, NS_PER_S)
        late.behind_ns, late.looked_at = behind_ns, now
        if not max_lag_ns or behind_ns <= max_lag_ns:
            late.best_ns = late.best_backlog = late.stuck_ns = 0
            return ""
        is_later = late.best_ns and behind_ns > late.best_ns - GAIN * max_lag_ns
        is_longer = late.best_backlog and backlog > (1 - GAIN_BACKLOG) * late.best_backlog
        if not is_later or (late.best_backlog and not is_longer):
            late.best_ns, late.best_backlog, late.stuck_ns = behind_ns, backlog, 0
            return ""
        late.stuck_ns += elapsed
        if late.stuck_ns < max_lag_ns:
            return ""
        return (
            f"{behind_ns / NS_PER_S:.1f} s behind and not gaining, its limit is {max_lag_ns / NS_PER_S:g} s"
        )

    def forget(self, host: str) -> None:
        """*host* is not ready: it comes back from its checkpoint, and catching up is never hopeless."""
        self._late.pop(host, None)

    def conditions(self) -> list[Condition]:
        """Return the hosts that are late."""
        return [
            Condition(host, f"{late.behind_ns / NS_PER_S:.1f} s behind", about="lag")
            for host, late in sorted(self._late.items())
        ]
