"""Pretrained models as codes: what Alice makes is what Bob decodes, the window, states, learning, and files that are not right."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch

from shared.code.codec import Decoder, Encoder
from shared.code.errors import PretrainedError, PretrainedFailedError, SpecError
from shared.code.models import PRESETS, build
from shared.code.models.pretrained import PretrainedPredictor
from shared.code.pretrained import PRETRAINED, require_pretrained
from shared.code.size import required_modules
from shared.code.spec import CodeSpec, FrozenTraining, PretrainedModel
from shared.code.vocabulary import to_tokens
from shared.service import pretrained
from shared.service.kernels import code_sources, ready_for, runtime_fingerprint
from tests.pretrained_models import TEXT, held, save_ids, save_tiny, small_spec
from tests.support import decode, encode


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    return save_tiny(root / "tiny"), save_ids(root / "three-hundred")


@pytest.fixture(scope="module")
def models(directories):
    with held(*directories) as names:
        ready_for(small_spec(names[0]))
        yield names


def tokens_for(spec, count=400):
    if spec.vocabulary_size == 256:
        return to_tokens(TEXT[:count], spec.vocabulary)
    return np.random.default_rng(1).integers(0, spec.vocabulary_size, count).astype(np.uint32)


@pytest.mark.parametrize("regime", ["frozen", "online"])
@pytest.mark.parametrize("name", ["tiny", "three-hundred"])
def test_what_alice_codes_bob_decodes_byte_by_byte(models, name, regime):
    """Four blocks, three streams, padding, starved in every row, and a window of 16 past which the text goes on."""
    spec = small_spec(name, regime=regime)
    tokens = tokens_for(spec)
    z, bits, units, checks = encode(spec, tokens)
    found, theirs = decode(spec, z, bits, len(tokens), 1)
    assert np.array_equal(found, tokens)
    assert theirs == checks
    assert abs(bits - units / 2**24) < 64
    assert PretrainedPredictor is type(build(spec))


@pytest.mark.parametrize("name", ["tiny", "three-hundred"])
def test_the_cache_gives_what_one_pass_over_the_window_gives(models, name):
    """With segments of 5 and a context of 16 the model sees 1 … 16 tokens, and then 12 … 16."""
    spec = small_spec(name, streams=1, block_tokens=1000)
    one, predictor, rows = require_pretrained(spec), build(spec), []
    predictor.freeze()
    row = predictor._row
    predictor._row = lambda tokens, t: rows.append(row(tokens, t)) or rows[-1]
    tokens = tokens_for(spec, 55)
    encode(spec, tokens, predictor)
    module, seen = one.load().module, [one.first_token, *map(int, tokens)]
    for t, logits in enumerate(rows):
        last = min(t - t % 5, 11) + t % 5 + 1
        with torch.no_grad():
            wanted = module(input_ids=torch.tensor([seen[t + 1 - last : t + 1]])).logits[0, -1]
        assert torch.allclose(logits.softmax(-1), wanted.softmax(-1), atol=1e-5), t
    assert len(rows) == 55


@pytest.mark.parametrize("regime", ["frozen", "online"])
def test_both_go_on_from_their_state_at_any_block(models, regime):
    """Killed after every block and begun anew: the cache is made again, by the same calls, whatever of the window is full."""
    spec = small_spec("tiny", regime=regime, block_tokens=33)
    tokens = tokens_for(spec, 230)
    z, bits, _, checks = encode(spec, tokens)
    encoder, parts, again = Encoder(spec), [], []
    for start in range(0, 230, 33):
        for _ in encoder.encode_block(tokens[start : start + 33]):
            parts.append(encoder.drain())
        again.append(encoder.check(with_digest=True))
        state, encoder = encoder.state_bytes(), Encoder(spec)
        encoder.restore(state)
    encoder.finish()
    assert b"".join([*parts, encoder.drain()]) == z
    assert again == checks
    decoder, found = Decoder(spec), []
    decoder.feed(z)
    decoder.close(bits)
    for start in range(0, 230, 33):
        decoder.begin_block(min(33, 230 - start))
        while not decoder.block_done:
            decoder.decode()
        found.append(decoder.take_block()[0])
        state, decoder = decoder.state_bytes(), Decoder(spec)
        decoder.restore(state)
    assert np.array_equal(np.concatenate(found), tokens)


def test_fine_tuning_pays_where_the_text_goes_on_as_it_began(models):
    tokens = tokens_for(small_spec("tiny"), 1500)
    frozen, online = (encode(small_spec("tiny", regime=regime), tokens)[1] for regime in ("frozen", "online"))
    assert online < 0.95 * frozen
    assert encode(small_spec("tiny", regime="online", rate=0), tokens[:90])[1] == pytest.approx(encode(small_spec("tiny"), tokens[:90])[1], rel=0.02)  # fmt: skip


def test_a_model_that_cannot_predict_is_named(models):
    predictor = build(small_spec("tiny"))
    predictor.freeze()
    next(predictor._model.module.parameters()).fill_(float("nan"))
    with pytest.raises(PretrainedFailedError, match="the pretrained model tiny failed: it gave logits that are not finite"):
        encode(small_spec("tiny"), tokens_for(small_spec("tiny")), predictor)


class Wide:
    """A model of a million tokens that predicts the token after the last, with logits far from 0, as large models have them."""

    def __init__(self):
        self.module = torch.nn.Embedding(1, 1)

    def forward(self, tokens, cache, last):
        logits = torch.full((len(tokens), last, 1 << 20), -120.0)
        return logits.scatter_(2, (tokens[:, -last:, None] + 1) % (1 << 20), -100.0), cache


def test_a_million_tokens_cost_one_row_of_logits():
    fields = {"kind": "pretrained", "files": "0" * 64, "parameters": 1, "layers": 1, "width": 1}
    sizes = {"segment_tokens": 256, "streams": 4, "numerics": "native", "training": {"kind": "frozen"}}
    spec = CodeSpec.from_fields({"vocabulary": {"kind": "ids", "size": 1 << 20}, "model": fields, **sizes})

    def fresh():
        predictor = PretrainedPredictor(spec, Wide(), name="wide", first_token=999_000)
        predictor.freeze()
        return predictor

    tokens = np.arange(999_001, 999_021, dtype=np.uint32)
    z, bits, _, checks = encode(spec, tokens, fresh())
    assert bits < 100  # of 400: only a stream's first token is no successor
    found, theirs = decode(spec, z, bits, len(tokens), 3, fresh())
    assert np.array_equal(found, tokens)
    assert theirs == checks
    assert fresh()._logits.nbytes + fresh()._gradient.nbytes == 8 * 4 << 20
    assert spec.memory_bytes < 1 << 29


def test_what_a_spec_says_must_fit_the_files(models):
    good = small_spec("three-hundred")
    assert require_pretrained(good).first_token == 7
    for change, said in (
        ({"vocabulary": {"kind": "bytes"}}, "its vocabulary has m = 300, the data m = 256"),
        ({"model": {**good.model.model_dump(), "context": 25}}, "a context of 25 tokens; it has 24 positions"),
        ({"model": {**good.model.model_dump(), "parameters": 5}}, "the code says parameters 5, its files"),
        (
            {"model": {**good.model.model_dump(), "files": "a" * 64}},
            "aaaaaaaaaaaaaaaa…: it is not held here; start both sides with",
        ),
    ):
        with pytest.raises(PretrainedError, match=said):
            build(CodeSpec.from_fields({**good.model_dump(mode="json"), **change}))
    for change, said in (
        ({"numerics": "exact"}, "numerics are native"),
        ({"segment_tokens": 17}, "a segment of 17 tokens; the model"),
    ):
        with pytest.raises(SpecError, match=said):
            CodeSpec.from_fields({**good.model_dump(mode="json"), **change})


def test_the_code_is_frozen_charged_and_compared(models, directories):
    preset = PRESETS["tiny"]
    assert isinstance(preset.training, FrozenTraining)
    assert isinstance(preset.model, PretrainedModel)
    assert {"shared.code.models.pretrained", "shared.code.models.rows"} <= set(
        required_modules(small_spec("tiny"), code_sources())
    )
    one = PRETRAINED[preset.model.files]
    raw = 8 * sum((directories[0] / name).stat().st_size for name in ("config.json", "model.safetensors"))
    assert 0.8 * raw < one.charge() < raw
    assert "transformers" in json.loads(runtime_fingerprint())


def test_large_files_are_charged_as_they_are(models, directories, monkeypatch):
    monkeypatch.setattr(pretrained, "MEASURED_BYTES", 1000)
    sizes = {name: (directories[1] / name).stat().st_size for name in ("config.json", "model.safetensors")}
    heads = sum(len(f"{name} {size}\n") for name, size in sizes.items())
    assert PRETRAINED[PRESETS["three-hundred"].model.files].charge() == 8 * (sum(sizes.values()) + heads)


def config(**fields):
    def change(directory):
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def cut(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def without_a_tensor(directory):
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    del weights["transformer.wpe.weight"]
    save_file(weights, directory / "model.safetensors")


def pickled(directory):
    (directory / "model.safetensors").unlink()
    torch.save({}, directory / "pytorch_model.bin")


def index(**shards):
    def change(directory):
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda directory: (directory / "config.json").unlink(), "it has no config.json"),
        (lambda directory: (directory / "config.json").write_text("["), "config.json is no JSON object"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"12345678"), "damaged, cut short, or no safetensors"),
        (lambda directory: (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}"), "damaged, cut short"),
        (cut, "model.safetensors is damaged, cut short, or no safetensors file"),
        (pickled, "it has no model.safetensors; weights in other formats are not read"),
        (index(), "model.safetensors.index.json names no files of weights"),
        (index(x="../model.safetensors"), "names no files of weights"),
        (index(x="model-1.safetensors"), "it has no model-1.safetensors, which model.safetensors.index.json names"),
        (config(architectures=["BertForMaskedLM"]), "it is no causal language model: config.json names the architecture"),
        (config(vocab_size=None), "config.json does not say its vocab_size"),
        (config(quantization_config={}), "its weights are quantised"),
        (config(model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"}), "no causal language model of type 'own'"),
        (config(architectures=["LlamaForCausalLM"]), "transformers would make a GPT2LMHeadModel"),
        (config(n_embd=32), "its weights lack transformer.h.0.*, or have them in another shape"),
        (without_a_tensor, "its weights lack transformer.wpe.weight"),
        (lambda directory: directory.rename(directory.with_name("ngram")), "another code has this name; rename the directory"),
    ],
)
def test_a_directory_that_is_no_model(directories, tmp_path, change, said):
    directory = tmp_path / "broken"
    shutil.copytree(directories[1], directory)
    change(directory)
    directory = next(tmp_path.iterdir())
    with pytest.raises(PretrainedError, match=said), held(directory) as (name,):
        build(small_spec(name))
    assert "broken" not in PRESETS
    assert "ngram" in PRESETS


def test_shards_are_one_model(directories, tmp_path):
    from transformers import GPT2LMHeadModel

    GPT2LMHeadModel.from_pretrained(directories[1]).save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with held(directories[1], tmp_path / "shards"):
        one, other = small_spec("three-hundred"), small_spec("shards")
        assert one.digest() != other.digest()
        assert encode(one, tokens_for(one, 90))[0] == encode(other, tokens_for(one, 90))[0]


def test_files_that_change_under_a_service_are_noticed(directories, tmp_path):
    shutil.copytree(directories[1], tmp_path / "changing")
    with held(tmp_path / "changing"):
        config(transformers_version="6")(tmp_path / "changing")
        with pytest.raises(PretrainedError, match="its files are not what they were when this process started"):
            build(small_spec("changing"))


def test_the_extra_is_named_where_it_lacks(directories, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(PretrainedError, match=r"pip install 'codelength\[pretrained\]'"), held(directories[0]):
        pass
    monkeypatch.undo()
    with pytest.raises(PretrainedError, match="there is no such directory"), held(directories[0] / "nowhere"):
        pass
