"""
Replacing one host's process by another, without losing or repeating a message. Sans-IO.

    STARTING   the candidate starts, loads its plugins, and presents them; nothing is admitted
    STANDBY    it subscribes first; when it hears everything, it stands by and holds what it hears
    SHADOW     on request it runs on live input, and what it would publish is compared
    BARRIER    the present process stops after its input S and sends its state, behind its last output
    TAKEOVER   by then all its outputs are in the order: its epoch is fenced, the candidate gets
               the state, and goes on with S+1, which it holds
    PROBATION  the one before stands by with its own state; then it is let go, and the change is permanent

Before the state is in, a rollback is a word to the present process: go on. After it, the
epoch of the other is raised again, and the one before goes on from the state that the
candidate hands over in turn; where it cannot (it is gone, or writes another version of
the state), from its own at S: it repeats S+1 to the present in silence. A plugin that
raises in probation is not set aside: its process falls silent at once, and the one before
goes on from its own state too, so that what it says next is what would have been said.

Each step has a limit, and whatever happens within it, one of the two goes on. A host of
pages has no inputs and no outputs: its candidate serves beside it, and then it is stopped.
"""

import enum
from typing import Any, Protocol

import structlog

from . import control
from .config import Plan, PluginPlan
from .errors import HandshakeRefused
from .hookspecs import HOOKS
from .journal import Checkpoint
from .units import NS_PER_MS, NS_PER_S

START_LIMIT_NS = 60 * NS_PER_S  # to have loaded its plugins
STANDBY_LIMIT_NS = 40 * NS_PER_S  # to hear everything; a live feed connects in it
BARRIER_LIMIT_NS = 2 * NS_PER_S  # of silence
TAKEOVER_LIMIT_NS = 5 * NS_PER_S  # of silence
LEAVE_LIMIT_NS = 5 * NS_PER_S  # for the one that was replaced, to end by itself

_SHAPES = {spec.KIND: spec.SHAPE for spec in HOOKS.values()}

logger = structlog.get_logger()


class Step(enum.StrEnum):
    """How far a swap has come."""

    STARTING = "starting"
    STANDBY = "standby"
    SHADOW = "shadow"
    BARRIER = "barrier"
    TAKEOVER = "takeover"
    PROBATION = "probation"
    BACK = "rolling back"
    ENDED = "ended"


