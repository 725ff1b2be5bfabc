"""Many transmissions leave nothing behind, and one address may hold only so many connections."""

import asyncio
import time

import httpx
import pytest

from benchmarks.load import look, text
from benchmarks.pressure import BOUND_BYTES, measure
from shared.service.guarding import Guard


def through(cluster, seeds) -> None:
    """Queue them all, then see them verified."""
    with httpx.Client(trust_env=False, timeout=60) as http:
        urls = []
        for seed in seeds:
            headers = {"Content-Type": "application/octet-stream"}
            held = http.post(f"{cluster.alice}/datasets", content=text(2000, seed), headers=headers).json()["id"]
            answer = http.post(f"{cluster.alice}/transmissions", json={"dataset": held, "code": "frequency"})
            urls.append(cluster.alice + answer.headers["location"])
        deadline = time.monotonic() + 60
        for url in urls:
            while not ((record := http.get(url).json())["state"] == "verified" and record["wire"]["final"]):
                assert record["state"] in ("queued", "running", "verified"), record["error"]
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_descriptors_and_threads_do_not_grow(cluster):
    """Threads up to the default pool's size may come, one for each file that was waited for at once."""
    through(cluster, range(3))
    before = look(cluster)
    through(cluster, range(3, 15))
    time.sleep(0.3)  # the last connection's
    after = look(cluster)
    assert after.keys() == before.keys()
    for process, values in before.items():
        assert after[process]["descriptors"] <= values["descriptors"] + 3, process
        assert after[process]["threads"] <= values["threads"] + 4, process


async def test_connections_of_one_address_are_limited():
    """The next one is refused with a problem document, one of another address is not; there is room again once one has ended."""
    leave = asyncio.Event()

    async def app(scope, receive, send):
        await leave.wait()
        await send({"type": "websocket.accept"})

    async def connect(guard, address):
        said = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            said.append(message)

        scope = {"type": "websocket", "path": "/channel", "headers": [], "client": (address, 1)}
        await guard(scope, receive, send)
        return said

    guard = Guard(app, 2)
    held = [asyncio.ensure_future(connect(guard, address)) for address in ("a", "a", "b")]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        start, body = await connect(guard, "a")
    assert start["status"] == 503
    assert b"CODELENGTH_MAX_CONNECTIONS_PER_PEER" in body["body"]
    leave.set()
    assert [said[0]["type"] for said in await asyncio.gather(*held)] == ["websocket.accept"] * 3
    assert (await connect(guard, "a"))[0]["type"] == "websocket.accept"


@pytest.mark.long
def test_a_slow_peer_grows_nobody():
    """Of 30 MB that could be sent, and of Alice, Bob and their workers one that stands still."""
    for stopped, one in measure(30_000_000, 4).items():
        assert one["state"] == "verified", stopped
        assert one["most_grown_bytes"] <= BOUND_BYTES, stopped
