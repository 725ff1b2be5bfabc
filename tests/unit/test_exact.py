"""Exact arithmetic: every kernel equals its twin bit for bit, and whole transmissions do, whatever computes them."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared.code.codec import Encoder
from shared.code.exact import attention, fused, kernels, products, reference
from shared.code.models import build, preset
from shared.code.models.layers import Linear
from shared.code.spec import CodeSpec
from tests.support import REPLAY, decode, encode

torch.set_num_threads(1)

POSITIONS, STREAMS, WIDTH, TAPS, SIZE = 5, 3, 16, 2, 40
ROWS = POSITIONS * STREAMS
SCALE = 2.0**-20
KINDS = ("ordinary", "zeros", "negative zeros", "denormal", "tiny", "huge", "mixed", "saturating")
TEXT = b"".join(b"line %d: the quick brown fox jumps over the lazy dog %d times; " % (i, i * i % 97) for i in range(50))[:3000]


@pytest.fixture(autouse=True)
def _machine():
    yield
    kernels.choose("fused")
    products.choose("float64")


def floats(rng, kind, *shape):
    """float32 numbers of a kind that a kernel may meet."""
    x = rng.standard_normal(shape)
    exponents = rng.integers(-140, 41, shape)
    return {
        "ordinary": x,
        "zeros": np.zeros(shape),
        "negative zeros": -np.zeros(shape),
        "denormal": x * 2.0**-140,
        "tiny": x * 2.0**-70,
        "huge": x * 2.0**40,
        "mixed": x * 2.0**exponents,
        "saturating": np.sign(x) * 2.0**40,
    }[kind].astype(np.float32)


def raws(rng, kind, *shape):
    """float64 integer-valued numbers, as products are; with SCALE their values reach from 2^-20 to 2^33."""
    limit = {"ordinary": 1 << 22, "zeros": 1, "negative zeros": 1, "denormal": 2, "tiny": 4, "huge": 1 << 53}.get(kind, 1 << 40)
    raw = rng.integers(1 - limit, limit, shape).astype(np.float64)
    return np.copysign(limit - 1, raw) if kind == "saturating" else -raw if kind == "negative zeros" else raw


def units(rng, *shape):
    return rng.integers(-(1 << 14), (1 << 14) + 1, shape).astype(np.int16)


def empty(kind, *shape):
    return np.full(shape, 77, dtype=kind)  # every kernel must overwrite all of it


def scan_state(rng, kind):
    state = [floats(rng, kind, ROWS, WIDTH) for _ in range(3)]
    return [np.clip(np.abs(state[0]), 0, 1), *state[1:], floats(rng, kind, STREAMS + ROWS, WIDTH)]


def arguments(name, rng, kind):
    """Arguments of a kernel; arrays that it writes come with what may stand there before."""
    f32 = floats(rng, kind, ROWS, WIDTH)
    match name:
        case "gather":
            return [empty("float32", ROWS, WIDTH), floats(rng, kind, SIZE, WIDTH), rng.integers(0, SIZE, ROWS)]
        case "scatter":
            return [empty("float64", SIZE, WIDTH), rng.integers(0, SIZE // 4, ROWS), f32, float(np.abs(f32).max())]
        case "sum_rows":
            return [empty("float64", 1, WIDTH), f32, float(np.abs(f32).max())]
        case "quantize":
            return [empty("int16", ROWS, WIDTH), empty("float64", 1), f32, float(np.abs(f32).max()), 13]
        case "peak":
            return [f32]
        case "product_peak":
            return [raws(rng, kind, ROWS, WIDTH), SCALE]
        case "norm_taps":
            kept = units(rng, (TAPS - 1) * STREAMS + ROWS, WIDTH)
            tail = slice(STREAMS, ROWS)  # rows in the middle of a segment, as a decoder has them
            x, rows = f32[tail], ROWS - STREAMS
            return [
                empty("int16", rows, TAPS * WIDTH),
                *(empty("float32", *s) for s in ((rows, WIDTH), (rows,))),
                kept,
                x,
                STREAMS,
                TAPS,
                STREAMS,
            ]
        case "norm_taps_backward":
            return [
                f32,
                raws(rng, kind, ROWS, TAPS * WIDTH),
                SCALE,
                floats(rng, "ordinary", ROWS, WIDTH),
                np.abs(floats(rng, kind, ROWS)),
                TAPS,
                STREAMS,
            ]
        case "add_product":
            return [f32, raws(rng, kind, ROWS, WIDTH), SCALE]
        case "integer_logits":
            return [empty("int32", ROWS, SIZE), raws(rng, kind, ROWS, SIZE), SCALE]
        case "relu_squared":
            return [empty("int16", ROWS, WIDTH), empty("float32", ROWS, WIDTH), raws(rng, kind, ROWS, WIDTH), SCALE]
        case "relu_squared_backward":
            return [empty("float32", ROWS, WIDTH), raws(rng, kind, ROWS, WIDTH), SCALE, f32]
        case "gated_scan":
            state = [empty("float32", ROWS, WIDTH) for _ in range(3)]
            h = np.clip(floats(rng, kind, STREAMS + ROWS, WIDTH), -(2.0**30), 2.0**30)
            written = [empty("float32", ROWS, WIDTH), empty("float32", ROWS)]
            return [
                empty("int16", ROWS, WIDTH),
                *state,
                h,
                *written,
                raws(rng, kind, ROWS, 3 * WIDTH),
                SCALE,
                floats(rng, kind, WIDTH),
                0,
                STREAMS,
            ]
        case "gated_scan_backward":
            norms = [floats(rng, "ordinary", ROWS, WIDTH), np.abs(floats(rng, "ordinary", ROWS))]
            return [
                empty("float32", ROWS, 3 * WIDTH),
                raws(rng, kind, ROWS, WIDTH),
                SCALE,
                *scan_state(rng, kind),
                *norms,
                STREAMS,
            ]
        case "adam":
            moments = [floats(rng, kind, ROWS, WIDTH) for _ in range(2)]
            factors = np.array([0.8, 0.2, 0.99, 0.01, 5, 100, 2.0**-27, 0.004, 4], dtype=np.float32)
            return [f32, moments[0], np.minimum(np.abs(moments[1]), 2.0**40), raws(rng, kind, ROWS, WIDTH), SCALE, factors]
        case "attend" | "attend_backward":
            heads, context, seen, factor = 2, 4, np.array([3]), attention.score_factor(WIDTH // 2)
            norms = [empty("float32", ROWS, 2 * WIDTH), empty("float32", ROWS, 2 * heads)]
            caches = [units(rng, STREAMS, context + POSITIONS, WIDTH) for _ in range(2)]
            weights, bias = empty("int16", ROWS, heads, context + 1), floats(rng, "ordinary", heads, context + 1)
            forward = [empty("int16", ROWS, WIDTH), *norms, empty("int16", ROWS, WIDTH), *caches, weights]
            forward += [raws(rng, kind, ROWS, 3 * WIDTH), SCALE, bias, factor, 0, STREAMS, context, seen]
            if name == "attend":
                return forward
            attention.attend(*forward)
            outputs = [empty("float32", ROWS, 3 * WIDTH), empty("float64", heads, context + 1)]
            raw = raws(rng, kind, ROWS, WIDTH)
            bound = fused.product_peak(raw, SCALE)
            return [*outputs, raw, SCALE, *forward[1:7], factor, STREAMS, context, bound]
        case "slide":
            return [units(rng, STREAMS, 9, WIDTH), 5, 4]
        case "exp":
            return [-np.abs(f32.reshape(-1))]
    raise AssertionError(f"{name} has no arguments here: add them")


def public(module):
    return {
        n
        for n, f in vars(module).items()
        if not n.startswith("_") and callable(f) and getattr(f, "__module__", "") == module.__name__
    }


PLAIN = {"zeros", "from_numpy", "to_numpy", "assign", "shift", "twin", "Stage", "recorder"}
HELPERS = {
    "keeps_denormals",
    "whole",
    "exp",
    "sigmoid",
    "exponent",
    "power",
    "largest",
    "quantized",
    "inverse_rms",
    "mean_product",
}
KERNELS = sorted((public(fused) | public(attention)) - PLAIN - HELPERS - {"score_factor"})


def fused_kernel(name):
    return getattr(fused, name, None) or getattr(attention, name)


def bits(array):
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("name", products.BACKENDS)
def test_products_of_every_small_shape(name):
    """`_int_mm` was wrong for an inner dimension of 1, which one stream's last position has."""
    made = torch.Generator().manual_seed(1)
    for rows, inner, columns in itertools.product((1, 2, 3, 16, 17), (1, 2, 3, 7, 8, 9, 16), (1, 2, 3, 8, 17)):
        left = torch.randint(-(1 << 14), (1 << 14) + 1, (rows, inner), generator=made).to(torch.int16)
        right = torch.randint(-(1 << 13), (1 << 13) + 1, (inner, columns), generator=made).to(torch.int16)
        want = (left.to(torch.int64)[:, :, None] * right.to(torch.int64)[None]).sum(1).to(torch.float64)
        for one in (left, left.t().contiguous().t()):
            for other in (right, right.t().contiguous().t()):
                assert torch.equal(products.BACKENDS[name](other).times(one), want), (rows, inner, columns)


