"""The integer range coder: one continuous code for the whole of D, drained and fed at any moment.

The coder works on integer frequencies: a decision is a triple (low, frequency, total) with total ≤ 2^31, and narrows the interval
[LOW, LOW + RANGE) of 64-bit integers to its share. RANGE stays ≥ 2^56 between decisions, so a share is at least 2^25 units
wide and rounding costs less than 2^-24 bit. (G. N. N. Martin 1979; carries are propagated as in M. Schindler 1999.)

    buffer (undrained)                LOW, 64 bits
    .. 3A 7F FF FF FF             |  C1 ..              an addition overflows LOW:
    .. 3A 80 00 00 00             |  04 ..              +1 runs back through the FFs into the last byte below FF,
          ^ settled bytes end before this one           which can take it: so all before that byte may be drained

Kernels work on two arrays, `state` uint64 [STATE_WORDS] and `buffer` uint8 [capacity], so that a compiled predictor codes
without any Python between tokens; the same kernel encodes and decodes, by the MODE word. Costs are −log2(frequency / total)
in units of 2^-24 bit, each within one unit. The CRC-32 (that of zlib) runs over the triples, little endian, 12 bytes each.
This module does not know what the decisions mean.
"""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.code.compiled import kernel
from shared.code.errors import CorruptCodeError, StateError

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

COST_UNITS_PER_BIT: Final = 1 << 24
MAX_TOTAL: Final = 1 << 31
BYTES_PER_DECISION: Final = 4  # a share is ≥ 2^25 wide, so at most 31 bits move out of the register

# Words of `state`. LOW holds the encoder's low end, and the decoder's code value relative to it.
MODE, LOW, RANGE, LENGTH, HEAD, CLOSED, CRC, FAULT, MOVED = range(9)
STATE_WORDS: Final = 9
ENCODE: Final = 0
DECODE: Final = 1

_BOTTOM: Final = np.uint64(1 << 56)
_WHOLE: Final = np.uint64((1 << 64) - 1)
_ONE: Final = np.uint64(1)
_EIGHT: Final = np.uint64(8)
_TOP_SHIFT: Final = np.uint64(56)
_FF: Final = np.uint64(0xFF)
_REGISTER_BYTES: Final = 8


def _log2_table() -> npt.NDArray[np.uint64]:
    """log2(1 + i/4096) for i = 0 … 4096, in units of 2^-28, by repeated squaring of 32-bit mantissas."""
    mantissa = (np.arange(4096, dtype=np.uint64) << np.uint64(19)) + np.uint64(1 << 31)
    table = np.zeros(4097, dtype=np.uint64)
    for bit in range(27, -1, -1):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        carry = mantissa >> np.uint64(32)
        mantissa >>= carry
        table[:4096] |= carry << np.uint64(bit)
    table[4096] = 1 << 28
    return table


