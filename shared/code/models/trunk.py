"""The trunk of a neural predictor: from tokens to logits, and what it learns from their gradient. The head stands on it.

A `Trunk` works on some of the streams. With several ranks each has one for its share; `SpreadTrunk`, the leader's, has the
others do theirs and looks like a single trunk over all streams. The others run `follow`.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.code.exact import kernels
from shared.code.exact.constants import WEIGHT_CEILING
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
from shared.code.ranks import ALONE, Ranks, by_rank
from shared.code.spec import NETWORKS, CodeSpec
from shared.code.training import Step

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


class Layer(Protocol):
    """A residual layer. per_stream: which of its arrays have rows for every stream."""

    per_stream: tuple[str, ...]

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


Mixing = Callable[[Shape, int], Layer]
"""Makes a layer that mixes positions, from a seed."""


class Trunk:
    """Embedding, residual layers and logits over this rank's share of the streams.

    A perceptron follows each layer that mixes positions, where the spec has one.
    """

    def __init__(self, spec: CodeSpec, mixing: Mixing, ranks: Ranks = ALONE) -> None:
        model, size = spec.model, spec.vocabulary_size
        assert isinstance(model, NETWORKS)
        self._kernels, self._streams = kernels.chosen(), spec.streams // ranks.size
        shape = Shape(positions=spec.segment_tokens, streams=self._streams, width=model.width, kernels=self._kernels, ranks=ranks)
        self._embedding = Embedding(shape, size, model.seed * SEEDS_PER_NETWORK)
        self._layers: list[Layer] = []
        for index in range(model.layers):
            seed = model.seed * SEEDS_PER_NETWORK + (index + 1) * SEEDS_PER_LAYER
            self._layers.append(mixing(shape, seed))
            if model.hidden:
                self._layers.append(Perceptron(shape, model.hidden, seed + PERCEPTRON_SEED))
        self._output = Output(shape, size)
        self._step = Step(spec.training.optimizer)
        self._x = shape.zeros(shape.rows, model.width)
        self._dx = shape.zeros(shape.rows, model.width)
        self._inputs = self._kernels.Stage((shape.rows,), "int64")
        self._logits = self._kernels.Stage((shape.rows, size), "int32")
        self._gradient = self._kernels.Stage((shape.rows, size), "float32")
        self._run = self._kernels.recorder() if ranks.size == 1 else lambda _, work: work()
        self._aside: list[npt.NDArray[Any]] = []

    def forward(self, inputs: I64, start: int) -> I32:
        """Inputs [t, B], of the positions from `start` on, each the token before → the segment's logits [T·B, m] up to there."""
        rows = slice(start * self._streams, (start + len(inputs)) * self._streams)
        tokens = self._inputs.put(inputs.reshape(-1), rows)
        self._run(("forward", rows.start, rows.stop), lambda: self._forward(tokens, rows))
        logits: I32 = self._logits.take(rows)
        return logits

    def _forward(self, tokens: Array, rows: slice) -> None:
        x = self._x[rows]
        self._embedding.forward(x, tokens)
        for layer in self._layers:
            layer.forward(x, rows.start)
        self._output.forward(x, rows.start, self._logits.array[rows])

    def train(self, gradient: F32, k: int) -> None:
        """Step k, and the segment's end: gradient [T·B, m] of all its logits."""
        rows = slice(0, len(gradient))
        self._step.begin(k)
        self._step.factors(self._kernels)  # here, since what is recorded must not fetch them from the host
        dlogits = self._gradient.put(gradient, rows)
        self._dx[rows] = 0
        self._run(("train", rows.stop), lambda: self._train(dlogits, rows))
        self.advance(rows.stop // self._streams)

    def _train(self, dlogits: Array, rows: slice) -> None:
        dx = self._dx[rows]
        self._output.backward(dx, dlogits, self._step)
        for layer in reversed(self._layers):
            layer.backward(dx, self._step)
        self._embedding.backward(self._inputs.array[rows], dx, self._step)

    def advance(self, positions: int) -> None:
        """End a segment of so many positions."""
        for layer in self._layers:
            layer.advance(positions * self._streams)

    def set_aside(self) -> None:
        """Keep a copy of what the layers know of the tokens before."""
        self._aside = [self._kernels.to_numpy(array).copy() for array in self._contexts()]

    def forget(self) -> None:
        """As if no token had been before."""
        for array in self._contexts():
            array[...] = 0

    def take_back(self) -> None:
        """Know again what was set aside."""
        for array, values in zip(self._contexts(), self._aside, strict=True):
            self._kernels.assign(array, values)

    def _contexts(self) -> list[Array]:
        return [array for layer in self._layers for array in layer.context().values()]

    def diverges(self) -> bool:
        """Whether a weight stands at its ceiling."""
        weights = [array for name, array in self._live().items() if name.endswith(".w")]
        return any(bool(array.max() >= WEIGHT_CEILING or array.min() <= -WEIGHT_CEILING) for array in weights)

    def per_stream(self) -> list[str]:
        """Names of the arrays that have rows for every stream."""
        return [f"layer{index}.{name}" for index, layer in enumerate(self._layers) for name in layer.per_stream]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of the state."""
        return {name: self._kernels.to_numpy(array) for name, array in self._live().items()}

    def assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put these values into the arrays of the same names."""
        for name, array in self._live().items():
            self._kernels.assign(array, saved[name])
        for layer in self._layers:
            layer.prepare()
        self._output.prepare()

    def _live(self) -> dict[str, Array]:
        """The state where it lies, maybe on another device."""
        groups = {"embedding": self._embedding.arrays(), "output": self._output.arrays()}
        groups |= {f"layer{index}": layer.arrays() for index, layer in enumerate(self._layers)}
        return {**named(**groups), "powers": self._step.powers}


class _Order(IntEnum):
    """What the leader has the others do. Three numbers are told, the order first."""

    FORWARD = 0
    TRAIN = 1
    ADVANCE = 2
    SET_ASIDE = 3
    FORGET = 4
    TAKE_BACK = 5
    GATHER = 6
    ASSIGN = 7
    LEAVE = 8


class SpreadTrunk:
    """The leader's: all streams, of which the other ranks do their shares."""

    def __init__(self, own: Trunk, spec: CodeSpec, ranks: Ranks) -> None:
        rows = spec.segment_tokens * spec.streams
        self._own, self._ranks, self._streams = own, ranks, spec.streams
        self._logits: I32 = np.zeros((rows, spec.vocabulary_size), dtype=np.int32)

    def forward(self, inputs: I64, start: int) -> I32:
        """As `Trunk.forward`."""
        _order(self._ranks, _Order.FORWARD, start, len(inputs))
        part = self._scattered(inputs.reshape(-1)).reshape(len(inputs), -1)
        before = start * self._streams
        logits = self._own.forward(part, start)[before // self._ranks.size :]
        self._gathered(logits, self._logits[before : before + inputs.size])
        return self._logits

    def train(self, gradient: F32, k: int) -> None:
        """As `Trunk.train`."""
        _order(self._ranks, _Order.TRAIN, k, len(gradient) // self._streams)
        self._own.train(self._scattered(gradient), k)

    def advance(self, positions: int) -> None:
        """As `Trunk.advance`."""
        _order(self._ranks, _Order.ADVANCE, positions)
        self._own.advance(positions)

    def set_aside(self) -> None:
        """As `Trunk.set_aside`."""
        _order(self._ranks, _Order.SET_ASIDE)
        self._own.set_aside()

    def forget(self) -> None:
        """As `Trunk.forget`."""
        _order(self._ranks, _Order.FORGET)
        self._own.forget()

    def take_back(self) -> None:
        """As `Trunk.take_back`."""
        _order(self._ranks, _Order.TAKE_BACK)
        self._own.take_back()

    def diverges(self) -> bool:
        """As `Trunk.diverges`: all ranks have the same weights."""
        return self._own.diverges()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As `Trunk.arrays`, of all streams."""
        _order(self._ranks, _Order.GATHER)
        found = self._own.arrays()
        for name in self._own.per_stream():
            part = found[name]
            found[name] = self._gathered(part, np.zeros((len(part) * self._ranks.size, *part.shape[1:]), dtype=part.dtype))
        return found

    def assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        """As `Trunk.assign`."""
        _order(self._ranks, _Order.ASSIGN)
        parts = {name: np.array(saved[name]) for name in self._own.arrays()}
        for name, values in sorted(parts.items()):
            if name in self._own.per_stream():
                parts[name] = self._scattered(values)
            else:
                self._ranks.broadcast(values)
        self._own.assign(parts)

    def _scattered(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The leader's share of rows t·B + b; the others get theirs."""
        whole = np.ascontiguousarray(by_rank(rows, self._ranks.size, self._streams))
        part = np.empty(whole.shape[1:], dtype=rows.dtype)
        if part.size:
            self._ranks.scatter(part, whole)
        return part.reshape(len(rows) // self._ranks.size, *rows.shape[1:])

    def _gathered(self, part: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows t·B + b of all, filled from every rank's share."""
        view = by_rank(rows, self._ranks.size, self._streams)
        if view.size:
            whole = np.empty(view.shape, dtype=rows.dtype)
            self._ranks.gather(np.ascontiguousarray(part).reshape(view.shape[1:]), whole)
            view[...] = whole
        return rows


def _order(ranks: Ranks, *words: int) -> None:
    ranks.broadcast(np.array([*words, 0, 0][:3], dtype=np.int64))


def leave(ranks: Ranks) -> None:
    """Have the others go; the leader's trunk is done."""
    _order(ranks, _Order.LEAVE)


def follow(own: Trunk, spec: CodeSpec, ranks: Ranks) -> None:
    """Do what the leader says with this rank's streams, until it lets go."""
    streams, size = spec.streams // ranks.size, spec.vocabulary_size

    def received(shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        part = np.empty(shape, dtype=kind)
        if part.size:
            ranks.scatter(part, np.empty((ranks.size, *shape), dtype=kind))
        return part

    def give(part: npt.NDArray[Any]) -> None:
        if part.size:
            ranks.gather(np.ascontiguousarray(part), np.empty((ranks.size, *part.shape), dtype=part.dtype))

    words = np.zeros(3, dtype=np.int64)
    while True:
        ranks.broadcast(words)
        match words.tolist():
            case [_Order.FORWARD, start, positions]:
                give(own.forward(received((positions, streams), np.int64), start)[start * streams :])
            case [_Order.TRAIN, k, positions]:
                own.train(received((positions * streams, size), np.float32), k)
            case [_Order.ADVANCE, positions, _]:
                own.advance(positions)
            case [_Order.SET_ASIDE, _, _]:
                own.set_aside()
            case [_Order.FORGET, _, _]:
                own.forget()
            case [_Order.TAKE_BACK, _, _]:
                own.take_back()
            case [_Order.GATHER, _, _]:
                found = own.arrays()
                for name in own.per_stream():
                    give(found[name])
            case [_Order.ASSIGN, _, _]:
                saved = {name: np.empty_like(array) for name, array in own.arrays().items()}
                for name, values in sorted(saved.items()):
                    if name in own.per_stream():
                        saved[name] = received(values.shape, values.dtype)
                    else:
                        ranks.broadcast(values)
                own.assign(saved)
            case _:
                return
