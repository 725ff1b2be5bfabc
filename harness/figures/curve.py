"""Σ −log2 p against the position in D, thinned as it grows: what every picture of a transmission is drawn from."""

from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

MOST_BINS: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Cumulative bits at positions. positions: tokens, int64 [P], rising from 0. bits: float64 [P]. width: bytes of a token."""

    positions: NDArray[np.int64]
    bits: NDArray[np.float64]
    width: int = 1

    def __post_init__(self) -> None:
        if self.positions.shape != self.bits.shape or len(self.positions) == 0 or self.positions[0] != 0:
            raise ValueError("a curve starts at token 0 and has as many bits as positions")

    @classmethod
    def of_costs(cls, costs: NDArray[Any], width: int = 1) -> Self:
        """The curve of the costs of single tokens, in bits [n]."""
        growing = Growing()
        growing.add(costs)
        return cls(positions=growing.positions(), bits=growing.bits(), width=width)

    @classmethod
    def of_blocks(cls, blocks: list[dict[str, Any]], width: int = 1) -> Self:
        """The curve of Bob's `bits?per=block`, thinned."""
        ends = np.array([0, *(one["first"] + one["tokens"] for one in blocks)], dtype=np.int64)
        bits = np.concatenate(([0.0], np.cumsum([one["nll_bits"] for one in blocks], dtype=np.float64)))
        step = max(1, len(blocks) // MOST_BINS)
        chosen = np.unique(np.append(np.arange(0, len(ends), step), len(ends) - 1))
        return cls(positions=ends[chosen], bits=bits[chosen], width=width)

    def extended(self, heads: list[tuple[int, float]]) -> "Curve":
        """The same with points beyond its end: tokens and cumulative bits, in order."""
        last = int(self.positions[-1])
        later = [(tokens, bits) for tokens, bits in heads if tokens > last]
        if not later:
            return self
        tokens, bits = zip(*later, strict=True)
        return Curve(
            positions=np.append(self.positions, np.array(tokens, np.int64)),
            bits=np.append(self.bits, np.array(bits, np.float64)),
            width=self.width,
        )

    def per_byte(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions, and bits per byte from the beginning up to there."""
        return self.positions[1:], self.bits[1:] / (self.positions[1:] * self.width)

    def per_byte_lately(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions, and bits per byte over about the last thirtieth of the data before them."""
        span = max(1, int(self.positions[-1]) // 30)
        before = np.searchsorted(self.positions, self.positions[1:] - span, side="right") - 1
        before = np.clip(before, 0, np.arange(len(self.positions) - 1))
        tokens = self.positions[1:] - self.positions[before]
        return self.positions[1:], (self.bits[1:] - self.bits[before]) / (tokens * self.width)


@dataclass(slots=True)
class Growing:
    """Costs as they come, summed in bins of equally many tokens; bins are joined in pairs when there are too many."""

    tokens: int = 0
    _every: int = 1
    _sums: list[float] = field(default_factory=list)
    _open_tokens: int = 0
    _open_bits: float = 0.0

    def add(self, costs: NDArray[Any]) -> None:
        """Add costs of tokens, in bits [n]."""
        costs = np.asarray(costs, dtype=np.float64)
        self.tokens += len(costs)
        if self._open_tokens:
            wanted = self._every - self._open_tokens
            self._open_bits += float(costs[:wanted].sum())
            self._open_tokens += len(costs[:wanted])
            costs = costs[wanted:]
            self._close()
        whole = len(costs) - len(costs) % self._every
        self._sums += costs[:whole].reshape(-1, self._every).sum(axis=1).tolist()
        self._open_bits += float(costs[whole:].sum())
        self._open_tokens += len(costs) - whole
        while len(self._sums) > 2 * MOST_BINS:
            self._join()

    def _close(self) -> None:
        if self._open_tokens == self._every:
            self._sums.append(self._open_bits)
            self._open_tokens, self._open_bits = 0, 0.0

    def _join(self) -> None:
        if len(self._sums) % 2:  # the odd one is open again: it is shorter than a bin now
            self._open_bits += self._sums.pop()
            self._open_tokens += self._every
        self._sums = np.array(self._sums).reshape(-1, 2).sum(axis=1).tolist()
        self._every *= 2

    def positions(self) -> NDArray[np.int64]:
        """Ends of the bins, after 0."""
        ends = np.arange(len(self._sums) + 1, dtype=np.int64) * self._every
        return np.append(ends, self.tokens) if self._open_tokens else ends

    def bits(self) -> NDArray[np.float64]:
        """Cumulative bits there."""
        sums = np.concatenate(([0.0], np.cumsum(self._sums)))
        return np.append(sums, sums[-1] + self._open_bits) if self._open_tokens else sums
