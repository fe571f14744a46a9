"""
Who leaves a queue, told by how much leaves: the model *by-size*.

Whoever cancels takes a whole order away, as nearly all do. What came behind us is known, order by
order, since each came as a growth of the level. So a level that shrinks by a size that somebody
behind us has is held to have lost him; where nobody behind has it, somebody ahead has left:

    ahead 20, behind [5][8]     the level loses 8: behind [5]     it loses 3: ahead 17, behind [5][8]

In doubt nobody ahead left, so as long as cancellations are whole and told one by one this never says
less than is ahead of us. A part of the queue behind us that is not known (it was too long, or a
snapshot replaced it) is held to have every size up to its own.

Every function may be compiled: see core_state.
"""

from .core_state import BEHIND, BEHIND_COUNT, BEHIND_MOST, Core


def ahead_by_size(core: Core, row: int, ahead: int, previous: int, new: int, traded: int) -> int:
    """Return the lots ahead of the order at *row* after its level changed: see core_queue.ahead_after()."""
    left, behind = previous - new - traded, max(0, previous - traded - ahead)
    if left < 0:
        join(core, row, -left)
    elif left and not leave(core, row, left) and left > behind - known_behind(core, row):
        if left > ahead:  # more than one of them
            core.orders[row + BEHIND_COUNT] = 0
            left = max(0, left - behind)
        ahead -= left
    return max(0, min(ahead, new))


def join(core: Core, row: int, lots: int) -> None:
    """Put an order of *lots* behind the order at *row*, where there is room to know it."""
    n = core.orders[row + BEHIND_COUNT]
    if n < BEHIND_MOST:
        core.orders[row + BEHIND + n] = lots
        core.orders[row + BEHIND_COUNT] = n + 1


def leave(core: Core, row: int, lots: int) -> bool:
    """Whether an order of *lots* is known behind the order at *row*; the last such leaves."""
    orders, first = core.orders, row + BEHIND
    n = orders[row + BEHIND_COUNT]
    for i in range(n - 1, -1, -1):
        if orders[first + i] == lots:
            for j in range(i, n - 1):
                orders[first + j] = orders[first + j + 1]
            orders[row + BEHIND_COUNT] = n - 1
            return True
    return False


def pass_by(core: Core, row: int, lots: int) -> None:
    """Let *lots* of a print that went on past the order at *row* take those behind it, the first first."""
    orders, first = core.orders, row + BEHIND
    n, gone = orders[row + BEHIND_COUNT], 0
    while gone < n and orders[first + gone] <= lots:
        lots -= orders[first + gone]
        gone += 1
    if gone < n:
        orders[first + gone] -= lots
    for i in range(gone, n):
        orders[first + i - gone] = orders[first + i]
    orders[row + BEHIND_COUNT] = n - gone


def known_behind(core: Core, row: int) -> int:
    """Return the lots of those known behind the order at *row*."""
    known = 0
    for i in range(core.orders[row + BEHIND_COUNT]):
        known += core.orders[row + BEHIND + i]
    return known
