"""A machine asleep, a connection that only one side believes in, or one cut after any byte: it goes on by itself, z the same."""

import os
import signal
import time

import pytest

from benchmarks.faults import keep_received
from shared.channel.protocol import WINDOW_BYTES
from shared.code.models import preset
from tests.faulty import NOISE, PACE, SPEC, at, begin, children, in_state, ledger, same_z, until, z_in, z_of


@pytest.mark.parametrize("toward", [pytest.param("alice", marks=pytest.mark.long), "bob"])
def test_half_open(pair, alice, tap, tmp_path, toward):
    """Swallowed in one direction from some byte on. What was swallowed of z is what the ledger says was sent again."""
    where = {"bob": "300kB", "alice": "300B"}[toward]
    tap.channel(f"blackhole={where},toward={toward},faults=1")
    identifier = begin(alice)
    keep_received(pair, identifier, tmp_path / "z")
    wire = ledger(pair, identifier, tmp_path)["wire"]
    assert same_z(tmp_path / "z")
    assert wire["connections"] >= 2
    crossed = sum(map(z_in, tap.carried))
    again = wire["alice_to_bob"]["retransmitted_bytes"]
    assert again == wire["alice_to_bob"]["retransmitted_at_most_bytes"] == crossed - len(z_of())
    assert (250_000 < again <= WINDOW_BYTES) if toward == "bob" else again == 0  # towards Alice, only ACK and DONE were lost
    # the same from positions: what either side had sent before this connection, of what it sends in it
    sent = alice.get(f"/transmissions/{identifier}").json()["wire"]["sent"]
    assert sent["retransmitted_bytes"] == again


@pytest.mark.parametrize("who", ["bob", pytest.param("alice", marks=pytest.mark.long)])
def test_asleep_for_longer_than_the_keep_alive(pair, alice, tap, tmp_path, who):
    """SIGSTOP and, after more than two of them, SIGCONT, of a service with its worker: as a machine that sleeps.

    What sleeping Alice has sent still comes from the kernel's buffers, so she must be one who has more to code.
    """
    spec = SPEC if who == "bob" else preset("mixing")
    tap.channel(PACE)
    identifier = begin(alice, code=spec.model_dump(mode="json"))
    keep_received(pair, identifier, tmp_path / "z")
    at(pair.bob, identifier, 100_000)
    signal_to(pair, who, signal.SIGSTOP)
    try:
        other = pair.alice if who == "bob" else pair.bob
        in_state(other, identifier, "interrupted")
        time.sleep(1)
    finally:
        signal_to(pair, who, signal.SIGCONT)
    assert ledger(pair, identifier, tmp_path)["wire"]["connections"] >= 2
    assert same_z(tmp_path / "z", spec=spec)


@pytest.mark.long
def test_slow_is_not_silent(pair, alice, tap, tmp_path):
    """Five seconds of z wait on the line before any pong, two keep-alives are two: the connection lives."""
    data = NOISE[:60_000]
    tap.channel("bandwidth=100kbit/s")
    identifier = begin(alice, data)
    result = ledger(pair, identifier, tmp_path, data)
    assert result["wire"]["connections"] == 1
    assert result["seconds"]["total"] > 4


def signal_to(pair, who, number):
    process = pair.process(who)
    for pid in (process.pid, *children(process.pid)):
        os.kill(pid, number)


def cut_after(pair, alice, tap, count, path, how):
    """One transmission of a few hundred bytes, whose first connection ends after so many. Whether it broke."""
    tap.channel(f"{how}={count}B,toward=bob,faults=1")
    data = NOISE[:300]
    result = ledger(pair, begin(alice, data), path, data)
    assert result["wire"]["alice_to_bob"]["retransmitted_at_most_bytes"] <= result["z_bits"] // 8 + 1
    return result["wire"]["connections"] > 1 or len(tap.carried) > 1


@pytest.mark.parametrize(
    ("stride", "how"),
    [(211, "cut"), pytest.param(1, "cut", marks=pytest.mark.long), pytest.param(3, "reset", marks=pytest.mark.long)],
)
def test_cut_after_every_byte_that_crosses(pair, alice, tap, tmp_path, stride, how):
    """Through the real services, from the handshake's first byte to the end's last."""
    count = 0
    while cut_after(pair, alice, tap, count, tmp_path, how):
        count += stride
    assert count > 900


@pytest.mark.parametrize("left_out", [1, 7])
def test_cut_in_the_last_frame(pair, alice, tap, tmp_path, left_out):
    """Of the close frame: all is said and done, and what did not arrive is lost, not miscounted."""
    data = NOISE[:300]
    whole = ledger(pair, begin(alice, data), tmp_path, data)["wire"]["alice_to_bob"]
    assert whole["control_bytes"] == 8
    tap.channel(f"cut={whole['socket_bytes'] - left_out}B,toward=bob,faults=1")
    result = ledger(pair, begin(alice, data), tmp_path, data)
    assert result["wire"]["connections"] == 1
    assert result["wire"]["alice_to_bob"]["witness_bytes"] == whole["socket_bytes"] - left_out


@pytest.mark.long
def test_tries_come_at_longer_and_longer_intervals(pair, alice, tap):
    """0.05 to 0.1 s, then twice as long each time: while Bob cannot be reached, tries do not pile up."""
    tap.channel("reset=0B")
    identifier = begin(alice)
    in_state(pair.alice, identifier, "interrupted")
    time.sleep(3)
    assert 4 <= len(tap.carried) <= 7
    tap.channel()
    assert alice.post(f"/transmissions/{identifier}/resume").status_code == 200
    until(lambda: True if alice.get(f"/transmissions/{identifier}").json()["state"] == "verified" else None, seconds=10)
