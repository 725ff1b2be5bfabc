"""From logits to code: n-gram logit tables, softmax into integer frequencies, the coder, and the gradient for the network.

    logits = network's + bias + Σ_o gain_o · T_o[the last o tokens] + gain of the match · [the token that followed it]

after T. Mikolov's maximum-entropy features beside a recurrent network (RNNME, 2011). A table row lists the tokens that were seen
after its context, each with a weight; tokens not listed have weight 0, so that a row costs the same for any vocabulary. The
match is the longest earlier occurrence of the last tokens, as in M. Mahoney's lpaq. Tables, bias and gains learn after every
token by gradient descent, T_o ← T_o − η (p − onehot) with η ~ 1/√count, so one pass over the rows codes and trains them;
the network's gradient p − onehot is left for it to use after the segment. All of it is integers but for the exponential and for
p, which are float32 by the law of exactness.

    row int32 [64]: check, count + 256·listed, then (token, weight) × 31          weights, gains and logits in units of 2^-16
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64, advance, log2_units, starved, target
from shared.code.compiled import kernel
from shared.code.exact.constants import F32
from shared.code.exact.fused import exp
from shared.code.models.base import I64, U32, Coder

I32 = npt.NDArray[np.int32]

ORDERS: Final = 6
_WORDS: Final = 64
_LISTED: Final = 31
_COUNT_LIMIT: Final = 255
_CONFIDENCES: Final = 32
_ONE: Final = 1 << 16
_HISTORY_BITS: Final = 22
_HISTORY: Final = 1 << _HISTORY_BITS
_MATCH_BITS: Final = 18
_MATCH_CHECKED: Final = 24
_MATCH_LEAST: Final = 4
_MATCH_LENGTHS: Final = 32
_FREQUENCY_TOTAL: Final = np.float64(1 << 30)
_FIXED: Final = np.float32(2.0**40)
_UNIT: Final = np.float32(2.0**-16)
_SCALE: Final = np.float32(65536)
_PHI: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xD6E8FEB86659FD93)

# Learning, in units of 2^-16; found on enwik6 and alice29 (docs/results.md).
_RATES: Final = np.array([max(2_621, isqrt(53_281**2 // (count + 1))) for count in range(_COUNT_LIMIT + 1)], dtype=np.int64)
_FIRST_WEIGHT: Final = 88_474  # 1.35: of the first token listed, times 1 − p
_NEXT_WEIGHT: Final = 179_175  # 2.734: of a further one, times η (1 − p)
_GAIN_RATE: Final = 459  # 0.007
_BIAS_RATE: Final = 6_554  # 0.1 with tables
_BIAS_RATE_ALONE: Final = 655  # 0.01 without
_MATCH_RATE: Final = 1_966  # 0.03
_WEIGHT_LIMIT: Final = 1 << 21
_GAIN_LIMIT: Final = 1 << 19


@kernel
def _find(tables: I32, table: int, context: np.uint64, learn: bool) -> int:
    """The context's row, cleared if it was not there: one of two, the less used one gives way. Without learning, then, -1."""
    h = (context ^ (context >> np.uint64(29))) * _PHI
    check = np.int32((h >> np.uint64(8)) & np.uint64(0x7FFFFFFF))
    row = np.int64(h >> np.uint64(40)) & (tables.shape[1] - 1)
    if tables[table, row, 0] == check:
        return row
    other = row ^ 1
    if tables[table, other, 0] == check:
        return other
    if not learn:
        return -1
    if (tables[table, other, 1] & 255) < (tables[table, row, 1] & 255):
        row = other
    tables[table, row, 0] = check
    tables[table, row, 1] = 0
    return row


@kernel
def _confidence(state: np.int32) -> int:
    """Which gain a row uses: by the length of its count in bits and by how many tokens it lists."""
    count, listed, length = int(state) & 255, int(state) >> 8, 0
    while count > 0:
        count >>= 1
        length += 1
    return 4 * min(length, 7) + min(listed, 3)


@kernel
def _add_rows(z: I64, tables: I32, gains: I32, contexts: U64, rows: I64, learn: bool) -> None:
    for table in range(tables.shape[0]):
        row = _find(tables, table, contexts[table], learn)
        rows[table] = row
        if row < 0:
            continue
        state = tables[table, row, 1]
        gain = np.int64(gains[table, _confidence(state)])
        for entry in range(state >> 8):
            z[tables[table, row, 2 + 2 * entry]] += (gain * np.int64(tables[table, row, 3 + 2 * entry])) >> 16


