"""Starting a service as a process: settings from the environment, a port, directories to write to.

What is wrong is said in one sentence; exit status 2 for settings that make no sense, 3 where the machine does not give what
they ask for.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from pydantic import ValidationError
from starlette.types import ASGIApp

from shared.service.kernels import prepare_kernel_cache
from shared.service.settings import Settings

USAGE: Final = 2
UNAVAILABLE: Final = 3
_LEAST_ROOM_BYTES: Final = 1 << 18  # for the records, which are written at the start


def run(name: str, load: Callable[[], Callable[[Settings], ASGIApp]], default_port: int) -> None:
    """Serve until stopped. load: imports the application and returns what makes it; called once kernels have their place."""
    settings = _settings()
    _prepare(settings)
    _load_named(settings)
    create_app = load()
    from shared.service.server import listen, serve

    port = default_port if settings.port is None else settings.port
    try:
        listening = listen(settings, port)
    except OSError as error:
        refuse(UNAVAILABLE, f"cannot listen on {settings.host}:{port}: {reason(error)}; set CODELENGTH_HOST and CODELENGTH_PORT")
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(name, create_app(settings), settings, listening))


def _settings() -> Settings:
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "_".join(("CODELENGTH", *(str(part).upper() for part in first["loc"])))
        said = str(first["msg"]).removeprefix("Value error, ")
        refuse(USAGE, f"{variable}: {said}" if first["loc"] else said)
    for variable, path in (
        ("CERTIFICATE", settings.tls_certificate),
        ("KEY", settings.tls_key),
        ("AUTHORITY", settings.tls_authority),
    ):
        if path is not None and not path.is_file():
            refuse(USAGE, f"CODELENGTH_TLS_{variable}: there is no file {path}")
    return settings


def _prepare(settings: Settings) -> None:
    """Whatever the service will write to must be writable now, not when the first request comes."""
    try:
        prepare_kernel_cache(settings.cache_directory)  # before numba is imported
    except OSError as error:
        refuse(UNAVAILABLE, f"cannot write to {settings.cache_directory}: {reason(error)}; set CODELENGTH_CACHE_DIRECTORY")
    try:
        _try_to_write(settings.state_directory)
    except OSError as error:
        refuse(UNAVAILABLE, f"cannot write to {settings.state_directory}: {reason(error)}; set CODELENGTH_STATE_DIRECTORY")


def _load_named(settings: Settings) -> None:
    """Plugins and pretrained models."""
    from shared.code.errors import PluginError, PretrainedError
    from shared.code.models import PRESETS
    from shared.service.plugins import load
    from shared.service.pretrained import load_pretrained

    try:
        load(settings.plugins)
    except PluginError as error:
        refuse(USAGE, f"CODELENGTH_PLUGINS: {error}")
    try:
        load_pretrained(settings.pretrained)
    except PretrainedError as error:
        refuse(USAGE, f"CODELENGTH_PRETRAINED: {error}")
    unknown = [name for name in (settings.warm or "").split(",") if name and name not in PRESETS]
    if unknown:
        refuse(USAGE, f"CODELENGTH_WARM: no code is called {', '.join(unknown)}; there are {', '.join(PRESETS)}")


def _try_to_write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / ".probe"
    try:
        probe.write_bytes(bytes(_LEAST_ROOM_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """Why the system refused, in its words."""
    return str(getattr(error, "strerror", None) or error).partition(" (")[0].lower()


def refuse(status: int, text: str) -> NoReturn:
    """End the process with a sentence."""
    sys.stderr.write(f"codelength: {text}\n")
    sys.exit(status)
