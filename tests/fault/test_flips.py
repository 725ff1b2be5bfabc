"""A flipped bit anywhere between Alice and Bob: noticed, or harmless, and never a reason to give up for good."""

import pytest

from tests.faulty import NOISE, begin, ledger

DATA = NOISE[:300]


def crossed(pair, alice, tap, tmp_path):
    """Bytes toward each side in an undisturbed transmission."""
    tap.channel()
    wire = ledger(pair, begin(alice, DATA), tmp_path, DATA)["wire"]
    return {"bob": wire["alice_to_bob"]["socket_bytes"], "alice": wire["bob_to_alice"]["socket_bytes"]}


@pytest.mark.parametrize("toward", ["alice", "bob"])
@pytest.mark.parametrize("stride", [211, pytest.param(9, marks=pytest.mark.long)])
def test_any_bit_that_crosses_may_flip(pair, alice, tap, tmp_path, toward, stride):
    """Through the real services, from the handshake's first bit to the end's last: D is verified, and the ledger holds."""
    bits = 8 * crossed(pair, alice, tap, tmp_path)[toward]
    assert bits > 3000
    again = 0
    for bit in range(stride // 2, bits, stride):
        tap.flip(toward, bit)
        again += ledger(pair, begin(alice, DATA), tmp_path, DATA)["wire"]["connections"] > 1
    assert again > bits // stride // 5
