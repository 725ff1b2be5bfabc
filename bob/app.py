"""Bob's interface: the channel that Alice speaks on, and HTTP to read reconstructions, bit counts and records."""

import asyncio
import json
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import FileResponse
from pydantic import BaseModel

from bob.receiving import Receiving, ServerLink
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL
from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.vocabulary import to_tokens
from shared.service.app import PROBLEMS, Held, Identifier, Services, build_app, problem_response, reading_routes
from shared.service.auth import require_token, websocket_authorised
from shared.service.errors import ConflictError, NotFoundError, Problem, TooLargeError, UnauthorizedError
from shared.service.records import Transmission
from shared.service.settings import Settings

_MOST_LISTED_TOKENS: Final = 1_000_000
_OCTETS: Final = "application/octet-stream"

routes = APIRouter(tags=["transmissions"], dependencies=[Depends(require_token)], responses=PROBLEMS)


class BlockBits(BaseModel):
    """A block's share: its index, its first token, its tokens, and Σ −log2 p over them."""

    block: int
    first: int
    tokens: int
    nll_bits: float


class Bits(Transmission):
    """A transmission's record with costs by token (every `every`-th, averaged, where there are too many) or by block."""

    every: int | None = None
    per_token: list[float] | None = None
    per_block: list[BlockBits] | None = None


def _verified(held: Services, identifier: str) -> Transmission:
    record = held.registry.get(identifier)
    if not record.reconstruction.verified:
        raise ConflictError(f"transmission {identifier} is {record.state}: there is no verified reconstruction")
    return record


@routes.get(
    "/transmissions/{identifier}/reconstruction",
    response_class=Response,
    responses={200: {"content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def reconstruction(
    held: Held, identifier: Identifier, form: Annotated[Literal["raw", "json"] | None, Query()] = None
) -> Response:
    """What Bob decoded, once verified: octets as they came, token ids as JSON unless `form=raw` asks for canonical bytes."""
    record = _verified(held, identifier)
    path = held.store.object(record.reconstruction.sha256 or "")
    if not path.exists():
        raise NotFoundError("reconstruction of", identifier)
    chosen = form or ("raw" if record.dataset.vocabulary == "bytes" else "json")
    etag = f'"{record.reconstruction.sha256}"'
    if chosen == "raw":
        media_type = (
            record.dataset.media_type if record.dataset.vocabulary == "bytes" and "/" in record.dataset.media_type else _OCTETS
        )
        return FileResponse(path, media_type=media_type, headers={"ETag": etag, "X-Content-Type-Options": "nosniff"})
    if (record.dataset.tokens or 0) > 16 * _MOST_LISTED_TOKENS:
        raise TooLargeError("a reconstruction as JSON", 16 * _MOST_LISTED_TOKENS, "ask for form=raw")
    tokens = await asyncio.to_thread(lambda: to_tokens(path.read_bytes(), record.dataset.as_vocabulary()).tolist())
    body = json.dumps({"vocabulary_size": record.dataset.vocabulary_size, "tokens": tokens})
    return Response(body, media_type="application/json", headers={"ETag": etag})


@routes.get(
    "/transmissions/{identifier}/bits",
    response_model=Bits,
    responses={200: {"content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def bits(
    request: Request, held: Held, identifier: Identifier, per: Annotated[Literal["token", "block"] | None, Query()] = None
) -> Response | Bits:
    """Bit counts: the record, and with `per` the cost of every token or block checked so far.

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
    receiving = Receiving(held, ServerLink(websocket))
    task = asyncio.current_task()
    websocket.app.state.receivings.add(task)
    try:
        await receiving.run()
    finally:
        websocket.app.state.receivings.discard(task)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Bob as an ASGI application."""
    receivings: set[asyncio.Task[Any]] = set()
    app = build_app("bob", "Decodes what Alice sends, and tells what it cost.", settings or Settings())
    app.state.receivings = receivings
    app.include_router(reading_routes())
    app.include_router(routes)
    app.add_api_websocket_route(CHANNEL_PATH, channel)
    return app
