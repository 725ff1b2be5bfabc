"""Octets to token ids by a Hugging Face `tokenizers` file, and back, exactly or not at all.

`read_octets` is Alice's: it makes the ids, decodes them again as Bob will, and refuses what does not come back. `write_octets` is
Bob's. A byte-level tokenizer is taken token by token: each stands for the same octets wherever it is. So pieces are coded apart,
a character may lie in several tokens, and octets that are not UTF-8 are coded by the tokens of single octets. What any other
makes of a token may depend on those around it: it gets all of D at once, if D is small enough. The package is imported late.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol, Self

import numpy as np

from shared.code.errors import TokenizerError
from shared.code.spec import IdsVocabulary, Vocabulary
from shared.code.vocabulary import MAX_VOCABULARY_SIZE, Tokens, dataset_digest, from_tokens, to_tokens, token_width
from shared.service.errors import InexactTokenizerError, TooLargeError
from shared.service.forms import Read

MAX_FILE_BYTES: Final = 64 << 20
MAX_WHOLE_BYTES: Final = 16 << 20
_PIECE_BYTES: Final = 1 << 20
_CUT_BYTES: Final = 1 << 12  # of a piece's end, where a space is looked for
_PART_TOKENS: Final = 1 << 16
_NOT_UTF8: Final = re.compile("([\udc80-\udcff])")  # as the error handler surrogateescape has it


class Readable(Protocol):
    """Octets to be read; fewer than asked for mean the end."""

    def read(self, size: int, /) -> bytes:
        """The next ones."""


class Octets(NamedTuple):
    """The octets that ids stand for: how many, and their SHA-256."""

    size: int
    sha256: str


class Tokenized(NamedTuple):
    """What was made of octets: the dataset of ids, and the octets."""

    read: Read
    octets: Octets


class OctetTokenizer:
    """A tokenizer's file, loaded. Raises `TokenizerError` where it is none, or the package is not installed.

    sha256: of the file. size: m, one more than the largest id, with added tokens. byte_level: whether every token stands for
    octets of its own.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from tokenizers import Tokenizer
            from tokenizers.decoders import ByteLevel
        except ImportError:
            raise TokenizerError(sha256, "the package tokenizers is not installed: pip install 'codelength[tokens]'") from None
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise TokenizerError(sha256, "it has been deleted") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise TokenizerError(sha256, "what is kept as it is damaged: give it again")
        self.sha256 = sha256
        with _its_faults(sha256):
            self._inner = Tokenizer.from_buffer(data)
            self._inner.no_padding()
            self._inner.no_truncation()
            ids: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
            added = self._inner.get_added_tokens_decoder()
            decoder = self._inner.decoder
        self.size = max(ids.values(), default=-1) + 1
        if not 1 <= self.size <= MAX_VOCABULARY_SIZE:
            raise TokenizerError(sha256, f"its ids go up to {self.size - 1}; at least one and at most 2^20 - 1 can be")
        self.byte_level = isinstance(decoder, ByteLevel)
        self._octets = [b""] * self.size
        self._single: dict[int, int] = {}
        if self.byte_level:
            alphabet = _alphabet()
            for token, number in ids.items():
                spelled = number not in added and all(letter in alphabet for letter in token)
                self._octets[number] = bytes(alphabet[letter] for letter in token) if spelled else token.encode()
            self._single = {octets[0]: number for number, octets in enumerate(self._octets) if len(octets) == 1}

    @property
    def vocabulary(self) -> IdsVocabulary:
        """The vocabulary of what it makes."""
        return IdsVocabulary(size=self.size, tokenizer=self.sha256)

    @classmethod
    def of(cls, path: Path) -> Self:
        """The tokenizer in a file, whatever its SHA-256. Raises `TooLargeError` too."""
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise TooLargeError(f"a tokenizer of {size} bytes", MAX_FILE_BYTES, "of this version")
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())

    def pieces(self, source: Readable) -> Iterator[bytes]:
        """The octets, in pieces that are coded apart: all at once where that must be. Raises `TooLargeError`."""
        if not self.byte_level:
            data = source.read(MAX_WHOLE_BYTES + 1)
            if len(data) > MAX_WHOLE_BYTES:
                raise TooLargeError("data for a tokenizer that is not byte-level", MAX_WHOLE_BYTES, "it must be coded whole")
            yield from [data] if data else []
            return
        rest = b""
        while part := source.read(_PIECE_BYTES):
            rest += part
            if len(rest) >= _PIECE_BYTES:
                cut = _cut(rest)
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest

    def encode(self, piece: bytes, position: int) -> list[int]:
        """The ids of a piece, whose first octet stands at `position`. Raises `InexactTokenizerError`."""
        escaped = piece.decode("utf-8", "surrogateescape")
        for at in (found.start() for found in _NOT_UTF8.finditer(escaped)):
            if ord(escaped[at]) - 0xDC00 not in self._single:
                start = position + len(escaped[:at].encode("utf-8", "surrogateescape"))
                raise InexactTokenizerError(self.sha256, start, "is not UTF-8, and no token stands for it alone")
        parts = _NOT_UTF8.split(escaped)  # text, octets, text, …
        with _its_faults(self.sha256):
            found = [one.ids for one in self._inner.encode_batch_fast(parts[::2], add_special_tokens=False)]
        ids: list[int] = list(found[0])
        for octet, more in zip(parts[1::2], found[1:], strict=True):
            ids += [self._single[ord(octet) - 0xDC00], *more]
        again = self.decode(ids)
        if again != piece:
            at = _first_difference(again, piece)
            came = "nothing" if at >= len(again) else f"0x{again[at]:02x}"
            was = "is beyond the end" if at >= len(piece) else f"is 0x{piece[at]:02x}"
            raise InexactTokenizerError(self.sha256, position + at, f"{was}, and {came} comes back")
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """The octets of ids."""
        if self.byte_level:
            return b"".join(map(self._octets.__getitem__, ids))
        with _its_faults(self.sha256):
            text: str = self._inner.decode(list(ids), skip_special_tokens=False)
        return text.encode("utf-8")


