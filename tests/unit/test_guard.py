"""The guard lets f through and stops what differs between machines; the trace names the first operation that differs."""

import numpy as np
import pytest
import torch

from shared.channel.errors import describe
from shared.code.errors import NonPortableOperation
from shared.code.exact import fused, kernels, products, reference
from shared.code.exact.guard import Guard
from shared.code.exact.trace import Difference, Entry, Trace, digest, first_difference, watched
from shared.code.models.recurrent import Recurrent
from tests.support import decode, encode
from tests.unit.test_exact import CODES, SMALL, TEXT

torch.set_num_threads(1)

X = torch.arange(1, 13, dtype=torch.float32).reshape(3, 4)
D = X.to(torch.float64)
I = X.to(torch.int64)  # noqa: E741
ONE = torch.ones(())


@pytest.fixture(autouse=True)
def _machine():
    yield
    kernels.choose("fused")
    products.choose("float64")


UNLAWFUL = {
    "sum": (X.sum, "sum integers"),
    "sum over one dimension": (lambda: D.sum(0), "sum integers"),
    "sum of integers as floats": (lambda: I.sum(dtype=torch.float32), "sum integers"),
    "mean": (X.mean, "sum integers"),
    "cumsum": (lambda: X.cumsum(0), "sum integers"),
    "norm": (lambda: torch.linalg.vector_norm(X), "sum integers"),
    "logsumexp": (lambda: X.logsumexp(0), "sum integers|polynomial"),
    "var": (X.var, "sum integers"),
    "layer norm": (lambda: torch.nn.functional.layer_norm(X, (4,)), "sum integers"),
    "scatter_add": (lambda: torch.zeros(3, 4).scatter_add(0, I.clamp(0, 2), X), "sum integers"),
    "index_add": (lambda: torch.zeros(3, 4).index_add_(0, torch.tensor([0, 0, 1]), X), "sum integers"),
    "accumulating index_put": (
        lambda: torch.zeros(3, 4).index_put_((torch.tensor([0, 0, 1]),), X, accumulate=True),
        "sum integers",
    ),
    "softmax": (lambda: X.softmax(0), "polynomial"),
    "exp": (X.exp, "polynomial"),
    "sigmoid": (X.sigmoid, "polynomial"),
    "silu": (lambda: torch.nn.functional.silu(X), "polynomial"),
    "tanh": (D.tanh, "polynomial"),
    "log": (D.log, "table"),
    "sin": (X.sin, "table"),
    "linspace": (lambda: torch.linspace(0, 1, 7), "table"),
    "pow": (lambda: X**1.5, "table"),
    "square root of float32": (X.sqrt, "float64"),
    "square root of float64": ((D / (D + 1.0)).sqrt, "NumPy"),
    "rsqrt": (X.rsqrt, "float64"),
    "reciprocal": (X.reciprocal, "ones_like"),
    "add with alpha": (lambda: X.add(X, alpha=3), "separate"),
    "sub with alpha": (lambda: X.sub_(X * 0, alpha=0.5), "separate"),
    "rsub with alpha": (lambda: torch.rsub(X, X, alpha=2), "separate"),
    "addcmul": (lambda: X.addcmul(X, X), "separate"),
    "addcdiv": (lambda: X.addcdiv(X, X), "separate"),
    "lerp": (lambda: X.lerp(X, 0.5), "separate"),
    "addmm": (lambda: torch.addmm(X[:, 0], X[:, :3], X[:, :3]), "separate"),
    "baddbmm": (lambda: torch.baddbmm(X[None, :, :3], X[None, :, :3], X[None, :, :3]), "separate"),
    "hypot": (lambda: torch.hypot(X, X), "separate"),
    "float32 product": (lambda: X @ X.t(), "prepare"),
    "float64 product": (lambda: D @ D.t(), "prepare"),
    "batched product": (lambda: torch.bmm(X[None], X.t()[None]), "prepare"),
    "dot": (lambda: X[0].dot(X[1]), "prepare"),
    "product of digits that saturate": (lambda: torch._int_mm(*(torch.full((32, 32), -128, dtype=torch.int8),) * 2), "base 128"),
    "division by a number": (lambda: X / 3.0, "by a tensor"),
    "division of integers": (lambda: I / I, "convert first"),
    "a rounded scalar": (lambda: X * 0.1, "float32 once"),
    "mixed types": (lambda: X * D, "convert first"),
    "integers times a float": (lambda: I * 0.5, "convert first"),
    "bfloat16": (lambda: X.to(torch.bfloat16), "float32"),
    "float16 arithmetic": (lambda: torch.ones(2, dtype=torch.float16) + 1, "float32"),
    "overflow to int16": (lambda: (X * 65536.0).to(torch.int16), "clamp"),
    "NaN to an integer": (lambda: torch.full((2,), float("nan")).to(torch.int64), "clamp"),
    "overflow in a copy": (lambda: torch.zeros(3, 4, dtype=torch.int8).copy_(X * 1024.0), "clamp"),
    "round to decimals": (lambda: X.round(decimals=2), "guard"),
    "sort": (X.sort, "guard"),
    "random": (lambda: torch.rand(3), "guard"),
    "foreach": (lambda: torch._foreach_add([X], 1.0), "one tensor"),
    "optimiser": (
        lambda: torch._fused_adam_(
            [X], [X], [X], [X], [], [ONE], amsgrad=False, lr=0.1, beta1=0.9, beta2=0.9, weight_decay=0, eps=1e-8, maximize=False
        ),
        "one tensor",
    ),
    "autograd's hidden sums": (lambda: (torch.ones(4, requires_grad=True) + X).backward(X), "sum integers"),
}


