"""The context-mixing model: round trips over odd specs and data, what each input is for, and where it stops and goes on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.code.codec import Encoder
from shared.code.models import build, lstm
from shared.code.models.mixing_contexts import MEMO_WORDS, RECORD
from shared.code.spec import CodeSpec, EnsembleModel, MixingModel
from shared.code.vocabulary import to_tokens
from tests.support import decode, encode

SMALL = {"kind": "mixing", "table_mebibytes": 1, "history_bits": 12}


def spec_of(m: int, **model) -> CodeSpec:
    return CodeSpec.from_fields(
        {
            "vocabulary": {"kind": "ids", "size": m},
            "model": {**SMALL, **model},
            "block_tokens": 700,
            "segment_tokens": 64,
        }
    )


def check_round_trip(spec: CodeSpec, tokens, chunk: int = 4096) -> bytes:
    z, bits, units, checks = encode(spec, tokens)
    found, theirs = decode(spec, z, bits, len(tokens), chunk)
    assert np.array_equal(found, tokens)
    assert checks == theirs
    information = units / (1 << 24)
    assert information - 16 <= bits <= information * 1.00005 + 64
    return z


@pytest.mark.parametrize("m", [1, 2, 3, 16, 17, 255, 256, 257, 300, 70_000, 1 << 20])
@pytest.mark.parametrize("chunk", [1, 4096])
@pytest.mark.parametrize("model", [{}, {"kind": "ensemble", "width": 8}], ids=["mixing", "ensemble"])
def test_every_vocabulary(m, chunk, model):
    tokens = np.minimum(np.random.default_rng(m).geometric(0.05, 1500), m - 1).astype(np.uint32)
    tokens[700:800] = tokens[:100]
    tokens[900:903] = m - 1
    z = check_round_trip(spec_of(m, **model), tokens, chunk)
    assert m > 1 or z == b""


PIECES = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda b, n: b * n, st.binary(min_size=1, max_size=40), st.integers(1, 60)),
    st.builds(lambda t: t.encode(), st.text(max_size=200)),
)


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(PIECES, max_size=6).map(b"".join),
    contexts=st.integers(1, 36),
    sets=st.integers(1, 12),
    history_bits=st.integers(10, 14),
    match_minimum=st.integers(1, 32),
    lstm=st.sampled_from([{}, {}, {"kind": "ensemble", "width": 8, "seed": 0}, {"kind": "ensemble", "width": 168, "seed": 7}]),
    chunk=st.sampled_from([1, 7, 4096]),
)
def test_any_octets_under_any_spec(data, contexts, sets, history_bits, match_minimum, lstm, chunk):
    spec = spec_of(256, contexts=contexts, sets=sets, history_bits=history_bits, match_minimum=match_minimum, **lstm)
    check_round_trip(spec, np.frombuffer(data, dtype=np.uint8).astype(np.uint32), chunk)


def test_bounds_are_those_of_the_lists():
    """The largest spec reaches the last context and the last mixer; nothing is read past them."""
    words = np.random.default_rng(3).choice([b"words, ", b"marks; ", b"lines\n", b"Here ", b"(there) "], 600)
    tokens = to_tokens(b"".join(words), spec_of(256).vocabulary)
    codes = {check_round_trip(spec_of(256, contexts=c, sets=s), tokens) for c, s in ((35, 12), (36, 12), (36, 11))}
    assert len(codes) == 3


def test_nothing_is_known_at_first():
    """p^(0) is uniform: the first decision costs one bit, and the first token little more or less than log2 m (bits teach bits)."""
    assert {encode(spec_of(2), np.array([token], dtype=np.uint32))[2] for token in (0, 1)} == {1 << 24}
    for token in (0, 97, 255):
        assert abs(encode(spec_of(256), np.array([token], dtype=np.uint32))[2] / (1 << 24) - 8) < 1


def test_the_record_length_is_found():
    random = np.random.default_rng(5)
    table = random.integers(0, 256, (200, 37))
    table[:, :20] = table[0, :20]  # columns that stay
    tokens = table.reshape(-1).astype(np.uint32)
    model = build(spec_of(256))
    encoder = Encoder(spec_of(256), model)
    for start in range(0, len(tokens), 700):
        list(encoder.encode_block(tokens[start : start + 700]))
    memo = model._arrays()["memo"]
    assert len(memo) == MEMO_WORDS
    assert memo[RECORD] == 37
    assert encoder.finish() < 8 * 200 * 17 * 1.05 + 8 * 600


def test_a_long_repetition_costs_next_to_nothing():
    text = np.random.default_rng(1).integers(0, 256, 2000).astype(np.uint32)
    once, twice = (encode(spec_of(256), np.tile(text, n))[1] for n in (1, 2))
    assert twice - once < 1000


def test_noise_costs_little_more_than_itself():
    noise = np.random.default_rng(2).integers(0, 256, 20_000).astype(np.uint32)
    assert encode(spec_of(256), noise)[1] < 8 * len(noise) * 1.02


def test_digest_sees_the_table():
    models = [build(spec_of(256)) for _ in range(2)]
    assert models[0].digest() == models[1].digest()
    slots = models[1]._arrays()["slots"]
    seen = {models[0].digest()}
    for place in (0, 1023, 1024, len(slots) - 1):
        slots[place] ^= 1
        seen.add(models[1].digest())
        slots[place] ^= 1
    assert len(seen) == 5
    assert models[0].digest() == models[1].digest()


def test_the_lstm_learns_and_its_view_helps():
    words = np.random.default_rng(4).choice([b"river ", b"rivet ", b"arrive ", b"over "], 700)
    tokens = to_tokens(b"".join(words), spec_of(256).vocabulary)
    few = {"contexts": 1, "sets": 1, "match_minimum": 32}
    alone, together = (encode(spec_of(256, **few, **more), tokens)[1] for more in ({}, {"kind": "ensemble", "width": 64}))
    assert together < 0.97 * alone


def test_no_sum_of_the_lstm_leaves_32_bits():
    """At the widest, with every weight, output and slope at its limit: the sums are those of Python's integers."""
    width = lstm.WIDEST
    h, w, back, share, error = 1023, 4096, 1023, 2047, 1 << 13
    assert 2 * width * w * h < 1 << 31
    assert 3 * width * w * back < 1 << 31
    assert lstm.SYMBOLS * w * share < 1 << 31
    assert lstm.SPAN * error * h < 1 << 31
    out = np.zeros(2, dtype=np.float32)
    lstm._times(out, np.full((2, 2 * width), w, dtype=np.int16), np.full(2 * width, h, dtype=np.int16))
    assert np.array_equal(out, np.full(2, np.float32(2 * width * w * h * 2.0**-20)))
    raw = np.zeros(2, dtype=np.int32)
    lstm._back(raw, np.full((3 * width, 2), -w, dtype=np.int16), np.full(3 * width, back, dtype=np.int16))
    assert np.array_equal(raw, np.full(2, -3 * width * w * back))
    assert EnsembleModel.model_fields["width"].metadata[1].le == width


@pytest.mark.parametrize("fields", [{}, {"contexts": 36, "sets": 12}, {"contexts": 1, "sets": 1, "table_mebibytes": 2}])
def test_memory_bound_holds(fields):
    model = MixingModel(**fields) if fields.get("table_mebibytes") else MixingModel(table_mebibytes=1, **fields)
    for one in (model, EnsembleModel(**model.model_dump(exclude={"kind"}))):
        assert len(build(CodeSpec(model=one)).state_bytes()) <= one.memory_bytes(256)


def test_the_default_holds_at_most_256_mebibytes():
    assert MixingModel().memory_bytes(256) <= 256 << 20
