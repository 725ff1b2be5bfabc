"""A small LSTM that predicts octets one by one, in one stream, trained as it goes: compiled, exact, made to be mixed.

Two layers of long short-term memory (S. Hochreiter and J. Schmidhuber 1997) with coupled gates and normalised pre-activations,
as in B. Knoll's lstm-compress, over the last two octets; softmax over both layers' outputs; back propagation through a
segment of `SPAN` tokens, then one step of RMSProp (G. Hinton 2012).

    z = W [h_{t-1}; h of the layer below] + S_1[x_{t-1}] + S_2[x_{t-2}]       three gates of width C
    f, o = σ(gain · z / rms(z) + offset)     i = tanh(likewise)     c ← f c + (1 − f) i     h = o tanh(c)

Exactness (docs/exactness.md): products of matrices are over integers, h and weights in units of 2^-10, |h| < 1, |w| ≤ 4, and up
to a width of `WIDEST` no sum leaves int32. All else is one operation per rounding, element by element, in the order written here.
What it keeps between two tokens lies in arrays, so that a decoder can stop and go on anywhere.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from shared.code.compiled import kernel
from shared.code.exact.constants import F32, F64, FLUSH, first_weights
from shared.code.exact.fused import exp, exponent, inverse_rms, largest, mean_product, power, sigmoid, whole
from shared.code.models.base import I64

I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]

SPAN: Final = 20  # tokens between two steps of training
WIDEST: Final = 168
SYMBOLS: Final = 256
TAPS: Final = 2

_BITS: Final = 10
_UNIT: Final = np.float32(1 << _BITS)
_PRODUCT: Final = np.float64(2.0 ** (-2 * _BITS))
_H_LIMIT: Final = np.float32((1 << _BITS) - 1)
_W_LIMIT: Final = np.float32(4096)
_CEILING: Final = np.float32(4)
_ZERO: Final = np.float32(0)
_ONE: Final = np.float32(1)
_TWO: Final = np.float32(2)
_GATE_LIMIT: Final = np.float32(30)
_ERROR_BITS: Final = 13
_ERROR: Final = np.float32(1 << _ERROR_BITS)
_BACK_BITS: Final = 10
_BACK_LIMIT: Final = np.float32((1 << _BACK_BITS) - 1)
_SHARE_BITS: Final = 11
_SHARE_UNIT: Final = np.float32(1 << _SHARE_BITS)
_SHARE_LIMIT: Final = np.float32((1 << _SHARE_BITS) - 1)
_BACK_PRODUCT: Final = np.float64(2.0 ** (-_BITS - _SHARE_BITS))
_SHARE: Final = np.float32(1 << 22)

# Training, in units of 2^-20 where it is not a power of two.
_RATE: Final = np.float64(6291 * 2.0**-20)  # 0.006
_DECAY: Final = np.float64(210 * 2.0**-20)  # the rate falls as 1 / √(1 + decay · k), k steps
_KEEP: Final = np.float64(1_048_471 * 2.0**-20)  # 0.9999
_BIAS_RATE: Final = np.float32(5243 * 2.0**-20)  # 0.005
_EPSILON: Final = np.float32(2.0**-20)

# Words of `clock`: the position in the segment; the last two octets; steps taken.
_POSITION, _LAST, _BEFORE, _STEPS = range(4)


class Layer(NamedTuple):
    """One layer of width C over K inputs: its weights with their mean squared gradients, and a segment's activations."""

    weights: F32  # [3C, K]
    squares: F32
    units: I16  # [3C, K], the weights rounded
    symbols: F32  # [2 · 256, 3C]
    symbol_squares: F32
    shape: F32  # [2, 3C]: gains, offsets
    shape_squares: F32
    inputs: I16  # [T, K]
    normed: F32  # [T, 3C]
    roots: F32  # [T, 3]
    gates: F32  # [T, 3C]
    cells: F32  # [T + 1, C], from the state before the segment on
    curved: F32  # [T, C]: tanh of the cell
    wanted: F32  # [T, C]: the gradient of h


