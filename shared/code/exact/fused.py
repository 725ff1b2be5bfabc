"""Exact elementwise arithmetic and reductions for CPUs, fused into compiled kernels over NumPy arrays.

Every function has a twin of the same name in `reference`, in torch operations, with equal bits. Rows are positions, T·B of
them, row t·B + b being position t of stream b, so that the position before lies B rows up. Letters: N rows, H width, B streams,
m vocabulary. A "raw" product is float64 and integer-valued; its `scale` is the power of two that gives the value.
Sums are taken over integers; everything else is one IEEE operation per rounding, in the order written here.
"""

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.code.compiled import kernel
from shared.code.exact.constants import (
    ACTIVATION_BITS,
    ACTIVATION_LIMIT,
    EXP2,
    EXPONENT_LIMIT,
    F32,
    F64,
    FLUSH,
    LARGEST_EXPONENT,
    LOG2_E,
    LOGIT_BITS,
    POWERS,
    SUM_BITS,
    WEIGHT_CEILING,
)

Array = npt.NDArray[Any]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_ACTIVATION = np.float32(1 << ACTIVATION_BITS)
_LIMIT = np.float32(ACTIVATION_LIMIT)
_TERM = np.float32(1 << SUM_BITS)
_CEILING = np.float32(WEIGHT_CEILING)
_CLIPPED = np.float32(ACTIVATION_LIMIT >> ACTIVATION_BITS)
_EPSILON = np.float64(2.0**-20)  # added to a mean square before its root
_GATE_LIMIT = np.float32(30)
_LOGIT_SCALE = np.float64(1 << LOGIT_BITS)
_LOGIT_LIMIT = np.float64(1 << 22)
_POSITIONS = np.float32(1 << 14)  # attention weights and probabilities as integers
_BIAS_SCALE = np.float32(1 << 30)


def zeros(shape: tuple[int, ...], kind: str) -> Array:
    """An array of zeros; kind is a NumPy type's name."""
    return np.zeros(shape, dtype=kind)


def from_numpy(array: Array) -> Array:
    """An array of this back end with these contents."""
    return np.array(array)


def to_numpy(array: Array) -> Array:
    """The contents, maybe shared."""
    return array


def assign(array: Array, values: Array) -> None:
    """The contents become `values`."""
    array[...] = values


def shift(array: Array, rows: int, kept: int) -> None:
    """The `kept` rows that begin at `rows` become the first."""
    array[:kept] = array[rows : rows + kept].copy()


def twin(module: ModuleType) -> ModuleType:
    """Where this back end has the functions of a further module of kernels."""
    return module


class Stage:
    """Where arrays of the host pass to kernels and back: they are one here."""

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        self.array = zeros(shape, kind)

    def put(self, values: Array, rows: slice) -> Array:
        """Set these rows; returns them as kernels take them."""
        self.array[rows] = values
        return self.array[rows]

    def take(self, rows: slice) -> Array:
        """All up to the end of these rows, of which only these have changed."""
        return self.array[: rows.stop]


def recorder() -> Callable[[Hashable, Callable[[], None]], None]:
    """What runs work, named by a key; the same work may come often."""
    return lambda _, work: work()


@kernel
def _halved(x: np.float32) -> np.float32:
    return x * _HALF


def keeps_denormals() -> bool:
    """Whether this thread's processor leaves numbers below 2^-126 as they are."""
    return float(_halved(np.float32(2.0**-126))) != 0.0


@kernel
def exponent(x: np.float32) -> int:
    """The least e with |x| < 2^e, from the bit pattern, within ±60."""
    biased = int((np.float32(x).view(np.int32) >> 23) & 255)
    return min(max(biased - 126, -EXPONENT_LIMIT), EXPONENT_LIMIT)


@kernel
def power(e: int) -> np.float32:
    """2^e, for e in ±126."""
    return np.float32(POWERS[e + 126])


@kernel
def largest(row: F32) -> np.float32:
    """The largest magnitude."""
    peak = _ZERO
    for i in range(len(row)):
        peak = max(peak, abs(row[i]))
    return peak


