"""
Who leaves a queue, as the core counts it: one function, chosen by a number.

See queue_models, which names them. Every function may be compiled: see core_state.
"""

import math

RISK_AVERSE, LOG, POWER_N, BY_SIZE, L3_EXACT = range(5)


def ahead_after(
    model: int, power: int, ahead: int, behind: int, previous: int, new: int, traded: int, unit: float
) -> int:
    """
    Return the lots ahead of us after a level went from *previous* to *new*: at most min(ahead, new).

    Args:
        behind: lots of the previous size that were not ahead.
        traded: lots printed there since *previous* was published, which have moved us already.
        unit: lots in an average order.
    """
    left = previous - new - traded
    if model in (RISK_AVERSE, L3_EXACT) or left <= 0 or ahead == 0:
        return min(ahead, new)
    weight_behind, weight_ahead = weigh(model, power, behind / unit), weigh(model, power, ahead / unit)
    p = weight_behind / (weight_behind + weight_ahead)
    # Those of p x left beyond *behind* must have been ahead too; *new* bounds exactly that.
    return max(0, min(math.ceil(ahead - (1 - p) * left), ahead, new))


def weigh(model: int, power: int, x: float) -> float:
    """Return f(x) of log or power:n, which grows from 0 at 0."""
    return math.log1p(x) if model == LOG else x ** float(power)
