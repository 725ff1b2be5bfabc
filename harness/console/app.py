"""The console's routes: pages, what replaces parts of them, and requests passed on to Alice and Bob.

It may hold a token, so what it does for others is limited: requests must name a host that is ours (else any web page could
reach us under a name of its own), and what changes something must come from our own pages.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import harness.figures
from harness.console import pages, runs
from harness.console.services import ServiceError, Services
from harness.console.settings import ConsoleSettings
from harness.console.watching import Watches
from harness.console.yardsticks import Yardsticks, temporary
from harness.curve import CurveError, parse_steps, training_after
from harness.figures.shown import ended
from harness.sample import sample_text

_HERE: Final = Path(__file__).parent
_NUMBERS_SECONDS: Final = 0.1
_PICTURES_SECONDS: Final = 0.25
_TABLE_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 30.0
_NUMBERS: Final = ("state", "actors", "formula", "news")
_PICTURES: Final = ("falling", "cumulative", "ledger", "text")
_MOST_COMPARED: Final = 8
_MOST_POINTS: Final = 48
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_TITLES: Final = {404: "Not found", 502: "A service does not answer", 503: "Not ready yet"}

Id = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$")]


class Wish(BaseModel):
    """What to transmit: a dataset that Alice holds, and codes by their names."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(max_length=64)
    codes: list[str] = Field(min_length=1, max_length=64)


class Points(BaseModel):
    """What a step curve is to have. corpus: its SHA-256, `sample` for the sample, or none; steps: as in `0,1,10`."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(pattern=r"^[0-9a-f]{64}$")
    codes: list[str] = Field(min_length=1, max_length=64)
    corpus: str | None = Field(default=None, pattern=r"^(sample|[0-9a-f]{64})$")
    steps: str = Field(max_length=400)


class Draw(BaseModel):
    """How much Bob is to draw, and from which coin flips."""

    model_config = ConfigDict(extra="forbid")

    tokens: int = Field(ge=1, le=4000)
    seed: int | None = Field(default=None, ge=0, lt=1 << 53)


class Held:
    """What the running console holds."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self.services = Services(settings)
        self.watches = Watches(self.services)
        self.yardsticks = Yardsticks(self.services)

    async def close(self) -> None:
        """Let go of it."""
        await self.watches.close()
        await self.yardsticks.close()
        await self.services.close()


def _held(request: Request) -> Held:
    held: Held = request.app.state.held
    return held


Holding = Annotated[Held, Depends(_held)]


