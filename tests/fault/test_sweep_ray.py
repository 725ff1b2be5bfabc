"""A sweep on Ray: killed half-way and resumed, on one machine's own Ray; and over two nodes, Alice on one, Bob on the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import byte_level_tokenizer

pytest.importorskip("ray")
pytestmark = pytest.mark.long

GRID = """
datasets = ["d.txt"]
sizes = [4000, 16000]
codes = ["frequency", "ngram", "small", "order-one"]
steps = ["online", 0, 3]
seeds = [1, 2]
corpus = "c.txt"

[specs.small]
model = { kind = "recurrent", layers = 1, width = 16, tables = { bits = 8 } }
streams = 4
segment_tokens = 32
"""
MARK = "CODELENGTH_TEST_SWEEP"
PLUGIN = Path(__file__).parents[2] / "examples" / "order_one.py"
COMMAND = [str(Path(sys.executable).parent / "codelength"), "sweep", "grid.toml", "--plugin", str(PLUGIN)]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "d.txt").write_bytes(
        b"It is a truth universally acknowledged, that a single man must be in want of a wife. " * 200
    )
    (tmp_path / "c.txt").write_bytes(b"However little known the feelings of such a man may be, this truth is fixed. " * 400)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


def lines(place):
    path = place / "grid.sweep" / "trials.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def left(place) -> list[str]:
    """Command lines of services that were started for a sweep here, and still run. Ray's own processes are Ray's business."""
    found = []
    for one in Path("/proc").iterdir():
        try:
            if one.name.isdecimal() and f"{MARK}={place}".encode() in (one / "environ").read_bytes().split(b"\0"):
                found.append((one / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if any(name in line for name in (" alice", " bob", "harness.wire", "shared.service"))]


def test_killed_half_way_it_leaves_nothing_behind_and_goes_on(place):
    marked = {**os.environ, MARK: str(place)}
    with subprocess.Popen(COMMAND, cwd=place, env=marked, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as sweeping:
        deadline = time.monotonic() + 300
        while len(lines(place)) < 12:
            assert sweeping.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sweeping.send_signal(signal.SIGKILL)
    kept = lines(place)
    assert 12 <= len(kept) < 30
    deadline = time.monotonic() + 60
    while left(place):
        assert time.monotonic() < deadline, left(place)
        time.sleep(0.2)
    done = subprocess.run([*COMMAND, "--json"], cwd=place, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["trials"]
    assert len(found) == 30
    assert {row["state"] for row in found} == {"verified"}
    assert lines(place)[: len(kept)] == kept
    assert len(lines(place)) == 30  # none was made twice
    assert all(row["dataset_sha256"] == row["reconstruction_sha256"] for row in found)


def test_alice_and_bob_on_two_nodes(place):
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    (place / "t.json").write_text(byte_level_tokenizer((place / "d.txt").read_text(), 270).to_str())
    cluster = ray_cluster.Cluster()
    try:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1, env_vars={"CODELENGTH_WORKER_THREADS": "2"})  # something for the runtimes to differ in
        done = subprocess.run(
            [*COMMAND, "--address", cluster.address, "--json", "--tokenizer", "t.json"],
            cwd=place,
            env={**os.environ, "RAY_ADDRESS": ""},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["trials"]
    assert {row["state"] for row in found} == {"verified"}
    assert "order-one" in {row["code"] for row in found}
    assert all(row["octets"] > row["tokens"] for row in found)
    assert all(row["node_alice"] != row["node_bob"] for row in found)
    assert {row["runtimes_differ"][:8] for row in found} == {"threads:"}
    assert all(row["wire_bytes_alice_to_bob"] == row["witness_bytes_alice_to_bob"] for row in found)
