"""Uploads: a request's body to a file, whole or not at all, plain or as the file of a multipart form."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any, Final

from fastapi import Depends, Query, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from shared.code.errors import TokenizerError
from shared.code.spec import IdsVocabulary, Vocabulary
from shared.code.vocabulary import MAX_VOCABULARY_SIZE
from shared.service.app import Services
from shared.service.errors import MalformedRequestError, NotFoundError, StorageFullError, TooLargeError, UploadInterruptedError
from shared.service.forms import FORMS, MEDIA_TYPES, Form, form_of, read
from shared.service.records import Dataset, Tokenizer
from shared.service.tokenizing import Octets, OctetTokenizer, Tokenized, read_octets

_COPY_BYTES: Final = 1 << 20
_SHA256: Final = r"^[0-9a-f]{64}$"
_MULTIPART: Final = "multipart/form-data"
_FORM_DEFAULT: Final = "application/x-www-form-urlencoded"  # what curl says of --data-binary

_BINARY: Final = {"type": "string", "format": "binary"}
_IDS: Final = {
    "type": "object",
    "required": ["vocabulary_size", "tokens"],
    "properties": {
        "vocabulary_size": {"type": "integer", "minimum": 1, "maximum": MAX_VOCABULARY_SIZE},
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    },
}
_FIELDS: Final = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the data; its media type says its form"},
        "form": {"type": "string", "enum": list(FORMS)},
        "vocabulary_size": {"type": "integer", "minimum": 1, "maximum": MAX_VOCABULARY_SIZE},
        "tokenizer": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "name": {"type": "string", "maxLength": 255},
    },
}
UPLOAD: Final = {
    "requestBody": {
        "required": True,
        "content": {
            MEDIA_TYPES["octets"]: {"schema": _BINARY, "example": "to be or not to be"},
            MEDIA_TYPES["json"]: {"schema": _IDS, "example": {"vocabulary_size": 8, "tokens": [0, 1, 2, 3, 5, 7]}},
            MEDIA_TYPES["npy"]: {"schema": _BINARY, "example": "\x93NUMPY…"},
            MEDIA_TYPES["uint16"]: {"schema": _BINARY, "example": "\x01\x00\x02\x00"},
            "multipart/form-data": {"schema": _FIELDS, "example": {"file": "to be or not to be", "name": "hamlet.txt"}},
        },
    }
}

FILE_UPLOAD: Final = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}, "example": {"model": {}}}}}
}

Name = Annotated[str, Query(max_length=255, examples=["hello.txt"])]
FormOrNone = Annotated[Form | None, Query(description="what the body is, where its media type does not say so", examples=["npy"])]
SizeOrNone = Annotated[int | None, Query(ge=1, le=MAX_VOCABULARY_SIZE, description="m, for npy and uint16", examples=[50257])]
TokenizerOrNone = Annotated[
    str | None,
    Query(pattern=_SHA256, description="SHA-256 of the tokenizer that makes ids of the octets", examples=["b94d27b9…"]),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the caller says of an upload, in the query or in the fields of a form."""

    name: str
    form: Form | None
    vocabulary_size: int | None
    tokenizer: str | None


def _wanted(
    name: Name = "", form: FormOrNone = None, vocabulary_size: SizeOrNone = None, tokenizer: TokenizerOrNone = None
) -> Wanted:
    return Wanted(name=name, form=form, vocabulary_size=vocabulary_size, tokenizer=tokenizer)


Asked = Annotated[Wanted, Depends(_wanted)]
"""The query of an upload of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What has come: canonical bytes at `path`, which go away unless the store adopts them, and what is known of them."""

    path: Path
    vocabulary: Vocabulary
    tokens: int
    size: int
    sha256: str
    media_type: str
    name: str
    octets: Octets | None

    def dataset(self) -> Dataset:
        """Its record."""
        return Dataset(
            id=self.sha256,
            sha256=self.sha256,
            vocabulary=self.vocabulary.kind,
            vocabulary_size=self.vocabulary.size,
            tokens=self.tokens,
            bytes=self.size,
            media_type=self.media_type,
            name=self.name,
            tokenizer=self.vocabulary.tokenizer if isinstance(self.vocabulary, IdsVocabulary) else None,
            octets=self.octets and self.octets.size,
            octets_sha256=self.octets and self.octets.sha256,
        )