class _Guard:
    """Requests that change something come from our own pages; answers say what pages may load: nothing that is not ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"origin", b"host")}
        origin, host = headers.get(b"origin"), headers.get(b"host")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            refusal = JSONResponse(
                {"detail": "This request comes from another site; the console serves its own pages only."}, 403
            )
            await refusal(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                    (b"cache-control", b"no-cache"),
                ]
            await send(message)

        await self._app(scope, receive, with_policy)


async def _table(held: Held, sha256: str, here: str = "") -> tuple[str, list[dict[str, Any]]]:
    """The table of all transmissions over one dataset, and their records."""
    mine = runs.over(await runs.all_runs(held.services), sha256) if sha256 else []
    size = next((one["dataset"]["bytes"] for one in mine if one["dataset"]["bytes"]), None)
    verified = next((one for one in mine if one["reconstruction"]["verified"]), None)
    if verified is not None:
        held.yardsticks.measure_reconstruction(sha256, verified["id"], size or 0)
        await held.yardsticks.soon(sha256)
    table = pages.render("parts/table.html", runs=mine, here=here, at="/runs/", yardsticks=held.yardsticks.of(sha256), size=size)
    return table, mine


async def _codes(held: Held) -> list[dict[str, Any]]:
    with contextlib.suppress(ServiceError):
        found: list[dict[str, Any]] = (await held.services.ask("alice", "/codes"))["codes"]
        return found
    return []


def create_app(settings: ConsoleSettings | None = None) -> FastAPI:
    """The console as an ASGI application."""
    chosen = settings or ConsoleSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.held = Held(chosen)
        try:
            yield
        finally:
            await app.state.held.close()

    app = FastAPI(title="codelength: console", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=chosen.allowed_hosts, www_redirect=False)
    _add_errors(app)
    _add_pages(app)
    _add_live(app)
    _add_actions(app)
    figures = StaticFiles(directory=Path(harness.figures.__file__).parent)

    @app.get("/static/figures.css")
    async def figures_style(request: Request) -> Response:
        return await figures.get_response("figures.css", request.scope)

    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    return app


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, detail: str) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            title = _TITLES.get(status, "That did not work")
            return HTMLResponse(pages.render("error.html", title=title, detail=detail), status)
        return JSONResponse({"detail": detail}, status)

    @app.exception_handler(ServiceError)
    async def refused(request: Request, error: ServiceError) -> Response:
        return answer(request, error.status, str(error))

    @app.exception_handler(CurveError)
    async def no_curve(request: Request, error: CurveError) -> Response:
        return answer(request, 422, f"{str(error)[:1].upper()}{str(error)[1:]}.")

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = first["loc"][-1]
        if first["loc"][0] == "path":
            return answer(request, 404, "There is no such page: the address is cut, or has been mistyped.")
        return answer(request, 422, f"The request’s {where} makes no sense: {first['msg'].lower()}.")

    @app.exception_handler(StarletteHTTPException)
    async def other(request: Request, error: StarletteHTTPException) -> Response:
        detail = "There is no such page." if error.status_code == 404 else str(error.detail)
        return answer(request, error.status_code, detail)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    async def home(held: Holding) -> str:
        """Where one sends, and all datasets."""
        problems, records, datasets = [], [], []
        try:
            records = await runs.all_runs(held.services)
            datasets = (await held.services.ask("alice", "/datasets"))["datasets"]
        except ServiceError as error:
            problems.append(str(error))
        return pages.render(
            "home.html",
            title="Send Bob a dataset",
            problems=problems,
            codes=await _codes(held),
            datasets=runs.datasets(datasets, records),
            sample_bytes=len(sample_text()),
        )

    @app.get("/data/{sha256}", response_class=HTMLResponse)
    async def dataset_page(held: Holding, sha256: Sha256) -> str:
        """All transmissions of one dataset."""
        table, mine = await _table(held, sha256)
        corpora = await held.services.corpora()
        known = True
        try:
            dataset = await held.services.ask("alice", f"/datasets/{sha256}")
        except ServiceError as error:
            if not mine:
                raise
            known, dataset = error.status != 404, mine[0]["dataset"]
        return pages.render(
            "data.html",
            title=dataset["name"] or "dataset",
            dataset=dataset,
            held=known,
            table=Markup(table),  # noqa: S704 - made by a template
            pictures=await _pictures(held, dataset, mine),
            codes=await _codes(held),
            curve=pages.curve(mine, {one["id"]: one["name"] for one in corpora}),
            has_curve=any(one["regime"] == "frozen" for one in mine),
            corpora=[one for one in corpora if one["vocabulary_size"] == dataset["vocabulary_size"]],
            sample_bytes=len(sample_text()),
        )

    @app.get("/runs/{identifier}", response_class=HTMLResponse)
    async def run_page(held: Holding, identifier: Id) -> str:
        """One transmission."""
        watch = await held.watches.loaded(identifier)
        sha256 = watch.record["dataset"]["sha256"]
        table, _ = await _table(held, sha256, identifier)
        return pages.run_page(watch, held.yardsticks.of(sha256), table)

    @app.get("/runs/{identifier}/text")
    async def run_text(held: Holding, identifier: Id, first: Annotated[int, Query(ge=0)] = 0) -> dict[str, str]:
        """A part of Bob's text."""
        watch = await held.watches.loaded(identifier)
        return {"html": pages.decoded(watch, await watch.part(first))}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the console answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(held: Holding, response: Response) -> dict[str, str]:
        """Whether the services do, too."""
        found = await held.services.ready()
        response.status_code = 200 if set(found.values()) == {"ready"} else 503
        return {"status": "ready" if response.status_code == 200 else "waiting for the services", **found}


