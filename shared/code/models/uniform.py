"""p = 1/m for every token: the code whose length is S_0. It learns nothing; its steps still count segments."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64, advance, starved, target
from shared.code.compiled import kernel
from shared.code.models.base import I64, U32, Coder, Predictor


@kernel
def _code(tokens: U32, start: int, state: U64, buffer: U8, costs: U32, size: np.uint64) -> int:
    one = np.uint64(1)
    for row in range(start, tokens.shape[0]):
        if size == one:
            tokens[row, 0] = 0
            continue
        if starved(state, one):
            return row
        symbol = np.uint64(tokens[row, 0])
        if state[0] == one:  # MODE is DECODE
            symbol = target(state, size)
            tokens[row, 0] = symbol
        costs[row, 0] = advance(state, buffer, symbol, one, size)
    return tokens.shape[0]


class Uniform(Predictor):
    """Every token alike."""

    max_decisions = 1

    def __init__(self, vocabulary_size: int) -> None:
        self._size = np.uint64(vocabulary_size)

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        del lengths
        return int(_code(tokens, start, coder.state, coder.buffer, costs, self._size))

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}
