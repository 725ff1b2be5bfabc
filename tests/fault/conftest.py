"""Services that are killed and stopped, and the channel between them: one of each for all tests here."""

import httpx
import pytest

from benchmarks.tap import Tap
from harness.cluster import Cluster


@pytest.fixture(scope="session")
def tap():
    one = Tap()
    yield one
    one.close()


@pytest.fixture(scope="session")
def services(tap):
    """Alice and Bob, the tap as their wire; one worker at either side, a keep-alive of a second, and no giving up."""
    environment = {
        "CODELENGTH_RETRY_SECONDS": "300",
        "CODELENGTH_KEEPALIVE_SECONDS": "1",
        "CODELENGTH_BOB_URL": f"ws://127.0.0.1:{tap.port}",
    }
    with Cluster(warm=["ngram"], environment=environment, parts=("bob", "alice")) as cluster:
        tap.toward(cluster.bob)
        cluster.wire = tap.counts
        yield cluster


@pytest.fixture
def pair(services, tap):
    """Those, up and idle, with a good channel."""
    for name in ("bob", "alice"):
        if services.process(name).poll() is not None:
            services.start(name)
    tap.channel()
    yield services
    tap.channel()
    with httpx.Client(base_url=services.alice, trust_env=False, timeout=30) as http:
        for one in http.get("/transmissions").json()["transmissions"]:  # what a failed test has left
            if one["state"] not in ("verified", "failed", "cancelled"):
                http.post(f"/transmissions/{one['id']}/cancel")


@pytest.fixture
def alice(pair):
    with httpx.Client(base_url=pair.alice, trust_env=False, timeout=30) as http:
        yield http
