"""Many queued transmissions: all verified, in the order of asking, and nothing grows: descriptors, threads, memory.

`python -m benchmarks.load --count 200 --bytes 10000` queues so many, each of other data, follows their places, compares every
reconstruction with D, and prints one JSON object: what Alice, Bob and their workers hold before, at a quarter and at the end.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from harness.cluster import Cluster

_WORDS = b"the quick brown fox jumps over a lazy dog and then it sleeps until somebody wakes it again".split()
GROWTH = {"descriptors": 4, "threads": 4, "resident_bytes": 64 << 20}
"""What may be more at the end than at a quarter of the way: buffers that found their size, no trend."""


def processes(pid: int) -> dict[str, int]:
    """A service, and its worker processes."""
    found = {"service": pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[f"worker {len(found)}"] = int(child)
    return found


def held(pid: int) -> dict[str, int]:
    """Open descriptors, threads and resident memory of one process."""
    place = Path(f"/proc/{pid}")
    pages = int((place / "statm").read_text().split()[1])
    return {
        "descriptors": len(list((place / "fd").iterdir())),
        "threads": len(list((place / "task").iterdir())),
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def look(cluster: Cluster) -> dict[str, dict[str, int]]:
    """The same of all processes of both services."""
    out = {}
    for side in ("alice", "bob"):
        for name, pid in processes(cluster.process(side).pid).items():
            out[f"{side} {name}"] = held(pid)
    return out


def text(size: int, seed: int) -> bytes:
    """Words, so that a model has something to learn."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    return b" ".join(chance.choices(_WORDS, k=size))[:size]


def load(count: int, size: int, code: str) -> dict[str, Any]:
    """Queue `count` transmissions, and see them through. Raises `AssertionError` where one is not D."""
    limits = {"CODELENGTH_MAX_QUEUED": str(count + 8)}
    with Cluster(warm=[code], environment=limits) as cluster, httpx.Client(trust_env=False, timeout=60) as http:

        def post(seed: int) -> str:
            headers = {"Content-Type": "application/octet-stream"}
            held = http.post(f"{cluster.alice}/datasets", content=text(size, seed), headers=headers).raise_for_status().json()
            body = {"dataset": held["id"], "code": code}
            found: str = http.post(f"{cluster.alice}/transmissions", json=body).raise_for_status().json()["id"]
            return found

        def records() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = http.get(f"{cluster.alice}/transmissions").json()["transmissions"]
            return found

        seen = {"before": look(cluster)}
        identifiers = [post(seed) for seed in range(count)]
        queued = records()
        places = [one["queue_position"] for one in queued if one["state"] == "queued"]
        started, most_waiting, done = time.monotonic(), len(places), 0
        places_in_order = places == list(range(1, len(places) + 1))
        while done < count:
            time.sleep(0.2)
            now = records()
            done = sum(one["state"] in ("verified", "failed", "cancelled", "interrupted") for one in now)
            if done >= count // 4 and "quarter" not in seen:
                seen["quarter"] = {"done": {"transmissions": done}, **look(cluster)}
        ended = sorted(now, key=lambda one: str(one["finished_at"]))
        verified = 0
        for seed, identifier in enumerate(identifiers):
            back = http.get(f"{cluster.bob}/transmissions/{identifier}/reconstruction").content
            verified += hashlib.sha256(back).digest() == hashlib.sha256(text(size, seed)).digest()
        seconds = time.monotonic() - started
        seen["end"] = look(cluster)
    grown = {
        f"{process}: {what}": seen["end"][process][what] - before
        for process, values in seen["quarter"].items()
        if process != "done"
        for what, before in values.items()
        if seen["end"][process][what] - before > GROWTH[what]
    }
    return {
        "transmissions": count,
        "bytes": size,
        "code": code,
        "verified": verified,
        "most_waiting": most_waiting,
        "listed_in_order": [one["id"] for one in queued] == identifiers,
        "places_in_order": places_in_order,
        "ended_in_order": [one["id"] for one in ended] == identifiers,
        "ended_out_of_order": [(a["finished_at"], b) for a, b in zip(ended, identifiers, strict=True) if a["id"] != b][:6],
        "grown": grown,
        "seconds": round(seconds, 1),
        "held": seen,
    }


def main() -> None:
    """Run it; exit status 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=10_000)
    parser.add_argument("--code", default="ngram")
    given = parser.parse_args()
    found = load(given.count, given.bytes, given.code)
    print(json.dumps(found, indent=1))
    sys.exit(
        0
        if found["verified"] == given.count and found["places_in_order"] and found["ended_in_order"] and not found["grown"]
        else 1
    )


if __name__ == "__main__":
    main()
