"""The bearer token: asked of HTTP requests and of the channel alike, compared in constant time."""

import hmac

from fastapi import Request, WebSocket

from shared.service.errors import UnauthorizedError
from shared.service.settings import Settings


def authorised(settings: Settings, header: str | None) -> bool:
    """Whether an Authorization header carries the configured token; always where none is configured."""
    if settings.token is None:
        return True
    expected = f"Bearer {settings.token.get_secret_value()}"
    return hmac.compare_digest((header or "").encode(), expected.encode())


def require_token(request: Request) -> None:
    """A FastAPI dependency. Raises `UnauthorizedError`."""
    if not authorised(request.app.state.settings, request.headers.get("authorization")):
        raise UnauthorizedError("a bearer token is required, or the one given is wrong")


def websocket_authorised(websocket: WebSocket) -> bool:
    """The same for a websocket."""
    return authorised(websocket.app.state.settings, websocket.headers.get("authorization"))
