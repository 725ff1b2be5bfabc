"""`transformer`: a decoder-only transformer with a sliding window, trained online.

Each layer attends with queries and keys that are normed per head (QK norm) and a learned bias for every distance, over `context`
positions back, across segments and blocks: keys and values stay in fixed buffers, for the encoder's batched pass as for the
decoder's single positions. Its input holds the normed positions t, t − 1, … of `taps` (a causal convolution), which is what
lets a small transformer learn from few tokens (docs/results.md).
"""

from collections.abc import Mapping

import numpy as np

from shared.code.exact import attention
from shared.code.exact.constants import first_weights
from shared.code.models.layers import Array, Linear, NormTaps, Parameter, Shape, named
from shared.code.models.network import Network
from shared.code.models.trunk import Mixing
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import CodeSpec, TransformerModel
from shared.code.training import Step


class Attention:
    """The mixing layer."""

    per_stream: tuple[str, ...] = ("taps", "keys", "values")

    def __init__(self, shape: Shape, model: TransformerModel, seed: int) -> None:
        width, self._kernels, self._streams = shape.width, shape.kernels, shape.streams
        self._ranks = shape.ranks
        self._attention = shape.kernels.twin(attention)
        self._context = model.context
        self._factor = attention.score_factor(width // model.heads)
        self._norm = NormTaps(shape, model.taps)
        self._in = Linear(shape, first_weights(seed, model.taps * width, 3 * width, 1, model.taps * width))
        self._out = Linear(shape, first_weights(seed + 1, width, width, 1, 4 * width))
        self._bias = Parameter(shape, np.zeros((model.heads, model.context + 1), dtype=np.float32))
        self._u = shape.zeros(shape.rows, 2 * width)
        self._r = shape.zeros(shape.rows, 2 * model.heads)
        self._queries = shape.zeros(shape.rows, width, kind="int16")
        self._keys, self._values = (
            shape.zeros(shape.streams, model.context + shape.positions, width, kind="int16") for _ in range(2)
        )
        self._weights = shape.zeros(shape.rows, model.heads, model.context + 1, kind="int16")
        self._operand = shape.zeros(shape.rows, width, kind="int16")
        self._dz = shape.zeros(shape.rows, 3 * width)
        self._bias_gradient = shape.zeros(model.heads, model.context + 1, kind="float64")
        self._seen = shape.zeros(1, kind="int64")

    def forward(self, x: Array, first: int) -> None:
        """The rows x [N, H] from `first` on, changed in place."""
        rows = slice(first, first + len(x))
        raw = self._in.forward(self._norm.forward(x, first))
        operand = self._operand[rows]
        saved = self._u[rows], self._r[rows], self._queries[rows], self._keys, self._values, self._weights[rows]
        place = first, self._streams, self._context, self._seen
        self._attention.attend(operand, *saved, raw, self._in.scale, self._bias.values, self._factor, *place)
        self._kernels.add_product(x, self._out.forward(operand), self._out.scale)

    def backward(self, dx: Array, step: Step) -> None:
        """The gradient dx [N, H], changed in place."""
        rows = len(dx)
        raw, scale = self._out.backward(self._operand[:rows], dx, step)
        dz = self._dz[:rows]
        saved = self._u[:rows], self._r[:rows], self._queries[:rows], self._keys, self._values, self._weights[:rows]
        place = self._factor, self._streams, self._context
        bound = self._ranks.maximum(self._kernels.product_peak(raw, scale))
        self._attention.attend_backward(dz, self._bias_gradient, raw, scale, *saved, *place, bound)
        self._ranks.add(self._bias_gradient)
        self._bias.update(self._bias_gradient, 1.0, step)
        self._norm.backward(dx, *self._in.backward(self._norm.operand[:rows], dz, step))

    def advance(self, rows: int) -> None:
        """Slide the window."""
        positions = rows // self._streams
        self._attention.slide(self._keys, positions, self._context)
        self._attention.slide(self._values, positions, self._context)
        self._kernels.assign(self._seen, np.minimum(self._kernels.to_numpy(self._seen) + positions, self._context))
        self._norm.advance(rows)

    def prepare(self) -> None:
        """Round the weights anew."""
        self._in.prepare()
        self._out.prepare()

    def context(self) -> Mapping[str, Array]:
        """The live arrays of the state that tell of the tokens before; all zero at the very start."""
        window = {"keys": self._keys[:, : self._context], "values": self._values[:, : self._context], "seen": self._seen}
        return {**self._norm.arrays(), **window}

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        weights = named(**{"in": self._in.weight.arrays(), "out": self._out.weight.arrays(), "bias": self._bias.arrays()})
        return {**weights, **self.context()}


def mixing(spec: CodeSpec) -> Mixing:
    """What makes the mixing layers of a spec."""
    model = spec.model
    assert isinstance(model, TransformerModel)
    return lambda shape, seed: Attention(shape, model, seed)


class Transformer(Network):
    """The predictor."""

    def __init__(self, spec: CodeSpec, ranks: Ranks = ALONE) -> None:
        super().__init__(spec, mixing(spec), ranks)