def _crc_tables() -> npt.NDArray[np.uint32]:
    """Entry 256·k + b: the CRC-32 register after the byte b and then k zero bytes (slicing by twelve)."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & np.uint32(1), (row >> np.uint32(1)) ^ np.uint32(0xEDB88320), row >> np.uint32(1))
    rows = [row]
    for _ in range(11):
        rows.append((rows[-1] >> np.uint32(8)) ^ row[rows[-1] & np.uint32(0xFF)])
    return np.concatenate(rows).astype(np.uint32)


_LOG2 = _log2_table()
_CRC = _crc_tables()


@kernel
def log2_units(x: np.uint64) -> np.uint64:
    """log2 of x, 1 ≤ x < 2^32, in cost units (2^-24 bit)."""
    exponent = np.uint64(31)
    if x < np.uint64(1 << 16):
        x <<= np.uint64(16)
        exponent -= np.uint64(16)
    if x < np.uint64(1 << 24):
        x <<= np.uint64(8)
        exponent -= np.uint64(8)
    if x < np.uint64(1 << 28):
        x <<= np.uint64(4)
        exponent -= np.uint64(4)
    if x < np.uint64(1 << 30):
        x <<= np.uint64(2)
        exponent -= np.uint64(2)
    if x < np.uint64(1 << 31):
        x <<= np.uint64(1)
        exponent -= np.uint64(1)
    index = (x >> np.uint64(19)) & np.uint64(4095)
    left = _LOG2[index]
    slope = (_LOG2[index + np.uint64(1)] - left) * (x & np.uint64((1 << 19) - 1))
    return ((exponent << np.uint64(28)) + left + (slope >> np.uint64(19)) + np.uint64(8)) >> np.uint64(4)


@kernel
def _crc_step(crc: np.uint64, low: np.uint64, frequency: np.uint64, total: np.uint64) -> np.uint64:
    byte, s8, s16, s24 = np.uint64(0xFF), np.uint64(8), np.uint64(16), np.uint64(24)
    x = crc ^ low
    return np.uint64(
        _CRC[np.uint64(2816) + (x & byte)]
        ^ _CRC[np.uint64(2560) + ((x >> s8) & byte)]
        ^ _CRC[np.uint64(2304) + ((x >> s16) & byte)]
        ^ _CRC[np.uint64(2048) + ((x >> s24) & byte)]
        ^ _CRC[np.uint64(1792) + (frequency & byte)]
        ^ _CRC[np.uint64(1536) + ((frequency >> s8) & byte)]
        ^ _CRC[np.uint64(1280) + ((frequency >> s16) & byte)]
        ^ _CRC[np.uint64(1024) + ((frequency >> s24) & byte)]
        ^ _CRC[np.uint64(768) + (total & byte)]
        ^ _CRC[np.uint64(512) + ((total >> s8) & byte)]
        ^ _CRC[np.uint64(256) + ((total >> s16) & byte)]
        ^ _CRC[(total >> s24) & byte]
    )


@kernel
def _carry(state: U64, buffer: U8) -> None:
    index = state[LENGTH] - _ONE
    while buffer[index] == 0xFF:
        buffer[index] = 0
        index -= _ONE
    buffer[index] += np.uint8(1)


@kernel
def _narrow(state: U64, buffer: U8, share: np.uint64, low: np.uint64, frequency: np.uint64) -> None:
    """Take the interval's part [share·low, share·(low + frequency)) and move settled bytes out of, or new ones into, LOW."""
    width = share * frequency
    if state[MODE] == ENCODE:
        base = state[LOW] + share * low
        if base < state[LOW]:
            _carry(state, buffer)
        length = state[LENGTH]
        while width < _BOTTOM:
            buffer[length] = np.uint8(base >> _TOP_SHIFT)
            length += _ONE
            base <<= _EIGHT
            width <<= _EIGHT
        state[LENGTH] = length
        state[LOW] = base
    else:
        code = state[LOW] - share * low
        if code >= width:
            state[FAULT] = _ONE
        head = state[HEAD]
        while width < _BOTTOM:
            code <<= _EIGHT
            if head < state[LENGTH]:
                code |= np.uint64(buffer[head])
            head += _ONE  # past the end: zeros follow
            width <<= _EIGHT
        state[HEAD] = head
        state[LOW] = code
    state[RANGE] = width


@kernel
def target(state: U64, total: np.uint64) -> np.uint64:
    """The decoder's place in 0 … total - 1: the next decision is the one with low ≤ place < low + frequency.

    A damaged code also gives a place inside. In an encoder the value means nothing.
    """
    place = state[LOW] // (state[RANGE] // total)
    return min(place, total - _ONE)


