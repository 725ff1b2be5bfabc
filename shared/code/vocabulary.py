"""Datasets as token arrays: the canonical bytes of tokens, their range, and the identity of a dataset.

D over octets is the bytes themselves and its identity their SHA-256. D over token ids has as canonical bytes its tokens,
little endian, in the narrowest of 1, 2 or 4 bytes that holds m - 1, and as identity the SHA-256 of the line
`tokens m=<m> width=<w>` (where a tokenizer made them, ` tokenizer=<its SHA-256>` stands at its end) followed by those bytes.
This module knows no files and no models.
"""

import hashlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.code.errors import VocabularyError
from shared.code.spec import BytesVocabulary, Vocabulary

Tokens = npt.NDArray[np.uint32]

MAX_VOCABULARY_SIZE = 1 << 20


class Digest(Protocol):
    """The part of a `hashlib` object that is used here."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest so far, 64 hexadecimal digits."""


def token_width(vocabulary: Vocabulary) -> int:
    """Bytes per token in the canonical form: 1, 2 or 4."""
    if vocabulary.size <= 1 << 8:
        return 1
    return 2 if vocabulary.size <= 1 << 16 else 4


def dataset_digest(vocabulary: Vocabulary) -> Digest:
    """A running SHA-256 that gives D's identity once the canonical bytes have been added."""
    digest = hashlib.sha256()
    if not isinstance(vocabulary, BytesVocabulary):
        maker = "" if vocabulary.tokenizer is None else f" tokenizer={vocabulary.tokenizer}"
        digest.update(f"tokens m={vocabulary.size} width={token_width(vocabulary)}{maker}\n".encode("ascii"))
    return digest


def to_tokens(data: bytes | bytearray | memoryview, vocabulary: Vocabulary, *, position: int = 0) -> Tokens:
    """Read canonical bytes as tokens, uint32 [n].

    `position` is the index of the first token, for the message of the error. Raises `VocabularyError` for a length that
    is no multiple of the width, and for a token ≥ m.
    """
    width = token_width(vocabulary)
    if len(data) % width:
        raise VocabularyError(f"{len(data)} bytes are no whole number of tokens of {width} bytes")
    tokens = np.frombuffer(data, dtype=f"<u{width}").astype(np.uint32)
    check_range(tokens, vocabulary, position=position)
    return tokens


def from_tokens(tokens: Tokens, vocabulary: Vocabulary) -> bytes:
    """The canonical bytes of tokens, which must lie in the vocabulary."""
    return tokens.astype(f"<u{token_width(vocabulary)}").tobytes()


def check_range(tokens: npt.NDArray[np.integer], vocabulary: Vocabulary, *, position: int = 0) -> None:
    """Raise `VocabularyError` naming the first token outside 0 … m - 1."""
    if not tokens.size:
        return
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary.size:
        first = int(np.argmax((tokens < 0) | (tokens >= vocabulary.size)))
        raise VocabularyError(f"the id {int(tokens[first])} is not in 0 … {vocabulary.size - 1}", position=position + first)
