"""The worker process: model work away from the event loop. Started by, and spoken to by, `pool`.

Jobs and their inputs come as length-prefixed pickles on standard input, outputs go the same way on standard output: both ends are
ours, nothing from the network is ever unpickled. One job at a time. It begins by compiling, or loading, the presets that
CODELENGTH_WARM names, all if it is not set; others are loaded at their first use.
"""

import contextlib
import json
import os
import pickle
import resource
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np

from shared.channel.errors import DivergedError, StartMismatchError
from shared.channel.legs import Leg
from shared.channel.messages import Accept, Data, Message, Restart, Rollback
from shared.channel.protocol import WINDOW_BYTES
from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.codec import first_predictor
from shared.code.errors import CodelengthError, CorruptCodeError, StateError
from shared.code.models import PRESETS, build, preset
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec, IdsVocabulary
from shared.code.vocabulary import Digest, Tokens, dataset_digest, from_tokens, token_width
from shared.service.coding import TransmissionDecoder, TransmissionEncoder, read_blocks
from shared.service.kernels import ranks_for, ready_for
from shared.service.plugins import load
from shared.service.pretrained import load_pretrained
from shared.service.received import ReceivedReader
from shared.service.records import coded_sources
from shared.service.snapshots import Snapshot, Snapshots
from shared.service.starts import Origin, starting

_LENGTH: Final = struct.Struct("<I")
_BATCH_BYTES: Final = 1 << 15
_PROGRESS_SECONDS: Final = 0.1
_SHOWN_TOKENS: Final = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """Read canonical bytes at `path`, give messages. sha256: D's identity. directory: for snapshots.

    leg: the part of D to be coded, with `spec`. origin: where the spec starts from, if it does. records, z_bytes: what Bob holds
    of it, which is made and not given out. quiet: give out no message, only figures.
    """

    spec: bytes
    path: str
    sha256: str
    directory: str
    leg: Leg = field(default_factory=Leg)
    origin: Origin | None = None
    records: int = 0
    z_bytes: int = 0
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """Decode what the log `received` in `directory` holds and gains; write costs, blocks.jsonl and reconstruction beside it.

    leg: the one with which the log begins, and `spec` its code; the job ends where another one begins. tokens: n, if HELLO said
    it. checks, z_bytes: what the log holds already; a snapshot that is ahead of it is none. may_roll_back: whether there is a way
    to go on where the models diverge. origin: where the spec starts from, if it does.
    """

    spec: bytes
    directory: str
    leg: Leg
    may_roll_back: bool
    checks: int
    z_bytes: int
    tokens: int | None
    max_tokens: int
    ours: str
    theirs: str
    origin: Origin | None = None


class Task(Protocol):
    """Any other job, which says its `Output` itself. Lives in a module of its own."""

    def run(self, pipe: "Pipe") -> None:
        """Do it, and say `Output(finished=True, result=…)`. Raises a `CodelengthError`, or `Aborted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a running job is told: how long the log is now, z made durable at Bob's, or to stop, wait, or go on."""

    received_bytes: int | None = None
    durable_bytes: int | None = None
    paused: bool | None = None
    abort: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a job stands. nll_bits: Σ −log2 p so far. seconds: of coding. peak_memory_bytes: of this process in this job.

    notes: what the model had to tell, in sentences. prepare_seconds: of training on the corpus, where there is one. unchecked:
    what Bob has decoded of the open block, or its newest part, by stream: the position of the first token, the tokens, and
    their costs.
    """

    tokens: int
    steps: int
    nll_bits: float
    z_bits: int
    seconds: float
    peak_memory_bytes: int
    notes: tuple[str, ...]
    prepare_seconds: float | None = None
    unchecked: tuple[tuple[int, Tokens, Tokens], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a job tells: messages for the peer, progress, and at its end the identity of the data, or what went wrong.

    result: what a `Task` was asked for. rollback: where to go on after a divergence. leg_ended: the leg's blocks are all checked,
    another leg follows.
    """

    messages: tuple[Message, ...] = ()
    progress: Progress | None = None
    finished: bool = False
    result: Any = None
    sha256: str | None = None
    rollback: Rollback | None = None
    leg_ended: bool = False
    error: CodelengthError | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The first thing a worker says, once it is warm. sources: module of f to its coded source archive and its length in bits."""

    sources: dict[str, tuple[bytes, int]]


class Aborted(Exception):  # noqa: N818 - not an error
    """The job was told to stop."""


def peak_memory_bytes() -> int:
    """The most resident memory since `reset_peak_memory`, or since the start where the system cannot reset."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory() -> None:
    """Begin a new measurement, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Pipe:
    """Pickles over a pair of file descriptors. Raises `EOFError` when the other end is gone."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._buffer = bytearray()
        self._put_off: deque[Any] = deque()

    def send(self, value: Any) -> None:
        """Write one object."""
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        view = memoryview(_LENGTH.pack(len(data)) + data)
        while view:
            view = view[os.write(self._write_fd, view) :]

    def receive(self, timeout_seconds: float | None) -> Any:
        """One object; None when there is none within the timeout (None: wait)."""
        if self._put_off:
            return self._put_off.popleft()
        return self._read(timeout_seconds)

    def told_to_stop(self) -> bool:
        """Whether an abort is among what has come; `receive` gives the rest, later."""
        while (told := self._read(0)) is not None:
            if isinstance(told, Input) and told.abort:
                return True
            self._put_off.append(told)
        return False

    def _read(self, timeout_seconds: float | None) -> Any:
        while True:
            if len(self._buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer)
                if len(self._buffer) >= _LENGTH.size + length:
                    data = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
                    del self._buffer[: _LENGTH.size + length]
                    return pickle.loads(data)  # noqa: S301 - from our own parent process
            readable, _, _ = select.select([self._read_fd], [], [], timeout_seconds)
            if not readable:
                return None
            data = os.read(self._read_fd, 1 << 18)
            if not data:
                raise EOFError
            self._buffer += data


