"""Replay: which earlier tokens are trained on again, that all of it is lawful, and that it is worth something."""

import numpy as np
import pytest

from shared.code.codec import Encoder
from shared.code.errors import SpecError
from shared.code.models import build, preset
from shared.code.spec import CodeSpec, Replay, Start
from shared.code.training import Memory
from tests.support import REPLAY, decode, encode, small

PADDING = Memory.PADDING
TEXT = np.frombuffer(b"".join(b"line %d of a text; " % n for n in range(200)), dtype=np.uint8).astype(np.uint32)


def test_windows_are_of_the_rows_kept_as_they_were():
    """Against a plain list: T rows of the newest R, never more, padding where a stream had no token; all places are drawn."""
    memory, rows, rng = Memory(Replay(passes=4, history_bits=5), 3), [], np.random.default_rng(0)
    kept, drawn = 32 // 3, set()
    for k in range(300):
        tokens = rng.integers(0, 1000, (rng.integers(1, 5), 3), dtype=np.uint32)
        lengths = np.clip([len(tokens), len(tokens), rng.integers(len(tokens) + 1)], 0, len(tokens))
        memory.keep(tokens, lengths)
        rows += [[int(x) if t < n else PADDING for x, n in zip(row, lengths, strict=True)] for t, row in enumerate(tokens)]
        newest = rows[-kept:]
        windows = list(memory.windows(k, 4))
        assert len(windows) == (4 if len(rows) >= 4 else 0)
        for window in windows:
            places = [at for at in range(len(newest) - 3) if newest[at : at + 4] == window.tolist()]
            assert places
            drawn.update(places if len(newest) == kept else ())
    assert drawn == set(range(kept - 3))


def test_it_trains_on_what_came_before_and_the_context_stays():
    """What the next segment sees of the tokens before is what it is without replay; the weights are others."""
    plain, again = build(small("transformer")), build(small("transformer", training=REPLAY))
    for predictor in (plain, again):
        list(Encoder(small("transformer"), predictor).encode_block(TEXT[:15]))  # one segment: 5 positions of 3 streams
    one, other = plain._arrays(), again._arrays()
    assert set(other) - set(one) == {"replay.clock", "replay.tokens"}
    context = {name for name in one if name.endswith(("taps", "keys", "values", "seen", "before")) or name.startswith("head")}
    assert all(np.array_equal(one[name], other[name]) for name in context)
    assert not np.array_equal(one["output.w"], other["output.w"])
    assert other["powers"][0] == one["powers"][0] ** 3  # an update, and two passes


def test_padding_is_not_learned():
    """A stream that had nothing leaves no gradient: with m = 3 and one token in 3 streams, only that one is learned."""
    spec = CodeSpec.from_fields(
        {
            **small("transformer", 3).model_dump(mode="json"),
            "segment_tokens": 1,
            "training": {"replay": {"passes": 8, "history_bits": 2}},
        }
    )
    predictor = build(spec)
    list(Encoder(spec, predictor).encode_block(np.array([2], np.uint32)))
    gradient = predictor._gradient
    assert gradient[0, 2] < 0 < gradient[0, 0]
    assert not gradient[1:].any()


def test_it_pays_for_a_network_alone():
    spec = CodeSpec.from_fields({**preset("transformer").model_dump(mode="json"), "segment_tokens": 4})
    once, twice = (encode(one, TEXT[:2000]) for one in (spec, with_replay(spec, passes=2)))
    assert twice[1] < 0.9 * once[1]


def with_replay(spec, **fields):
    return CodeSpec.from_fields({**spec.model_dump(mode="json"), "training": {"replay": fields}})


def test_native_networks_replay_too():
    spec = small("recurrent", training=REPLAY, numerics="native")
    z, bits, _, checks = encode(spec, TEXT[:300])
    found, theirs = decode(spec, z, bits, 300, 9)
    assert np.array_equal(found, TEXT[:300])
    assert checks == theirs
    assert encode(small("recurrent", numerics="native"), TEXT[:300])[0] != z


def test_a_spec_says_it_only_where_it_is_so():
    plain = preset("transformer")
    spec = with_replay(plain)
    assert spec.canonical_bytes() != plain.canonical_bytes()
    assert b'"training":{"replay":{}}' in spec.canonical_bytes()
    assert CodeSpec.parse(spec.canonical_bytes()) == spec
    assert spec.memory_bytes == plain.memory_bytes + (4 << 20)
    begun = spec.with_training(frozen=True, start=Start(corpus="0" * 64, steps=1))
    assert begun.training.replay == spec.training.replay
    for name, replay, said in (
        ("ngram", {}, "replay is for networks: a ngram model learns a token once"),
        ("transformer", {"history_bits": 7}, "2.7 tokens; a segment has 16 × 16 positions"),
        ("transformer", {"passes": 0}, "training.online.replay.passes"),
        ("transformer", {"every": 2}, "training.online.replay.every"),
    ):
        with pytest.raises(SpecError, match=said):
            with_replay(preset(name), **replay)
