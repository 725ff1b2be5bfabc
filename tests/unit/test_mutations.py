"""Every unlawful operation, put into a kernel, is caught; docs/exactness.md has the table, written by `pytest --refresh`.

A mutation changes the source of one function. `expected` are the detectors that catch it by construction, on any machine; which
others did so where the table was written stands in its last column and is not asserted.
"""

import inspect
import re
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch

from shared.code import compiled, training
from shared.code.codec import Encoder
from shared.code.errors import CodelengthError, NonPortableOperation
from shared.code.exact import constants, fused, kernels, products, reference
from shared.code.exact.guard import Guard
from shared.code.exact.lint import lint
from shared.code.models import build
from tests.support import decode, encode
from tests.unit.test_exact import KERNELS, TEXT, arguments, bits, fused_kernel, small

torch.set_num_threads(1)

DOCUMENT = Path(__file__).parents[2] / "docs" / "exactness.md"
DETECTORS = ("guard", "lint", "twins", "batched", "futures", "golden")
SPECS = {
    "recurrent": small("recurrent", layers=1, width=8, hidden=8, tables=None),
    "transformer": small("transformer", layers=1, width=8, hidden=0, heads=2, context=3, tables=None),
}
TOKENS = np.frombuffer(TEXT[:72], dtype=np.uint8).astype(np.uint32)


@dataclass(frozen=True)
class Mutation:
    """`changes` in the source of owner.function; expected: names of detectors."""

    name: str
    owner: Any
    function: str
    changes: tuple[str, str]
    expected: str
    code: str = "recurrent"

    def lawful_source(self) -> str:
        function = getattr(self.owner, self.function)
        return textwrap.dedent(inspect.getsource(getattr(function, "py_func", function)))

    def source(self) -> str:
        text = self.lawful_source()
        assert self.changes[0] in text, "the source has changed: adapt the mutation"
        return text.replace(*self.changes)


