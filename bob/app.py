"""Bob's interface: the channel that Alice speaks on, and HTTP to read reconstructions, bit counts and records."""

import asyncio
import re
import uuid
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from bob.receiving import DECODED_OCTETS, Receiving, ServerLink
from bob.shares import Shares, shares
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL
from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.spec import CodeSpec
from shared.code.vocabulary import to_tokens, token_width
from shared.service.app import PROBLEMS, Held, Identifier, Services, build_app, problem_response, reading_routes
from shared.service.assets import asset_routes, origin_of
from shared.service.auth import require_token, websocket_authorised
from shared.service.errors import ConflictError, NotFoundError, Problem, StorageFullError, UnauthorizedError
from shared.service.forms import MEDIA_TYPES, Form, form_of, write
from shared.service.records import Transmission
from shared.service.sampling import Sampled, SampleJob
from shared.service.settings import Settings

_MOST_LISTED_TOKENS: Final = 1_000_000
_MOST_DECODED_TOKENS: Final = 1 << 16
_OCTETS: Final = MEDIA_TYPES["octets"]
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}, "example": "to be or not to be"}
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")

routes = APIRouter(tags=["transmissions"], dependencies=[Depends(require_token)], responses=PROBLEMS)


class BlockBits(BaseModel):
    """A block's share: its index, its first token, its tokens, and Σ −log2 p over them."""

    block: int
    first: int
    tokens: int
    nll_bits: float


class Bits(Transmission):
    """A transmission's record with costs by token (every `every`-th, averaged, if there are too many), by block, or by class."""

    every: int | None = None
    per_token: list[float] | None = None
    per_block: list[BlockBits] | None = None
    per_class: Shares | None = None


