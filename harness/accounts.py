"""The connections of one transmission as Alice, Bob and the wire counted them, held together and added up.

A connection that ended in order must have been counted alike by all. Of one that broke, bytes may have been lost under way:
then nobody can have received more than was sent. A service that was killed leaves no final count of its open connection; its
peer's count stands for it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shared.channel.ledger import DirectionLedger, compose, disagreements


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One connection: its record at either service, and the wire's; None where there is none."""

    alice: dict[str, Any] | None
    bob: dict[str, Any] | None
    wire: dict[str, Any] | None

    @property
    def whole(self) -> bool:
        """Whether it ended in order at both ends, and both counts are final."""
        return all(end is not None and end["final"] and not end["broken"] for end in (self.alice, self.bob))

    @property
    def counted(self) -> bool:
        """Whether one end at least has a final count."""
        return any(end is not None and end["final"] for end in (self.alice, self.bob))


def pair(alice: list[dict[str, Any]], bob: list[dict[str, Any]], wire: list[dict[str, Any]]) -> list[Counted]:
    """The records of the same connections, by their addresses: Alice's, the wire's on both of its sides, Bob's."""
    by_client = {one["client"]: one for one in wire}
    by_upstream = {one["upstream"]: one for one in wire}
    left = {one["peer"]: one for one in bob}
    out = []
    for one in alice:
        seen = by_client.get(one["local"])
        out.append(Counted(alice=one, bob=left.pop(seen["upstream"] if seen else one["local"], None), wire=seen))
    return out + [Counted(alice=None, bob=one, wire=by_upstream.get(peer)) for peer, one in left.items()]


def add(connections: list[Counted], direction: str, *, witnessed: bool) -> tuple[dict[str, Any], list[str]]:
    """One direction, `alice_to_bob` or `bob_to_alice`, over all connections; and what does not hold, in words."""
    senders, receivers = DirectionLedger(tcp_retransmitted_bytes=0, tcp_info_bytes=0), DirectionLedger(tcp_info_bytes=0)
    seen_bytes, quarrels = 0, []
    for one in connections:
        ends = ((one.alice, "sent"), (one.bob, "received"))
        if direction == "bob_to_alice":
            ends = ((one.bob, "sent"), (one.alice, "received"))
        sender, receiver = (DirectionLedger(**end[side]) if end is not None and end["final"] else None for end, side in ends)
        both = sender is not None and receiver is not None
        if sender is None and receiver is None:  # both were killed, or their counts have not come
            stale: dict[str, Any] = next((end[side] for end, side in ends if end is not None), {})
            sender = DirectionLedger(**stale)
        if sender is None:
            sender = receiver
        if receiver is None:
            receiver = sender
        assert sender is not None
        assert receiver is not None
        counts = (
            one.wire["client_to_upstream_bytes" if direction == "alice_to_bob" else "upstream_to_client_bytes"]
            if one.wire
            else None
        )
        if one.whole:
            quarrels += disagreements(sender, receiver, counts)
        elif both:
            quarrels += _lost_only(sender, receiver, counts)
        senders.add(sender)
        receivers.add(receiver)
        seen_bytes += counts or 0
        witnessed = witnessed and counts is not None
    return compose(senders, receivers, seen_bytes if witnessed and connections else None), quarrels


def retransmitted(connections: list[Counted], crossed_bytes: int, z_bytes: int) -> dict[str, int | None]:
    """What of z crossed more than once, of a verified transmission; and at most, for services killed before they had counted.

    crossed_bytes: of z, as far as it was counted. Unknown, of a connection that neither end has counted to its end, is what
    crossed after the last count that was saved: no more than the wire has seen since. Without a wire that is unknown too.
    """
    again, bound = crossed_bytes - z_bytes, 0
    for one in connections:
        if not one.counted:
            if one.wire is None:
                return {"retransmitted_bytes": None, "retransmitted_at_most_bytes": None}
            last = one.alice["sent"] if one.alice is not None else one.bob["received"] if one.bob is not None else None
            bound += max(0, one.wire["client_to_upstream_bytes"] - (last["socket_bytes"] if last is not None else 0))
    known = all(one.counted for one in connections)
    return {"retransmitted_bytes": max(0, again) if known else None, "retransmitted_at_most_bytes": max(0, again + bound)}


def _lost_only(sender: DirectionLedger, receiver: DirectionLedger, witness_bytes: int | None) -> list[str]:
    """Of a broken connection: whether bytes can only have been lost."""
    order = [("the receiver", receiver.socket_bytes), ("the sender", sender.socket_bytes)]
    if witness_bytes is not None and sender.tls_bytes is not None:
        order.insert(1, ("the witness", witness_bytes))
    return [
        f"{less} counted {few} on a broken connection, {more} {many}"
        for (less, few), (more, many) in pairwise(order)
        if few > many
    ]