@pytest.mark.parametrize("name", UNLAWFUL)
def test_unlawful_operations_are_named_with_the_lawful_way(name):
    operation, way = UNLAWFUL[name]
    with Guard(), pytest.raises(NonPortableOperation, match=way) as caught:
        operation()
    assert caught.value.operation in str(caught.value)


def test_lawful_operations_pass():
    with Guard() as guard:
        assert torch.equal(I.sum(0), torch.tensor([15, 18, 21, 24]))
        (X * 0.5 + X - 1.0).round().clamp(-9, 9).to(torch.int16)
        (X.to(torch.float64).sqrt().to(torch.float32) / X).abs().amax(-1)
        torch.where(X < 3, X, torch.zeros_like(X))[I[0] % 3]
        torch.zeros(3, 4, dtype=torch.int64).index_add_(0, torch.tensor([0, 0, 1]), I)
        (X.view(torch.int32) >> 23) & 255
        products.prepare(I.t().to(torch.int16)).times(I.to(torch.int16))
        assert I @ I.t() is not None
        torch.div(I, 3, rounding_mode="floor")
    assert guard.operations > 20


def test_products_must_be_of_small_integers():
    wide = products.Float64(torch.full((2, 2), 1 << 14, dtype=torch.int16))
    with Guard(), pytest.raises(NonPortableOperation, match="small integers"):
        wide.times(torch.ones(2, 2, dtype=torch.int16))


@CODES
@pytest.mark.parametrize("backend", products.BACKENDS)
def test_networks_pass_under_the_guard(backend, spec):
    kernels.choose("reference")
    products.choose(backend)
    tokens = np.frombuffer(TEXT[:60], dtype=np.uint8).astype(np.uint32)
    with Guard() as guard:
        z, bits, _, checks = encode(spec, tokens)
        found, theirs = decode(spec, z, bits, len(tokens), 64)
    assert np.array_equal(found, tokens)
    assert checks == theirs
    assert guard.operations > 5_000
    kernels.choose("fused")
    assert encode(spec, tokens)[0] == z


def test_its_name_outside():
    assert describe(NonPortableOperation("exp", "…")).slug == "non-portable-operation"


TOKENS = np.frombuffer(TEXT[:60], dtype=np.uint8).astype(np.uint32)


def flip(array, row, bit):
    """One bit of one float32 of a row."""
    (array if isinstance(array, np.ndarray) else array.numpy())[row].view(np.int32)[3] ^= 1 << bit


def recorded(flipped_token):
    kernels.choose("reference")
    predictor = Recurrent(SMALL)
    if flipped_token is not None:
        flip(predictor._trunk._embedding._table.values, flipped_token, 0)
    with Trace() as trace:
        encode(SMALL, TOKENS, predictor)
    return trace.entries


def test_the_trace_names_the_first_operation_that_differs():
    reference._number.cache_clear()  # a process that has computed nothing yet records what one does that has
    ours = recorded(None)
    assert len(ours) > 1000
    assert first_difference(ours, recorded(None)) is None
    difference = first_difference(ours, recorded(ord("i")))  # its last bit
    assert difference.ours.name == "index.Tensor"  # the gather of that row, long before any logit
    assert str(difference).startswith(f"operation {difference.index}, index.Tensor, gave")
    names = [entry.name for entry in ours[: difference.index]]
    assert names.count("index.Tensor") < 3
    assert first_difference(ours, recorded(ord("Z"))).ours.name == "sub.Tensor"  # not in the text: seen when Adam steps


def watching(name, monkeypatch, change=None):
    entries = []
    monkeypatch.setattr(kernels, "_chosen", watched({"fused": fused, "reference": reference}[name], entries))
    predictor = Recurrent(SMALL)
    if change:
        change(predictor)
    encode(SMALL, TOKENS, predictor)
    return entries


def test_watched_kernels_agree_and_name_the_first_that_does_not(monkeypatch):
    ours = watching("fused", monkeypatch)
    assert first_difference(ours, watching("reference", monkeypatch)) is None
    theirs = watching("reference", monkeypatch, lambda p: flip(p._trunk._layers[0]._bias.values, 0, 22))
    assert first_difference(ours, theirs).ours.name == "gated_scan"
    monkeypatch.setattr(reference, "relu_squared_backward", lambda dz, raw, scale, z: dz.copy_(z * 0.5))
    watched_reference = watching("reference", monkeypatch)
    assert first_difference(ours, watched_reference).index > 20


def test_differences_and_digests():
    a, b = Entry(0, "add.Tensor", "00"), Entry(0, "mul.Tensor", "00")
    assert str(Difference(0, a, None)) == "operation 0 was add.Tensor here and nothing there"
    assert str(first_difference([a], [b])) == "operation 0 was add.Tensor here and mul.Tensor there"
    assert digest(-np.zeros(2)) == digest(torch.zeros(2, dtype=torch.float64))
    assert digest(np.zeros(2)) != digest(np.zeros((1, 2)))
    assert digest([np.arange(3, dtype=">i4"), 7]) == digest([torch.arange(3, dtype=torch.int32), 7])
