"""The crossing matrix: golden vectors of networks, computed by real processes that differ in all that may differ, bit for bit.

A cell is an environment, and the kernels to be used. What a processor cannot do is skipped by name. `make test` takes a few
cells that together touch every row; `make check-long` takes all, every pair of them, and two services in different cells.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pytest

from harness.client import Client, Urls
from harness.cluster import Cluster
from shared.service import vectors
from tests.support import NETWORK_PRESETS

GOLDEN, _ = vectors.golden()
NETWORKS = [name for name in GOLDEN if name.split()[0] in ("ensemble", *NETWORK_PRESETS)]
SHORT = ["recurrent m=256", "transformer m=256", "recurrent m=256 frozen", "transformer m=256 replay"]
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CODELENGTH_PRODUCTS", "CODELENGTH_WORKER_THREADS", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS",
    "NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """row: of cells that exclude each other. needs: what the processor must have, as Linux calls it."""

    name: str
    row: str
    environment: dict[str, str] = field(default_factory=dict)
    kernels: str = "fused"
    needs: str = ""


def _threads(count: int) -> Cell:
    number = str(count)
    variables = {"CODELENGTH_WORKER_THREADS": number, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    return Cell(f"{count} threads", "threads", variables)


CELLS = [
    _threads(1),
    _threads(2),
    Cell("torch default", "torch", {"ATEN_CPU_CAPABILITY": "default"}),
    Cell("torch avx2", "torch", {"ATEN_CPU_CAPABILITY": "avx2"}, needs="avx2"),
    Cell("torch avx512", "torch", {"ATEN_CPU_CAPABILITY": "avx512"}, needs="avx512bw"),
    Cell("MKL SSE4.2", "MKL", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, needs="sse4_2"),
    Cell("MKL AVX2", "MKL", {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, needs="avx2"),
    Cell("oneDNN SSE4.1", "oneDNN", {"ONEDNN_MAX_CPU_ISA": "SSE41"}, needs="sse4_1"),
    Cell("oneDNN AVX2", "oneDNN", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, needs="avx2"),
    Cell("oneDNN VNNI", "oneDNN", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, needs="avx512_vnni"),
    Cell("numba generic", "numba", {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}),
    Cell("float64", "products", {"CODELENGTH_PRODUCTS": "float64"}),
    Cell("int8", "products", {"CODELENGTH_PRODUCTS": "int8"}),
    Cell("reference kernels", "kernels", kernels="reference"),
]
BY_NAME = {cell.name: cell for cell in CELLS}
FEW = [
    ("2 threads", "torch avx512", "float64"),
    ("1 threads", "torch default", "MKL SSE4.2", "float64"),
    ("torch avx2", "oneDNN SSE4.1", "int8"),
    ("reference kernels", "MKL AVX2"),
]
PAIRS = [pair for pair in combinations(CELLS, 2) if pair[0].row != pair[1].row]


def flags() -> set[str]:
    """What the processor can do; everything, where that is not known."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


_RUN = """
import json, sys
from shared.service.kernels import prepare_kernel_cache
prepare_kernel_cache()
from shared.code.exact import kernels
kernels.choose(sys.argv[1])
from shared.service import vectors
print(json.dumps(vectors.compute(sys.argv[2:])))
"""


def crossed(cells, names, caches):
    """The vectors that a process in all of these cells computes."""
    for cell in cells:
        if cell.needs and cell.needs not in flags():
            pytest.skip(f"cell {cell.name!r}: the processor has no {cell.needs}")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    kernels = "fused"
    for cell in cells:
        environment |= cell.environment
        kernels = cell.kernels if cell.kernels != "fused" else kernels
        if cell.row == "numba":
            environment["CODELENGTH_CACHE_DIRECTORY"] = str(caches)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, kernels, *names], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """Where kernels for no processor in particular are kept."""
    return tmp_path_factory.mktemp("generic")


@pytest.mark.parametrize("names", FEW, ids=" + ".join)
def test_a_few_cells(names, caches):
    wanted = SHORT if "reference kernels" not in names else SHORT[:1]
    assert crossed([BY_NAME[name] for name in names], wanted, caches) == {name: GOLDEN[name] for name in wanted}


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell(cell, caches):
    assert crossed([cell], NETWORKS, caches) == {name: GOLDEN[name] for name in NETWORKS}


@pytest.mark.long
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].name} + {pair[1].name}")
def test_every_pair_of_cells(pair, caches):
    assert crossed(pair, SHORT, caches) == {name: GOLDEN[name] for name in SHORT}


@pytest.mark.long
def test_alice_and_bob_in_different_cells_over_a_real_socket():
    """Alice: torch without vector instructions, one thread, float64 products. Bob: the widest there are, two threads, int8."""
    wide = "avx512" if "avx512bw" in flags() else "avx2"
    alice = {"ATEN_CPU_CAPABILITY": "default", "CODELENGTH_WORKER_THREADS": "1", "CODELENGTH_PRODUCTS": "float64"}
    bob = {"ATEN_CPU_CAPABILITY": wide, "CODELENGTH_WORKER_THREADS": "2", "CODELENGTH_PRODUCTS": "int8"}
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))[:60_000]
    with (
        Cluster(own={"alice": alice, "bob": bob}) as cluster,
        Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client,
    ):
        dataset = client.post_octets(text, "the tests")["id"]
        for code in ("recurrent", "transformer"):
            result = client.transmit(dataset, code)
            assert result["state"] == "verified", result["error"]
            assert result["compression_rate_net_of_f"] > 0.3
