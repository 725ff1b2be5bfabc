"""A websocket to Bob, as Alice opens it."""

import contextlib
import json
import ssl
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

from shared.channel.errors import ChannelError, PeerLostError, RefusedError, UnexpectedMessageError, VersionError
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL, VERSION
from shared.service.metering import ConnectionMeter, MeteredClientConnection
from shared.service.settings import Settings


class ClientLink:
    """A websockets client connection as a link."""

    def __init__(self, connection: ClientConnection) -> None:
        assert isinstance(connection, MeteredClientConnection)
        self._connection = connection
        self.meter: ConnectionMeter = connection.meter

    async def send(self, data: bytes) -> None:
        """Send one binary message."""
        try:
            await self._connection.send(data)
        except websockets.ConnectionClosed as closed:
            raise PeerLostError(_closing(closed)) from None

    async def receive(self) -> bytes | None:
        """The next binary message."""
        try:
            data = await self._connection.recv()
        except websockets.ConnectionClosedOK:
            return None
        except websockets.ConnectionClosed as closed:
            raise PeerLostError(_closing(closed)) from None
        if isinstance(data, str):
            raise UnexpectedMessageError("a text message", "speaking binary")
        return data

    async def close(self, code: int, reason: str) -> None:
        """Close, if it is still open."""
        await self._connection.close(code, reason)

    @property
    def close_code(self) -> int | None:
        """What the first close frame said; None while there was none."""
        return self._connection.close_code


def _closing(closed: websockets.ConnectionClosed) -> str:
    if closed.rcvd is None:
        return "the connection to Bob broke"
    return f"Bob closed the connection ({closed.rcvd.code} {closed.rcvd.reason})".replace(" )", ")")


async def open_link(settings: Settings) -> ClientLink:
    """Connect to Bob. Raises `PeerLostError`, `RefusedError` or `VersionError`."""
    url = settings.bob_url + CHANNEL_PATH
    headers = {}
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    options: dict[str, Any] = {}
    if settings.tls_authority is not None and url.startswith("wss:"):
        options["ssl"] = ssl.create_default_context(cafile=settings.tls_authority)
    try:
        connection = await connect(
            url,
            subprotocols=[websockets.Subprotocol(SUBPROTOCOL)],
            compression=None,
            proxy=None,
            additional_headers=headers,
            create_connection=MeteredClientConnection,
            max_size=1 << 20,
            open_timeout=settings.connect_timeout_seconds,
            ping_interval=settings.keepalive_seconds,
            ping_timeout=None,  # any byte will do, see `ConnectionMeter.watch`
            close_timeout=settings.connect_timeout_seconds,
            **options,
        )
    except websockets.InvalidStatus as refused:
        raise _refusal(refused) from None
    except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
        raise PeerLostError(f"cannot connect to Bob at {settings.bob_url}: {str(error) or type(error).__name__}") from None
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close(4025, "version-mismatch")
        raise VersionError(0, VERSION)
    link = ClientLink(connection)
    link.meter.watch(2 * settings.keepalive_seconds)
    return link


def _refusal(refused: websockets.InvalidStatus) -> ChannelError:
    """What Bob means. An answer that is not his may come from something that stands before him, or from damage."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        document = json.loads(refused.response.body or b"")
        slug = str(document["type"]).rpartition(":")[2]
        if slug in ("unauthorized", "version-mismatch", "busy"):
            return RefusedError(slug, str(document["detail"]))
    return PeerLostError(f"the websocket handshake was answered with HTTP {refused.response.status_code}")
