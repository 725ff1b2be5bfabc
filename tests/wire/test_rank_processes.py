"""Ranks as processes: the same z and weights from both sides, whatever each has."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harness.client import Client, Urls
from harness.cluster import Cluster
from tests.support import encode, small

TEXT = (b"Alice may use two ranks while Bob uses one. " * 300)[:12_000]


@contextmanager
def services(alice, bob):
    """A client of services with so many ranks each."""
    own = {"alice": {"CODELENGTH_RANKS": str(alice)}, "bob": {"CODELENGTH_RANKS": str(bob)}}
    with Cluster(warm=[], own=own) as cluster, Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client:
        yield client


def verified(client, spec, text=TEXT, disturb=lambda: None):
    """The result of a transmission."""
    result = client.transmit(client.post_octets(text, "x")["id"], spec.model_dump(), progress=lambda _: disturb())
    assert result["state"] == "verified"
    return result


def transmitted(alice, bob, spec, text=TEXT, disturb=lambda: None):
    """The result, by services of their own."""
    with services(alice, bob) as client:
        return verified(client, spec, text, disturb)


def followers():
    """Processes that follow a leader on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"shared.service.ranks" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_two_ranks_at_alice_and_one_at_bob():
    spec = small("transformer-tables", streams=4, block_tokens=4_000, segment_tokens=20)
    z, bits, *_ = encode(spec, np.frombuffer(TEXT, dtype=np.uint8).astype(np.uint32))
    before = set(followers())
    with services(2, 1) as client:
        result = verified(client, spec)
        assert (result["z_bits"], result["wire"]["alice_to_bob"]["z_bytes"]) == (bits, len(z))
        assert (result["ranks"], result["notes"]) == ({"alice": 2, "bob": 1}, [])
        odd = verified(client, small("recurrent", streams=3, segment_tokens=20), TEXT[:300])
        assert (odd["ranks"], len(odd["notes"])) == ({"alice": 1, "bob": 1}, 1)
        assert "2 ranks cannot share 3 streams evenly; 1 or 3 can" in odd["notes"][0]
    deadline = time.monotonic() + 20
    while set(followers()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(followers()) - before, "the ranks end with their leader"


@pytest.mark.long
@pytest.mark.parametrize(("alice", "bob"), [(4, 2), (1, 4), (8, 1)])
def test_any_number_of_ranks(alice, bob):
    spec = small("recurrent", streams=8, block_tokens=4_000, segment_tokens=20)
    _, bits, *_ = encode(spec, np.frombuffer(TEXT, dtype=np.uint8).astype(np.uint32))
    assert transmitted(alice, bob, spec)["z_bits"] == bits


@pytest.mark.long
def test_a_rank_that_is_killed_is_replaced():
    spec = small("recurrent", streams=4, block_tokens=20_000, segment_tokens=20)
    text, before, killed = TEXT * 20, set(followers()), []

    def disturb():
        new = set(followers()) - before
        if new and not killed:
            killed.append(new.pop())
            os.kill(killed[0], signal.SIGKILL)

    one = transmitted(1, 1, spec, text)
    assert transmitted(2, 1, spec, text, disturb)["z_bits"] == one["z_bits"]
    assert killed