class Floor(Protocol):
    """What a swap acts through: the kernel."""

    def launch(self, process: str, plan: Plan) -> None:
        """Start a *process* of the host it is named after, to run what *plan* says."""

    def is_there(self, process: str) -> bool:
        """Whether *process* exists."""

    def end(self, process: str, reason: str) -> None:
        """End *process* at once."""

    def tell(self, process: str, message: Any) -> None:
        """Send *message* to *process*."""

    def check(self, present: control.Present, plan: Plan) -> None:
        """
        Raises: HandshakeRefused: the components may not all do what they say.
        """

    def admit(self, process: str, present: control.Present) -> control.Admitted:
        """Admit *process* as its host, at new epochs: what another still says in its name is refused."""

    def give(self, host: str, process: str) -> None:
        """From now on *process* is the one that *host* is."""

    def standing(self, host: str) -> tuple[int, dict[str, int], dict[bytes, int], tuple[int, int]]:
        """Return the last seq, each component's number, each topic's count, and when *host* was away."""

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put *checkpoint* into the journal."""

    def problem_of(self, host: str, plan: Plan) -> str:
        """Return why the active process of *host* is not well; "" when it is."""

    @property
    def is_started(self) -> bool:
        """Whether the sources were let go."""


def has_same_state(host: str, plan: Plan, other: Plan) -> bool:
    """Return whether *host* writes the same versions of its states under both plans."""
    here, there = ({p.id: p.state_version for p in each.hosts().get(host, ())} for each in (plan, other))
    return all(here[plugin] == there[plugin] for plugin in here.keys() & there.keys())


class Swap:
    """One host's change of process."""

    def __init__(
        self, floor: Floor, host: str, processes: tuple[str, str], plans: tuple[Plan, Plan], shadow_ns: int
    ) -> None:
        """
        Args:
            processes: the active one, and the candidate to be.
            plans: what runs, and what shall run.
            shadow_ns: how long to compare before anything changes.
        """
        self.host = host
        self.step = Step.STARTING
        self.error = ""  # why it was rolled back
        self.failed_at = Step.ENDED  # the step in which that became clear
        self.gap_ns = 0  # from the barrier to the candidate's going on
        self.shadow: control.Shadowed | None = None
        self.old, self.new = processes
        self.active = self.old  # the one that publishes
        self._plan, self._new_plan = plans
        self._floor = floor
        self._shadow_ns = shadow_ns
        self._deadline = 0
        self._number = 0
        self._presents: dict[str, control.Present] = {}
        self._state: list[control.StatePart] = []
        self._barrier_at = 0
        self._is_launched = False
        self._gone: set[str] = set()
        self._is_silent = False  # whether the candidate has stopped to publish, and hands nothing over
        self._is_page = all(_SHAPES[plugin.kind] == "page" for plugin in self._members(self._new_plan))

    def _members(self, plan: Plan) -> list[PluginPlan]:
        return plan.hosts().get(self.host, [])

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way any longer."""
        return self.step is Step.ENDED

    @property
    def deadline(self) -> int:
        """When the step must have come to its end, monotonic ns; 0 for never."""
        return self._deadline

    # --- Forward ------------------------------------------------------------------------------

    def begin(self, present: control.Present, now: int) -> None:
        """
        Start the candidate.

        Args:
            present: what the active process presented.
        """
        self._presents[self.old] = present
        self._enter(Step.STARTING, now, START_LIMIT_NS)
        if self._floor.is_there(self.new):
            self._floor.end(self.new, "another process takes its place")  # of a change before this one
        else:
            self._launch()

    def _launch(self) -> None:
        self._is_launched = True
        self._floor.launch(self.new, self._new_plan)

    def _enter(self, step: Step, now: int, limit_ns: int) -> None:
        self.step, self._deadline = step, now + limit_ns if limit_ns else 0

    def presented(self, present: control.Present, now: int) -> Any:
        """Return the answer to the candidate."""
        try:
            self._floor.check(present, self._new_plan)
        except HandshakeRefused as error:
            self.roll_back(str(error), now)
            return control.Refused(str(error))
        broken = present.failed.keys() - self._presents[self.old].failed.keys()
        if broken:
            stage, why = present.failed[min(broken)]
            self.roll_back(f"{min(broken)} failed at {stage}: {why}", now)
            return control.Refused(why)
        self._presents[self.new] = present
        self._enter(Step.STANDBY, now, STANDBY_LIMIT_NS)
        if self._is_page:
            return self._floor.admit(self.new, present)
        head, numbers, tseq, away = self._floor.standing(self.host)
        origins = {c.plugin: numbers[c.plugin] for c in present.components if c.plugin in numbers}
        return control.StandBy(origins, head, tseq, self._shadow_ns > 0, away)

    def ready(self, now: int) -> None:
        """The candidate, a page, serves: the one before it may go."""
        if self.step is Step.STANDBY:
            self._give(self.new)
            self._floor.tell(self.old, control.Stop())
            self._enter(Step.PROBATION, now, 0)

    def _give(self, process: str) -> None:
        self.active = process
        self._floor.give(self.host, process)

    def standing_by(self, now: int, begins: dict[str, int]) -> None:
        """
        The candidate hears everything.

        Args:
            begins: by stream of a live feed, how far the present process must be for nothing to be missed.
        """
        if self.step is Step.STANDBY and self._shadow_ns:
            self._enter(Step.SHADOW, now, self._shadow_ns)
            self._floor.tell(self.new, control.Shadow())
        elif self.step in (Step.STANDBY, Step.SHADOW):
            self._raise_barrier(self.old, Step.BARRIER, now, begins)

    def shadowed(self, told: control.Shadowed) -> None:
        """The shadow tells how it compares."""
        self.shadow = told

    def end_shadow(self, now: int) -> None:
        """That was long enough: stand by, and then go on."""
        if self.step is Step.SHADOW:
            self._deadline = now + STANDBY_LIMIT_NS
            self._shadow_ns = 0
            self._floor.tell(self.new, control.ShadowOver())

    def _raise_barrier(self, process: str, step: Step, now: int, after: dict[str, int] | None = None) -> None:
        self._number += 1
        self._state = []
        self._barrier_at = now
        self._enter(step, now, BARRIER_LIMIT_NS)
        self._floor.tell(process, control.Barrier(self._number, after or {}))

    def take_part(self, process: str, part: control.StatePart, now: int) -> None:
        """A part of the state has come from *process*, behind everything it published."""
        giver = {Step.BARRIER: self.old, Step.BACK: self.new}.get(self.step)
        if process != giver or part.number != self._number or part.part != len(self._state):
            return
        self._state.append(part)
        self._deadline = now + BARRIER_LIMIT_NS
        is_last = part.part + 1 == part.parts
        if self.step is Step.BACK:
            self._floor.tell(process, control.MoreState(self._number))
            if is_last:
                has_use = has_same_state(self.host, self._plan, self._new_plan)
                self._give_back(self._state if has_use else [], now)
            return
        if is_last:
            self._enter(Step.TAKEOVER, now, TAKEOVER_LIMIT_NS)
        self._pass_on(self.new, part, is_last=is_last)
        if is_last:
            state = b"".join(part.data for part in self._state)
            self._floor.add_checkpoint(Checkpoint(self.host, part.position, state))
            self._state = []
            self._give(self.new)

    def _pass_on(self, process: str, part: control.StatePart, *, is_last: bool) -> None:
        admitted = self._floor.admit(process, self._presents[process]) if is_last else None
        self._floor.tell(
            process,
            control.TakeOver(
                part.position,
                part.part,
                part.parts,
                part.data,
                admitted,
                self._floor.is_started,
                process == self.new,
            ),
        )

    def part_taken(self, process: str, now: int) -> None:
        """The candidate has a part: the next may come."""
        if process == self.new and self.step is Step.BARRIER:
            self._deadline = now + BARRIER_LIMIT_NS
            self._floor.tell(self.old, control.MoreState(self._number))

    def took(self, process: str, now: int) -> None:
        """*process* goes on from the state."""
        if process == self.new and self.step is Step.TAKEOVER:
            self.gap_ns = now - self._barrier_at
            self._enter(Step.PROBATION, now, 0)
            logger.info("swap.taken_over", host=self.host, gap_ms=round(self.gap_ns / NS_PER_MS, 3))
        elif process == self.old and self.step is Step.BACK:
            self.step = Step.ENDED
            self._end(self.new)

    def make_permanent(self, now: int) -> None:
        """Let the one before go."""
        self._enter(Step.ENDED, now, LEAVE_LIMIT_NS)
        self._floor.tell(self.old, control.Stop())
        self._floor.tell(self.new, control.Permanent())

    def clear(self) -> None:
        """End the one that was let go, and has not left yet."""
        self._deadline = 0
        self._end(self.old if self.active == self.new else self.new)

    def abandon(self, reason: str) -> None:
        """Leave it as it is: who is active stays so, the other ends."""
        if not self.is_over:
            self.error, self.failed_at, self.step = reason, self.step, Step.ENDED
            self._floor.tell(self.active, control.Permanent())
            self._end(self.old if self.active == self.new else self.new)

    # --- Back ---------------------------------------------------------------------------------

    def roll_back(self, reason: str, now: int) -> None:
        """Go back to the process that was there before."""
        if self.step in (Step.BACK, Step.ENDED):
            return
        self.error, self.failed_at = reason, self.step
        logger.warning("swap.rolled_back", host=self.host, step=str(self.step), reason=reason)
        match self.step:
            case Step.TAKEOVER:
                self._give_back([], now)
            case Step.PROBATION if self._is_page or self._is_silent or self.new in self._gone:
                self._give_back([], now)
            case Step.PROBATION:
                self._raise_barrier(self.new, Step.BACK, now)
            case _:
                if self.step is Step.BARRIER:
                    self._floor.tell(self.old, control.Resume(self._number))
                self.step = Step.ENDED
                self._end(self.new)

    def _give_back(self, state: list[control.StatePart], now: int) -> None:
        """Have the one before go on: from *state*, or where there is none from its own."""
        self._enter(Step.BACK, now, TAKEOVER_LIMIT_NS)
        if self.old in self._gone or self._is_page:
            self._give_up()
            return
        for part in state:
            self._pass_on(self.old, part, is_last=part.part + 1 == part.parts)
        if not state:
            self._pass_on(self.old, control.StatePart(self.host, 0, 0, 0, 0, b""), is_last=True)
        self._give(self.old)

    def _give_up(self) -> None:
        """Neither can go on: the active one is ended, and started again from what the journal has."""
        self.step = Step.ENDED
        self._end(self.new)
        self._end(self.old)

    def _end(self, process: str) -> None:
        if process not in self._gone:
            self._floor.end(process, self.error)

    # --- What happens on the way --------------------------------------------------------------

    def refused(self, process: str, reason: str, now: int) -> None:
        """*process* cannot go on from the state, or at all."""
        if self.is_over:
            # It was on trial still when a plugin raised, and has fallen silent.
            if process == self.active:
                self._floor.end(process, reason)
        elif process == self.new:
            self._is_silent = True
            if self.step is Step.BACK and self.active == self.new:
                self._give_back([], now)
            self.roll_back(reason, now)
        elif self.step is Step.BACK and self.active == self.old:
            self.error += f"; and the one before could not go on: {reason}"
            self._give_up()
        else:
            self._end(self.old)  # its feed broke while it stood by

    def exited(self, process: str, reason: str, now: int) -> bool:
        """
        *process* is gone.

        Returns: whether the host lives on in the other one.
        """
        if process == self.new and not self._is_launched:
            if not self.is_over:
                self._launch()
            return True
        self._gone.add(process)
        if not self.is_over:
            self._miss(process, reason, now)
        return process != self.active

    def _miss(self, process: str, reason: str, now: int) -> None:
        if process == self.new:
            if self.step is Step.BACK and self.active == self.new:
                self._give_back([], now)
            else:
                self.roll_back(f"the new process has ended: {reason}", now)
        elif self.step is Step.BACK and self.active == self.old:
            self._give_up()
        elif self.active == self.old:
            self.roll_back(f"the present process has ended: {reason}", now)

    def tick(self, now: int) -> None:
        """Time has passed: see to the limit of the step."""
        if self.step is Step.PROBATION:
            if problem := self._floor.problem_of(self.host, self._new_plan):
                self.roll_back(problem, now)
        elif self._deadline and now > self._deadline:
            self._be_late(now)

    def _be_late(self, now: int) -> None:
        match self.step:
            case Step.SHADOW if self._shadow_ns:
                self.end_shadow(now)
            case Step.STARTING:
                self.roll_back(f"has not loaded its plugins within {START_LIMIT_NS // NS_PER_S} s", now)
            case Step.BARRIER:
                limit = BARRIER_LIMIT_NS // NS_PER_S
                self.roll_back(f"the present process has not handed over its state within {limit} s", now)
            case Step.BACK if self.active == self.new:
                self._end(self.new)
                self._give_back([], now)
            case Step.BACK:
                self._give_up()
            case Step.ENDED:
                self.clear()
            case _:
                self.roll_back(f"has not got through the step {self.step} in time", now)
