"""Statistics of the last 0 … order tokens, mixed in the logistic domain, one binary decision at a time.

After M. Mahoney's lpaq (2007): a token is its bits from the top, in nibbles. For every order, a hash of the last tokens and of
the token's bits so far names a slot for the coming nibble: a check word and 15 counters, one for each node of the nibble's
binary tree. A counter holds the probability of a 1 in 12 bits and, in 4 bits, how often it was updated; it adapts as 1/n at first
and more slowly later. A small linear mixer, chosen by the longest context that was seen before and by the node, weighs the
counters' log-odds and learns online. Bits that only one value of the token can have (m is no power of two) are not coded.

    slots uint16 [slots · 16], 64-byte lines of two slots: a context lies in either, the less used one gives way
    x_o = stretch(p_o), p = squash(Σ w_o x_o), w_o += rate · x_o · (bit − p), stretch(p) = log2(p / (1 − p))

Everything is integer: stretch in units of 1/256, weights in 1/65536, p in 1/65536. Memory is fixed by `table_bits`.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64, code_bit, log2_units, starved
from shared.code.compiled import kernel
from shared.code.models.base import I64, U32, Coder, Predictor

U16 = npt.NDArray[np.uint16]
I32 = npt.NDArray[np.int32]

_SLOT: Final = 16  # words of a slot
_LINE_BYTES: Final = 64
_NEW_COUNTER: Final = 2048 << 4  # p = 1/2, never updated
_COUNT_LIMIT: Final = 15
_LOGIT_LIMIT: Final = 3071  # ± 12 in units of 1/256
_LEAST: Final = 24  # of 65536: no bit is held more certain than this
_LEARNING_RATE: Final = 3
_FIRST_WEIGHT: Final = 22_938  # 0.35
_SET: Final = 8  # weights of a mixer, one for each order and padding
_MAX_NIBBLES: Final = 5
_PHI: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xD6E8FEB86659FD93)


def _squash_table() -> npt.NDArray[np.int64]:
    """65536 / (1 + 2^(-i/256)) for i = -3072 … 3072, by integer square roots of 2."""
    scale = 1 << 200
    root = 2 * scale
    for _ in range(8):
        root = isqrt(root * scale)
    powers = [scale]
    for _ in range(255):
        powers.append(powers[-1] * root // scale)
    table = []
    for i in range(-_LOGIT_LIMIT - 1, _LOGIT_LIMIT + 2):
        whole, part = divmod(-i, 256)
        power = powers[part] << whole if whole >= 0 else powers[part] >> -whole
        table.append((scale * 65536 + (scale + power) // 2) // (scale + power))
    return np.array(table, dtype=np.int64)


def _stretch_table() -> npt.NDArray[np.int64]:
    """256 · log2(p / (1 - p)) at p = (2i + 1) / 8192 for i = 0 … 4095."""
    log2 = [0] + [int(log2_units(np.uint64(i))) for i in range(1, 8192)]
    odds = [log2[2 * i + 1] - log2[8191 - 2 * i] for i in range(4096)]
    return np.array([(units + (1 << 15)) >> 16 for units in odds], dtype=np.int64)


_SQUASH = _squash_table()
_STRETCH = _stretch_table()
_RATE = np.array([2 * 65536 // (2 * n + 3) for n in range(_COUNT_LIMIT + 1)], dtype=np.int64)


@kernel
def _locate(slots: U16, context: np.uint64, mask: np.uint64, learn: bool) -> np.uint64:
    """The first word of the context's slot, cleared if it was not there; without learning, then, of the empty one at the end."""
    context = context * _MIX
    context ^= context >> np.uint64(32)
    check = np.uint16((context >> np.uint64(16)) & np.uint64(0xFFFF))
    if check == 0:
        check = np.uint16(1)
    slot = ((context >> np.uint64(32)) & mask) << np.uint64(4)
    if slots[slot] == check:
        return slot
    other = slot ^ np.uint64(_SLOT)
    if slots[other] == check:
        return other
    if not learn:
        return (mask + np.uint64(1)) << np.uint64(4)
    if (slots[other + np.uint64(1)] & 15) < (slots[slot + np.uint64(1)] & 15):
        slot = other
    slots[slot] = check
    for word in range(1, _SLOT):
        slots[slot + np.uint64(word)] = _NEW_COUNTER
    return slot