class Lstm(NamedTuple):
    """The whole network."""

    first: Layer
    second: Layer
    output: F32  # [256, 2C]
    output_squares: F32
    output_units: I16
    bias: F32  # [256]
    hidden: I16  # [T + 1, 2C]: both layers' h, row 0 from before the segment
    errors: I16  # [T, 256]: p − onehot
    shares: F32  # [256]: p of the coming token
    tree: I64  # [512]: node i's share is that of nodes 2i and 2i + 1; the leaves are 256 + symbol
    symbols_in: I64  # [T, 2]
    clock: I64
    powers: F64  # [1]: _KEEP^k


def _layer(width: int, inputs: int, seed: int) -> Layer:
    rows = 3 * width
    shape = np.ones((2, rows), dtype=np.float32)
    shape[1, width:] = 0  # remember, at first
    return Layer(
        weights=first_weights(seed, rows, inputs, 1, inputs + 1),
        squares=np.zeros((rows, inputs), dtype=np.float32),
        units=np.zeros((rows, inputs), dtype=np.int16),
        symbols=first_weights(seed + 1, TAPS * SYMBOLS, rows, 1, 3 * TAPS),
        symbol_squares=np.zeros((TAPS * SYMBOLS, rows), dtype=np.float32),
        shape=shape,
        shape_squares=np.zeros((2, rows), dtype=np.float32),
        inputs=np.zeros((SPAN, inputs), dtype=np.int16),
        normed=np.zeros((SPAN, rows), dtype=np.float32),
        roots=np.zeros((SPAN, 3), dtype=np.float32),
        gates=np.zeros((SPAN, rows), dtype=np.float32),
        cells=np.zeros((SPAN + 1, width), dtype=np.float32),
        curved=np.zeros((SPAN, width), dtype=np.float32),
        wanted=np.zeros((SPAN, width), dtype=np.float32),
    )


def new(width: int, seed: int) -> Lstm:
    """A network whose first prediction is uniform; weights are drawn with `seed`."""
    model = Lstm(
        first=_layer(width, width, 4 * seed),
        second=_layer(width, 2 * width, 4 * seed + 2),
        output=np.zeros((SYMBOLS, 2 * width), dtype=np.float32),
        output_squares=np.zeros((SYMBOLS, 2 * width), dtype=np.float32),
        output_units=np.zeros((SYMBOLS, 2 * width), dtype=np.int16),
        bias=np.zeros(SYMBOLS, dtype=np.float32),
        hidden=np.zeros((SPAN + 1, 2 * width), dtype=np.int16),
        errors=np.zeros((SPAN, SYMBOLS), dtype=np.int16),
        shares=np.zeros(SYMBOLS, dtype=np.float32),
        tree=np.zeros(2 * SYMBOLS, dtype=np.int64),
        symbols_in=np.zeros((SPAN, TAPS), dtype=np.int64),
        clock=np.zeros(4, dtype=np.int64),
        powers=np.ones(1, dtype=np.float64),
    )
    round_weights(model)
    return model


def round_weights(model: Lstm) -> None:
    """Make the rounded copies anew."""
    for values, units in (
        (model.first.weights, model.first.units),
        (model.second.weights, model.second.units),
        (model.output, model.output_units),
    ):
        units[...] = np.clip(np.rint(values * _UNIT), -_W_LIMIT, _W_LIMIT).astype(np.int16)


def arrays(model: Lstm) -> dict[str, npt.NDArray[Any]]:
    """The live arrays of the state, by name; rounded copies and what every prediction makes anew are left out."""
    derived = {"units", "output_units", "shares", "tree"}
    out: dict[str, npt.NDArray[Any]] = {}
    for name, value in model._asdict().items():
        if isinstance(value, Layer):
            out |= {f"{name}.{part}": array for part, array in value._asdict().items() if part not in derived}
        elif name not in derived:
            out[name] = value
    return out


def parameters(width: int) -> int:
    """The number of trained weights."""
    return 9 * width * width + 2 * (TAPS * SYMBOLS + 2) * 3 * width + SYMBOLS * (2 * width + 1)


@kernel
def _tanh(x: np.float32) -> np.float32:
    e = exp(-min(abs(x) * _TWO, _GATE_LIMIT))
    s = (_ONE - e) / (_ONE + e)
    return s if x >= _ZERO else -s


