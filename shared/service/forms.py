"""The forms that a dataset comes in and a reconstruction is given in: octets, JSON ids, .npy, and files of uint16.

`read` turns any form into canonical bytes (see `shared.code.vocabulary`), `write` turns them back; values are exact, the type of
an .npy array is the narrowest that holds m - 1. Memory does not depend on n, but for JSON, which is limited. This module
knows files that are open, and no HTTP.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt

from shared.code.errors import VocabularyError
from shared.code.spec import BytesVocabulary, IdsVocabulary, Vocabulary
from shared.code.vocabulary import MAX_VOCABULARY_SIZE, check_range, dataset_digest, from_tokens, to_tokens, token_width
from shared.service.errors import MalformedRequestError, TooLargeError

Form = Literal["octets", "json", "npy", "uint16"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
MEDIA_TYPES: Final[dict[Form, str]] = {
    "octets": "application/octet-stream",
    "json": "application/json",
    "npy": "application/x-npy",
    "uint16": "application/x-uint16",
}
MAX_JSON_BYTES: Final = 64 << 20

_CHUNK_TOKENS: Final = 1 << 18
_UINT16_SIZE: Final = 1 << 16


class Read(NamedTuple):
    """What was read: the vocabulary, n, the length of the canonical bytes, and D's identity."""

    vocabulary: Vocabulary
    tokens: int
    size: int
    sha256: str


def form_of(media_type: str) -> Form:
    """The form that a media type stands for; octets unless it is one of ours."""
    return next((form for form, known in MEDIA_TYPES.items() if known == media_type), "octets")


def read(form: Form, source: IO[bytes], target: IO[bytes], vocabulary_size: int | None) -> Read:
    """Read a dataset and write its canonical bytes.

    vocabulary_size: m; JSON carries it, for uint16 it is 65,536 unless given. Raises `MalformedRequestError` or
    `VocabularyError`.
    """
    if vocabulary_size is not None and not 1 <= vocabulary_size <= MAX_VOCABULARY_SIZE:
        raise VocabularyError("vocabulary_size must be an integer from 1 to 2^20")
    chunks: Iterator[npt.NDArray[np.integer[Any]]]
    vocabulary: Vocabulary
    match form:
        case "octets":
            if vocabulary_size not in (None, 256):
                raise VocabularyError("octets have the vocabulary size 256; name another form for token ids")
            vocabulary, chunks = BytesVocabulary(), _read_integers(source, np.dtype("u1"))
        case "json":
            size, ids = _read_json(source)
            vocabulary, chunks = IdsVocabulary(size=size), iter([ids])
        case "npy":
            if vocabulary_size is None:
                raise MalformedRequestError("an .npy file does not say its vocabulary_size; give it beside the file")
            vocabulary, chunks = IdsVocabulary(size=vocabulary_size), _read_npy(source)
        case "uint16":
            vocabulary = IdsVocabulary(size=vocabulary_size or _UINT16_SIZE)
            chunks = _read_integers(source, np.dtype("<u2"))
    digest, tokens = dataset_digest(vocabulary), 0
    for chunk in chunks:
        check_range(chunk, vocabulary, position=tokens)
        data = from_tokens(chunk.astype(np.uint32), vocabulary)
        digest.update(data)
        target.write(data)
        tokens += len(chunk)
    target.flush()
    return Read(vocabulary, tokens, tokens * token_width(vocabulary), digest.hexdigest())


def write(form: Form, path: Path, vocabulary: Vocabulary, target: IO[bytes]) -> None:
    """Write the dataset whose canonical bytes lie at `path` in another form. Raises `VocabularyError` where it has no place."""
    width = token_width(vocabulary)
    tokens = path.stat().st_size // width
    if form == "uint16" and vocabulary.size > _UINT16_SIZE:
        raise VocabularyError(f"token ids up to {vocabulary.size - 1} do not fit into uint16")
    if form == "npy":
        header = {"descr": np.dtype(f"<u{width}").str, "fortran_order": False, "shape": (tokens,)}
        np.lib.format.write_array_header_1_0(cast("Any", target), header)
    elif form == "json":
        target.write(b'{"vocabulary_size": %d, "tokens": [' % vocabulary.size)
    first = True
    with path.open("rb") as source:
        while data := source.read(_CHUNK_TOKENS * width):
            match form:
                case "json":
                    text = ", ".join(map(str, to_tokens(data, vocabulary).tolist()))
                    target.write((text if first else ", " + text).encode("ascii"))
                case "uint16":
                    target.write(to_tokens(data, vocabulary).astype("<u2").tobytes())
                case _:
                    target.write(data)
            first = False
    if form == "json":
        target.write(b"]}")
    target.flush()


def _read_integers(source: IO[bytes], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[np.integer[Any]]]:
    position = 0
    while data := source.read(_CHUNK_TOKENS * dtype.itemsize):
        if len(data) % dtype.itemsize:
            raise MalformedRequestError(f"{position + len(data)} bytes are no whole number of {dtype.name} values")
        position += len(data)
        yield np.frombuffer(data, dtype=dtype)


def _read_npy(source: IO[bytes]) -> Iterator[npt.NDArray[np.integer[Any]]]:
    try:
        version = np.lib.format.read_magic(cast("Any", source))
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(cast("Any", source))
    except (ValueError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError, OSError):
        raise MalformedRequestError("not an .npy file, or its header is damaged") from None
    if dtype.kind not in "iu" or len(shape) != 1:
        raise MalformedRequestError(f"the array must be one-dimensional and of integers, not of shape {shape} and type {dtype}")
    tokens = 0
    for chunk in _read_integers(source, dtype):
        tokens += len(chunk)
        yield chunk
    if tokens != shape[0]:
        raise MalformedRequestError(f"the header announces {shape[0]} values, {tokens} follow")


def _read_json(source: IO[bytes]) -> tuple[int, npt.NDArray[np.integer[Any]]]:
    text = source.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise TooLargeError("a dataset as JSON", MAX_JSON_BYTES, "send it as .npy or uint16")
    try:
        body = json.loads(text)
        size, ids = body["vocabulary_size"], body["tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedRequestError('expected JSON of the form {"vocabulary_size": m, "tokens": [ids]}') from None
    if type(size) is not int or not 1 <= size <= MAX_VOCABULARY_SIZE:
        raise VocabularyError("vocabulary_size must be an integer from 1 to 2^20")
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise VocabularyError("tokens must be a list of integers")
    wrong = next((index for index, token in enumerate(ids) if not 0 <= token < size), None)
    if wrong is not None:
        raise VocabularyError(f"the id {str(ids[wrong])[:32]} is not in 0 … {size - 1}", position=wrong)
    return size, np.array(ids, dtype=np.uint32)