@kernel
def exp(x: np.float32) -> np.float32:
    """e^x for x ≤ 0, at least 2^-100."""
    y = max(x * LOG2_E, np.float32(-100))
    n = np.rint(y)
    f = y - n
    p = EXP2[6]
    for k in range(5, -1, -1):
        p = p * f
        p = p + EXP2[k]
    return np.float32(p * POWERS[np.int64(n) + 126])


@kernel
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + e^−x)."""
    e = exp(-min(abs(x), _GATE_LIMIT))
    s = _ONE / (_ONE + e)
    return s if x >= _ZERO else e * s


@kernel
def quantized(x: np.float32) -> np.int16:
    """An activation as it enters a product."""
    return np.int16(min(max(np.rint(x * _ACTIVATION), -_LIMIT), _LIMIT))


@kernel
def whole(x: np.float32, limit: np.float32) -> np.int64:
    """The nearest integer, within ± limit: conversions of what does not fit differ between processors."""
    return np.int64(min(max(np.rint(x), -limit), limit))


@kernel
def inverse_rms(row: F32) -> np.float32:
    """1 / √(mean square + 2^-20); the squares are summed as integers."""
    e = exponent(largest(row))
    up = power(SUM_BITS - e)
    total = np.int64(0)
    for i in range(len(row)):
        q = whole(row[i] * up, _TERM)
        total += q * q
    down = np.float64(power(e - SUM_BITS))
    mean = np.float64(total) * down * down / np.float64(len(row))
    return np.float32(np.float64(1) / np.sqrt(mean + _EPSILON))


@kernel
def mean_product(a: F32, u: F32) -> np.float32:
    """Σ a_i u_i / H, u rounded to activation units; summed as integers."""
    e = exponent(largest(a))
    up = power(SUM_BITS - e)
    total = np.int64(0)
    for i in range(len(a)):
        total += whole(a[i] * up, _TERM) * np.int64(quantized(u[i]))
    down = np.float64(power(e - SUM_BITS - ACTIVATION_BITS))
    return np.float32(np.float64(total) * down / np.float64(len(a)))


@kernel
def gather(x: F32, table: F32, tokens: I64) -> None:
    """x[row] = table[tokens[row]]."""
    for row in range(len(tokens)):
        for i in range(x.shape[1]):
            x[row, i] = table[tokens[row], i]


@kernel
def peak(values: F32) -> float:
    """The largest magnitude in a matrix."""
    found = _ZERO
    for row in range(values.shape[0]):
        found = max(found, largest(values[row]))
    return float(found)


@kernel
def product_peak(raw: F64, scale: float) -> float:
    """The largest magnitude of raw · scale, in float32."""
    found = _ZERO
    for row in range(raw.shape[0]):
        for i in range(raw.shape[1]):
            found = max(found, abs(np.float32(raw[row, i] * scale)))
    return float(found)


@kernel
def scatter(gradient: F64, tokens: I64, dx: F32, bound: float) -> None:
    """gradient[token] = Σ dx over the rows with that token; gradient [m, H] is overwritten. bound: of all |dx|."""
    e = exponent(np.float32(bound))
    up, down = power(SUM_BITS - e), np.float64(power(e - SUM_BITS))
    total = np.zeros(gradient.shape, dtype=np.int64)
    for row in range(len(tokens)):
        for i in range(dx.shape[1]):
            total[tokens[row], i] += whole(dx[row, i] * up, _TERM)
    for token in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            gradient[token, i] = np.float64(total[token, i]) * down


@kernel
def sum_rows(out: F64, values: F32, bound: float) -> None:
    """out[0, i] = Σ values[:, i]. bound: of all magnitudes."""
    e = exponent(np.float32(bound))
    up, down = power(SUM_BITS - e), np.float64(power(e - SUM_BITS))
    total = np.zeros(out.shape[1], dtype=np.int64)
    for row in range(values.shape[0]):
        for i in range(out.shape[1]):
            total[i] += whole(values[row, i] * up, _TERM)
    for i in range(out.shape[1]):
        out[0, i] = np.float64(total[i]) * down


@kernel
def quantize(out: I16, scale: F64, values: F32, bound: float, bits: int) -> None:
    """Set out = values · 2^(bits − e), rounded, and scale [1] = 2^(e − bits), with the least e ≤ 30 so that bound < 2^e.

    Larger values saturate.
    """
    e = min(exponent(np.float32(bound)), LARGEST_EXPONENT)
    up, limit = power(bits - e), power(bits)
    for row in range(values.shape[0]):
        for i in range(values.shape[1]):
            out[row, i] = np.int16(whole(values[row, i] * up, limit))
    scale[0] = np.float64(power(e - bits))


@kernel
def norm_taps(operand: I16, u: F32, r: F32, units: I16, x: F32, first: int, taps: int, streams: int) -> None:
    """RMS norm (B. Zhang and R. Sennrich 2019) of the rows x [N, H], side by side with those of the taps − 1 positions before.

    Writes u = x·r [N, H], r [N], the rounded rows into `units` [(taps − 1)·B + T·B, H] at row `first` of the segment, and the
    product's left operand [N, taps·H]: position t, then t − 1, …
    """
    width = x.shape[1]
    for row in range(x.shape[0]):
        r[row] = inverse_rms(x[row])
        place = (taps - 1) * streams + first + row
        for i in range(width):
            u[row, i] = x[row, i] * r[row]
            units[place, i] = quantized(u[row, i])
        for tap in range(taps):
            for i in range(width):
                operand[row, tap * width + i] = units[place - tap * streams, i]


@kernel
def norm_taps_backward(dx: F32, raw: F64, scale: float, u: F32, r: F32, taps: int, streams: int) -> None:
    """Add to dx the gradient of `norm_taps`; raw · scale [N, taps·H] is that of the operand. Earlier segments get none."""
    rows, width = u.shape
    du = np.zeros(width, dtype=np.float32)
    for row in range(rows):
        for i in range(width):
            du[i] = np.float32(raw[row, i] * scale)
        for tap in range(1, taps):
            later = row + tap * streams
            if later < rows:
                for i in range(width):
                    du[i] = du[i] + np.float32(raw[later, tap * width + i] * scale)
        mean = mean_product(du, u[row])
        for i in range(width):
            dx[row, i] = dx[row, i] + (du[i] - u[row, i] * mean) * r[row]


@kernel
def add_product(x: F32, raw: F64, scale: float) -> None:
    """Add to x raw · scale."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] = x[row, i] + np.float32(raw[row, i] * scale)


