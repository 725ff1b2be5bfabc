"""Kernels are compiled into the project's cache before numba is imported; services run in one cluster for all tests."""

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.service.kernels import prepare_kernel_cache

os.environ.pop("CODELENGTH_TOKEN", None)
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # as workers have it: torch's threads cost small products more than they save
    os.environ.setdefault(name, "1")
prepare_kernel_cache()


def pytest_addoption(parser):
    """One flag rewrites what scripts and snapshots expect; look at the difference before you commit it."""
    parser.addoption("--refresh", action="store_true", help="rewrite tests/cli/*.cli and tests/snapshots")


def pytest_sessionstart(session):
    """Compile f before test processes and services do it side by side, once for every f and place of the sources."""
    here = hashlib.sha256(str(Path(__file__).resolve()).encode()).hexdigest()[:16]  # numba's cache is kept by path, too
    done = prepare_kernel_cache() / f"tests.compiled.{here}"
    if not hasattr(session.config, "workerinput") and not done.exists():
        subprocess.run([sys.executable, "-c", "from shared.service.worker import warm; warm()"], check=True)
        done.touch()


def pytest_runtest_teardown(item):
    """Tests that keep what they made would take the machine down with them."""
    if (resident := resident_bytes()) > 4 << 30:
        pytest.exit(f"{item.nodeid}: the test process holds {resident >> 20} MiB", returncode=1)


def resident_bytes() -> int:
    """What this process holds in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(scope="session")
def cluster() -> Iterator["object"]:
    """Alice, the wire and Bob as processes. Test processes side by side start theirs one by one: the first compiles for all."""
    import fcntl
    from contextlib import ExitStack

    from harness.cluster import Cluster

    with ExitStack() as stack:
        with (prepare_kernel_cache() / "tests.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            running = stack.enter_context(Cluster(environment={"CODELENGTH_MAX_UPLOAD_BYTES": str(4 << 20)}))
        yield running


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Iterator[str]:
    """A PATH with a `codelength` that starts at once: see tests/forking.py."""
    directory = tmp_path_factory.mktemp("commands")
    script = Path(__file__).with_name("forking.py")
    with subprocess.Popen([sys.executable, script, directory], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        server.terminate()


@pytest.fixture(scope="session")
def client(cluster) -> Iterator["object"]:
    """A client of that cluster."""
    from harness.client import Client, Urls

    with Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as one:
        yield one


@pytest.fixture
async def alice_app(tmp_path) -> AsyncIterator["object"]:
    """Alice's real application over ASGITransport; her Bob is at a closed port."""
    import httpx

    from alice.app import create_app
    from shared.service.settings import Settings

    limits = {"max_concurrent": 1, "max_upload_bytes": 1 << 16}
    app = create_app(Settings(state_directory=tmp_path, warm="", bob_url="ws://127.0.0.1:9", **limits))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alice", timeout=60) as http,
    ):
        await until_ready(http)
        yield http


async def until_ready(http) -> None:
    """Wait for /readyz."""
    import asyncio

    async with asyncio.timeout(120):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.02)
