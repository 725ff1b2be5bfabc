"""A model after k steps on a corpus, made or taken from where an earlier one was kept; both sides' jobs begin here.

A snapshot is a file: a line, the SHA-256 of all that follows, and the predictor's state, packed. Its name says what the state
is of: the spec without k and regime, f's sources, and k. What is cut short, tampered with or another model's is removed and made
again. A state that is false and signed anew passes here and is caught by the peer, before the first token (P-18).
"""

import contextlib
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.code.codec import prepare
from shared.code.errors import CorpusError, StateError
from shared.code.models import build
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec
from shared.code.vocabulary import Tokens, dataset_digest
from shared.service.coding import read_blocks
from shared.service.kernels import runtime_fingerprint, sources_digest

_LINE: Final = b"codelength model state 1\n"
_DIGEST_BYTES: Final = 32
_PART_BYTES: Final = 1 << 20
_LEVEL: Final = 1  # a state is large and mostly zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a job finds the corpus, canonical bytes, and snapshots, and how many bytes of these may be kept."""

    corpus: str
    snapshots: str
    max_bytes: int


def starting(spec: CodeSpec, origin: Origin, make: Callable[[CodeSpec], Predictor] = build) -> Iterator[tuple[Predictor, bool]]:
    """The predictor that a transmission of a spec with a start begins with: after every step, and whether it is done.

    Goes on from the latest snapshot at or before step k, and keeps the one it ends with. make: gives a fresh predictor. Raises
    `CorpusError` where the corpus is not the one named.
    """
    start = spec.start
    assert start is not None
    path, kept = Path(origin.corpus), TrainedModels(Path(origin.snapshots), origin.max_bytes)
    _verify(path, spec)
    found = kept.latest(spec, make)
    had = -1 if found is None else found.steps

    def blocks() -> Iterable[Tokens]:
        with path.open("rb") as file:
            yield from read_blocks(file.read, spec)

    yield from prepare(spec, blocks, found or make(spec), finish=lambda one: kept.keep(spec, one) if one.steps > had else None)


class TrainedModels:
    """The models that one service keeps, as snapshots. A file that cannot be written is not kept; nothing else suffers."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def latest(self, spec: CodeSpec, make: Callable[[CodeSpec], Predictor] = build) -> Predictor | None:
        """The predictor at the latest step at or before the spec's k of which a sound snapshot is kept, not frozen."""
        assert spec.start is not None
        family = _family(spec)
        found = []
        for path in self._directory.glob(f"{family}-*.state"):
            with contextlib.suppress(ValueError):
                found.append(int(path.stem.rpartition("-")[2]))
        for steps in sorted((steps for steps in found if steps <= spec.start.steps), reverse=True):
            predictor = make(spec)
            if self.restore(predictor, family, steps):
                return predictor
        return None

    def keep(self, spec: CodeSpec, predictor: Predictor) -> None:
        """Keep the state of a predictor that has taken steps of the spec's start."""
        self.put(predictor, _family(spec))

    def restore(self, predictor: Predictor, family: str, steps: int) -> bool:
        """Bring a predictor of the same code to the state kept, if it is there and sound; what is not sound is removed.

        After False the predictor may have been changed.
        """
        path = self._path(family, steps)
        try:
            predictor.restore(_read(path, family, steps))
            sound = predictor.steps == steps
        except FileNotFoundError:
            return False
        except (StateError, OSError, zlib.error):
            sound = False
        with contextlib.suppress(OSError):
            if sound:
                os.utime(path)  # used now
            else:
                path.unlink(missing_ok=True)
        return sound

    def put(self, predictor: Predictor, family: str) -> None:
        """Keep a state under a name and its steps; the least lately used snapshots make room for it."""
        if not self._max_bytes:
            return
        packed = zlib.compress(predictor.state_bytes(), _LEVEL)
        if len(packed) > self._max_bytes:
            return
        temporary = self._directory / f"{uuid.uuid4().hex}.partial"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_LINE + _signature(family, predictor.steps, packed) + packed)
            temporary.replace(self._path(family, predictor.steps))
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._make_room()

    def _path(self, family: str, steps: int) -> Path:
        return self._directory / f"{family}-{steps}.state"

    def _make_room(self) -> None:
        with contextlib.suppress(OSError):  # the other worker may have been quicker
            kept = sorted((one.stat().st_mtime_ns, one.stat().st_size, one) for one in self._directory.glob("*.state"))
            total = sum(size for _, size, _ in kept)
            for _, size, path in kept:
                if total <= self._max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size


def _read(path: Path, family: str, steps: int) -> bytes:
    """The state in a snapshot. Raises `StateError`, `OSError` or `zlib.error`."""
    data = path.read_bytes()
    head = len(_LINE) + _DIGEST_BYTES
    if data[: len(_LINE)] != _LINE or data[len(_LINE) : head] != _signature(family, steps, data[head:]):
        raise StateError("the snapshot is damaged, or of another model")
    return zlib.decompress(data[head:])


def _signature(family: str, steps: int, packed: bytes) -> bytes:
    return hashlib.sha256(f"{family} {steps}\n".encode("ascii") + packed).digest()


def _family(spec: CodeSpec) -> str:
    """What the states of a spec at all k, in either regime, have in common."""
    assert spec.start is not None
    plain = spec.with_training(frozen=False, start=spec.start.model_copy(update={"steps": 1}))
    runtime = runtime_fingerprint() if spec.numerics == "native" else ""
    return hashlib.sha256(f"{plain.digest()} {sources_digest()} {runtime}".encode()).hexdigest()


def _verify(path: Path, spec: CodeSpec) -> None:
    assert spec.start is not None
    digest = dataset_digest(spec.vocabulary)
    try:
        with path.open("rb") as file:
            while data := file.read(_PART_BYTES):
                digest.update(data)
    except FileNotFoundError:
        raise CorpusError(spec.start.corpus, "it has been deleted") from None
    if digest.hexdigest() != spec.start.corpus:
        raise CorpusError(spec.start.corpus, f"what is kept as it has the SHA-256 {digest.hexdigest()}: give it again")
