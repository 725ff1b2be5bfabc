"""Models, codec, spec, vocabulary, |f|."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from shared.code import models
from shared.code.codec import Decoder, Encoder
from shared.code.errors import SpecError, StateError, UnknownPresetError, VocabularyError
from shared.code.models import PRESETS, build, preset
from shared.code.models.frequency import Frequency
from shared.code.size import archive, compress, measure_f, required_modules
from shared.code.spec import MAX_SPEC_BYTES, CodeSpec, FrequencyModel, IdsVocabulary, NgramModel, UniformModel
from shared.code.vocabulary import from_tokens, to_tokens
from shared.service.kernels import code_sources
from tests.support import NETWORK_PRESETS, SMALL_NETWORKS, STATISTICAL, EightDecisions, decode, encode, small, small_model

TEXT = (b"the quick brown fox jumps over the lazy dog; " * 300)[:9000]


def spec_of(kind: str, m: int, **fields) -> CodeSpec:
    return CodeSpec.from_fields(
        {"vocabulary": {"kind": "ids", "size": m}, "model": {"kind": kind}, "block_tokens": 700, "segment_tokens": 64, **fields}
    )


@pytest.mark.parametrize("kind", ["uniform", "frequency", "ngram"])
@pytest.mark.parametrize("m", [1, 2, 3, 255, 256, 257, 50_257, 1 << 20])
@pytest.mark.parametrize("chunk", [1, 4096])
def test_round_trip_and_checks(kind, m, chunk):
    rng = np.random.default_rng(m)
    tokens = np.minimum(rng.geometric(0.05, 1500), m - 1).astype(np.uint32)
    spec = spec_of(kind, m)
    z, bits, units, checks = encode(spec, tokens)
    found, theirs = decode(spec, z, bits, len(tokens), chunk)
    assert np.array_equal(found, tokens)
    assert checks == theirs
    information = units / (1 << 24)
    assert information - 16 <= bits  # trailing zeros are free
    assert bits <= information * 1.00005 + 64
    if m == 1:
        assert (bits, units) == (0, 0)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
@pytest.mark.parametrize(
    ("m", "count", "fields"),
    [
        (1, 40, {}),
        (2, 150, {}),
        (256, 110, {"streams": 1}),
        (300, 110, {"segment_tokens": 1}),
        (300, 7, {"streams": 16, "segment_tokens": 16}),  # shorter than a row of the streams, and than a segment
        (300, 1, {}),
        (65_536, 12, {}),
        (70_000, 5, {"block_tokens": 2}),  # blocks of fewer tokens than streams
    ],
)
def test_round_trip_of_networks(name, m, count, fields):
    tokens = np.minimum(np.random.default_rng(m).geometric(0.05, count), m - 1).astype(np.uint32)
    tokens[-1] = m - 1
    spec = small(name, m, **fields)
    z, bits, units, checks = encode(spec, tokens)
    for chunk in (1, 4096):
        found, theirs = decode(spec, z, bits, len(tokens), chunk)
        assert np.array_equal(found, tokens)
        assert checks == theirs
    assert units / (1 << 24) - 16 <= bits <= units / (1 << 24) + 64
    if m == 1:
        assert (bits, units) == (0, 0)


@pytest.mark.parametrize("name", NETWORK_PRESETS)
@pytest.mark.parametrize("m", [1, 65_536])
def test_network_presets_at_the_ends_of_their_vocabularies(name, m):
    spec = preset(name, IdsVocabulary(size=m))
    tokens = np.array([0, m - 1, m // 2, min(1, m - 1)], dtype=np.uint32)
    z, bits, units, checks = encode(spec, tokens)
    found, theirs = decode(spec, z, bits, len(tokens), 4096)
    assert np.array_equal(found, tokens)
    assert checks == theirs
    assert units >> 24 >= (math.log2(m) - 1) * len(tokens)  # p^(0) is uniform


def test_krichevsky_trofimov_exactly():
    tokens = np.array([3, 3, 1, 3, 0, 2, 3], dtype=np.uint32)
    spec, counts, expected = spec_of("frequency", 5), [0] * 5, 0.0
    for n, token in enumerate(tokens):
        expected -= math.log2((counts[token] + 0.5) / (n + 2.5))
        counts[token] += 1
    assert abs(encode(spec, tokens)[2] / (1 << 24) - expected) < 1e-5


def test_frequency_halves_and_still_decodes():
    tokens = np.random.default_rng(1).integers(0, 7, 3000).astype(np.uint32)
    spec = spec_of("frequency", 7)
    z, bits, _, checks = encode(spec, tokens, Frequency(7, limit=500))
    found, theirs = decode(spec, z, bits, len(tokens), 3, Frequency(7, limit=500))
    assert np.array_equal(found, tokens)
    assert checks == theirs
    assert encode(spec, tokens)[0] != z


@pytest.mark.parametrize("order", range(6))
def test_ngram_gains_from_every_order_on_text(order):
    tokens = to_tokens(TEXT, preset("ngram").vocabulary)
    bits = [encode(CodeSpec(model=NgramModel(order=o, table_bits=16)), tokens)[1] for o in (order, 0)]
    assert bits[0] <= bits[1]


def test_presets_rank_on_text():
    tokens = to_tokens(TEXT, preset("ngram").vocabulary)
    sizes = {name: encode(preset(name), tokens)[1] for name in STATISTICAL}
    assert sizes["ngram"] < sizes["frequency"] < sizes["uniform"] == 8 * len(TEXT)


def test_eight_binary_decisions_a_token_in_streams(monkeypatch):
    """The interface carries many decisions, and several streams: blocks are laid out and come back in order."""
    monkeypatch.setattr(CodeSpec, "_streams_fit", lambda self: self)
    spec = CodeSpec(model=UniformModel(), block_tokens=1000, segment_tokens=16).model_copy(update={"streams": 7})
    tokens = to_tokens(TEXT[:2500], spec.vocabulary)
    for one in (spec, spec.model_copy(update={"streams": 1})):
        z, bits, units, checks = encode(one, tokens, EightDecisions())
        if one.streams == 1:
            found, theirs = decode(one, z, bits, len(tokens), 11, EightDecisions())
            assert np.array_equal(found, tokens)
            assert checks == theirs
        assert bits < 8 * len(tokens)
        assert abs(bits - units / (1 << 24)) < 64


@pytest.mark.parametrize("name", [*STATISTICAL, *(f"small {name}" for name in SMALL_NETWORKS)])
def test_state_restores_in_the_middle(name):
    statistical = name in STATISTICAL
    spec = CodeSpec.from_fields({"model": small_model(name)}) if statistical else small(name.removeprefix("small "))
    spec = spec.model_copy(update={"block_tokens": 512})
    tokens = to_tokens(TEXT[:2048], spec.vocabulary)
    one = Encoder(spec)
    for start in (0, 512):
        list(one.encode_block(tokens[start : start + 512]))
    head, saved = one.drain(), one.state_bytes()
    two = Encoder(spec)
    two.restore(saved)
    for encoder in (one, two):
        for start in (1024, 1536):
            list(encoder.encode_block(tokens[start : start + 512]))
        encoder.finish()
    tails = one.drain(), two.drain()
    assert tails[0] == tails[1]
    assert head + tails[0] == encode(spec, tokens)[0]
    assert one.check(with_digest=True) == two.check(with_digest=True)


@pytest.mark.parametrize("bad", [b"", b"x" * 20, Encoder(preset("uniform")).state_bytes()[:-1]])
def test_foreign_state_is_refused_and_changes_nothing(bad):
    encoder = Encoder(preset("frequency"))
    list(encoder.encode_block(to_tokens(TEXT[:100], preset("frequency").vocabulary)))
    before = encoder.state_bytes()
    with pytest.raises(StateError):
        encoder.restore(bad)
    assert encoder.state_bytes() == before


def test_predictor_refuses_other_arrays():
    model = build(preset("frequency"))
    saved = model.state_bytes()
    for bad in (saved + b"x", saved.replace(b"tree", b"TREE"), saved[:-5], b"123"):
        with pytest.raises(StateError):
            model.restore(bad)


def test_decoder_without_block():
    decoder = Decoder(preset("uniform"))
    assert decoder.decode() == 0
    assert len(decoder.open_block(9)) == 0
    with pytest.raises(RuntimeError):
        decoder.take_block()


@pytest.mark.parametrize("spec", [preset("frequency"), small("recurrent", block_tokens=6000)], ids=["one", "three"])
def test_the_open_block_is_what_was_sent(spec):
    tokens = to_tokens(TEXT[:6000], spec.vocabulary)
    z, _, _, _ = encode(spec, tokens)
    decoder = Decoder(spec)
    decoder.begin_block(6000)
    decoder.feed(z[:500])
    while decoder.decode():
        pass
    found = decoder.open_block(50)
    assert len(found) == spec.streams
    for place, part, costs in found:
        assert 0 < len(part) == len(costs) <= 50
        assert np.array_equal(part, tokens[place : place + len(part)])
    everything = [part for _, part, _ in decoder.open_block(6000)]
    assert sum(map(len, everything)) == decoder.position > 0


def test_id_outside_vocabulary_is_named():
    with pytest.raises(VocabularyError, match="token 2: the id 9 is not in 0 … 4"):
        next(Encoder(spec_of("frequency", 5)).encode_block(np.array([1, 4, 9], np.uint32)))
    with pytest.raises(VocabularyError, match="whole number"):
        to_tokens(b"123", IdsVocabulary(size=300))


@pytest.mark.parametrize(("m", "width"), [(1, 1), (256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_canonical_bytes(m, width):
    tokens = np.array([0, m - 1], np.uint32)
    data = from_tokens(tokens, IdsVocabulary(size=m))
    assert len(data) == 2 * width
    assert np.array_equal(to_tokens(data, IdsVocabulary(size=m)), tokens)


def test_canonical_spec_bytes_leave_defaults_out():
    assert preset("ngram").canonical_bytes() == b'{"format":1,"model":{"kind":"ngram"}}'
    assert CodeSpec.parse(b'{"model": {"order": 5, "kind": "ngram"}, "format": 1}') == preset("ngram")
    one = spec_of("frequency", 50257)
    assert CodeSpec.parse(one.canonical_bytes()) == one
    assert one.digest() != preset("frequency").digest()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "not JSON"),
        (b"[]", "valid"),
        (b"[" * 60_000, "not JSON"),
        (b" " * (MAX_SPEC_BYTES + 1), "more than"),
        (b'{"format":2,"model":{"kind":"uniform"}}', "format 2"),
        (b'{"model":{"kind":"magic"}}', "model"),
        (b'{"model":{"kind":"ngram","order":99}}', "model.ngram.order"),
        (b'{"model":{"kind":"uniform"},"extra":1}', "extra"),
        (b'{"model":{"kind":"uniform"},"streams":4}', "one stream"),
        (b'{"model":{"kind":"uniform"},"block_tokens":1.5}', "block_tokens"),
        (b'{"model":{"kind":"uniform"},"vocabulary":{"kind":"ids","size":2000000}}', "vocabulary"),
    ],
)
def test_bad_specs(data, text):
    with pytest.raises(SpecError, match=text):
        CodeSpec.parse(data)


def test_unknown_preset_names_the_known():
    with pytest.raises(UnknownPresetError, match=", ".join(PRESETS)):
        preset("zip")


_GROWS = """
import os, sys
import numpy as np
from shared.service.kernels import ready_for
from shared.service.worker import peak_memory_bytes, reset_peak_memory
from shared.code.spec import CodeSpec
from tests.support import SMALL_NETWORKS, decode, encode, small

