"""The file channel: octets to a stored transmission and back, from and to open files, with memory that does not depend on n.

`compress` is Alice without a socket, `decompress` is Bob; `scan` reads the messages and decodes nothing. The models are
imported only once the head of a file has been found sound and within the limits. Names of files, and what happens to
those already there, are the command line's business.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from shared.channel.errors import BadFrameError, DigestMismatchError, LimitError
from shared.channel.messages import MAX_DATA_BYTES, MAX_INTEGER, Check, End, Hello, Message, Text
from shared.channel.stored import StoredReader, StoredWriter
from shared.code.errors import CorpusError, TokenizerError
from shared.code.spec import CodeSpec, Start, Vocabulary
from shared.code.vocabulary import Tokens, dataset_digest, from_tokens, token_width
from shared.service.kernels import ready_for, runtime_fingerprint
from shared.service.limits import Limits, training_tokens

if TYPE_CHECKING:
    from shared.code.models.base import Predictor
    from shared.service.coding import TransmissionDecoder
    from shared.service.tokenizing import OctetDecoder, Octets, OctetTokenizer

_PART_BYTES: Final = 1 << 16
_KEPT_BYTES: Final = 1 << 31


Read = Callable[[int], bytes]
"""Gives at most so many bytes, none at the end: `read` or `read1` of a file."""

Progress = Callable[[int, int], None]
"""Called with the bytes of D and the bytes of the file so far."""


class Assets:
    """Files that codes need, found by their digests: corpora to start from, and tokenizers.

    keep: a directory for models, where they may be needed again. progress: called with the steps taken on a corpus, and k.
    """

    def __init__(
        self,
        corpora: Sequence[Path] = (),
        tokenizers: Sequence[Path] = (),
        *,
        keep: Path | None = None,
        progress: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        self._corpora = corpora
        self._tokenizers = tokenizers
        self._keep = keep
        self._progress = progress

    def predictor(self, spec: CodeSpec) -> "Predictor | None":
        """What a code begins with, None for p^(0). Raises `CorpusError` where no file is the corpus that it names."""
        ready_for(spec)
        if spec.start is None:
            return None
        with tempfile.TemporaryDirectory(prefix="codelength-") as place:
            return self._predictor(spec, spec.start, Path(place))

    def _predictor(self, spec: CodeSpec, start: Start, place: Path) -> "Predictor":
        wanted, tokenizer = start.corpus, self.tokenizer(spec)
        found = {}
        for number, path in enumerate(self._corpora):
            ids = None if tokenizer is None else place / str(number)
            found[corpus_identity(path, spec.vocabulary, tokenizer, ids).sha256] = path, ids or path
        if wanted not in found:
            others = "".join(f"; {path} has the SHA-256 {digest}" for digest, (path, _) in found.items())
            raise CorpusError(wanted, f"the code starts from it, and its file is not given (--corpus){others}")
        from shared.service.starts import Origin, starting

        keep, most_bytes = (os.devnull, 0) if self._keep is None else (str(self._keep), _KEPT_BYTES)
        origin = Origin(corpus=str(found[wanted][1]), snapshots=keep, max_bytes=most_bytes)
        for predictor, _ in starting(spec, origin):
            self._progress(predictor.steps, start.steps)
        return predictor

    def tokenizer(self, spec: CodeSpec) -> "OctetTokenizer | None":
        """What makes octets of a code's tokens, if anything does. Raises `TokenizerError` where no file is the one it names."""
        wanted = spec.tokenizer
        if wanted is None:
            return None
        from shared.service.tokenizing import OctetTokenizer

        found = {file_digest(path): path for path in self._tokenizers}
        if wanted not in found:
            others = "".join(f"; {path} has the SHA-256 {digest}" for digest, path in found.items())
            raise TokenizerError(wanted, f"the tokens are its own, and its file is not given (--tokenizer){others}")
        tokenizer = OctetTokenizer(found[wanted], wanted)
        if tokenizer.size != spec.vocabulary_size:
            raise TokenizerError(wanted, f"it has m = {tokenizer.size}, the code m = {spec.vocabulary_size}")
        return tokenizer


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Identity(NamedTuple):
    """How many tokens, and the identity of the dataset that they are."""

    tokens: int
    sha256: str


