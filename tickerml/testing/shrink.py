"""
The fewest faults that still break a run: delta debugging over a list (Zeller, Hildebrandt 2002).

The list is cut in parts. A part that fails alone, or the list without a part, is kept and cut
again; when no part can go, smaller ones are tried, down to single items. So what is left
fails, and without any one of it does not.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[Sequence[T]], bool], *, attempts: int = 200) -> list[T]:
    """
    Return a part of *items*, in their order, that still fails and from which nothing can be left out.

    Args:
        items: a list that fails.
        fails: whether a part of it does; must answer the same each time.
        attempts: how often *fails* may be asked; when they are used up, what is left may not be minimal.
    """
    left, parts, asked = list(items), 2, 0
    if not left or fails(()):
        return []
    while len(left) > 1 and asked < attempts:
        size = -(-len(left) // parts)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            asked += 1
            if fails(without):
                left, parts = without, max(parts - 1, 2)
                break
            if asked >= attempts:
                break
        else:
            if parts >= len(left):
                break
            parts = min(len(left), 2 * parts)
    return left
