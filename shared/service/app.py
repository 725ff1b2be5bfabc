"""What both applications have alike: problem documents for every error, the probes, and the routes that read transmissions."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.channel.messages import VERSION
from shared.code.errors import CodelengthError
from shared.service.auth import require_token
from shared.service.errors import MalformedRequestError, Problem, StorageFullError, is_full, problem
from shared.service.examples import EVENT, EXAMPLES, METRICS
from shared.service.guarding import Guard
from shared.service.kernels import package_version, runtime_fingerprint, sources_digest
from shared.service.metrics import Metrics
from shared.service.pool import WorkerPool
from shared.service.records import Transmission
from shared.service.registry import Registry
from shared.service.settings import Settings
from shared.service.store import Store

logger = logging.getLogger("codelength.app")

MAX_BODY_BYTES: Final = 1 << 20

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "A problem document (RFC 9457)",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
Identifier = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{32}$", examples=["3f2a0c2d9c8e4b0fae2b7c4d5e6f7081"])]


class Services:
    """What a running application holds."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.store = Store(settings.state_directory / name)
        self.registry = Registry(self.store)
        self.pool = WorkerPool(settings)
        self.metrics = Metrics()


class Status(BaseModel):
    """A probe's answer."""

    status: str


class Version(BaseModel):
    """What runs here. `f` is the digest of f's sources: two sides with the same compute the same."""

    service: str
    version: str
    protocol: int
    f: str
    runtime: str


class TransmissionList(BaseModel):
    """Transmissions, oldest first."""

    transmissions: list[Transmission]


class _BodyLimit:
    """Bodies are read into memory before they are judged, save those of uploads, which are streamed: they must be small."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"] in ("/datasets", "/corpora", "/tokenizers"):
            await self._app(scope, receive, send)
            return
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise StarletteHTTPException(413, f"the request's body is over the limit of {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, limited, send)


def services(request: Request) -> Services:
    """The application's services."""
    held: Services = request.app.state.services
    return held


Held = Annotated[Services, Depends(services)]


def problem_response(error: BaseException) -> JSONResponse:
    """An error as HTTP."""
    document = problem(error)
    headers = {"WWW-Authenticate": "Bearer"} if document.status == 401 else None
    return JSONResponse(document.model_dump(), document.status, headers, media_type="application/problem+json")


async def _warm(pool: WorkerPool) -> None:
    try:
        await pool.start()
    except CodelengthError:
        logger.exception("the workers did not start; the service will never be ready")


def build_app(
    name: str, summary: str, settings: Settings, on_start: Callable[[FastAPI, Services], Awaitable[None]] | None = None
) -> FastAPI:
    """An application with probes, errors and lifespan; the caller adds its routers. on_start: run before it serves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        held = Services(settings, name)
        app.state.services = held
        warming = asyncio.get_running_loop().create_task(_warm(held.pool))
        try:
            if on_start is not None:
                await on_start(app, held)
            yield
        finally:
            await held.registry.stop()
            warming.cancel()
            with contextlib.suppress(asyncio.CancelledError, CodelengthError):
                await warming
            await held.pool.stop()
            held.store.close()

    app = FastAPIOffline(
        redoc_url=None,
        static_url="/static",
        title=f"codelength: {name}",
        summary=summary,
        version=package_version(),
        lifespan=lifespan,
    )
    app.add_middleware(_BodyLimit)
    app.add_middleware(Guard, settings.max_connections_per_peer)
    app.state.settings = settings
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]

    @app.exception_handler(CodelengthError)
    async def _ours(_: Request, error: CodelengthError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            why = first.get("ctx", {}).get("error", "")
            return problem_response(MalformedRequestError(f"the body is not JSON: character {first['loc'][-1]}: {why}"))
        place = ".".join(str(part) for part in first["loc"])
        return problem_response(MalformedRequestError(f"{place}: {first['msg']}"))

    @app.exception_handler(StarletteHTTPException)
    async def _http(_: Request, error: StarletteHTTPException) -> JSONResponse:
        slug = {404: "not-found", 405: "method-not-allowed", 413: "limit-exceeded"}.get(error.status_code, "http")
        document = Problem(
            type=f"urn:codelength:problem:{slug}", title=str(error.detail), status=error.status_code, detail=str(error.detail)
        )
        return JSONResponse(document.model_dump(), error.status_code, error.headers, media_type="application/problem+json")

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.OperationalError)
    async def _disk(_: Request, error: OSError | sqlite3.OperationalError) -> JSONResponse:
        if is_full(error):
            return problem_response(StorageFullError(f"{name}'s disk is full; make room, or delete datasets or transmissions"))
        logger.error("a request failed", exc_info=error)
        return problem_response(error)

    @app.exception_handler(Exception)
    async def _internal(_: Request, error: Exception) -> JSONResponse:
        return problem_response(error)

    @app.get("/healthz", tags=["service"])
    async def healthz() -> Status:
        """Whether the process answers."""
        return Status(status="ok")

    @app.get("/readyz", tags=["service"], responses={503: {"model": Status}})
    async def readyz(request: Request, response: Response) -> Status:
        """Whether the workers are warm, so that a transmission would start at once."""
        warm = services(request).pool.warm
        response.status_code = 200 if warm else 503
        return Status(status="ready" if warm else "warming up")

    @app.get("/version", tags=["service"])
    async def version() -> Version:
        """What runs here."""
        return Version(
            service=name, version=package_version(), protocol=VERSION, f=sources_digest(), runtime=runtime_fingerprint()
        )

    @app.get(
        "/metrics",
        tags=["service"],
        dependencies=[Depends(require_token)],
        response_class=PlainTextResponse,
        responses={**PROBLEMS, 200: {"content": {"text/plain": {"example": METRICS}}}},
    )
    async def metrics(held: Held) -> Response:
        """Counters, for Prometheus."""
        held.metrics.unfinished.set(held.registry.unfinished)
        return Response(held.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The interface's description, with an example of everything that is answered."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for name in schemas.keys() & EXAMPLES.keys():
            schemas[name]["examples"] = [EXAMPLES[name]]
        app.openapi_schema = document
    return app.openapi_schema


def reading_routes() -> APIRouter:
    """The routes that tell of transmissions, the same at both services."""
    router = APIRouter(tags=["transmissions"], dependencies=[Depends(require_token)], responses=PROBLEMS)

    @router.get("/transmissions")
    async def list_transmissions(held: Held) -> TransmissionList:
        """All transmissions, oldest first."""
        return TransmissionList(transmissions=held.registry.all())

    @router.get("/transmissions/{identifier}")
    async def get_transmission(held: Held, identifier: Identifier) -> Transmission:
        """One transmission as it is now."""
        return held.registry.get(identifier)

    @router.delete("/transmissions/{identifier}", status_code=204)
    async def delete_transmission(held: Held, identifier: Identifier) -> None:
        """Forget the record and what belongs to it alone. One that is under way must be cancelled first."""
        held.registry.delete(identifier)

    async def known(held: Held, identifier: Identifier) -> str:
        held.registry.get(identifier)  # an unknown id must be a 404, not an empty stream
        return identifier

    @router.get(
        "/transmissions/{identifier}/events",
        response_class=EventSourceResponse,
        responses={200: {"content": {"text/event-stream": {"example": EVENT}}}},
    )
    async def events(held: Held, identifier: Annotated[str, Depends(known)]) -> AsyncIterable[ServerSentEvent]:
        """The record whenever it changes, as server-sent events named `transmission`; ends when it is settled."""
        async for record in held.registry.follow(identifier):
            yield ServerSentEvent(event="transmission", data=record.model_dump(mode="json"))

    return router
