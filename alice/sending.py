"""One transmission from Alice's side: connect, offer, and pass the worker's messages on until Bob says that he has D."""

import asyncio
import contextlib
import json
import ssl
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

from shared.channel.errors import (
    CancelledTransmissionError,
    DigestMismatchError,
    PeerLostError,
    RefusedError,
    UnexpectedMessageError,
    VersionError,
)
from shared.channel.messages import CHANNEL_PATH, SUBPROTOCOL, VERSION, Accept, Ack, Code, Done, Hello, Message
from shared.channel.states import Role
from shared.code.models import PRESETS, preset
from shared.code.size import source_module
from shared.code.spec import CodeSpec
from shared.service.app import Services
from shared.service.choosing import ChooseJob, candidates, choice_bits, choice_name
from shared.service.errors import ConflictError, InterruptedTransmissionError
from shared.service.kernels import runtime_fingerprint, warning
from shared.service.metering import ConnectionMeter, MeteredClientConnection
from shared.service.pool import Worker
from shared.service.records import CodeReference, FBitsRecord, measured_f
from shared.service.settings import Settings
from shared.service.snapshots import Origin
from shared.service.transfer import Conversation, Recorder, side_by_side
from shared.service.worker import EncodeJob, reset_peak_memory


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
            **options,
        )
    except websockets.InvalidStatus as refused:
        raise _refusal(refused) from None
    except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
        raise PeerLostError(f"cannot connect to Bob at {settings.bob_url}: {str(error) or type(error).__name__}") from None
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close(4025, "version-mismatch")
        raise VersionError(0, VERSION)
    return ClientLink(connection)


def _refusal(refused: websockets.InvalidStatus) -> RefusedError:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        document = json.loads(refused.response.body or b"")
        return RefusedError(str(document["type"]).rpartition(":")[2], str(document["detail"]))
    return RefusedError("", f"the websocket handshake was answered with HTTP {refused.response.status_code}")


class Sending:
    """The transmission of one record."""

    def __init__(
        self,
        held: Services,
        recorder: Recorder,
        spec: CodeSpec,
        origin: Origin | None = None,
        choose_seconds: float | None = None,
    ) -> None:
        self._held = held
        self._recorder = recorder
        self._spec = spec
        self._origin = origin
        self._choose_seconds = choose_seconds
        self._worker: Worker | None = None

    async def run(self) -> None:
        """Do all of it; the record says how it ended. Raises nothing."""
        recorder = self._recorder
        try:
            async with self._held.pool.worker() as worker:
                reset_peak_memory()
                recorder.restart_clock()
                sha256 = await self._transmit(worker)
        except asyncio.CancelledError:
            reason = recorder.cancel_reason
            recorder.failed(
                InterruptedTransmissionError("Alice stopped") if reason is None else CancelledTransmissionError(reason)
            )
        except Exception as error:  # noqa: BLE001 - the record is where it is told
            recorder.failed(error)
        else:
            recorder.verified(sha256)
        await asyncio.shield(recorder.settle())
        self._held.metrics.ended(recorder.record)

    async def pause(self, *, paused: bool) -> None:
        """Stop coding, or go on. Raises `ConflictError` where that means nothing."""
        if self._worker is None:
            raise ConflictError(f"transmission {self._recorder.record.id} is {self._recorder.record.state}")
        self._recorder.state("paused" if paused else "running")
        await self._worker.tell(paused=paused)

    def cancel(self, reason: str) -> None:
        """Give up; Bob is told why."""
        self._recorder.cancel_reason = reason
        self._held.registry.cancel_task(self._recorder.record.id)

    async def choose(self, worker: Worker, seconds: float) -> None:
        """Try the presets on D's first part, and go on with the best."""
        record, held = self._recorder.record, self._held
        vocabulary = record.dataset.as_vocabulary()
        names = candidates(vocabulary, held.settings.max_model_bytes)
        found = await worker.ask(
            ChooseJob(
                vocabulary=vocabulary,
                path=str(held.store.object(record.dataset.id)),
                tokens=record.dataset.tokens or 0,
                f_bits={name: measured_f(preset(name, vocabulary), held.pool.sources).total for name in names},
                seconds=seconds,
            )
        )
        self._spec = preset(found["chosen"], vocabulary)
        name = choice_name(found["chosen"], len(names))
        record.choice = found["trials"]
        record.code = CodeReference.of(name, self._spec)
        record.f_bits = FBitsRecord.of(measured_f(self._spec, held.pool.sources, 0, choice_bits(name)))

    async def _transmit(self, worker: Worker) -> str:
        if self._choose_seconds is not None:
            await self.choose(worker, self._choose_seconds)
        link = await open_link(self._held.settings)
        self._recorder.connected(link.meter)
        conversation = Conversation(Role.ALICE, link)
        try:
            sha256 = await self._converse(worker, conversation)
        except BaseException as error:
            told = error
            if isinstance(error, asyncio.CancelledError):
                reason = self._recorder.cancel_reason
                told = CancelledTransmissionError(reason or "Alice stopped")
            await asyncio.shield(conversation.end(told))
            raise
        finally:
            self._worker = None
        await conversation.end(None)
        return sha256

    async def _converse(self, worker: Worker, conversation: Conversation) -> str:
        record, spec = self._recorder.record, self._spec
        await conversation.say(
            Hello(
                transmission=record.id,
                spec=spec.canonical_bytes(),
                tokens=record.dataset.tokens,
                media_type=record.dataset.media_type,
                name=record.dataset.name,
                code=record.code.name if record.code.name in PRESETS or choice_bits(record.code.name) else "",
                runtime=runtime_fingerprint(),
            )
        )
        heard = conversation.hear()
        accept = await anext(heard)
        assert isinstance(accept, Accept)
        record.notes += warning(spec, runtime_fingerprint(), accept.runtime)
        if accept.block != 0:
            raise UnexpectedMessageError(f"ACCEPT from block {accept.block}", "beginning a transmission")
        if record.send_f:
            archive, _ = self._held.pool.sources[source_module(spec)]
            await conversation.say(Code(name=f"source {spec.model.kind}", data=archive))
        path = self._held.store.object(record.dataset.id)
        await worker.run(
            EncodeJob(spec=spec.canonical_bytes(), path=str(path), sha256=record.dataset.sha256, origin=self._origin)
        )
        self._worker = worker
        self._recorder.state("running")

        async def listen() -> str:
            async for message in heard:
                if isinstance(message, Ack):
                    if worker.busy:
                        await worker.tell(durable_bytes=message.durable_bytes)
                elif isinstance(message, Done):
                    return message.sha256.hex()
                else:
                    raise UnexpectedMessageError(type(message).__name__.upper(), "sending: resuming is not part of this version")
            raise PeerLostError("the conversation ended without DONE")

        async def pump() -> None:
            async for output in worker.outputs():
                messages: tuple[Message, ...] = output.messages
                if messages:
                    await conversation.say(*messages)
                if output.progress is not None:
                    self._recorder.progress(output.progress)

        sha256 = await side_by_side(listen(), pump())
        if sha256 != record.dataset.sha256:
            raise DigestMismatchError(record.dataset.sha256, sha256)
        return sha256