@kernel
def _times(out: F32, units: I16, operand: I16) -> None:
    """Multiply units [M, K] by operand [K]: float32 of exact sums."""
    for j in range(units.shape[0]):
        row = units[j]
        total = np.int32(0)
        for k in range(len(operand)):
            total = np.int32(total + np.int32(np.int32(row[k]) * np.int32(operand[k])))
        out[j] = np.float32(np.float64(total) * _PRODUCT)


@kernel
def _back(out: I32, units: I16, operand: I16) -> None:
    """Multiply unitsᵀ [K, M] by operand [M]; M is a multiple of 4."""
    out[:] = 0
    for j in range(0, units.shape[0], 4):
        a, b, c, d = np.int32(operand[j]), np.int32(operand[j + 1]), np.int32(operand[j + 2]), np.int32(operand[j + 3])
        row0, row1, row2, row3 = units[j], units[j + 1], units[j + 2], units[j + 3]
        for k in range(len(out)):
            left = np.int32(np.int32(a * np.int32(row0[k])) + np.int32(b * np.int32(row1[k])))
            right = np.int32(np.int32(c * np.int32(row2[k])) + np.int32(d * np.int32(row3[k])))
            out[k] = np.int32(out[k] + np.int32(left + right))


@kernel
def _predict_layer(layer: Layer, position: np.int64, one: np.int64, two: np.int64, h: I16) -> None:
    """Advance one layer by a token; its h in units of 2^-11 goes into `h` [C]."""
    width = len(h)
    z = np.empty(3 * width, dtype=np.float32)
    _times(z, layer.units, layer.inputs[position])
    last, before = layer.symbols[one], layer.symbols[SYMBOLS + two]
    for j in range(3 * width):
        z[j] = z[j] + (last[j] + before[j])
    normed, gates = layer.normed[position], layer.gates[position]
    for g in range(3):
        part = slice(g * width, (g + 1) * width)
        r = inverse_rms(z[part])
        layer.roots[position, g] = r
        for j in range(g * width, (g + 1) * width):
            n = z[j] * r
            normed[j] = n
            gates[j] = n * layer.shape[0, j] + layer.shape[1, j]
    for j in range(width):
        gates[j] = sigmoid(gates[j])
        gates[width + j] = _tanh(gates[width + j])
        gates[2 * width + j] = sigmoid(gates[2 * width + j])
    old, cells, curved = layer.cells[position], layer.cells[position + 1], layer.curved[position]
    for j in range(width):
        c = gates[j] * old[j] + (_ONE - gates[j]) * gates[width + j]
        cells[j] = c if abs(c) >= FLUSH else _ZERO
        curved[j] = _tanh(cells[j])
        h[j] = np.int16(whole(gates[2 * width + j] * curved[j] * _UNIT, _H_LIMIT))


@kernel
def predict(model: Lstm) -> None:
    """Set `tree` to the shares of the coming symbol."""
    clock = model.clock
    position = clock[_POSITION]
    width = model.first.cells.shape[1]
    hidden = model.hidden[position + 1]
    model.symbols_in[position, 0], model.symbols_in[position, 1] = clock[_LAST], clock[_BEFORE]
    before = model.hidden[position]
    model.first.inputs[position, :] = before[:width]
    _predict_layer(model.first, position, clock[_LAST], clock[_BEFORE], hidden[:width])
    model.second.inputs[position, :width] = before[width:]
    model.second.inputs[position, width:] = hidden[:width]
    _predict_layer(model.second, position, clock[_LAST], clock[_BEFORE], hidden[width:])
    z, tree = model.shares, model.tree
    _times(z, model.output_units, hidden)
    most = z[0] + model.bias[0]
    for i in range(SYMBOLS):
        z[i] = z[i] + model.bias[i]
        most = max(most, z[i])
    for i in range(SYMBOLS):
        tree[SYMBOLS + i] = np.int64(exp(z[i] - most) * _SHARE) + 1
    for i in range(SYMBOLS - 1, 0, -1):
        tree[i] = tree[2 * i] + tree[2 * i + 1]
    inverse = _ONE / np.float32(tree[1])
    for i in range(SYMBOLS):
        z[i] = np.float32(tree[SYMBOLS + i]) * inverse


