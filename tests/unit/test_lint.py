"""The lint passes on f and catches what it is there for."""

import pytest

from shared.code.exact.lint import ALLOWED, lint, unexplained
from shared.service.kernels import PACKAGE, code_sources


def test_f_is_clean_and_every_exception_is_needed():
    used = set()
    found = {}
    for name, source in code_sources().items():
        module = name.removeprefix(f"{PACKAGE}.")
        if module in ("models.native", "models.module", "models.rows"):  # outside the law by its name
            continue
        if findings := unexplained(module, source.decode(), used):
            found[module] = [str(finding) for finding in findings]
    assert not found
    assert used == set(ALLOWED)


@pytest.mark.parametrize(
    "bad",
    [
        "import math\nx = math.exp(-1)",
        "import math\nrate = math.sqrt(2)",
        "import math\nx = math.fsum(xs)",
        "from math import log2",
        "x = 0.1",
        "rate = 3e-4",
        "x = 1.35",
        "x = 16777217.0",
        "x = 1e300",
        "x = 1j",
        "y = x ** 0.5",
        "y = 10.0 ** -k",
        "y = beta ** k",
        "y = a @ b",
        "y = np.exp(x)",
        "y = np.log(x)",
        "y = np.sin(x)",
        "y = np.tanh(x)",
        "y = np.power(x, 3)",
        "y = np.linspace(0, 1, 5)",
        "y = np.random.default_rng(1)",
        "y = np.linalg.norm(x)",
        "y = x.sum()",
        "y = x.sum(dtype=np.float64)",
        "y = np.sum(x)",
        "y = x.mean(axis=0)",
        "y = np.dot(a, b)",
        "y = a.dot(b)",
        "y = np.einsum('ij,jk', a, b)",
        "y = x.std()",
        "y = x.cumsum()",
        "y = sum(x)",
        "@numba.njit(fastmath=True)\ndef f(): pass",
        "@numba.njit\ndef f(): pass",
        "from numba import njit\n@njit\ndef f(): pass",
        "@kernel(parallel=True)\ndef f(): pass",
        "f = torch.compile(g)",
        "import random",
        "from time import monotonic",
        "y = hash(x)",
    ],
)
def test_bad_snippets_are_found(bad):
    assert lint(bad)


@pytest.mark.parametrize(
    "good",
    [
        "from math import isqrt\nx = isqrt(2 << 40) / (1 << 20)",
        "x = 2.0**-20 + 0.5 + 1024.0 + 1.5e1",
        "x = 2.0**exponent",
        "y = width**2",
        "y = x.sum(dtype=np.int64)",
        "y = x.to(torch.int64).sum()",
        "y = x.astype(np.int64).sum(0)",
        "y = np.sqrt(x)",
        "@kernel\ndef f(): pass",
        "f(fastmath=False)",
    ],
)
def test_good_snippets_pass(good):
    assert lint(good) == []


def test_a_finding_says_where_and_how():
    assert str(lint("\nx = 0.1")[0]).startswith("line 2: 0.1: a number that float32 has")
