"""A transmission in a file: the same conversation, of which only Alice's half is written. Sans I/O; see F-n in docs/protocol.md.

    magic, 8 bytes | version, 1 byte | HELLO | CRC-32 | BLOCK, DATA, CHECK … | END | CRC-32

The CRCs are over all bytes before them, little endian: the first lets a damaged head be refused before anything is believed
that it says, the second lets a file be checked without decoding it.

Both ends drive the `Channel` they would drive over a socket. What Bob would answer, ACCEPT and ACK, is certain here, so it
is put into the channel at either end and not stored. Files may follow one another, as those of gzip and xz. This module
knows no model: it can read all of a file without decoding anything.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from shared.channel.errors import (
    BadFrameError,
    CancelledTransmissionError,
    HeaderDamagedError,
    LimitError,
    NotStoredError,
    PeerFailedError,
    StoredDamagedError,
    StoredVersionError,
    TruncatedError,
    UnknownMessageError,
    VersionError,
)
from shared.channel.messages import FILE_VERSION, Accept, Ack, Cancel, Data, End, Error, Hello, Message, Parser, encode
from shared.channel.protocol import Channel
from shared.channel.states import Role

MAGIC: Final = b"\x89CLZ1\r\n\x1a"
STORED_VERSION: Final = 1
SUFFIX: Final = ".clz1"

_FIXED_BYTES: Final = len(MAGIC) + 1
_CRC: Final = struct.Struct("<I")
_ACCEPT: Final = Accept(block=0, records=0, z_bytes=0, runtime="")


def _head(hello: Hello) -> bytes:
    data = MAGIC + bytes([STORED_VERSION]) + encode(hello, FILE_VERSION)
    return data + _CRC.pack(zlib.crc32(data))


class StoredWriter:
    """Alice's messages to the bytes of a file."""

    def __init__(self) -> None:
        self._channel = Channel(Role.ALICE, version=FILE_VERSION)
        self._crc = 0

    def begin(self, hello: Hello) -> bytes:
        """The head of the file."""
        self._channel.send(hello)
        self._channel.data_to_send()
        self._answer(_ACCEPT)
        head = _head(hello)
        self._crc = zlib.crc32(head)
        return head

    def write(self, message: Message) -> bytes:
        """One further message. Raises `LocalProtocolError` where the protocol does not allow it."""
        self._channel.send(message)
        if isinstance(message, Data):
            sent = self._channel.z_sent_bytes
            self._answer(Ack(received_bytes=sent, durable_bytes=sent))
        record = self._channel.data_to_send()
        self._crc = zlib.crc32(record, self._crc)
        return record + (_CRC.pack(self._crc) if isinstance(message, End) else b"")

    def _answer(self, message: Message) -> None:
        self._channel.receive_data(encode(message, FILE_VERSION))
        for _ in self._channel.events():
            pass


class StoredReader:
    """The bytes of a file, or of several joined, to messages; HELLO begins each, END ends it.

    Raises, at the first byte that shows it: `NotStoredError`, `StoredVersionError`, `HeaderDamagedError`, `StoredDamagedError`,
    or what the messages themselves raise. Holds at most one incomplete record.
    """

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._end: End | None = None  # read, but its CRC has not come
        self._crc = 0
        self._waiting = bytearray()
        self._fed_bytes = 0

    @property
    def position(self) -> int:
        """Bytes of the input that messages have been made of; the next message begins here."""
        return self._fed_bytes - (len(self._waiting) if self._channel is None else self._channel.waiting_bytes)

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._fed_bytes += len(data)
        if self._channel is None:
            self._waiting += data
        else:
            self._channel.receive_data(data)

    def end(self) -> None:
        """The input has ended. Raises `TruncatedError` if that is inside a transmission, `NotStoredError` if there was none."""
        if self._channel is not None or self._end is not None or self._waiting:
            raise TruncatedError(self._fed_bytes)
        if self._fed_bytes == 0:
            raise NotStoredError("it is empty")

    def messages(self) -> Iterator[Message]:
        """The messages that are complete, in order."""
        while True:
            if self._end is not None:
                if len(self._waiting) < _CRC.size:
                    return
                if self._waiting[: _CRC.size] != _CRC.pack(self._crc):
                    raise StoredDamagedError
                del self._waiting[: _CRC.size]
                end, self._end = self._end, None
                yield end
            if self._channel is None:
                hello = self._read_head()
                if hello is None:
                    return
                yield hello
            channel = self._channel
            assert channel is not None
            for message in channel.events():
                if isinstance(message, Data):
                    have = channel.z_sent_bytes
                    channel.send(Ack(received_bytes=have, durable_bytes=have))
                    channel.data_to_send()
                elif isinstance(message, Cancel):
                    raise CancelledTransmissionError(message.reason)
                elif isinstance(message, Error):
                    raise PeerFailedError(message.problem, message.reason)
                self._crc = zlib.crc32(encode(message), self._crc)
                if isinstance(message, End):
                    self._end, self._channel = message, None
                    self._waiting += channel.take_waiting()
                    break
                yield message
            else:
                return

    def _read_head(self) -> Hello | None:
        data = bytes(self._waiting)
        _check_magic(data, first=self._fed_bytes == len(data))
        if len(data) <= len(MAGIC):
            return None
        if data[len(MAGIC)] != STORED_VERSION:
            raise StoredVersionError(data[len(MAGIC)], STORED_VERSION)
        parser = Parser(FILE_VERSION)
        parser.feed(data[_FIXED_BYTES:])
        try:
            hello = parser.next()
        except VersionError:
            raise
        except (BadFrameError, UnknownMessageError, LimitError) as error:
            raise HeaderDamagedError(str(error)) from None
        if hello is None:
            return None
        if not isinstance(hello, Hello):
            raise HeaderDamagedError(f"{type(hello).__name__.upper()} stands where HELLO belongs")
        rest = parser.take_waiting()
        if len(rest) < _CRC.size:
            return None
        head = _head(hello)
        if rest[: _CRC.size] != head[-_CRC.size :]:
            raise HeaderDamagedError("its CRC-32 does not hold")
        self._crc = zlib.crc32(head)
        self._channel = Channel(Role.BOB, version=FILE_VERSION)
        self._channel.receive_data(encode(hello, FILE_VERSION))
        for _ in self._channel.events():
            pass
        self._channel.send(_ACCEPT)
        self._channel.data_to_send()
        self._channel.receive_data(rest[_CRC.size :])
        self._waiting.clear()
        return hello


def _check_magic(data: bytes, *, first: bool) -> None:
    if data[: len(MAGIC)] == MAGIC[: len(data)]:
        return
    if data.startswith((MAGIC.replace(b"\r\n", b"\n"), MAGIC.replace(b"\r\n", b"\r\r\n"), b"\x09CLZ1")):
        raise NotStoredError("it was changed by a transfer in text mode")
    if not first:
        raise NotStoredError("bytes that belong to no transmission follow its end")
    raise NotStoredError("it does not begin with the magic number")