def code(spec, back):
    tokens = np.arange(spec.segment_tokens * spec.streams * 2 + 1, dtype=np.uint32) % spec.vocabulary_size
    before = peak_memory_bytes()
    z, bits, _, _ = encode(spec, tokens)
    if back:
        before = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        reset_peak_memory()
        decode(spec, z, bits, len(tokens), 4096)
    return peak_memory_bytes() - before

for name in SMALL_NETWORKS:
    ready_for(small(name))
    for streams in (1, 3):  # kernels are compiled for both layouts, and libraries loaded
        code(small(name, streams=streams), True)
for line in sys.stdin.read().splitlines():
    spec = CodeSpec.parse(line.encode())
    for back in (False, True):
        if (child := os.fork()) == 0:  # another heap for each
            reset_peak_memory()
            print(spec.memory_bytes, code(spec, back), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
"""


def test_memory_bound_holds():
    """`memory_bytes` is an upper bound of what a process grows by, in either direction, and no wild one."""
    for name in STATISTICAL:
        spec = preset(name)
        assert len(build(spec).state_bytes()) <= spec.model.memory_bytes(256) + 200


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_bound_of_networks_holds():
    wide = {"model": {"kind": "recurrent", "width": 512, "layers": 2, "hidden": 512, "tables": {"bits": 10}}}
    deep = {"model": {"kind": "transformer", "width": 64, "layers": 6, "hidden": 128, "context": 512, "heads": 4, "tables": None}}
    specs = [
        *map(preset, NETWORK_PRESETS),
        small("recurrent", 20_000),
        preset("recurrent", IdsVocabulary(size=5_000)),
        CodeSpec.from_fields({**wide, "segment_tokens": 32, "streams": 16}),
        CodeSpec.from_fields({**deep, "segment_tokens": 64, "streams": 8}),
    ]
    lines = "\n".join(spec.canonical_bytes().decode() for spec in specs)
    done = subprocess.run([sys.executable, "-c", _GROWS], input=lines, capture_output=True, text=True, check=True)
    figures = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(figures) == 2 * len(specs)
    for (bound, grown), spec in zip(figures, [spec for spec in specs for _ in range(2)], strict=True):
        assert grown <= bound, spec.canonical_bytes()
    for index, spec in enumerate(specs):
        bound, grown = figures[2 * index][0], max(figures[2 * index][1], figures[2 * index + 1][1])
        assert bound <= 8 * grown + (1 << 26), spec.canonical_bytes()


def test_measured_f_is_the_code_that_runs():
    sources = code_sources()
    found = {name: measure_f(preset(name), sources) for name in PRESETS}
    assert found["uniform"].total < found["ngram"].total
    assert found["uniform"].spec == 8 * len(preset("uniform").canonical_bytes())
    modules = required_modules(preset("uniform"), sources)
    assert "shared.code.models.uniform" in modules
    assert "shared.code.models.ngram" not in modules
    text = archive(preset("ngram"), sources)
    z, bits = compress(text)
    assert found["ngram"].source == bits
    plain = preset("ngram")
    assert decode(plain, z, bits, len(text), 4096)[0].astype(np.uint8).tobytes() == text


_LOADS = """
import json, sys
import numpy as np
from shared.code.spec import CodeSpec
from shared.code.codec import Encoder

spec = CodeSpec.parse(sys.stdin.buffer.read())
for _ in Encoder(spec).encode_block(np.arange(40, dtype=np.uint32)):
    pass
print(json.dumps([name for name in sys.modules if name.startswith("shared.code")]))
"""


@pytest.mark.parametrize(
    ("code", "numerics"), [("ngram", "exact"), ("ensemble", "exact"), ("recurrent", "exact"), ("transformer", "native")]
)
def test_f_is_charged_for_every_module_that_runs(code, numerics):
    spec = preset(code).model_copy(update={"numerics": numerics})
    done = subprocess.run([sys.executable, "-c", _LOADS], input=spec.canonical_bytes(), capture_output=True, check=True)
    assert set(json.loads(done.stdout)) <= set(required_modules(spec, code_sources()))


_INSPECT = """
import re
import numpy as np
from shared.code import arithmetic
from importlib import import_module
from shared.code.models import preset
from tests.support import STATISTICAL, encode

pattern = re.compile(r"= f(add|sub|mul|div|rem|cmp)\\b|\\b(sitofp|uitofp|fptosi|fptoui|fpext|fptrunc)\\b")
integers = [name for name in STATISTICAL if name != "ensemble"]
kinds = {preset(name).model.kind for name in integers}
for name in integers:
    encode(preset(name), np.arange(200, dtype=np.uint32))
for module in (arithmetic, *(import_module(f"shared.code.models.{kind}") for kind in (*sorted(kinds), "mixing_contexts"))):
    for name, thing in vars(module).items():
        if hasattr(thing, "inspect_llvm"):
            for code in thing.inspect_llvm().values():
                print("FLOAT" if pattern.search(code) else "integer", module.__name__, name)
"""


@pytest.mark.long
def test_no_float_in_kernels(tmp_path):
    """Exactness: not one floating point instruction in what numba made of the statistical presets and the coder.

    Networks, the ensemble's too, do compute with floats, by the law of docs/exactness.md: guard, lint, twins and crossings watch them.
    """
    # A fresh cache: what numba loads from a cache cannot be inspected.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _INSPECT], env=environment, capture_output=True, text=True, check=True)
    assert "FLOAT" not in done.stdout
    assert done.stdout.count("integer shared.code.models.") >= 3


def test_registry_describes_every_preset():
    assert all(p.name == name and p.summary for name, p in PRESETS.items())
    assert isinstance(PRESETS["frequency"].model, FrequencyModel)
    assert models.preset("uniform").vocabulary_size == 256
