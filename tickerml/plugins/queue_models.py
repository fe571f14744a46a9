"""
Who leaves a queue: how much of a smaller level was ahead of us, and how many orders that is.

L2 says how much is ahead at acceptance, not who leaves later. *risk-averse* lets only
prints move us, and the level's size bound us (ahead = min(ahead, new)): it never fills
before the truth does. *log* and *power:n* spread a cancellation over both sides of us,
behind us with probability f(behind) / (f(behind) + f(ahead)) for f = ln(1 + x) and x**n;
they are hftbacktest's models (nkaz001/hftbacktest, models/queue.rs), save that we count
in average orders, so that the answer does not depend on the lot size. *uniform* says that
everybody leaves as readily, which is power:1. The formula is in core_queue.py, and what
an average order is, core_book.py learns from how levels grow. *by-size* knows those behind
us one by one and tells by the size that leaves who it was (core_sizes.py): it says most of
the truth wherever the feed tells each change, and less of a depth told now and then. *l3-exact*
guesses nothing where the feed tells of single orders (BookOrders), and is risk-averse elsewhere
(core_singles.py).
"""

import msgspec

from . import core_queue

NAMES = r"^(risk-averse|log|uniform|by-size|l3-exact|power:[1-9])$"


class QueueChoice(msgspec.Struct, frozen=True):
    """A queue model by its number in the core."""

    model: int = core_queue.RISK_AVERSE
    power: int = 1

    def on_depth(self, ahead: int, behind: int, previous: int, new: int, traded: int, unit: float) -> int:
        """Return the new quantity ahead, in lots: see core_queue.ahead_after()."""
        return core_queue.ahead_after(self.model, self.power, ahead, behind, previous, new, traded, unit)


def queue_model(name: str) -> QueueChoice:
    """
    Return the model *name*: "risk-averse", "log", "uniform", "by-size", "l3-exact" or "power:n".

    Raises: ValueError: there is no such model.
    """
    if name == "risk-averse":
        return QueueChoice()
    if name == "log":
        return QueueChoice(core_queue.LOG)
    if name == "by-size":
        return QueueChoice(core_queue.BY_SIZE)
    if name == "l3-exact":
        return QueueChoice(core_queue.L3_EXACT)
    if name == "uniform":
        return QueueChoice(core_queue.POWER_N, 1)
    kind, _, exponent = name.partition(":")
    if kind == "power" and exponent.isdigit() and exponent != "0":
        return QueueChoice(core_queue.POWER_N, int(exponent))
    rule = "queue model must be risk-averse, log, uniform, by-size, l3-exact or power:n with n from 1"
    raise ValueError(f"{rule}, was {name!r}")


class OrderSize(msgspec.Struct):
    """What a core knows of the size of an order, as it is saved: see core_book.learn_size()."""

    total: int  # lots, times 2**16
    count: int  # orders, times 2**16
    step: int
