"""Adaptive counts of order 0, after R. E. Krichevsky and V. K. Trofimov (1981).

p(x) = (count(x) + 1/2) / (n + m/2), in integers (2·count + 1) / (2n + m).

Cumulative frequencies live in a binary indexed tree (P. M. Fenwick 1994), so that a token costs O(log m) for any m. Before
the total would pass 2^31 all frequencies are halved and kept odd.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import MAX_TOTAL, U8, U64, advance, starved, target
from shared.code.compiled import kernel
from shared.code.models.base import I64, U32, Coder, Predictor

_INCREMENT: Final = np.uint32(2)


@kernel
def _build(tree: U32, frequencies: U32) -> None:
    """tree[i], i = 1 … size: the sum of the frequencies i - lowbit(i) … i - 1. size is a power of two."""
    tree[:] = 0
    for index in range(1, len(tree)):
        if index <= len(frequencies):
            tree[index] += frequencies[index - 1]
        parent = index + (index & -index)
        if parent < len(tree):
            tree[parent] += tree[index]


@kernel
def _code(
    tokens: U32, start: int, state: U64, buffer: U8, costs: U32, tree: U32, frequencies: U32, limit: np.uint32, learn: bool
) -> int:
    size = len(tree) - 1
    for row in range(start, tokens.shape[0]):
        if len(frequencies) == 1:
            tokens[row, 0] = 0
            continue
        if starved(state, np.uint64(1)):
            return row
        total = np.uint64(tree[size])
        low = np.uint64(0)
        symbol = np.int64(0)
        if state[0] == np.uint64(1):  # MODE is DECODE
            place = target(state, total)
            step = size >> 1
            while step > 0:
                below = low + np.uint64(tree[symbol + step])
                if below <= place:
                    symbol += step
                    low = below
                step >>= 1
            tokens[row, 0] = symbol
        else:
            symbol = np.int64(tokens[row, 0])
            index = symbol
            while index > 0:
                low += np.uint64(tree[index])
                index &= index - 1
        costs[row, 0] = advance(state, buffer, low, np.uint64(frequencies[symbol]), total)
        if not learn:
            continue
        frequencies[symbol] += _INCREMENT
        index = symbol + 1
        while index <= size:
            tree[index] += _INCREMENT
            index += index & -index
        if tree[size] > limit:
            for other in range(len(frequencies)):
                frequencies[other] = (frequencies[other] >> np.uint32(1)) | np.uint32(1)
            _build(tree, frequencies)
    return tokens.shape[0]


class Frequency(Predictor):
    """Counts of single tokens. `limit` is the total after which counts are halved."""

    max_decisions = 1

    def __init__(self, vocabulary_size: int, limit: int = MAX_TOTAL - 2) -> None:
        self._limit = np.uint32(limit)
        self._frequencies = np.ones(vocabulary_size, dtype=np.uint32)
        self._tree = np.zeros((1 << (vocabulary_size - 1).bit_length()) + 1, dtype=np.uint32)
        _build(self._tree, self._frequencies)

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        del lengths
        counts = self._tree, self._frequencies, self._limit
        return int(_code(tokens, start, coder.state, coder.buffer, costs, *counts, not self.frozen))

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"frequencies": self._frequencies, "tree": self._tree}