R, ADAM, F = reference, "adam", "keep1 * m + take1 * g"
MUTATIONS = [
    Mutation("float32 sum in the RMS norm", R, "_inverse_rms", ("(q * q).sum(-1).to(torch.float64) * down * down", "(x * x).sum(-1).to(torch.float64)"), "guard twins"),
    Mutation("mean of floats in the norm's gradient", R, "_mean_product", ("(total.to(torch.float64) * down / _width(a))", "(a * u).mean(-1)"), "guard twins"),
    Mutation("bias gradient as a float sum", R, "sum_rows", ("_integers(values, _inverse_power(e, SUM_BITS)).sum(0)", "(values * _inverse_power(e, SUM_BITS)).sum(0)"), "guard twins"),
    Mutation("embedding gradient by a float index_add", R, "scatter", ("total.index_add_(0, tokens, _integers(dx, _inverse_power(e, SUM_BITS)))", "total = total.to(torch.float32).index_add_(0, tokens, dx * _inverse_power(e, SUM_BITS))"), "guard twins"),
    Mutation("torch.sqrt of float32 in Adam", R, ADAM, ("_root((v * up2).to(torch.float64)).to(torch.float32)", "(v * up2).sqrt()"), "guard"),
    Mutation("torch.sqrt of float64 in the RMS norm", R, "_inverse_rms", ("_root(mean + _EPSILON)", "(mean + _EPSILON).sqrt()"), "guard"),
    Mutation("torch.rsqrt in the RMS norm", R, "_inverse_rms", ("(_number(1.0, x.device, torch.float64) / root).to(torch.float32)", "(mean + _EPSILON).rsqrt().to(torch.float32)"), "guard"),
    Mutation("torch.exp in the gates", R, "_sigmoid", ("e = exp(", "e = torch.exp("), "guard twins"),
    Mutation("torch.sigmoid", R, "_sigmoid", ("torch.where(x >= 0, s, e * s)", "torch.sigmoid(x)"), "guard twins"),
    Mutation("torch.softmax over the window", R, "attend", ("e = exp(scores - scores.amax(-1, keepdim=True))", "e = scores.softmax(-1)"), "guard twins", "transformer"),
    Mutation("addcmul in Adam", R, ADAM, (F, "torch.addcmul(keep1 * m, take1, g)"), "guard"),
    Mutation("lerp in Adam", R, ADAM, (F, "torch.lerp(g, m, keep1)"), "guard"),
    Mutation("subtraction with alpha in Adam", R, ADAM, ("w - rate * step", "w.sub(step, alpha=float(rate))"), "guard"),
    Mutation("division by a Python number", R, "_inverse_rms", ("/ _width(x)", "/ x.shape[-1]"), "guard"),
    Mutation("1 / x, which torch computes as a reciprocal", R, "_sigmoid", ("_number(1.0, x.device) / (e + 1.0)", "1.0 / (e + 1.0)"), "guard"),
    Mutation("a constant that float32 lacks", R, "exp", ("x * float(LOG2_E)", "x * 1.4426950408889634"), "guard lint"),
    Mutation("float32 product", products.Float64, "times", ("torch.mm(left.to(torch.float64), self._right)", "torch.mm(left.to(torch.float32), self._right.to(torch.float32)).to(torch.float64)"), "guard"),
    Mutation("float64 product of numbers that were not rounded", R, "add_product", ("_value(raw, scale)", "torch.mm(_value(raw, scale).to(torch.float64), torch.eye(raw.shape[1], dtype=torch.float64)).to(torch.float32)"), "guard"),
    Mutation("bfloat16 activations", R, "norm_taps", ("torch.mul(x, r[:, None], out=u)", "u[:] = (x.to(torch.bfloat16) * r[:, None]).to(torch.float32)"), "guard twins"),
    Mutation("a conversion without a clamp", R, "_quantized", ("_rounded(x, _ACTIVATION, ACTIVATION_LIMIT)", "(x * _ACTIVATION).round()"), "twins"),
    Mutation("lawful products in another order", R, "gated_scan_backward", ("(h[:rows] - candidate) * (keep * rest)", "(keep * rest) * (h[:rows] - candidate)"), "twins"),
    Mutation("numbers below 2^-100 kept", R, "_flushed", ("torch.where(size >= _SMALL, x, 0.0)", "x"), "twins"),
    Mutation("one norm for all positions of a segment", R, "norm_taps", ("_inverse_rms(x)", "_inverse_rms(x.abs().amax(0, keepdim=True)).expand(len(x))"), "twins batched futures"),
    Mutation("a convolution that looks one position ahead", R, "norm_taps", ("beside.flip(1)", "torch.cat([beside.flip(1)[:, :1], _quantized(u).roll(-streams, 0)[:, None].expand(-1, taps - 1, -1)], 1)"), "twins batched futures"),
    Mutation("a recurrence that runs backwards", R, "gated_scan", ("u[:] = states", "u[:] = states.flip(0)"), "twins batched futures"),
    Mutation("one scale for the values of a segment", R, "attend", ("_quantized(value[:, 2 * width :])", "_quantized(value[:, 2 * width :] / value[:, 2 * width :].abs().amax().clamp(min=_EPSILON))"), "twins batched futures", "transformer"),
    Mutation("a window that reaches one position ahead", R, "_windows", ("(0, t)", "(-1, t + 1)"), "twins batched futures", "transformer"),
    Mutation("positions never seen are attended to", R, "attend", ("torch.where(visible, (e * float(1 << _WEIGHT_BITS)).round(), 0.0)", "(e * float(1 << _WEIGHT_BITS)).round()"), "twins", "transformer"),
    Mutation("fastmath=True", compiled, "kernel", ("fastmath=False", "fastmath=True"), "lint"),
    Mutation("parallel loops", compiled, "kernel", ("nogil=True", "parallel=True"), "lint"),
    Mutation("a power instead of a root in a compiled kernel", fused, ADAM, ("np.sqrt(v[row, i] * up2)", "np.float32((v[row, i] * up2) ** 0.5)"), "lint"),
    Mutation("np.exp in a compiled kernel", fused, ADAM, ("np.sqrt(v[row, i] * up2)", "np.exp(np.float32(0.5) * np.log(v[row, i] * up2 + epsilon))"), "lint"),
    Mutation("a schedule in Python floats", training.Step, "begin", ("_EPSILON, rate,", "1e-8, rate,"), "lint golden"),
    Mutation("first weights from NumPy's generator", constants, "first_weights", ("z ^= z >> np.uint64(31)", "z = np.random.default_rng(seed).integers(0, 1 << 63, rows * columns).astype(np.uint64)"), "lint golden"),
]  # fmt: skip


@contextmanager
def applied(mutation, monkeypatch):
    """While open, networks run with the mutation."""
    in_kernels = mutation.owner in (fused, compiled)
    with monkeypatch.context() as patch:
        kernels.choose("fused" if in_kernels else "reference")
        if mutation.owner is compiled:  # as if Adam had been compiled so
            options = {"fastmath": True} if "fastmath=True" in mutation.source() else {"parallel": True}
            patch.setattr(fused, ADAM, numba.njit(error_model="numpy", **options)(fused.adam.py_func))
        else:
            owner = inspect.getmodule(mutation.owner) if inspect.isclass(mutation.owner) else mutation.owner
            space = dict(vars(owner))
            exec(
                mutation.source().replace("@kernel\n", ""),
                space if in_kernels else vars(owner) | {"__builtins__": __builtins__},
                space,
            )
            function = space[mutation.function]
            if mutation.owner is reference:  # its globals must be the module's own, where its helpers may be mutated
                function = type(function)(function.__code__, vars(reference), mutation.function)
            if mutation.owner is constants:
                for user in ("layers", "recurrent"):
                    patch.setattr(f"shared.code.models.{user}.first_weights", function)
            patch.setattr(
                mutation.owner, mutation.function, numba.njit(error_model="numpy")(function) if in_kernels else function
            )
        try:
            yield
        finally:
            kernels.choose("fused")


