"""p^(k) fixed, and training before D is sent: state, bits and bad input, for every kind of predictor."""

import json
import math

import numpy as np
import pytest

from shared.code.codec import Decoder, Encoder, prepare, sample
from shared.code.errors import CorpusError, SpecError, StateError
from shared.code.models import preset
from shared.code.spec import CodeSpec, IdsVocabulary, Start
from tests.support import LIGHT, REPLAY, SMALL_NETWORKS, STATISTICAL, decode, encode, small, small_model

TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
CORPUS = np.frombuffer(TEXT * 12, dtype=np.uint8).astype(np.uint32)
DATA = np.frombuffer((b"It was the epoch of belief; " + TEXT) * 4, dtype=np.uint8).astype(np.uint32)[:500]
SHA = "0" * 64
NAMES = [*STATISTICAL, *(f"small {name}" for name in SMALL_NETWORKS), "small recurrent with replay"]
ADAPTED = (
    "context",
    "taps",
    ".h",
    "keys",
    "values",
    "seen",
    "before",
    "match",
    "clock",
    "recent",
    "memo",
    "orders",
    "cells",
    "curved",
    "gates",
    "normed",
    "roots",
    "hidden",
    "symbols_in",
    ".inputs",
)
"""Parts of the names of arrays that are context, not learned."""


def spec_of(name, *, frozen, steps):
    if name in STATISTICAL:
        spec = CodeSpec.from_fields({"model": small_model(name), "block_tokens": 200, "segment_tokens": 30})
    else:
        kind, _, replay = name.removeprefix("small ").partition(" with ")
        spec = small(kind, training=REPLAY if replay else {})
    return spec.with_training(frozen=frozen, start=Start(corpus=SHA, steps=steps) if steps else None)


def blocks_of(spec, corpus=CORPUS):
    return lambda: (corpus[first : first + spec.block_tokens] for first in range(0, len(corpus), spec.block_tokens))


def ready(spec, corpus=CORPUS, predictor=None):
    if spec.start is None:
        return None
    *_, (made, done) = prepare(spec, blocks_of(spec, corpus), predictor)
    assert done
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("frozen", "steps"), [(True, 0), (True, 9), (False, 9)])
def test_round_trip(name, frozen, steps):
    """Both directions agree to the bit, however z is cut, and k stands still or goes on."""
    spec = spec_of(name, frozen=frozen, steps=steps)
    z, bits, units, checks = encode(spec, DATA, ready(spec))
    for chunk in (1, 4096):
        predictor = ready(spec)
        found, theirs = decode(spec, z, bits, len(DATA), chunk, predictor)
        assert np.array_equal(found, DATA)
        assert checks == theirs
    if predictor is not None:
        assert (predictor.steps == steps) == frozen
    assert units / (1 << 24) - 16 <= bits <= units / (1 << 24) + 64


@pytest.mark.parametrize("name", LIGHT)
def test_frozen_at_0_costs_what_the_uniform_code_does(name):
    spec = preset(name).with_training(frozen=True, start=None)
    _, bits, units, _ = encode(spec, DATA)
    assert abs(bits - 8 * len(DATA)) <= 1 + 0.00005 * 8 * len(DATA)
    assert abs(units / (1 << 24) - 8 * len(DATA)) < 0.001 * len(DATA)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "uniform"])
def test_what_was_learned_stays_and_the_context_moves(name):
    spec = spec_of(name, frozen=True, steps=9)
    predictor = ready(spec)
    before = {key: array.copy() for key, array in predictor._arrays().items()}
    encode(spec, DATA, predictor)
    changed = {key for key, array in predictor._arrays().items() if not np.array_equal(array, before[key])}
    assert all(any(part in key for part in ADAPTED) for key in changed), changed
    assert changed or name == "frequency"
    learned = {"slots", "table", "head.tables", "head.history", "ring", "head.places", "match_map"}
    assert not (learned | {"replay.clock", "replay.tokens"}) & changed


@pytest.mark.parametrize("name", ["ngram", "mixing", "small recurrent"])
def test_training_on_like_text_pays(name):
    bits = {}
    for frozen, steps in ((True, 0), (True, 30), (False, 0), (False, 30)):
        spec = spec_of(name, frozen=frozen, steps=steps)
        bits[frozen, steps] = encode(spec, DATA, ready(spec))[1]
    assert bits[True, 30] < 0.75 * bits[True, 0]
    assert bits[False, 30] < bits[False, 0] < bits[True, 0]


@pytest.mark.parametrize("name", ["ngram", "mixing", "small transformer", "small recurrent"])
def test_the_corpus_wraps_and_a_later_step_is_reached_from_an_earlier_one(name):
    """Segments: 45 statistical ones, or 89, in a pass over the corpus. A state in the middle goes on as if never left."""
    spec = spec_of(name, frozen=False, steps=100)
    whole = ready(spec)
    earlier = ready(spec.with_training(frozen=False, start=Start(corpus=SHA, steps=97)))
    assert earlier.steps == 97
    assert ready(spec, predictor=earlier).state_bytes() == whole.state_bytes()
    assert ready(spec, predictor=whole) is whole
    assert whole.steps == 100


