"""The wire: a TCP relay between Alice and Bob that counts, and knows nothing of either. Its counts are the witness's.

Bytes pass unchanged, ends of streams and resets too, unless it is told to simulate a worse channel (`simulation`); then what
arrived is counted. Counts are read over HTTP, by the client's address.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NoReturn

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from harness.simulation import Broken, ChannelError, SimulatedConnection, Simulation
from harness.terminal import UNAVAILABLE, USAGE
from harness.versions import package_version

_PART_BYTES: Final = 1 << 16
_MOST_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class Passage:
    """One connection through the wire."""

    client: str
    upstream: str | None = None
    client_to_upstream_bytes: int = 0
    upstream_to_client_bytes: int = 0
    open: bool = True
    opened_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    closed_at: str | None = None


class Connection(BaseModel):
    """One connection: the client's address, the wire's own address towards the upstream, and the bytes either way."""

    client: str
    upstream: str | None
    client_to_upstream_bytes: int
    upstream_to_client_bytes: int
    open: bool
    opened_at: str
    closed_at: str | None


class ConnectionList(BaseModel):
    """Connections, oldest first; the last ten thousand."""

    connections: list[Connection]


class Relay:
    """Listens, and connects every client to the upstream."""

    def __init__(self, upstream_host: str, upstream_port: int, simulation: Simulation | None = None) -> None:
        self.simulation = simulation
        self._connections = 0
        self.passages: OrderedDict[str, Passage] = OrderedDict()
        self._upstream = upstream_host, upstream_port

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        passage = Passage(client=_address(writer.get_extra_info("peername")))
        self.passages[passage.client] = passage
        while len(self.passages) > _MOST_REMEMBERED:
            self.passages.popitem(last=False)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
        else:
            passage.upstream = _address(up_writer.get_extra_info("sockname"))
            carry = self._carry
            if self.simulation is not None:
                carry = partial(self._simulate, SimulatedConnection(self.simulation, self._connections))
            self._connections += 1
            there = asyncio.ensure_future(carry(reader, up_writer, passage, "client_to_upstream_bytes"))
            back = asyncio.ensure_future(carry(up_reader, writer, passage, "upstream_to_client_bytes"))
            try:
                await asyncio.gather(there, back)
            except OSError:  # one side was reset: so is the other
                up_writer.transport.abort()
                writer.transport.abort()
            except Broken as broken:
                for one in (writer, up_writer) if broken.reset else ():
                    linger = struct.pack("ii", 1, 0)  # a reset instead of an end
                    one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    one.transport.abort()
            finally:
                for task in (there, back):
                    task.cancel()
                for one in (writer, up_writer):
                    one.close()
                    with contextlib.suppress(OSError):
                        await one.wait_closed()
        finally:
            passage.open = False
            passage.closed_at = datetime.now(UTC).isoformat()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, passage: Passage, counter: str) -> None:
        while data := await source.read(_PART_BYTES):
            setattr(passage, counter, getattr(passage, counter) + len(data))
            target.write(data)
            await target.drain()
        with contextlib.suppress(OSError):
            target.write_eof()

    async def _simulate(
        self,
        connection: SimulatedConnection,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        passage: Passage,
        counter: str,
    ) -> None:
        async def write(data: bytes) -> None:
            setattr(passage, counter, getattr(passage, counter) + len(data))
            target.write(data)
            await target.drain()

        def ended() -> None:
            with contextlib.suppress(OSError):
                target.write_eof()

        await connection.carry(source.read, write, ended, "bob" if counter.startswith("client") else "alice")


def _address(name: Any) -> str:
    return f"{name[0]}:{name[1]}" if name else ""


def create_app(relay: Relay, listening: socket.socket) -> FastAPI:
    """The counts as an ASGI application, with the relay in its lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server = await asyncio.start_server(relay.handle, sock=listening)
        try:
            yield
        finally:
            server.close()

    app = FastAPIOffline(
        redoc_url=None,
        static_url="/static",
        title="codelength: wire",
        summary="Counts the bytes between Alice and Bob.",
        version=package_version(),
        lifespan=lifespan,
    )

    @app.get("/connections")
    async def connections() -> ConnectionList:
        """Every connection."""
        return ConnectionList(
            connections=[Connection.model_validate(one, from_attributes=True) for one in relay.passages.values()]
        )

    @app.get("/connections/{client}", response_model=Connection)
    async def connection(client: str) -> Connection | JSONResponse:
        """The connection of the client with this address, `host:port`."""
        passage = relay.passages.get(client)
        if passage is None:
            document = {
                "type": "urn:codelength:problem:not-found",
                "title": "Not Found",
                "status": 404,
                "detail": f"no connection from {client!r} was seen",
            }
            return JSONResponse(document, 404, media_type="application/problem+json")
        return Connection.model_validate(passage, from_attributes=True)

    @app.get("/healthz")
    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """Whether the wire answers."""
        return {"status": "ready"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        """What runs here."""
        return {"service": "wire", "version": package_version()}

    return app


def _listen(host: str, variable: str, default: str) -> socket.socket:
    port = os.environ.get(variable, default)
    if not port.isdecimal():
        _fail(USAGE, f"{variable}: {port!r} is no port")
    try:
        return socket.create_server((host, int(port)))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0].lower()
        _fail(UNAVAILABLE, f"cannot listen on {host}:{port}: {reason}; set CODELENGTH_WIRE_HOST and {variable}")


def _fail(status: int, text: str) -> NoReturn:
    """End the process with a sentence."""
    sys.stderr.write(f"codelength: {text}\n")
    sys.exit(status)


def main() -> None:
    """Serve the wire; CODELENGTH_WIRE_HOST, _PORT, _COUNTS_PORT, _UPSTREAM (`host:port`) and _CHANNEL configure it."""
    environment = os.environ
    host = environment.get("CODELENGTH_WIRE_HOST", "127.0.0.1")
    upstream = environment.get("CODELENGTH_WIRE_UPSTREAM", "127.0.0.1:8002")
    upstream_host, _, upstream_port = upstream.rpartition(":")
    if not upstream_host or not upstream_port.isdecimal():
        _fail(USAGE, f"CODELENGTH_WIRE_UPSTREAM: {upstream!r} is not host:port")
    try:
        described = environment.get("CODELENGTH_WIRE_CHANNEL", "")
        simulation = Simulation.parse(described) if described else None
    except ChannelError as error:
        _fail(USAGE, f"CODELENGTH_WIRE_CHANNEL: {error}")
    inherited = environment.get("CODELENGTH_WIRE_LISTEN_FDS")
    if inherited:
        relay_socket, counts_socket = (socket.socket(fileno=int(number)) for number in inherited.split(","))
    else:
        relay_socket = _listen(host, "CODELENGTH_WIRE_PORT", "8003")
        counts_socket = _listen(host, "CODELENGTH_WIRE_COUNTS_PORT", "8004")
    relay = Relay(upstream_host, int(upstream_port), simulation)
    print(f"the wire carries {_address(relay_socket.getsockname())} to {upstream_host}:{upstream_port}", file=sys.stderr)  # noqa: T201
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    config = uvicorn.Config(create_app(relay, relay_socket), log_level="warning", timeout_graceful_shutdown=2)
    asyncio.run(uvicorn.Server(config).serve(sockets=[counts_socket]))


if __name__ == "__main__":
    main()