async def _pictures(held: Held, dataset: dict[str, Any], mine: list[dict[str, Any]]) -> dict[str, Any]:
    """The best transmissions of a dataset as curves, in the order in which they were made, so that colours stay."""
    learning = [one for one in mine if one["regime"] != "frozen"] or mine
    best = {one["code"]["digest"]: one for one in reversed(learning)}  # one for each code
    shown = sorted(list(best.values())[-_MOST_COMPARED:], key=lambda one: str(one["created_at"]))
    watches = []
    for one in shown:
        with contextlib.suppress(ServiceError):
            watches.append(await held.watches.loaded(one["id"]))
    return dict(pages.comparison_pictures(watches, dataset, held.yardsticks.of(dataset["sha256"])))


def _add_live(app: FastAPI) -> None:
    @app.get("/runs/{identifier}/events", response_class=EventSourceResponse)
    async def run_events(held: Holding, identifier: Id) -> AsyncIterable[ServerSentEvent]:
        """A page's parts as they change: numbers ten times a second, pictures four times, the table once."""
        loop = asyncio.get_running_loop()
        shown: dict[str, str] = {}
        pictures_at = table_at = 0.0
        seen, state = 0, ""
        async with held.watches.looking(identifier) as watch:
            while True:
                begun, settled = loop.time(), watch.settled and watch.idle
                only: tuple[str, ...] = _NUMBERS
                if settled or begun - pictures_at >= _PICTURES_SECONDS:
                    only, pictures_at = (*_NUMBERS, *_PICTURES), begun
                sha256 = watch.record["dataset"]["sha256"]
                found: dict[str, str] = dict(pages.run_parts(watch, held.yardsticks.of(sha256), only=only))
                if sha256 and (settled or begun - table_at >= _TABLE_SECONDS):
                    table_at = begun
                    with contextlib.suppress(ServiceError):
                        found["table"], _ = await _table(held, sha256, identifier)
                if watch.record["state"] != state:
                    state = watch.record["state"]
                    yield ServerSentEvent(event="state", data=state)
                new = {name: html for name, html in found.items() if shown.get(name) != html}
                if new:
                    shown.update(new)
                    yield ServerSentEvent(event="parts", data=new)
                if settled:
                    yield ServerSentEvent(event="end", data="settled")
                    return
                await asyncio.sleep(_NUMBERS_SECONDS)
                with contextlib.suppress(TimeoutError):
                    seen = await asyncio.wait_for(watch.wait(seen), 1.0)

    @app.get("/data/{sha256}/events", response_class=EventSourceResponse)
    async def data_events(held: Holding, sha256: Sha256) -> AsyncIterable[ServerSentEvent]:
        """The table and the pictures of a dataset, once a second, until nothing has been under way for a while."""
        shown: dict[str, str] = {}
        names: dict[str, str] = {one["id"]: one["name"] for one in await held.services.corpora()}
        async with contextlib.AsyncExitStack() as stack:
            followed: set[str] = set()
            idle = 0
            while True:
                try:
                    table, mine = await _table(held, sha256)
                    under_way = [one for one in mine if not ended(one)]
                    for one in under_way:
                        if one["id"] not in followed:
                            await stack.enter_async_context(held.watches.looking(one["id"]))
                            followed.add(one["id"])
                    dataset = mine[0]["dataset"] if mine else None
                    found = {"table": table, "curve": str(pages.curve(mine, names))}
                    found |= await _pictures(held, dataset, mine) if dataset else {}
                except ServiceError as error:
                    yield ServerSentEvent(event="trouble", data=str(error))
                else:
                    new = {name: html for name, html in found.items() if shown.get(name) != html}
                    if new:
                        shown.update(new)
                        yield ServerSentEvent(event="parts", data=new)
                    idle = 0 if under_way else idle + 1
                    if idle * _TABLE_SECONDS > _IDLE_SECONDS:
                        yield ServerSentEvent(event="end", data="settled")
                        return
                await asyncio.sleep(_TABLE_SECONDS)


