"""The range coder against a slow big-integer oracle, constriction and zlib."""

import math
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest

from shared.code import arithmetic
from shared.code.arithmetic import COST_UNITS_PER_BIT, advance, log2_units, target
from shared.code.errors import CorruptCodeError, StateError

U = np.uint64


def decisions(count: int, seed: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        total = int(rng.integers(1, 1 << int(rng.integers(1, 32)))) if rng.random() < 0.9 else 1 << 31
        low = int(rng.integers(0, total))
        out.append((low, int(rng.integers(1, total - low + 1)), total))
    return out


def encode(triples, drain_every=7):
    encoder, parts = arithmetic.Encoder(), []
    for index, (low, frequency, total) in enumerate(triples):
        encoder.reserve(1)
        advance(encoder.state, encoder.buffer, U(low), U(frequency), U(total))
        if index % drain_every == 0:
            parts.append(encoder.drain())
    bits = encoder.finish()
    parts.append(encoder.drain())
    return b"".join(parts), bits, encoder.take_crc()


def oracle(triples) -> tuple[bytes, int]:
    """The same code by exact integers of any length: no carries, no registers."""
    low, width, scale = 0, (1 << 64) - 1, 64
    for start, frequency, total in triples:
        share = width // total
        low, width = low + share * start, share * frequency
        while width < 1 << 56:
            low, width, scale = low << 8, width << 8, scale + 8
    for bits in range(scale + 1):
        step = 1 << (scale - bits)
        value = -(-low // step) * step
        if value < low + width and bits >= scale - 64:
            break
    return (value >> (scale - bits) << (-bits % 8)).to_bytes((bits + 7) // 8, "big"), bits


@pytest.mark.parametrize("seed", range(6))
def test_equals_big_integer_oracle(seed):
    triples = decisions(400, seed)
    z, bits, _ = encode(triples)
    assert (z, bits) == oracle(triples)


def test_carry_runs_back_through_ff():
    # Decisions at the very top of the interval produce runs of FF, then one that overflows.
    triples = [((1 << 31) - 1, 1, 1 << 31)] * 40 + [(0, 1, 3)] * 5 + [((1 << 31) - 2, 2, 1 << 31)] * 40 + [(2, 1, 3)] * 50
    assert encode(triples, drain_every=1)[:2] == oracle(triples)


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
def test_decodes_what_arrives_in_parts(chunk):
    triples = decisions(2_000, 99)
    z, _, crc = encode(triples)
    decoder, position = arithmetic.Decoder(), 0
    for low, frequency, total in triples:
        while arithmetic.starved(decoder.state, U(1)):
            if position < len(z):
                decoder.feed(z[position : position + chunk])
                position += chunk
            else:
                decoder.close()
        assert low <= target(decoder.state, U(total)) < low + frequency
        advance(decoder.state, decoder.buffer, U(low), U(frequency), U(total))
    decoder.check(0)
    assert decoder.take_crc() == crc


def test_crc_is_zlibs():
    triples = decisions(100, 3)
    assert encode(triples)[2] == zlib.crc32(b"".join(struct.pack("<III", *triple) for triple in triples))


def test_cost_of_coder_is_within_limit_and_of_constriction():
    """≤ 0.005 % + 64 bits over the information content, and no worse than constriction's range coder."""
    import constriction

    rng = np.random.default_rng(5)
    frequencies = np.array([1, 3, 9, 27, 81, 243, 729, 65536 - 1093], dtype=np.int64)
    symbols = rng.choice(8, size=60_000, p=frequencies / 65536).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(frequencies)])
    triples = [(int(starts[s]), int(frequencies[s]), 65536) for s in symbols]
    information = -sum(math.log2(frequencies[s] / 65536) for s in symbols)
    _, bits, _ = encode(triples)
    assert information - 16 <= bits <= information * 1.00005 + 64
    yardstick = constriction.stream.queue.RangeEncoder()
    yardstick.encode(symbols, constriction.stream.model.Categorical(frequencies / 65536, perfect=False))
    assert bits <= 32 * len(yardstick.get_compressed()) * 1.00005 + 64


@pytest.mark.parametrize("x", [1, 2, 3, 5, 255, 256, 65535, 12345678, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_log2_within_one_unit(x):
    assert abs(int(log2_units(U(x))) - math.log2(x) * COST_UNITS_PER_BIT) <= 1


def test_empty_code_has_no_bits():
    assert encode([])[:2] == (b"", 0)


def test_certain_decisions_are_nearly_free():
    assert encode([(0, 1, 1)] * 1000)[1] <= 1


def test_damage_outside_the_interval_is_noticed():
    decoder = arithmetic.Decoder()
    decoder.feed(b"\xff" * 8)
    decoder.close()
    with pytest.raises(CorruptCodeError):
        decoder.check(0)


def test_state_goes_and_comes_back():
    triples = decisions(300, 8)
    whole, bits, _ = encode(triples)
    one, parts = arithmetic.Encoder(), []
    for low, frequency, total in triples[:150]:
        one.reserve(1)
        advance(one.state, one.buffer, U(low), U(frequency), U(total))
    parts.append(one.drain())
    two = arithmetic.Encoder()
    two.restore(one.state_bytes())
    for low, frequency, total in triples[150:]:
        two.reserve(1)
        advance(two.state, two.buffer, U(low), U(frequency), U(total))
    assert two.finish() == bits
    assert b"".join([*parts, two.drain()]) == whole


def test_state_of_another_kind_is_refused():
    encoder = arithmetic.Encoder()
    for bad in (b"", arithmetic.Decoder().state_bytes(), encoder.state_bytes() + b"x"):
        with pytest.raises(StateError):
            encoder.restore(bad)


def test_oracle_shares_are_fractions():
    """The oracle itself: its interval is the product of the decisions' probabilities, up to rounding."""
    triples = decisions(20, 1)
    _, bits = oracle(triples)
    exact = math.prod((Fraction(f, t) for _, f, t in triples), start=Fraction(1))
    assert abs(bits + math.log2(exact)) < 3
