"""A flipped bit anywhere between Alice and Bob: noticed, or harmless, and never a reason to give up for good."""

import pytest

from tests.faulty import NOISE, begin, ledger

DATA = NOISE[:300]


@pytest.mark.parametrize(
    ("toward", "first", "stride"),
    [
        ("alice", 1927, 1000),  # in the texts of ACCEPT, which are UTF-8 no more
        ("bob", 1477, 1600),  # in the handshake's subprotocol, and what follows
        pytest.param("alice", 0, 7, marks=pytest.mark.long),  # in every byte
        pytest.param("bob", 0, 7, marks=pytest.mark.long),
    ],
)
def test_any_bit_that_crosses_may_flip(pair, alice, tap, tmp_path, toward, first, stride):
    """From the handshake's first bit to the end's last, through the real services: D is verified, and the ledger holds."""
    tap.channel()
    wire = ledger(pair, begin(alice, DATA), tmp_path, DATA)["wire"]
    bits = range(first, 8 * wire[{"alice": "bob_to_alice", "bob": "alice_to_bob"}[toward]]["socket_bytes"], stride)
    again = 0
    for bit in bits:
        tap.flip(toward, bit)
        try:
            again += ledger(pair, begin(alice, DATA), tmp_path, DATA)["wire"]["connections"] > 1 or len(tap.carried) > 1
        except Exception as error:
            raise AssertionError(f"bit {bit % 8} of byte {bit // 8} toward {toward}") from error
    assert again > len(bits) // 5
