"""Snapshots: a codec's state at the end of a block, so that a restarted side need not code everything again.

    magic (8) | key (32) | size of the head (4) | head, JSON | state | BLAKE2b over all before (32)

The key names f, by the spec's and the sources' digests, the direction, and the block with which a later leg begins. A
snapshot of another f, a damaged one, or one that is ahead of what the peer holds is passed over: coding again from an older
one, or from the start, gives the same. That is why they are not synced to the disk either. The machine is no part of the key:
f is exact.
"""

import contextlib
import hashlib
import json
import mmap
import struct
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from shared.code.spec import CodeSpec
from shared.service.kernels import sources_digest

_MAGIC: Final = b"CLSNAP1\n"
_KEY_BYTES: Final = 32
_HASH_BYTES: Final = 32
_SIZE: Final = struct.Struct("<I")
_MOST_OF_THE_TIME: Final = 0.03
_ASSUMED_BYTES_PER_SECOND: Final = 350e6  # of a snapshot, until one was made


class Snapshot(NamedTuple):
    """A codec's state in parts, and where in the transmission it belongs: `blocks`, `tokens`, `z_bytes` and more."""

    head: dict[str, Any]
    state: Iterable[bytes | memoryview]


class StoredSnapshot(NamedTuple):
    """The same as it was read: the state lies in the file, mapped into memory."""

    head: dict[str, Any]
    state: memoryview


class Snapshots:
    """The snapshots of one transmission at one side, in its directory; at most two. direction: `encode` or `decode`.

    block: the first that the codec has coded: not 0 for a later leg.
    """

    def __init__(
        self, directory: Path, spec: CodeSpec, direction: str, *, block: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        name = f"{spec.digest()} {sources_digest()} {direction}" + (f" from block {block}" if block else "")
        self._key = hashlib.blake2b(name.encode(), digest_size=_KEY_BYTES).digest()
        self._clock = clock
        self._cost_seconds = spec.memory_bytes / _ASSUMED_BYTES_PER_SECOND
        self._finished_at = clock()

    def due(self) -> bool:
        """Whether another one would keep all of them within their share of the time, 3 %."""
        return self._clock() - self._finished_at > self._cost_seconds / _MOST_OF_THE_TIME

    def newest(self, usable: Callable[[dict[str, Any]], bool]) -> StoredSnapshot | None:
        """The newest whole one whose head is usable."""
        for _, path in sorted(self._held(), reverse=True):
            snapshot = self._read(path)
            if snapshot is not None and usable(snapshot.head):
                return snapshot
        return None

    def write(self, make: Callable[[], Snapshot], *, safe_z_bytes: int | None = None) -> None:
        """Keep one more; of the older ones only the newest within `safe_z_bytes` of z, None: the newest.

        A disk that refuses is no error: then there is no snapshot.
        """
        started = self._clock()
        snapshot = make()
        head = json.dumps(snapshot.head).encode()
        data = chain((_MAGIC, self._key, _SIZE.pack(len(head)), head), snapshot.state)
        digest = hashlib.blake2b(digest_size=_HASH_BYTES)
        place = int(snapshot.head["z_bytes"])
        older = sorted(self._held(), reverse=True)
        keep = next((path for z, path in older if safe_z_bytes is None or z <= safe_z_bytes), None)
        for _, path in older:
            if path != keep:
                path.unlink(missing_ok=True)
        path = self._directory / f"snapshot.{int(snapshot.head['blocks'])}.{place}"
        partial = self._directory / "snapshot.partial"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                for part in data:
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        self._finished_at = self._clock()
        self._cost_seconds = self._finished_at - started

    def _held(self) -> list[tuple[int, Path]]:
        """Bytes of z before each, and its file."""
        return [(int(path.name.rpartition(".")[2]), path) for path in self._directory.glob("snapshot.*.*")]

    def _read(self, path: Path) -> StoredSnapshot | None:
        start = len(_MAGIC) + _KEY_BYTES + _SIZE.size
        try:
            with path.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            return None
        body, hashed = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
        if len(body) < start or body[: start - _SIZE.size] != _MAGIC + self._key:
            return None
        if hashlib.blake2b(body, digest_size=_HASH_BYTES).digest() != hashed:
            return None
        (size,) = _SIZE.unpack_from(body, start - _SIZE.size)
        return StoredSnapshot(json.loads(bytes(body[start : start + size])), body[start + size :])


def remove_snapshots(directory: Path) -> None:
    """Delete a transmission's snapshots."""
    for path in directory.glob("snapshot.*"):
        path.unlink(missing_ok=True)
