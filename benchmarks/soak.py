"""Random faults over transmissions of all presets, for minutes: every one is verified, and not a byte is wrong or left behind.

`python -m benchmarks.soak --minutes 30 --seed 0` keeps Alice busy with data that it makes up, while it kills and stops her, Bob
and their workers, cuts connections, changes the channel, pauses, resumes and cancels. Then the channel is good again, and all
that is unfinished must end. Prints one JSON object: faults survived, transmissions, bytes. What happens is drawn from the seed;
when, the machine decides.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import httpx

from benchmarks.faults import end
from benchmarks.load import processes, text
from benchmarks.tap import Tap
from harness.cluster import Cluster
from shared.code.models import PRESETS
from shared.code.spec import NETWORKS

_MOST_WAITING: Final = 4
_QUIET_SECONDS: Final = 900.0
_FINAL: Final = ("verified", "failed", "cancelled")
_CHANNELS: Final = (
    "",
    "slice=100B,latency=5ms,jitter=5ms",
    "bandwidth=400kbit/s,latency=40ms",
    "cut=4kB",
    "cut=30kB,slice=500B",
    "reset=10kB",
    "flip=20kB",
    "blackhole=2kB,toward=alice",
    "blackhole=20kB,toward=bob",
    "blackhole=8kB",
)


def presets() -> dict[str, int]:
    """What is sent, and the most bytes of it at once: what codes within seconds."""
    slow = {name for name, one in PRESETS.items() if isinstance(one.model, NETWORKS)} | {"ensemble"}
    return {name: 6_000 if name in slow else 40_000 if name == "mixing-large" else 200_000 for name in PRESETS}


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, tap: Tap, seed: int) -> None:
        self.cluster, self.tap = cluster, tap
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated
        self.http = httpx.Client(trust_env=False, timeout=30)
        self.presets = presets()
        self.data: dict[str, bytes] = {}  # by identity
        self.faults: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.made = self.verified_bytes = self.connections = self.again_bytes = self.z_bytes = 0

    def ask(self, method: str, url: str, **options: Any) -> httpx.Response | None:
        """None where nobody answers."""
        with contextlib.suppress(httpx.HTTPError):
            return self.http.request(method, url, **options)
        return None

    def records(self) -> list[dict[str, Any]] | None:
        """Alice's."""
        answer = self.ask("GET", f"{self.cluster.alice}/transmissions")
        return None if answer is None or answer.is_error else answer.json()["transmissions"]

    def begin(self) -> None:
        """One more transmission, each preset in its turn."""
        names = list(self.presets)
        code = names[self.made % len(names)]
        data = text(self.chance.randrange(1, self.presets[code]), self.chance.randrange(1 << 30))
        headers = {"Content-Type": "application/octet-stream"}
        held = self.ask("POST", f"{self.cluster.alice}/datasets", content=data, headers=headers)
        if held is not None and not held.is_error:
            self.data[held.json()["id"]] = data
            self.ask("POST", f"{self.cluster.alice}/transmissions", json={"dataset": held.json()["id"], "code": code})
            self.made += 1

    def look(self) -> list[dict[str, Any]]:
        """Judge and delete what has ended; what has not."""
        found = self.records()
        if found is None:
            return [{}]
        for one in found:
            if one["state"] in _FINAL and one["wire"]["final"]:
                self.judge(one)
        return [one for one in found if one["state"] not in _FINAL]

    def judge(self, one: dict[str, Any]) -> None:
        """Whether Bob has D, or nothing."""
        url = f"/transmissions/{one['id']}"
        told = self.ask("GET", self.cluster.bob + url)
        if told is None or (told.status_code == 200 and one["state"] == "verified" and not told.json()["wire"]["final"]):
            return  # he is away, or not at rest: later
        if one["state"] == "verified":
            back = self.ask("GET", f"{self.cluster.bob}{url}/reconstruction")
            if back is None:
                return
            same = told.json()["z_bits"] == one["z_bits"] and told.json()["nll_bits"] == one["nll_bits"]
            if back.content != self.data[one["dataset"]["id"]] or not same:
                self.wrong.append(f"{one['code']['name']}: Bob's copy, or what it cost, is another")
            self.codes[one["code"]["name"]] += 1
            self.verified_bytes += one["dataset"]["bytes"]
            self.connections += len(one["wire"]["connections"])
            self.again_bytes += one["wire"]["sent"]["retransmitted_bytes"]
            self.z_bytes += -(-one["z_bits"] // 8)
        elif one["state"] == "cancelled":
            if told.status_code == 200 and told.json()["state"] not in ("cancelled", "verified"):
                return  # he has not heard of it yet
        else:
            self.wrong.append(f"{one['code']['name']}: {one['state']}: {one['error']}")
        answers = [self.ask("DELETE", service + url) for service in (self.cluster.bob, self.cluster.alice)]
        if answers[1] is not None and answers[1].status_code == 204:
            self.ended[one["state"]] += 1

    def fault(self) -> None:
        """Something happens."""
        who = self.chance.choice(("alice", "bob"))
        choices: dict[str, tuple[int, Callable[[str], None]]] = {
            "killed": (3, self.kill),
            "worker killed": (2, self.kill_worker),
            "asleep": (2, self.sleep),
            "cut": (4, lambda _: self.tap.cut()),
            "channel": (5, lambda _: self.tap.channel(self.chance.choice(_CHANNELS))),
            "paused": (2, lambda _: self.post("pause")),
            "resumed": (3, lambda _: self.post("resume")),
            "cancelled": (1, lambda _: self.post("cancel")),
        }
        (name,) = self.chance.choices(list(choices), [weight for weight, _ in choices.values()])
        choices[name][1](who)
        self.faults[f"{who} {name}" if name in ("killed", "worker killed", "asleep") else name] += 1

    def kill(self, who: str) -> None:
        """With the workers; started again after a while."""
        end(self.cluster, who)
        time.sleep(self.chance.uniform(0, 2))
        self.cluster.start(who)

    def kill_worker(self, who: str) -> None:
        """One of them."""
        workers = list(processes(self.cluster.process(who).pid).values())[1:]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)

    def sleep(self, who: str) -> None:
        """Service and workers, for less or more than two keep-alives."""
        pids = list(processes(self.cluster.process(who).pid).values())
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(self.chance.uniform(0.1, 4))

    def post(self, what: str) -> None:
        """To any that has not ended."""
        going = [one for one in self.records() or [] if one["state"] not in _FINAL]
        if going:
            self.ask("POST", f"{self.cluster.alice}/transmissions/{self.chance.choice(going)['id']}/{what}")

    def run(self, seconds: float) -> float:
        """Faults for so long, then quiet until all has ended. The seconds of both together."""
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            if len(self.look()) < _MOST_WAITING:
                self.begin()
            time.sleep(self.chance.uniform(0.0, 1.5))
            self.fault()
        self.tap.channel()
        self.tap.cut()
        quiet = time.monotonic()
        while (going := self.look()) or self.records():
            for one in going:
                if one.get("state") in ("paused", "interrupted"):
                    self.ask("POST", f"{self.cluster.alice}/transmissions/{one['id']}/resume")
            if time.monotonic() > quiet + _QUIET_SECONDS:
                self.wrong += [f"{one['id']} is still {one['state']}" for one in self.records() or []]
                break
            time.sleep(0.5)
        return time.monotonic() - started

    def left(self) -> list[str]:
        """Files of transmissions that are at neither side any more, and uploads that were never finished."""
        found = (path for side in ("alice", "bob") for path in (self.cluster.directory / side).glob("transmissions/*"))
        return [str(path.relative_to(self.cluster.directory)) for path in found]