def corpus_identity(
    path: Path, vocabulary: Vocabulary, tokenizer: "OctetTokenizer | None" = None, ids: Path | None = None
) -> Identity:
    """What a corpus is, in a file of canonical bytes, or of octets for a tokenizer. ids: where the latter's canonical bytes go.

    Raises `InexactTokenizerError` or `TooLargeError`.
    """
    if tokenizer is not None:
        from shared.service.tokenizing import read_octets

        with path.open("rb") as source, (ids or Path(os.devnull)).open("wb") as target:
            read = read_octets(tokenizer, source, target).read
        return Identity(read.tokens, read.sha256)
    digest = dataset_digest(vocabulary)
    with path.open("rb") as file:
        while data := file.read(_PART_BYTES):
            digest.update(data)
    return Identity(path.stat().st_size // token_width(vocabulary), digest.hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One transmission in a file. bytes: of D's canonical form. file_bytes: all of the file that belongs to it.

    corpus, steps: what the code starts from, a SHA-256 or None, and k at the first token. tokenizer: the SHA-256 of the one that
    made the tokens, if one did; `octets` and `octets_sha256` are then of what they stand for.
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
    tokenizer: str | None = None
    octets: int | None = None
    octets_sha256: str | None = None

    @property
    def data_bytes(self) -> int:
        """Of what it decodes to."""
        return self.bytes if self.octets is None else self.octets

    @classmethod
    def of(
        cls,
        spec: CodeSpec,
        code: str,
        text: Text | None,
        *,
        tokens: int,
        sha256: str,
        blocks: int,
        z_bits: int,
        file_bytes: int,
    ) -> Self:
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
            tokenizer=spec.tokenizer,
            octets=None if text is None else text.size,
            octets_sha256=None if text is None else text.sha256.hex(),
        )


