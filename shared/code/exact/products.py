"""Exact integer matrix products: operands int16, results float64 and integer-valued, equal from every back end.

A back end is a property of the machine, not of f: `available` offers those that pass a self-check here, the service times
them and chooses. Left operands stay below 2^14 in magnitude and right ones below 2^13 (inclusive), K ≤ 2^20.

    float64   integers below 2^15 multiply exactly in float64 BLAS: |Σ| ≤ 2^27 · 2^20 < 2^53
    int8      left = 256·a + b, right = 128·c + d, digits in int8, int32 sums. On processors without VNNI the 16-bit partial
              sums saturate for full-range operands; with right digits in [−64, 64] they cannot: 255 · 64 · 2 < 2^15.
              Sums fit int32 for K ≤ 2^17 (128 · 64 · 2^17 = 2^30); longer ones go to float64
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.code.compiled import kernel
from shared.code.exact.constants import ACTIVATION_LIMIT, F64, WEIGHT_BITS

Digits = npt.NDArray[np.int8]
Units = npt.NDArray[np.int16]
Sums = npt.NDArray[np.int32]


class Right(Protocol):
    """A right operand prepared for many products."""

    def times(self, left: Tensor) -> Tensor:
        """The left operand [M, K] int16 · this [K, N] → float64 [M, N]."""

    def fill(self, right: Tensor) -> None:
        """Take on the values of another right operand of the same shape, in the same memory."""


class Float64:
    """The right operand as float64, multiplied by BLAS."""

    name: Final = "float64"

    def __init__(self, right: Tensor) -> None:
        self._right = right.to(torch.float64)

    def fill(self, right: Tensor) -> None:
        """Take on the values of another right operand of the same shape, in the same memory."""
        self._right.copy_(right)

    def times(self, left: Tensor) -> Tensor:
        """The left operand [M, K] int16 · this [K, N] → float64 [M, N]."""
        return torch.mm(left.to(torch.float64), self._right)


class Int8:
    """The right operand as two digits in base 128, side by side, multiplied by `_int_mm`; all four products at once."""

    name: Final = "int8"

    def __init__(self, right: Tensor) -> None:
        self._inner, self._columns = right.shape
        self._padding = -self._inner % 8  # CUDA wants it, and for K = 1 the CPU's `_int_mm` is wrong without
        self._on_cpu = right.device.type == "cpu"
        columns = self._columns if self._on_cpu else self._columns + -self._columns % 8
        # columns together: what `_int_mm` likes best
        self._digits = torch.zeros(2 * columns, self._inner + self._padding, dtype=torch.int8, device=right.device).t()
        self.fill(right)

    def fill(self, right: Tensor) -> None:
        """Take on the values of another right operand of the same shape, in the same memory."""
        if self._on_cpu:
            _split(self._digits.t().numpy(), right.numpy().T, 7)
            return
        wide = right.to(torch.int32)
        low = ((wide + 64) & 127) - 64
        pad = (-self._columns % 8, self._padding)
        self._digits.copy_(torch.cat([_padded((wide - low) >> 7, *pad), _padded(low, *pad)], 1))

    def times(self, left: Tensor) -> Tensor:
        """The left operand [M, K] int16 · this [K, N] → float64 [M, N]."""
        rows = left.shape[0]
        if self._on_cpu:
            digits = np.zeros((2 * rows, self._inner + self._padding), dtype=np.int8)
            _split(digits, left.numpy(), 8)
            out = np.empty((rows, self._columns), dtype=np.float64)
            _join(out, torch._int_mm(torch.from_numpy(digits), self._digits).numpy())  # noqa: SLF001 - its only name
            return torch.from_numpy(out)
        width = self._columns + -self._columns % 8
        wide = left.to(torch.int32)
        low = ((wide + 128) & 255) - 128
        more = -rows % 16 + (16 if rows <= 16 else 0)  # CUDA wants more than 16 rows
        pad = (self._padding, more)
        left_digits = torch.cat([_padded((wide - low) >> 8, *pad), _padded(low, *pad)]).to(torch.int8)
        product = torch._int_mm(left_digits, self._digits).to(torch.float64)  # noqa: SLF001 - its only name
        top, bottom = product[:rows], product[rows + more : 2 * rows + more]
        cross = top[:, width : width + self._columns] * 256.0 + bottom[:, : self._columns] * 128.0
        return top[:, : self._columns] * 32768.0 + cross + bottom[:, width : width + self._columns]


@kernel
def _split(digits: Digits, units: Units, bits: int) -> None:
    """Two digits in base 2^bits of units [R, K], in digits [2R, K]: all high ones, then all low ones, in ± 2^(bits − 1)."""
    rows, half = units.shape[0], np.int32(1 << (bits - 1))
    for i in range(rows):
        for k in range(units.shape[1]):
            value = np.int32(units[i, k])
            low = ((value + half) & (2 * half - 1)) - half
            digits[i, k] = (value - low) >> bits
            digits[rows + i, k] = low


@kernel
def _join(out: F64, parts: Sums) -> None:
    """Out of the four products of digits, int32 [2M, 2N], the product, float64 [M, N]."""
    rows, columns = out.shape
    for i in range(rows):
        for j in range(columns):
            high = (np.int64(parts[i, j]) << 15) + (np.int64(parts[i, columns + j]) << 8)
            out[i, j] = np.float64(high + (np.int64(parts[rows + i, j]) << 7) + np.int64(parts[rows + i, columns + j]))


def batched(left: Tensor, right: Tensor, *, transposed: bool = False) -> Tensor:
    """Exact products of integers [B, A, M, K] · [B, A, K, N] → float64, where K · max |left| · max |right| ≤ 2^53.

    Zeros may be −0. transposed: the right operand is given as [B, A, N, K].
    """
    first, second = (x.to(torch.float64, memory_format=torch.contiguous_format).flatten(0, 1) for x in (left, right))
    product = torch.bmm(first, second.transpose(1, 2) if transposed else second)
    return torch.unflatten(product, 0, left.shape[:2])


def _padded(x: Tensor, columns: int, rows: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, columns, 0, rows)) if columns or rows else x


_INT8_INNER: Final = 1 << 17
Backend = Callable[[Tensor], Right]
BACKENDS: Final[dict[str, Backend]] = {"float64": Float64, "int8": Int8}


def self_check(backend: Backend, device: str = "cpu") -> bool:
    """Whether this back end multiplies exactly here: extreme and mixed operands against Python's integers."""
    limit, most = ACTIVATION_LIMIT, 1 << WEIGHT_BITS
    for rows, inner, columns in ((1, 1, 1), (17, 1, 8), (2, 2, 3), (1, 3, 2), (17, 64, 24), (32, 515, 40), (1, _INT8_INNER, 1)):
        i, k, j = torch.arange(rows)[:, None], torch.arange(inner), torch.arange(columns)
        for left, right in (
            (torch.full((rows, inner), limit), torch.full((inner, columns), most)),
            (torch.full((rows, inner), -limit), torch.full((inner, columns), most)),
            (torch.full((rows, inner), limit - 1), torch.full((inner, columns), -most)),
            ((i * 7919 + k * 104_729) % (2 * limit + 1) - limit, (k[:, None] * 15_485_863 + j * 611_953) % (2 * most + 1) - most),
        ):
            want = (left[:, :, None] * right[None]).sum(1)  # int64: exact
            try:
                found = backend(right.to(torch.int16).to(device)).times(left.to(torch.int16).to(device))
            except RuntimeError:
                return False
            if not torch.equal(found.cpu(), want.to(torch.float64)):
                return False
    return True


def available(device: str = "cpu") -> tuple[str, ...]:
    """Names of the back ends that are exact on this device."""
    return tuple(name for name, backend in BACKENDS.items() if self_check(backend, device))


_chosen: str = "float64"


def choose(name: str) -> None:
    """Use this back end from now on, in this process. Raises `KeyError` for an unknown one."""
    global _chosen  # noqa: PLW0603 - a property of the machine
    BACKENDS[name]
    _chosen = name


def chosen() -> str:
    """The back end in use."""
    return _chosen


def prepare(right: Tensor) -> Right:
    """A right operand [K, N] int16 for the back end in use; for float64 where K is too large for int8's sums."""
    return Float64(right) if right.shape[0] > _INT8_INNER else BACKENDS[_chosen](right)