def test_every_kernel_has_a_twin_with_the_same_arguments():
    assert len(KERNELS) >= 16
    for name in {*KERNELS, *PLAIN, "exp"}:
        ours = inspect.signature(fused_kernel(name)).parameters
        assert list(ours) == list(inspect.signature(getattr(reference, name)).parameters), name


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_twins(name, kind):
    for seed in range(3):
        given = arguments(name, np.random.default_rng(seed), kind)
        theirs = [torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in given]
        results = fused_kernel(name)(*given), getattr(reference, name)(*theirs)
        assert results[0] == results[1]
        for index, (a, b) in enumerate(zip(given, theirs, strict=True)):
            if isinstance(a, np.ndarray):
                assert bits(a) == bits(b.numpy()), (index, seed)


def test_the_exponential_on_every_scale():
    x = -np.concatenate([np.linspace(0, 110, 20_001), [2.0**-149, 2.0**40], 2.0 ** np.arange(-130, 20)]).astype(np.float32)
    ours = np.array([fused.exp(value) for value in x], dtype=np.float32)
    assert bits(ours) == bits(reference.exp(torch.from_numpy(x)).numpy())
    assert np.max(np.abs(ours[:10_000] / np.exp(x[:10_000].astype(np.float64)) - 1)) < 1e-5


