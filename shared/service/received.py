"""What Bob has received of a transmission, and the truth about it: its records as they came, from PREPARED to END, in one file.

After a divergence the file begins anew (P-20): with an ACCEPT that holds the present leg, a ROLLBACK if Alice has not answered
it, and the leg's records. What was agreed before lies in the files beside it. A RESTART among the records begins a leg, too.

    frame, frame, …      frame: bytes of records (4) | CRC-32 over them (4) | records as the channel has them

Everything else that Bob keeps follows from this file: f is exact, so decoding it again gives the same. What the system did not
write before it stopped shows in the CRC and is cut off when the file is opened. END stands in a frame of its own and is cut
off too: Alice always says it again. Nothing here knows sockets or models.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from shared.channel.legs import Leg
from shared.channel.messages import Accept, Check, Data, End, Message, Parser, Restart, Rollback, encode
from shared.code.errors import StateError

_FRAME: Final = struct.Struct("<II")
_MAX_FRAME_BYTES: Final = 1 << 18


class ReceivedLog:
    """The file, open for writing. Raises `OSError` where the disk refuses; what was appended before stays.

    first, leg: the leg that the file begins with, and the present one. records: PREPARED, BLOCK and CHECK held of the latter.
    checks: CHECK among them. z_bytes: of its z. rollback: what Alice has not answered yet. size: bytes of the file that are whole
    frames.
    """

    leg: Leg
    rollback: Rollback | None
    records: int
    checks: int
    z_bytes: int

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open(alive=False)

    def _open(self, *, alive: bool) -> None:
        self.size = self._leg_starts = 0
        self._begin(Leg())
        self.first = self.leg
        self._file: IO[bytes] = self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
        for end, messages in _frames(self._file):
            if isinstance(messages[0], End) and not alive:
                break
            self._count(messages, end)
        self._file.truncate(self.size)
        self._file.seek(self.size)
        self.sync()

    def append(self, *messages: Message) -> None:
        """Write messages, END alone. They are durable after the next `sync`."""
        data = memoryview(_framed(*messages))
        end = self.size + len(data)
        self._file.seek(self.size)  # over what an earlier try may have left
        while data:
            data = data[self._file.write(data) :]
        self._count(messages, end)

    def start_over(self, leg: Leg, rollback: Rollback | None = None) -> None:
        """Begin the file anew, durably: with a leg whose records are all to come, or which has come to this end."""
        self._replace(leg, b"" if rollback is None else _framed(rollback))

    def drop_first(self) -> None:
        """Begin the file anew, durably, with the present leg: those before it are decoded."""
        self._file.seek(self._leg_starts)
        self._replace(self.leg, self._file.read(self.size - self._leg_starts))

    def _replace(self, leg: Leg, records: bytes) -> None:
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(_framed(leg.accept(records=0, z_bytes=0, runtime="")) + records)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        self._file.close()
        self._open(alive=True)

    def sync(self) -> None:
        """Make all that was appended durable. May be called in another thread."""
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _count(self, messages: tuple[Message, ...], end: int) -> None:
        for message in messages:
            match message:
                case Data(z=z):
                    self.z_bytes += len(z)
                case Accept():
                    self.first = Leg.of(message)
                    self._begin(self.first)
                case Rollback():
                    self.rollback = message
                case Restart():
                    self._begin(self.leg.ended(message.block, message.nll_units, self.z_bytes))
                    self._leg_starts = end
                case End():
                    pass
                case _:
                    self.records += 1
                    self.checks += isinstance(message, Check)
        self.size = end

    def _begin(self, leg: Leg) -> None:
        self.leg, self.rollback = leg, None
        self.records = self.checks = self.z_bytes = 0


def _framed(*messages: Message) -> bytes:
    records = b"".join(encode(message) for message in messages)
    return _FRAME.pack(len(records), zlib.crc32(records)) + records


class ReceivedReader:
    """The same file, read by another process while it grows. read_bytes: how far."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.read_bytes = 0

    def messages(self, size: int) -> Iterator[Message]:
        """What is new in the first `size` bytes. Raises `StateError` if those are not whole frames."""
        while self.read_bytes < size:
            frame = _frame(self._file)
            if frame is None:
                raise StateError("what was received is damaged")
            self.read_bytes = self._file.tell()
            yield from frame

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _frames(file: IO[bytes]) -> Iterator[tuple[int, tuple[Message, ...]]]:
    """Whole frames from the beginning, each with the position of its end."""
    while (messages := _frame(file)) is not None:
        yield file.tell(), messages


def _frame(file: IO[bytes]) -> tuple[Message, ...] | None:
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    size, crc = _FRAME.unpack(head)
    if not 0 < size <= _MAX_FRAME_BYTES:
        return None
    records = file.read(size)
    if len(records) < size or zlib.crc32(records) != crc:
        return None
    parser = Parser()
    parser.feed(records)
    out = []
    while (message := parser.next()) is not None:
        out.append(message)
    return tuple(out)
