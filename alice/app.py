"""Alice's HTTP interface: datasets come in, transmissions are started, watched, paused and cancelled."""

import asyncio
import contextlib
import uuid
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from alice.sending import Sending
from alice.uploads import Wanted, receive
from shared.code.errors import VocabularyError
from shared.code.models import spec_of
from shared.code.spec import CodeSpec
from shared.code.vocabulary import MAX_VOCABULARY_SIZE
from shared.service.app import PROBLEMS, Held, Identifier, Services, build_app, reading_routes
from shared.service.auth import require_token
from shared.service.errors import BusyError, ConflictError, NotFoundError, StorageFullError, TooLargeError
from shared.service.forms import FORMS, MEDIA_TYPES, Form, form_of, read
from shared.service.records import Code, CodeReference, Dataset, FBitsRecord, Transmission, codes, measured_f
from shared.service.settings import Settings
from shared.service.transfer import Recorder


class DatasetList(BaseModel):
    """Datasets, oldest first."""

    datasets: list[Dataset]


class CodeList(BaseModel):
    """Presets, simplest first."""

    codes: list[Code]


class TransmissionRequest(BaseModel):
    """What to send, and how. `code` is a preset's name or a whole specification; `send_f` sends f's source along."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dataset": "b94d27b9…", "code": "ngram"}]})

    dataset: str = Field(max_length=64)
    code: str | dict[str, Any] = "ngram"
    send_f: bool = False


routes = APIRouter(dependencies=[Depends(require_token)], responses=PROBLEMS)


_BINARY: Final = {"type": "string", "format": "binary"}
_IDS: Final = {
    "type": "object",
    "required": ["vocabulary_size", "tokens"],
    "properties": {
        "vocabulary_size": {"type": "integer", "minimum": 1, "maximum": MAX_VOCABULARY_SIZE},
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    },
}
_MULTIPART: Final = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the dataset; its media type says its form"},
        "form": {"type": "string", "enum": list(FORMS)},
        "vocabulary_size": {"type": "integer", "minimum": 1, "maximum": MAX_VOCABULARY_SIZE},
        "name": {"type": "string", "maxLength": 255},
    },
}


@routes.post(
    "/datasets",
    status_code=201,
    tags=["datasets"],
    responses={200: {"model": Dataset, "description": "It was held already"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                MEDIA_TYPES["octets"]: {"schema": _BINARY, "example": "to be or not to be"},
                MEDIA_TYPES["json"]: {"schema": _IDS, "example": {"vocabulary_size": 8, "tokens": [0, 1, 2, 3, 5, 7]}},
                MEDIA_TYPES["npy"]: {"schema": _BINARY, "example": "\x93NUMPY…"},
                MEDIA_TYPES["uint16"]: {"schema": _BINARY, "example": "\x01\x00\x02\x00"},
                "multipart/form-data": {"schema": _MULTIPART, "example": {"file": "to be or not to be", "name": "hamlet.txt"}},
            },
        }
    },
)
async def post_dataset(
    request: Request,
    held: Held,
    response: Response,
    name: Annotated[str, Query(max_length=255, examples=["hello.txt"])] = "",
    form: Annotated[
        Form | None, Query(description="what the body is, where its media type does not say so", examples=["npy"])
    ] = None,
    vocabulary_size: Annotated[
        int | None, Query(ge=1, le=MAX_VOCABULARY_SIZE, description="m, for npy and uint16", examples=[50257])
    ] = None,
) -> Dataset:
    """Keep a dataset: octets (m = 256), token ids as JSON, or a file of them (.npy, uint16 little endian), also as multipart."""
    if held.store.used_bytes() + int(request.headers.get("content-length") or 0) > held.settings.max_stored_bytes:
        raise StorageFullError("the store is full (CODELENGTH_MAX_STORED_BYTES); delete datasets or transmissions")
    with held.store.incoming() as (_, upload), held.store.incoming() as (path, file):
        wanted = Wanted(name=name, form=form, vocabulary_size=vocabulary_size)
        wanted, media_type = await receive(request, upload, held.settings.max_upload_bytes, wanted)
        chosen = wanted.form or form_of(media_type)
        if chosen != "octets":
            media_type = MEDIA_TYPES[chosen]
        upload.seek(0)
        vocabulary, tokens, size, sha256 = await asyncio.to_thread(read, chosen, upload, file, wanted.vocabulary_size)
        if tokens > held.settings.max_tokens:
            raise TooLargeError(f"a dataset of {tokens} tokens", held.settings.max_tokens, "CODELENGTH_MAX_TOKENS")
        with contextlib.suppress(NotFoundError):
            known = held.store.dataset(sha256)
            response.status_code = 200
            return known
        held.store.adopt(path, sha256)
    dataset = Dataset(
        id=sha256,
        sha256=sha256,
        vocabulary=vocabulary.kind,
        vocabulary_size=vocabulary.size,
        tokens=tokens,
        bytes=size,
        media_type=media_type,
        name=wanted.name,
    )
    held.store.put_dataset(dataset)
    return dataset


@routes.get("/datasets", tags=["datasets"])
async def list_datasets(held: Held) -> DatasetList:
    """All datasets held."""
    return DatasetList(datasets=held.store.datasets())


DatasetId = Annotated[
    str,
    PathParameter(
        pattern=r"^[0-9a-f]{64}$",
        description="the dataset's SHA-256",
        examples=["b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"],
    ),
]


@routes.get("/datasets/{identifier}", tags=["datasets"])
async def get_dataset(held: Held, identifier: DatasetId) -> Dataset:
    """One dataset's record."""
    return held.store.dataset(identifier)


