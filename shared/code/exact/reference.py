"""The kernels of `fused` and `attention` once more, in torch operations on tensors of any device: the same bits.

It is what `guard` and `trace` watch, what runs on a GPU, and the definition to read the fused kernels against. Only lawful
operations (docs/exactness.md) stand here. Letters are those of `fused`; outputs are tensors, or views of them, written in
place. A choice by `max` in a kernel is `where` here, so that −0 and NaN fare alike.
"""

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from shared.code.exact.constants import (
    ACTIVATION_BITS,
    ACTIVATION_LIMIT,
    EXP2,
    EXPONENT_LIMIT,
    FLUSH,
    GRADIENT_BITS,
    LARGEST_EXPONENT,
    LOG2_E,
    LOGIT_BITS,
    SUM_BITS,
    WEIGHT_CEILING,
)
from shared.code.exact.products import batched

_EPSILON: Final = 2.0**-20
_ACTIVATION: Final = float(1 << ACTIVATION_BITS)
_GATE_LIMIT: Final = 30.0
_LOGIT_SCALE: Final = float(1 << LOGIT_BITS)
_LOGIT_LIMIT: Final = float(1 << 22)
_CLIPPED: Final = float(ACTIVATION_LIMIT >> ACTIVATION_BITS)
_WEIGHT_BITS: Final = 14
_SCORE_BITS: Final = 14
_BIAS_BITS: Final = 30
_BIAS_LIMIT: Final = float(1 << 40)
_COEFFICIENTS: Final = [float(c) for c in EXP2]  # float32 numbers, exact as Python's
_SMALL: Final = float(FLUSH)
_RECORDED_AT: Final = 3

_device = torch.device("cpu")


def place(device: str) -> None:
    """Make arrays on this device from now on."""
    global _device  # noqa: PLW0603 - a property of the machine
    _device = torch.device(device)


class Stage:
    """Where arrays of the host pass to the device and back.

    `put` does not wait: what it was given must have been used, as a `take` of what came of it tells, before rows are put again.
    What `take` returned is overwritten by the next one.
    """

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        self.array = zeros(shape, kind)
        on_gpu = _device.type == "cuda"
        self._host = torch.zeros(shape, dtype=self.array.dtype, pin_memory=True) if on_gpu else self.array

    def put(self, values: Any, rows: slice) -> Tensor:
        """Set these rows; returns them as kernels take them."""
        self._host[rows] = torch.from_numpy(values)
        if self._host is not self.array:
            self.array[rows].copy_(self._host[rows], non_blocking=True)
        return self.array[rows]

    def take(self, rows: slice) -> Any:
        """All up to the end of these rows, of which only these have changed."""
        if self._host is not self.array:
            self._host[rows].copy_(self.array[rows])
        return self._host[: rows.stop].numpy()


class _Recorder:
    """Runs work on a GPU. What comes a third time under its key is recorded, a CUDA graph, and from then on played back.

    A work reads and writes the same memory every time, and nothing of it goes through the host.
    """

    def __init__(self) -> None:
        self._times: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable, work: Callable[[], None]) -> None:
        self._times[key] += 1
        if self._times[key] == _RECORDED_AT:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                work()
            self._graphs[key], self._pool = graph, graph.pool()
        if key in self._graphs:
            self._graphs[key].replay()
        else:
            work()


def recorder() -> Callable[[Hashable, Callable[[], None]], None]:
    """What runs work, named by a key; the same work may come often."""
    return _Recorder() if _device.type == "cuda" else lambda _, work: work()


def zeros(shape: tuple[int, ...], kind: str) -> Tensor:
    """A tensor of zeros; kind is a type's name."""
    return torch.zeros(shape, dtype=getattr(torch, kind), device=_device)


def from_numpy(array: Any) -> Tensor:
    """A tensor with these contents."""
    return torch.from_numpy(np.array(array)).to(_device)