@dataclass(slots=True)
class _Reporter:
    """Batches what a job says, and adds progress now and then."""

    pipe: Pipe
    codec: TransmissionEncoder | TransmissionDecoder
    prepare_seconds: float | None
    leg: Leg
    said_at: float = field(default_factory=time.monotonic)
    messages: list[Message] = field(default_factory=list)
    size: int = 0

    def progress(self) -> Progress:
        coder = self.codec.encoder if isinstance(self.codec, TransmissionEncoder) else self.codec.decoder
        return Progress(
            tokens=coder.position,
            steps=coder.steps,
            nll_bits=(self.leg.nll_units + coder.nll_units) / COST_UNITS_PER_BIT,
            z_bits=8 * self.leg.coded_bytes + coder.z_bits,
            seconds=self.codec.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            notes=tuple(coder.notes),
            prepare_seconds=self.prepare_seconds,
            unchecked=() if isinstance(self.codec, TransmissionEncoder) else self.codec.unchecked(_SHOWN_TOKENS),
        )

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self.size += len(message.z) if isinstance(message, Data) else 64
        if self.size >= _BATCH_BYTES:
            self.flush()

    def tick(self) -> bool:
        """Tell of progress if it is time; whether it was."""
        due = time.monotonic() - self.said_at >= _PROGRESS_SECONDS
        if due:
            self.flush()
        return due

    def flush(self, **last: Any) -> None:
        now = time.monotonic()
        progress = self.progress() if last or now - self.said_at >= _PROGRESS_SECONDS else None
        if progress:
            self.said_at = now
        if progress or self.messages:
            self.pipe.send(Output(messages=tuple(self.messages), progress=progress, **last))
        self.messages.clear()
        self.size = 0


def ready_predictor(spec: CodeSpec, origin: Origin | None, pipe: Pipe) -> tuple[Predictor, float | None]:
    """The predictor that a job begins with, trained on the corpus the spec starts from, and the seconds that took.

    P^(0) and None where it starts from nothing. Steps taken are told as progress. Raises `CorpusError`, or `Aborted`.
    """
    ready_for(spec)
    if origin is None:
        return first_predictor(spec, ranks_for(spec)), None
    started = said_at = time.monotonic()
    for predictor, done in starting(spec, origin, lambda one: build(one, ranks_for(one))):
        if done:
            return predictor, time.monotonic() - started
        if pipe.told_to_stop():
            raise Aborted
        if time.monotonic() - said_at >= _PROGRESS_SECONDS:
            said_at = time.monotonic()
            progress = Progress(
                tokens=0,
                steps=predictor.steps,
                nll_bits=0.0,
                z_bits=0,
                seconds=0.0,
                peak_memory_bytes=peak_memory_bytes(),
                notes=(),
                prepare_seconds=said_at - started,
            )
            pipe.send(Output(progress=progress))
    raise AssertionError