@kernel
def _learn_rows(tables: I32, gains: I32, rows: I64, p: I64, token: np.int64) -> None:
    for table in range(tables.shape[0]):
        row = rows[table]
        state = tables[table, row, 1]
        count, listed = int(state) & 255, int(state) >> 8
        rate = np.int64(_RATES[count])
        push, place, least = np.int64(0), -1, 0
        for entry in range(listed):
            weight = np.int64(tables[table, row, 3 + 2 * entry])
            error = -p[tables[table, row, 2 + 2 * entry]]
            if tables[table, row, 2 + 2 * entry] == token:
                error += _ONE
                place = entry
            push += (error * weight) >> 16
            weight = np.int64(min(max(int(weight + ((rate * error + 32768) >> 16)), -_WEIGHT_LIMIT), _WEIGHT_LIMIT))
            tables[table, row, 3 + 2 * entry] = weight
            if weight < tables[table, row, 3 + 2 * least]:
                least = entry
        confidence = _confidence(state)
        gain = int(gains[table, confidence] + ((_GAIN_RATE * push + 32768) >> 16))
        gains[table, confidence] = min(max(gain, -_GAIN_LIMIT), _GAIN_LIMIT)
        if place < 0:
            first = np.int64(_FIRST_WEIGHT) if listed == 0 else (rate * _NEXT_WEIGHT) >> 16
            place = listed if listed < _LISTED else least
            listed = min(listed + 1, _LISTED)
            tables[table, row, 2 + 2 * place] = token
            tables[table, row, 3 + 2 * place] = (first * (_ONE - p[token])) >> 16
        tables[table, row, 1] = min(count + 1, _COUNT_LIMIT) + 256 * listed


@kernel
def _advance_contexts(contexts: U64, token: np.int64) -> None:
    """Contexts [7]: of the last 1 … 6 tokens, and of the letters since the last octet that is none."""
    x = np.uint64(token + 1)
    if len(contexts) > ORDERS:
        letter = 97 <= token <= 122 or 65 <= token <= 90 or token >= 128
        contexts[ORDERS + 1] = (contexts[ORDERS + 1] + x) * _MIX if letter else np.uint64(0)
        contexts[ORDERS] = contexts[ORDERS + 1] * np.uint64(31) + x
    for order in range(ORDERS - 1, 0, -1):
        contexts[order] = (contexts[order - 1] + x) * _MIX + np.uint64(order)
    contexts[0] = x * _MIX


@kernel
def _advance_match(
    match: I64, history: U32, recent: U32, places: I32, context: np.uint64, token: np.int64, place: np.int64, streams: int,
    end: np.int64,
) -> None:  # fmt: skip
    """The match [2]: the place of the token expected next, `streams` after the last, and the match's length, 0 for none.

    recent: where the token goes; history: where matches are found. While learning (end < 0) they are one; later the history
    ends at the place `end`.
    """
    mask = _HISTORY - 1
    recent[place & mask] = token
    if match[1] > 0 and history[match[0] & mask] == token:
        match[0] += streams
        match[1] = min(match[1] + 1, _MATCH_LENGTHS - 1)
    else:
        match[1] = 0
    slot = np.int64((context * _PHI) >> np.uint64(64 - _MATCH_BITS))
    if match[1] == 0:
        found = np.int64(places[slot])
        length = 0
        newest = place if end < 0 else end
        if found > 0 and newest - found < _HISTORY - (_MATCH_CHECKED + 1) * streams:
            while length < _MATCH_CHECKED and found - (length + 1) * streams >= 0:
                if history[(found - (length + 1) * streams) & mask] != recent[(place - length * streams) & mask]:
                    break
                length += 1
        if length >= _MATCH_LEAST:
            match[0], match[1] = found, length
    if end < 0:
        places[slot] = place + streams
    elif match[0] >= end:
        match[1] = 0


@kernel
def _softmax(frequencies: I64, e: F32, z: I64) -> np.uint64:
    """Integer frequencies of softmax(z), each at least 1; returns their total, at most 2^30 + m."""
    size = len(z)
    most = z[0]
    for i in range(size):
        most = max(most, z[i])
    for i in range(size):
        e[i] = exp(np.float32(z[i] - most) * _UNIT)
    total = np.int64(0)
    for i in range(size):
        frequencies[i] = np.int64(e[i] * _FIXED)
        total += frequencies[i]
    scale = _FREQUENCY_TOTAL / np.float64(total)
    total = np.int64(0)
    for i in range(size):
        frequencies[i] = np.int64(np.float64(frequencies[i]) * scale) + 1
        total += frequencies[i]
    return np.uint64(total)


