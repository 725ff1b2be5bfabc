"""Ranks: processes that share the streams of one transmission, and what they tell each other so that all stay equal.

Every rank holds all weights and works on its share of the streams. What one weight learns from all streams is a sum of integers
at one scale: the scale's bound meets in a maximum, then the sums in a sum, and no order of either can change a bit. So z and
the weights are the same for any number of ranks. How the words travel is a property of the machine and comes from outside.
"""

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Ranks(Protocol):
    """The other ranks, as one of them sees them. All call the same operations in the same order; 0 is the leader.

    Arrays are contiguous, not empty, and of equal sizes at all ranks; `whole` has the ranks as its first axis and counts at the
    leader.
    """

    rank: int
    size: int

    def maximum(self, value: float) -> float:
        """The largest of all ranks' numbers, each a float32."""

    def add(self, sums: Any) -> None:
        """Replace `sums` (float64, integers at one power of two) by their sum over the ranks."""

    def broadcast(self, array: Array) -> None:
        """Replace the array by the leader's."""

    def gather(self, part: Array, whole: Array) -> None:
        """Set the leader's `whole` to all ranks' parts."""

    def scatter(self, part: Array, whole: Array) -> None:
        """Set each rank's part to what the leader's `whole` has for it."""


class Alone:
    """One rank that does it all."""

    rank: int = 0
    size: int = 1

    def maximum(self, value: float) -> float:
        """The number."""
        return value

    def add(self, sums: Any) -> None:
        """Nothing is to be added."""

    def broadcast(self, array: Array) -> None:
        """Nobody is to be told."""

    def gather(self, part: Array, whole: Array) -> None:
        """The part is all there is."""
        whole[0] = part

    def scatter(self, part: Array, whole: Array) -> None:
        """The part is all there is."""
        part[...] = whole[0]


ALONE: Final = Alone()


def by_rank(rows: Array, ranks: int, streams: int) -> Array:
    """Rows t·B + b of B streams [T·B, …] as a view [W, T, B / W, …]: rank r has the streams r·B/W … (r + 1)·B/W − 1."""
    view = rows.reshape(len(rows) // streams, ranks, streams // ranks, *rows.shape[1:])
    return np.moveaxis(view, 1, 0)