@kernel
def integer_logits(out: I32, raw: F64, scale: float) -> None:
    """Logits in units of 2^-16, within ±64."""
    for row in range(raw.shape[0]):
        for i in range(raw.shape[1]):
            out[row, i] = np.int32(min(max(np.rint(raw[row, i] * scale * _LOGIT_SCALE), -_LOGIT_LIMIT), _LOGIT_LIMIT))


@kernel
def relu_squared(out: I16, z: F32, raw: F64, scale: float) -> None:
    """Set z = raw · scale; out = max(z, 0)² / 2, rounded for a product."""
    for row in range(raw.shape[0]):
        for i in range(raw.shape[1]):
            value = np.float32(raw[row, i] * scale)
            z[row, i] = value
            positive = max(value, _ZERO)
            out[row, i] = quantized(positive * positive * _HALF)


@kernel
def relu_squared_backward(dz: F32, raw: F64, scale: float, z: F32) -> None:
    """The gradient dz = d · max(z, 0), d = raw · scale; 0 where the output was clipped, which would else be pushed on."""
    for row in range(raw.shape[0]):
        for i in range(raw.shape[1]):
            positive = max(z[row, i], _ZERO)
            slope = positive if positive * positive * _HALF < _CLIPPED else _ZERO
            dz[row, i] = np.float32(raw[row, i] * scale) * slope


