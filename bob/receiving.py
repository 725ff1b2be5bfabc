"""One transmission from Bob's side: hear the offer, decode what comes, and say when he has D."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from shared.channel.errors import CancelledTransmissionError, ChannelError, PeerLostError, RefusedError, UnexpectedMessageError
from shared.channel.messages import Accept, Code, Done, Hello, Message, Refuse
from shared.channel.states import Role
from shared.code.errors import InputError
from shared.code.size import source_module
from shared.code.spec import CodeSpec
from shared.code.vocabulary import token_width
from shared.service.app import Services
from shared.service.choosing import choice_bits
from shared.service.corpora import origin_of
from shared.service.errors import (
    BusyError,
    ConflictError,
    InterruptedTransmissionError,
    MalformedRequestError,
    NotFoundError,
    ServiceError,
    StorageFullError,
    TooLargeError,
    slug_of,
)
from shared.service.kernels import runtime_fingerprint, warning
from shared.service.metering import SCOPE_KEY, ConnectionMeter
from shared.service.pool import Worker
from shared.service.records import CodeReference, Dataset, FBitsRecord, Transmission, measured_f
from shared.service.snapshots import Origin
from shared.service.transfer import Conversation, Recorder, clip, side_by_side
from shared.service.worker import DecodeJob, reset_peak_memory

_ID: Final = re.compile(r"[0-9a-f]{32}")
_COST_BYTES: Final = 4
_HELLO_SECONDS: Final = 10.0


class ServerLink:
    """A Starlette websocket as a link."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.meter: ConnectionMeter = websocket.scope[SCOPE_KEY]

    async def send(self, data: bytes) -> None:
        """Send one binary message."""
        try:
            await self._websocket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError):
            raise PeerLostError("the connection to Alice broke") from None

    async def receive(self) -> bytes | None:
        """The next binary message, None at the end."""
        try:
            event = await self._websocket.receive()
        except RuntimeError:
            raise PeerLostError("the connection to Alice broke") from None
        if event["type"] == "websocket.disconnect":
            return None
        if event.get("bytes") is None:
            raise UnexpectedMessageError("a text message", "speaking binary")
        return bytes(event["bytes"])

    async def close(self, code: int, reason: str) -> None:
        """Close, if it is still open."""
        if self._websocket.application_state is not WebSocketState.DISCONNECTED:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._websocket.close(code, reason)


