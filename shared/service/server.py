"""Running an ASGI application under uvicorn, metered: from settings, on a port or an inherited socket."""

import logging
import signal
import socket

import uvicorn
from starlette.types import ASGIApp

from shared.service.metering import MeteredHttpProtocol, MeteredWebSocketProtocol
from shared.service.settings import Settings

logger = logging.getLogger("codelength")


def listen(settings: Settings, port: int) -> socket.socket:
    """A listening TCP socket, or the one inherited. Raises `OSError`."""
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.create_server((settings.host, port), family=family, backlog=128)
    listening.set_inheritable(True)
    return listening


def configure(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """A uvicorn server whose connections are metered and whose frames are never compressed."""
    config = uvicorn.Config(
        app,
        http=MeteredHttpProtocol,
        ws=MeteredWebSocketProtocol,
        ws_per_message_deflate=False,
        ws_max_size=1 << 20,
        ws_ping_interval=settings.keepalive_seconds,
        ws_ping_timeout=None,  # any byte will do, see `ConnectionMeter.watch`
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return uvicorn.Server(config)


async def serve(name: str, app: ASGIApp, settings: Settings, listening: socket.socket) -> None:
    """Serve until a signal asks to stop; says on standard error where."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    scheme = "https" if settings.tls_certificate else "http"
    host, port = listening.getsockname()[:2]
    logger.info("%s listens on %s://%s:%d", name, scheme, host, port)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    await configure(app, settings).serve(sockets=[listening])
