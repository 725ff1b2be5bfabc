"""For tests through real services: a channel that a test changes, waiting for states, and what an undisturbed transmission is."""

import contextlib
import functools
import hashlib
import time
from pathlib import Path

import httpx
import numpy as np

from benchmarks.faults import z_digest
from harness.client import Client, Urls
from shared.channel.messages import Data, Parser
from shared.code.models import preset
from shared.code.spec import CodeSpec
from tests.support import encode

NOISE = np.random.default_rng(0).integers(0, 256, 600_000, dtype=np.uint8).tobytes()
PACE = "bandwidth=2Mbit/s"
"""At which that takes 2.4 s, in messages of 64 KiB at most."""
SPEC = CodeSpec.from_fields({**preset("frequency").model_dump(mode="json"), "block_tokens": 4096})


def begin(alice, data=NOISE, code=None, name="") -> str:
    """A transmission, once Alice's workers are warm."""
    until(lambda: True if alice.get("/readyz").status_code == 200 else None)
    headers = {"Content-Type": "application/octet-stream"}
    dataset = alice.post("/datasets", content=data, headers=headers).json()["id"]
    body = {"dataset": dataset, "code": SPEC.model_dump(mode="json") if code is None else code}
    return alice.post("/transmissions", json=body).json()["id"]


def until(condition, seconds=40):
    """What a condition gives, once that is not None."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if (found := condition()) is not None:
                return found
        assert time.monotonic() < deadline
        time.sleep(0.01)


def when(url, identifier, condition, seconds=40):
    """A service's record of a transmission, once a condition holds."""

    record = {}

    def look():
        nonlocal record
        record = httpx.get(f"{url}/transmissions/{identifier}", trust_env=False, timeout=5).json()
        return record if "state" in record and condition(record) else None

    try:
        return until(look, seconds)
    except AssertionError:
        raise AssertionError(f"it is {record | {'dataset': 0, 'code': 0}}") from None


def in_state(url, identifier, *states):
    return when(url, identifier, lambda record: record["state"] in states)


def at(url, identifier, tokens):
    return when(url, identifier, lambda record: record["tokens_done"] >= tokens)


def settled(url, identifier):
    return when(url, identifier, lambda one: one["state"] in ("verified", "failed", "cancelled") and one["wire"]["final"])


@functools.cache
def z_of(data=NOISE, spec=SPEC) -> bytes:
    """What an undisturbed transmission sends."""
    return encode(spec, np.frombuffer(data, np.uint8).astype(np.uint32))[0]


def ledger(pair, identifier, tmp_path, data=NOISE):
    """The ledger of a transmission that must be verified, and D the reconstruction; nothing else is left at either side."""
    record = settled(pair.alice, identifier)
    assert record["state"] == "verified", record["error"]
    assert settled(pair.bob, identifier)["state"] == "verified"
    with Client(Urls(alice=pair.alice, bob=pair.bob, wire=pair.wire)) as client:
        client.reconstruction(identifier, tmp_path / "back")
        found = client.ledger(identifier)
    assert (tmp_path / "back").read_bytes() == data
    left = {path.name for path in pair.directory.glob(f"*/transmissions/{identifier}/*")}
    assert left == {"blocks.jsonl", "costs"}
    return found


def z_in(carried: bytes) -> int:
    """Bytes of z in what Alice sent on one connection: an HTTP head, then masked frames."""
    _, _, left = bytes(carried).partition(b"\r\n\r\n")
    parser, size = Parser(), 0
    while len(left) >= 6:
        short, head = left[1] & 127, 2
        if short >= 126:
            head = 4 if short == 126 else 10
        length = short if head == 2 else int.from_bytes(left[2:head], "big")
        mask, payload = left[head : head + 4], left[head + 4 : head + 4 + length]
        if left[0] & 15 == 2:
            parser.feed(bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)))
        left = left[head + 4 + length :]
    while (message := parser.next()) is not None:
        size += len(message.z) if isinstance(message, Data) else 0
    return size


def same_z(received, data=NOISE, spec=SPEC) -> bool:
    """Whether z in what Bob received is that of an undisturbed transmission."""
    z = z_of(data, spec)
    return z_digest(received) == (hashlib.sha256(z).hexdigest(), len(z))


def children(pid) -> list[int]:
    """The processes that a service has started."""
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]
