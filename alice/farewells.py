"""Cancelled transmissions of which Bob may hold a part: he is told, by and by where he is away, so that nothing stays behind.

What is to be told stands in the store until Bob has closed the conversation as cancelled, which he does once all is deleted, or
has D already. It outlives a restart, and the transmission's record, which may be deleted at once.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from alice.link import ClientLink, open_link
from shared.channel.errors import CancelledTransmissionError, PeerLostError, RefusedError
from shared.channel.messages import Cancel, Done, Hello
from shared.channel.states import Role
from shared.code.errors import CodelengthError
from shared.service.app import Services
from shared.service.errors import close_code_of
from shared.service.records import Transmission, now
from shared.service.retrying import Retrying
from shared.service.transfer import Conversation, clip

_TELL_SECONDS: Final = 5.0
_TURN_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 7 * 86400.0


async def tell(conversation: Conversation, reason: str) -> bool:
    """Say CANCEL, if that can still be said, and wait a moment for Bob's close; whether he has deleted all. Ends the link."""
    link = conversation.link
    assert isinstance(link, ClientLink)
    with contextlib.suppress(CodelengthError, TimeoutError):
        async with asyncio.timeout(_TELL_SECONDS):
            await conversation.say(Cancel(reason=clip(reason)))
            while await link.receive() is not None:
                pass
    told = link.close_code == close_code_of(CancelledTransmissionError(reason))
    await conversation.end(CancelledTransmissionError(reason) if told else PeerLostError("Bob has not closed"))
    return told


class Farewells:
    """What Bob is still to be told. hello: makes a transmission's offer."""

    def __init__(self, held: Services, hello: Callable[[Transmission], Hello]) -> None:
        self._held = held
        self._hello = hello
        self._due = asyncio.Event()
        self._busy: set[str] = set()  # their own transmission is still at it
        self._due.set()

    def begin(self, record: Transmission, reason: str) -> None:
        """Remember, before anybody is answered, that Bob must hear of it; the transmission itself tries first, until `end`."""
        self._busy.add(record.id)
        self._held.store.put_farewell(record, reason)

    def end(self, identifier: str, *, told: bool) -> None:
        """The transmission has ended: Bob knows, or will be told."""
        self._busy.discard(identifier)
        if told:
            self._held.store.drop_farewell(identifier)
        self._due.set()

    def deleted(self, record: Transmission) -> None:
        """One that nobody will go on with, where it was given up half-way."""
        if record.state == "interrupted" and record.wire["connections"]:
            self.begin(record, "Alice's user deleted the transmission")
            self.end(record.id, told=False)

    def reason(self, identifier: str) -> str | None:
        """Why a transmission was cancelled of which Bob does not know that yet."""
        return next((reason for record, reason in self._held.store.farewells() if record.id == identifier), None)

    async def run(self) -> None:
        """Tell Bob, whenever there is something to tell, and again and again while he is away."""
        retrying = Retrying(0)
        while True:
            self._due.clear()
            waiting = [one for one in self._held.store.farewells() if one[0].id not in self._busy]
            left = [record for record, reason in waiting if not await self._told(record, reason)]
            if len(left) < len(waiting):
                retrying.progress()
            if left:
                await retrying.wait()
            else:
                await self._due.wait()

    async def _told(self, record: Transmission, reason: str) -> bool:
        age = (now() - (record.finished_at or record.created_at)).total_seconds()
        done = age > _PATIENCE_SECONDS
        with contextlib.suppress(CodelengthError, TimeoutError):
            done = await self._tell(record, reason) or done
        if done:
            self._held.store.drop_farewell(record.id)
        return done

    async def _tell(self, record: Transmission, reason: str) -> bool:
        conversation = Conversation(Role.ALICE, await open_link(self._held.settings))
        try:
            async with asyncio.timeout(_TURN_SECONDS):  # Bob's workers may be at others
                await conversation.say(self._hello(record))
                answer = await anext(conversation.hear())
        except RefusedError as refused:
            await conversation.end(None)
            return refused.problem == "conflict"  # he knows: nothing of it is there
        except BaseException:
            conversation.link.meter.abort()
            raise
        if isinstance(answer, Done):
            await conversation.end(None)
            return True
        return await tell(conversation, reason)