def to_numpy(array: Any) -> Any:
    """The contents; shared where memory can be."""
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def assign(array: Any, values: Any) -> None:
    """The contents become `values`, a NumPy array."""
    array[...] = from_numpy(values) if isinstance(array, Tensor) else values


def shift(array: Tensor, rows: int, kept: int) -> None:
    """The `kept` rows that begin at `rows` become the first."""
    array[:kept] = array[rows : rows + kept].clone()


def twin(module: ModuleType) -> ModuleType:
    """Where this back end has the functions of a further module of kernels: here."""
    del module
    return sys.modules[__name__]


def _power(e: Tensor, more: int = 0) -> Tensor:
    """2^(e + more) as float32, from the bit pattern; e int32, the sum within ±126."""
    return ((e + (127 + more)) << 23).view(torch.float32)


def _inverse_power(e: Tensor, more: int) -> Tensor:
    """2^(more − e), likewise."""
    return (((127 + more) - e) << 23).view(torch.float32)


@cache
def _number(value: float, device: torch.device, kind: torch.dtype = torch.float32) -> Tensor:
    """A number on the device: what a GPU plays back takes none from the host, and see `guard` on division."""
    return torch.full((), value, dtype=kind, device=device)


def _bound(value: float | Tensor, like: Tensor) -> Tensor:
    """A bound, which `peak` gave or other ranks, as float32 where `like` is."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=like.device)


def _exponent(x: Tensor) -> Tensor:
    """The least e with x < 2^e, from the bit pattern of x ≥ 0 or −0, within ±60; int32."""
    return ((x.view(torch.int32) >> 23) - 126).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)


def _value(raw: Tensor, scale: float) -> Tensor:
    """`float32` of raw · scale, scale a power of two."""
    return (raw * scale).to(torch.float32)


def _positive(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.0, x)


def _flushed(x: Tensor, size: Tensor) -> Tensor:
    return torch.where(size >= _SMALL, x, 0.0)


def exp(x: Tensor) -> Tensor:
    """`e^x` for x ≤ 0, at least 2^-100."""
    y = (x * float(LOG2_E)).clamp(min=-100.0)
    whole = y.round()
    f = y - whole
    p = f * _COEFFICIENTS[6] + _COEFFICIENTS[5]
    for k in range(4, -1, -1):
        p = p * f + _COEFFICIENTS[k]
    return p * _power(whole.to(torch.int32))


def _sigmoid(x: Tensor) -> Tensor:
    e = exp(-x.abs().clamp(max=_GATE_LIMIT))
    s = _number(1.0, x.device) / (e + 1.0)
    return torch.where(x >= 0, s, e * s)


def _quantized(x: Tensor) -> Tensor:
    """Activations as they enter a product: integers within int16, not yet of that type."""
    return _rounded(x, _ACTIVATION, ACTIVATION_LIMIT)


def _rounded(x: Tensor, up: float | Tensor, limit: float) -> Tensor:
    """`x` · up rounded, within ± limit."""
    return (x * up).round().clamp(-limit, limit)


def _integers(x: Tensor, up: float | Tensor, limit: float = 1 << SUM_BITS) -> Tensor:
    """`x` · up rounded, int64, within ± limit."""
    return _rounded(x, up, limit).to(torch.int64)


def _width(x: Tensor) -> Tensor:
    return _number(x.shape[-1], x.device, torch.float64)


def _root(x: Tensor) -> Tensor:
    """√x of float64, correctly rounded: NumPy's is the processor's; torch takes MKL's on CPUs, wrong by an ulp at times."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else x.sqrt()


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / √(mean square + 2^-20) of the rows […, H]; the squares are summed as integers."""
    e = _exponent(x.abs().amax(-1))
    q = _integers(x, _inverse_power(e, SUM_BITS)[..., None])
    down = _power(e, -SUM_BITS).to(torch.float64)
    mean = (q * q).sum(-1).to(torch.float64) * down * down / _width(x)
    root = _root(mean + _EPSILON)
    return (_number(1.0, x.device, torch.float64) / root).to(torch.float32)


def _mean_product(a: Tensor, u: Tensor) -> Tensor:
    """Σ a_i u_i / H of the rows, u rounded to activation units; summed as integers."""
    e = _exponent(a.abs().amax(-1))
    q = _integers(a, _inverse_power(e, SUM_BITS)[..., None])
    total = (q * _quantized(u).to(torch.int64)).sum(-1)
    down = _power(e, -SUM_BITS - ACTIVATION_BITS).to(torch.float64)
    return (total.to(torch.float64) * down / _width(a)).to(torch.float32)


def gather(x: Tensor, table: Tensor, tokens: Tensor) -> None:
    """`x[row]` = table[tokens[row]]."""
    x[:] = table[tokens]


def peak(values: Tensor) -> Tensor:
    """The largest magnitude in a matrix."""
    return torch.maximum(values.amax(), -values.amin())


def product_peak(raw: Tensor, scale: float) -> Tensor:
    """The largest magnitude of raw · scale, in float32."""
    return peak(_value(raw, scale))


def scatter(gradient: Tensor, tokens: Tensor, dx: Tensor, bound: float) -> None:
    """`gradient[token]` = Σ dx over the rows with that token; gradient [m, H] is overwritten. bound: of all |dx|."""
    e = _exponent(_bound(bound, dx))
    total = torch.zeros(gradient.shape, dtype=torch.int64, device=gradient.device)
    total.index_add_(0, tokens, _integers(dx, _inverse_power(e, SUM_BITS)))
    gradient[:] = total.to(torch.float64) * _power(e, -SUM_BITS).to(torch.float64)


def sum_rows(out: Tensor, values: Tensor, bound: float) -> None:
    """`out[0, i]` = Σ values[:, i]. bound: of all magnitudes."""
    e = _exponent(_bound(bound, values))
    total = _integers(values, _inverse_power(e, SUM_BITS)).sum(0)
    out[0] = total.to(torch.float64) * _power(e, -SUM_BITS).to(torch.float64)


def quantize(out: Tensor, scale: Tensor, values: Tensor, bound: float, bits: int) -> None:
    """`out` = values · 2^(bits − e), rounded, and scale [1] = 2^(e − bits), with the least e ≤ 30 so that bound < 2^e."""
    e = _exponent(_bound(bound, values)).clamp(max=LARGEST_EXPONENT)
    out[:] = _rounded(values, _inverse_power(e, bits), 1 << bits)
    scale[:] = _power(e, -bits)


def norm_taps(operand: Tensor, u: Tensor, r: Tensor, units: Tensor, x: Tensor, first: int, taps: int, streams: int) -> None:
    """RMS norm of the rows x [N, H], side by side with those of the taps − 1 positions before; see `fused`."""
    rows, width = x.shape
    begin = (taps - 1) * streams + first
    r[:] = _inverse_rms(x)
    torch.mul(x, r[:, None], out=u)
    units[begin : begin + rows] = _quantized(u)
    beside = units[first:].as_strided((rows, taps, width), (width, streams * width, 1))  # the oldest first
    _split(operand, -1, taps, -1)[:] = beside.flip(1)


def norm_taps_backward(dx: Tensor, raw: Tensor, scale: float, u: Tensor, r: Tensor, taps: int, streams: int) -> None:
    """`dx` += the gradient of `norm_taps`; raw · scale [N, taps·H] is that of the operand. Earlier segments get none."""
    rows, width = u.shape
    d = _value(raw, scale)
    du = d[:, :width].clone()
    for tap in range(1, taps):
        later = tap * streams
        if later < rows:
            du[: rows - later] += d[later:, tap * width : (tap + 1) * width]
    mean = _mean_product(du, u)
    dx += (du - u * mean[:, None]) * r[:, None]


def add_product(x: Tensor, raw: Tensor, scale: float) -> None:
    """`x` += raw · scale."""
    x += _value(raw, scale)


def integer_logits(out: Any, raw: Tensor, scale: float) -> None:
    """Logits in units of 2^-16, within ±64."""
    out[:] = (raw * scale * _LOGIT_SCALE).round().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT).to(torch.int32)


def relu_squared(out: Tensor, z: Tensor, raw: Tensor, scale: float) -> None:
    """`z` = raw · scale; out = max(z, 0)² / 2, rounded for a product."""
    z[:] = raw * scale
    positive = _positive(z)
    out[:] = _quantized(positive * positive * 0.5)


def relu_squared_backward(dz: Tensor, raw: Tensor, scale: float, z: Tensor) -> None:
    """The gradient dz = d · max(z, 0), d = raw · scale; 0 where the output was clipped."""
    positive = _positive(z)
    dz[:] = _value(raw, scale) * torch.where(positive * positive * 0.5 < _CLIPPED, positive, 0.0)


def gated_scan(
    out: Tensor,
    keep: Tensor,
    candidate: Tensor,
    gate: Tensor,
    h: Tensor,
    u: Tensor,
    r: Tensor,
    raw: Tensor,
    scale: float,
    bias: Tensor,
    first: int,
    streams: int,
) -> None:
    """The gated linear recurrence h_t = a_t h_{t-1} + (1 − a_t) c_t, its RMS norm, times silu(g_t); see `fused`."""
    width, rows = len(bias), len(raw)
    value = _value(raw, scale)
    keep[:] = _sigmoid(value[:, :width] + bias)
    candidate[:] = value[:, width : 2 * width]
    gate[:] = value[:, 2 * width :]
    taken = (1.0 - keep) * candidate
    for row in range(0, rows, streams):
        here, part = first + row, slice(row, row + streams)
        new = keep[part] * h[here : here + streams] + taken[part]
        h[here + streams : here + 2 * streams] = _flushed(new, new.abs())
    states = h[first + streams : first + streams + rows]
    r[:] = _inverse_rms(states)
    u[:] = states * r[:, None]
    out[:] = _quantized(u * (gate * _sigmoid(gate)))


def gated_scan_backward(
    dz: Tensor,
    raw: Tensor,
    scale: float,
    keep: Tensor,
    candidate: Tensor,
    gate: Tensor,
    h: Tensor,
    u: Tensor,
    r: Tensor,
    streams: int,
) -> None:
    """`dz` [N, 3H] from d = raw · scale [N, H], the gradient of `gated_scan`'s output; the state before the segment gets none."""
    rows, width = u.shape
    d = _value(raw, scale)
    s = _sigmoid(gate)
    du = d * (gate * s)
    one = torch.ones_like(s)
    dz[:, 2 * width :] = d * u * (s * (gate * (one - s) + 1.0))
    mean = _mean_product(du, u)
    dh = (du - u * mean[:, None]) * r[:, None]
    carried = torch.zeros_like(u[:streams])
    for row in range(rows - streams, -1, -streams):
        part = slice(row, row + streams)
        dh[part] += carried
        carried = dh[part] * keep[part]
    rest = one - keep
    dz[:, :width] = dh * (h[:rows] - candidate) * (keep * rest)
    dz[:, width : 2 * width] = dh * rest


