"""Many statistics of the past, mixed in the logistic domain by gated linear networks, one binary decision at a time.

In the tradition of M. Mahoney's paq and lpaq. A token is its bits from the top, in nibbles. Every context (`mixing_contexts`) and
the token's bits so far name a line of the table for the coming nibble: a check word and 15 nodes, one for each node of the
nibble's binary tree. A node holds

    bits 31 … 16   p, the probability of a 1, as its difference from 1/2 (so that zeros are p = 1/2, never seen)
    bits 15 … 8    the last bits seen in it, at most 7, behind a leading 1
    bits  7 … 0    how often it was updated, at most 255: p moves by 1/(n + 1.2) of its error

and gives three inputs: stretch(p) = log2(p / (1 - p)), stretch of the probability that other nodes of this context had after the
same last bits, and p - 1/2 scaled by how often it was seen. The longest match adds two. Layer 1 is `sets` linear mixers, each
with its own weights for each value of a small context (partial token, match length, token before, …) and each trained on its
own error; layer 2 mixes their outputs; adaptive probability maps over orders 1 and 2 refine the result.

Integers only: logits in 1/128 (± 16), weights in 1/65536, probabilities in 1/65536, sums in int32 that wrap where they must.
"""

import hashlib
import struct
from collections.abc import Mapping
from math import isqrt
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64, code_bit, log2_units, starved
from shared.code.compiled import kernel
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.models.mixing_contexts import (
    CLASSES,
    I32,
    LAGS,
    LENGTH,
    MARKS,
    MATCH,
    MEMO_WORDS,
    MIX,
    ORDERS,
    PHI,
    POSITION,
    RECORD,
    WORD,
    WORD_BEFORE,
    bucket,
    follow,
    gather,
)
from shared.code.spec import EnsembleModel, MixingModel

U16 = npt.NDArray[np.uint16]

LINE_BYTES: Final = 64
_LINE: Final = 16  # words of a line
_COUNT: Final = np.uint32(255)
_HISTORY: Final = 256  # histories
_MAP_COUNT: Final = 255
_LIMIT: Final = 2047
_HALF: Final = np.int32(32768)
_PER_CONTEXT: Final = 3
_EXTRA: Final = 4  # inputs: two of the match, a constant, and one whose weight counts a set's updates
_FIRST_WEIGHTS: Final = (168_000, 168_000, 144_000)
_FIRST_MATCH_WEIGHT: Final = 10_000
_FIRST_OTHER_WEIGHT: Final = 16_000
_SET: Final = 256
_FINAL: Final = 16  # weights of a layer 2 mixer
_FINAL_GATES: Final = (0, 5, 7)  # partial token, kinds of the tokens before, word
_RATE: Final = 240
_RATE_AT_FIRST: Final = 10_000
_FINAL_RATE: Final = 60
_STEPS: Final = 33  # of a probability map's row
_MAP_RATE: Final = np.int32(6)
_ROWS: Final = 1 << 16
_PAGE: Final = 1024  # words


class Machine(NamedTuple):
    """The tables and mixers, and room to work in."""

    slots: U32
    maps: U32
    match_map: U32
    weights: I32
    finals: I32
    refine: U16
    memo: U64
    orders: U64
    follow1: U32
    follow2: U32
    ring: U32
    recent: U32  # the ring; once frozen, a copy: contexts move on, what matches are found in does not
    end: I64  # [1]: −1; once frozen, where the ring ends
    table: U32
    scores: I32
    hashes: U64
    found: I64
    checks: U32
    words: U32
    x: I32
    selected: I64
    outputs: I32
    gates: I64


_FROZEN: Final = frozenset({"recent", "end"})  # part of the state once frozen
_WORK: Final = frozenset({"hashes", "found", "checks", "words", "x", "selected", "outputs", "gates"})


