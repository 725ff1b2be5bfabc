"""One side of a conversation, sans I/O: bytes received become messages, messages sent become bytes, all by the table of states.

The caller moves the bytes. Clauses P-n are those of docs/protocol.md. The credit window is kept here on both sides: Alice
may have at most WINDOW_BYTES of z that Bob has not called durable.
"""

from collections.abc import Iterator
from typing import Final

from shared.channel.errors import LimitError, LocalProtocolError, PeerLostError, RemoteProtocolError, UnexpectedMessageError
from shared.channel.messages import Ack, Data, Message, Parser, encode
from shared.channel.states import Role, State, after

WINDOW_BYTES: Final = 2 << 20


class Channel:
    """One side of one conversation.

    A `RemoteProtocolError` is raised once, by `events`, and closes the conversation; tell the peer with an `Error` made from
    it through `fail`. After the end, whatever still arrives is ignored (P-8).
    """

    def __init__(self, role: Role, *, window_bytes: int = WINDOW_BYTES) -> None:
        self.role = role
        self.state = State.OPENING
        self._window = window_bytes
        self._parser = Parser()
        self._out = bytearray()
        self._z_sent = 0  # by Alice, as this side knows
        self._z_received = 0  # by Bob, as this side knows
        self._z_durable = 0

    @property
    def credit_bytes(self) -> int:
        """Bytes of z that Alice may send now (P-10)."""
        return self._window - (self._z_sent - self._z_durable)

    @property
    def z_sent_bytes(self) -> int:
        """Bytes of z sent, at Alice's side, or received, at Bob's."""
        return self._z_sent

    def send(self, message: Message) -> None:
        """Queue a message. Raises `LocalProtocolError`, and queues nothing, where it is not allowed."""
        state = after(self.state, self.role, type(message))
        if state is None:
            raise LocalProtocolError(f"{type(message).__name__.upper()} is not allowed while {self.state}")
        record = encode(message)
        if isinstance(message, Data) and len(message.z) > self.credit_bytes:
            raise LocalProtocolError(f"{len(message.z)} bytes of z are more than the credit of {self.credit_bytes}")
        if isinstance(message, Ack) and not self._plausible(message):
            raise LocalProtocolError("an ACK must not go back, nor ahead of what came")
        self._count(message)
        self._out += record
        self.state = state

    def data_to_send(self) -> bytes:
        """The bytes queued, each given out once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the peer; take the messages from `events`."""
        if self.state is not State.CLOSED:
            self._parser.feed(data)

    def receive_eof(self) -> None:
        """The peer will send no more. Raises `PeerLostError` if that is too early."""
        if self.state is not State.CLOSED:
            raise PeerLostError(f"the connection ended while {self.state}")

    def events(self) -> Iterator[Message]:
        """The messages that are complete, in order. Raises a `RemoteProtocolError` at the first that is not allowed."""
        while self.state is not State.CLOSED:
            try:
                message = self._parser.next()
                if message is None:
                    return
                self._take(message)
            except RemoteProtocolError:
                self.state = State.CLOSED
                raise
            yield message

    @property
    def waiting_bytes(self) -> int:
        """Bytes received that no message has been made of yet."""
        return self._parser.waiting_bytes

    def take_waiting(self) -> bytes:
        """Those bytes, removed: what follows the end of the conversation."""
        return self._parser.take_waiting()

    def fail(self, message: Message) -> bytes:
        """The bytes of a last message after a `RemoteProtocolError`, which has closed this side already (P-7)."""
        self.state = State.CLOSED
        return encode(message)

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
