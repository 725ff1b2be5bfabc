"""Alice's HTTP interface: datasets come in, transmissions are started, watched, paused and cancelled."""

import asyncio
import hashlib
import json
import uuid
from typing import IO, Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from alice.sending import Sending
from shared.code.errors import VocabularyError
from shared.code.models import preset
from shared.code.spec import BytesVocabulary, CodeSpec, IdsVocabulary, Vocabulary
from shared.code.vocabulary import check_range, dataset_digest, from_tokens
from shared.service.app import PROBLEMS, Held, Identifier, Services, build_app, reading_routes
from shared.service.auth import require_token
from shared.service.errors import (
    BusyError,
    ConflictError,
    MalformedRequestError,
    StorageFullError,
    TooLargeError,
    UploadInterruptedError,
)
from shared.service.records import Code, CodeReference, Dataset, FBitsRecord, Transmission, codes, measured_f
from shared.service.settings import Settings
from shared.service.transfer import Recorder

_MAX_JSON_BYTES: Final = 64 << 20


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


@routes.post(
    "/datasets",
    status_code=201,
    tags=["datasets"],
    responses={200: {"model": Dataset, "description": "It was held already"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["vocabulary_size", "tokens"],
                        "properties": {
                            "vocabulary_size": {"type": "integer", "minimum": 1, "maximum": 1 << 20},
                            "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                        },
                    },
                    "example": {"vocabulary_size": 8, "tokens": [0, 1, 2, 3, 5, 7]},
                },
            },
        }
    },
)
async def post_dataset(
    request: Request, held: Held, response: Response, name: Annotated[str, Query(max_length=255)] = ""
) -> Dataset:
    """Keep a dataset: raw octets (m = 256), or token ids as JSON with their vocabulary size m."""
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip()[:255]
    limit = held.settings.max_upload_bytes
    if held.store.used_bytes() + int(request.headers.get("content-length") or 0) > held.settings.max_stored_bytes:
        raise StorageFullError("the store is full (CODELENGTH_MAX_STORED_BYTES); delete datasets or transmissions")
    with held.store.incoming() as (path, file):
        if media_type == "application/json":
            limit = min(limit, _MAX_JSON_BYTES)
        size, sha256 = await _receive(request, file, limit)
        vocabulary: Vocabulary = BytesVocabulary()
        tokens = size
        if media_type == "application/json":
            vocabulary, tokens, size, sha256 = await asyncio.to_thread(_canonical_ids, file)
        if tokens > held.settings.max_tokens:
            raise TooLargeError(f"a dataset of {tokens} tokens", held.settings.max_tokens, "CODELENGTH_MAX_TOKENS")
        if any(dataset.id == sha256 for dataset in held.store.datasets()):
            response.status_code = 200
            return held.store.dataset(sha256)
        held.store.adopt(path, sha256)
    dataset = Dataset(
        id=sha256,
        sha256=sha256,
        vocabulary=vocabulary.kind,
        vocabulary_size=vocabulary.size,
        tokens=tokens,
        bytes=size,
        media_type=media_type,
        name=name,
    )
    held.store.put_dataset(dataset)
    return dataset


async def _receive(request: Request, file: IO[bytes], limit: int) -> tuple[int, str]:
    """Stream the body to a file; returns its length and SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLargeError("the upload", limit, "CODELENGTH_MAX_UPLOAD_BYTES")
            digest.update(part)
            file.write(part)
    except ClientDisconnect:
        raise UploadInterruptedError("the upload ended before its announced length") from None
    file.flush()
    return size, digest.hexdigest()


def _canonical_ids(file: IO[bytes]) -> tuple[Vocabulary, int, int, str]:
    """Replace JSON by the canonical bytes of its tokens; returns vocabulary, n, bytes and D's identity."""
    file.seek(0)
    try:
        body = json.load(file)
        size, ids = body["vocabulary_size"], body["tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedRequestError('expected JSON of the form {"vocabulary_size": m, "tokens": [ids]}') from None
    if type(size) is not int or not 1 <= size <= 1 << 20:
        raise VocabularyError("vocabulary_size must be an integer from 1 to 2^20")
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise VocabularyError("tokens must be a list of integers")
    vocabulary = IdsVocabulary(size=size)
    wrong = next((index for index, token in enumerate(ids) if not 0 <= token < size), None)
    if wrong is not None:
        raise VocabularyError(f"the id {ids[wrong]} is not in 0 … {size - 1}", position=wrong)
    tokens = np.array(ids, dtype=np.uint32)
    check_range(tokens, vocabulary)
    data = from_tokens(tokens, vocabulary)
    file.seek(0)
    file.truncate()
    file.write(data)
    file.flush()
    digest = dataset_digest(vocabulary)
    digest.update(data)
    return vocabulary, len(ids), len(data), digest.hexdigest()


@routes.get("/datasets", tags=["datasets"])
async def list_datasets(held: Held) -> DatasetList:
    """All datasets held."""
    return DatasetList(datasets=held.store.datasets())


DatasetId = Annotated[str, "the dataset's SHA-256"]


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
    held.registry.add(record)
    sending = Sending(held, Recorder(held.registry, record, "encode"), spec)
    request.app.state.sendings[record.id] = sending
    held.registry.start(record.id, _run(request.app, record.id, sending))
    response.headers["Location"] = f"/transmissions/{record.id}"
    return record


async def _run(app: FastAPI, identifier: str, sending: Sending) -> None:
    try:
        await sending.run()
    finally:
        app.state.sendings.pop(identifier, None)


def _resolve(code: str | dict[str, Any], dataset: Dataset) -> tuple[CodeSpec, str]:
    if isinstance(code, str):
        return preset(code, dataset.as_vocabulary()), code
    spec = CodeSpec.from_fields(code)
    if spec.vocabulary != dataset.as_vocabulary():
        raise VocabularyError(f"the code is for m = {spec.vocabulary_size}, the dataset has m = {dataset.vocabulary_size}")
    return spec, "custom"


def _sending(request: Request, held: Services, identifier: str) -> Sending:
    record = held.registry.get(identifier)
    sending: Sending | None = request.app.state.sendings.get(identifier)
    if sending is None or record.state not in ("queued", "running", "paused"):
        raise ConflictError(f"transmission {identifier} is {record.state}")
    return sending


@routes.post("/transmissions/{identifier}/pause", tags=["transmissions"])
async def pause(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Stop coding; the connection stays."""
    await _sending(request, held, identifier).pause(paused=True)
    return held.registry.get(identifier)


@routes.post("/transmissions/{identifier}/resume", tags=["transmissions"])
async def resume(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Go on after a pause."""
    await _sending(request, held, identifier).pause(paused=False)
    return held.registry.get(identifier)


@routes.post("/transmissions/{identifier}/cancel", status_code=202, tags=["transmissions"])
async def cancel(request: Request, held: Held, identifier: Identifier) -> Transmission:
    """Give up a transmission; Bob is told and keeps nothing of it."""
    _sending(request, held, identifier).cancel("Alice's user cancelled the transmission")
    return held.registry.get(identifier)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Alice as an ASGI application."""
    app = build_app("alice", "Holds datasets and sends them to Bob as an arithmetic code.", settings or Settings())
    app.state.sendings = {}
    app.include_router(reading_routes())
    app.include_router(routes)
    return app
