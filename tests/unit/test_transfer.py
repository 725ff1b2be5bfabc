"""A conversation over a link: who speaks last, and who is believed."""

import asyncio
from types import SimpleNamespace

import pytest

from shared.channel.errors import PeerFailedError
from shared.channel.messages import Accept, Error, Hello, Prepared
from shared.channel.protocol import Channel
from shared.channel.states import Role
from shared.service.transfer import Conversation, side_by_side

HELLO = Hello(transmission="0" * 32, spec=b"{}", tokens=None, media_type="text/plain", name="x", code="ngram", runtime="{}")


class FakeLink:
    """What the peer has sent already, and what was sent to it."""

    def __init__(self):
        self.meter = SimpleNamespace(sent=SimpleNamespace(), received=SimpleNamespace())
        self.incoming = asyncio.Queue()
        self.outgoing = []

    async def send(self, data):
        self.outgoing.append(data)

    async def receive(self):
        return await self.incoming.get()


async def test_what_the_peer_said_last_counts_not_that_nothing_could_be_said_after_it():
    """Bob fails while Alice is about to speak: the error is his, not that her message came too late."""
    link, bob = FakeLink(), Channel(Role.BOB)
    alice = Conversation(Role.ALICE, link)
    await alice.say(HELLO)
    bob.receive_data(link.outgoing.pop())
    assert list(bob.events()) == [HELLO]
    bob.send(Accept(block=0, records=0, z_bytes=0, runtime="{}"))
    link.incoming.put_nowait(bob.data_to_send())
    heard = alice.hear()
    await anext(heard)
    bob.send(Error(problem="corpus-damaged", reason="give it again"))
    link.incoming.put_nowait(bob.data_to_send())

    async def listen():
        await anext(heard)

    async def speak():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await alice.say(Prepared(digest=b"m" * 32))

    with pytest.raises(PeerFailedError, match="give it again"):
        await side_by_side(listen(), speak(), speak())
    await alice.say(Prepared(digest=b"m" * 32))
    assert not link.outgoing
