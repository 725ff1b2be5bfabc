"""The messages and their bytes: a record is varint length | type byte | body; the length counts type and body.

A body is the message's fields in order. Integers are unsigned LEB128 in the shortest form, at most 9 bytes; octets and texts
are an integer length and their bytes; fixed octets stand alone; an optional field is preceded by a byte 0 or 1. Nothing may
follow the last field. Every type has a largest size, checked before the record is complete. This module does not know in
which order messages may come.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from shared.channel.errors import BadFrameError, LimitError, LocalProtocolError, UnknownMessageError, VersionError

VERSION: Final = 3
"""Of the protocol between two services. Files keep version 1: what they hold of a conversation has not changed since."""
FILE_VERSION: Final = 1
SUBPROTOCOL: Final = "codelength.3"
CHANNEL_PATH: Final = "/channel"
MAX_DATA_BYTES: Final = 1 << 16
MAX_SPEC_BYTES: Final = 1 << 16
MAX_CODE_BYTES: Final = 1 << 22
MAX_TEXT_BYTES: Final = 1 << 10
MAX_INTEGER: Final = (1 << 63) - 1

_MAX_VARINT_BYTES: Final = 9


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128. Raises `LocalProtocolError` outside 0 … 2^63 - 1."""
    if not 0 <= value <= MAX_INTEGER:
        raise LocalProtocolError(f"{value} is not in 0 … 2^63 - 1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """A body being read. Every method raises `BadFrameError` where the bytes do not fit."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def octets(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._position + count
        if end > len(self._body):
            raise BadFrameError("a record ends inside a field")
        out = self._body[self._position : end]
        self._position = end
        return out

    def integer(self) -> int:
        """An unsigned LEB128 integer."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.octets(1)[0]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise BadFrameError("an integer is not in its shortest form")
                return value
        raise BadFrameError("an integer is longer than 9 bytes")

    def end(self) -> None:
        """Nothing may be left."""
        if self._position != len(self._body):
            raise BadFrameError("bytes follow the last field of a record")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one field is written and read, and the most bytes it takes."""

    write: Callable[[Any], bytes]
    read: Callable[[Reader], Any]
    size: int


def _read_text(reader: Reader, limit: int) -> str:
    try:
        return _read_octets(reader, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise BadFrameError("a text is not UTF-8") from None


def _read_octets(reader: Reader, limit: int) -> bytes:
    count = reader.integer()
    if count > limit:
        raise LimitError("bytes of a field", count, limit)
    return reader.octets(count)


def _write_octets(value: bytes, limit: int) -> bytes:
    if len(value) > limit:
        raise LocalProtocolError(f"{len(value)} bytes are more than the {limit} that the field may have")
    return encode_varint(len(value)) + value


def _write_fixed(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise LocalProtocolError(f"{len(value)} bytes are not the {size} that the field has")
    return value


_INTEGER = _Kind(encode_varint, Reader.integer, _MAX_VARINT_BYTES)


def _octets(limit: int) -> _Kind:
    return _Kind(lambda value: _write_octets(value, limit), lambda reader: _read_octets(reader, limit), limit + 4)


def _text(limit: int = MAX_TEXT_BYTES) -> _Kind:
    return _Kind(lambda value: _write_octets(value.encode("utf-8"), limit), lambda reader: _read_text(reader, limit), limit + 4)


def _fixed(size: int) -> _Kind:
    return _Kind(lambda value: _write_fixed(value, size), lambda reader: reader.octets(size), size)


def _optional(kind: _Kind) -> _Kind:
    def read(reader: Reader) -> Any:
        present = reader.octets(1)[0]
        if present > 1:
            raise BadFrameError("the mark of an optional field is neither 0 nor 1")
        return kind.read(reader) if present else None

    return _Kind(lambda value: b"\0" if value is None else b"\1" + kind.write(value), read, 1 + kind.size)


def _is(kind: _Kind, since: int = 1, absent: Any = dataclasses.MISSING) -> Any:
    """A field; absent: its value where nothing is said of it, and where the version is older than the field."""
    return field(default=absent, metadata={"kind": kind, "since": since})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `number` is its type byte; every subclass is registered under it."""

    number: ClassVar[int]
    summary: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Alice offers a transmission. `tokens` is n if known; `runtime` describes what computes f at her side.

    safe: the preset to go on with where the models diverge (P-20), empty where that ends the transmission.
    """

    number: ClassVar = 1
    summary: ClassVar = "Alice offers: version, transmission, spec, n if known, media type, name, preset, runtime, safe preset"
    transmission: str = _is(_text(64))
    spec: bytes = _is(_octets(MAX_SPEC_BYTES))
    tokens: int | None = _is(_optional(_INTEGER))
    media_type: str = _is(_text(255))
    name: str = _is(_text(255))
    code: str = _is(_text(64))
    runtime: str = _is(_text())
    safe: str = _is(_text(64), since=3, absent="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept(Message):
    """Bob is ready, and this is what he holds durably: Alice goes on after it (P-15).

    block: where the present leg begins, 0 or the block of the last RESTART. records: BLOCK and CHECK of that leg. z_bytes:
    of its z. The rest as `Leg` has it.
    """

    number: ClassVar = 2
    summary: ClassVar = "Bob is ready and holds: first block of the leg, its BLOCK and CHECK, bytes of its z; runtime; the leg"
    block: int = _is(_INTEGER)
    records: int = _is(_INTEGER, since=2, absent=0)
    z_bytes: int = _is(_INTEGER, since=2, absent=0)
    runtime: str = _is(_text())
    code: str = _is(_text(64), since=3, absent="")
    rollbacks: int = _is(_INTEGER, since=3, absent=0)
    nll_units: int = _is(_INTEGER, since=3, absent=0)
    coded_bytes: int = _is(_INTEGER, since=3, absent=0)
    abandoned_bytes: int = _is(_INTEGER, since=3, absent=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Message):
    """Bob does not take part; nothing of the transmission is kept."""

    number: ClassVar = 3
    summary: ClassVar = "Bob does not take part: problem, reason"
    problem: str = _is(_text(64))
    reason: str = _is(_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Code(Message):
    """One source or asset of f, to be compared byte for byte with Bob's own."""

    number: ClassVar = 4
    summary: ClassVar = "one source or asset of f: name, bytes"
    name: str = _is(_text(64))
    data: bytes = _is(_octets(MAX_CODE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Message):
    """The block `index` has `tokens` tokens, not the number that the spec gives."""

    number: ClassVar = 5
    summary: ClassVar = "a block of another length than the spec's: index, tokens"
    index: int = _is(_INTEGER)
    tokens: int = _is(_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Message):
    """The next bytes of z."""

    number: ClassVar = 6
    summary: ClassVar = "the next bytes of z"
    z: bytes = _is(_octets(MAX_DATA_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Message):
    """The end of a block, as Alice computed it: tokens so far, CRC-32 over the block's triples, digest of the model's state."""

    number: ClassVar = 7
    summary: ClassVar = "the end of a block: tokens so far, CRC-32 of its triples, in some the state's SHA-256"
    position: int = _is(_INTEGER)
    crc: int = _is(_INTEGER)
    digest: bytes | None = _is(_optional(_fixed(32)))


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Message):
    """All was sent: n, the SHA-256 of D, and the length of z in bits."""

    number: ClassVar = 8
    summary: ClassVar = "all was sent: n, SHA-256 of D, bits of z"
    tokens: int = _is(_INTEGER)
    sha256: bytes = _is(_fixed(32))
    z_bits: int = _is(_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """Bytes of z that Bob has received, and has made durable. The credit window moves with the latter."""

    number: ClassVar = 9
    summary: ClassVar = "bytes of z received; bytes of z durable"
    received_bytes: int = _is(_INTEGER)
    durable_bytes: int = _is(_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Message):
    """Bob holds the reconstruction, and this is its SHA-256."""

    number: ClassVar = 10
    summary: ClassVar = "SHA-256 of the reconstruction"
    sha256: bytes = _is(_fixed(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Message):
    """Somebody at this side does not want the transmission any more."""

    number: ClassVar = 11
    summary: ClassVar = "either side gives up on purpose: reason"
    reason: str = _is(_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(Message):
    """A side cannot go on."""

    number: ClassVar = 12
    summary: ClassVar = "either side cannot go on: problem, reason"
    problem: str = _is(_text(64))
    reason: str = _is(_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback(Message):
    """The models have diverged: Bob goes back to the start of a block, all before it being agreed (P-20).

    nll_units: Σ −log2 p of all tokens before it, in units of 2^-24 bit. z_bytes: of the leg that he gives up, as he has it.
    """

    number: ClassVar = 13
    summary: ClassVar = "Bob goes back to the start of this block; cost of the tokens before it; bytes of the leg's z he had"
    block: int = _is(_INTEGER)
    nll_units: int = _is(_INTEGER, since=3, absent=0)
    z_bytes: int = _is(_INTEGER, since=3, absent=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(Message):
    """A leg begins: Alice starts again from that block, with the preset `code`, empty for HELLO's spec.

    nll_units: as in ROLLBACK.
    """

    number: ClassVar = 14
    summary: ClassVar = "Alice starts again from this block, with this preset, or HELLO's spec; cost of the tokens before it"
    block: int = _is(_INTEGER)
    code: str = _is(_text(64))
    nll_units: int = _is(_INTEGER, since=3, absent=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Message):
    """Alice's model after the training that the spec starts with, before the first token (P-18)."""

    number: ClassVar = 15
    summary: ClassVar = "the model after its steps on the corpus: the state's SHA-256"
    digest: bytes = _is(_fixed(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal(Message):
    """All that its sender has sent in this connection before it had this CRC-32, little endian. Made and judged by `Channel`."""

    number: ClassVar = 16
    summary: ClassVar = "CRC-32 of all that its sender has sent in this connection before it"
    crc: bytes = _is(_fixed(4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Message):
    """The octets that D's tokens stand for: how many, and their SHA-256 (P-22)."""

    number: ClassVar = 17
    summary: ClassVar = "the octets that D's tokens stand for: their number, SHA-256"
    size: int = _is(_INTEGER)
    sha256: bytes = _is(_fixed(32))


MESSAGES: Final[dict[int, type[Message]]] = {cls.number: cls for cls in Message.__subclasses__()}
_KINDS: Final[dict[type[Message], tuple[tuple[str, _Kind, int], ...]]] = {
    cls: tuple((item.name, item.metadata["kind"], item.metadata["since"]) for item in dataclasses.fields(cls))
    for cls in MESSAGES.values()
}
_LIMITS: Final[dict[int, int]] = {
    cls.number: 1 + _MAX_VARINT_BYTES * (cls is Hello) + sum(kind.size for _, kind, _ in _KINDS[cls]) for cls in MESSAGES.values()
}

M = TypeVar("M", bound=Message)


def encode(message: Message, version: int = VERSION) -> bytes:
    """One record. HELLO begins with the protocol's version, so that a peer of another one can say so (P-4)."""
    head = encode_varint(version) if isinstance(message, Hello) else b""
    fields = b"".join(kind.write(getattr(message, name)) for name, kind, since in _KINDS[type(message)] if since <= version)
    body = bytes([message.number]) + head + fields
    return encode_varint(len(body)) + body


def decode(number: int, body: bytes, version: int = VERSION) -> Message:
    """The message of a complete record. Raises a `RemoteProtocolError`."""
    cls = MESSAGES.get(number)
    if cls is None:
        raise UnknownMessageError(number)
    reader = Reader(body)
    if cls is Hello and (theirs := reader.integer()) != version:
        raise VersionError(theirs, version)
    values = {name: kind.read(reader) for name, kind, since in _KINDS[cls] if since <= version}
    reader.end()
    return cls(**values)


class Parser:
    """Bytes, split anywhere, to messages; holds at most one incomplete record. `record`: the bytes of the last message."""

    def __init__(self, version: int = VERSION) -> None:
        self.record = b""
        self._version = version
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._buffer += data

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the record that has begun and not ended, or of records not yet asked for."""
        return len(self._buffer)

    def take_waiting(self) -> bytes:
        """Those bytes, removed."""
        waiting = bytes(self._buffer)
        self._buffer.clear()
        return waiting

    def next(self) -> Message | None:
        """The next complete message, None if there is none yet. Raises a `RemoteProtocolError` (P-2, P-3)."""
        length, head = 0, 0
        while True:
            if head == len(self._buffer):
                return None
            byte = self._buffer[head]
            length |= (byte & 0x7F) << (7 * head)
            head += 1
            if byte < 0x80:
                break
            if head == _MAX_VARINT_BYTES:
                raise BadFrameError("the length of a record is longer than 9 bytes")
        if length == 0:
            raise BadFrameError("an empty record")
        if head == len(self._buffer):
            return None
        number = self._buffer[head]
        if number not in _LIMITS:
            raise UnknownMessageError(number)
        if length > _LIMITS[number]:
            raise LimitError(f"bytes of a {MESSAGES[number].__name__.upper()} record", length, _LIMITS[number])
        if len(self._buffer) < head + length:
            return None
        self.record = bytes(self._buffer[: head + length])
        del self._buffer[: head + length]
        return decode(number, self.record[head + 1 :], self._version)
