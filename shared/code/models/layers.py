"""Layers of exact networks, each with its own forward and backward; no autograd, whose sums are outside the law of exactness.

A layer works on a segment of up to T positions of B streams, rows t·B + b. `forward` takes any run of rows that continues where
the last one ended: all of them at once (Alice, who knows the tokens) or one position at a time (Bob), with equal bits, and
keeps what `backward` needs. `advance` ends a segment of so many rows and carries state over to the next.

    X [N, H] residual stream     U [N, taps·H] operands     Z raw products     kernels: `exact.fused` or `exact.reference`
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from shared.code.exact import products
from shared.code.exact.constants import ACTIVATION_BITS, GRADIENT_BITS, WEIGHT_BITS, first_weights
from shared.code.ranks import Ranks
from shared.code.training import Step

Array = Any  # a NumPy array or a torch tensor, as the kernels have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every layer of a network must know: T, the B of this rank, H, the kernels, and the other ranks."""

    positions: int
    streams: int
    width: int
    kernels: ModuleType
    ranks: Ranks

    @property
    def rows(self) -> int:
        """Rows of a whole segment, T·B."""
        return self.positions * self.streams

    def zeros(self, *shape: int, kind: str = "float32") -> Array:
        """An array of zeros."""
        return self.kernels.zeros(shape, kind)


def tensor(array: Array) -> torch.Tensor:
    """The same memory as a torch tensor."""
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


class Parameter:
    """A weight matrix with Adam's moments."""

    def __init__(self, shape: Shape, weights: npt.NDArray[np.float32]) -> None:
        self._kernels = shape.kernels
        self.values = shape.kernels.from_numpy(weights)
        self._first = shape.zeros(*weights.shape)
        self._second = shape.zeros(*weights.shape)

    def update(self, gradient: Array, scale: Any, step: Step) -> None:
        """One optimiser step with gradient · scale, the gradient float64 and of the parameter's shape."""
        self._kernels.adam(self.values, self._first, self._second, gradient, scale, step.factors(self._kernels))

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        return {"w": self.values, "m": self._first, "v": self._second}


class Linear:
    """raw = U · W with W rounded to 13 bits; the scale of the result is a power of two."""

    def __init__(self, shape: Shape, weights: npt.NDArray[np.float32]) -> None:
        self._kernels, self._ranks = shape.kernels, shape.ranks
        self.weight = Parameter(shape, weights)
        self._units = shape.zeros(*weights.shape, kind="int16")
        self._gradient = shape.zeros(shape.rows, weights.shape[1], kind="int16")
        self._weight_scale, self._gradient_scale = (shape.zeros(1, kind="float64") for _ in range(2))
        units = tensor(self._units)
        self._forward, self._backward = products.prepare(units), products.prepare(units.t())
        self.prepare()

    def prepare(self) -> None:
        """Round the weights anew; due after every change."""
        values = self.weight.values
        self._kernels.quantize(self._units, self._weight_scale, values, self._kernels.peak(values), WEIGHT_BITS)
        units = tensor(self._units)
        self._forward.fill(units)
        self._backward.fill(units.t())

    @property
    def scale(self) -> Any:
        """What a unit of `forward`'s result stands for."""
        return self._weight_scale[0] * 2.0**-ACTIVATION_BITS

    def forward(self, operand: Array) -> Array:
        """The operand [N, K] int16 → raw [N, M]; its value is raw · `scale`."""
        return self._raw(self._forward.times(tensor(operand)))

    def backward(self, operand: Array, dz: Array, step: Step) -> tuple[Array, Any]:
        """Raw gradient of the operand and its scale; the weights take one step with Uᵀ·dz."""
        gradient = self._gradient[: len(dz)]
        bound = self._ranks.maximum(self._kernels.peak(dz))
        self._kernels.quantize(gradient, self._gradient_scale, dz, bound, GRADIENT_BITS)
        units = tensor(gradient)
        raw = self._raw(self._backward.times(units))
        scale = self._gradient_scale[0] * self._weight_scale[0]
        change = self._raw(products.prepare(units).times(tensor(operand).t()))
        self._ranks.add(change)
        self.weight.update(change, self._gradient_scale[0] * 2.0**-ACTIVATION_BITS, step)
        self.prepare()
        return raw, scale

    def _raw(self, product: torch.Tensor) -> Array:
        return product.numpy() if isinstance(self._units, np.ndarray) else product


class NormTaps:
    """RMS norm, and the positions t, t − 1, … t − taps + 1 side by side: a causal convolution once a product follows."""

    def __init__(self, shape: Shape, taps: int) -> None:
        self._kernels, self._streams, self._taps = shape.kernels, shape.streams, taps
        self.operand = shape.zeros(shape.rows, taps * shape.width, kind="int16")
        self._u = shape.zeros(shape.rows, shape.width)
        self._r = shape.zeros(shape.rows)
        self._units = shape.zeros((taps - 1) * shape.streams + shape.rows, shape.width, kind="int16")

    def forward(self, x: Array, first: int) -> Array:
        """The rows x [N, H] from `first` on → operand [N, taps·H] int16."""
        rows = slice(first, first + len(x))
        operand = self.operand[rows]
        self._kernels.norm_taps(operand, self._u[rows], self._r[rows], self._units, x, first, self._taps, self._streams)
        return operand

    def backward(self, dx: Array, raw: Array, scale: Any) -> None:
        """Add to dx [N, H] the gradient of x; raw · scale [N, taps·H] is the operand's."""
        rows = len(dx)
        self._kernels.norm_taps_backward(dx, raw, scale, self._u[:rows], self._r[:rows], self._taps, self._streams)

    def advance(self, rows: int) -> None:
        """Keep the last taps − 1 positions."""
        kept = (self._taps - 1) * self._streams
        self._kernels.shift(self._units, rows, kept)

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        return {"taps": self._units[: (self._taps - 1) * self._streams]}


