"""`codelength serve console`: serve until stopped. CODELENGTH_CONSOLE_* variables configure it."""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import NoReturn

import uvicorn
from pydantic import ValidationError

from harness.console.settings import ConsoleSettings
from harness.terminal import UNAVAILABLE, USAGE


def main() -> None:
    """The process."""
    try:
        settings = ConsoleSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"CODELENGTH_CONSOLE_{name.upper()}"
        _fail(USAGE, f"{variable}: {first['msg']}")
    if settings.tls_authority is not None and not settings.tls_authority.is_file():
        _fail(USAGE, f"CODELENGTH_TLS_AUTHORITY: there is no file {settings.tls_authority}")
    listening = _listen(settings)
    from harness.console.app import create_app

    host, port = listening.getsockname()[:2]
    sys.stderr.write(f"the console is at http://{host}:{port}\n")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    config = uvicorn.Config(create_app(settings), log_level="warning", server_header=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


def _listen(settings: ConsoleSettings) -> socket.socket:
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0].lower()
        where = f"{settings.host}:{settings.port}"
        _fail(UNAVAILABLE, f"cannot listen on {where}: {reason}; set CODELENGTH_CONSOLE_HOST and CODELENGTH_CONSOLE_PORT")


def _fail(status: int, text: str) -> NoReturn:
    """End the process with a sentence."""
    sys.stderr.write(f"codelength: {text}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
