"""The file channel: octets to a stored transmission and back, from and to open files, with memory that does not depend on n.

`compress` is Alice without a socket, `decompress` is Bob; `scan` reads the messages and decodes nothing. The models are
imported only once the head of a file has been found sound and within the limits. Names of files, and what happens to
those already there, are the command line's business.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from shared.channel.errors import LimitError
from shared.channel.messages import MAX_DATA_BYTES, MAX_INTEGER, Check, End, Hello, Message
from shared.channel.stored import StoredReader, StoredWriter
from shared.code.errors import CorpusError
from shared.code.spec import CodeSpec, Vocabulary
from shared.code.vocabulary import dataset_digest, from_tokens, token_width
from shared.service.kernels import ready_for, runtime_fingerprint
from shared.service.limits import Limits, training_tokens

if TYPE_CHECKING:
    from shared.code.models.base import Predictor
    from shared.service.coding import TransmissionDecoder

_PART_BYTES: Final = 1 << 16
_KEPT_BYTES: Final = 1 << 31


Read = Callable[[int], bytes]
"""Gives at most so many bytes, none at the end: `read` or `read1` of a file."""

Progress = Callable[[int, int], None]
"""Called with the bytes of D and the bytes of the file so far."""


class Corpora:
    """The files from which codes may start, found by their digests.

    keep: a directory for models, where they may be needed again. progress: called with the steps taken on a corpus, and k.
    """

    def __init__(
        self,
        paths: Sequence[Path] = (),
        *,
        keep: Path | None = None,
        progress: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        self._paths = paths
        self._keep = keep
        self._progress = progress

    def predictor(self, spec: CodeSpec) -> "Predictor | None":
        """What a code begins with, None for p^(0). Raises `CorpusError` where no file is the corpus that it names."""
        ready_for(spec)
        if spec.start is None:
            return None
        wanted, found = spec.start.corpus, {corpus_digest(path, spec.vocabulary): path for path in self._paths}
        if wanted not in found:
            others = "".join(f"; {path} has the SHA-256 {digest}" for digest, path in found.items())
            raise CorpusError(wanted, f"the code starts from it, and its file is not given (--corpus){others}")
        from shared.service.starts import Origin, starting

        keep, most_bytes = (os.devnull, 0) if self._keep is None else (str(self._keep), _KEPT_BYTES)
        origin = Origin(corpus=str(found[wanted]), snapshots=keep, max_bytes=most_bytes)
        for predictor, _ in starting(spec, origin):
            self._progress(predictor.steps, spec.start.steps)
        return predictor


def corpus_digest(path: Path, vocabulary: Vocabulary) -> str:
    """The identity of a corpus in a file of canonical bytes."""
    digest = dataset_digest(vocabulary)
    with path.open("rb") as file:
        while data := file.read(_PART_BYTES):
            digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One transmission in a file. bytes: of D's canonical form. file_bytes: all of the file that belongs to it.

    corpus, steps: what the code starts from, a SHA-256 or None, and k at the first token.
    """

    code: str
    digest: str
    vocabulary_size: int
    tokens: int
    bytes: int
    sha256: str
    blocks: int
    z_bits: int
    file_bytes: int
    regime: str
    corpus: str | None
    steps: int

    @classmethod
    def of(cls, spec: CodeSpec, code: str, *, tokens: int, sha256: str, blocks: int, z_bits: int, file_bytes: int) -> Self:
        """What the rest follows from."""
        start = spec.start
        return cls(
            code=code,
            digest=spec.digest(),
            vocabulary_size=spec.vocabulary_size,
            tokens=tokens,
            bytes=tokens * token_width(spec.vocabulary),
            sha256=sha256,
            blocks=blocks,
            z_bits=z_bits,
            file_bytes=file_bytes,
            regime=spec.training.kind,
            corpus=None if start is None else start.corpus,
            steps=0 if start is None else start.steps,
        )


