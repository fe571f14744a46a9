"""
A change of the plan, while it runs: which hosts it touches, in which order, and whether it stays. Sans-IO.

Hosts that are new are started first, so that a new rule is there before the gate waits
for it; hosts that differ are swapped one after the other; then all of them are on
probation together; and only when the change is permanent are those stopped that are no
longer wanted, and the prepared files put in place. That waits for the disk: the next kernel
runs what the files say, from the states that the journal has. Whatever fails before rolls
all of it back, the last first. There is one change at a time: a second is refused.
"""

from typing import Any, NamedTuple, Protocol

import structlog

from . import control, swap
from . import messages as m
from .berths import host_of
from .config import Plan
from .supervisor import HostPhase
from .swap import Step, Swap
from .units import NS_PER_MS, NS_PER_S

START_LIMIT_NS = 60 * NS_PER_S  # for a host that is new
KEEP_LIMIT_NS = 60 * NS_PER_S  # for the journal to have what a change rests on

logger = structlog.get_logger()


class Floor(swap.Floor, Protocol):
    """What a change acts through: the kernel."""

    def now(self) -> int:
        """Return ns UTC for messages."""

    def announce(self, message: m.Message) -> int:
        """Say *message* as the kernel."""

    def processes(self, host: str) -> tuple[str, str]:
        """Return the active process of *host*, and the name of another."""

    def presented(self, process: str) -> control.Present:
        """Return what *process* presented."""

    def phase(self, host: str) -> HostPhase | None:
        """Return the phase of *host*; None when there is no such host."""

    def head(self) -> int:
        """Return the seq of the last message that was said."""

    def committed(self) -> int:
        """Return the last seq that is on disk, with the states that were added before it."""

    def use(self, plan: Plan) -> None:
        """From now on *plan* is what shall run."""

    def start_host(self, host: str) -> None:
        """Start *host*, or start it anew, as the plan in use says; what it died of is forgotten."""

    def stop_host(self, host: str) -> None:
        """Ask *host* to stop, and do without it."""

    def place(self, files: dict[str, str]) -> str:
        """Put each temporary file in the place of the other; returns what went wrong, or ""."""

    def drop(self, files: dict[str, str]) -> None:
        """Delete the temporary files."""


class Task(NamedTuple):
    """One thing to do: "start" or "swap" a host."""

    verb: str
    host: str


class Tasks(NamedTuple):
    """What a change comes to."""

    todo: list[Task]
    stops: list[str]


def compare(old: Plan, new: Plan, reload: list[str]) -> Tasks | str:
    """Return what leads from *old* to *new*, with the hosts of *reload* renewed; or why nothing can."""
    if (old.profile, old.kernel) != (new.profile, new.kernel):
        return "the profile and the kernel's settings cannot change while it runs; use `tickerml restart`"
    if missing := sorted(set(new.missing_vital()) - set(old.missing_vital())):
        blocked = next(plugin.blocked for plugin in new.plugins if plugin.id == missing[0])
        return (
            f"{missing[0]}, without which nothing may trade, is blocked: {blocked}; see to it, or disable it"
        )
    before, after = old.hosts(), new.hosts()
    was_in = {plugin.id: host for host, members in before.items() for plugin in members}
    for host, members in after.items():
        for plugin in members:
            if was_in.get(plugin.id, host) != host:
                return (
                    f"{plugin.id} cannot move from host {was_in[plugin.id]} to {host} with its state while "
                    "it runs; use `tickerml restart`"
                )
    if unknown := [host for host in reload if host not in after]:
        return f"there is no host {unknown[0]!r} to replace; there are {', '.join(after)}"
    todo = [Task("start", host) for host in after if host not in before]
    gate_differs = (old.ids("risk_rule"), old.vital()) != (new.ids("risk_rule"), new.vital())
    for host in after.keys() & before.keys():
        has_gate = any(plugin.kind == "simulator" for plugin in after[host])
        is_same = before[host] == after[host] and old.limits_of(host) == new.limits_of(host)
        if not is_same or host in reload or (has_gate and gate_differs):
            verb = "start" if any(plugin.reload == "restart" for plugin in after[host]) else "swap"
            todo.append(Task(verb, host))
    return Tasks(sorted(todo), [host for host in before if host not in after])


