"""Counting at the socket: transports that count what passes them, for websockets and for uvicorn, and what the kernel says.

A `ConnectionMeter` belongs to one TCP connection. It becomes final once the connection has closed and the kernel has
acknowledged all: only then do its figures stand. TCP_INFO counts SYN and FIN as one byte each in bytes_acked, and FIN in
bytes_received; they are taken off.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import ClientConnection

from shared.channel.ledger import DirectionLedger, FrameMeter

SCOPE_KEY: Final = "codelength.meter"

_TCP_CLOSE: Final = 7
_BYTES_ACKED: Final = 120
_BYTES_RECEIVED: Final = 128
_BYTES_RETRANSMITTED: Final = 208
_FINAL_TIMEOUT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.005
_LEAST_PROGRESS_BYTES: Final = 256
_tasks: set[asyncio.Task[None]] = set()


def _address(name: Any) -> str | None:
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else None


class ConnectionMeter:
    """What one connection carried, either way. `sent` and `received` are seen from this side."""

    def __init__(self, transport: asyncio.BaseTransport, *, client: bool) -> None:
        self.local = _address(transport.get_extra_info("sockname"))
        self.peer = _address(transport.get_extra_info("peername"))
        self.is_client = client
        self.is_tls = isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        self.final = asyncio.Event()
        self.broken = True
        """Whether it ended otherwise than by the end of a conversation: then, or without both close frames, bytes may be lost."""
        self._transport = transport
        self._aborted = False
        self._heard_at, self._fresh_bytes = 0.0, 0
        self.silence_seconds: float | None = None
        """How long a peer may be silent, or leave unfinished what it has begun; None if nobody watches."""
        self._sent = FrameMeter(client=client)
        self._received = FrameMeter(client=not client)
        if self.is_tls:
            self.sent.tls_bytes = self.received.tls_bytes = None

    @property
    def sent(self) -> DirectionLedger:
        """Bytes this side wrote."""
        return self._sent.ledger

    @property
    def received(self) -> DirectionLedger:
        """Bytes this side read."""
        return self._received.ledger

    def wrote(self, data: bytes | bytearray | memoryview) -> None:
        """Count bytes handed to the transport."""
        self._sent.feed(data)
        if self._sent.compressed:
            raise RuntimeError("a websocket frame uses a reserved bit: permessage-deflate must be off")

    def read(self, data: bytes) -> None:
        """Count bytes the transport delivered. A reserved bit in them is damage, with which websockets ends the connection."""
        self._received.feed(data)
        self._fresh_bytes += len(data)
        if not self._received.inside_message or self._fresh_bytes >= _LEAST_PROGRESS_BYTES:
            self._heard_at, self._fresh_bytes = asyncio.get_running_loop().time(), 0
        if self._received.longest_pong_bytes > self._sent.longest_ping_bytes:
            self.abort()  # it answers no ping of ours: a message whose opcode was damaged, which would vanish without a word

    def as_dict(self) -> dict[str, Any]:
        """The connection as the services' records show it."""
        return {
            "local": self.local,
            "peer": self.peer,
            "final": self.final.is_set(),
            "broken": self.broken or not (self._sent.closed and self._received.closed),
            "sent": self.sent.as_dict(),
            "received": self.received.as_dict(),
        }

    def abort(self) -> None:
        """Cut the connection; nobody waits for what was under way."""
        self._aborted = True
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()
        self.final.set()

    def watch(self, silence_seconds: float) -> None:
        """Cut the connection once no frame has ended for so long, nor an open one gone on; both sides ping, so that some do.

        A pong is not asked for: on a slow line it comes behind all the z that waits there, and would be late. In a frame whose
        length was damaged pings vanish, but are too few to count.
        """
        loop = asyncio.get_running_loop()
        self._heard_at, self.silence_seconds = loop.time(), silence_seconds

        def look() -> None:
            left = self._heard_at + silence_seconds - loop.time()
            if self.final.is_set() or self._transport.is_closing():
                return
            if left > 0:
                loop.call_later(left, look)
            else:
                self.abort()

        look()

    def connection_lost(self, transport: asyncio.BaseTransport, error: Exception | None) -> None:
        """Follow the closed connection until the kernel has nothing left to say."""
        wrapped = transport.get_extra_info("socket")
        if self._aborted or error is not None or wrapped is None or wrapped.fileno() < 0:
            self.final.set()
            return
        duplicate = socket.socket(fileno=os.dup(wrapped.fileno()))
        task = asyncio.get_running_loop().create_task(self._finalise(duplicate))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _finalise(self, duplicate: socket.socket) -> None:
        """Close our direction, read what nobody read, wait for the last acknowledgement, and ask the kernel."""
        try:
            with duplicate, contextlib.suppress(OSError):
                duplicate.setblocking(False)
                with contextlib.suppress(OSError):  # both directions may have ended already
                    duplicate.shutdown(socket.SHUT_WR)
                loop = asyncio.get_running_loop()
                deadline = loop.time() + _FINAL_TIMEOUT_SECONDS
                ended = False
                while loop.time() < deadline:
                    ended = ended or self._drain(duplicate)
                    info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    if ended and info[0] == _TCP_CLOSE:
                        self._take(info)
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.final.set()

    def _drain(self, duplicate: socket.socket) -> bool:
        """Read what is left; True once the peer's FIN was read. Ciphertext is not counted, the kernel does that."""
        try:
            while data := duplicate.recv(65536):
                if not self.is_tls:
                    self.read(data)
        except BlockingIOError:
            return False
        return True

    def _take(self, info: bytes) -> None:
        if len(info) < _BYTES_RECEIVED + 8:
            return
        (acked,) = struct.unpack_from("<Q", info, _BYTES_ACKED)
        (received,) = struct.unpack_from("<Q", info, _BYTES_RECEIVED)
        self.sent.tcp_info_bytes = acked - 1 - self.is_client
        self.received.tcp_info_bytes = received - 1
        if len(info) >= _BYTES_RETRANSMITTED + 8:
            (self.sent.tcp_retransmitted_bytes,) = struct.unpack_from("<Q", info, _BYTES_RETRANSMITTED)
        if self.is_tls:
            self.sent.tls_bytes = self.sent.tcp_info_bytes - self.sent.socket_bytes
            self.received.tls_bytes = self.received.tcp_info_bytes - self.received.socket_bytes