@kernel
def learn(model: Lstm, symbol: np.int64) -> None:
    """Tell the network what the symbol was, and train: after the segment's last one, its weights take a step."""
    clock = model.clock
    position = clock[_POSITION]
    width = model.first.cells.shape[1]
    shares, errors = model.shares, model.errors[position]
    shares[symbol] = shares[symbol] - _ONE
    back = np.empty(SYMBOLS, dtype=np.int16)
    for i in range(SYMBOLS):
        errors[i] = np.int16(whole(shares[i] * _ERROR, _ERROR))
        back[i] = np.int16(whole(shares[i] * _SHARE_UNIT, _SHARE_LIMIT))
        model.bias[i] = model.bias[i] - _BIAS_RATE * shares[i]
    raw = np.empty(2 * width, dtype=np.int32)
    _back(raw, model.output_units, back)
    for i in range(width):
        model.first.wanted[position, i] = np.float32(np.float64(raw[i]) * _BACK_PRODUCT)
        model.second.wanted[position, i] = np.float32(np.float64(raw[width + i]) * _BACK_PRODUCT)
    if position + 1 == SPAN:
        _train(model)
    move_on(model, symbol)


@kernel
def move_on(model: Lstm, symbol: np.int64) -> None:
    """Tell the network what the symbol was; no more than its context changes."""
    clock = model.clock
    clock[_BEFORE], clock[_LAST] = clock[_LAST], symbol
    clock[_POSITION] += 1
    if clock[_POSITION] == SPAN:
        clock[_POSITION] = 0
        model.hidden[0, :] = model.hidden[SPAN]
        model.first.cells[0, :] = model.first.cells[SPAN]
        model.second.cells[0, :] = model.second.cells[SPAN]


@kernel
def _train(model: Lstm) -> None:
    clock = model.clock
    model.powers[0] = model.powers[0] * _KEEP
    up = np.float32(np.float64(1) / (np.float64(1) - model.powers[0]))
    rate = np.float32(_RATE / np.sqrt(np.float64(1) + _DECAY * np.float64(clock[_STEPS])))
    clock[_STEPS] += 1
    _step(model.output, model.output_squares, model.output_units, model.errors, model.hidden[1:], _ERROR_BITS + _BITS, rate, up)
    _train_layer(model.second, model.first.wanted, model.symbols_in, rate, up)
    _train_layer(model.first, model.first.wanted[:0], model.symbols_in, rate, up)


@kernel
def _train_layer(layer: Layer, below: F32, symbols_in: I64, rate: np.float32, up: np.float32) -> None:
    """Back propagation through the segment; adds to `below` [T, C] the gradient of the layer below's h, if there is one."""
    width = layer.cells.shape[1]
    rows = 3 * width
    inputs = layer.inputs.shape[1]
    slopes = np.empty((SPAN, rows), dtype=np.float32)  # of z
    shape = np.zeros((2, rows), dtype=np.float32)
    carried_cell, carried = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    units, raw = np.empty(rows, dtype=np.int16), np.empty(inputs, dtype=np.int32)
    peak = _ZERO
    for t in range(SPAN - 1, -1, -1):
        gates, normed, d = layer.gates[t], layer.normed[t], slopes[t]
        for j in range(width):
            f, i, o = gates[j], gates[width + j], gates[2 * width + j]
            dh = layer.wanted[t, j] + carried[j]
            curved = layer.curved[t, j]
            dc = carried_cell[j] + dh * o * (_ONE - curved * curved)
            d[j] = dc * (layer.cells[t, j] - i) * (f * (_ONE - f))
            d[width + j] = dc * (_ONE - f) * (_ONE - i * i)
            d[2 * width + j] = dh * curved * (o * (_ONE - o))
            carried_cell[j] = dc * f
        for j in range(rows):
            shape[0, j] = shape[0, j] + d[j] * normed[j]
            shape[1, j] = shape[1, j] + d[j]
            d[j] = d[j] * layer.shape[0, j]
        for g in range(3):
            part = slice(g * width, (g + 1) * width)
            mean, r = mean_product(d[part], normed[part]), layer.roots[t, g]
            for j in range(g * width, (g + 1) * width):
                d[j] = (d[j] - normed[j] * mean) * r
        most = largest(d)
        peak = max(peak, most)
        e = exponent(most)
        scale = power(_BACK_BITS - e)
        for j in range(rows):
            units[j] = np.int16(whole(d[j] * scale, _BACK_LIMIT))
        _back(raw, layer.units, units)
        down = np.float64(power(e - _BACK_BITS - _BITS))
        for j in range(width):
            carried[j] = np.float32(np.float64(raw[j]) * down)
        if len(below) > 0:
            for j in range(width):
                below[t, j] = below[t, j] + np.float32(np.float64(raw[width + j]) * down)
    e = exponent(peak)
    scale, limit = power(_ERROR_BITS - e), _ERROR
    whole_slopes = np.empty((SPAN, rows), dtype=np.int16)
    for t in range(SPAN):
        for j in range(rows):
            whole_slopes[t, j] = np.int16(whole(slopes[t, j] * scale, limit))
    _step(layer.weights, layer.squares, layer.units, whole_slopes, layer.inputs, _ERROR_BITS - e + _BITS, rate, up)
    for i in range(2):
        _rms_prop(layer.shape[i], layer.shape_squares[i], shape[i], rate, up)
    _train_symbols(layer, slopes, symbols_in, rate, up)