class _Change:
    def __init__(self, number: int, request: control.ChangeRequest, old: Plan, tasks: Tasks) -> None:
        self.number = number
        self.reason = request.reason
        self.old, self.new = old, request.plan
        self.files = request.files
        self.shadow_ns = int(request.shadow_s * NS_PER_S)
        self.probation_ns = int(request.probation_s * NS_PER_S)
        self.tasks = list(tasks.todo)
        self.hosts = [task.host for task in tasks.todo] + tasks.stops
        self.stops = tasks.stops
        self.task: Task | None = None
        self.started: list[str] = []
        self.swaps: dict[str, Swap] = {}
        self.deadline = 0  # of the task, or of the probation
        self.rests_on = 0  # the seq up to which the journal must be on disk before the files are in place
        self.since_ns = 0
        self.outcome = self.error = self.failed_at = ""

    @property
    def swap(self) -> Swap | None:
        """The swap that is under way, or was the last."""
        return next(reversed(self.swaps.values()), None)

    @property
    def step(self) -> str:
        if self.outcome:
            return str(Step.ENDED)
        if self.error:
            return str(Step.BACK)
        if self.task is not None and self.task.verb == "swap" and self.swap:
            return str(self.swap.step)
        return str(Step.STARTING if self.task or self.tasks else Step.PROBATION)

    def left_s(self, now: int) -> float:
        """Return how long a shadow or a probation still takes, s; 0.0 in any other step."""
        if self.step == Step.SHADOW and self.swap:
            return max(0, self.swap.deadline - now) / NS_PER_S
        return max(0, self.deadline - now) / NS_PER_S if self.step == Step.PROBATION else 0.0

    def report(self, now: int) -> dict[str, Any]:
        swap = self.swap
        shadow = swap.shadow if swap else None
        counted = shadow and {
            name: getattr(shadow, name) for name in ("equal", "different", "only_old", "only_new", "examples")
        }
        return {
            "number": self.number,
            "reason": self.reason,
            "host": self.task.host if self.task else (swap.host if swap else ", ".join(self.hosts)),
            "hosts": self.hosts,
            "step": self.step,
            "failed_at": self.failed_at,
            "outcome": self.outcome,
            "error": self.error,
            "since_ns": self.since_ns,
            "left_s": round(self.left_s(now), 1),
            "gap_ms": round(max((s.gap_ns for s in self.swaps.values()), default=0) / NS_PER_MS, 3),
            "shadow": counted or None,
        }