def encode(job: EncodeJob, pipe: Pipe) -> None:
    """Run an encode job; never more than the credit window ahead of what the peer made durable."""
    spec = CodeSpec.parse(job.spec)
    predictor, prepare_seconds = ready_predictor(spec, job.origin, pipe)
    snapshots = Snapshots(Path(job.directory), spec, "encode", block=job.leg.block)
    with Path(job.path).open("rb") as file:
        before = dataset_digest(spec.vocabulary)
        _read_into(before, file, job.leg.block * spec.block_tokens * token_width(spec.vocabulary))
        transmission = TransmissionEncoder(
            spec,
            read_blocks(file.read, spec),
            sha256=job.sha256,
            held=(job.records, job.z_bytes),
            predictor=predictor,
            leg=job.leg,
            digest=before,
        )
        snapshot = snapshots.newest(lambda head: head["records"] <= job.records and head["z_bytes"] <= job.z_bytes)
        if snapshot is not None:
            digest = dataset_digest(spec.vocabulary)
            file.seek(0)
            _read_into(digest, file, snapshot.head["tokens"] * token_width(spec.vocabulary))
            with contextlib.suppress(StateError):
                transmission.restore(snapshot, digest)
            file.seek(transmission.encoder.position * token_width(spec.vocabulary))
            del snapshot
        reporter = _Reporter(pipe, transmission, prepare_seconds, job.leg)
        sent, durable, paused = job.z_bytes, job.z_bytes, False

        def listen(timeout_seconds: float | None) -> None:
            nonlocal durable, paused
            told = pipe.receive(timeout_seconds)
            if told is None:
                return
            if told.abort:
                raise Aborted
            durable = durable if told.durable_bytes is None else told.durable_bytes
            paused = paused if told.paused is None else told.paused

        for message in transmission.messages():
            if message is None:
                listen(0)
                reporter.tick()
                if transmission.between_blocks and not job.quiet and snapshots.due():
                    snapshots.write(transmission.snapshot, safe_z_bytes=durable)
                while paused:
                    reporter.flush()
                    listen(None)
                continue
            if job.quiet:
                continue
            if isinstance(message, Data):
                while sent + len(message.z) - durable > WINDOW_BYTES:
                    reporter.flush()
                    listen(None)
                sent += len(message.z)
            reporter.add(message)
    reporter.flush(finished=True, sha256=job.sha256)


def _read_into(digest: Digest, file: IO[bytes], size: int) -> None:
    while size and (part := file.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)


class _Files:
    """What Bob makes while he decodes: it all follows from what he received, and need not outlive it but for a snapshot."""

    _NAMES: Final = ("costs", "blocks.jsonl", "reconstruction.partial")

    def __init__(self, directory: Path, spec: CodeSpec, sizes: Sequence[int], sha256: str | None = None) -> None:
        """Keep so much of each. Raises `StateError` where there is less, or where what was decoded is not what `sha256` says."""
        self._files = [(directory / name).open("a+b") for name in self._NAMES]
        self.costs, self.blocks, self.reconstruction = self._files
        self.digest = dataset_digest(spec.vocabulary)
        try:
            self.reconstruction.seek(0)
            _read_into(self.digest, self.reconstruction, sizes[2])
            _require(all(held >= size for held, size in zip(self.sizes(), sizes, strict=True)))
            _require(sha256 in (None, self.digest.hexdigest()))
            for file, size in zip(self._files, sizes, strict=True):
                file.truncate(size)
        except StateError:
            self.close()
            raise

    def sync(self) -> None:
        for file in self._files:
            file.flush()
            os.fdatasync(file.fileno())

    def sizes(self) -> list[int]:
        return [os.fstat(file.fileno()).st_size for file in self._files]

    def close(self) -> None:
        for file in self._files:
            file.close()


def _require(same: bool) -> None:
    if not same:
        raise StateError("the files beside what was received are not what they were")


def _before(directory: Path, spec: CodeSpec, leg: Leg) -> tuple[int, int, int]:
    """Sizes of the files as they were when the leg began: its blocks are all of the spec's length (P-20)."""
    if not leg.block:
        return 0, 0, 0
    tokens = leg.block * spec.block_tokens
    with (directory / "blocks.jsonl").open("rb") as file:
        rows = sum(len(file.readline()) for _ in range(leg.block))
    return 4 * tokens, rows, token_width(spec.vocabulary) * tokens


def _open(
    job: DecodeJob, spec: CodeSpec, snapshots: Snapshots, make: Callable[[Digest], TransmissionDecoder]
) -> tuple[TransmissionDecoder, _Files]:
    """The decoder and the files to go on with: as a snapshot left them, if there is one that holds, else as the leg began."""
    directory = Path(job.directory)
    snapshot = snapshots.newest(lambda head: head["blocks"] <= job.leg.block + job.checks and head["z_bytes"] <= job.z_bytes)
    if snapshot is not None:
        with contextlib.suppress(StateError):
            files = _Files(directory, spec, snapshot.head["sizes"], snapshot.head["sha256"])
            transmission = make(files.digest)
            try:
                transmission.restore(snapshot, files.digest)
            except StateError:
                files.close()
                raise
            return transmission, files
    files = _Files(directory, spec, _before(directory, spec, job.leg))
    return make(files.digest), files