class OctetDecoder:
    """Octets of ids as these come; all at the end where a tokenizer decodes the whole only. limit: the octets that are accepted.

    Raises `TooLargeError` beyond it.
    """

    def __init__(self, tokenizer: OctetTokenizer, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._waiting: list[int] = []
        self._digest, self._size = hashlib.sha256(), 0

    def take(self, ids: Tokens) -> bytes:
        """The octets of the next ids, as far as they are known."""
        if self._tokenizer.byte_level:
            return self._made(ids.tolist())
        self._waiting += ids.tolist()
        if len(self._waiting) > MAX_WHOLE_BYTES:
            raise TooLargeError("data for a tokenizer that is not byte-level", MAX_WHOLE_BYTES, "it must be decoded whole")
        return b""

    def end(self) -> bytes:
        """The rest."""
        waiting, self._waiting = self._waiting, []
        return self._made(waiting)

    @property
    def octets(self) -> Octets:
        """What has been given out."""
        return Octets(self._size, self._digest.hexdigest())

    def _made(self, ids: Sequence[int]) -> bytes:
        data = self._tokenizer.decode(ids) if ids else b""
        self._size += len(data)
        if self._size > self._limit:
            raise TooLargeError("what the tokens stand for", self._limit, "as announced")
        self._digest.update(data)
        return data


def read_octets(tokenizer: OctetTokenizer, source: Readable, target: IO[bytes]) -> Tokenized:
    """Read octets and write the canonical bytes of their ids, as `forms.read` does.

    Raises `InexactTokenizerError` where decoding the ids does not give the octets, `TooLargeError` or `TokenizerError`.
    """
    vocabulary = tokenizer.vocabulary
    digest, octets = dataset_digest(vocabulary), hashlib.sha256()
    tokens = size = 0
    for piece in tokenizer.pieces(source):
        ids = np.array(tokenizer.encode(piece, size), dtype=np.uint32)
        data = from_tokens(ids, vocabulary)
        digest.update(data)
        octets.update(piece)
        target.write(data)
        tokens, size = tokens + len(ids), size + len(piece)
    target.flush()
    read = Read(vocabulary, tokens, tokens * token_width(vocabulary), digest.hexdigest())
    return Tokenized(read, Octets(size, octets.hexdigest()))


def write_octets(tokenizer: OctetTokenizer, path: Path, vocabulary: Vocabulary, target: IO[bytes], limit: int) -> Octets:
    """Write the octets that the dataset at `path`, canonical bytes, stands for. Raises `TooLargeError` beyond `limit` octets."""
    decoder = OctetDecoder(tokenizer, limit)
    with path.open("rb") as file:
        while data := file.read(token_width(vocabulary) * _PART_TOKENS):
            target.write(decoder.take(to_tokens(data, vocabulary)))
    target.write(decoder.end())
    target.flush()
    return decoder.octets


@contextlib.contextmanager
def _its_faults(sha256: str) -> Iterator[None]:
    """What the package raises, its panics too, is said of the tokenizer."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(sha256, f"the package tokenizers cannot use it: {str(error)[:200]}") from None
        raise


def _cut(data: bytes) -> int:
    """Where a piece may end so that its tokens are most likely those of the whole: before a space, or between characters."""
    space = data.rfind(b" ", len(data) - _CUT_BYTES)
    if space > 0:
        return space
    cut = len(data)
    for back in range(1, 4):
        if data[-back] & 0xC0 != 0x80:
            return cut - back if data[-back] >= 0xC0 else cut
    return cut


def _first_difference(one: bytes, other: bytes) -> int:
    return next(
        (at for at, (ours, theirs) in enumerate(zip(one, other, strict=False)) if ours != theirs), min(len(one), len(other))
    )


def _alphabet() -> dict[str, int]:
    """Letter to octet, as byte-level tokenizers spell octets: printable ones of Latin-1 as they are, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [octet for octet in range(256) if octet not in printable]
    return {chr(octet): octet for octet in printable} | {chr(0x100 + index): octet for index, octet in enumerate(others)}