@kernel
def _code_token(frequencies: I64, total: np.uint64, token: np.int64, state: U64, buffer: U8) -> tuple[np.int64, np.uint64]:
    low = np.int64(0)
    if state[0] == np.uint64(1):  # MODE is DECODE
        place = np.int64(target(state, total))
        token = np.int64(0)
        while low + frequencies[token] <= place:
            low += frequencies[token]
            token += 1
    else:
        for i in range(token):
            low += frequencies[i]
    return token, advance(state, buffer, np.uint64(low), np.uint64(frequencies[token]), total)


@kernel
def _code(
    tokens: U32, lengths: I64, start: int, end: int, state: U64, buffer: U8, costs: U32, frequencies: I64,
    logits: I32, gradient: F32, bias: I32, bias_rate: int, tables: I32, gains: I32, contexts: U64,
    matches: I64, history: U32, recent: U32, places: I32, match_gains: I32, clock: I64, fixed: I64,
) -> int:  # fmt: skip
    """Rows start … end − 1 of a segment; logits and gradient are [T·B, m]. Returns the row to go on from.

    fixed [1]: the place at which learning ended; negative while it goes on. Without it no gradient is left.
    """
    learn = fixed[0] < 0
    streams, size = tokens.shape[1], len(bias)
    z, p = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    e = np.zeros(size, dtype=np.float32)
    rows = np.zeros(tables.shape[0], dtype=np.int64)
    if start == 0:
        clock[1] = 0
    with_match = len(places) > 0
    for t in range(start, end):
        if starved(state, np.uint64(streams)):
            return t
        for b in range(streams):
            position = t * streams + b
            if t >= lengths[b]:
                tokens[t, b] = 0
                gradient[position, :] = np.float32(0)
                continue
            for i in range(size):
                z[i] = np.int64(logits[position, i]) + bias[i]
            _add_rows(z, tables, gains, contexts[b], rows, learn)
            expected = np.int64(-1)
            if with_match and matches[b, 1] > 0:
                expected = np.int64(history[matches[b, 0] & (_HISTORY - 1)])
                z[expected] += match_gains[matches[b, 1]]
            total = _softmax(frequencies, e, z)
            token, cost = _code_token(frequencies, total, np.int64(tokens[t, b]), state, buffer)
            tokens[t, b] = token
            costs[t, b] = cost
            clock[1] += np.int64(log2_units(total)) - np.int64(log2_units(np.uint64(frequencies[token])))
            if learn:
                inverse = np.float32(1) / np.float32(total)
                for i in range(size):
                    probability = np.float32(frequencies[i]) * inverse
                    gradient[position, i] = probability
                    p[i] = np.int64(probability * _SCALE)
                gradient[position, token] = gradient[position, token] - np.float32(1)
                for i in range(size):
                    bias[i] -= np.int32((bias_rate * p[i] + 32768) >> 16)
                bias[token] += bias_rate
                if expected >= 0:
                    error = (_ONE if expected == token else 0) - p[expected]
                    match_gains[matches[b, 1]] += np.int32((_MATCH_RATE * error + 32768) >> 16)
                _learn_rows(tables, gains, rows, p, token)
            if tables.shape[0] > 0:
                _advance_contexts(contexts[b], token)
            if with_match:
                place = clock[0] * streams + b
                context = contexts[b, ORDERS - 1]
                _advance_match(matches[b], history, recent, places, context, token, place, streams, fixed[0])
        clock[0] += 1
    return end


