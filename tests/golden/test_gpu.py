"""The golden vectors of the networks on a GPU, and Alice on the GPU with Bob on the CPU. `make check-gpu`."""

import numpy as np
import pytest
import torch

from shared.code.exact import kernels, products
from shared.code.models import build, preset
from shared.service import vectors
from tests.support import HEAVY, NETWORK_PRESETS, decode, encode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

TOKENS = np.frombuffer(b"to be or not to be, that is the question: " * 40, dtype=np.uint8).astype(np.uint32)


@pytest.fixture(autouse=True)
def _machine():
    yield
    kernels.choose("fused")
    products.choose("float64")


GOLDEN = vectors.golden(heavy=True)[0]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.split()[0] in NETWORK_PRESETS + HEAVY])
@pytest.mark.parametrize("backend", products.BACKENDS)
def test_vectors(name, backend, monkeypatch):
    monkeypatch.setenv("CODELENGTH_DEVICE", "cuda")
    monkeypatch.setenv("CODELENGTH_PRODUCTS", backend)
    assert vectors.compute([name]) == {name: GOLDEN[name]}


@pytest.mark.parametrize("code", NETWORK_PRESETS)
@pytest.mark.parametrize("backend", products.BACKENDS)
def test_alice_on_the_gpu_and_bob_on_the_cpu(code, backend):
    assert backend in products.available("cuda")
    spec = preset(code)
    kernels.choose("reference", "cuda")
    products.choose(backend)
    z, bits, _, checks = encode(spec, TOKENS, build(spec))
    kernels.choose("fused")
    found, theirs = decode(spec, z, bits, len(TOKENS), 4096, build(spec))
    assert np.array_equal(found, TOKENS)
    assert checks == theirs
