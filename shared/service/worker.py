"""The worker process: model work away from the event loop. Started by, and spoken to by, `pool`.

Jobs and their inputs come as length-prefixed pickles on standard input, outputs go the same way on standard output: both ends are
ours, nothing from the network is ever unpickled. One job at a time. It begins by compiling, or loading, every preset.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np

from shared.channel.messages import Ack, Data, Message
from shared.channel.protocol import WINDOW_BYTES
from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.errors import CodelengthError
from shared.code.models import PRESETS, preset
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec, IdsVocabulary
from shared.code.vocabulary import Tokens, from_tokens
from shared.service.coding import TransmissionDecoder, TransmissionEncoder, read_blocks
from shared.service.records import coded_sources
from shared.service.snapshots import Origin, starting

_LENGTH: Final = struct.Struct("<I")
_BATCH_BYTES: Final = 1 << 15
_PROGRESS_SECONDS: Final = 0.1
_DURABLE_BYTES: Final = 1 << 18
_DURABLE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """Read canonical bytes at `path`, give messages. sha256: D's identity. origin: where the spec starts from, if it does."""

    spec: bytes
    path: str
    sha256: str
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """Take messages, write to `directory`: z, costs, blocks.jsonl and reconstruction. tokens: n, if HELLO said it.

    origin: where the spec starts from, if it does.
    """

    spec: bytes
    directory: str
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
    """What a running job is told: messages from the peer, z made durable there, or to stop, wait, or go on."""

    messages: tuple[Message, ...] = ()
    durable_bytes: int | None = None
    paused: bool | None = None
    abort: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a job stands. nll_bits: Σ −log2 p so far. seconds: of coding. peak_memory_bytes: of this process in this job.

    notes: what the model had to tell, in sentences. prepare_seconds: of training on the corpus, where there is one.
    """

    tokens: int
    steps: int
    nll_bits: float
    z_bits: int
    seconds: float
    peak_memory_bytes: int
    notes: tuple[str, ...]
    prepare_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a job tells: messages for the peer, progress, and at its end the identity of the data, or what went wrong.

    result: what a `Task` was asked for.
    """

    messages: tuple[Message, ...] = ()
    progress: Progress | None = None
    finished: bool = False
    result: Any = None
    sha256: str | None = None
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
    said_at: float = field(default_factory=time.monotonic)
    messages: list[Message] = field(default_factory=list)
    size: int = 0

    def progress(self) -> Progress:
        coder = self.codec.encoder if isinstance(self.codec, TransmissionEncoder) else self.codec.decoder
        return Progress(
            tokens=coder.position,
            steps=coder.steps,
            nll_bits=coder.nll_units / COST_UNITS_PER_BIT,
            z_bits=coder.z_bits,
            seconds=self.codec.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            notes=tuple(coder.notes),
            prepare_seconds=self.prepare_seconds,
        )

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self.size += len(message.z) if isinstance(message, Data) else 64
        if self.size >= _BATCH_BYTES:
            self.flush()

    def tick(self) -> None:
        if time.monotonic() - self.said_at >= _PROGRESS_SECONDS:
            self.flush()

    def flush(self, **last: Any) -> None:
        now = time.monotonic()
        progress = self.progress() if last or now - self.said_at >= _PROGRESS_SECONDS else None
        if progress:
            self.said_at = now
        if progress or self.messages:
            self.pipe.send(Output(messages=tuple(self.messages), progress=progress, **last))
        self.messages.clear()
        self.size = 0