def raised(log: str) -> dict[str, int]:
    """What a service's log has of tracebacks: their last lines."""
    found, inside = Counter[str](), False
    for line in log.splitlines():
        if inside and line[:1].strip() and not line.startswith(("Traceback", "During", "The above")):
            found[line] += 1
            inside = False
        inside = inside or line.startswith("Traceback")
    return dict(found)


def main() -> None:
    """Run it; exit status 1 where anything is wrong or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tap = Tap()
    environment = {
        "CODELENGTH_RETRY_SECONDS": "86400",
        "CODELENGTH_KEEPALIVE_SECONDS": "1",
        "CODELENGTH_BOB_URL": f"ws://127.0.0.1:{tap.port}",
    }
    own = {"alice": {"CODELENGTH_MAX_CONCURRENT": "2"}}  # so that they also queue at Bob's
    with Cluster(environment=environment, own=own, parts=("bob", "alice"), warm=["ngram"]) as cluster:
        tap.toward(cluster.bob)
        soak = Soak(cluster, tap, given.seed)
        seconds = soak.run(60 * given.minutes)
        left = soak.left()
        logs = {name: raised(cluster.log(name)) for name in ("alice", "bob")}
    tap.close()
    out = {
        "seed": given.seed,
        "seconds": round(seconds, 1),
        "faults": sum(soak.faults.values()),
        "by_kind": dict(sorted(soak.faults.items())),
        "transmissions": dict(soak.ended),
        "verified_by_code": dict(soak.codes),
        "verified_bytes": soak.verified_bytes,
        "connections": soak.connections,
        "z_bytes": soak.z_bytes,
        "retransmitted_bytes": soak.again_bytes,
        "tracebacks": logs,
        "wrong": soak.wrong,
        "left_behind": left,
    }
    print(json.dumps(out, indent=1))
    sys.exit(1 if soak.wrong or left else 0)


if __name__ == "__main__":
    main()