@kernel
def _predict(slots: U16, found: U64, node: np.int64, weights: I32, mixer: np.uint64, x: I64, orders: int) -> int:
    """The probability of a 1, in 1/65536. Fills x with the orders' log-odds; a counter never updated has none."""
    dot = 0
    for order in range(orders):
        counter = np.int64(slots[found[order] + np.uint64(node)])
        x[order] = _STRETCH[np.uint64(counter >> 4)] if counter & 15 else 0
        dot += x[order] * np.int64(weights[mixer + np.uint64(order)])
    logit = min(max(dot >> 16, -_LOGIT_LIMIT), _LOGIT_LIMIT)
    return min(max(_SQUASH[np.uint64(logit + _LOGIT_LIMIT + 1)], _LEAST), 65536 - _LEAST)


@kernel
def _learn(
    slots: U16, found: U64, node: np.int64, weights: I32, mixer: np.uint64, x: I64, orders: int, bit: np.int64, ones: int
) -> None:
    error = ((bit << 16) - ones) * _LEARNING_RATE
    for order in range(orders):
        weights[mixer + np.uint64(order)] += np.int32((x[order] * error + (1 << 17)) >> 18)
        place = found[order] + np.uint64(node)
        counter = np.int64(slots[place])
        count, p = counter & 15, counter >> 4
        p += ((bit * 4095 - p) * _RATE[np.uint64(count)] + 32768) >> 16
        slots[place] = np.uint16((p << 4) | min(count + 1, _COUNT_LIMIT))


@kernel
def _code(
    tokens: U32, start: int, state: U64, buffer: U8, costs: U32, slots: U16, weights: I32, contexts: U64, size: int, bits: int,
    learn: bool,
) -> int:  # fmt: skip
    orders = len(contexts)
    nibbles = (bits + 3) // 4
    mask = np.uint64(len(slots) // _SLOT - 2)
    found = np.zeros(orders, dtype=np.uint64)
    x = np.zeros(orders, dtype=np.int64)
    for row in range(start, tokens.shape[0]):
        if starved(state, np.uint64(bits)):
            return row
        token = np.int64(tokens[row, 0])
        value = np.int64(0)  # the bits known so far
        cost = np.uint64(0)
        for nibble in range(nibbles):
            longest = 0
            for order in range(orders):
                context = contexts[order]
                if nibble > 0:
                    context = (context + np.uint64(value + (1 << (4 * nibble)))) * _PHI
                found[order] = _locate(slots, context, mask, learn)
                if order > 1 and slots[found[order] + np.uint64(1)] & 15:
                    longest = order
            node = np.int64(1)
            for depth in range(4):
                below = 4 * (nibbles - nibble) - depth - 1  # bits below this one
                bit = np.int64(0)
                if ((2 * value + 1) << below) < size:
                    mixer = np.uint64(((longest * _MAX_NIBBLES + nibble) * 16 + node) * _SET)
                    ones = _predict(slots, found, node, weights, mixer, x, orders)
                    asked = np.uint64((token >> below) & 1)
                    coded, units = code_bit(state, buffer, asked, np.uint64(ones), np.uint64(65536))
                    cost += units
                    bit = np.int64(coded)
                    if learn:
                        _learn(slots, found, node, weights, mixer, x, orders, bit, ones)
                node = 2 * node + bit
                value = 2 * value + bit
        tokens[row, 0] = value
        costs[row, 0] = cost
        for order in range(orders - 1, 0, -1):
            contexts[order] = (contexts[order - 1] + np.uint64(value + 1)) * _PHI + np.uint64(order)
    return tokens.shape[0]


class Ngram(Predictor):
    """Orders 0 … `order` over `2**table_bits` slots of 32 bytes."""

    def __init__(self, vocabulary_size: int, order: int, table_bits: int) -> None:
        self._size = vocabulary_size
        self._bits = (vocabulary_size - 1).bit_length()
        self.max_decisions = self._bits
        size = (2 * _SLOT << table_bits) + 2 * _SLOT  # bytes, with a slot that stays empty at the end
        memory = np.zeros(size + _LINE_BYTES, dtype=np.uint8)
        aligned = -memory.ctypes.data % _LINE_BYTES
        self._slots = memory[aligned : aligned + size].view(np.uint16)
        self._slots[:] = _NEW_COUNTER
        self._slots[::_SLOT] = 0
        self._weights = np.full((order + 1) * _MAX_NIBBLES * 16 * _SET, _FIRST_WEIGHT, dtype=np.int32)
        self._contexts = np.zeros(order + 1, dtype=np.uint64)

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        del lengths
        tables = self._slots, self._weights, self._contexts
        return int(_code(tokens, start, coder.state, coder.buffer, costs, *tables, self._size, self._bits, not self.frozen))

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"contexts": self._contexts, "slots": self._slots[:-_SLOT], "weights": self._weights}
