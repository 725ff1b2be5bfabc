"""Causal attention over a sliding window, exact, fused for CPUs. Its twin in torch operations is `reference`'s.

Queries and keys are RMS-normed per head and rounded to units of 2^-10, as values are: every score and every weighted sum is an
integer sum. Weights are integers of 2^-14, exact zeros outside the window. Letters: N rows t·B + b, H width, A heads, D = H / A,
C context. Keys and values [B, C + T, H]: the C positions before the segment, then its own; of the C, `seen` [1] exist.
"""

from typing import Final

import numpy as np

from shared.code.compiled import kernel
from shared.code.exact.constants import ACTIVATION_BITS, F32, F64, GRADIENT_BITS, root
from shared.code.exact.fused import I16, I64, exp, exponent, inverse_rms, largest, mean_product, power, quantized, whole

_ONE = np.float32(1)
_WEIGHT_BITS: Final = 14
_WEIGHT = np.float32(1 << _WEIGHT_BITS)
_SCORE_BITS: Final = 14
_BIAS_BITS: Final = 30
_BIAS_UNIT = np.float32(1 << _BIAS_BITS)
_BIAS_LIMIT = np.float32(1 << 40)
_GRADIENT = np.float32(1 << GRADIENT_BITS)
_SCORE = np.float32(1 << _SCORE_BITS)
_VALUE_UNIT = np.float64(2.0**-ACTIVATION_BITS)


def score_factor(head_width: int) -> np.float32:
    """1.5 / √D."""
    return np.float32(root(9, 4 * head_width))


@kernel
def attend(
    out: I16, u: F32, r: F32, queries: I16, keys: I16, values: I16, weights: I16, raw: F64, scale: float,
    bias: F32, factor: np.float32, first: int, streams: int, context: int, seen: I64,
) -> None:  # fmt: skip
    """The output [N, H] = rounded Σ_j w_j v_j / Σ_j w_j, w_j ~ exp(factor · q·k_j + bias[a, j]), j positions back, 0 ≤ j ≤ C.

    raw · scale [N, 3H] holds q, k, v. Writes u [N, 2H] and r [N, 2A], the norms of q and k; queries [N, H]; keys and values
    at the rows' places; weights [N, A, C + 1].
    """
    width, heads = out.shape[1], bias.shape[0]
    size = width // heads
    score_unit = np.float64(factor) * _VALUE_UNIT * _VALUE_UNIT
    scores = np.zeros(context + 1, dtype=np.float32)
    total = np.zeros(size, dtype=np.int64)
    line = np.zeros(size, dtype=np.float32)
    for row in range(out.shape[0]):
        b, t = (first + row) % streams, (first + row) // streams
        slot = context + t
        for part in range(2):
            for head in range(heads):
                place = part * width + head * size
                for i in range(size):
                    line[i] = np.float32(raw[row, place + i] * scale)
                r[row, part * heads + head] = inverse_rms(line)
                for i in range(size):
                    u[row, place + i] = line[i] * r[row, part * heads + head]
        for i in range(width):
            queries[row, i] = quantized(u[row, i])
            keys[b, slot, i] = quantized(u[row, width + i])
            values[b, slot, i] = quantized(np.float32(raw[row, 2 * width + i] * scale))
        reach = min(context, seen[0] + t)
        for head in range(heads):
            place = head * size
            query = queries[row, place : place + size]
            for j in range(reach + 1):
                key = keys[b, slot - j, place : place + size]
                dot = np.int64(0)
                for i in range(size):
                    dot += np.int64(query[i]) * np.int64(key[i])
                scores[j] = np.float32(np.float64(dot) * score_unit) + bias[head, j]
            most = scores[0]
            for j in range(1, reach + 1):
                most = max(most, scores[j])
            sum_of_weights = np.int64(0)
            total[:] = 0
            weights[row, head, :] = 0
            for j in range(reach + 1):
                weight = np.int64(np.rint(exp(scores[j] - most) * _WEIGHT))
                weights[row, head, j] = weight
                sum_of_weights += weight
                value = values[b, slot - j, place : place + size]
                for i in range(size):
                    total[i] += weight * np.int64(value[i])
            for i in range(size):
                out[row, place + i] = quantized(np.float32(np.float64(total[i]) * _VALUE_UNIT / np.float64(sum_of_weights)))


@kernel
def _back_through_norm(dz: F32, du: F32, u: F32, r: np.float32) -> None:
    mean = mean_product(du, u)
    for i in range(len(du)):
        dz[i] = (du[i] - u[i] * mean) * r