def test_the_wrap_is_the_corpus_again():
    spec = spec_of("ngram", frozen=False, steps=20)
    part = CORPUS[:300]  # 10 segments in blocks of 200
    one = Encoder(spec.with_training(frozen=False, start=None))
    for block in (part[:200], part[200:], part[:200], part[200:]):
        list(one.encode_block(block))
    assert one._predictor.steps == 22
    spec = spec.with_training(frozen=False, start=Start(corpus=SHA, steps=22))
    assert one._predictor.state_bytes() == ready(spec, part).state_bytes()


def test_a_match_ends_where_the_corpus_ends():
    """What follows the corpus in D must not be predicted from what lay there before: D is the corpus' end, then noise."""
    for name in ("mixing", "small recurrent"):
        spec = spec_of(name, frozen=True, steps=44)
        data = np.concatenate([CORPUS[1100:1320], CORPUS[1100:1320]])
        z, bits, _, _ = encode(spec, data, ready(spec))
        assert np.array_equal(decode(spec, z, bits, len(data), 7, ready(spec))[0], data)


def test_state_of_a_frozen_model_restores():
    spec = spec_of("mixing", frozen=True, steps=9)
    one, two = Encoder(spec, ready(spec)), Encoder(spec, ready(spec))
    list(one.encode_block(DATA[:200]))
    two.restore(one.state_bytes())
    list(one.encode_block(DATA[200:400]))
    list(two.encode_block(DATA[200:400]))
    assert one.check(with_digest=True) == two.check(with_digest=True)
    with pytest.raises(StateError):
        Encoder(spec.with_training(frozen=False, start=None)).restore(one.state_bytes())


def test_codes_that_start_from_a_corpus_need_it():
    spec = spec_of("frequency", frozen=False, steps=3)
    for side in (Encoder, Decoder):
        with pytest.raises(CorpusError, match=f"{SHA}: .*not given"):
            side(spec)
    with pytest.raises(CorpusError, match="empty"):
        ready(spec, CORPUS[:0])


def test_canonical_bytes_name_regime_and_start():
    plain = preset("ngram")
    assert plain.with_training(frozen=False, start=None).canonical_bytes() == plain.canonical_bytes()
    assert json.loads(plain.with_training(frozen=True, start=None).canonical_bytes())["training"] == {"kind": "frozen"}
    start = Start(corpus=SHA, steps=7)
    begun = plain.with_training(frozen=False, start=start)
    assert json.loads(begun.canonical_bytes())["training"] == {"start": {"corpus": SHA, "steps": 7}}
    for spec in (
        begun,
        plain.with_training(frozen=True, start=start),
        preset("recurrent").with_training(frozen=True, start=start),
    ):
        assert CodeSpec.parse(spec.canonical_bytes()) == spec


@pytest.mark.parametrize(
    "training",
    [
        {"kind": "thawed"},
        {"start": {"corpus": SHA, "steps": 0}},
        {"start": {"corpus": "A" * 64, "steps": 1}},
        {"start": {"corpus": SHA}},
        {"kind": "frozen", "start": {"corpus": SHA, "steps": 1 << 50}},
        {"start": 5},
        7,
    ],
)
def test_bad_training(training):
    with pytest.raises(SpecError, match="training"):
        CodeSpec.from_fields({"model": {"kind": "ngram"}, "training": training})


def test_p0_over_ids_that_are_no_power_of_two():
    """A tree of binary decisions starts at 1/2 each: p^(0) is uniform for m = 2^i, and elsewhere at most a bit off."""
    tokens = np.arange(300, dtype=np.uint32)
    for name, exact in (("uniform", True), ("frequency", True), ("ngram", False), ("mixing", False), ("recurrent", True)):
        spec = preset(name, IdsVocabulary(size=300)).with_training(frozen=True, start=None)
        bits = encode(spec, tokens)[1]
        assert (abs(bits - 300 * math.log2(300)) < 16) == exact
        assert abs(bits - 300 * math.log2(300)) < 300


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_coded_again_costs_its_flips(name):
    spec = spec_of(name, frozen=True, steps=9)
    predictor, count = ready(spec) or build_frozen(spec), 100
    drawn = sample(spec, predictor, count, spec.streams - 1, np.random.default_rng(3).bytes)
    bits = drawn.nll_units / (1 << 24)
    assert 0 <= drawn.flips - bits <= 72
    if spec.streams == 1:
        assert abs(encode(spec, drawn.tokens, ready(spec) or build_frozen(spec))[1] - bits) <= 64


def build_frozen(spec):
    return Encoder(spec)._predictor


def test_calibration():
    """200,000 tokens drawn from known counts come as often as they should, and cost the entropy."""
    spec = spec_of("frequency", frozen=True, steps=30)
    predictor = ready(spec)
    p = predictor._frequencies / predictor._frequencies.sum()
    count = 200_000
    drawn = sample(spec, predictor, count, 0, np.random.default_rng(4).bytes)
    entropy = -(p * np.log2(p)).sum()
    deviation = np.sqrt((p * np.log2(p) ** 2).sum() - entropy**2)
    assert abs(drawn.nll_units / (1 << 24) / count - entropy) < 4 * deviation / np.sqrt(count)
    expected = p * count
    chi_squared = ((np.bincount(drawn.tokens, minlength=256) - expected) ** 2 / expected).sum()
    assert abs(chi_squared - 255) < 4 * np.sqrt(2 * 255)