def outcome(spec):
    z, count, _, checks = encode(spec, TOKENS)
    return z, count, checks


@pytest.fixture(scope="module")
def golden():
    """What the lawful code gives; products are those that a mutation changes."""
    before = products.chosen()
    products.choose("float64")
    yield {name: outcome(spec) for name, spec in SPECS.items()}
    products.choose(before)


def guard_catches(spec):
    try:
        with Guard():
            outcome(spec)
    except NonPortableOperation:
        return True
    return False


def twins_differ():
    for name in KERNELS:
        for kind in ("ordinary", "saturating", "denormal"):
            given = arguments(name, np.random.default_rng(1), kind)
            theirs = [torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in given]
            fused_kernel(name)(*given)
            getattr(reference, name)(*theirs)
            if any(bits(a) != bits(b.numpy()) for a, b in zip(given, theirs, strict=True) if isinstance(a, np.ndarray)):
                return True
    return False


def batched_differs(spec, found):
    z, count, checks = found
    try:
        tokens, theirs = decode(spec, z, count, len(TOKENS), 64)
    except (CodelengthError, IndexError):
        return True
    return not np.array_equal(tokens, TOKENS) or theirs != checks


def future_shows(spec):
    predictor, rng = build(spec), np.random.default_rng(3)
    list(Encoder(spec, predictor).encode_block(TOKENS))
    positions, streams = spec.segment_tokens, spec.streams
    for cut in (1, 1, positions // 2):
        tokens = rng.integers(32, 127, (positions, streams))
        past = set()
        for low in range(0, 240, 30):
            tokens[cut:] = rng.integers(low, low + 40, (positions - cut, streams))
            past.add(bits(predictor._trunk.forward(tokens, 0)[: streams * cut]))
        if len(past) > 1:
            return True
    return False


def caught_by(mutation, golden, monkeypatch):
    """Every detector's verdict."""
    spec, found = SPECS[mutation.code], set()
    if len(lint(mutation.source())) > len(lint(mutation.lawful_source())):
        found.add("lint")
    with applied(mutation, monkeypatch):
        if guard_catches(spec):
            found.add("guard")
        if twins_differ():
            found.add("twins")
        result = outcome(spec)
        if result != golden[mutation.code]:
            found.add("golden")
        if batched_differs(spec, result):
            found.add("batched")
        if future_shows(spec):
            found.add("futures")
    return found


FOUND: dict[str, set[str]] = {}


def test_lawful_code_is_caught_by_nothing(golden):
    for name, spec in SPECS.items():
        for kind in kernels.NAMES:
            kernels.choose(kind)
            assert not guard_catches(spec)
            assert not batched_differs(spec, golden[name])
            assert not future_shows(spec)
            assert outcome(spec) == golden[name]
    kernels.choose("fused")
    assert not twins_differ()


@pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaPerformanceWarning")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_are_caught(mutation, golden, monkeypatch):
    expected = set(mutation.expected.split())
    FOUND[mutation.name] = caught_by(mutation, golden, monkeypatch)
    assert expected
    assert expected <= FOUND[mutation.name]


def test_the_table_in_the_documents(request):
    text = DOCUMENT.read_text(encoding="utf-8")
    if request.config.getoption("--refresh") and len(FOUND) == len(MUTATIONS):
        rows = ["| mutation | caught by | and, where this was written, by |", "|---|---|---|"]
        for mutation in MUTATIONS:
            expected = mutation.expected.split()
            more = [name for name in DETECTORS if name in FOUND[mutation.name] and name not in expected]
            rows.append(f"| {mutation.name} | {', '.join(expected)} | {', '.join(more)} |")
        table = "<!-- mutations -->\n" + "\n".join(rows) + "\n<!-- /mutations -->"
        text = re.sub("<!-- mutations -->.*<!-- /mutations -->", lambda _: table, text, flags=re.DOTALL)
        DOCUMENT.write_text(text, encoding="utf-8")
    table = text.partition("<!-- mutations -->")[2].partition("<!-- /mutations -->")[0]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table.strip().splitlines()[2:]]
    assert rows == [(mutation.name, ", ".join(mutation.expected.split())) for mutation in MUTATIONS]