class SampleRequest(BaseModel):
    """How many tokens to draw, and the seed of the coin flips; without one the system's are used."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"tokens": 200, "seed": 1}]})

    tokens: int = Field(default=200, ge=1, le=65_536)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)


class SampleAnswer(BaseModel):
    """Tokens drawn from p^(k) as it was at a transmission's end, D's first `position` tokens before them.

    text: the tokens as UTF-8, where they are octets. nll_bits: −log2 of their interval. flips: coin flips that the decoder took
    in: as many, and at most 72 more, which are in its register.
    """

    transmission: str
    steps: int
    seed: int | None
    position: int
    tokens: list[int]
    text: str | None
    nll_bits: float
    flips: int


class DecodedPiece(BaseModel):
    """Tokens that follow each other, and what each cost. provisional: no CHECK has held for them yet."""

    first: int
    provisional: bool
    tokens: list[int]
    bits: list[float]


class Decoded(BaseModel):
    """A part of what Bob has decoded. checked: tokens from the beginning whose CHECK held. pieces: in order, maybe with gaps."""

    checked: int
    decoded: int
    pieces: list[DecodedPiece]


def _verified(held: Services, identifier: str) -> Transmission:
    record = held.registry.get(identifier)
    if not record.reconstruction.verified:
        raise ConflictError(f"transmission {identifier} is {record.state}: there is no verified reconstruction")
    return record


@routes.get(
    "/transmissions/{identifier}/reconstruction",
    response_class=Response,
    responses={
        200: {"content": dict.fromkeys(MEDIA_TYPES.values(), _BINARY)},
        206: {"description": "The range asked for", "content": {_OCTETS: _BINARY}},
    },
)
async def reconstruction(
    held: Held,
    identifier: Identifier,
    form: Annotated[
        Literal["raw", "json", "npy", "uint16"] | None,
        Query(description="raw: canonical bytes; else as it came in, by a tokenizer or not", examples=["raw"]),
    ] = None,
) -> Response:
    """What Bob decoded, once verified, in the form it came in or in another. Ranges may be asked for."""
    record = _verified(held, identifier)
    sha256 = record.reconstruction.sha256 or ""
    path = held.store.object(sha256)
    if not path.exists():
        raise NotFoundError("reconstruction of", identifier)
    dataset = record.dataset
    by_tokenizer = dataset.tokenizer is not None and form is None
    given = form_of(dataset.media_type) if dataset.vocabulary == "ids" else "octets"
    chosen: Form = given if form is None else "octets" if form == "raw" else form
    if by_tokenizer:
        path = held.store.transmission_directory(identifier) / DECODED_OCTETS
    elif chosen != "octets":
        path = await asyncio.to_thread(_in_form, held, record, chosen)
    plain = (by_tokenizer or (chosen == "octets" and dataset.vocabulary == "bytes")) and _MEDIA_TYPE.fullmatch(dataset.media_type)
    return FileResponse(
        path,
        media_type=dataset.media_type if plain else MEDIA_TYPES[chosen],
        filename=_file_name(dataset.name) or None,
        headers={
            "ETag": f'"{dataset.octets_sha256 if by_tokenizer else sha256}-{chosen}"',
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
        },
    )


def _in_form(held: Services, record: Transmission, form: Form) -> Path:
    """The reconstruction in a form, made at the first time of asking."""
    directory = held.store.transmission_directory(record.id)
    path = directory / f"reconstruction.{form}"
    if not path.exists():
        if held.store.used_bytes() + 9 * (record.dataset.tokens or 0) > held.settings.max_stored_bytes:
            raise StorageFullError("Bob's store is full (CODELENGTH_MAX_STORED_BYTES); ask for form=raw")
        partial = directory / f"reconstruction.{form}.{uuid.uuid4().hex}"
        try:
            with partial.open("wb") as file:
                write(form, held.store.object(record.reconstruction.sha256 or ""), record.dataset.as_vocabulary(), file)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _file_name(name: str) -> str:
    """A name that a browser may save under: no directories, nothing that cannot be printed."""
    return "".join(letter for letter in name.replace("\\", "/").rpartition("/")[2] if letter.isprintable())


@routes.post("/transmissions/{identifier}/sample")
async def draw_sample(held: Held, identifier: Identifier, wanted: Annotated[SampleRequest, Body()]) -> SampleAnswer:
    """Feed fair coin flips to the decoder at the state in which it ended, and give what it decodes: a sample of the model.

    The first sample of a transmission decodes it once more; the state is then kept for the next.
    """
    record = _verified(held, identifier)
    if record.rollbacks:
        raise ConflictError(f"the models of transmission {identifier} diverged: no one model coded all of it")
    spec = CodeSpec.from_fields(record.code.spec)
    origin, _ = origin_of(held, spec)
    async with held.pool.worker() as worker:
        found: Sampled = await worker.ask(
            SampleJob(
                spec=spec.canonical_bytes(),
                transmission=identifier,
                reconstruction=str(held.store.object(record.reconstruction.sha256 or "")),
                length=record.tokens_done,
                steps=record.steps,
                tokens=wanted.tokens,
                seed=wanted.seed,
                origin=origin,
                snapshots=str(held.store.snapshots),
                max_bytes=held.settings.max_snapshot_bytes,
            )
        )
    drawn = found.sample
    octets = record.dataset.vocabulary == "bytes"
    return SampleAnswer(
        transmission=identifier,
        steps=record.steps,
        seed=wanted.seed,
        position=found.position,
        tokens=drawn.tokens.tolist(),
        text=drawn.tokens.astype(np.uint8).tobytes().decode("utf-8", "replace") if octets else None,
        nll_bits=drawn.nll_units / COST_UNITS_PER_BIT,
        flips=drawn.flips,
    )


@routes.get(
    "/transmissions/{identifier}/bits",
    response_model=Bits,
    responses={200: {"content": {_OCTETS: _BINARY}}},
)
async def bits(
    request: Request,
    held: Held,
    identifier: Identifier,
    per: Annotated[Literal["token", "block", "class"] | None, Query(examples=["block"])] = None,
) -> Response | Bits:
    """Bit counts: the record, and with `per` the cost of every token or block checked so far, or of the classes of tokens.

    `per=class`, once the transmission is verified: the bits by kind of token, and the dearest tokens with what is around them.

    With `per=token` and `Accept: application/octet-stream` the costs come as they are, unsigned 32-bit little endian, in units
    of 2^-24 bit; as JSON they are averaged over runs of `every` tokens past a million.
    """
    record = held.registry.get(identifier)
    directory = held.store.transmission_directory(identifier)
    if per == "token" and request.headers.get("accept", "").startswith(_OCTETS):
        if not (directory / "costs").exists():
            raise NotFoundError("list of costs of", identifier)
        return FileResponse(directory / "costs", media_type=_OCTETS)
    found = Bits(**record.model_dump())
    if per == "block":
        found.per_block = await asyncio.to_thread(_read_blocks, directory / "blocks.jsonl")
    elif per == "token":
        found.every, found.per_token = await asyncio.to_thread(_read_costs, directory / "costs")
    elif per == "class":
        _verified(held, identifier)
        contents = held.store.object(record.reconstruction.sha256 or "")
        found.per_class = await asyncio.to_thread(shares, contents, directory / "costs", record.dataset.as_vocabulary())
    return found


def _read_blocks(path: Any) -> list[BlockBits]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # a line being written has no end yet
    return [BlockBits.model_validate_json(line) for line in lines]


def _read_costs(path: Any) -> tuple[int, list[float]]:
    if not path.exists():
        return 1, []
    costs = np.fromfile(path, dtype="<u4")
    every = max(1, -(-len(costs) // _MOST_LISTED_TOKENS))
    sums = np.add.reduceat(costs.astype(np.uint64), np.arange(0, len(costs), every)) if len(costs) else costs
    sizes = np.minimum(every, len(costs) - np.arange(0, len(costs), every))
    return every, (sums / sizes / COST_UNITS_PER_BIT).tolist()


@routes.get("/transmissions/{identifier}/decoded")
async def decoded(
    held: Held,
    identifier: Identifier,
    first: Annotated[int | None, Query(ge=0, description="the newest ones where none is given", examples=[0])] = None,
    count: Annotated[int, Query(ge=1, le=_MOST_DECODED_TOKENS, examples=[1000])] = 1000,
) -> Decoded:
    """What Bob has decoded so far, and what each token cost; of the open block about the newest 16,384 tokens.

    Tokens of the open block are provisional: nothing has been compared yet. A network's streams fill a block in several places.
    """
    record = held.registry.get(identifier)
    directory = held.store.transmission_directory(identifier)
    paths = directory / "reconstruction.partial", held.store.object(record.reconstruction.sha256 or "none")
    unchecked = held.registry.unchecked.get(identifier, ())
    return await asyncio.to_thread(_read_decoded, record, directory / "costs", paths, unchecked, first, count)


def _read_decoded(
    record: Transmission, costs: Path, paths: tuple[Path, Path], unchecked: tuple[Any, ...], first: int | None, count: int
) -> Decoded:
    vocabulary = record.dataset.as_vocabulary()
    width = token_width(vocabulary)
    source = next((path for path in paths if path.exists()), None)
    checked = 0
    if source is not None and costs.exists():
        checked = min(source.stat().st_size // width, costs.stat().st_size // 4)
    newest = max([checked, *(place + len(tokens) for place, tokens, _ in unchecked if place >= checked)])
    first = max(0, newest - count) if first is None else first
    pieces = []
    if source is not None and first < checked:
        with source.open("rb") as file:
            file.seek(first * width)
            tokens = to_tokens(file.read(min(count, checked - first) * width), vocabulary, position=first)
        found = np.fromfile(costs, dtype="<u4", offset=4 * first, count=len(tokens))
        pieces.append((first, False, tokens, found))
    for place, tokens, found in unchecked:
        part = slice(max(0, first - place), max(0, first + count - place))
        if place >= checked and len(tokens[part]):
            pieces.append((place + part.start, True, tokens[part], found[part]))
    shown = [
        DecodedPiece(
            first=place,
            provisional=provisional,
            tokens=tokens.tolist(),
            bits=np.round(found / COST_UNITS_PER_BIT, 4).tolist(),
        )
        for place, provisional, tokens, found in pieces
    ]
    return Decoded(checked=checked, decoded=max(checked, record.tokens_done), pieces=shown)


async def channel(websocket: WebSocket) -> None:
    """The channel: one transmission for each connection."""
    held: Services = websocket.app.state.services
    if not websocket_authorised(websocket):
        await websocket.send_denial_response(
            problem_response(UnauthorizedError("a bearer token is required, or the one given is wrong"))
        )
        return
    if SUBPROTOCOL not in websocket.scope.get("subprotocols", []):
        offered = ", ".join(websocket.scope.get("subprotocols", [])) or "nothing"
        detail = f"the channel speaks {SUBPROTOCOL}, offered was {offered}"
        document = Problem(type="urn:codelength:problem:version-mismatch", title="Upgrade Required", status=426, detail=detail)
        await websocket.send_denial_response(Response(document.model_dump_json(), 426, media_type="application/problem+json"))
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    link = ServerLink(websocket)
    link.meter.watch(2 * held.settings.keepalive_seconds)
    await Receiving(held, link, websocket.app.state.receivings).run()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Bob as an ASGI application."""
    app = build_app("bob", "Decodes what Alice sends, and tells what it cost.", settings or Settings())
    receivings: dict[str, Receiving] = {}
    app.state.receivings = receivings
    app.include_router(reading_routes())
    app.include_router(asset_routes())
    app.include_router(routes)
    app.add_api_websocket_route(CHANNEL_PATH, channel)
    return app
