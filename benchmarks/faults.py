"""One transmission whose services are killed again and again, and the same undisturbed: z must be the same to the byte.

`python -m benchmarks.faults FILE --code mixing --kills 10` kills -9 Alice and Bob, each with her or his worker, at random times
until each has died that often, and starts them again; prints one JSON object. Both runs' z are taken from what Bob received, and
what crossed is what the wire counted, whoever died: an upper bound for z that was sent again.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from harness.client import Client, Urls
from harness.cluster import Cluster, StartError, wait_ready
from shared.channel.messages import Data
from shared.channel.protocol import WINDOW_BYTES
from shared.service.received import ReceivedReader


def end(cluster: Cluster, name: str) -> None:
    """SIGKILL a service and its workers."""
    process = cluster.process(name)
    pids = [process.pid]
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        pids += [int(pid) for pid in (task / "children").read_text().split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def kill(cluster: Cluster, name: str) -> None:
    """The same, and start it again."""
    end(cluster, name)
    cluster.start(name)


def keep_received(cluster: Cluster, identifier: str, copy: Path) -> None:
    """Hold on to what Bob receives: he deletes his name of the file in the end. Raises `TimeoutError` if there is none."""
    place = cluster.directory / "bob" / "transmissions" / identifier / "received"
    for _ in range(6000):
        with contextlib.suppress(FileNotFoundError):
            os.link(place, copy)
            return
        time.sleep(0.01)
    raise TimeoutError(f"{place} is not there: nothing was received in a minute, or all was")


def z_digest(received: Path) -> tuple[str, int]:
    """SHA-256 and bytes of z in what Bob received."""
    digest, size = hashlib.sha256(), 0
    reader = ReceivedReader(received)
    for message in reader.messages(received.stat().st_size):
        if isinstance(message, Data):
            digest.update(message.z)
            size += len(message.z)
    reader.close()
    return digest.hexdigest(), size


def record(url: str, identifier: str) -> dict[str, Any] | None:
    """The record, None while the service does not answer."""
    try:
        found: dict[str, Any] = httpx.get(f"{url}/transmissions/{identifier}", trust_env=False, timeout=5).json()
    except httpx.HTTPError:
        return None
    return found


def crossed_bytes(cluster: Cluster) -> int:
    """Everything that the wire carried from Alice to Bob: z, what went with it, and all of it that was sent again."""
    found = httpx.get(f"{cluster.wire}/connections", trust_env=False).json()["connections"]
    return sum(one["client_to_upstream_bytes"] for one in found)


def run(data: bytes, code: str, kills: int, pause: tuple[float, float], seed: int) -> dict[str, Any]:
    """Send once, with `kills` kills of either side, `pause` seconds (at least, at most) of quiet between them."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    died: Counter[str] = Counter()
    while_in: Counter[str] = Counter()
    with (
        Cluster(warm=[code], environment={"CODELENGTH_RETRY_SECONDS": "3600"}) as cluster,
        Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client,
    ):
        dataset = client.post_octets(data, "faults")["id"]
        started = time.monotonic()
        body = {"dataset": dataset, "code": code}
        identifier = httpx.post(f"{cluster.alice}/transmissions", json=body, trust_env=False).json()["id"]
        keep_received(cluster, identifier, copy := cluster.directory / "kept")
        while min(died["alice"], died["bob"]) < kills:
            time.sleep(chance.uniform(*pause))
            now = record(cluster.alice, identifier)
            if now is not None and now["state"] in ("verified", "failed"):
                break
            who = min(("alice", "bob"), key=lambda name: died[name] + chance.random())
            while_in[now["state"] if now else "starting"] += 1
            kill(cluster, who)
            died[who] += 1
            with contextlib.suppress(StartError):
                wait_ready(getattr(cluster, who), time.monotonic() + 120)
        while (now := record(cluster.alice, identifier)) is None or now["state"] not in ("verified", "failed", "cancelled"):
            time.sleep(0.2)
        total = time.monotonic() - started
        ledger = client.ledger(identifier)
        z, size = z_digest(copy)
        return {
            "state": ledger["state"],
            "z_sha256": z,
            "z_bytes": size,
            "z_bits": ledger["z_bits"],
            "nll_bits": ledger["nll_bits"],
            "sha256": ledger["reconstruction"]["sha256"],
            "kills": dict(died),
            "killed_while": dict(while_in),
            "connections": ledger["wire"]["connections"],
            "crossed_bytes": crossed_bytes(cluster),
            "alice_to_bob": ledger["wire"]["alice_to_bob"],
            "seconds": round(total, 1),
        }


def main() -> None:
    """Run both and compare; exit status 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bytes", type=int, default=None)
    parser.add_argument("--code", default="mixing")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.0, 8.0))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = given.file.read_bytes()[: given.bytes]
    quiet = run(data, given.code, 0, (0, 0), given.seed)
    disturbed = run(data, given.code, given.kills, tuple(given.pause), given.seed)
    faults = sum(disturbed["kills"].values())
    again = disturbed["alice_to_bob"]["retransmitted_at_most_bytes"]
    bounded = again is not None and again <= WINDOW_BYTES * faults
    same = all(quiet[name] == disturbed[name] for name in ("state", "z_sha256", "z_bytes", "z_bits", "nll_bits", "sha256"))
    out = {"code": given.code, "bytes": len(data), "same": same, "bounded": bounded, "undisturbed": quiet, "disturbed": disturbed}
    print(json.dumps(out, indent=1))
    sys.exit(0 if same and bounded and quiet["state"] == "verified" else 1)


if __name__ == "__main__":
    main()
