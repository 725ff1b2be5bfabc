"""A neural predictor: embedding, residual layers, logits; the head that codes with them; training after a segment, and replay.

An encoder knows the segment's tokens and runs the network over all rows at once; a decoder runs it position by position, a
row of B tokens at a time. Both end with the same activations, to the bit, and train on them. The input at position t is
the token at t − 1 of the same stream.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import DECODE, MODE, starved
from shared.code.exact import kernels
from shared.code.exact.constants import WEIGHT_CEILING
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.models.head import Head
from shared.code.models.layers import (
    PERCEPTRON_SEED,
    SEEDS_PER_LAYER,
    SEEDS_PER_NETWORK,
    Array,
    Embedding,
    Output,
    Perceptron,
    Shape,
    named,
)
from shared.code.spec import NETWORKS, BytesVocabulary, CodeSpec
from shared.code.training import Memory, Step


class Layer(Protocol):
    """A residual layer."""

    def forward(self, x: Array, first: int) -> None:
        """The rows x [N, H] from `first` on, changed in place."""

    def backward(self, dx: Array, step: Step) -> None:
        """The gradient dx [N, H], changed in place; the weights take a step."""

    def advance(self, rows: int) -> None:
        """End a segment of so many rows."""

    def prepare(self) -> None:
        """Round the weights anew, after they were restored."""

    def context(self) -> Mapping[str, Array]:
        """The live arrays of the state that tell of the tokens before; all zero at the very start."""

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""


class Network(Predictor):
    """mixing: makes a layer that mixes positions, from a seed; a perceptron follows each where the spec has one."""

    def __init__(self, spec: CodeSpec, mixing: Callable[[Shape, int], Layer]) -> None:
        model = spec.model
        assert isinstance(model, NETWORKS)
        size, streams = spec.vocabulary_size, spec.streams
        shape = Shape(positions=spec.segment_tokens, streams=streams, width=model.width, kernels=kernels.chosen())
        self.max_decisions = streams
        self._kernels = shape.kernels
        self._streams = streams
        self._positions = spec.segment_tokens
        self._embedding = Embedding(shape, size, model.seed * SEEDS_PER_NETWORK)
        self._layers: list[Layer] = []
        for index in range(model.layers):
            seed = model.seed * SEEDS_PER_NETWORK + (index + 1) * SEEDS_PER_LAYER
            self._layers.append(mixing(shape, seed))
            if model.hidden:
                self._layers.append(Perceptron(shape, model.hidden, seed + PERCEPTRON_SEED))
        self._output = Output(shape, size)
        words = isinstance(spec.vocabulary, BytesVocabulary)
        self._head = Head(size, streams, model.tables.bits if model.tables else 0, words=words)
        self._step = Step(spec.training.optimizer)
        replay = spec.training.replay
        self._memory = Memory(replay, streams) if replay else None
        self._before = np.zeros(streams, dtype=np.int64)  # the last token of each stream
        self._inputs = np.zeros(shape.rows, dtype=np.int64)
        self._x = shape.zeros(shape.rows, model.width)
        self._dx = shape.zeros(shape.rows, model.width)
        self._logits = shape.zeros(shape.rows, size, kind="int32")
        self._gradient: npt.NDArray[np.float32] = np.zeros((shape.rows, size), dtype=np.float32)

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
                self._forward(tokens, t, t + 1)
                self._code_rows(tokens, lengths, t, t + 1, coder, costs)
        else:
            self._forward(tokens, start, positions)
            self._code_rows(tokens, lengths, start, positions, coder, costs)
        assert self._head.loss_units == int(costs.sum(dtype=np.int64)), "what is trained on is what was coded"
        if self.frozen:
            for layer in self._layers:
                layer.advance(positions * self._streams)
        else:
            self._train(positions)
            if self._memory is not None:
                self._memory.keep(tokens, lengths)
                self._replay(self._memory)
        self._before[:] = tokens[-1]
        return positions

    def _forward(self, tokens: U32, start: int, end: int) -> None:
        """Logits of the positions start … end − 1, whose inputs are the tokens before."""
        rows = slice(start * self._streams, end * self._streams)
        inputs = self._inputs[rows].reshape(end - start, self._streams)
        inputs[0] = tokens[start - 1] if start else self._before
        inputs[1:] = tokens[start : end - 1]
        x = self._x[rows]
        self._embedding.forward(x, self._kernels.from_numpy(self._inputs[rows]))
        for layer in self._layers:
            layer.forward(x, rows.start)
        self._output.forward(x, rows.start, self._logits[rows])

    def _code_rows(self, tokens: U32, lengths: I64, start: int, end: int, coder: Coder, costs: U32) -> None:
        logits = self._kernels.to_numpy(self._logits)
        self._head.code(tokens, lengths, start, end, coder, costs, logits, self._gradient)

    def _train(self, positions: int) -> None:
        rows = positions * self._streams
        self._step.begin(self.steps)
        dx = self._dx[:rows]
        dx[:] = 0
        self._output.backward(dx, self._kernels.from_numpy(self._gradient[:rows]), self._step)
        for layer in reversed(self._layers):
            layer.backward(dx, self._step)
            layer.advance(rows)
        self._embedding.backward(self._kernels.from_numpy(self._inputs[:rows]), dx, self._step)

    def _replay(self, memory: Memory) -> None:
        """Train on earlier rows, as if every stream began there; the context of the segment that follows is set aside."""
        context = [array for layer in self._layers for array in layer.context().values()]
        aside = [self._kernels.to_numpy(array).copy() for array in context]
        for tokens in memory.windows(self.steps, self._positions):
            for array in (*context, self._before):
                array[...] = 0
            self._forward(np.where(tokens == memory.PADDING, np.uint32(0), tokens), 0, self._positions)
            self._head.replay(tokens, memory.PADDING, self._kernels.to_numpy(self._logits), self._gradient)
            self._train(self._positions)
        for array, values in zip(context, aside, strict=True):
            self._kernels.assign(array, values)

    def freeze(self) -> None:
        """Fix p^(k): nothing is trained any more."""
        super().freeze()
        self._head.freeze()

    def notes(self) -> list[str]:
        """Whether a weight stands at its ceiling: all stays lawful then, and decodes, but such a model predicts badly."""
        weights = [array for name, array in self._live().items() if name.endswith(".w")]
        if any(array.max() >= WEIGHT_CEILING or array.min() <= -WEIGHT_CEILING for array in weights):
            return [f"training diverges: weights reached their ceiling of {WEIGHT_CEILING}; a lower rate would code better"]
        return []

    def restore(self, data: bytes | memoryview) -> None:
        """Go back to `state_bytes`. Raises `StateError`, and changes nothing, if they are of another predictor."""
        super().restore(data)
        for layer in self._layers:
            layer.prepare()
        self._output.prepare()

    def _live(self) -> Mapping[str, Array]:
        """The state where it lies, maybe on another device."""
        groups = {"embedding": self._embedding.arrays(), "head": self._head.arrays(), "output": self._output.arrays()}
        if self._memory is not None:
            groups["replay"] = self._memory.arrays()
        groups |= {f"layer{index}": layer.arrays() for index, layer in enumerate(self._layers)}
        return {**named(**groups), "before": self._before, "powers": self._step.powers}

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {name: self._kernels.to_numpy(array) for name, array in self._live().items()}

    def _assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in self._live().items():
            self._kernels.assign(array, saved[name])