def adam(w: Tensor, m: Tensor, v: Tensor, raw: Tensor, scale: float, factors: Tensor) -> None:
    """One step of Adam on w with the gradient raw · scale; see `fused` for the factors."""
    keep1, take1, keep2, take2, up1, up2, epsilon, rate, most = factors.unbind()
    g = _value(raw, scale)
    first = keep1 * m + take1 * g
    m[:] = _flushed(first, first.abs())
    second = keep2 * v + take2 * (g * g)
    v[:] = _flushed(second, second)
    root = _root((v * up2).to(torch.float64)).to(torch.float32)
    step = m * up1 / (root + epsilon)
    step = torch.where(step < most, step, most)
    step = torch.where(step > -most, step, -most)
    value = w - rate * step
    value = torch.where(value < WEIGHT_CEILING, value, float(WEIGHT_CEILING))
    w[:] = torch.where(value > -WEIGHT_CEILING, value, -float(WEIGHT_CEILING))


def _split(x: Tensor, dimension: int, *sizes: int) -> Tensor:
    """One dimension as two."""
    return torch.unflatten(x, dimension, sizes)


def _by_stream(rows: Tensor, streams: int, heads: int) -> Tensor:
    """Rows [t·B, A·D] as [B, A, t, D]."""
    return _split(_split(rows, 0, -1, streams), -1, heads, -1).permute(1, 2, 0, 3)