class _MeteredTransport:
    """A transport that counts what is written to it; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, meter: ConnectionMeter) -> None:
        self._transport = transport
        self.meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write and count."""
        self.meter.wrote(data)
        self._transport.write(data)

    def writelines(self, parts: Any) -> None:
        """Write and count."""
        self.write(b"".join(parts))


class MeteredClientConnection(ClientConnection):
    """websockets' client connection with a meter; `connect(create_connection=MeteredClientConnection)`."""

    meter: ConnectionMeter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the meter between."""
        assert isinstance(transport, asyncio.Transport)
        self.meter = ConnectionMeter(transport, client=True)
        super().connection_made(_MeteredTransport(transport, self.meter))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Count and pass on."""
        self.meter.read(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on, and finish the count."""
        self.meter.connection_lost(self.transport, exc)
        super().connection_lost(exc)


class MeteredHttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a meter for every connection; an upgrade hands the meter on."""

    meter: ConnectionMeter

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the meter between."""
        self.meter = ConnectionMeter(transport, client=False)
        super().connection_made(_MeteredTransport(transport, self.meter))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Count and pass on."""
        self.meter.read(data)
        super().data_received(data)


class MeteredWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's websocket with the meter of its connection in the ASGI scope, under SCOPE_KEY."""

    _counting = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner_app = self.app
        self.app = self._metered_app

    async def _metered_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = self.transport.meter  # type: ignore[attr-defined]
        await self._inner_app(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        """Count and pass on; the first call is the request, which the HTTP protocol has counted."""
        if self._counting:
            self.transport.meter.read(data)  # type: ignore[attr-defined]
        self._counting = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish the count, and pass on."""
        self.transport.meter.connection_lost(self.transport, exc)  # type: ignore[attr-defined]
        super().connection_lost(exc)
