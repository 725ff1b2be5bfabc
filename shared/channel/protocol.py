"""One side of a conversation, sans I/O: bytes received become messages, messages sent become bytes, all by the table of states.

The caller moves the bytes. Clauses P-n are those of docs/protocol.md. The credit window is kept here on both sides: Alice
may have at most WINDOW_BYTES of z that Bob has not called durable. So are SEALs (P-19): whatever is given out to be sent ends
with one, long parts have some inside, and no message comes out of `events` before the SEAL behind it has held.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from shared.channel.errors import (
    DamagedLinkError,
    LimitError,
    LocalProtocolError,
    PeerLostError,
    RemoteProtocolError,
    UnexpectedMessageError,
    UnknownMessageError,
)
from shared.channel.messages import MAX_CODE_BYTES, VERSION, Accept, Ack, Data, Message, Parser, Restart, Seal, encode
from shared.channel.states import Role, State, after

WINDOW_BYTES: Final = 2 << 20
SEAL_BYTES: Final = 4096
MAX_UNSEALED_BYTES: Final = MAX_CODE_BYTES + (1 << 20)


class Channel:
    """One side of one conversation.

    A `RemoteProtocolError` is raised once, by `events`, and closes the conversation; tell the peer with an `Error` made from
    it through `fail`. After the end, whatever still arrives is ignored (P-8).
    """

    def __init__(self, role: Role, *, window_bytes: int = WINDOW_BYTES, version: int = VERSION) -> None:
        self.role = role
        self.state = State.OPENING
        self.z_before_bytes = 0
        """Bytes of z that Bob held before this conversation, as he said in ACCEPT."""
        self._window = window_bytes
        self._version = version
        self._parser = Parser(version)
        self._out = bytearray()
        self._sent_crc = self._received_crc = 0
        self._sealed_bytes = 0  # of those queued
        self._unsealed: list[Message] = []
        self._unsealed_bytes = 0
        self._z_sent = 0  # by Alice, as this side knows, those of earlier conversations included
        self._z_received = 0  # by Bob, as this side knows
        self._z_durable = 0

    @property
    def credit_bytes(self) -> int:
        """Bytes of z that Alice may send now (P-10)."""
        return self._window - (self._z_sent - self._z_durable)

    @property
    def z_sent_bytes(self) -> int:
        """Bytes of z sent in this conversation, at Alice's side, or received, at Bob's."""
        return self._z_sent - self.z_before_bytes

    def send(self, message: Message) -> None:
        """Queue a message. Raises `LocalProtocolError`, and queues nothing, where it is not allowed."""
        state = after(self.state, self.role, type(message))
        if state is None:
            raise LocalProtocolError(f"{type(message).__name__.upper()} is not allowed while {self.state}")
        record = encode(message, self._version)
        if isinstance(message, Data) and len(message.z) > self.credit_bytes:
            raise LocalProtocolError(f"{len(message.z)} bytes of z are more than the credit of {self.credit_bytes}")
        if isinstance(message, Ack) and not self._plausible(message):
            raise LocalProtocolError("an ACK must not go back, nor ahead of what came")
        self._count(message)
        self._out += record
        if len(self._out) - self._sealed_bytes >= SEAL_BYTES:
            self._seal()
        self.state = state

    def data_to_send(self) -> bytes:
        """The bytes queued, each given out once, with a SEAL behind them."""
        self._seal()
        out = bytes(self._out)
        self._out.clear()
        self._sealed_bytes = 0
        return out

    def _seal(self) -> None:
        if self._version == 1 or len(self._out) == self._sealed_bytes:
            return
        crc = zlib.crc32(memoryview(self._out)[self._sealed_bytes :], self._sent_crc)
        seal = encode(Seal(crc=crc.to_bytes(4, "little")))
        self._sent_crc = zlib.crc32(seal, crc)
        self._out += seal
        self._sealed_bytes = len(self._out)

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the peer; take the messages from `events`."""
        if self.state is not State.CLOSED or self._unsealed:
            self._parser.feed(data)

    def receive_eof(self) -> None:
        """The peer will send no more. Raises `PeerLostError` if that is too early."""
        if self.state is not State.CLOSED:
            raise PeerLostError(f"the connection ended while {self.state}")

    def events(self) -> Iterator[Message]:
        """The messages that are complete, in order. Raises a `RemoteProtocolError` at the first that is not allowed."""
        while self.state is not State.CLOSED or self._unsealed:
            try:
                message = self._parser.next()
                if message is None:
                    return
                if isinstance(message, Seal):
                    sealed = self._unseal(message)
                elif self.state is State.CLOSED:
                    return
                else:
                    self._take(message)
                    sealed = self._hold(message)
            except RemoteProtocolError:
                self._unsealed.clear()
                self.state = State.CLOSED
                raise
            yield from sealed

    def _hold(self, message: Message) -> list[Message]:
        if self._version == 1:
            return [message]
        self._received_crc = zlib.crc32(self._parser.record, self._received_crc)
        self._unsealed.append(message)
        self._unsealed_bytes += len(self._parser.record)
        if self._unsealed_bytes > MAX_UNSEALED_BYTES:
            raise LimitError("bytes without a SEAL", self._unsealed_bytes, MAX_UNSEALED_BYTES)
        return []

    def _unseal(self, seal: Seal) -> list[Message]:
        if self._version == 1:
            raise UnknownMessageError(seal.number)
        if seal.crc != self._received_crc.to_bytes(4, "little"):
            raise DamagedLinkError
        self._received_crc = zlib.crc32(self._parser.record, self._received_crc)
        out, self._unsealed, self._unsealed_bytes = self._unsealed, [], 0
        return out

    @property
    def waiting_bytes(self) -> int:
        """Bytes received that no message has been made of yet."""
        return self._parser.waiting_bytes

    @property
    def unfinished(self) -> bool:
        """Whether the peer has begun a record, or said messages without the SEAL that must follow at once (P-19)."""
        return bool(self._parser.waiting_bytes or self._unsealed)

    def take_waiting(self) -> bytes:
        """Those bytes, removed: what follows the end of the conversation."""
        return self._parser.take_waiting()

    def fail(self, message: Message) -> bytes:
        """The bytes of a last message after a `RemoteProtocolError`, which has closed this side already (P-7)."""
        self.state = State.CLOSED
        self._out += encode(message)
        return self.data_to_send()

    def close(self) -> None:
        """End this side without a word; what arrives from now on is ignored."""
        self.state = State.CLOSED

    def _take(self, message: Message) -> None:
        state = after(self.state, self.role.other, type(message))
        if state is None:
            raise UnexpectedMessageError(type(message).__name__.upper(), self.state)
        if isinstance(message, Data) and len(message.z) > self.credit_bytes:
            raise LimitError("bytes of z in flight", len(message.z) - self.credit_bytes + self._window, self._window)
        if isinstance(message, Ack) and not self._plausible(message):
            raise LimitError("bytes of z acknowledged", max(message.received_bytes, message.durable_bytes), self._z_sent)
        self._count(message)
        self.state = state

    def _plausible(self, ack: Ack) -> bool:
        return (
            self._z_durable <= ack.durable_bytes <= ack.received_bytes and self._z_received <= ack.received_bytes <= self._z_sent
        )

    def _count(self, message: Message) -> None:
        if isinstance(message, Data):
            self._z_sent += len(message.z)
        elif isinstance(message, Ack):
            self._z_received, self._z_durable = message.received_bytes, message.durable_bytes
        elif isinstance(message, Accept):
            self.z_before_bytes = self._z_sent = self._z_received = self._z_durable = message.z_bytes
        elif isinstance(message, Restart) and self.state is State.RESTARTING:  # what was given up needs no ACK (P-20)
            self._z_received = self._z_durable = self._z_sent
