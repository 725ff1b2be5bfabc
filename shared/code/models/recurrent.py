"""`recurrent`: residual layers of gated linear recurrences (E. Martin and C. Cundy 2018; the gates need no h_{t-1}).

    a_t = σ(W_a u_t + bias)     h_t = a_t h_{t-1} + (1 − a_t) W_c u_t     x += W_o (norm(h_t) · silu(W_g u_t))

u_t holds the normed positions t, t − 1, … of `taps`. All products of a segment are therefore batched; only the scan runs in
order. Measured against a GRU and an LSTM of the same width in docs/results.md.
"""

from collections.abc import Mapping

import numpy as np

from shared.code.exact.constants import first_weights
from shared.code.models.layers import Array, Linear, NormTaps, Parameter, Shape, named
from shared.code.models.network import Network
from shared.code.models.trunk import Mixing
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import CodeSpec, RecurrentModel
from shared.code.training import Step

_LONGEST = 4  # the first biases are spread over 0 … 4: a's from 1/2 to 0.98


class Recurrence:
    """The mixing layer."""

    per_stream: tuple[str, ...] = ("taps", "h")

    def __init__(self, shape: Shape, taps: int, seed: int) -> None:
        width, self._kernels, self._streams = shape.width, shape.kernels, shape.streams
        self._ranks = shape.ranks
        self._norm = NormTaps(shape, taps)
        self._in = Linear(shape, first_weights(seed, taps * width, 3 * width, 1, taps * width))
        self._out = Linear(shape, first_weights(seed + 1, width, width, 1, 4 * width))
        spread = np.arange(width, dtype=np.float64) * (_LONGEST << 10) // width * 2.0**-10
        self._bias = Parameter(shape, spread.astype(np.float32)[None])
        self._keep, self._candidate, self._gate, self._u = (shape.zeros(shape.rows, width) for _ in range(4))
        self._h = shape.zeros(shape.streams + shape.rows, width)
        self._r = shape.zeros(shape.rows)
        self._operand = shape.zeros(shape.rows, width, kind="int16")
        self._dz = shape.zeros(shape.rows, 3 * width)
        self._bias_gradient = shape.zeros(1, width, kind="float64")

    def forward(self, x: Array, first: int) -> None:
        """The rows x [N, H] from `first` on, changed in place."""
        rows = slice(first, first + len(x))
        raw = self._in.forward(self._norm.forward(x, first))
        saved = self._keep[rows], self._candidate[rows], self._gate[rows], self._h, self._u[rows], self._r[rows]
        operand = self._operand[rows]
        self._kernels.gated_scan(operand, *saved, raw, self._in.scale, self._bias.values[0], first, self._streams)
        self._kernels.add_product(x, self._out.forward(operand), self._out.scale)

    def backward(self, dx: Array, step: Step) -> None:
        """The gradient dx [N, H], changed in place."""
        rows = len(dx)
        raw, scale = self._out.backward(self._operand[:rows], dx, step)
        dz = self._dz[:rows]
        saved = self._keep[:rows], self._candidate[:rows], self._gate[:rows], self._h, self._u[:rows], self._r[:rows]
        self._kernels.gated_scan_backward(dz, raw, scale, *saved, self._streams)
        gates = dz[:, : self._bias_gradient.shape[1]]
        self._kernels.sum_rows(self._bias_gradient, gates, self._ranks.maximum(self._kernels.peak(gates)))
        self._ranks.add(self._bias_gradient)
        self._bias.update(self._bias_gradient, 1.0, step)
        self._norm.backward(dx, *self._in.backward(self._norm.operand[:rows], dz, step))

    def advance(self, rows: int) -> None:
        """Keep the last state and positions."""
        self._kernels.shift(self._h, rows, self._streams)
        self._norm.advance(rows)

    def prepare(self) -> None:
        """Round the weights anew."""
        self._in.prepare()
        self._out.prepare()

    def context(self) -> Mapping[str, Array]:
        """The live arrays of the state that tell of the tokens before; all zero at the very start."""
        return {**self._norm.arrays(), "h": self._h[: self._streams]}

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        weights = named(**{"in": self._in.weight.arrays(), "out": self._out.weight.arrays(), "bias": self._bias.arrays()})
        return {**weights, **self.context()}


def mixing(spec: CodeSpec) -> Mixing:
    """What makes the mixing layers of a spec."""
    model = spec.model
    assert isinstance(model, RecurrentModel)
    return lambda shape, seed: Recurrence(shape, model.taps, seed)


class Recurrent(Network):
    """The predictor."""

    def __init__(self, spec: CodeSpec, ranks: Ranks = ALONE) -> None:
        super().__init__(spec, mixing(spec), ranks)