@kernel
def _train_symbols(layer: Layer, slopes: F32, symbols_in: I64, rate: np.float32, up: np.float32) -> None:
    """Rows of symbols that occurred in the segment take a step, each with the sum of its slopes in order of time."""
    total = np.empty(slopes.shape[1], dtype=np.float32)
    for tap in range(TAPS):
        for t in range(SPAN):
            symbol = symbols_in[t, tap]
            first = True
            for s in range(t):
                first = first and symbols_in[s, tap] != symbol
            if first:
                total[:] = slopes[t]
                for s in range(t + 1, SPAN):
                    if symbols_in[s, tap] == symbol:
                        for j in range(len(total)):
                            total[j] = total[j] + slopes[s, j]
                row = tap * SYMBOLS + symbol
                _rms_prop(layer.symbols[row], layer.symbol_squares[row], total, rate, up)


@kernel
def _step(
    weights: F32, squares: F32, units: I16, slopes: I16, operands: I16, bits: int, rate: np.float32, up: np.float32
) -> None:
    """Train weights [M, K] with the gradient slopesᵀ · operands · 2^-bits, [T, M] and [T, K]; round them."""
    columns = weights.shape[1]
    total = np.empty(columns, dtype=np.int32)
    gradient = np.empty(columns, dtype=np.float32)
    down = np.float64(power(-bits))
    for row in range(weights.shape[0]):
        total[:] = 0
        for t in range(0, SPAN, 4):
            a, b, c, d = (
                np.int32(slopes[t, row]),
                np.int32(slopes[t + 1, row]),
                np.int32(slopes[t + 2, row]),
                np.int32(slopes[t + 3, row]),
            )
            o0, o1, o2, o3 = operands[t], operands[t + 1], operands[t + 2], operands[t + 3]
            for k in range(columns):
                left = np.int32(np.int32(a * np.int32(o0[k])) + np.int32(b * np.int32(o1[k])))
                right = np.int32(np.int32(c * np.int32(o2[k])) + np.int32(d * np.int32(o3[k])))
                total[k] = np.int32(total[k] + np.int32(left + right))
        for k in range(columns):
            gradient[k] = np.float32(np.float64(total[k]) * down)
        w, u = weights[row], units[row]
        _rms_prop(w, squares[row], gradient, rate, up)
        for k in range(columns):
            u[k] = np.int16(min(max(np.rint(w[k] * _UNIT), -_W_LIMIT), _W_LIMIT))


@kernel
def _rms_prop(w: F32, squares: F32, gradient: F32, rate: np.float32, up: np.float32) -> None:
    keep, take = np.float32(_KEEP), np.float32(np.float64(1) - _KEEP)
    for k in range(len(w)):
        value = keep * squares[k] + take * (gradient[k] * gradient[k])
        squares[k] = value if value >= FLUSH else _ZERO
    for k in range(len(w)):
        value = w[k] - rate * (gradient[k] / (np.sqrt(squares[k] * up) + _EPSILON))
        value = min(_CEILING, value)
        w[k] = max(-_CEILING, value)