def _add_actions(app: FastAPI) -> None:
    @app.post("/datasets")
    async def post_dataset(
        request: Request,
        held: Holding,
        name: Annotated[str, Query(max_length=255)] = "",
        form: Annotated[str, Query(max_length=16)] = "octets",
        vocabulary_size: Annotated[str, Query(max_length=16)] = "",
    ) -> dict[str, Any]:
        """Pass an upload on to Alice as it comes."""
        query = {"name": name, "form": form} | ({"vocabulary_size": vocabulary_size} if vocabulary_size else {})
        copy = temporary()
        try:
            with copy.open("wb") as file:
                dataset = await held.services.upload(held.yardsticks.passing(request.stream(), file), query)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        if form == "octets":
            held.yardsticks.measure_copy(dataset["sha256"], copy)
        else:
            copy.unlink()
        return dataset

    @app.post("/sample")
    async def post_sample(held: Holding) -> dict[str, Any]:
        """Give Alice the sample."""
        data = sample_text()
        dataset = await held.services.upload(data, {"name": "pydoc_data.topics", "form": "octets"})
        copy = temporary()
        copy.write_bytes(data)
        held.yardsticks.measure_copy(dataset["sha256"], copy)
        return dataset

    @app.post("/transmissions")
    async def post_transmissions(held: Holding, wish: Wish) -> dict[str, str]:
        """Begin one transmission for every code; says where to look."""
        begun = []
        for code in wish.codes:
            body = {"dataset": wish.dataset, "code": code}
            begun.append(await held.services.ask("alice", "/transmissions", method="POST", json=body))
        return {"location": f"/runs/{begun[0]['id']}" if len(begun) == 1 else f"/data/{begun[0]['dataset']['sha256']}"}

    @app.post("/corpora")
    async def post_corpus(
        request: Request,
        held: Holding,
        name: Annotated[str, Query(max_length=255)] = "",
        vocabulary_size: Annotated[int | None, Query()] = None,
    ) -> dict[str, Any]:
        """Give an upload to both services as a corpus: octets, or ids below a vocabulary size, of the form its name tells."""
        query: dict[str, Any] = {"name": name, "form": "octets"}
        if vocabulary_size is not None:
            form = {".npy": "npy", ".json": "json"}.get(Path(name).suffix, "uint16")
            query |= {"form": form} | ({} if form == "json" else {"vocabulary_size": vocabulary_size})
        copy = temporary()
        try:
            with copy.open("wb") as file:
                async for part in request.stream():
                    file.write(part)
            return await held.services.give_corpus(copy, query)
        finally:
            copy.unlink()

    @app.post("/curve")
    async def post_curve(held: Holding, wish: Points) -> dict[str, Any]:
        """Begin the transmissions that a step curve lacks; says where to look, and how many there are."""
        steps = parse_steps(wish.steps)
        if wish.corpus is None and steps != [0]:
            raise CurveError("steps above 0 need a corpus to be taken on; without one there is only k = 0")
        if (many := len(steps) * len(wish.codes)) > _MOST_POINTS:
            raise CurveError(f"that would be {many} transmissions; ask for {_MOST_POINTS} at most at once")
        corpus = wish.corpus
        if corpus == "sample":
            copy = temporary()
            try:
                copy.write_bytes(sample_text())
                corpus = str((await held.services.give_corpus(copy, {"name": "pydoc_data.topics", "form": "octets"}))["id"])
            finally:
                copy.unlink()
        known = runs.points(runs.over(await runs.all_runs(held.services), wish.dataset))
        begun = 0
        for k in steps:
            for code in wish.codes:
                if (code, k, corpus if k else None) not in known:
                    body = {"dataset": wish.dataset, "code": code, **training_after(k, corpus)}
                    await held.services.ask("alice", "/transmissions", method="POST", json=body)
                    begun += 1
        return {"location": f"/data/{wish.dataset}", "begun": begun}

    @app.post("/runs/{identifier}/sample")
    async def post_draw(held: Holding, identifier: Id, wish: Draw) -> dict[str, str]:
        """Let Bob draw from the model as it was at the end."""
        path = f"/transmissions/{identifier}/sample"
        return {"html": pages.drawn(await held.services.ask("bob", path, method="POST", json=wish.model_dump()))}

    @app.post("/runs/{identifier}/{action}")
    async def act(
        held: Holding, identifier: Id, action: Annotated[str, PathParameter(pattern="^(pause|resume|cancel)$")]
    ) -> dict[str, str]:
        """Pause, resume or cancel."""
        record = await held.services.ask("alice", f"/transmissions/{identifier}/{action}", method="POST")
        return {"state": record["state"]}


__all__ = ["create_app"]