@kernel
def _replay(
    tokens: U32, padding: np.uint32, frequencies: I64, logits: I32, gradient: F32, bias: I32, tables: I32, gains: I32,
    contexts: U64,
) -> None:  # fmt: skip
    """The gradient p − onehot of tokens [T, B] that were coded long ago; nothing is coded, and nothing here learns."""
    streams, size = tokens.shape[1], len(bias)
    z = np.zeros(size, dtype=np.int64)
    e = np.zeros(size, dtype=np.float32)
    rows = np.zeros(tables.shape[0], dtype=np.int64)
    for t in range(tokens.shape[0]):
        for b in range(streams):
            position = t * streams + b
            if tokens[t, b] == padding:
                gradient[position, :] = np.float32(0)
                continue
            token = np.int64(tokens[t, b])
            for i in range(size):
                z[i] = np.int64(logits[position, i]) + bias[i]
            if tables.shape[0] > 0:
                _add_rows(z, tables, gains, contexts[b], rows, False)
                _advance_contexts(contexts[b], token)
            inverse = np.float32(1) / np.float32(_softmax(frequencies, e, z))
            for i in range(size):
                gradient[position, i] = np.float32(frequencies[i]) * inverse
            gradient[position, token] = gradient[position, token] - np.float32(1)


class Head:
    """The last stage of a neural predictor over m tokens in B streams. `table_bits`: log2 of a table's rows; 0 for no tables."""

    def __init__(self, size: int, streams: int, table_bits: int, *, words: bool) -> None:
        tables = (ORDERS + 1 if words else ORDERS) if table_bits else 0
        self.frequencies: I64 = np.zeros(size, dtype=np.int64)
        """Of the token coded last; no part of the state."""
        self._bias = np.zeros(size, dtype=np.int32)
        self._bias_rate = _BIAS_RATE if tables else _BIAS_RATE_ALONE
        self._tables = np.zeros((tables, 1 << table_bits, _WORDS), dtype=np.int32)
        self._gains = np.full((tables, _CONFIDENCES), _ONE, dtype=np.int32)
        self._contexts = np.zeros((streams, ORDERS + 2 if words else ORDERS), dtype=np.uint64)
        self._matches = np.zeros((streams, 2), dtype=np.int64)
        self._history = np.zeros(_HISTORY if tables else 1, dtype=np.uint32)
        self._recent: U32 = self._history  # once frozen, a copy: tokens go there, matches are still found in the history
        self._fixed: I64 = np.full(1, -1, dtype=np.int64)  # the place at which the history ends, once frozen
        self._places = np.zeros(1 << _MATCH_BITS if tables else 0, dtype=np.int32)
        self._match_gains = np.zeros(_MATCH_LENGTHS, dtype=np.int32)
        self._clock = np.zeros(2, dtype=np.int64)  # rows coded, and the segment's cross-entropy

    @property
    def loss_units(self) -> int:
        """The cross-entropy of the segment under the probabilities that are trained on, in units of 2^-24 bit."""
        return int(self._clock[1])

    def code(self, tokens: U32, lengths: I64, start: int, end: int, coder: Coder, costs: U32, logits: I32, gradient: F32) -> int:
        """Code rows start … end − 1 with the network's integer logits and leave p − onehot; returns the row to go on from."""
        place = tokens, lengths, start, end, coder.state, coder.buffer, costs, self.frequencies, logits, gradient
        tables = self._bias, self._bias_rate, self._tables, self._gains, self._contexts
        matching = self._matches, self._history, self._recent, self._places, self._match_gains
        rest: tuple[Any, ...] = *tables, *matching, self._clock, self._fixed
        return int(_code(*place, *rest))

    def replay(self, tokens: U32, padding: int, logits: I32, gradient: F32) -> None:
        """Leave p − onehot of earlier tokens [T, B], as bias and tables, but no match, predict them now; 0 where padding is.

        Contexts begin with the first row, and nothing of the state changes.
        """
        contexts: U64 = np.zeros_like(self._contexts)
        frequencies: I64 = np.zeros_like(self.frequencies)
        tables = self._bias, self._tables, self._gains, contexts
        _replay(tokens, np.uint32(padding), frequencies, logits, gradient, *tables)

    def freeze(self) -> None:
        """Learn no more; contexts and matches move on."""
        self._recent = self._history.copy()
        self._fixed[0] = self._clock[0] * len(self._matches)
        self._matches[self._matches[:, 0] >= self._fixed[0], 1] = 0  # another stream's next token, which nobody learns any more

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The live arrays of the state."""
        fixed: dict[str, npt.NDArray[Any]] = (
            {} if self._recent is self._history else {"recent": self._recent, "fixed": self._fixed}
        )
        return {
            **fixed,
            "bias": self._bias,
            "clock": self._clock[:1],
            "contexts": self._contexts,
            "gains": self._gains,
            "history": self._history,
            "match_gains": self._match_gains,
            "matches": self._matches,
            "places": self._places,
            "tables": self._tables,
        }