class Changes:
    """One change after the other."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._change: _Change | None = None
        self._count = 0

    @property
    def is_busy(self) -> bool:
        """Whether a change is under way."""
        return self._change is not None and not self._change.outcome

    def report(self, now: int) -> dict[str, Any] | None:
        """Return how the last change goes or went, ready for JSON; None when there was none."""
        return self._change.report(now) if self._change else None

    def request(self, request: control.ChangeRequest, plan: Plan, now: int) -> Any:
        """Begin a change from *plan*; returns the answer."""
        if self._change and self.is_busy:
            return control.Refused(
                f"change {self._change.number} ({self._change.reason}) is under way: {self._change.step}; "
                "wait for it, or cancel it"
            )
        tasks = compare(plan, request.plan, request.reload)
        if isinstance(tasks, str):
            return control.Refused(tasks)
        swapped = {task.host for task in tasks.todo if task.verb == "swap"}
        if request.shadow_s and not swapped.intersection(request.plan.consumers()):
            return control.Refused(
                "a shadow compares what is answered to what the bus brings, and nothing that this changes "
                "does that, or it would be restarted; ask without one"
            )
        for each in self._change.swaps.values() if self._change else ():
            each.clear()
        self._count += 1
        change = self._change = _Change(self._count, request, plan, tasks)
        change.since_ns = self._floor.now()
        logger.info("change.began", number=change.number, reason=change.reason, hosts=change.hosts)
        for host in change.hosts:
            versions = {plugin.id: plugin.version for plugin in change.new.hosts().get(host, [])}
            self._floor.announce(m.SwapStarted(self._floor.now(), host, versions, change.reason))
        self._advance(change, now)
        return control.Accepted(change.number)

    def cancel(self, reason: str, now: int) -> str:
        """Roll back; returns why not, or ""."""
        if not self._change or not self.is_busy:
            return "no change is under way"
        if self._change.error:
            return f"the change is being rolled back already: {self._change.error}"
        self._fail(self._change, reason, now)
        self._advance(self._change, now)
        return ""

    def settle(self, now: int) -> str:
        """End the shadow, or the probation; returns why not, or ""."""
        change = self._change
        if not change or not self.is_busy:
            return "no change is under way"
        if change.swap and change.swap.step is Step.SHADOW:
            change.swap.end_shadow(now)
        elif change.step == Step.PROBATION:
            change.deadline = now
        else:
            return f"the change is neither a shadow nor in probation, but {change.step}"
        return ""

    # --- Getting on ---------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Time has passed."""
        if change := self._change:
            for each in change.swaps.values():
                each.tick(now)
            self._advance(change, now)

    def _advance(self, change: _Change, now: int) -> None:
        if change.outcome:
            return
        for each in change.swaps.values():
            if each.error and not change.error:
                self._fail(change, each.error, now)
        if change.error:
            if all(each.is_over for each in change.swaps.values()):
                self._end(change, "rolled back")
            return
        if change.task is not None and not self._is_done(change, change.task, now):
            return
        if change.task is not None or not change.deadline:
            self._next(change, now)
        else:
            self._conclude(change, now)

    def _next(self, change: _Change, now: int) -> None:
        change.task = None
        if change.tasks:
            task = change.task = change.tasks.pop(0)
            self._begin(change, task, now)
            return
        has_probation = change.swaps or change.started
        change.deadline = now + (change.probation_ns if has_probation else 0)
        change.rests_on = self._floor.head()
        self._floor.use(change.new)
        self._conclude(change, now)

    def _begin(self, change: _Change, task: Task, now: int) -> None:
        if task.verb == "start" or self._floor.phase(task.host) is not HostPhase.READY:
            change.task = Task("start", task.host)
            change.started.append(task.host)
            change.deadline = now + START_LIMIT_NS
            self._floor.use(change.new)
            self._floor.start_host(task.host)
            return
        processes = self._floor.processes(task.host)
        shadow_ns = change.shadow_ns if task.host in change.new.consumers() else 0
        new = Swap(self._floor, task.host, processes, (change.old, change.new), shadow_ns)
        change.swaps[task.host] = new
        new.begin(self._floor.presented(processes[0]), now)

    def _is_done(self, change: _Change, task: Task, now: int) -> bool:
        if task.verb == "swap":
            return change.swaps[task.host].step is Step.PROBATION
        if self._floor.phase(task.host) is HostPhase.READY:
            if problem := self._floor.problem_of(task.host, change.new):
                self._fail(change, problem, now)
            return not change.error
        if self._floor.phase(task.host) is HostPhase.QUARANTINED or now > change.deadline:
            why = self._floor.problem_of(task.host, change.new) or "it does not get ready"
            self._fail(change, f"host {task.host} cannot be started: {why}", now)
        return False

    # --- The end ------------------------------------------------------------------------------

    def _conclude(self, change: _Change, now: int) -> None:
        """All hosts run what they shall: see whether they are well, and whether that was long enough."""
        problems = (self._floor.problem_of(host, change.new) for host in change.started)
        if problem := next(filter(None, problems), ""):
            self._fail(change, problem, now)
        elif now < change.deadline:
            return
        elif self._floor.committed() >= change.rests_on:
            self._make_permanent(change, now)
        elif now >= change.deadline + KEEP_LIMIT_NS:
            limit = KEEP_LIMIT_NS // NS_PER_S
            self._fail(change, f"the journal has not taken what it rests on within {limit} s", now)

    def _make_permanent(self, change: _Change, now: int) -> None:
        if problem := self._floor.place(change.files):
            self._fail(change, problem, now)
            return
        for each in change.swaps.values():
            each.make_permanent(now)
        for host in change.stops:
            self._floor.stop_host(host)
        old, new = _running(change.old), _running(change.new)
        for plugin in sorted(old ^ new):
            self._floor.announce(m.PluginChanged(self._floor.now(), plugin, plugin in new))
        self._end(change, "permanent")

    def _fail(self, change: _Change, reason: str, now: int) -> None:
        change.failed_at = change.step
        if change.swap and change.swap.error:
            change.failed_at = str(change.swap.failed_at)
        change.error = reason
        self._floor.use(change.old)
        for each in reversed(change.swaps.values()):
            each.roll_back(reason, now)
        kept = change.old.hosts()
        for host in change.started:
            (self._floor.start_host if host in kept else self._floor.stop_host)(host)
        self._floor.drop(change.files)

    def _end(self, change: _Change, outcome: str) -> None:
        change.outcome = outcome
        logger.info("change.ended", number=change.number, outcome=outcome, error=change.error)
        for host in change.hosts:
            self._floor.announce(
                m.SwapEnded(self._floor.now(), host, outcome, change.failed_at or "ended", change.error)
            )

    def abandon(self, reason: str, now: int) -> None:
        """The run ends: whoever is active stays so, and nothing is made permanent."""
        change = self._change
        if not change or not self.is_busy:
            return
        change.failed_at, change.error = change.step, reason
        self._floor.use(change.old)
        for each in change.swaps.values():
            each.abandon(reason)
        for host in change.started:
            if host not in change.old.hosts():
                self._floor.stop_host(host)
        self._floor.drop(change.files)
        self._end(change, "rolled back")

    # --- What processes say -------------------------------------------------------------------

    def _swap_of(self, host: str) -> Swap | None:
        return self._change.swaps.get(host) if self._change else None

    def withholds(self, host: str, writer: Plan, plan: Plan) -> bool:
        """
        Return whether a checkpoint of *host* would be of no use to whoever has to go on from it.

        Args:
            writer: what the process that wrote it was started for.
            plan: what runs; the one that is to stay, unless a change is under way.
        """
        stays = self._change.old if self._change and self.is_busy else plan
        return not swap.has_same_state(host, writer, stays)

    def take_present(self, process: str, present: control.Present, now: int) -> Any:
        """A candidate presents what it has built; returns the answer."""
        found = self._swap_of(host_of(process))
        if self._change is None or found is None or found.new != process or found.is_over:
            return control.Refused("nobody waits for this process any longer")
        answer = found.presented(present, now)
        self._advance(self._change, now)
        return answer

    def take(self, process: str, message: Any, now: int) -> None:
        """Hear what a process of a swap says."""
        found = self._swap_of(host_of(process))
        if self._change is None or found is None:
            if isinstance(message, control.NotTaken):
                self._floor.end(process, message.reason)  # it fell silent in a trial that is long over
            return
        match message:
            case control.StandingBy():
                found.standing_by(now, message.begins)
            case control.Ready():
                found.ready(now)
            case control.PartTaken():
                found.part_taken(process, now)
            case control.Took():
                found.took(process, now)
            case control.NotTaken():
                found.refused(process, message.reason, now)
            case control.Unfit():
                found.refused(process, message.error, now)
            case control.Shadowed():
                found.shadowed(message)
        self._advance(self._change, now)

    def take_part(self, process: str, part: control.StatePart, now: int) -> None:
        """A part of a state has come, behind everything its process published."""
        if found := self._swap_of(host_of(process)):
            found.take_part(process, part, now)

    def exited(self, process: str, reason: str, now: int) -> bool:
        """*process* is gone; returns whether its host lives on in another."""
        found = self._swap_of(host_of(process))
        if self._change is None or found is None:
            return False
        lives_on = found.exited(process, reason, now)
        self._advance(self._change, now)
        return lives_on


def _running(plan: Plan) -> set[str]:
    return {plugin.id for members in plan.hosts().values() for plugin in members}
