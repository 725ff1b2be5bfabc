"""The optimiser's schedule, and replay. Exact: rates are integers in units of 2^-20, their roots too; places come from a counter.

Adam (D. P. Kingma and J. L. Ba 2015) with a rate that falls as 1 / √(1 + decay · k) and a clipped direction.
"""

from collections.abc import Iterator, Mapping
from math import isqrt
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.code.spec import Adam, Replay

_UNIT: Final = 1 << 20
_WORD: Final = (1 << 64) - 1
_EPSILON: Final = 2.0**-27
_CEILING: Final = 4.0


class Step:
    """The factors of one update, the same for all weights."""

    def __init__(self, optimizer: Adam) -> None:
        self._optimizer = optimizer
        self.powers = np.ones(2, dtype=np.float64)
        """β1^k and β2^k."""
        self.values: npt.NDArray[np.float32] = np.zeros(9, dtype=np.float32)
        """The factors of the update begun, as `adam` names them."""
        self._placed: Any = None  # a copy of them where kernels are
        self._fresh = False  # whether the copy is of this update

    def begin(self, k: int) -> None:
        """Start the update that follows step k ≥ 0."""
        adam = self._optimizer
        beta1, beta2 = np.float64(adam.beta1) / _UNIT, np.float64(adam.beta2) / _UNIT  # exact
        self.powers[0] *= beta1
        self.powers[1] *= beta2
        rate = isqrt((adam.rate**2 << 40) // (_UNIT + adam.decay * k)) / (1 << 30)  # rate · 2^-20 / √(1 + decay · k · 2^-20)
        self.values = np.array(
            [beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - self.powers[0]), 1 / (1 - self.powers[1]), _EPSILON, rate, _CEILING],
            dtype=np.float32,
        )
        self._fresh = False

    def factors(self, kernels: ModuleType) -> Any:
        """The factors as `adam` takes them, always in the same memory."""
        if self._placed is None:
            self._placed = kernels.from_numpy(self.values)
        elif not self._fresh:
            kernels.assign(self._placed, self.values)
        self._fresh = True
        return self._placed


class Memory:
    """The tokens that replay draws from: the last R rows of B streams, R·B ≤ 2^history_bits, in a ring. Padding is `PADDING`."""

    PADDING: Final = (1 << 32) - 1

    def __init__(self, replay: Replay, streams: int) -> None:
        self._passes = replay.passes
        self._rows: npt.NDArray[np.uint32] = np.full(
            ((1 << replay.history_bits) // streams, streams), self.PADDING, dtype=np.uint32
        )
        self._clock: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)  # rows ever kept

    def keep(self, tokens: npt.NDArray[np.uint32], lengths: npt.NDArray[np.int64]) -> None:
        """A segment's tokens [T, B], of which stream b has lengths [B]."""
        positions = len(tokens)
        places = (int(self._clock[0]) + np.arange(positions)) % len(self._rows)
        there = np.arange(positions)[:, None] < lengths[None]
        self._rows[places] = np.where(there, tokens, np.uint32(self.PADDING))
        self._clock[0] += positions

    def windows(self, k: int, positions: int) -> Iterator[npt.NDArray[np.uint32]]:
        """What to train on again after step k: for each pass tokens [T, B] that follow each other, once as many are kept."""
        clock = int(self._clock[0])
        oldest = max(0, clock - len(self._rows))
        for index in range(self._passes if clock >= positions else 0):
            first = oldest + _draw(k * self._passes + index) % (clock - oldest - positions + 1)
            yield self._rows[(first + np.arange(positions)) % len(self._rows)]

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The live arrays of the state."""
        return {"clock": self._clock, "tokens": self._rows}


def _draw(counter: int) -> int:
    """A number of 64 bits that looks like chance: SplitMix64, as for first weights."""
    z = ((counter + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)