def _by_row(x: Tensor) -> Tensor:
    """The way back, [t·B, A·D]."""
    return x.permute(2, 0, 1, 3).flatten(2).flatten(0, 1)


def _seen_by(cache: Tensor, begin: int, slots: int, heads: int) -> Tensor:
    """Of cache [B, C + T, A·D] so many slots from `begin` on, [B, A, slots, D]."""
    return _split(cache[:, begin : begin + slots], -1, heads, -1).transpose(1, 2)


def _skewed(windows: Tensor) -> Tensor:
    """Of windows [B, A, t, C + 1], the oldest position first, the slots they lie in, [B, A, t, C + t]: row i begins at slot i."""
    t, width = windows.shape[2:]
    flat = torch.nn.functional.pad(windows.to(torch.float64), (0, t)).flatten(2)
    return _split(flat[..., : t * (width + t - 1)], -1, t, -1)


def _windows(slots: Tensor, context: int) -> Tensor:
    """The way back: of slots [B, A, t, C + t] what each position sees, [B, A, t, C + 1]."""
    t = slots.shape[2]
    flat = torch.nn.functional.pad(slots.flatten(2), (0, t))
    return _split(flat, -1, t, -1)[..., : context + 1]


def attend(
    out: Tensor, u: Tensor, r: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor, raw: Tensor, scale: float,
    bias: Tensor, factor: np.float32, first: int, streams: int, context: int, seen: Tensor,
) -> None:  # fmt: skip
    """Causal attention over a window; see `attention`. Weights outside it are exact zeros before any sum."""
    (rows, width), heads = out.shape, len(bias)
    positions, begin = rows // streams, first // streams
    value = _value(raw, scale)
    lines = _split(value[:, : 2 * width], -1, 2 * heads, -1)  # q's heads, then k's
    r[:] = _inverse_rms(lines)
    torch.mul(lines, r[..., None], out=_split(u, -1, 2 * heads, -1))
    queries[:] = _quantized(u[:, :width])
    place = slice(context + begin, context + begin + positions)
    keys[:, place] = _split(_quantized(u[:, width:]), 0, -1, streams).transpose(0, 1)
    values[:, place] = _split(_quantized(value[:, 2 * width :]), 0, -1, streams).transpose(0, 1)

    known = begin, context + positions, heads
    dots = _windows(batched(_by_stream(queries, streams, heads), _seen_by(keys, *known), transposed=True), context)
    unit = float(factor) * 2.0**-ACTIVATION_BITS * 2.0**-ACTIVATION_BITS
    scores = (dots * unit).to(torch.float32) + bias.flip(1)[:, None]  # [B, A, t, C + 1], the oldest first
    t = torch.arange(positions, device=raw.device)
    visible = t[:, None] + begin + torch.arange(context + 1, device=raw.device) >= context - seen
    scores = torch.where(visible, scores, scores[..., -1:])
    e = exp(scores - scores.amax(-1, keepdim=True))
    weight = torch.where(visible, (e * float(1 << _WEIGHT_BITS)).round(), 0.0)
    units = weight.to(torch.int16)
    _split(weights, 0, -1, streams)[:] = units.flip(-1).permute(2, 0, 1, 3)
    total = batched(_skewed(weight), _seen_by(values, *known)) + 0.0
    mean = total * 2.0**-ACTIVATION_BITS / units.sum(-1, keepdim=True).to(torch.float64)
    out[:] = _by_row(_quantized(mean.to(torch.float32)))