def test_square_roots():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.random(1 << 16) * 8, 2.0 ** rng.integers(-100, 60, 1 << 10)])
    assert bits(reference._root(torch.from_numpy(x)).numpy()) == bits(np.sqrt(x))
    f = x.astype(np.float32)
    # even torch's own root, when wrong by an ulp of float64, cannot move that of a float32 across a rounding boundary
    assert bits(torch.from_numpy(f).to(torch.float64).sqrt().to(torch.float32).numpy()) == bits(np.sqrt(f))


class FromTheHost(TorchDispatchMode):
    """Collects the operations by which a number passes between host and device."""

    def __init__(self):
        super().__init__()
        self.found, self.operations = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.operations += 1
        if name in ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "unique"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_nothing_recorded_goes_through_the_host(kind, monkeypatch):
    """What a CUDA graph plays back reads and writes the same memory every time."""
    kernels.choose("reference")
    monkeypatch.setattr(reference, "_root", torch.sqrt)  # as on a GPU
    trunk = build(small(kind, heads=2, context=5) if kind == "transformer" else small(kind))._trunk
    watched = []

    def run(key, work):
        with FromTheHost() as mode:
            work()
        watched.append((key[0], mode))

    trunk._run, inputs, places = run, np.zeros((8, 3), dtype=np.int64), []
    for k in range(2):
        trunk.train(np.ones_like(trunk.forward(inputs, 0), dtype=np.float32), k)
        held = [array for array in trunk._live().values() if isinstance(array, torch.Tensor)]
        held += [part._forward._right for part in vars(trunk._layers[0]).values() if isinstance(part, Linear)]
        places.append([array.data_ptr() for array in held])
    assert places[0] == places[1]
    assert [name for name, _ in watched] == ["forward", "train"] * 2
    assert all(mode.operations > 50 and not mode.found for _, mode in watched), [mode.found for _, mode in watched]


def test_plain_functions():
    for module in (fused, reference):
        array = module.zeros((4, 2), "int16")
        module.assign(array, np.arange(8, dtype=np.int16).reshape(4, 2))
        module.shift(array, 1, 3)
        assert module.to_numpy(array).tolist() == [[2, 3], [4, 5], [6, 7], [6, 7]]
        assert module.to_numpy(module.from_numpy(np.arange(3))).tolist() == [0, 1, 2]
        stage = module.Stage((4, 2), "int32")
        assert module.to_numpy(stage.put(np.array([[1, 2], [3, 4]], dtype=np.int32), slice(1, 3))).tolist() == [[1, 2], [3, 4]]
        assert stage.take(slice(1, 3)).tolist() == [[0, 0], [1, 2], [3, 4]]
        done = []
        for _ in range(5):
            module.recorder()("once", lambda done=done: done.append(1))
        assert len(done) == 5
    assert reference.to_numpy(np.ones(1)).tolist() == [1]