def compress(
    read: Read,
    write: Callable[[bytes], object],
    spec: CodeSpec,
    code: str,
    *,
    tokens: int | None = None,
    corpora: Corpora | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Code what `read` gives, canonical bytes, to its end; fewer bytes than asked for mean the end. code: the preset's name.

    tokens: n, to be announced in HELLO. corpora: with the one that the code starts from. The result depends on nothing but these
    and the data. Raises `VocabularyError` or `CorpusError`.
    """
    from shared.service.coding import TransmissionEncoder, read_blocks

    predictor = (corpora or Corpora()).predictor(spec)
    writer, size, blocks = StoredWriter(), 0, 0

    def put(data: bytes) -> None:
        nonlocal size
        write(data)
        size += len(data)

    put(
        writer.begin(
            Hello(transmission="", spec=spec.canonical_bytes(), tokens=tokens, media_type="", name="", code=code, runtime="")
        )
    )
    width = token_width(spec.vocabulary)
    blocks_read = read_blocks(read, spec)
    transmission = TransmissionEncoder(spec, blocks_read, data_bytes=MAX_DATA_BYTES, predictor=predictor, clock=lambda: 0.0)
    for message in transmission.messages():
        if message is not None:
            blocks += isinstance(message, Check)
            put(writer.write(message))
        elif progress is not None:
            progress(transmission.encoder.position * width, size)
    encoder = transmission.encoder
    found = {"tokens": encoder.position, "blocks": blocks, "z_bits": encoder.z_bits, "file_bytes": size}
    return Stored.of(spec, code, sha256=transmission.sha256, **found)


def decompress(
    read: Read,
    write: Callable[[bytes], object],
    *,
    max_bytes: int | None = None,
    limits: Limits | None = None,
    corpora: Corpora | None = None,
    progress: Progress | None = None,
) -> list[Stored]:
    """Decode every transmission in `source`; a block is written only after its CHECK has held.

    max_bytes: that may be written in all. limits: of what a code may need. corpora: with those that codes start from. Raises a
    `CodelengthError` at the first thing that is wrong.
    """
    found: list[Stored] = []
    decoder: TransmissionDecoder | None = None
    spec = CodeSpec.parse(b'{"model":{"kind":"uniform"}}')
    code, began, before, written, blocks = "", 0, 0, 0, 0
    for message, end in _messages(read):
        if isinstance(message, Hello):
            spec = _acceptable(message, limits or Limits())
            room = None if max_bytes is None else max_bytes - written
            _fits(message, spec, room)
            decoder = _decoder(spec, message, room, corpora or Corpora())
            code, blocks, before = message.code, 0, written
            continue
        assert decoder is not None
        try:
            decoder.take(message)
        except LimitError as error:
            if error.what == "tokens" and max_bytes is not None:
                raise LimitError("bytes to be written", before + error.value * token_width(spec.vocabulary), max_bytes) from None
            raise
        for block in decoder.blocks():
            if block is not None:
                data = from_tokens(block[0], spec.vocabulary)
                write(data)
                written += len(data)
                blocks += 1
            if progress is not None:
                progress(written, end)
        if isinstance(message, End):
            assert decoder.finished
            done = decoder.decoder
            sizes = {"tokens": done.position, "blocks": blocks, "z_bits": message.z_bits, "file_bytes": end - began}
            found.append(Stored.of(spec, code, sha256=decoder.sha256, **sizes))
            began = end
    return found


def scan(read: Read) -> list[Stored]:
    """What a file says of its transmissions, to its end, without decoding: framing is checked, z is not."""
    found: list[Stored] = []
    spec, code, began, blocks = None, "", 0, 0
    for message, end in _messages(read):
        match message:
            case Hello():
                spec, code, blocks = CodeSpec.parse(message.spec), message.code, 0
            case Check():
                blocks += 1
            case End():
                assert spec is not None
                sizes = {"tokens": message.tokens, "blocks": blocks, "z_bits": message.z_bits, "file_bytes": end - began}
                found.append(Stored.of(spec, code, sha256=message.sha256.hex(), **sizes))
                began = end
            case _:
                pass
    return found


def _messages(read: Read) -> Iterator[tuple[Message, int]]:
    """Every message, and how many bytes of the file came up to its end."""
    reader = StoredReader()
    while data := read(_PART_BYTES):
        reader.feed(data)
        for message in reader.messages():
            yield message, reader.position
    reader.end()


def _acceptable(hello: Hello, limits: Limits) -> CodeSpec:
    spec = CodeSpec.parse(hello.spec)
    if spec.memory_bytes > limits.model_bytes:
        raise LimitError("bytes of memory that its code needs", spec.memory_bytes, limits.model_bytes)
    if training_tokens(spec) > limits.training_tokens:
        raise LimitError("tokens to train on before the data", training_tokens(spec), limits.training_tokens)
    return spec


def _fits(hello: Hello, spec: CodeSpec, room: int | None) -> None:
    announced = (hello.tokens or 0) * token_width(spec.vocabulary)
    if room is not None and announced > room:
        raise LimitError("bytes to be written", announced, room)


def _decoder(spec: CodeSpec, hello: Hello, room: int | None, corpora: Corpora) -> "TransmissionDecoder":
    from shared.service.coding import TransmissionDecoder

    predictor = corpora.predictor(spec)
    most = MAX_INTEGER if room is None else room // token_width(spec.vocabulary)
    ours = runtime_fingerprint()
    theirs = "not recorded in files"
    return TransmissionDecoder(spec, tokens=hello.tokens, max_tokens=most, ours=ours, theirs=theirs, predictor=predictor)