class Receiving:
    """The transmission that comes over one websocket."""

    def __init__(self, held: Services, link: ServerLink) -> None:
        self._held = held
        self._link = link
        self._conversation = Conversation(Role.BOB, link)
        self.recorder: Recorder | None = None
        self._origin: Origin | None = None

    async def run(self) -> None:
        """Do all of it; the record, if it came to one, says how it ended. Raises nothing of ours."""
        error: BaseException | None = None
        try:
            await self._converse()
        except asyncio.CancelledError:
            error = InterruptedTransmissionError("Bob stopped")
        except Exception as raised:  # noqa: BLE001 - the record and the peer are told
            error = raised
        await asyncio.shield(self._finish(error))

    async def _finish(self, error: BaseException | None) -> None:
        recorder = self.recorder
        if recorder is not None and error is not None:
            if isinstance(error, CancelledTransmissionError | StorageFullError):
                self._discard(recorder.record)
            recorder.failed(error)
        await self._conversation.end(error)
        if recorder is not None:
            await recorder.settle()
            self._held.metrics.ended(recorder.record)

    def _discard(self, record: Transmission) -> None:
        directory = self._held.store.transmission_directory(record.id)
        for name in ("z", "costs", "blocks.jsonl", "reconstruction.partial"):
            (directory / name).unlink(missing_ok=True)

    async def _converse(self) -> None:
        heard = self._conversation.hear()
        async with asyncio.timeout(_HELLO_SECONDS):
            hello = await anext(heard)
        assert isinstance(hello, Hello)
        try:
            record, spec = self._offer(hello)
        except (InputError, ServiceError) as error:
            await self._conversation.say(Refuse(problem=slug_of(error), reason=clip(str(error))))
            raise RefusedError(slug_of(error), str(error)) from None
        self._held.registry.add(record)
        self.recorder = Recorder(self._held.registry, record, "decode")
        self.recorder.connected(self._link.meter)
        async with self._held.pool.worker() as worker:
            reset_peak_memory()
            self.recorder.restart_clock()
            sha256 = await self._receive(worker, hello, spec, heard)
        store = self._held.store
        store.adopt(store.transmission_directory(record.id) / "reconstruction.partial", sha256)
        record.dataset = record.dataset.model_copy(
            update={
                "id": sha256,
                "sha256": sha256,
                "tokens": record.tokens_done,
                "bytes": record.tokens_done * token_width(spec.vocabulary),
            }
        )
        self.recorder.verified(sha256)
        await self._conversation.say(Done(sha256=bytes.fromhex(sha256)))
        with contextlib.suppress(ChannelError):
            await self._link.receive()  # Alice closes

    def _offer(self, hello: Hello) -> tuple[Transmission, CodeSpec]:
        """Judge an offer. Raises an `InputError` or a `ServiceError` to be refused with."""
        held, settings = self._held, self._held.settings
        if not _ID.fullmatch(hello.transmission):
            raise MalformedRequestError("a transmission's id is 32 hexadecimal digits")
        with contextlib.suppress(NotFoundError):
            state = held.registry.get(hello.transmission).state
            raise ConflictError(f"transmission {hello.transmission} is known already, and {state}")
        spec = CodeSpec.parse(hello.spec)
        self._origin, assets = origin_of(held, spec)
        if spec.memory_bytes > settings.max_model_bytes:
            raise TooLargeError(f"a model of {spec.memory_bytes} bytes", settings.max_model_bytes, "CODELENGTH_MAX_MODEL_BYTES")
        tokens = hello.tokens or 0
        if tokens > settings.max_tokens:
            raise TooLargeError(f"a dataset of {tokens} tokens", settings.max_tokens, "CODELENGTH_MAX_TOKENS")
        needed = tokens * (token_width(spec.vocabulary) + _COST_BYTES)
        if held.store.used_bytes() + needed > settings.max_stored_bytes:
            raise StorageFullError("Bob's store is full (CODELENGTH_MAX_STORED_BYTES)")
        if not held.pool.sources:
            raise BusyError("Bob's workers are still warming up")
        if held.registry.unfinished >= settings.max_queued + settings.max_concurrent:
            raise BusyError(f"{held.registry.unfinished} transmissions are under way or waiting at Bob's")
        record = Transmission(
            id=hello.transmission,
            dataset=Dataset(
                id="",
                sha256="",
                vocabulary=spec.vocabulary.kind,
                vocabulary_size=spec.vocabulary_size,
                tokens=hello.tokens,
                bytes=None,
                media_type=hello.media_type,
                name=hello.name,
            ),
            code=CodeReference.of(hello.code or "custom", spec),
            regime=spec.training.kind,
            corpus=None if spec.start is None else spec.start.corpus,
            f_bits=FBitsRecord.of(measured_f(spec, held.pool.sources, assets, choice_bits(hello.code))),
        )
        return record, spec

    async def _receive(self, worker: Worker, hello: Hello, spec: CodeSpec, heard: AsyncIterator[Message]) -> str:
        recorder, conversation = self.recorder, self._conversation
        assert recorder is not None
        limit = self._held.settings.max_tokens
        directory = self._held.store.transmission_directory(hello.transmission)
        ours = runtime_fingerprint()
        recorder.record.notes += warning(spec, ours, hello.runtime)
        await worker.run(
            DecodeJob(
                spec=spec.canonical_bytes(),
                directory=str(directory),
                tokens=hello.tokens,
                max_tokens=limit,
                ours=ours,
                theirs=hello.runtime,
                origin=self._origin,
            )
        )
        await conversation.say(Accept(block=0, runtime=ours))
        recorder.state("running")

        async def listen() -> None:
            async for message in heard:
                if isinstance(message, Code):
                    self._compare(message, spec)
                else:
                    await worker.tell(messages=(message,))

        async def pump() -> str:
            sha256 = ""
            async for output in worker.outputs():
                replies: tuple[Message, ...] = output.messages
                if replies:
                    await conversation.say(*replies)
                if output.progress is not None:
                    recorder.progress(output.progress)
                sha256 = output.sha256 or sha256
            return sha256

        return await side_by_side(pump(), listen())

    def _compare(self, code: Code, spec: CodeSpec) -> None:
        """The f that Alice sends must be the f that runs here, byte for byte."""
        assert self.recorder is not None
        self.recorder.record.send_f = True
        if code.data != self._held.pool.sources[source_module(spec)][0]:
            raise RefusedError("code-mismatch", "the source of f that Alice sent is not the one that runs at Bob's")