def coded(spec, tokens):
    z, bits, units, checks = encode(spec, tokens)
    return z, bits, units, checks[-1].digest


@pytest.mark.parametrize("code", ["recurrent", "transformer"])
def test_whole_transmissions_are_equal_under_all_kernels_and_products(code):
    spec, found = preset(code), {}
    tokens = np.frombuffer(TEXT[: 3000 if code == "recurrent" else 1200], dtype=np.uint8).astype(np.uint32)
    for name in kernels.NAMES:
        for backend in products.available():
            kernels.choose(name)
            products.choose(backend)
            found[name, backend] = coded(spec, tokens)
    assert len(found) >= 2
    assert len(set(found.values())) == 1, {key: value[3].hex()[:8] for key, value in found.items()}


def small(kind, **fields):
    model = {"kind": kind, "layers": 2, "width": 16, "hidden": 24, "taps": 2, "tables": {"bits": 8}, **fields}
    return CodeSpec.from_fields({"model": model, "segment_tokens": 8, "streams": 3, "block_tokens": 256})


SMALL = small("recurrent")
ATTENTIVE = small("transformer", heads=2, context=5)
REPLAYED = CodeSpec.from_fields({**ATTENTIVE.model_dump(mode="json"), "training": REPLAY})
CODES = pytest.mark.parametrize("spec", [SMALL, ATTENTIVE, REPLAYED], ids=["recurrent", "transformer", "replay"])


@pytest.mark.parametrize("name", kernels.NAMES)
@CODES
def test_batched_equals_token_by_token(name, spec):
    kernels.choose(name)
    tokens = np.frombuffer(TEXT[:300], dtype=np.uint8).astype(np.uint32)
    z, bits, _, checks = encode(spec, tokens)
    kernels.choose(next(n for n in kernels.NAMES if n != name))  # Bob has the other kernels
    found, theirs = decode(spec, z, bits, len(tokens), 7)
    assert np.array_equal(found, tokens)
    assert checks == theirs  # CRCs of the coder's triples and digests of the weights


@CODES
@pytest.mark.parametrize("name", kernels.NAMES)
def test_a_state_can_be_restored(name, spec):
    kernels.choose(name)
    tokens = np.frombuffer(TEXT[:512], dtype=np.uint8).astype(np.uint32)
    first, second = Encoder(spec), Encoder(spec)
    list(first.encode_block(tokens[:256]))
    second.restore(first.state_bytes())
    for encoder in (first, second):
        list(encoder.encode_block(tokens[256:]))
    assert first.check(with_digest=True) == second.check(with_digest=True)


def trained(spec):
    """A predictor with weights that have learned something, and some of them extreme."""
    predictor = build(spec)
    encoder = Encoder(spec, predictor)
    list(encoder.encode_block(np.frombuffer(TEXT[:256], dtype=np.uint8).astype(np.uint32)))
    table = predictor._trunk._embedding._table.values
    table[200:] *= 4096.0  # tokens of the future that shout
    return predictor


@CODES
@pytest.mark.parametrize("name", kernels.NAMES)
def test_rewritten_futures_leave_every_bit_of_the_past(name, spec):
    kernels.choose(name)
    predictor, rng = trained(spec), np.random.default_rng(5)
    positions, streams = spec.segment_tokens, spec.streams
    inputs = rng.integers(32, 127, (positions, streams))
    logits = predictor._trunk.forward(inputs, 0).copy()
    assert len(np.unique(logits)) > 100
    for t in range(1, positions):
        for low, high in ((0, 256), (200, 256)):
            changed = inputs.copy()
            changed[t:] = rng.integers(low, high, changed[t:].shape)
            found = predictor._trunk.forward(changed, 0)
            assert bits(found[: t * streams]) == bits(logits[: t * streams])
            assert bits(found) != bits(logits)


def test_unknown_choices():
    for choice in (("fused", "cuda"), ("other", "cpu")):
        with pytest.raises(ValueError, match="kernels for"):
            kernels.choose(*choice)
    assert kernels.chosen() is fused