def attend_backward(
    dz: Tensor, dbias: Tensor, raw: Tensor, scale: float, u: Tensor, r: Tensor, queries: Tensor, keys: Tensor, values: Tensor,
    weights: Tensor, factor: np.float32, streams: int, context: int, bound: float,
) -> None:  # fmt: skip
    """The gradient dz [N, 3H] and dbias [A, C + 1] from d = raw · scale [N, H], the gradient of `attend`'s output."""
    (rows, width), heads = raw.shape, len(dbias)
    known = 0, context + rows // streams, heads
    value = _value(raw, scale)
    e = _exponent(_bound(bound, raw))
    pair_down = _power(e, -GRADIENT_BITS - ACTIVATION_BITS).to(torch.float64)
    d = _by_stream(_rounded(value, _inverse_power(e, GRADIENT_BITS), 1 << GRADIENT_BITS), streams, heads)
    weight = _split(weights, 0, -1, streams).permute(1, 2, 0, 3).flip(-1)  # [B, A, t, C + 1], the oldest first
    share = weight.to(torch.float32) / weight.sum(-1, keepdim=True).to(torch.float32)
    p = (share * float(1 << _WEIGHT_BITS)).round()
    pairs = torch.where(weight == 0, 0.0, _windows(batched(d, _seen_by(values, *known), transposed=True), context))
    mixed = (p.to(torch.int64) * pairs.to(torch.int64)).sum(-1, keepdim=True)
    mean = (mixed.to(torch.float64) * (pair_down * 2.0**-_WEIGHT_BITS)).to(torch.float32)
    ds = share * ((pairs * pair_down).to(torch.float32) - mean)
    steps = _integers(ds, 1 << _BIAS_BITS, _BIAS_LIMIT)
    dbias[:] = steps.sum((0, 2)).flip(1).to(torch.float64) * 2.0**-_BIAS_BITS

    e = _exponent(torch.maximum(ds.amax((2, 3), keepdim=True), -ds.amin((2, 3), keepdim=True)))  # [B, A, 1, 1]
    q = _skewed(_rounded(ds, _inverse_power(e, _SCORE_BITS), 1 << _SCORE_BITS))
    down = _power(e, -_SCORE_BITS - ACTIVATION_BITS).to(torch.float64)
    dq = batched(q, _seen_by(keys, *known))
    dk = batched(q[..., context:].transpose(2, 3), _by_stream(queries, streams, heads))
    for part, sums in enumerate((dq, dk)):
        line = ((sums + 0.0) * down).to(torch.float32) * float(factor)  # no −0
        unit = _by_stream(u[:, part * width : (part + 1) * width], streams, heads)
        inverse = _split(r[:, part * heads : (part + 1) * heads], 0, -1, streams).permute(1, 2, 0)
        back = (line - unit * _mean_product(line, unit)[..., None]) * inverse[..., None]
        dz[:, part * width : (part + 1) * width] = _by_row(back)
    dv = batched(_skewed(p)[..., context:].transpose(2, 3), d)
    down = _power(_exponent(peak(value)), -GRADIENT_BITS - _WEIGHT_BITS)
    dz[:, 2 * width :] = _by_row((dv + 0.0).to(torch.float32) * down)


def slide(cache: Tensor, positions: int, context: int) -> None:
    """The C positions that end the segment become those before the next one; cache [B, C + T, H]."""
    cache[:, :context] = cache[:, positions : positions + context].clone()
