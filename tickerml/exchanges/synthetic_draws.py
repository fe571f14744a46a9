"""
Random numbers of a synthetic market, as counted streams.

A stream is known by its seed and its number, and its state is how far it has been used.
So a seed is a market, a restored market goes on as if nothing had been, and what draws
from one stream never changes what another gives.
"""

import math

import msgspec
import numpy as np


class DrawsState(msgspec.Struct, frozen=True, array_like=True):
    """How far a stream has been used: *at* numbers of *block*."""

    seed: int
    block: int
    at: int


class Draws:
    """A stream of uniform numbers, made in numbered blocks so that its state is a few integers."""

    BLOCK = 4_096

    __slots__ = ("_at", "_block", "_numbers", "_seed", "_stream")

    def __init__(self, seed: int, stream: int) -> None:
        """
        Args:
            seed: of the market.
            stream: tells the streams of one seed apart.
        """
        self._stream = stream
        self.restore(DrawsState(seed, 0, 0))

    def _fill(self) -> list[float]:
        generator = np.random.Generator(np.random.PCG64([self._seed, self._stream, self._block]))
        numbers: list[float] = generator.random(self.BLOCK).tolist()
        return numbers

    def state(self) -> DrawsState:
        """Return how far the stream has been used."""
        return DrawsState(self._seed, self._block, self._at)

    def restore(self, state: DrawsState) -> None:
        """Go to where state() was called."""
        self._seed, self._block, self._at = state.seed, state.block, state.at
        self._numbers = self._fill()

    def uniform(self) -> float:
        """Return the next number, in [0, 1)."""
        at = self._at
        if at == self.BLOCK:
            self._block += 1
            self._numbers = self._fill()
            at = 0
        self._at = at + 1
        return self._numbers[at]

    def exponential(self) -> float:
        """Return a wait of mean 1."""
        return -math.log(1.0 - self.uniform())

    def normal(self) -> float:
        """Return a standard normal number (Box and Muller 1958)."""
        return math.sqrt(2.0 * self.exponential()) * math.cos(math.tau * self.uniform())
