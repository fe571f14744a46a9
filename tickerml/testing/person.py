"""
Somebody who changes what runs: replaces processes, plugs a strategy in and out, and changes their mind.

What a person wants is a plan; the file it is read from is the world's, and a change puts a
new one in its place. So the next kernel runs what was made permanent, and nothing else.
"""

from typing import Any

import msgspec

from tickerml.kernel import control
from tickerml.kernel.config import Plan, PluginPlan
from tickerml.kernel.units import NS_PER_MS, NS_PER_S

from .coverage import STEPS
from .faults import Fault, Flaw, Kind
from .scenario import guest, usher
from .surroundings import Surroundings

FILE = "plan"
PATIENCE_NS = 100 * NS_PER_MS  # until a person asks again who was too early
MOST_TRIES = 20
PROBATION_S = (0.03, 0.6)
SURE = 0.15  # of those who expect no trouble: they want no probation
_PLUGGED = {Kind.GUEST: guest(), Kind.RULE: usher()}
_PRESENT = (Flaw.HOLDING, Flaw.FALLING)


class Person:
    """Asks for changes."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._count = 0
        self.plan: Plan = world.scenario.plan  # what the file says
        self.prepared: dict[str, Plan] = {}  # what the temporary files say
        self.flaws: dict[str, Flaw] = {}  # of the next process of each host

    def ask(self, fault: Fault, tries: int = 0) -> bool:
        """Ask for the change that *fault* stands for, as soon as a kernel takes it; whether one may."""
        world = self._world
        if world.is_over or tries > MOST_TRIES:
            return False
        if world.kernel is None or not world.kernel.kernel.is_started:
            world.agenda.after(PATIENCE_NS, lambda: self._ask_again(fault, tries + 1))
            return True
        host = fault.host or _PLUGGED[fault.kind].host
        if fault.host and fault.host not in self.plan.hosts():
            return False
        self._count += 1
        prepared = f"plan-{self._count}"
        plan = self.prepared[prepared] = self._want(fault)
        self._spoil(host, fault)
        shadow_s = fault.span / NS_PER_S if fault.kind is Kind.SHADOW else 0.0
        least, most = PROBATION_S
        is_sure = not fault.flaw and fault.amount < SURE
        probation_s = 0.0 if is_sure else least + fault.amount * (most - least)
        world.client.ask(
            lambda reason: control.ChangeRequest(
                plan, reason, shadow_s, probation_s, {prepared: FILE}, self._reload(fault)
            )
        )
        return True

    def _ask_again(self, fault: Fault, tries: int) -> None:
        self.ask(fault, tries)

    def _reload(self, fault: Fault) -> list[str]:
        return [fault.host] if fault.kind in (Kind.RELOAD, Kind.SHADOW) else []

    def _want(self, fault: Fault) -> Plan:
        plan = self.plan
        match fault.kind:
            case Kind.RECONFIGURE:
                return _with(plan, [self._reconfigured(each, fault) for each in plan.plugins])
            case Kind.NEW_STATE:
                first = plan.hosts()[fault.host][0]
                return _with(plan, [_restated(each) if each is first else each for each in plan.plugins])
            case Kind.GUEST | Kind.RULE:
                new = _PLUGGED[fault.kind]
                others = [each for each in plan.plugins if each.host != new.host]
                return _with(plan, others if len(others) < len(plan.plugins) else [*others, new])
        return plan

    def _reconfigured(self, plugin: PluginPlan, fault: Fault) -> PluginPlan:
        if plugin.host != fault.host:
            return plugin
        options: dict[str, Any] = dict(plugin.options)
        if plugin.id == "strategy-busy":
            options["remark"] = f"change {self._count}"
        reload = "restart" if fault.amount > 0.8 else "process"
        return msgspec.structs.replace(plugin, version=f"0.{self._count}", options=options, reload=reload)

    def _spoil(self, host: str, fault: Fault) -> None:
        flaw = Flaw(fault.flaw) if fault.flaw else None
        self.flaws.pop(host, None)
        if flaw is Flaw.KERNEL:
            self._world.kernel.doom_in(STEPS[int(fault.amount * len(STEPS)) % len(STEPS)])
        elif flaw in _PRESENT:
            if process := self._world.kernel.active(host):
                process.spoiler.arm(flaw)
        elif flaw is not None:
            self.flaws[host] = flaw

    # --- The file -----------------------------------------------------------------------------

    def place(self, files: dict[str, str]) -> None:
        """The file is another one now."""
        for prepared in files:
            self.plan = self.prepared.pop(prepared)

    def drop(self, files: dict[str, str]) -> None:
        """What was prepared is of no use."""
        for prepared in files:
            self.prepared.pop(prepared, None)


def _with(plan: Plan, plugins: list[PluginPlan]) -> Plan:
    return msgspec.structs.replace(plan, plugins=plugins)


def _restated(plugin: PluginPlan) -> PluginPlan:
    """Return *plugin* in the version that writes another state; of its states the one before takes none."""
    return msgspec.structs.replace(plugin, state_version=1 if plugin.state_version == 2 else 2)
