"""SIGKILL of either side, with its worker, in every state that a transmission can be in: verified, and z as if nothing had been."""

import os
import signal

import pytest

from benchmarks.faults import end, keep_received
from tests.faulty import NOISE, PACE, at, begin, children, in_state, ledger, same_z, settled, until, z_of


def queued(pair, alice, who, copy):
    """Another one, paused, has Alice's worker."""
    ahead = begin(alice)
    at(pair.bob, ahead, 4096)
    alice.post(f"/transmissions/{ahead}/pause")
    identifier = begin(alice)
    assert alice.get(f"/transmissions/{identifier}").json()["state"] == "queued"
    end(pair, who)
    if who == "bob":  # nothing of the second one was his yet
        alice.post(f"/transmissions/{ahead}/cancel")
    return identifier


def running(tokens):
    def reach(pair, alice, who, copy):
        identifier = begin(alice)
        at(pair.bob, identifier, 1)
        keep_received(pair, identifier, copy)  # here: Bob may have all that he needs to end without Alice
        at(pair.bob, identifier, tokens)
        end(pair, who)
        return identifier

    return reach


def paused(pair, alice, who, copy):
    identifier = begin(alice)
    at(pair.bob, identifier, 100_000)
    alice.post(f"/transmissions/{identifier}/pause")
    end(pair, who)
    if who == "alice":
        pair.start("alice")
        in_state(pair.alice, identifier, "paused")
        until(lambda: True if alice.get("/readyz").status_code == 200 else None)
    assert alice.post(f"/transmissions/{identifier}/resume").status_code == 200
    return identifier


def interrupted(pair, alice, who, copy):
    """The other one is away already."""
    other = "bob" if who == "alice" else "alice"
    identifier = begin(alice)
    at(pair.bob, identifier, 100_000)
    end(pair, other)
    in_state(getattr(pair, who), identifier, "interrupted")
    end(pair, who)
    return identifier


def all_sent(pair, alice):
    """Bob has received END; his worker, which stands still, has not decoded all."""
    identifier = begin(alice)
    at(pair.bob, identifier, 100_000)
    (worker,) = children(pair.process("bob").pid)
    signal.pidfd_send_signal(handle := os.pidfd_open(worker), signal.SIGSTOP)
    at(pair.alice, identifier, len(NOISE))
    return identifier, handle


def ended(pair, alice, who, copy):
    identifier, worker = all_sent(pair, alice)
    until(lambda: True if alice.get(f"/transmissions/{identifier}").json()["wire"]["sent"]["z_bytes"] == len(z_of()) else None)
    end(pair, who)
    if who == "alice":
        signal.pidfd_send_signal(worker, signal.SIGCONT)
    return identifier


def done_is_not_recorded(pair, alice, who, copy):
    """Bob has verified it and said so; Alice, who stands still, has not heard it."""
    identifier, worker = all_sent(pair, alice)
    until(lambda: True if alice.get(f"/transmissions/{identifier}").json()["wire"]["sent"]["z_bytes"] == len(z_of()) else None)
    pair.process("alice").send_signal(signal.SIGSTOP)
    signal.pidfd_send_signal(worker, signal.SIGCONT)
    in_state(pair.bob, identifier, "verified")
    end(pair, who)
    if who == "bob":
        pair.process("alice").send_signal(signal.SIGCONT)
    return identifier


STATES = {
    "queued": queued,
    "first block": running(1),
    "middle block": running(300_000),
    "last block": running(len(NOISE) - 5000),
    "paused": paused,
    "interrupted": interrupted,
    "after END": ended,
    "before DONE is recorded": done_is_not_recorded,
}
SHORT = {("before DONE is recorded", "alice")}


@pytest.mark.parametrize(
    ("state", "who"),
    [
        pytest.param(state, who, marks=() if (state, who) in SHORT else pytest.mark.long)
        for state in STATES
        for who in ("alice", "bob")
    ],
)
def test_killed_in_any_state(pair, alice, tap, tmp_path, state, who):
    tap.channel(PACE)
    copy = tmp_path / "z"
    identifier = STATES[state](pair, alice, who, copy)
    received = pair.directory / "bob" / "transmissions" / identifier / "received"
    tap.channel()
    for name in ("bob", "alice"):
        if pair.process(name).poll() is not None:
            pair.start(name)
    if not copy.exists() and state != "before DONE is recorded":  # then Bob has deleted it
        keep_received(pair, identifier, copy)
    ledger(pair, identifier, tmp_path)
    if copy.exists():
        assert same_z(copy)
    assert not received.exists()
    assert settled(pair.alice, identifier)["z_bits"] == settled(pair.bob, identifier)["z_bits"]