@kernel
def advance(state: U64, buffer: U8, low: np.uint64, frequency: np.uint64, total: np.uint64) -> np.uint64:
    """Code one decision, in either direction; 0 ≤ low < low + frequency ≤ total ≤ 2^31. Returns its cost in units."""
    _narrow(state, buffer, state[RANGE] // total, low, frequency)
    state[CRC] = _crc_step(state[CRC], low, frequency, total)
    return log2_units(total) - log2_units(frequency)


@kernel
def code_bit(state: U64, buffer: U8, bit: np.uint64, ones: np.uint64, total: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Code one binary decision whose 1 has the frequency `ones`, 0 < ones < total. Returns the bit and its cost in units.

    An encoder codes `bit`; a decoder ignores it and finds the bit. The 1 lies below the 0.
    """
    share = state[RANGE] // total
    if state[MODE] == DECODE:
        bit = _ONE if state[LOW] < share * ones else np.uint64(0)
    if bit == _ONE:
        low, frequency = np.uint64(0), ones
    else:
        low, frequency = ones, total - ones
    _narrow(state, buffer, share, low, frequency)
    state[CRC] = _crc_step(state[CRC], low, frequency, total)
    return bit, log2_units(total) - log2_units(frequency)


@kernel
def starved(state: U64, decisions: np.uint64) -> bool:
    """Whether a decoder lacks the bytes that `decisions` decisions may need; never once the input is closed."""
    if state[MODE] == ENCODE or state[CLOSED] == _ONE:
        return False
    return state[HEAD] + decisions * np.uint64(BYTES_PER_DECISION) > state[LENGTH] or state[HEAD] < np.uint64(_REGISTER_BYTES)


class _Coder:
    """What both directions hold: the arrays, the CRC and their serialisation."""

    state: U64
    buffer: U8

    def __init__(self, mode: int) -> None:
        self.state = np.zeros(STATE_WORDS, dtype=np.uint64)
        self.buffer = np.zeros(4096, dtype=np.uint8)
        self.state[MODE] = mode
        self.state[RANGE] = _WHOLE
        self.state[CRC] = 0xFFFFFFFF

    def take_crc(self) -> int:
        """CRC-32 over the triples coded since the last call."""
        crc = int(self.state[CRC]) ^ 0xFFFFFFFF
        self.state[CRC] = 0xFFFFFFFF
        return crc

    def state_bytes(self) -> bytes:
        """Everything needed to go on from here."""
        words = struct.pack(f"<{STATE_WORDS}Q", *(int(word) for word in self.state))
        return words + self.buffer[: int(self.state[LENGTH])].tobytes()

    def restore(self, data: bytes) -> None:
        """Go back to `state_bytes`. Raises `StateError` and changes nothing if they are not a coder's of this direction."""
        size = 8 * STATE_WORDS
        if len(data) < size:
            raise StateError("it is too short for a coder")
        words = struct.unpack(f"<{STATE_WORDS}Q", data[:size])
        if words[MODE] != int(self.state[MODE]) or words[LENGTH] != len(data) - size or words[RANGE] == 0:
            raise StateError("it is not a coder's of this direction")
        if words[MODE] == DECODE and words[CLOSED] == 0 and words[HEAD] > words[LENGTH]:
            raise StateError("its read position lies past its input")
        self.state[:] = np.array(words, dtype=np.uint64)
        self._grow(words[LENGTH])
        self.buffer[: words[LENGTH]] = np.frombuffer(data, dtype=np.uint8, offset=size)

    def _grow(self, capacity: int) -> None:
        if capacity > len(self.buffer):
            larger = np.zeros(max(capacity, 2 * len(self.buffer)), dtype=np.uint8)
            larger[: len(self.buffer)] = self.buffer
            self.buffer = larger


class Encoder(_Coder):
    """Decisions to bytes. Call `reserve` before kernels, `drain` whenever bytes are wanted, `finish` once."""

    def __init__(self) -> None:
        super().__init__(ENCODE)

    def reserve(self, decisions: int) -> None:
        """Make room for `decisions` further decisions."""
        self._grow(int(self.state[LENGTH]) + decisions * BYTES_PER_DECISION + 2 * _REGISTER_BYTES)

    @property
    def emitted_bytes(self) -> int:
        """Bytes that have left the register, drained or not."""
        return int(self.state[MOVED]) + int(self.state[LENGTH])

    def interval(self) -> tuple[int, int, int]:
        """The interval as it stands: low, width and scale in bits; [low, low + width) / 2^scale. Only before the first drain."""
        if self.state[MOVED]:
            raise RuntimeError("part of the interval's low end has been drained")
        low = int.from_bytes(self.buffer[: int(self.state[LENGTH])].tobytes(), "big") << 64 | int(self.state[LOW])
        return low, int(self.state[RANGE]), 8 * self.emitted_bytes + 64

    def drain(self) -> bytes:
        """The bytes that no later carry can change, removed from the coder."""
        length = int(self.state[LENGTH])
        settled = length if self.state[CLOSED] else length - 1
        while not self.state[CLOSED] and settled > 0 and self.buffer[settled] == 0xFF:
            settled -= 1
        settled = max(settled, 0)
        out = self.buffer[:settled].tobytes()
        self.buffer[: length - settled] = self.buffer[settled:length].copy()
        self.state[LENGTH] = length - settled
        self.state[MOVED] += np.uint64(settled)
        return out

    def finish(self) -> int:
        """End the code with the shortest bit string that, followed by zeros, lies in the interval.

        Returns the length of the whole code in bits; the last byte, to be drained, is padded with zeros.
        """
        low, width = int(self.state[LOW]), int(self.state[RANGE])
        emitted = self.emitted_bytes
        self.reserve(0)
        for bits in range(65):
            step = 1 << (64 - bits)
            value = -(-low // step) * step
            if value < low + width:
                break
        if value >> 64:
            _carry(self.state, self.buffer)
        length = int(self.state[LENGTH])
        tail = (value & ((1 << 64) - 1)).to_bytes(8, "big")[: (bits + 7) // 8]
        self.buffer[length : length + len(tail)] = np.frombuffer(tail, dtype=np.uint8)
        self.state[LENGTH] = length + len(tail)
        self.state[CLOSED] = 1
        return 8 * emitted + bits


class Decoder(_Coder):
    """Bytes to decisions. `feed` what arrives, `close` when no more will; kernels stop where they would starve."""

    def __init__(self) -> None:
        super().__init__(DECODE)

    def feed(self, data: bytes) -> None:
        """Add code bytes."""
        state = self.state
        head, length = int(state[HEAD]), int(state[LENGTH])
        if head > _REGISTER_BYTES and head <= length:  # forget what was read, but stay recognisable as primed
            gone = head - _REGISTER_BYTES
            self.buffer[: length - gone] = self.buffer[gone:length].copy()
            head, length = head - gone, length - gone
            state[MOVED] += np.uint64(gone)
        self._grow(length + len(data))
        self.buffer[length : length + len(data)] = np.frombuffer(data, dtype=np.uint8)
        state[HEAD], state[LENGTH] = head, length + len(data)
        if head == 0 and length + len(data) >= _REGISTER_BYTES:
            self._prime()

    @property
    def unread_bytes(self) -> int:
        """Bytes fed that no decision has needed yet."""
        return max(0, int(self.state[LENGTH]) - int(self.state[HEAD]))

    @property
    def read_bytes(self) -> int:
        """Bytes taken in so far, with those in the register."""
        return int(self.state[MOVED]) + min(int(self.state[HEAD]), int(self.state[LENGTH]))

    def close(self) -> None:
        """No more input will come: zeros follow."""
        if int(self.state[HEAD]) == 0:
            self._prime()
        self.state[CLOSED] = 1

    def check(self, position: int) -> None:
        """Raise `CorruptCodeError` if the code left the interval, or was read further past its end than an encoder's can be."""
        overrun = int(self.state[HEAD]) - int(self.state[LENGTH])
        if int(self.state[FAULT]) or (int(self.state[CLOSED]) and overrun > _REGISTER_BYTES):
            raise CorruptCodeError(position)

    def _prime(self) -> None:
        length = int(self.state[LENGTH])
        register = self.buffer[: min(_REGISTER_BYTES, length)].tobytes().ljust(_REGISTER_BYTES, b"\0")
        self.state[LOW] = np.uint64(int.from_bytes(register, "big"))
        self.state[HEAD] = _REGISTER_BYTES
        if self.state[LOW] >= self.state[RANGE]:
            self.state[FAULT] = 1
