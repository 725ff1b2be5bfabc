"""`ensemble`: the mixing machine with the predictions of an LSTM among its inputs, in one stream, trained token by token.

The LSTM sees and predicts the 8 top bits of a token (all of an octet); its distribution over them is summed up to each binary
decision. Both halves learn from every token; neither sees the other's state.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64, starved
from shared.code.compiled import kernel
from shared.code.models import lstm
from shared.code.models.base import I64, U32, Coder
from shared.code.models.mixing import Machine, Mixing, code_token
from shared.code.spec import EnsembleModel

_predict, _learn, _move_on = lstm.predict, lstm.learn, lstm.move_on


@kernel
def _code(
    tokens: U32,
    start: int,
    state: U64,
    buffer: U8,
    costs: U32,
    network: lstm.Lstm,
    machine: Machine,
    size: int,
    bits: int,
    minimum: int,
) -> int:
    for row in range(start, tokens.shape[0]):
        if starved(state, np.uint64(bits)):
            return row
        _predict(network)
        value, cost = code_token(np.int64(tokens[row, 0]), machine, size, bits, minimum, network.tree, state, buffer)
        tokens[row, 0] = value
        costs[row, 0] = cost
        symbol = value >> (bits - 8) if bits > 8 else value << (8 - bits)
        if machine.end[0] < 0:
            _learn(network, symbol)
        else:
            _move_on(network, symbol)
    return tokens.shape[0]


class Ensemble(Mixing):
    """The predictor."""

    def __init__(self, vocabulary_size: int, model: EnsembleModel) -> None:
        super().__init__(vocabulary_size, model, others=1)
        self._network = lstm.new(model.width, model.seed)

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        del lengths
        parameters = self._network, self._machine, self._size, self._bits, self._minimum
        return int(_code(tokens, start, coder.state, coder.buffer, costs, *parameters))

    def restore(self, data: bytes | memoryview) -> None:
        """Go back to `state_bytes`. Raises `StateError`, and changes nothing, if they are of another predictor."""
        super().restore(data)
        lstm.round_weights(self._network)

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {**super()._arrays(), **{f"lstm.{name}": array for name, array in lstm.arrays(self._network).items()}}
