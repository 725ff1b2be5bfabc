"""A code of your own in integers: counts of each token after the one before it. Use it with --plugin at both ends."""

import numpy as np

from shared.code.arithmetic import advance, starved, target
from shared.code.compiled import kernel
from shared.code.models.base import Predictor


@kernel
def _code(tokens, start, state, buffer, costs, counts, before, learn):
    for row in range(start, tokens.shape[0]):
        if starved(state, np.uint64(1)):
            return row
        line = counts[before[0]]
        total, symbol, low = np.uint64(0), np.int64(tokens[row, 0]), np.uint64(0)
        for count in line:
            total += np.uint64(count)
        if state[0] == np.uint64(1):  # decoding: the token in whose part of 0 … total the code lies
            place, symbol = target(state, total), np.int64(0)
            while low + np.uint64(line[symbol]) <= place:
                low += np.uint64(line[symbol])
                symbol += 1
            tokens[row, 0] = symbol
        else:
            for other in range(symbol):
                low += np.uint64(line[other])
        costs[row, 0] = advance(state, buffer, low, np.uint64(line[symbol]), total)
        if learn:
            line[symbol] += np.uint32(24)
            if total > np.uint64(1 << 20):
                for other in range(len(line)):
                    line[other] = (line[other] >> np.uint32(1)) | np.uint32(1)
        before[0] = symbol
    return tokens.shape[0]


class OrderOne(Predictor):
    """Counts of each token after the one before it."""

    max_decisions = 1  # decisions of the coder in a row

    def __init__(self, spec):
        size = spec.vocabulary_size
        self._counts = np.ones((size, size), dtype=np.uint32)
        self._before = np.zeros(1, dtype=np.int64)

    def _code(self, tokens, lengths, start, coder, costs):
        del lengths  # one stream
        return int(_code(tokens, start, coder.state, coder.buffer, costs, self._counts, self._before, not self.frozen))

    def _arrays(self):
        return {"counts": self._counts, "before": self._before}


CODES = {"order-one": OrderOne}