def compress(
    read: Read,
    write: Callable[[bytes], object],
    spec: CodeSpec,
    code: str,
    *,
    tokens: int | None = None,
    octets: "Octets | None" = None,
    assets: Assets | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Code what `read` gives, canonical bytes, to its end; fewer bytes than asked for mean the end. code: the preset's name.

    tokens: n, to be announced in HELLO. octets: what the tokens stand for, where a tokenizer made them. assets: what the code
    needs. The result depends on nothing but these and the data. Raises `VocabularyError`, `CorpusError` or `TokenizerError`.
    """
    from shared.service.coding import TransmissionEncoder, read_blocks

    assert (octets is None) == (spec.tokenizer is None)
    predictor = (assets or Assets()).predictor(spec)
    writer, size, blocks = StoredWriter(), 0, 0
    text = None if octets is None else Text(size=octets.size, sha256=bytes.fromhex(octets.sha256))

    def put(data: bytes) -> None:
        nonlocal size
        write(data)
        size += len(data)

    put(
        writer.begin(
            Hello(transmission="", spec=spec.canonical_bytes(), tokens=tokens, media_type="", name="", code=code, runtime="")
        )
    )
    if text is not None:
        put(writer.write(text))
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
    return Stored.of(spec, code, text, sha256=transmission.sha256, **found)


def decompress(
    read: Read,
    write: Callable[[bytes], object],
    *,
    max_bytes: int | None = None,
    limits: Limits | None = None,
    assets: Assets | None = None,
    progress: Progress | None = None,
) -> list[Stored]:
    """Decode every transmission in `source`; a block is written only after its CHECK has held.

    max_bytes: that may be written in all. limits: of what a code may need. assets: what codes need. Raises a `CodelengthError`
    at the first thing that is wrong.
    """
    found: list[Stored] = []
    decoder: TransmissionDecoder | None = None
    assets, spelled = assets or Assets(), _Spelled(None, None)
    spec = CodeSpec.parse(b'{"model":{"kind":"uniform"}}')
    code, began, before, written, blocks = "", 0, 0, 0, 0
    for message, end in _messages(read):
        if isinstance(message, Hello):
            spec = _acceptable(message, limits or Limits())
            room = None if max_bytes is None else max_bytes - written
            spelled = _Spelled(assets.tokenizer(spec), room)
            if spec.tokenizer is None:
                _fits((message.tokens or 0) * token_width(spec.vocabulary), room)
            decoder = _decoder(spec, message, room, assets)
            code, blocks, before = message.code, 0, written
            continue
        assert decoder is not None
        if spelled.announced(message):
            continue
        try:
            decoder.take(message)
        except LimitError as error:
            if error.what == "tokens" and max_bytes is not None:
                raise LimitError("bytes to be written", before + error.value * token_width(spec.vocabulary), max_bytes) from None
            raise
        for block in decoder.blocks():
            if block is not None:
                data = from_tokens(block[0], spec.vocabulary) if spec.tokenizer is None else spelled.take(block[0])
                write(data)
                written += len(data)
                blocks += 1
            if progress is not None:
                progress(written, end)
        if isinstance(message, End):
            assert decoder.finished
            rest = spelled.end()
            write(rest)
            written += len(rest)
            done = decoder.decoder
            sizes = {"tokens": done.position, "blocks": blocks, "z_bits": message.z_bits, "file_bytes": end - began}
            found.append(Stored.of(spec, code, spelled.text, sha256=decoder.sha256, **sizes))
            began = end
    return found


class _Spelled:
    """The octets that a tokenizer makes of a transmission's tokens. tokenizer: None where none made them, and nothing is done."""

    def __init__(self, tokenizer: "OctetTokenizer | None", room: int | None) -> None:
        self.text: Text | None = None
        self._tokenizer = tokenizer
        self._room = room
        self._decoder: OctetDecoder | None = None

    def announced(self, message: Message) -> bool:
        """Whether this is TEXT, which comes first. Raises `BadFrameError` where it does not, and `LimitError`."""
        if self._tokenizer is None or self.text is not None:
            return False
        if not isinstance(message, Text):
            raise BadFrameError(f"{type(message).__name__.upper()} comes before TEXT")
        _fits(message.size, self._room)
        from shared.service.tokenizing import OctetDecoder

        self.text, self._decoder = message, OctetDecoder(self._tokenizer, message.size)
        return True

    def take(self, ids: Tokens) -> bytes:
        """The octets of the next tokens. Raises `DigestMismatchError` where they are more than was said."""
        assert self._decoder is not None
        return self._told(partial(self._decoder.take, ids))

    def end(self) -> bytes:
        """The rest of them. Raises `DigestMismatchError` where all of them are not what was said."""
        if self._decoder is None or self.text is None:
            return b""
        rest = self._told(self._decoder.end)
        if self._decoder.octets != (self.text.size, self.text.sha256.hex()):
            raise self._another()
        return rest

    def _told(self, make: Callable[[], bytes]) -> bytes:
        from shared.service.errors import TooLargeError

        try:
            return make()
        except TooLargeError:
            raise self._another() from None

    def _another(self) -> DigestMismatchError:
        assert self._decoder is not None
        assert self.text is not None
        return DigestMismatchError(self.text.sha256.hex(), self._decoder.octets.sha256)


def scan(read: Read) -> list[Stored]:
    """What a file says of its transmissions, to its end, without decoding: framing is checked, z is not."""
    found: list[Stored] = []
    spec, text, code, began, blocks = None, None, "", 0, 0
    for message, end in _messages(read):
        match message:
            case Hello():
                spec, text, code, blocks = CodeSpec.parse(message.spec), None, message.code, 0
            case Text():
                text = message
            case Check():
                blocks += 1
            case End():
                assert spec is not None
                sizes = {"tokens": message.tokens, "blocks": blocks, "z_bits": message.z_bits, "file_bytes": end - began}
                found.append(Stored.of(spec, code, text, sha256=message.sha256.hex(), **sizes))
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


def _fits(announced: int, room: int | None) -> None:
    if room is not None and announced > room:
        raise LimitError("bytes to be written", announced, room)


def _decoder(spec: CodeSpec, hello: Hello, room: int | None, assets: Assets) -> "TransmissionDecoder":
    from shared.service.coding import TransmissionDecoder

    predictor = assets.predictor(spec)
    bounded = room is not None and spec.tokenizer is None  # a tokenizer's octets are, by TEXT
    most = (room or 0) // token_width(spec.vocabulary) if bounded else MAX_INTEGER
    ours = runtime_fingerprint()
    theirs = "not recorded in files"
    return TransmissionDecoder(spec, tokens=hello.tokens, max_tokens=most, ours=ours, theirs=theirs, predictor=predictor)
