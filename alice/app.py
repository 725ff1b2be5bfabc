"""Alice's HTTP interface: datasets come in, transmissions are started, watched, paused and cancelled."""

import asyncio
import contextlib
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from alice.farewells import Farewells
from alice.sending import Sending, hello
from shared.channel.errors import CancelledTransmissionError
from shared.code.errors import VocabularyError
from shared.code.models import spec_of
from shared.code.spec import CodeSpec, Start
from shared.service.app import PROBLEMS, Held, Identifier, Services, build_app, reading_routes
from shared.service.assets import asset_routes, origin_of
from shared.service.auth import require_token
from shared.service.choosing import AUTO
from shared.service.errors import BusyError, ConflictError, MalformedRequestError, NotFoundError, TooLargeError
from shared.service.records import Code, CodeReference, Dataset, FBitsRecord, Transmission, codes, measured_f
from shared.service.settings import Settings
from shared.service.transfer import Recorder
from shared.service.uploads import UPLOAD, Asked, uploaded


class DatasetList(BaseModel):
    """Datasets, oldest first."""

    datasets: list[Dataset]


class CodeList(BaseModel):
    """Presets, simplest first."""

    codes: list[Code]


class TransmissionRequest(BaseModel):
    """What to send, and how. `code` is a preset's name or a whole specification; `send_f` sends f's source along.

    With `steps` above 0 both sides first train so many segments on `corpus`, which both hold; `regime` says whether k then grows
    while D is sent, or p^(k) is frozen. All three stay as `code` has them where they are not given. The code `auto` is the preset
    that codes D's beginning best, of those that get so far within `auto_seconds` together; it starts from nothing, online.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dataset": "b94d27b9…", "code": "ngram"}]})

    dataset: str = Field(max_length=64)
    code: str | dict[str, Any] = "ngram"
    send_f: bool = False
    corpus: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    steps: int | None = Field(default=None, ge=0, le=1 << 40)
    regime: Literal["online", "frozen"] | None = None
    auto_seconds: float = Field(default=10.0, gt=0, le=3600)


routes = APIRouter(dependencies=[Depends(require_token)], responses=PROBLEMS)


@routes.post(
    "/datasets",
    status_code=201,
    tags=["datasets"],
    responses={200: {"model": Dataset, "description": "It was held already"}},
    openapi_extra=UPLOAD,
)
async def post_dataset(request: Request, held: Held, response: Response, asked: Asked) -> Dataset:
    """Keep a dataset: octets (m = 256), token ids as JSON, or a file of them (.npy, uint16 little endian), also as multipart.

    With `tokenizer` octets become ids, if they come back from these exactly.
    """
    async with uploaded(request, held, asked) as upload:
        with contextlib.suppress(NotFoundError):
            known = held.store.dataset(upload.sha256)
            response.status_code = 200
            return known
        held.store.adopt(upload.path, upload.sha256)
    dataset = upload.dataset()
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
    spec, name = _resolve(wanted, dataset)
    _, assets = origin_of(held, spec)
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
        regime=spec.training.kind,
        corpus=None if spec.start is None else spec.start.corpus,
        auto_seconds=wanted.auto_seconds if wanted.code == AUTO else None,
        send_f=wanted.send_f,
        f_bits=FBitsRecord.of(measured_f(spec, held.pool.sources, assets)),
    )
    _start(request.app, held, record)
    response.headers["Location"] = f"/transmissions/{record.id}"
    return record


def _start(app: FastAPI, held: Services, record: Transmission) -> None:
    """Begin a transmission, or take it up where it was."""
    held.registry.add(record)
    spec = CodeSpec.model_validate(record.code.spec)
    sending = Sending(held, Recorder(held.registry, record, "encode"), spec, app.state.farewells)
    app.state.sendings[record.id] = sending
    held.registry.start(record.id, _run(app, record.id, sending))


async def _take_up(app: FastAPI, held: Services) -> None:
    """Go on with what the last stop of the service cut off."""
    farewells = app.state.farewells = Farewells(held, lambda record: hello(record, CodeSpec.model_validate(record.code.spec)))
    for record in held.registry.all():
        if record.state not in ("interrupted", "paused"):
            continue
        if (reason := farewells.reason(record.id)) is not None:  # cancelled; the stop came before the end
            held.registry.add(record)
            recorder = Recorder(held.registry, record, "encode")
            recorder.failed(CancelledTransmissionError(reason))
            held.store.empty_transmission(record.id)
            await recorder.settle()
        else:
            record.resuming = record.state == "interrupted"
            record.finished_at = None
            _start(app, held, record)
    held.registry.deleted = farewells.deleted
    held.registry.start("farewells", farewells.run())


async def _run(app: FastAPI, identifier: str, sending: Sending) -> None:
    try:
        await sending.run()
    finally:
        app.state.sendings.pop(identifier, None)


def _resolve(wanted: TransmissionRequest, dataset: Dataset) -> tuple[CodeSpec, str]:
    if wanted.code == AUTO and (wanted.corpus or wanted.steps or wanted.regime == "frozen"):
        raise MalformedRequestError("auto chooses among codes that learn online and start from nothing")
    spec = spec_of("ngram" if wanted.code == AUTO else wanted.code, dataset.as_vocabulary())
    if spec.vocabulary != dataset.as_vocabulary():
        raise VocabularyError(
            f"the code is for m = {spec.vocabulary_size}, the dataset has m = {dataset.vocabulary_size}"
            + (f" and the tokenizer {dataset.tokenizer}" if dataset.tokenizer != spec.tokenizer else "")
        )
    start = spec.start
    if wanted.steps is not None or wanted.corpus is not None:
        if wanted.steps is None or (wanted.steps and wanted.corpus is None):
            raise MalformedRequestError("corpus and steps come together")
        start = Start(corpus=wanted.corpus, steps=wanted.steps) if wanted.corpus is not None and wanted.steps else None
    frozen = spec.frozen if wanted.regime is None else wanted.regime == "frozen"
    return spec.with_training(frozen=frozen, start=start), wanted.code if isinstance(wanted.code, str) else "custom"


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
    app.include_router(asset_routes())
    app.include_router(routes)
    return app