def decode(job: DecodeJob, pipe: Pipe) -> None:
    """Run a decode job: from a snapshot or from the leg's start, through what was received, and on as more comes."""
    spec = CodeSpec.parse(job.spec)
    predictor, prepare_seconds = ready_predictor(spec, job.origin, pipe)

    def make(before: Digest) -> TransmissionDecoder:
        return TransmissionDecoder(
            spec,
            tokens=job.tokens,
            max_tokens=job.max_tokens,
            ours=job.ours,
            theirs=job.theirs,
            predictor=predictor,
            leg=job.leg,
            digest=before,
        )

    snapshots = Snapshots(Path(job.directory), spec, "decode", block=job.leg.block)
    transmission, files = _open(job, spec, snapshots, make)
    reader = ReceivedReader(Path(job.directory) / "received")
    reporter = _Reporter(pipe, transmission, prepare_seconds, job.leg)
    received = 0

    def listen(timeout_seconds: float | None) -> None:
        nonlocal received
        told = pipe.receive(timeout_seconds)
        if told is not None and told.abort:
            raise Aborted
        received = max(received, (told and told.received_bytes) or 0)

    def keep(tokens: Tokens, costs: Tokens) -> None:
        position = transmission.decoder.position
        files.reconstruction.write(from_tokens(tokens, spec.vocabulary))
        files.costs.write(costs.astype("<u4").tobytes())
        row = {
            "block": transmission.delivered_blocks - 1,
            "first": position - len(tokens),
            "tokens": len(tokens),
            "nll_bits": int(costs.sum(dtype=np.uint64)) / COST_UNITS_PER_BIT,
        }
        files.blocks.write(json.dumps(row).encode() + b"\n")
        for file in (files.costs, files.blocks, files.reconstruction):
            file.flush()
        if snapshots.due():
            files.sync()
            head, state = transmission.snapshot()
            snapshots.write(lambda: Snapshot({**head, "sizes": files.sizes()}, state))

    def take(blocks: Iterable[tuple[Tokens, Tokens] | None]) -> None:
        for block in blocks:
            if block is not None:
                keep(*block)
            if reporter.tick():
                listen(0)

    last: dict[str, Any] = {}
    try:
        while not (transmission.finished or last):
            if reader.read_bytes >= received:
                listen(None)
            for message in reader.messages(received):
                if isinstance(message, Accept):  # the leg, which the job knows
                    continue
                if isinstance(message, Restart):
                    take(transmission.end_leg(message))
                    last = {"leg_ended": True}
                    break
                transmission.take(message)
                take(transmission.blocks())
            reporter.flush()
        files.sync()
    except (DivergedError, CorruptCodeError, StartMismatchError) as error:
        block = transmission.rollback_block
        if not job.may_roll_back or block is None:
            raise
        files.sync()
        rollback = Rollback(block=block, nll_units=transmission.agreed_units, z_bytes=0)
        last = {"rollback": rollback, "result": str(error)}
    finally:
        files.close()
        reader.close()
    reporter.flush(finished=True, sha256=transmission.sha256 or None, **last)


def warm() -> None:
    """Compile or load what presets need, in both directions."""
    wanted = os.environ.get("CODELENGTH_WARM")
    for name in PRESETS if wanted is None else wanted.split(",") if wanted else []:
        if PRESETS[name].local or PRESETS[name].heavy:
            continue  # compiled or read at its first use: an error of it must not keep a service from starting, nor its work
        spec = preset(name, IdsVocabulary(size=300))
        ready_for(spec)
        tokens = np.arange(300, dtype=np.uint32)
        encoder = TransmissionEncoder(spec, [tokens])
        decoder = TransmissionDecoder(spec, max_tokens=300)
        for message in encoder.messages():
            if message is not None:
                decoder.take(message)
                for _ in decoder.blocks():
                    pass
        if not decoder.finished:
            raise RuntimeError(f"{name} does not decode what it encoded: f is not exact on this machine")


def main() -> None:
    """Serve jobs until standard input ends."""
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # a stray print must not look like an answer
    sys.stdin.close()
    load(os.environ.get("CODELENGTH_PLUGINS"))
    load_pretrained(os.environ.get("CODELENGTH_PRETRAINED"))
    warm()
    pipe.send(Ready(sources=coded_sources()))
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job = pipe.receive(None)
            if isinstance(job, Input):
                continue  # meant for the job before
            reset_peak_memory()
            try:
                if isinstance(job, EncodeJob):
                    encode(job, pipe)
                elif isinstance(job, DecodeJob):
                    decode(job, pipe)
                else:
                    job.run(pipe)
            except Aborted:
                pipe.send(Output(finished=True))
            except CodelengthError as error:
                pipe.send(Output(finished=True, error=error))
            except OSError as error:
                if isinstance(error, BrokenPipeError):
                    raise
                pipe.send(Output(finished=True, failure=f"{error.strerror or error}"))
