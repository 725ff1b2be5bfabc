"""A slow peer must not grow the other: the memory of both services and their workers while one of them stands still.

`python -m benchmarks.pressure --bytes 40000000` sends noise with `uniform`, so that as much as possible waits to be sent, and
stops one process after the first tenth; prints, for each, by how much the resident memory of any other grew at most meanwhile.
"""

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.load import look, processes
from harness.cluster import Cluster
from shared.channel.protocol import WINDOW_BYTES

STOPPED: Final = ("bob service", "bob worker 1", "alice service", "alice worker 1")
BOUND_BYTES: Final = 4 * WINDOW_BYTES
"""The window is held by Alice as messages and by websocket and sockets as bytes; twice that for what allocators keep."""


def grown(cluster: Cluster, http: httpx.Client, dataset: str, stopped: str, seconds: float) -> dict[str, Any]:
    """Stop one process for so long in the middle of a transmission: how much the others grew, and how it ended."""
    answer = http.post(f"{cluster.alice}/transmissions", json={"dataset": dataset, "code": "uniform"}).json()
    url = f"{cluster.alice}/transmissions/{answer['id']}"
    while (record := http.get(url).json())["tokens_done"] < record["dataset"]["tokens"] // 10:
        time.sleep(0.01)
    side, _, name = stopped.partition(" ")
    pid = processes(cluster.process(side).pid)[name]
    before, most = look(cluster), 0
    os.kill(pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.1)
            now = look(cluster)
            most = max([most, *(now[one]["resident_bytes"] - before[one]["resident_bytes"] for one in now if one != stopped)])
    finally:
        os.kill(pid, signal.SIGCONT)
    while (record := http.get(url).json())["state"] not in ("verified", "failed", "cancelled"):
        time.sleep(0.1)
    return {"most_grown_bytes": most, "state": record["state"]}


def measure(size: int, seconds: float) -> dict[str, Any]:
    """All of them, one after the other, behind a transmission that has touched the memory that all need."""
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    with Cluster(warm=["uniform"]) as cluster, httpx.Client(trust_env=False, timeout=60) as http:
        headers = {"Content-Type": "application/octet-stream"}
        dataset = http.post(f"{cluster.alice}/datasets", content=data, headers=headers).json()["id"]
        grown(cluster, http, dataset, "bob service", 1)
        return {stopped: grown(cluster, http, dataset, stopped, seconds) for stopped in STOPPED}


def main() -> None:
    """Run it; exit status 1 where something grew, or was not verified."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=40_000_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    found = measure(given.bytes, given.seconds)
    print(json.dumps({"bytes": given.bytes, "bound_bytes": BOUND_BYTES, "stopped": found}, indent=1))
    good = all(one["state"] == "verified" and one["most_grown_bytes"] <= BOUND_BYTES for one in found.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
