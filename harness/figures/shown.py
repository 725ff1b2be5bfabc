"""What is known of one transmission, from its records at both services, Bob's costs and Bob's text: all that is ever shown."""

from typing import Any, Final, Literal

import numpy as np

from harness.figures.curve import Curve

Name = Literal["alice", "bob"]
FINAL_STATES: Final = ("interrupted", "verified", "failed", "cancelled")
SHOWN_TOKENS: Final = 1400


def ended(record: dict[str, Any]) -> bool:
    """Whether a service has done with a transmission; an interrupted one may go on by itself."""
    return record["state"] in FINAL_STATES and not record.get("resuming")


class Shown:
    """A transmission. records: as each service tells it. text: a part of what Bob decoded. sample: what he drew from its model.

    problems: sentences for people.
    """

    def __init__(
        self,
        identifier: str,
        records: dict[Name, dict[str, Any]] | None = None,
        curve: Curve | None = None,
        text: dict[str, Any] | None = None,
        sample: dict[str, Any] | None = None,
    ) -> None:
        self.id = identifier
        self.records: dict[Name, dict[str, Any]] = records or {}
        self.problems: dict[Name, str] = {}
        self.text = text
        self.sample = sample
        self._curve = curve

    @property
    def record(self) -> dict[str, Any]:
        """Alice's record, or Bob's where she has none."""
        return self.records.get("alice") or self.records["bob"]

    @property
    def settled(self) -> bool:
        """Whether nothing will change any more."""
        return all(ended(one) and one["wire"]["final"] for one in self.records.values())

    @property
    def width(self) -> int:
        """Bytes of a token."""
        return token_bytes(self.record["dataset"]["vocabulary_size"])

    @property
    def curve(self) -> Curve:
        """Σ −log2 p against the position."""
        return self._curve or Curve(positions=np.zeros(1, np.int64), bits=np.zeros(1), width=self.width)

    @property
    def socket_bits_per_second(self) -> float | None:
        """Over all of the transmission."""
        seconds = self.record["seconds"].get("total")
        return 8 * self.socket_bytes / seconds if seconds else None

    @property
    def socket_bytes(self) -> int:
        """From Alice to Bob so far."""
        sent = self.records.get("alice")
        return int(sent["wire"]["sent"]["socket_bytes"] if sent else self.records["bob"]["wire"]["received"]["socket_bytes"])


def token_bytes(vocabulary_size: int) -> int:
    """Bytes of a token in the canonical form of a dataset."""
    return 1 if vocabulary_size <= 1 << 8 else 2 if vocabulary_size <= 1 << 16 else 4