@routes.delete("/datasets/{identifier}", status_code=204, tags=["datasets"])
async def delete_dataset(held: Held, identifier: DatasetId) -> None:
    """Forget a dataset; not while it is being sent."""
    if any(item.dataset.id == identifier and not item.settled for item in held.registry.all()):
        raise ConflictError(f"dataset {identifier} is being sent; cancel the transmission first")
    held.store.delete_dataset(identifier)


@routes.get("/codes", tags=["codes"])
async def list_codes(held: Held) -> CodeList:
    """The presets, with |f| measured on this installation."""
    if not held.pool.sources:
        raise BusyError("the workers are still warming up")
    return CodeList(codes=codes(held.pool.sources))


@routes.post("/transmissions", status_code=202, tags=["transmissions"])
async def post_transmission(
    request: Request, response: Response, held: Held, wanted: Annotated[TransmissionRequest, Body()]
) -> Transmission:
    """Send a dataset to Bob. It starts at once, or waits its turn; watch it under its Location."""
    dataset = held.store.dataset(wanted.dataset)
    spec, name = _resolve(wanted.code, dataset)
    if spec.memory_bytes > held.settings.max_model_bytes:
        raise TooLargeError(f"a model of {spec.memory_bytes} bytes", held.settings.max_model_bytes, "CODELENGTH_MAX_MODEL_BYTES")
    if not held.pool.sources:
        raise BusyError("the workers are still warming up")
    if held.registry.unfinished >= held.settings.max_queued + held.settings.max_concurrent:
        raise BusyError(f"{held.registry.unfinished} transmissions are under way or waiting (CODELENGTH_MAX_QUEUED)")
    record = Transmission(
        id=uuid.uuid4().hex,
        dataset=dataset,
        code=CodeReference.of(name, spec),
        send_f=wanted.send_f,
        f_bits=FBitsRecord.of(measured_f(spec, held.pool.sources)),
    )
    _start(request.app, held, record)
    response.headers["Location"] = f"/transmissions/{record.id}"
    return record


def _start(app: FastAPI, held: Services, record: Transmission) -> None:
    """Begin a transmission, or take it up where it was."""
    held.registry.add(record)
    spec = CodeSpec.model_validate(record.code.spec)
    sending = Sending(held, Recorder(held.registry, record, "encode"), spec)
    app.state.sendings[record.id] = sending
    held.registry.start(record.id, _run(app, record.id, sending))


async def _take_up(app: FastAPI, held: Services) -> None:
    """Go on with what the last stop of the service cut off."""
    for record in held.registry.all():
        if record.state in ("interrupted", "paused"):
            record.resuming = record.state == "interrupted"
            record.finished_at = None
            _start(app, held, record)


async def _run(app: FastAPI, identifier: str, sending: Sending) -> None:
    try:
        await sending.run()
    finally:
        app.state.sendings.pop(identifier, None)


def _resolve(code: str | dict[str, Any], dataset: Dataset) -> tuple[CodeSpec, str]:
    spec = spec_of(code, dataset.as_vocabulary())
    if spec.vocabulary != dataset.as_vocabulary():
        raise VocabularyError(f"the code is for m = {spec.vocabulary_size}, the dataset has m = {dataset.vocabulary_size}")
    return spec, code if isinstance(code, str) else "custom"


def _sending(request: Request, held: Services, identifier: str) -> Sending:
    record = held.registry.get(identifier)
    sending: Sending | None = request.app.state.sendings.get(identifier)
    if sending is None or record.state in ("verified", "failed", "cancelled"):
        raise ConflictError(f"transmission {identifier} is {record.state}")
    return sending


@routes.post("/transmissions/{identifier}/pause", tags=["transmissions"])
async def pause(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Stop coding; a connection that there is stays."""
    await _sending(request, held, identifier).pause(paused=True)
    return held.registry.get(identifier)


@routes.post("/transmissions/{identifier}/resume", tags=["transmissions"])
async def resume(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Go on after a pause; at once where a lost connection is waited for, or after the tries have been given up."""
    record = held.registry.get(identifier)
    if record.settled and record.state == "interrupted":
        record.resuming, record.finished_at = True, None
        _start(request.app, held, record)
    else:
        await _sending(request, held, identifier).pause(paused=False)
    return held.registry.get(identifier)


@routes.post("/transmissions/{identifier}/cancel", status_code=202, tags=["transmissions"])
async def cancel(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Give up a transmission; Bob is told and keeps nothing of it."""
    record = held.registry.get(identifier)
    if record.settled and record.state == "interrupted":
        record.resuming = True
        _start(request.app, held, record)
        await asyncio.sleep(0)  # it must have begun before it can be cancelled
    _sending(request, held, identifier).cancel("Alice's user cancelled the transmission")
    return held.registry.get(identifier)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Alice as an ASGI application."""
    app = build_app(
        "alice", "Holds datasets and sends them to Bob as an arithmetic code.", settings or Settings(), on_start=_take_up
    )
    app.state.sendings = {}
    app.include_router(reading_routes())
    app.include_router(routes)
    return app