@kernel
def gated_scan(
    out: I16,
    keep: F32,
    candidate: F32,
    gate: F32,
    h: F32,
    u: F32,
    r: F32,
    raw: F64,
    scale: float,
    bias: F32,
    first: int,
    streams: int,
) -> None:
    """The gated linear recurrence h_t = a_t h_{t-1} + (1 − a_t) c_t, its RMS norm, times silu(g_t).

    raw · scale [N, 3H] holds a's, c and g: a = σ(· + bias). h [B + T·B, H] begins with the state before the segment, B rows.
    Writes keep = a, candidate = c, gate = g, h, u = h·r, r, and the rounded u · silu(g).
    """
    width = len(bias)
    for row in range(raw.shape[0]):
        here = first + row
        for i in range(width):
            a = sigmoid(np.float32(raw[row, i] * scale) + bias[i])
            c = np.float32(raw[row, width + i] * scale)
            value = a * h[here, i] + (_ONE - a) * c
            keep[row, i] = a
            candidate[row, i] = c
            h[streams + here, i] = value if abs(value) >= FLUSH else _ZERO
            gate[row, i] = np.float32(raw[row, 2 * width + i] * scale)
        r[row] = inverse_rms(h[streams + here])
        for i in range(width):
            u[row, i] = h[streams + here, i] * r[row]
            out[row, i] = quantized(u[row, i] * (gate[row, i] * sigmoid(gate[row, i])))


@kernel
def gated_scan_backward(
    dz: F32, raw: F64, scale: float, keep: F32, candidate: F32, gate: F32, h: F32, u: F32, r: F32, streams: int
) -> None:
    """The gradient dz [N, 3H] from that of the output, raw · scale [N, H]; the state before the segment gets none."""
    rows, width = u.shape
    carried = np.zeros((streams, width), dtype=np.float32)
    du = np.zeros(width, dtype=np.float32)
    for row in range(rows - 1, -1, -1):
        b = row % streams
        for i in range(width):
            d = np.float32(raw[row, i] * scale)
            g = gate[row, i]
            s = sigmoid(g)
            du[i] = d * (g * s)
            dz[row, 2 * width + i] = d * u[row, i] * (s * (_ONE + g * (_ONE - s)))
        mean = mean_product(du, u[row])
        for i in range(width):
            dh = carried[b, i] + (du[i] - u[row, i] * mean) * r[row]
            a = keep[row, i]
            dz[row, i] = dh * (h[row, i] - candidate[row, i]) * (a * (_ONE - a))
            dz[row, width + i] = dh * (_ONE - a)
            carried[b, i] = dh * a


@kernel
def adam(w: F32, m: F32, v: F32, raw: F64, scale: float, factors: F32) -> None:
    """One step of Adam (D. P. Kingma and J. L. Ba 2015) on w with the gradient raw · scale; all two-dimensional.

    factors: β1, 1 − β1, β2, 1 − β2, 1 / (1 − β1^k), 1 / (1 − β2^k), ε, the rate, and the ceiling that clips a step's direction.
    """
    keep1, take1, keep2, take2 = factors[0], factors[1], factors[2], factors[3]
    up1, up2, epsilon, rate, most = factors[4], factors[5], factors[6], factors[7], factors[8]
    for row in range(w.shape[0]):  # one loop for each array written: compilers vectorise these
        for i in range(w.shape[1]):
            value = keep1 * m[row, i] + take1 * np.float32(raw[row, i] * scale)
            m[row, i] = value if abs(value) >= FLUSH else _ZERO
        for i in range(w.shape[1]):
            g = np.float32(raw[row, i] * scale)
            value = keep2 * v[row, i] + take2 * (g * g)
            v[row, i] = value if value >= FLUSH else _ZERO
        for i in range(w.shape[1]):
            step = m[row, i] * up1 / (np.sqrt(v[row, i] * up2) + epsilon)
            step = min(most, step)
            step = max(-most, step)
            value = w[row, i] - rate * step
            value = min(_CEILING, value)
            w[row, i] = max(-_CEILING, value)
