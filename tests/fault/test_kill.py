"""Processes killed in the middle, a bit flipped on the wire, tokens missing: told clearly, nothing false kept."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from harness.client import Client, Urls
from harness.cluster import Cluster
from shared.channel.protocol import WINDOW_BYTES

NOISE = np.random.default_rng(0).integers(0, 256, 6_000_000, dtype=np.uint8).tobytes()


@pytest.fixture
def own():
    with Cluster(warm=["ngram"]) as cluster:
        yield cluster


def start(cluster, data=NOISE, code="ngram") -> str:
    with httpx.Client(base_url=cluster.alice, trust_env=False, timeout=60) as http:
        headers = {"Content-Type": "application/octet-stream"}
        dataset = http.post("/datasets", content=data, headers=headers).json()["id"]
        return http.post("/transmissions", json={"dataset": dataset, "code": code}).json()["id"]


def wait_for(base, identifier, condition):
    deadline = time.monotonic() + 90
    while True:
        record = {}
        with contextlib.suppress(httpx.HTTPError):  # it may be starting again
            record = httpx.get(f"{base}/transmissions/{identifier}", trust_env=False, timeout=30).json()
        if condition(record):
            return record
        assert time.monotonic() < deadline, record
        time.sleep(0.02)


def ended(record) -> bool:
    return record.get("state") in ("failed", "verified", "cancelled") and record["wire"]["final"]


def under_way(record) -> bool:
    return record.get("tokens_done", 0) > 100_000


def kill(cluster, *names):
    for name in names:
        for pid in (*children(cluster.process(name).pid), cluster.process(name).pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for name in names:
        cluster.start(name)


@pytest.mark.parametrize(
    "who", [pytest.param(("bob",), marks=pytest.mark.long), pytest.param(("alice",), marks=pytest.mark.long), ("alice", "bob")]
)
def test_killed_and_started_again_it_goes_on_by_itself(pair, who, tmp_path):
    """SIGKILL, service and worker: verified, and z is counted as without the fault, what crossed twice beside it."""
    identifier = start(pair)
    wait_for(pair.bob, identifier, under_way)
    kill(pair, *who)
    record = wait_for(pair.alice, identifier, ended)
    assert record["state"] == "verified", record["error"]
    with Client(Urls(alice=pair.alice, bob=pair.bob, wire=pair.wire)) as client:
        client.reconstruction(identifier, tmp_path / "back")
        ledger = client.ledger(identifier)
    assert (tmp_path / "back").read_bytes() == NOISE
    wire = ledger["wire"]
    assert wire["connections"] >= 2
    assert wire["alice_to_bob"]["retransmitted_at_most_bytes"] <= WINDOW_BYTES * (wire["connections"] - 1)
    assert {path.name for path in pair.directory.glob(f"*/transmissions/{identifier}/*")} == {"blocks.jsonl", "costs"}


@pytest.mark.long
def test_a_lost_worker_is_replaced(pair):
    identifier = start(pair)
    wait_for(pair.alice, identifier, under_way)
    for who in ("bob", "alice"):
        for pid in children(pair.process(who).pid):
            signal.pidfd_send_signal(open_pid(pid), signal.SIGKILL)
    assert wait_for(pair.alice, identifier, ended)["state"] == "verified"
    assert wait_for(pair.bob, identifier, ended)["state"] == "verified"


def children(pid) -> list[int]:
    out = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        out += [int(one) for one in (task / "children").read_text().split()]
    return out


def open_pid(pid) -> int:
    return os.pidfd_open(pid)


def test_token_is_asked_of_everyone():
    with Cluster(warm=["frequency"], environment={"CODELENGTH_TOKEN": "secret"}) as cluster:
        assert httpx.get(f"{cluster.alice}/datasets", trust_env=False).status_code == 401
        assert httpx.get(f"{cluster.bob}/transmissions", trust_env=False).status_code == 401
        with Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire), "secret") as client:
            assert client.transmit(client.post_octets(b"hello", "x")["id"], "uniform")["state"] == "verified"


@pytest.mark.parametrize(
    ("who", "status", "said"),
    [
        ("alice", 3, "Alice went away"),
        pytest.param("bob", 1, "interrupted: the peer is gone: cannot connect to Bob", marks=pytest.mark.long),
    ],
)
def test_the_command_tells_who_went_away(own, tmp_path, who, status, said):
    (tmp_path / "noise").write_bytes(NOISE)
    urls = ["--alice", own.alice, "--bob", own.bob, "--wire", own.wire]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "transmit", str(tmp_path / "noise"), *urls],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 40
    while not any(under_way(record) for record in httpx.get(f"{own.bob}/transmissions", trust_env=False).json()["transmissions"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    own.process(who).send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert said in err
    assert "Traceback" not in err