def ready_predictor(spec: CodeSpec, origin: Origin | None, pipe: Pipe) -> tuple[Predictor | None, float | None]:
    """The predictor that a job begins with, trained on the corpus the spec starts from, and the seconds that took.

    None twice where it starts from nothing: p^(0). Steps taken are told as progress. Raises `CorpusError`, or `Aborted`.
    """
    if origin is None:
        return None, None
    started = said_at = time.monotonic()
    for predictor, done in starting(spec, origin):
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
    with Path(job.path).open("rb") as file:
        transmission = TransmissionEncoder(spec, read_blocks(file.read, spec), sha256=job.sha256, predictor=predictor)
        reporter = _Reporter(pipe, transmission, prepare_seconds)
        sent, durable, paused = 0, 0, False

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
                while paused:
                    reporter.flush()
                    listen(None)
                continue
            if isinstance(message, Data):
                while sent + len(message.z) - durable > WINDOW_BYTES:
                    reporter.flush()
                    listen(None)
                sent += len(message.z)
            reporter.add(message)
    reporter.flush(finished=True, sha256=job.sha256)


class _Files:
    """What Bob keeps while he decodes. `sync` makes all of it durable."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.z = (directory / "z").open("wb")
        self.costs = (directory / "costs").open("wb")
        self.blocks = (directory / "blocks.jsonl").open("wb")
        self.reconstruction = (directory / "reconstruction.partial").open("wb")
        self.received = 0
        self.durable = 0
        self._synced_at = time.monotonic()

    def _all(self) -> tuple[IO[bytes], ...]:
        return self.z, self.costs, self.blocks, self.reconstruction

    def sync_due(self) -> bool:
        late = time.monotonic() - self._synced_at >= _DURABLE_SECONDS
        return self.received - self.durable >= (1 if late else _DURABLE_BYTES)

    def sync(self) -> None:
        for file in self._all():
            file.flush()
            os.fdatasync(file.fileno())
        self.durable = self.received
        self._synced_at = time.monotonic()

    def close(self) -> None:
        for file in self._all():
            file.close()


def decode(job: DecodeJob, pipe: Pipe) -> None:
    """Run a decode job. z is acknowledged when it has come, and again when it is on disk."""
    spec = CodeSpec.parse(job.spec)
    predictor, prepare_seconds = ready_predictor(spec, job.origin, pipe)
    transmission = TransmissionDecoder(
        spec, tokens=job.tokens, max_tokens=job.max_tokens, ours=job.ours, theirs=job.theirs, predictor=predictor
    )
    reporter = _Reporter(pipe, transmission, prepare_seconds)
    files = _Files(Path(job.directory))
    tokens_done, block_index = 0, 0

    def keep(tokens: Tokens, costs: Tokens) -> None:
        nonlocal tokens_done, block_index
        files.reconstruction.write(from_tokens(tokens, spec.vocabulary))
        files.costs.write(costs.astype("<u4").tobytes())
        row = {
            "block": block_index,
            "first": tokens_done,
            "tokens": len(tokens),
            "nll_bits": int(costs.sum(dtype=np.uint64)) / COST_UNITS_PER_BIT,
        }
        files.blocks.write(json.dumps(row).encode() + b"\n")
        tokens_done += len(tokens)
        block_index += 1

    def acknowledge() -> None:
        files.sync()
        reporter.add(Ack(received_bytes=files.received, durable_bytes=files.durable))

    try:
        while not transmission.finished:
            told = pipe.receive(_DURABLE_SECONDS if files.received > files.durable else None)
            if told is not None and told.abort:
                raise Aborted
            for message in told.messages if told is not None else ():
                if isinstance(message, Data):
                    files.z.write(message.z)
                    files.received += len(message.z)
                transmission.take(message)
                for block in transmission.blocks():
                    if block is not None:
                        keep(*block)
                    if files.sync_due():
                        acknowledge()
                    reporter.tick()
            if files.sync_due():
                acknowledge()
            reporter.flush()
        files.sync()
    finally:
        files.close()
    reporter.add(Ack(received_bytes=files.received, durable_bytes=files.durable))
    reporter.flush(finished=True, sha256=transmission.sha256)


def warm() -> None:
    """Compile or load what every preset needs, in both directions."""
    from shared.service import backends  # torch, which nobody else here needs

    backends.prepare()
    for name in PRESETS:
        spec = preset(name, IdsVocabulary(size=300))
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
