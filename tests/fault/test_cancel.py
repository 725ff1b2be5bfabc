"""Cancelled, paused or deleted, while Bob is there, away, or not reached yet: nothing stays behind at either side."""

import asyncio
import hashlib
import signal
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from benchmarks.faults import end
from harness.cluster import Cluster
from shared.service.pool import WorkerPool
from shared.service.settings import Settings
from tests.faulty import at, begin, in_state, until, when

NOISE = np.random.default_rng(3).integers(0, 256, 12_000_000, dtype=np.uint8).tobytes()


def start(alice) -> str:
    return begin(alice, NOISE, "ngram")


def under_way(pair, identifier):
    at(pair.bob, identifier, 50_000)


def nothing_left(pair, identifier):
    """Bob knows that it was cancelled, and neither side has a file of it."""
    assert in_state(pair.bob, identifier, "cancelled")["error"]["type"].endswith("cancelled")
    until(lambda: None if list(pair.directory.glob(f"*/transmissions/{identifier}*")) else True, seconds=5)
    assert not list(pair.directory.glob("*/incoming/*"))
    assert not (pair.directory / "bob" / "objects" / hashlib.sha256(NOISE).hexdigest()).exists()


def test_cancelled_while_running(pair, alice):
    identifier = start(alice)
    under_way(pair, identifier)
    assert alice.post(f"/transmissions/{identifier}/cancel").status_code == 202
    in_state(pair.alice, identifier, "cancelled")
    nothing_left(pair, identifier)


@pytest.mark.parametrize("deleted", [pytest.param(False, marks=pytest.mark.long), True])
def test_cancelled_while_bob_is_away_he_hears_of_it_when_he_is_back(pair, alice, deleted):
    """Even where Alice's record is deleted at once, and she is started again before Bob is."""
    identifier = start(alice)
    under_way(pair, identifier)
    end(pair, "bob")
    in_state(pair.alice, identifier, "interrupted")
    assert alice.post(f"/transmissions/{identifier}/cancel").status_code == 202
    in_state(pair.alice, identifier, "cancelled")
    if deleted:
        assert alice.delete(f"/transmissions/{identifier}").status_code == 204
        end(pair, "alice")
        pair.start("alice")
    assert (pair.directory / "bob" / "transmissions" / identifier / "received").exists()
    pair.start("bob")
    nothing_left(pair, identifier)


@pytest.mark.long
def test_cancelled_and_alice_killed_before_she_could_tell(pair, alice):
    """A stopped Bob does not answer; what was promised to the user holds after her restart."""
    identifier = start(alice)
    under_way(pair, identifier)
    pair.process("bob").send_signal(signal.SIGSTOP)
    try:
        assert alice.post(f"/transmissions/{identifier}/cancel").status_code == 202
        end(pair, "alice")
    finally:
        pair.process("bob").send_signal(signal.SIGCONT)
    pair.start("alice")
    in_state(pair.alice, identifier, "cancelled")
    nothing_left(pair, identifier)


def test_cancelled_in_the_queues(pair, alice):
    """A paused transmission has the workers; one waits at Alice's. Then the first one goes, and leaves nothing either."""
    first = start(alice)
    under_way(pair, first)
    assert alice.post(f"/transmissions/{first}/pause").json()["state"] == "paused"
    second = start(alice)
    assert alice.get(f"/transmissions/{second}").json()["queue_position"] == 1
    assert alice.post(f"/transmissions/{second}/cancel").status_code == 202
    in_state(pair.alice, second, "cancelled")
    assert httpx.get(f"{pair.bob}/transmissions/{second}", trust_env=False).status_code == 404
    assert alice.post(f"/transmissions/{first}/cancel").status_code == 202
    in_state(pair.alice, first, "cancelled")
    nothing_left(pair, first)
    assert not list(pair.directory.glob(f"*/transmissions/{second}*"))


def test_paused_in_the_queue_it_holds_no_worker(pair, alice):
    first, second, third = start(alice), begin(alice), begin(alice)
    assert alice.post(f"/transmissions/{second}/pause").json()["state"] == "paused"
    alice.post(f"/transmissions/{first}/cancel")
    in_state(pair.alice, third, "running")
    assert alice.post(f"/transmissions/{second}/resume").json()["queue_position"] == 1
    for one in (third, second):
        alice.post(f"/transmissions/{one}/cancel")
        in_state(pair.alice, one, "cancelled")


@pytest.mark.long
def test_given_up_and_deleted():
    """Nobody will go on with it: Bob, who waits for Alice, must hear that too."""
    with (
        Cluster(warm=["ngram"], environment={"CODELENGTH_RETRY_SECONDS": "0.5"}) as pair,
        httpx.Client(base_url=pair.alice, trust_env=False, timeout=30) as alice,
    ):
        identifier = start(alice)
        under_way(pair, identifier)
        assert alice.delete(f"/transmissions/{identifier}").status_code == 409
        end(pair, "bob")
        when(pair.alice, identifier, lambda record: record["state"] == "interrupted" and not record["resuming"])
        assert alice.delete(f"/transmissions/{identifier}").status_code == 204
        pair.start("bob")
        nothing_left(pair, identifier)


async def test_workers_are_given_out_in_the_order_of_asking():
    """A newcomer that asks between a worker's return and the wake-up of the first in line does not get it."""
    pool, order = WorkerPool(Settings(warm="")), []

    async def abort():
        return None

    worker = SimpleNamespace(alive=True, abort=abort)

    async def use(name):
        async with pool.worker():
            order.append(name)
            await asyncio.sleep(0)

    waiting = [asyncio.ensure_future(use(name)) for name in "abc"]
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(use("newcomer")))  # runs before the one that the next line wakes
    pool._idle.put_nowait(worker)
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert order == ["a", "b", "c", "newcomer"]
