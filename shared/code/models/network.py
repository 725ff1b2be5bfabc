"""A neural predictor: a trunk that gives logits, the head that codes with them; training after every segment, and replay.

An encoder knows the segment's tokens and runs the network over all rows at once; a decoder runs it position by position, a
row of B tokens at a time. Both end with the same activations, to the bit, and train on them. The input at position t is
the token at t − 1 of the same stream.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import DECODE, MODE, starved
from shared.code.exact.constants import WEIGHT_CEILING
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.models.head import Head
from shared.code.models.layers import named
from shared.code.models.trunk import Mixing, SpreadTrunk, Trunk
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import NETWORKS, BytesVocabulary, CodeSpec
from shared.code.training import Memory


class Network(Predictor):
    """mixing: as for `Trunk`. ranks: the processes that share its streams, of which this is the leader."""

    def __init__(self, spec: CodeSpec, mixing: Mixing, ranks: Ranks = ALONE) -> None:
        model = spec.model
        assert isinstance(model, NETWORKS)
        size, streams = spec.vocabulary_size, spec.streams
        self.max_decisions = streams
        self._streams = streams
        own = Trunk(spec, mixing, ranks)
        self._trunk = own if ranks.size == 1 else SpreadTrunk(own, spec, ranks)
        words = isinstance(spec.vocabulary, BytesVocabulary)
        self._head = Head(size, streams, model.tables.bits if model.tables else 0, words=words)
        replay = spec.training.replay
        self._memory = Memory(replay, streams) if replay else None
        self._positions = spec.segment_tokens
        self._before = np.zeros(streams, dtype=np.int64)  # the last token of each stream
        self._gradient: npt.NDArray[np.float32] = np.zeros((spec.segment_tokens * streams, size), dtype=np.float32)

    @property
    def frequencies(self) -> I64:
        """The integer frequencies [m] of the token coded last."""
        return self._head.frequencies

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        positions = len(tokens)
        if coder.state[MODE] == DECODE:
            for t in range(start, positions):
                if starved(coder.state, np.uint64(self._streams)):
                    return t
                self._code_rows(tokens, lengths, t, t + 1, coder, costs)
        else:
            self._code_rows(tokens, lengths, start, positions, coder, costs)
        assert self._head.loss_units == int(costs.sum(dtype=np.int64)), "what is trained on is what was coded"
        if self.frozen:
            self._trunk.advance(positions)
        else:
            self._trunk.train(self._gradient[: positions * self._streams], self.steps)
            if self._memory is not None:
                self._memory.keep(tokens, lengths)
                self._replay(self._memory)
        self._before[:] = tokens[-1]
        return positions

    def _code_rows(self, tokens: U32, lengths: I64, start: int, end: int, coder: Coder, costs: U32) -> None:
        """Positions start … end − 1, whose inputs are the tokens before."""
        inputs = np.empty((end - start, self._streams), dtype=np.int64)
        inputs[0] = tokens[start - 1] if start else self._before
        inputs[1:] = tokens[start : end - 1]
        logits = self._trunk.forward(inputs, start)
        self._head.code(tokens, lengths, start, end, coder, costs, logits, self._gradient)

    def _replay(self, memory: Memory) -> None:
        """Train on earlier rows, as if every stream began there; the context of the segment that follows is set aside."""
        self._trunk.set_aside()
        for tokens in memory.windows(self.steps, self._positions):
            self._trunk.forget()
            inputs = np.zeros(tokens.shape, dtype=np.int64)
            inputs[1:] = np.where(tokens == memory.PADDING, 0, tokens)[:-1]
            self._head.replay(tokens, memory.PADDING, self._trunk.forward(inputs, 0), self._gradient)
            self._trunk.train(self._gradient, self.steps)
        self._trunk.take_back()

    def freeze(self) -> None:
        """Fix p^(k): nothing is trained any more."""
        super().freeze()
        self._head.freeze()

    def notes(self) -> list[str]:
        """Whether a weight stands at its ceiling: all stays lawful then, and decodes, but such a model predicts badly."""
        if self._trunk.diverges():
            return [f"training diverges: weights reached their ceiling of {WEIGHT_CEILING}; a lower rate would code better"]
        return []

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {**self._trunk.arrays(), **self._own()}

    def _assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        self._trunk.assign(saved)
        for name, array in self._own().items():
            array[...] = saved[name]

    def _own(self) -> dict[str, npt.NDArray[Any]]:
        """The live arrays that are not the trunk's."""
        replay = {} if self._memory is None else self._memory.arrays()
        return {**named(head=self._head.arrays(), replay=replay), "before": self._before}
