"""What strangers' requests meet before any route: headers that keep browsers from helping an attacker, and limits.

No route may be used from a page of another origin: a browser on the same machine reaches services that listen on 127.0.0.1, and
neither a token nor CORS stops a form or a websocket. Programs send no Origin and are not concerned.
"""

from collections import Counter
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.service.errors import BusyError, ForbiddenOriginError, ServiceError, problem

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CLOSED: Final = "default-src 'none'; frame-ancestors 'none'"
_DOCS: Final = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
_PAGES: Final = ("/docs", "/static")


class Guard:
    """ASGI middleware. connections_per_peer: websockets that one address may hold open at a time."""

    def __init__(self, app: ASGIApp, connections_per_peer: int) -> None:
        self._app = app
        self._limit = connections_per_peer
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge, count, and add headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_page = scope["path"].startswith(_PAGES)

        async def guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", _DOCS if is_page else _CLOSED)
            await send(message)

        headers = Headers(scope=scope)
        if _from_elsewhere(headers) and (scope["type"] == "websocket" or scope["method"] not in _READING):
            await _refuse(scope, receive, guarded, ForbiddenOriginError("requests from pages of another origin are not served"))
        elif scope["type"] == "http":
            await self._app(scope, receive, guarded)
        else:
            await self._websocket(scope, receive, guarded)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["client"][0] if scope.get("client") else ""
        if self._open[peer] >= self._limit:
            text = f"{peer} has {self._open[peer]} connections open (CODELENGTH_MAX_CONNECTIONS_PER_PEER)"
            await _refuse(scope, receive, send, BusyError(text))
            return
        self._open[peer] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]


def _from_elsewhere(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return urlsplit(origin).netloc != headers.get("host")


async def _refuse(scope: Scope, receive: Receive, send: Send, error: ServiceError) -> None:
    document = problem(error)
    body = document.model_dump_json().encode()
    head = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": document.status, "headers": head})
    await send({"type": f"{kind}.body", "body": body})