@kernel
def attend_backward(
    dz: F32, dbias: F64, raw: F64, scale: float, u: F32, r: F32, queries: I16, keys: I16, values: I16, weights: I16,
    factor: np.float32, streams: int, context: int, bound: float,
) -> None:  # fmt: skip
    """The gradient dz [N, 3H] and dbias [A, C + 1] from d = raw · scale [N, H], the gradient of `attend`'s output.

    Keys and values of earlier segments get none. bound: of all |d|. Gradients are rounded to integers before every sum: d at
    one scale for the segment, score gradients at one for each stream and head.
    """
    rows, width = raw.shape
    heads = dbias.shape[0]
    size, positions = width // heads, rows // streams
    e = exponent(np.float32(bound))
    up = power(GRADIENT_BITS - e)
    pair_down = np.float64(power(e - GRADIENT_BITS - ACTIVATION_BITS))
    sum_down = pair_down * np.float64(2.0**-_WEIGHT_BITS)
    value_down = np.float32(power(e - GRADIENT_BITS - _WEIGHT_BITS))
    totals = np.zeros(dbias.shape, dtype=np.int64)
    d = np.zeros((positions, size), dtype=np.int64)
    p = np.zeros((positions, context + 1), dtype=np.int64)
    ds = np.zeros((positions, context + 1), dtype=np.float32)
    pairs = np.zeros(context + 1, dtype=np.int64)
    dq = np.zeros((positions, size), dtype=np.int64)
    dk = np.zeros((positions, size), dtype=np.int64)
    dv = np.zeros((positions, size), dtype=np.int64)
    line = np.zeros(size, dtype=np.float32)
    for b in range(streams):
        for head in range(heads):
            place = head * size
            dq[:], dk[:], dv[:] = 0, 0, 0
            for t in range(positions):
                row = t * streams + b
                sum_of_weights = np.int64(0)
                for j in range(context + 1):
                    sum_of_weights += weights[row, head, j]
                for i in range(size):
                    d[t, i] = whole(np.float32(raw[row, place + i] * scale) * up, _GRADIENT)
                mixed = np.int64(0)
                for j in range(context + 1):
                    weight = np.int64(weights[row, head, j])
                    share = np.float32(weight) / np.float32(sum_of_weights)
                    p[t, j] = np.int64(np.rint(share * _WEIGHT))
                    pairs[j] = 0
                    ds[t, j] = share
                    if weight == 0:
                        continue
                    slot = context + t - j
                    pair = np.int64(0)
                    for i in range(size):
                        pair += d[t, i] * np.int64(values[b, slot, place + i])
                    pairs[j] = pair
                    mixed += p[t, j] * pair
                    if j <= t:
                        for i in range(size):
                            dv[t - j, i] += p[t, j] * d[t, i]
                mean = np.float32(np.float64(mixed) * sum_down)
                for j in range(context + 1):
                    ds[t, j] = ds[t, j] * (np.float32(np.float64(pairs[j]) * pair_down) - mean)
                    totals[head, j] += whole(ds[t, j] * _BIAS_UNIT, _BIAS_LIMIT)
            peak = np.float32(0)
            for t in range(positions):
                peak = max(peak, largest(ds[t]))
            e = exponent(peak)
            score_up, score_down = power(_SCORE_BITS - e), np.float64(power(e - _SCORE_BITS - ACTIVATION_BITS))
            for t in range(positions):
                row = t * streams + b
                for j in range(context + 1):
                    q = whole(ds[t, j] * score_up, _SCORE)
                    if q == 0:
                        continue
                    for i in range(size):
                        dq[t, i] += q * np.int64(keys[b, context + t - j, place + i])
                    if j <= t:
                        for i in range(size):
                            dk[t - j, i] += q * np.int64(queries[row, place + i])
            for t in range(positions):
                row = t * streams + b
                for i in range(size):
                    line[i] = np.float32(np.float64(dq[t, i]) * score_down) * factor
                _back_through_norm(dz[row, place : place + size], line, u[row, place : place + size], r[row, head])
                place_k = width + place
                for i in range(size):
                    line[i] = np.float32(np.float64(dk[t, i]) * score_down) * factor
                _back_through_norm(
                    dz[row, place_k : place_k + size], line, u[row, place_k : place_k + size], r[row, heads + head]
                )
                for i in range(size):
                    dz[row, 2 * width + place + i] = np.float32(dv[t, i]) * value_down
    for head in range(heads):
        for j in range(context + 1):
            dbias[head, j] = np.float64(totals[head, j]) * np.float64(2.0**-_BIAS_BITS)


@kernel
def slide(cache: I16, positions: int, context: int) -> None:
    """The C positions that end the segment become those before the next one; cache [B, C + T, H]."""
    for b in range(cache.shape[0]):
        for j in range(context):
            for i in range(cache.shape[2]):
                cache[b, j, i] = cache[b, j + positions, i]
