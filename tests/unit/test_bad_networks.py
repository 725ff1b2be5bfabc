"""What a network does with what no one should give it: training that diverges, a processor that rounds denormals to zero."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shared.code.codec import Encoder
from shared.code.errors import MachineError
from shared.code.exact import kernels
from shared.code.exact.constants import WEIGHT_CEILING
from shared.code.models import build, preset
from shared.service import backends
from shared.service.settings import Settings
from tests.support import SMALL_NETWORKS, decode, encode, small

RNG = np.random.default_rng(3)
WORDS = b"to be or not to be, that is the question: "
TOKENS = np.concatenate([np.frombuffer(WORDS * 20, np.uint8), RNG.integers(0, 256, 2000, dtype=np.uint8)]).astype(np.uint32)
FASTEST = {"training": {"optimizer": {"rate": 1 << 20}}}


@pytest.fixture(autouse=True)
def _machine():
    yield
    kernels.choose("fused")


@pytest.mark.parametrize("name", SMALL_NETWORKS)
@pytest.mark.parametrize("streams", [2, 16])
def test_training_that_diverges_saturates_decodes_and_says_so(name, streams):
    """The rate at its maximum: with enough steps weights reach their ceiling; the other kernels still compute the same."""
    spec = small(name, streams=streams, segment_tokens=1 if streams == 2 else 10, block_tokens=1000, **FASTEST)
    tokens = TOKENS[: 1400 if streams == 2 else None]
    encoder, decoder = build(spec), build(spec)
    z, bits, _, checks = encode(spec, tokens, encoder)
    weights = [array for place, array in encoder._arrays().items() if place.endswith(".w")]
    assert all(np.isfinite(array).all() for array in encoder._arrays().values())
    reached = max(np.abs(array).max() for array in weights)
    assert reached == WEIGHT_CEILING if streams == 2 else 4 < reached <= WEIGHT_CEILING
    if streams > 2:  # torch operations take too long for so many steps
        kernels.choose("reference")
        decoder = build(spec)
    found, theirs = decode(spec, z, bits, len(tokens), 4096, decoder)
    assert np.array_equal(found, tokens)
    assert checks == theirs
    assert encoder.notes() == decoder.notes()
    assert (streams == 2) == ("reached their ceiling" in " ".join(encoder.notes()))


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_model_far_worse_than_none_is_told(name):
    encoder = Encoder(small(name, streams=16, segment_tokens=10, block_tokens=1024, **FASTEST))
    for start in range(0, len(TOKENS), 1024):
        list(encoder.encode_block(TOKENS[start : start + 1024]))
        encoder.check(with_digest=False)
    assert "cost over 1 bit a token more" in " ".join(encoder.notes)


def test_a_network_that_learns_has_nothing_to_say():
    encoder = Encoder(small("recurrent", streams=16, block_tokens=1024))
    list(encoder.encode_block(TOKENS[-1024:]))  # noise, most of it
    encoder.check(with_digest=False)
    assert encoder.notes == []


def test_a_preset_at_the_greatest_rate_decodes():
    spec = preset("transformer")
    spec = spec.model_copy(update={"training": small("transformer", **FASTEST).training, "block_tokens": 1024})
    z, bits, _, checks = encode(spec, TOKENS[:2048])
    found, theirs = decode(spec, z, bits, 2048, 4096)
    assert np.array_equal(found, TOKENS[:2048])
    assert checks == theirs


_FLUSHING = """
import torch
from shared.code.errors import MachineError
from shared.service import backends
if not torch.set_flush_denormal(True):
    print("cannot")
else:
    try:
        backends.prepare()
    except MachineError as error:
        print(error)
"""


def test_a_processor_that_flushes_denormals_is_refused():
    done = subprocess.run([sys.executable, "-c", _FLUSHING], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "cannot":
        pytest.skip("this processor cannot be told to flush denormals")
    assert "replaces denormal numbers by zero" in done.stdout


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CODELENGTH_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with monkeypatch.context() as one_gpu:
        one_gpu.setenv("CODELENGTH_DEVICE", "cuda:7")
        one_gpu.setattr(torch.cuda, "is_available", lambda: True)
        one_gpu.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(MachineError, match="is cuda:7, and there are 1 CUDA devices"):
            backends.prepare()
    with monkeypatch.context() as full:
        full.setenv("CODELENGTH_DEVICE", "cpu")
        full.setattr(backends, "_timings", lambda _: {})
        with pytest.raises(MachineError, match="no back end of products is exact on cpu"):
            backends.prepare()
    with pytest.raises(MachineError, match="CODELENGTH_DEVICE is cuda, and torch finds no CUDA device here"):
        backends.prepare()
    with pytest.raises(ValidationError, match="device"):
        Settings(device="tpu")
