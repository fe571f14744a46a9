"""
What is wrong with a process that takes part in a swap: each flaw at the edge where it shows.

A process has at most one, and it strikes once. The production code is not touched: what is
said, heard, pushed or restored is spoilt on its way.
"""

from random import Random
from typing import Any, Protocol

import msgspec

from tickerml.kernel import codec, control, topics
from tickerml.kernel import messages as m
from tickerml.kernel.errors import StateRefused
from tickerml.kernel.gate import GATE
from tickerml.kernel.localbus import LocalBus
from tickerml.kernel.source import Source
from tickerml.kernel.units import NS_PER_MS, NS_PER_S

from .faults import Flaw

HANGS_NS = 60 * NS_PER_S
HOLDS_NS = (50 * NS_PER_MS, 4 * NS_PER_S)  # of the present process, at the barrier
FRAIL_NS = (NS_PER_MS, 400 * NS_PER_MS)  # from having taken over to the end
RAISES_AFTER = 30  # inputs, at most
_TRESPASS = m.KernelStopped(0, 0, "said by one who may not")


class Host(Protocol):
    """The process that is spoilt."""

    machine: Any

    def exit(self, reason: str) -> None:
        """End by itself."""

    def hang(self, span: int, message: Any) -> None:
        """Do nothing for *span* ns, and hear *message* only then."""

    def light_fuse(self, effects: int) -> None:
        """Die before the *effects*-th effect from now."""

    def die_in(self, span: int) -> None:
        """Be killed in *span* ns."""


class Spoiler:
    """Lets one process have its flaw."""

    def __init__(self, host: Host, rng: Random, flaw: Flaw | None) -> None:
        self.has_struck = self._is_told = False
        self._flaw = flaw
        self._is_illiterate = rng.random() < 0.5  # refuses every state, and not only what is in one
        self._host = host
        self._rng = rng
        self._raises_in = 0  # inputs

    def arm(self, flaw: Flaw) -> None:
        """Have *flaw* from now on."""
        self._flaw, self.has_struck, self._is_told = flaw, False, False

    def told(self) -> Flaw | None:
        """Return the flaw that has struck, once."""
        if not self.has_struck or self._is_told:
            return None
        self._is_told = True
        return self._flaw

    def _strikes(self, *flaws: Flaw) -> bool:
        is_now = not self.has_struck and self._flaw in flaws
        self.has_struck = self.has_struck or is_now
        return is_now

    def _between(self, span: tuple[int, int]) -> int:
        return span[0] + int(self._rng.random() * (span[1] - span[0]))

    def hears(self, message: Any) -> bool:
        """Spoil the hearing of *message*; returns whether it is not to be heard now."""
        match message:
            case control.Welcome() if self._strikes(Flaw.IMPORT):
                self._host.exit("exited with code 1: ImportError")
                return True
            case control.StandBy() if self._strikes(Flaw.DEAF):
                self._host.hang(HANGS_NS, message)
                return True
            case control.Barrier() if self._strikes(Flaw.HOLDING):
                self._host.hang(self._between(HOLDS_NS), message)
                return True
            case control.Barrier() if self._strikes(Flaw.FALLING):
                self._host.light_fuse(self._rng.randint(1, 3))
            case control.TakeOver() if message.admitted is not None:
                return self._hears_takeover(message)
        return False

    def _hears_takeover(self, message: control.TakeOver) -> bool:
        if self._strikes(Flaw.STUCK):
            self._host.hang(HANGS_NS, message)
            return True
        if self._strikes(Flaw.FLEETING):
            self._host.light_fuse(self._rng.randint(1, 4))
        elif self._strikes(Flaw.FRAIL):
            self._host.die_in(self._between(FRAIL_NS))
        elif self._flaw is Flaw.RAISING and not self.has_struck:
            self._raises_in = self._rng.randint(1, RAISES_AFTER)
        return False

    def says(self, message: Any) -> Any:
        """Return what is really said instead of *message*."""
        if not isinstance(message, control.Present):
            return message
        first, *others = message.components
        if others and self._strikes(Flaw.BUILD):
            failed = {first.plugin: ("build", "RuntimeError: the world")}
            return msgspec.structs.replace(message, components=others, failed=failed)
        if self._strikes(Flaw.OVERREACH):
            more = msgspec.structs.replace(first, publishes=[*first.publishes, "KernelStopped"])
            return msgspec.structs.replace(message, components=[more, *others])
        return message

    def pushes(self, burst: bytes) -> bytes:
        """Return what is really pushed instead of *burst*, by one who was admitted."""
        admitted: control.Admitted = self._host.machine._admitted
        number_of_link, number, frames = codec.unpack_burst(burst)
        if number_of_link != admitted.link or not self._strikes(Flaw.TRESPASS):
            return burst
        plugin, origin = next(iter(admitted.origins.items()))
        said = codec.pack_output(
            topics.topic_of(_TRESPASS), origin, admitted.epochs[plugin], 0, 2**40, codec.encode(_TRESPASS)
        )
        return codec.pack_burst([*frames, said], number_of_link, number)

    def reads(self, bus: LocalBus) -> None:
        """
        *bus* is about to be given a state.

        Raises: StateRefused.
        """
        if self._is_illiterate and self._flaw is Flaw.REFUSAL:
            self.has_struck = True
            raise StateRefused(bus.plugins[0], "cannot read this: the world")

    def restored(self, bus: LocalBus) -> None:
        """The components of *bus* have been given their states; one of them may not have taken it."""
        if self._strikes(Flaw.REFUSAL):
            bus.fail(self._rng.choice(bus.plugins), "restore", RuntimeError("the world"))

    def takes_input(self, bus: LocalBus) -> None:
        """Have a plugin of *bus* raise when its time has come."""
        if self._raises_now():
            plugin = self._rng.choice([plugin for plugin in bus.plugins if plugin != GATE])
            bus.fail(plugin, "an input", RuntimeError("the world"))

    def _raises_now(self) -> bool:
        if not self._raises_in or not self._host.machine._is_on_trial:
            return False  # afterwards it would be an ordinary failure, which is not undone
        self._raises_in -= 1
        return not self._raises_in and self._strikes(Flaw.RAISING)

    def advances(self, source: Source) -> None:
        """Have a plugin of *source* raise when its time has come."""
        if self._raises_now():
            source.fail(source._bus.plugins[0], RuntimeError("the world"))