@asynccontextmanager
async def uploaded(request: Request, held: Services, wanted: Wanted) -> AsyncIterator[Upload]:
    """Take a request's body in, in whatever form it comes. Raises what is wrong with it, or `StorageFullError`."""
    settings, store = held.settings, held.store
    if store.used_bytes() + int(request.headers.get("content-length") or 0) > settings.max_stored_bytes:
        raise StorageFullError("the store is full (CODELENGTH_MAX_STORED_BYTES); delete datasets or transmissions")
    with store.incoming() as (_, upload), store.incoming() as (path, file):
        wanted, media_type = await receive(request, upload, settings.max_upload_bytes, wanted)
        chosen = wanted.form or form_of(media_type)
        if chosen != "octets":
            media_type = MEDIA_TYPES[chosen]
        upload.seek(0)
        octets = None
        if wanted.tokenizer is None:
            found = await asyncio.to_thread(read, chosen, upload, file, wanted.vocabulary_size)
        elif chosen != "octets" or wanted.vocabulary_size is not None:
            raise MalformedRequestError("a tokenizer is for octets, and says itself what m is")
        else:
            place = tokenizer_path(held, wanted.tokenizer)
            found, octets = await asyncio.to_thread(_tokenized, place, wanted.tokenizer, upload, file)
        vocabulary, tokens, size, sha256 = found
        if tokens > settings.max_tokens:
            raise TooLargeError(f"a dataset of {tokens} tokens", settings.max_tokens, "CODELENGTH_MAX_TOKENS")
        yield Upload(
            path=path,
            vocabulary=vocabulary,
            tokens=tokens,
            size=size,
            sha256=sha256,
            media_type=media_type,
            name=wanted.name,
            octets=octets,
        )


def _tokenized(place: Path, sha256: str, upload: IO[bytes], file: IO[bytes]) -> Tokenized:
    return read_octets(OctetTokenizer(place, sha256), upload, file)


def tokenizer_path(held: Services, sha256: str) -> Path:
    """Where a tokenizer's file lies. Raises `TokenizerError` where it is not held."""
    try:
        held.store.asset(Tokenizer, sha256)
    except NotFoundError:
        raise TokenizerError(sha256, f"{held.name.capitalize()} does not hold it; POST it to /tokenizers there") from None
    return held.store.object(sha256)


async def receive(request: Request, file: IO[bytes], limit: int, wanted: Wanted) -> tuple[Wanted, str]:
    """Stream the body, or the form's file, to `file`; returns what is known of it, and its media type.

    Raises `TooLargeError`, `UploadInterruptedError` or `MalformedRequestError`.
    """
    media_type = _plain(request.headers.get("content-type"))
    if media_type == _MULTIPART:
        return await _receive_form(request, file, limit, wanted)
    async for part in _body(request, limit):
        file.write(part)
    file.flush()
    return wanted, media_type


async def _body(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLargeError("the upload", limit, "CODELENGTH_MAX_UPLOAD_BYTES")
            yield part
    except ClientDisconnect:
        raise UploadInterruptedError("the upload ended before its announced length") from None


async def _receive_form(request: Request, file: IO[bytes], limit: int, wanted: Wanted) -> tuple[Wanted, str]:
    try:
        async with _Form(MultiPartParser(request.headers, _body(request, limit), max_files=1, max_fields=8)) as fields:
            found = fields.get("file")
            if not isinstance(found, UploadFile):
                raise MalformedRequestError("the form has no file called 'file'")
            while part := await found.read(_COPY_BYTES):
                file.write(part)
            file.flush()
            texts = {key: value for key, value in fields.items() if isinstance(value, str)}
            return _merge(wanted, texts, (found.filename or "")[:255]), _plain(found.content_type)
    except (MultiPartException, KeyError, ValueError) as error:
        raise MalformedRequestError(f"the form cannot be read: {error}") from None


class _Form:
    """A parsed form, whose temporary files are closed on the way out."""

    def __init__(self, parser: MultiPartParser) -> None:
        self._parser = parser

    async def __aenter__(self) -> Any:
        self._fields = await self._parser.parse()
        return self._fields

    async def __aexit__(self, *_: object) -> None:
        await self._fields.close()


def _merge(wanted: Wanted, texts: dict[str, str], filename: str) -> Wanted:
    form = next((one for one in FORMS if one == texts.get("form")), None)
    if "form" in texts and form is None:
        raise MalformedRequestError(f"there is no form {texts['form'][:32]!r}: {', '.join(FORMS)}")
    size = texts.get("vocabulary_size")
    if size is not None and not (size.isascii() and size.isdecimal() and len(size) < 8):
        raise MalformedRequestError("vocabulary_size must be an integer from 1 to 2^20")
    if re.fullmatch(_SHA256, tokenizer := texts.get("tokenizer", "0" * 64)) is None:
        raise MalformedRequestError("tokenizer must be a SHA-256, 64 hexadecimal digits")
    return replace(
        wanted,
        name=wanted.name or texts.get("name", "")[:255] or filename,
        form=wanted.form or form,
        vocabulary_size=wanted.vocabulary_size if size is None else int(size),
        tokenizer=tokenizer if "tokenizer" in texts else wanted.tokenizer,
    )


def _plain(content_type: str | None) -> str:
    """The media type without its parameters; octets where there is none worth keeping."""
    media_type = (content_type or "").partition(";")[0].strip().lower()[:255]
    if media_type == _FORM_DEFAULT or not media_type.isascii() or media_type.count("/") != 1:
        return MEDIA_TYPES["octets"]
    return media_type
