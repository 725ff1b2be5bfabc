"""What `mixing` looks at: the contexts of the coming token, the longest match behind it, and the record length.

All of it changes once a token, from the tokens before. A context is a 64-bit hash; the first `contexts` of the list in
`gather` are used, so that a smaller model is a prefix of a larger one. Words, cases and punctuation are those of ASCII text; over
other data and larger vocabularies such contexts are merely further hashes of the past, and the mixer learns to leave them alone.
Only integers; nothing here is a probability.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U64
from shared.code.compiled import kernel
from shared.code.models.base import U32

I32 = npt.NDArray[np.int32]

PHI: Final = np.uint64(0x9E3779B97F4A7C15)
MIX: Final = np.uint64(0xD6E8FEB86659FD93)
ORDERS: Final = 7  # of the contexts, this many are the last 1 … 7 tokens
MAX_CONTEXTS: Final = 36

# Words of `memo`. CLASSES: 2 bits for the kind of each token, the last one lowest. MARKS: the last 8 tokens that are neither
# letters, digits nor spaces. LINE, LINE_BEFORE: where the line and the one before it began.
(POSITION, MATCH, LENGTH, RECORD, WORD, WORD_BEFORE, WORD_BEFORE_THAT, CLASSES, MARKS, LINE, LINE_BEFORE) = range(11)
MEMO_WORDS: Final = 11

_WINDOW: Final = 1024  # tokens in which repetitions are counted
LAGS: Final = 1024
_RECORDS_EVERY: Final = 512
_LONGEST_SEARCH: Final = 32
_LONGEST_MATCH: Final = 65535


@kernel
def bucket(length: np.int64) -> np.int64:
    """A match length in 5 bits: 0 … 15 as they are, then coarser."""
    if length < 16:
        return length
    if length < 32:
        return np.int64(16) + ((length - 16) >> 2)
    if length < 64:
        return np.int64(20) + ((length - 32) >> 3)
    return min(np.int64(24) + ((length - 64) >> 6), np.int64(31))


@kernel
def gather(
    hashes: U64, memo: U64, orders: U64, follow1: U32, follow2: U32, ring: U32, expected: np.uint64, strength: np.uint64
) -> None:
    """Fill `hashes` with the contexts of the coming token.

    expected: the token that the longest match proposes; strength: `bucket` of its length, 0 if there is none.
    """
    mask = np.int64(len(ring) - 1)
    position = np.int64(memo[POSITION])
    c1 = np.uint64(ring[(position - 1) & mask])
    c2 = np.uint64(ring[(position - 2) & mask])
    c3 = np.uint64(ring[(position - 3) & mask])
    c4 = np.uint64(ring[(position - 4) & mask])
    record = np.int64(memo[RECORD])
    above = np.uint64(ring[(position - record) & mask])
    above2 = np.uint64(ring[(position - 2 * record) & mask])
    beyond = np.uint64(ring[(position - record + 1) & mask])
    start, before = np.int64(memo[LINE]), np.int64(memo[LINE_BEFORE])
    over = np.uint64(ring[min(before + position - start, start) & mask])
    first = np.uint64(ring[start & mask])
    word, word2, word3 = memo[WORD], memo[WORD_BEFORE], memo[WORD_BEFORE_THAT]
    classes, marks = memo[CLASSES], memo[MARKS]
    byte, twenty, forty = np.uint64(255), np.uint64(20), np.uint64(40)
    pair = np.int64((c1 & byte) << np.uint64(8) | (c2 & byte))
    after1, after2 = np.uint64(follow1[np.int64(c1 & byte)]), np.uint64(follow2[pair])
    for i in range(len(hashes)):
        if i < ORDERS:
            h = orders[i + 1]
        elif i == 7:
            h = word * PHI + c1
        elif i == 8:
            h = word + word2 * MIX
        elif i == 9:
            h = marks & np.uint64(0xFFFFFFFF)
        elif i == 10:
            h = (classes & np.uint64(0xFFFFFF)) << twenty | c1
        elif i == 11:
            h = (after2 & np.uint64(0xFFFF)) << twenty | c1
        elif i == 12:
            h = (c1 << twenty | expected) << np.uint64(5) | strength
        elif i == 13:
            h = c2 << twenty | c3
        elif i == 14:
            h = c1 << twenty | c3
        elif i == 15:
            h = above << twenty | above2
        elif i == 16:
            h = above << twenty | c1
        elif i == 17:
            h = above << forty | c1 << twenty | beyond
        elif i == 18:
            h = word + word2 * MIX + word3 * PHI
        elif i == 19:
            h = np.uint64(0)
        elif i == 20:
            h = over << twenty | c1
        elif i == 21:
            h = (marks & np.uint64(0xFFFF)) + word * PHI
        elif i == 22:
            h = first + word * PHI
        elif i == 23:
            h = (after1 & np.uint64(0xFFFFFF)) << twenty | c1
        elif i == 24:
            h = word + word3 * MIX
        elif i == 25:
            h = (classes & np.uint64(0xFFFF)) << forty | c1 << twenty | c2
        elif i == 26:
            h = c2
        elif i == 27:
            h = c3 << twenty | c4
        elif i == 28:
            h = c4 << forty | c1 << twenty | c2
        elif i == 29:
            h = c2 << forty | c3 << twenty | c4
        elif i == 30:
            h = word2 + (c1 << twenty | c2) * MIX
        elif i == 31:
            h = c2 + word * MIX
        elif i == 32:
            h = ((c2 & np.uint64(0xFFF)) << forty | c1 << twenty | expected) << np.uint64(4) | min(strength, np.uint64(15))
        elif i == 33:
            h = marks
        elif i == 34:
            h = above + (c1 << forty) + ((c1 + beyond - above) << twenty)
        else:
            h = (classes & np.uint64(0xFFFFFFFFFFFF)) + marks * PHI
        hashes[i] = (h + np.uint64(i + 1) * MIX) * PHI


@kernel
def follow(
    value: np.int64,
    octets: bool,
    minimum: int,
    memo: U64,
    orders: U64,
    follow1: U32,
    follow2: U32,
    ring: U32,
    recent: U32,
    table: U32,
    scores: I32,
    end: np.int64,
) -> None:
    """Take note of a token: histories, words, the longest match of at least `minimum` tokens, now and then the record length.

    recent: where the token goes; ring: where matches are found. While learning (end < 0) they are one; later what tokens
    followed others, where tokens stood and the record length are known up to the place `end` alone.
    """
    mask = np.int64(len(ring) - 1)
    position = np.int64(memo[POSITION])
    c1, c2 = np.int64(recent[(position - 1) & mask]), np.int64(recent[(position - 2) & mask])
    if end < 0:
        pair = (c1 & 255) << 8 | (c2 & 255)
        follow1[c1 & 255] = np.uint32(follow1[c1 & 255] << np.uint32(8)) | np.uint32(value & 255)
        follow2[pair] = np.uint32(follow2[pair] << np.uint32(8)) | np.uint32(value & 255)
    expected = np.int64(ring[np.int64(memo[MATCH]) & mask])
    recent[position & mask] = np.uint32(value)
    position += 1
    memo[POSITION] = np.uint64(position)
    for i in range(len(orders) - 1, 0, -1):
        orders[i] = (orders[i - 1] + np.uint64(value + 1)) * PHI + np.uint64(i)
    _match(value, expected, minimum, memo, ring, recent, table, end)
    if octets:
        _words(value, memo)
    if end < 0 and position % _RECORDS_EVERY == 0:
        memo[RECORD] = np.uint64(_record(ring, position, scores))


@kernel
def _match(
    value: np.int64, expected: np.int64, minimum: int, memo: U64, ring: U32, recent: U32, table: U32, end: np.int64
) -> None:
    mask = np.int64(len(ring) - 1)
    position, match, length = np.int64(memo[POSITION]), np.int64(memo[MATCH]), np.int64(memo[LENGTH])
    if length > 0 and expected == value:
        length = min(length + 1, np.int64(_LONGEST_MATCH))
        match += 1
    else:
        length = np.int64(0)
    key = np.uint64(0)
    for i in range(minimum):
        key = (key + np.uint64(recent[(position - 1 - i) & mask]) + np.uint64(1)) * PHI
    key = (key ^ (key >> np.uint64(31))) * MIX
    entry = np.int64((key >> np.uint64(32)) & np.uint64(len(table) - 1))
    if length == 0:
        match = np.int64(table[entry])
        longest = min(match, np.int64(_LONGEST_SEARCH))
        while length < longest and ring[(match - 1 - length) & mask] == recent[(position - 1 - length) & mask]:
            length += 1
        if length < minimum:
            length = np.int64(0)
    if end < 0:
        table[entry] = np.uint32(position & mask)
    elif match & mask == end & mask:
        length = np.int64(0)
    memo[MATCH], memo[LENGTH] = np.uint64(match), np.uint64(length)


@kernel
def _words(value: np.int64, memo: U64) -> None:
    letter = value + 32 if 65 <= value <= 90 else value
    kind = 0
    if 97 <= letter <= 122 or letter >= 128:
        kind = 3 if letter == value else 2
        memo[WORD] = (memo[WORD] + np.uint64(letter + 1)) * PHI
    else:
        if memo[WORD] != np.uint64(0):
            memo[WORD_BEFORE_THAT], memo[WORD_BEFORE], memo[WORD] = memo[WORD_BEFORE], memo[WORD], np.uint64(0)
        if value == 32:
            kind = 1
        elif value < 48 or value > 57:
            memo[MARKS] = memo[MARKS] << np.uint64(8) | np.uint64(value)
    memo[CLASSES] = memo[CLASSES] << np.uint64(2) | np.uint64(kind)
    if value == 10:
        memo[LINE_BEFORE], memo[LINE] = memo[LINE], memo[POSITION]


@kernel
def _record(ring: U32, position: np.int64, scores: I32) -> int:
    """The lag at which tokens that differ from the one before them repeat most often; smaller ones are preferred."""
    mask = np.int64(len(ring) - 1)
    recent = np.empty(_WINDOW + LAGS, dtype=np.uint32)
    for i in range(_WINDOW + LAGS):
        recent[i] = ring[(position - np.int64(_WINDOW + LAGS) + np.int64(i)) & mask]
    changed = np.empty(_WINDOW, dtype=np.int32)
    for i in range(_WINDOW):
        changed[i] = np.int32(recent[i + LAGS] != recent[i + LAGS - 1])
    best = 1
    for lag in range(2, LAGS):
        total = np.int32(0)
        for i in range(_WINDOW):
            total = np.int32(total + (changed[i] if recent[i + LAGS] == recent[i + LAGS - lag] else np.int32(0)))
        scores[lag] = np.int32(scores[lag] - (scores[lag] >> np.int32(2)) + total)
        if np.int64(scores[lag]) > np.int64(scores[best]) + (np.int64(scores[best]) >> 3):
            best = lag
    return best