class Embedding:
    """A row of weights for each token."""

    def __init__(self, shape: Shape, size: int, seed: int) -> None:
        self._kernels, self._ranks = shape.kernels, shape.ranks
        self._table = Parameter(shape, first_weights(seed, size, shape.width, 1, 1))
        self._gradient = shape.zeros(size, shape.width, kind="float64")

    def forward(self, x: Array, tokens: Array) -> None:
        """Set x [N, H] to the rows of tokens [N]."""
        self._kernels.gather(x, self._table.values, tokens)

    def backward(self, tokens: Array, dx: Array, step: Step) -> None:
        """Train with dx [N, H]."""
        self._kernels.scatter(self._gradient, tokens, dx, self._ranks.maximum(self._kernels.peak(dx)))
        self._ranks.add(self._gradient)
        self._table.update(self._gradient, 1.0, step)

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        return self._table.arrays()


class Perceptron:
    """x += W2 · relu(W1 · norm(x))² / 2 (D. So et al. 2021)."""

    per_stream: tuple[str, ...] = ()

    def __init__(self, shape: Shape, hidden: int, seed: int) -> None:
        width = shape.width
        self._kernels = shape.kernels
        self._norm = NormTaps(shape, 1)
        self._up = Linear(shape, first_weights(seed, width, hidden, 1, width))
        self._down = Linear(shape, first_weights(seed + 1, hidden, width, 1, 4 * hidden))
        self._z = shape.zeros(shape.rows, hidden)
        self._operand = shape.zeros(shape.rows, hidden, kind="int16")
        self._dz = shape.zeros(shape.rows, hidden)

    def forward(self, x: Array, first: int) -> None:
        """The rows x [N, H] from `first` on, changed in place."""
        rows = slice(first, first + len(x))
        raw = self._up.forward(self._norm.forward(x, first))
        self._kernels.relu_squared(self._operand[rows], self._z[rows], raw, self._up.scale)
        self._kernels.add_product(x, self._down.forward(self._operand[rows]), self._down.scale)

    def backward(self, dx: Array, step: Step) -> None:
        """The gradient dx [N, H], changed in place."""
        rows = len(dx)
        raw, scale = self._down.backward(self._operand[:rows], dx, step)
        dz = self._dz[:rows]
        self._kernels.relu_squared_backward(dz, raw, scale, self._z[:rows])
        self._norm.backward(dx, *self._up.backward(self._norm.operand[:rows], dz, step))

    def advance(self, rows: int) -> None:
        """Nothing is carried over."""

    def context(self) -> Mapping[str, Array]:
        """None."""
        return {}

    def prepare(self) -> None:
        """Round the weights anew."""
        self._up.prepare()
        self._down.prepare()

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        return named(up=self._up.weight.arrays(), down=self._down.weight.arrays())


class Output:
    """Logits = W · norm(x); W starts at zero, so that p^(0) is uniform."""

    def __init__(self, shape: Shape, size: int) -> None:
        self._kernels = shape.kernels
        self._norm = NormTaps(shape, 1)
        self._linear = Linear(shape, np.zeros((shape.width, size), dtype=np.float32))

    def forward(self, x: Array, first: int, logits: Array) -> None:
        """The rows x [N, H] → logits [N, m] int32, in units of 2^-16."""
        raw = self._linear.forward(self._norm.forward(x, first))
        self._kernels.integer_logits(logits, raw, self._linear.scale)

    def backward(self, dx: Array, dlogits: Array, step: Step) -> None:
        """Add to dx [N, H] the gradient; dlogits [N, m] float32."""
        self._norm.backward(dx, *self._linear.backward(self._norm.operand[: len(dx)], dlogits, step))

    def prepare(self) -> None:
        """Round the weights anew."""
        self._linear.prepare()

    def arrays(self) -> Mapping[str, Array]:
        """The live arrays of the state."""
        return self._linear.weight.arrays()


def named(**groups: Mapping[str, Array]) -> dict[str, Array]:
    """Groups of arrays as one, names joined by dots."""
    return dict(_joined(groups))


def _joined(groups: Mapping[str, Mapping[str, Array]]) -> Iterator[tuple[str, Array]]:
    for group, arrays in groups.items():
        for name, array in arrays.items():
            yield f"{group}.{name}", array


SEEDS_PER_NETWORK: Final = 4096
SEEDS_PER_LAYER: Final = 8
PERCEPTRON_SEED: Final = 4  # after the mixing layer's
