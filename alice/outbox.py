"""What Alice has made and Bob does not hold yet: the messages of a dataset, in order, to be sent again if need be.

Bounded by the credit window: her worker makes no z beyond it. Positions count as Bob counts what he received of a leg: PREPARED,
BLOCK and CHECK by number, z by bytes. Nothing here knows sockets.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from shared.channel.messages import MAX_DATA_BYTES, Block, Check, Data, Message, Prepared, Restart


class Outbox:
    """Messages from the position (records, z_bytes) on, as one run of the encoder makes them.

    first: what begins the leg, before all else. closed: Bob has given up the leg; nothing more is to be sent.
    """

    def __init__(self, records: int, z_bytes: int, first: Restart | None = None) -> None:
        self.closed = False
        self._first = first
        self._kept: deque[Message] = deque([] if first is None else [first])
        self._next = 0  # the first of these that this connection has not sent
        self._from = records, z_bytes  # where the first of these stands
        self._made = records, z_bytes  # where the next will stand
        self._grown = asyncio.Event()

    def put(self, messages: Iterable[Message]) -> None:
        """Add what the encoder made."""
        for message in messages:
            self._kept.append(message)
            self._made = _after(self._made, message)
        self._grown.set()

    def close(self) -> None:
        """Give out nothing more: `take` returns no messages."""
        self.closed = True
        self._grown.set()

    @property
    def made_z_bytes(self) -> int:
        """How far the leg's z has been made."""
        return self._made[1]

    def acknowledge(self, durable_bytes: int) -> None:
        """Forget what Bob holds for certain: z up to `durable_bytes`, and all that came before its last byte."""
        while True:
            count = next((i for i, message in enumerate(self._kept) if isinstance(message, Data)), None)
            if count is None or count >= self._next:
                return
            message = self._kept[count]
            assert isinstance(message, Data)
            if self._from[1] + len(message.z) > durable_bytes:
                return
            for _ in range(count + 1):
                self._drop()

    def rewind(self, records: int, z_bytes: int) -> bool:
        """Go on after what Bob says that he holds of this leg; False if that is not among what is kept, then encode again."""
        if records < self._from[0] or z_bytes < self._from[1] or records > self._made[0] or z_bytes > self._made[1]:
            return False
        if self._kept and self._kept[0] is self._first:
            self._kept.popleft()  # Bob has it: he is in this leg
        while self._kept and self._from != (records, z_bytes):
            first, after = self._kept[0], _after(self._from, self._kept[0])
            if after[0] <= records and after[1] <= z_bytes:
                self._drop()
            elif isinstance(first, Data) and z_bytes > self._from[1]:
                self._kept[0] = Data(z=first.z[z_bytes - self._from[1] :])
                self._from = self._from[0], z_bytes
            else:
                break
        self._next = 0
        return self._from == (records, z_bytes)

    async def take(self, part_bytes: int = MAX_DATA_BYTES) -> tuple[Message, ...]:
        """The next messages to send, together not much more than `part_bytes`: DATA that is larger is cut. None once closed."""
        while not (out := self.take_made(part_bytes)) and not self.closed:
            self._grown.clear()
            await self._grown.wait()
        return () if self.closed else out

    def take_made(self, part_bytes: int = MAX_DATA_BYTES) -> tuple[Message, ...]:
        """The same without waiting: none if all that was made has been sent."""
        out: list[Message] = []
        size = 0
        while self._next < len(self._kept) and size < part_bytes:
            message = self._kept[self._next]
            if isinstance(message, Data) and len(message.z) > part_bytes:
                self._kept[self._next] = Data(z=message.z[part_bytes:])
                self._kept.insert(self._next, message := Data(z=message.z[:part_bytes]))
            size += len(message.z) if isinstance(message, Data) else 64
            if out and size > part_bytes:
                break
            out.append(message)
            self._next += 1
        return tuple(out)

    def _drop(self) -> None:
        self._from = _after(self._from, self._kept.popleft())
        self._next = max(0, self._next - 1)


def _after(position: tuple[int, int], message: Message) -> tuple[int, int]:
    records, z_bytes = position
    if isinstance(message, Data):
        return records, z_bytes + len(message.z)
    return records + isinstance(message, Prepared | Block | Check), z_bytes
