"""Uploads: a request's body to a file, whole or not at all, plain or as the file of a multipart form."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from shared.service.errors import MalformedRequestError, TooLargeError, UploadInterruptedError
from shared.service.forms import FORMS, MEDIA_TYPES, Form

_COPY_BYTES: Final = 1 << 20
_MULTIPART: Final = "multipart/form-data"
_FORM_DEFAULT: Final = "application/x-www-form-urlencoded"  # what curl says of --data-binary


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the caller says of an upload, in the query or in the fields of a form."""

    name: str
    form: Form | None
    vocabulary_size: int | None


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
    return replace(
        wanted,
        name=wanted.name or texts.get("name", "")[:255] or filename,
        form=wanted.form or form,
        vocabulary_size=wanted.vocabulary_size if size is None else int(size),
    )


def _plain(content_type: str | None) -> str:
    """The media type without its parameters; octets where there is none worth keeping."""
    media_type = (content_type or "").partition(";")[0].strip().lower()[:255]
    if media_type == _FORM_DEFAULT or not media_type.isascii() or media_type.count("/") != 1:
        return MEDIA_TYPES["octets"]
    return media_type
