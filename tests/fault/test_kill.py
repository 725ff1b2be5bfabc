"""Processes killed in the middle, a bit flipped on the wire, tokens missing: told clearly, nothing false kept."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from harness.cluster import Cluster

NOISE = np.random.default_rng(0).integers(0, 256, 6_000_000, dtype=np.uint8).tobytes()


@pytest.fixture
def own():
    with Cluster() as cluster:
        yield cluster


def start(cluster, data=NOISE, code="ngram") -> str:
    with httpx.Client(base_url=cluster.alice, trust_env=False, timeout=60) as http:
        headers = {"Content-Type": "application/octet-stream"}
        dataset = http.post("/datasets", content=data, headers=headers).json()["id"]
        return http.post("/transmissions", json={"dataset": dataset, "code": code}).json()["id"]


def wait_for(base, identifier, condition):
    deadline = time.monotonic() + 40
    while True:
        record = httpx.get(f"{base}/transmissions/{identifier}", trust_env=False, timeout=30).json()
        if condition(record):
            return record
        assert time.monotonic() < deadline, record
        time.sleep(0.02)


def ended(record) -> bool:
    return record.get("state") in ("interrupted", "failed", "verified", "cancelled")


def under_way(record) -> bool:
    return record.get("tokens_done", 0) > 100_000


def test_bob_killed_half_way(own):
    identifier = start(own)
    wait_for(own.alice, identifier, under_way)
    own.process("bob").send_signal(signal.SIGKILL)
    record = wait_for(own.alice, identifier, ended)
    assert record["state"] == "interrupted"
    assert record["error"]["type"].endswith("peer-lost")


def test_alice_killed_half_way(own):
    identifier = start(own)
    wait_for(own.bob, identifier, under_way)
    own.process("alice").send_signal(signal.SIGKILL)
    record = wait_for(own.bob, identifier, ended)
    assert record["state"] == "interrupted"
    assert httpx.get(f"{own.bob}/transmissions/{identifier}/reconstruction", trust_env=False).status_code == 409


def test_a_lost_worker_is_replaced(own):
    identifier = start(own)
    wait_for(own.alice, identifier, under_way)
    for pid in children(own.process("bob").pid):
        signal.pidfd_send_signal(open_pid(pid), signal.SIGKILL)
    record = wait_for(own.bob, identifier, ended)
    assert record["state"] == "failed"
    assert ended(wait_for(own.alice, identifier, ended))
    again = start(own, b"and again", "frequency")
    assert wait_for(own.alice, again, ended)["state"] == "verified"


def children(pid) -> list[int]:
    out = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        out += [int(one) for one in (task / "children").read_text().split()]
    return out


def open_pid(pid) -> int:
    import os

    return os.pidfd_open(pid)


def test_token_is_asked_of_everyone():
    with Cluster(environment={"CODELENGTH_TOKEN": "secret"}) as cluster:
        assert httpx.get(f"{cluster.alice}/datasets", trust_env=False).status_code == 401
        assert httpx.get(f"{cluster.bob}/transmissions", trust_env=False).status_code == 401
        from harness.client import Client, Urls

        with Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire), "secret") as client:
            assert client.transmit(client.post_octets(b"hello", "x")["id"], "uniform")["state"] == "verified"


@pytest.mark.parametrize(
    ("who", "status", "said"),
    [("alice", 3, "Alice went away"), ("bob", 1, "interrupted: the peer is gone: the connection to Bob")],
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