def _squash_table() -> I32:
    """65536 / (1 + 2^(-i/128)) for i = -2048 … 2047, within 1 … 65535, by integer square roots of 2."""
    scale = 1 << 200
    root = 2 * scale
    for _ in range(7):
        root = isqrt(root * scale)
    powers = [scale]
    for _ in range(127):
        powers.append(powers[-1] * root // scale)
    table = []
    for i in range(-_LIMIT - 1, _LIMIT + 1):
        whole, part = divmod(-i, 128)
        power = powers[part] << whole if whole >= 0 else powers[part] >> -whole
        table.append(min(max((scale * 65536 + (scale + power) // 2) // (scale + power), 1), 65535))
    return np.array(table, dtype=np.int32)


def _stretch_table() -> I32:
    """128 · log2(p / (1 - p)) at p = (2i + 1) / 8192 for i = 0 … 4095."""
    log2 = [0] + [int(log2_units(np.uint64(i))) for i in range(1, 8192)]
    odds = [log2[2 * i + 1] - log2[8191 - 2 * i] for i in range(4096)]
    return np.array([(units + (1 << 16)) >> 17 for units in odds], dtype=np.int32)


def _history_table() -> U32:
    """What a map holds at first: (ones + 1/5) / (bits + 2/5) in 22 bits, after no updates (10 bits)."""
    row = np.zeros(_HISTORY, dtype=np.uint32)
    for history in range(1, _HISTORY):
        bits = history.bit_length() - 1
        ones = history.bit_count() - 1
        row[history] = ((5 * ones + 1) << 22) // (5 * bits + 2) << 10
    return row


_SQUASH = _squash_table()
_STRETCH = _stretch_table()
_RECIPROCAL = np.array([655_360 // (10 * n + 12) for n in range(1024)], dtype=np.int32)
_TRUST = np.array([1200 * n // (n + 25) for n in range(256)], dtype=np.int32)


@kernel
def _locate(slots: U32, hashes: U64, found: I64, checks: U32, path: np.uint64, learn: bool) -> None:
    """Find the contexts' lines for a nibble reached by `path`, two candidates each; the less used one gives way.

    Without learning nothing gives way: a context that has no line is told the empty one at the end.

    The first loop only reads, so that the processor fetches all lines at once. A check word has 24 bits of the hash and a 1 above
    them; no word has a top bit, which is read to have the line on its way.
    """
    lines = np.uint64(len(slots) // (2 * _LINE))
    for i in range(len(hashes)):
        h = (hashes[i] + path) * PHI
        h = (h ^ (h >> np.uint64(29))) * MIX
        half = np.int64(((h >> np.uint64(32)) * lines) >> np.uint64(32))
        at = (2 * half + np.int64(h & np.uint64(1))) * _LINE
        found[i] = at
        check = np.uint32((h >> np.uint64(8)) & np.uint64(0xFFFFFF) | np.uint64(1 << 24))
        checks[i] = check | (slots[np.uint64(at)] >> np.uint32(31))
    for i in range(len(hashes)):
        at = found[i]
        check = checks[i]
        if slots[np.uint64(at)] != check:
            other = at ^ _LINE
            if slots[np.uint64(other)] == check:
                at = other
            elif not learn:
                at = np.int64(len(slots) - _LINE)
            else:
                if slots[np.uint64(other + 1)] & _COUNT < slots[np.uint64(at + 1)] & _COUNT:
                    at = other
                slots[np.uint64(at)] = check
                for node in range(1, _LINE):
                    slots[np.uint64(at + node)] = np.uint32(0)
            found[i] = at


@kernel
def _inputs(slots: U32, maps: U32, found: I64, node: np.int64, words: U32, x: I32) -> None:
    """Read the contexts' nodes into `words`, and what they predict into `x`."""
    for i in range(len(found)):
        word = slots[np.uint64(found[i] + node)]
        words[i] = word
        at = np.uint64(3 * i)
        if word & _COUNT == np.uint32(0):
            x[at] = np.int32(0)
            x[at + np.uint64(1)] = np.int32(0)
            x[at + np.uint64(2)] = np.int32(0)
        else:
            p = np.int32(word >> np.uint32(16)) ^ _HALF
            history = np.uint64((word >> np.uint32(8)) & np.uint32(255))
            x[at] = _STRETCH[np.uint64(p >> 4)]
            x[at + np.uint64(1)] = _STRETCH[np.uint64(maps[np.uint64(_HISTORY * i) + history] >> np.uint32(20))]
            x[at + np.uint64(2)] = np.int32(np.int32((p - _HALF) * _TRUST[np.uint64(word & _COUNT)]) >> 16)


@kernel
def _learn(slots: U32, maps: U32, found: I64, node: np.int64, words: U32, bit: np.int64) -> None:
    """Tell the contexts' nodes, and the maps of their histories, what the bit was."""
    target = np.int64(65535 * bit)
    for i in range(len(found)):
        word = words[i]
        n = np.uint64(word & _COUNT)
        p = np.int64(word >> np.uint32(16)) ^ 0x8000
        p += ((target - p) * np.int64(_RECIPROCAL[n])) >> 16
        history = np.uint64((word >> np.uint32(8)) & np.uint32(255))
        if history == np.uint64(0):
            history = np.uint64(1)
        else:
            place = np.uint64(_HISTORY * i) + history
            _adapt(maps, place, bit, _MAP_COUNT)
        history = history << np.uint64(1) | np.uint64(bit)
        if history >= np.uint64(_HISTORY):
            history = (history & np.uint64(_HISTORY // 2 - 1)) | np.uint64(_HISTORY // 2)
        n = min(n + np.uint64(1), np.uint64(_COUNT))
        slots[np.uint64(found[i] + node)] = np.uint32((np.uint64(p ^ 0x8000) << np.uint64(16)) | history << np.uint64(8) | n)


@kernel
def _adapt(maps: U32, place: np.uint64, bit: np.int64, limit: int) -> None:
    """Move a probability of 22 bits with a count of 10 towards the bit, by 1/(n + 1.2) of the distance."""
    old = maps[place]
    n = np.int64(old & np.uint32(1023))
    p = np.int64(old >> np.uint32(10))
    p += ((((1 << 22) - 1) * bit - p) * np.int64(_RECIPROCAL[np.uint64(n)])) >> 16
    maps[place] = np.uint32(p << 10 | min(n + 1, np.int64(limit)))


@kernel
def _ask(tree: I64, known: np.int64, partial: np.int64, x: I32) -> None:
    """The inputs of the other model: its logit, and p − 1/2."""
    if known >= 8:
        x[0], x[1] = np.int32(0), np.int32(0)
        return
    logit = (np.int64(log2_units(np.uint64(tree[2 * partial + 1]))) - np.int64(log2_units(np.uint64(tree[2 * partial])))) >> 17
    logit = min(max(logit, np.int64(-_LIMIT)), np.int64(_LIMIT))
    x[0] = np.int32(logit)
    x[1] = (_SQUASH[np.uint64(logit + 2048)] - _HALF) >> np.int32(6)


@kernel
def _mix(weights: I32, selected: I64, x: I32, outputs: I32) -> None:
    """Layer 1: the logit of each mixer."""
    stride = len(x)
    for s in range(len(outputs)):
        w = weights[selected[s] * stride : (selected[s] + 1) * stride]
        total = np.int32(0)
        for i in range(stride):
            total = np.int32(total + (np.int32(w[i] * x[i]) >> np.int32(8)))
        outputs[s] = min(max(total >> np.int32(8), np.int32(-_LIMIT)), np.int32(_LIMIT))


@kernel
def _train(weights: I32, selected: I64, x: I32, outputs: I32, bit: np.int64) -> None:
    """Layer 1 learns; a set of weights learns more slowly the more often it was chosen."""
    stride = len(x)
    for s in range(len(outputs)):
        w = weights[selected[s] * stride : (selected[s] + 1) * stride]
        chosen = w[stride - 1]
        rate = np.int64(_RATE + _RATE_AT_FIRST // (1 + (chosen >> np.int32(3))))
        error = np.int32((np.int64((bit << 16) - _SQUASH[np.uint64(outputs[s] + 2048)]) * rate) >> 10)
        for i in range(stride):
            w[i] = np.int32(w[i] + (np.int32(np.int32(x[i] * error) + np.int32(8192)) >> np.int32(14)))
        w[stride - 1] = min(chosen + np.int32(1), np.int32(65535))


@kernel
def _settle(finals: I32, gates: I64, outputs: I32) -> np.int64:
    """Layer 2: the mean logit of mixers chosen by `_FINAL_GATES`."""
    total = np.int64(0)
    for f in range(len(_FINAL_GATES)):
        at = (_SET * f + gates[_FINAL_GATES[f]]) * _FINAL
        for s in range(len(outputs)):
            total += np.int64(outputs[s]) * np.int64(finals[at + s])
    return min(max(total // (len(_FINAL_GATES) << 16), np.int64(-_LIMIT)), np.int64(_LIMIT))


@kernel
def _train_finals(finals: I32, gates: I64, outputs: I32, error: np.int64) -> None:
    for f in range(len(_FINAL_GATES)):
        at = (_SET * f + gates[_FINAL_GATES[f]]) * _FINAL
        for s in range(len(outputs)):
            finals[at + s] += np.int32((np.int64(outputs[s]) * error + (1 << 23)) >> 24)


@kernel
def code_token(
    token: np.int64, machine: Machine, size: int, bits: int, minimum: int, tree: I64, state: U64, buffer: U8
) -> tuple[np.int64, np.uint64]:
    """Code one token and, unless frozen, learn from it; returns it and its cost. A decoder's `token` is ignored.

    tree: what another model believes of the token's top 8 bits, as shares: node i's is that of nodes 2i and 2i + 1, the root is 1
    and the leaves are 256 … 511. Empty if there is none; otherwise its logit and p − 1/2 are inputs, too.
    """
    slots, maps, match_map, refine = machine.slots, machine.maps, machine.match_map, machine.refine
    weights, finals = machine.weights, machine.finals
    memo, ring, recent, end = machine.memo, machine.ring, machine.recent, machine.end[0]
    learn = bool(end < 0)
    hashes, found, checks, words = machine.hashes, machine.found, machine.checks, machine.words
    x, selected, outputs, gates = machine.x, machine.selected, machine.outputs, machine.gates
    nibbles = (bits + 3) // 4
    base = _PER_CONTEXT * len(hashes)
    ring_mask = np.int64(len(ring) - 1)
    position = np.int64(memo[POSITION])
    strength = bucket(np.int64(memo[LENGTH]))
    expected = np.int64(ring[np.int64(memo[MATCH]) & ring_mask]) if strength > 0 else np.int64(0)
    gather(hashes, memo, machine.orders, machine.follow1, machine.follow2, recent, np.uint64(expected), np.uint64(strength))
    c1 = np.int64(recent[(position - 1) & ring_mask])
    c2 = np.int64(recent[(position - 2) & ring_mask])
    gates[2] = c1 & 255
    gates[3] = c2 & 255
    gates[5] = np.int64(memo[CLASSES] & np.uint64(255))
    gates[7] = np.int64((memo[WORD] * PHI) >> np.uint64(56))
    gates[8] = np.int64(memo[MARKS] & np.uint64(255))
    gates[9] = np.int64((memo[WORD_BEFORE] * PHI) >> np.uint64(56))
    gates[10] = np.int64(((memo[CLASSES] & np.uint64(0xFFFF)) * PHI) >> np.uint64(56))
    gates[11] = expected & 255
    older = np.int64((memo[CLASSES] >> np.uint64(2)) & np.uint64(31)) << 3
    value = np.int64(0)  # the bits known so far
    cost = np.uint64(0)
    for nibble in range(nibbles):
        path = np.uint64(0) if nibble == 0 else np.uint64(value + (1 << (4 * nibble)))
        _locate(slots, hashes, found, checks, path, learn)
        longest = np.int64(0)
        for i in range(1, min(ORDERS, len(hashes))):
            if slots[np.uint64(found[i] + 1)] & _COUNT:
                longest = np.int64(i)
        node = np.int64(1)
        for depth in range(4):
            below = 4 * (nibbles - nibble) - depth - 1  # bits below this one
            bit = np.int64(0)
            if ((2 * value + 1) << below) < size:
                known = bits - 1 - below
                partial = ((np.int64(1) << known) | value if known < 8 else node + 16 * nibble) & 255
                _inputs(slots, maps, found, node, words, x)
                sign, length = np.int32(0), np.int64(0)
                if strength > 0 and (expected >> (below + 1)) == value:
                    sign = np.int32(2 * ((expected >> below) & 1) - 1)
                    length = strength
                p = np.int32(match_map[length] >> np.uint32(16))
                x[base] = sign * _STRETCH[p >> 4]
                x[base + 1] = (sign * (p - _HALF)) >> np.int32(6)
                if len(tree) > 0:
                    _ask(tree, np.int64(known), partial, x[base + 3 :])
                gates[0] = partial
                gates[1] = length * 8 + (below & 7)
                gates[4] = longest * 32 + min(nibble, 1) * 16 + node
                gates[6] = older | (below & 7)
                for s in range(len(selected)):
                    selected[s] = _SET * s + gates[s]
                _mix(weights, selected, x, outputs)
                logit = _settle(finals, gates, outputs)
                mixed = np.int64(_SQUASH[logit + 2048])
                # probability maps
                step, part = (logit + 2048) >> 7, (logit + 2048) & 127
                key = np.uint64(c2) << np.uint64(40) | np.uint64(c1) << np.uint64(20) | np.uint64(partial)
                row1 = (c1 & 255) << 8 | partial
                row2 = _ROWS + np.int64((key * PHI) >> np.uint64(48))
                at1 = row1 * _STEPS + step
                at2 = row2 * _STEPS + step
                p1 = (np.int64(refine[at1]) * (128 - part) + np.int64(refine[at1 + 1]) * part) >> 7
                p2 = (np.int64(refine[at2]) * (128 - part) + np.int64(refine[at2 + 1]) * part) >> 7
                ones = min(max((mixed + p1 + 2 * p2 + 2) >> 2, np.int64(1)), np.int64(65535))
                coded, units = code_bit(state, buffer, np.uint64((token >> below) & 1), np.uint64(ones), np.uint64(65536))
                cost += units
                bit = np.int64(coded)
                if learn:
                    at1 += part >> 6
                    at2 += part >> 6
                    refine[at1] = np.uint16(np.int64(refine[at1]) + ((65535 * bit - np.int64(refine[at1])) >> _MAP_RATE))
                    refine[at2] = np.uint16(np.int64(refine[at2]) + ((65535 * bit - np.int64(refine[at2])) >> _MAP_RATE))
                    _train_finals(finals, gates, outputs, ((bit << 16) - mixed) * _FINAL_RATE)
                    _train(weights, selected, x, outputs, bit)
                    if length > 0:
                        _adapt(match_map, np.uint64(length), np.int64(bit == (expected >> below) & 1), 1000)
                    _learn(slots, maps, found, node, words, bit)
            node = 2 * node + bit
            value = 2 * value + bit
    history = machine.orders, machine.follow1, machine.follow2, ring, recent, machine.table, machine.scores
    follow(value, size <= 256, minimum, memo, *history, end)
    return value, cost


@kernel
def _code(
    tokens: U32, start: int, state: U64, buffer: U8, costs: U32, machine: Machine, size: int, bits: int, minimum: int
) -> int:
    nobody = np.zeros(0, dtype=np.int64)
    for row in range(start, tokens.shape[0]):
        if starved(state, np.uint64(bits)):
            return row
        value, cost = code_token(np.int64(tokens[row, 0]), machine, size, bits, minimum, nobody, state, buffer)
        tokens[row, 0] = value
        costs[row, 0] = cost
    return tokens.shape[0]


@kernel
def _used(slots: U32) -> U8:
    """For each page whether anything in it differs from zero."""
    used = np.zeros(len(slots) // _PAGE, dtype=np.uint8)
    for page in range(len(used)):
        for i in range(page * _PAGE, (page + 1) * _PAGE):
            if slots[i] != np.uint32(0):
                used[page] = np.uint8(1)
                break
    return used


def new_machine(model: MixingModel | EnsembleModel, others: int) -> Machine:
    """A machine that knows nothing; `others` is how many models beside it are asked, 0 or 1."""
    table_bytes, history_bits, contexts, sets = model.table_mebibytes << 20, model.history_bits, model.contexts, model.sets
    memory = np.zeros(table_bytes + 2 * LINE_BYTES, dtype=np.uint8)  # untouched pages cost nothing
    aligned = -memory.ctypes.data % LINE_BYTES
    base = _PER_CONTEXT * contexts
    inputs = (base + _EXTRA + 2 * others + 15) // 16 * 16
    weights = np.zeros((_SET * sets, inputs), dtype=np.int32)
    weights[:, :base] = np.tile(np.array(_FIRST_WEIGHTS, dtype=np.int32) // max(contexts, 8), contexts)
    weights[:, base : base + 2] = _FIRST_MATCH_WEIGHT
    if others:
        weights[:, base + 3] = _FIRST_OTHER_WEIGHT
    memo = np.zeros(MEMO_WORDS, dtype=np.uint64)
    memo[RECORD] = 1
    x = np.zeros(inputs, dtype=np.int32)
    x[base + 2] = 256
    ring = np.zeros(1 << history_bits, dtype=np.uint32)
    row = _SQUASH[np.clip(np.arange(_STEPS) * 128, 1, 4095)].astype(np.uint16)
    return Machine(
        slots=memory[aligned : aligned + table_bytes + LINE_BYTES].view(np.uint32),  # the last line stays empty
        maps=np.tile(_history_table(), contexts),
        match_map=np.full(32, 3 << 30, dtype=np.uint32),
        weights=weights.reshape(-1),
        finals=np.full(len(_FINAL_GATES) * _SET * _FINAL, 65536 // sets, dtype=np.int32),
        refine=np.tile(row, 2 * _ROWS),
        memo=memo,
        orders=np.zeros(ORDERS + 1, dtype=np.uint64),
        follow1=np.zeros(1 << 8, dtype=np.uint32),
        follow2=np.zeros(1 << 16, dtype=np.uint32),
        ring=ring,
        recent=ring,
        end=np.full(1, -1, dtype=np.int64),
        table=np.zeros(1 << (history_bits - 2), dtype=np.uint32),
        scores=np.zeros(LAGS, dtype=np.int32),
        hashes=np.zeros(contexts, dtype=np.uint64),
        found=np.zeros(contexts, dtype=np.int64),
        checks=np.zeros(contexts, dtype=np.uint32),
        words=np.zeros(contexts, dtype=np.uint32),
        x=x,
        selected=np.zeros(sets, dtype=np.int64),
        outputs=np.zeros(sets, dtype=np.int32),
        gates=np.zeros(16, dtype=np.int64),
    )


class Mixing(Predictor):
    """The contexts, table and mixers of a `MixingModel`."""

    def __init__(self, vocabulary_size: int, model: MixingModel | EnsembleModel, others: int = 0) -> None:
        self._size = vocabulary_size
        self._bits = (vocabulary_size - 1).bit_length()
        self.max_decisions = self._bits
        self._minimum = model.match_minimum
        self._machine = new_machine(model, others)

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        del lengths
        parameters = self._machine, self._size, self._bits, self._minimum
        return int(_code(tokens, start, coder.state, coder.buffer, costs, *parameters))

    def freeze(self) -> None:
        """Fix p^(k): contexts go on in a copy of the ring, matches are found in what it was."""
        super().freeze()
        self._machine = self._machine._replace(recent=self._machine.ring.copy())
        self._machine.end[0] = np.int64(self._machine.memo[POSITION])

    def digest(self) -> bytes:
        """SHA-256 of the steps and the arrays; of the table, of the numbers and contents of its pages other than zero."""
        digest = hashlib.sha256(struct.pack("<Q", self.steps))
        for header, array in self._canonical():
            digest.update(header)
            if header.startswith(b"slots "):
                pages = array.reshape(-1, _PAGE)
                used = np.flatnonzero(_used(array)).astype("<u4")
                digest.update(used.tobytes())
                for page in used:
                    digest.update(pages[page].data)
            else:
                digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.digest()

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        left_out = _WORK if self.frozen else _WORK | _FROZEN
        found = {name: array for name, array in self._machine._asdict().items() if name not in left_out}
        return found | {"slots": self._machine.slots[:-_LINE]}
