"""One transmission from Bob's side: hear the offer, decode what comes, and say when he has D."""

import asyncio
import contextlib
import dataclasses
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from shared.channel.errors import (
    BadFrameError,
    ChannelError,
    DigestMismatchError,
    PeerLostError,
    RefusedError,
    UnexpectedMessageError,
)
from shared.channel.legs import safe_code
from shared.channel.messages import Ack, Code, Data, Done, Hello, Message, Prepared, Refuse, Restart, Rollback, Text
from shared.channel.states import Role
from shared.code.errors import InputError, SpecError
from shared.code.plugins import require
from shared.code.size import source_module
from shared.code.spec import CodeSpec
from shared.code.vocabulary import token_width
from shared.service.app import Services
from shared.service.assets import origin_of
from shared.service.choosing import choice_bits
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
from shared.service.received import ReceivedLog
from shared.service.records import CodeReference, Dataset, FBitsRecord, Transmission, measured_f
from shared.service.snapshots import remove_snapshots
from shared.service.starts import Origin
from shared.service.tokenizing import Octets, OctetTokenizer, write_octets
from shared.service.transfer import Conversation, Recorder, clip, side_by_side
from shared.service.uploads import tokenizer_path
from shared.service.worker import DecodeJob, Output, reset_peak_memory

DECODED_OCTETS: Final = "reconstruction.octets"
"""Among a transmission's files, what its ids stand for by their tokenizer."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_COST_BYTES: Final = 4
_HELLO_SECONDS: Final = 10.0
_DURABLE_BYTES: Final = 1 << 18
_DURABLE_SECONDS: Final = 1.0


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    """What the disk refuses is no fault of the transmission: it can go on once there is room."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise StorageFullError(f"Bob cannot write: {said.lower()}") from None


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
    """The transmission that comes over one websocket, from its beginning or from where an earlier connection left it.

    others: the receivings of this service by transmission. A newer connection takes the place of one that only Bob believes in.
    """

    def __init__(self, held: Services, link: ServerLink, others: "dict[str, Receiving]") -> None:
        self._held = held
        self._link = link
        self._others = others
        self._conversation = Conversation(Role.BOB, link)
        self._task = asyncio.current_task()
        self._identifier = ""
        self._superseded = False
        self._ended = asyncio.Event()
        self.recorder: Recorder | None = None
        self._origin: Origin | None = None

    async def run(self) -> None:
        """Do all of it; the record, if it came to one, says how it ended. Raises nothing of ours."""
        error: BaseException | None = None
        try:
            await self._converse()
        except asyncio.CancelledError:
            error = PeerLostError("Alice came back by another connection")
            if not self._superseded:
                error = InterruptedTransmissionError("Bob stopped")
        except Exception as raised:  # noqa: BLE001 - the record and the peer are told
            error = raised
        await asyncio.shield(self._finish(error))

    async def _finish(self, error: BaseException | None) -> None:
        recorder = self.recorder
        if recorder is not None:
            identifier = recorder.record.id
            if error is not None and not recorder.record.reconstruction.verified:
                recorder.failed(error, curable=self._conversation.doubts(error))
            match recorder.record.state:
                case "cancelled":
                    self._held.store.empty_transmission(identifier)
                case "verified" | "failed":
                    self._held.store.tidy_transmission(identifier)
        await self._conversation.end(error)
        if recorder is not None:
            await recorder.settle()
            self._held.metrics.ended(recorder.record)
        if self._others.get(self._identifier) is self:
            del self._others[self._identifier]
        self._ended.set()

    async def give_way(self) -> None:
        """End, because Alice has come back by another connection."""
        self._superseded = True
        if self._task is not None:
            self._task.cancel()
        await self._ended.wait()

    async def _take_place(self, identifier: str) -> None:
        """Be the one for this transmission; an earlier connection that is still open, so far as Bob knows, ends."""
        while (earlier := self._others.get(identifier)) is not None:
            await earlier.give_way()
        self._others[identifier] = self
        self._identifier = identifier

    async def _converse(self) -> None:
        heard = self._conversation.hear()
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = await anext(heard)
        except TimeoutError:
            raise PeerLostError(f"no HELLO within {_HELLO_SECONDS:.0f} seconds") from None
        assert isinstance(hello, Hello)
        if _ID.fullmatch(hello.transmission):
            await self._take_place(hello.transmission)
        try:
            record, spec = self._offer(hello)
        except (InputError, ServiceError) as error:
            await self._conversation.say(Refuse(problem=slug_of(error), reason=clip(str(error))))
            raise RefusedError(slug_of(error), str(error)) from None
        if record.reconstruction.verified:
            await self._say_done(record.reconstruction.sha256 or "")
            return
        with _full_disk_told():
            self._held.registry.add(record)
        self.recorder = Recorder(self._held.registry, record, "decode")
        self.recorder.connected(self._link.meter)
        async with self._held.pool.worker() as worker:
            reset_peak_memory()
            self.recorder.restart_clock()
            sha256 = await self._receive(worker, hello, spec, heard)
        store = self._held.store
        if spec.tokenizer is not None:
            await self._write_octets(record, spec.tokenizer)
        with _full_disk_told():
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
        await self._say_done(sha256)

    async def _write_octets(self, record: Transmission, tokenizer: str) -> None:
        """What the ids stand for; it must be what Alice read. Raises `DigestMismatchError`, or `UnexpectedMessageError`."""
        held, announced = self._held, record.dataset
        if announced.octets is None:
            raise UnexpectedMessageError("END", "TEXT has not come")
        place, directory = tokenizer_path(held, tokenizer), held.store.transmission_directory(record.id)
        partial = directory / f"{DECODED_OCTETS}.partial"

        def write() -> Octets:
            with partial.open("wb") as file:
                ids = directory / "reconstruction.partial"
                loaded = OctetTokenizer(place, tokenizer)
                return write_octets(loaded, ids, announced.as_vocabulary(), file, announced.octets or 0)

        with _full_disk_told():
            found = await asyncio.to_thread(write)
            if found != (announced.octets, announced.octets_sha256):
                raise DigestMismatchError(announced.octets_sha256 or "", found.sha256)
            partial.replace(directory / DECODED_OCTETS)

    async def _say_done(self, sha256: str) -> None:
        await self._conversation.say(Done(sha256=bytes.fromhex(sha256)))
        with contextlib.suppress(ChannelError):
            await self._link.receive()  # Alice closes

    def _offer(self, hello: Hello) -> tuple[Transmission, CodeSpec]:
        """Judge an offer. Raises an `InputError` or a `ServiceError` to be refused with."""
        held, settings = self._held, self._held.settings
        if not _ID.fullmatch(hello.transmission):
            raise MalformedRequestError("a transmission's id is 32 hexadecimal digits")
        spec = CodeSpec.parse(hello.spec)
        require(spec, hello.code)
        if hello.safe and (safe_code(hello.safe, spec).numerics, spec.numerics) != ("exact", "native"):
            raise SpecError(f"{hello.safe} is no safe code for {spec.numerics} numerics")
        self._origin, assets = origin_of(held, spec)
        with contextlib.suppress(NotFoundError):
            known = held.registry.get(hello.transmission)
            if known.state not in ("interrupted", "verified") or known.code.digest != spec.digest():
                raise ConflictError(f"transmission {hello.transmission} is known already, and {known.state}")
            if known.reconstruction.verified or held.pool.sources:
                return known, spec
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
                tokenizer=spec.tokenizer,
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
        record = recorder.record
        directory = self._held.store.transmission_directory(hello.transmission)
        ours = runtime_fingerprint()
        safe = safe_code(hello.safe, spec) if hello.safe else None
        recorder.computing(spec, self._held.settings.ranks)
        record.notes += [note for note in warning(spec, ours, hello.runtime) if note not in record.notes]
        with _full_disk_told():
            log = await asyncio.to_thread(ReceivedLog, directory / "received")
        grown, syncing = asyncio.Event(), asyncio.get_running_loop().create_future()
        syncing.set_result(None)
        recorder.leg(log.leg, safe, self._held.pool.sources)
        conversation.high_z_bytes = record.sent_z_bytes = max(record.sent_z_bytes, log.z_bytes)
        came_bytes = log.z_bytes  # of z, counted as ACK does
        rolled_back: Rollback | None = log.rollback
        restarted = asyncio.Event()

        async def listen() -> None:
            nonlocal came_bytes, rolled_back
            async for message in heard:
                came_bytes += len(message.z) if isinstance(message, Data) else 0
                if isinstance(message, Code):
                    self._compare(message, spec)
                    continue
                if isinstance(message, Text):
                    self._announce(message, spec)
                    continue
                if rolled_back is not None and not isinstance(message, Restart):
                    # Of the leg given up: counted and dropped (P-20).
                    lost_bytes = len(message.z) if isinstance(message, Data) else 0
                    rolled_back = dataclasses.replace(rolled_back, z_bytes=rolled_back.z_bytes + lost_bytes)
                    continue
                with _full_disk_told():
                    if isinstance(message, Restart):
                        await begin_leg(message)
                    else:
                        log.append(message)
                record.sent_z_bytes = max(record.sent_z_bytes, log.z_bytes)
                grown.set()
                if not isinstance(message, Prepared):  # an ACK is for what follows it: before that there is none to say
                    received.set()
            await asyncio.Event().wait()  # the conversation has ended in order; the decoder has not

        async def begin_leg(restart: Restart) -> None:
            """RESTART: the answer to a ROLLBACK, or the end of a leg that went as far as it should."""
            nonlocal rolled_back
            wrong = BadFrameError(f"RESTART at block {restart.block} with {restart.code or 'the first code'} has no place here")
            if rolled_back is None:
                if restart.code or restart.block != log.leg.end:
                    raise wrong
                log.append(restart)
            else:
                asked = (rolled_back.block, hello.safe, rolled_back.nll_units)
                if (restart.block, restart.code, restart.nll_units) != asked:
                    raise wrong
                await quiet()
                log.start_over(log.leg.rolled_back(rolled_back.block, rolled_back.nll_units, rolled_back.z_bytes, hello.safe))
                rolled_back = None
                restarted.set()
            conversation.begin_leg()
            recorder.leg(log.leg, safe, self._held.pool.sources)

        async def quiet() -> None:
            """Wait until nobody syncs the log; it may be replaced before the next await."""
            while not syncing.done():
                await asyncio.wait([syncing])

        async def tell() -> None:
            while True:
                if worker.busy:
                    await worker.tell(received_bytes=log.size)
                await grown.wait()
                grown.clear()

        async def acknowledge() -> None:
            nonlocal syncing
            loop = asyncio.get_running_loop()
            durable, at = came_bytes, loop.time()
            while True:
                await received.wait()
                while came_bytes - durable < _DURABLE_BYTES and (left := at + _DURABLE_SECONDS - loop.time()) > 0:
                    received.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left):
                            await received.wait()
                received.clear()
                z_bytes = came_bytes
                syncing = asyncio.ensure_future(asyncio.to_thread(log.sync))
                with _full_disk_told():
                    await asyncio.shield(syncing)
                durable, at = z_bytes, loop.time()
                if rolled_back is None:  # else nothing is to be acknowledged before RESTART
                    await conversation.say(Ack(received_bytes=came_bytes, durable_bytes=durable))

        async def decode() -> str:
            """Leg by leg, each a job."""
            nonlocal rolled_back
            while True:
                if rolled_back is not None:
                    await restarted.wait()
                    restarted.clear()
                await begin()
                grown.set()
                output = await pump()
                if output.sha256:
                    return output.sha256
                if output.rollback is not None:
                    rolled_back = dataclasses.replace(output.rollback, z_bytes=log.z_bytes)
                    record.notes += [note for note in [str(output.result)] if note not in record.notes]
                    await quiet()
                    remove_snapshots(directory)
                    with _full_disk_told():
                        log.start_over(log.leg, rolled_back)
                    await conversation.say(rolled_back)
                else:
                    await quiet()
                    with _full_disk_told():
                        log.drop_first()

        async def begin() -> None:
            leg = log.first
            code = spec if safe is None or not leg.code else safe
            recorder.recoding()
            await worker.run(
                DecodeJob(
                    spec=code.canonical_bytes(),
                    directory=str(directory),
                    leg=leg,
                    may_roll_back=safe is not None and not leg.code,
                    checks=log.checks if leg == log.leg else 0,
                    z_bytes=log.z_bytes if leg == log.leg else 0,
                    tokens=hello.tokens,
                    max_tokens=self._held.settings.max_tokens,
                    ours=ours,
                    theirs=hello.runtime,
                    origin=None if leg.code else self._origin,
                )
            )

        async def pump() -> Output:
            async for output in worker.outputs():
                if output.progress is not None:
                    recorder.progress(output.progress)
            return output

        received = asyncio.Event()
        try:
            said = [log.leg.accept(records=log.records, z_bytes=log.z_bytes, runtime=ours), *filter(None, [rolled_back])]
            await conversation.say(*said)
            recorder.running()
            return await side_by_side(decode(), listen(), tell(), acknowledge())
        finally:
            await asyncio.gather(syncing, return_exceptions=True)
            log.close()

    def _announce(self, text: Text, spec: CodeSpec) -> None:
        """What Alice's tokens stand for; there must be room for it."""
        assert self.recorder is not None
        if spec.tokenizer is None:
            raise UnexpectedMessageError("TEXT", "receiving tokens that no tokenizer made")
        if self._held.store.used_bytes() + text.size > self._held.settings.max_stored_bytes:
            raise StorageFullError("Bob's store is full (CODELENGTH_MAX_STORED_BYTES)")
        dataset = self.recorder.record.dataset
        dataset.octets, dataset.octets_sha256 = text.size, text.sha256.hex()

    def _compare(self, code: Code, spec: CodeSpec) -> None:
        """The f that Alice sends must be the f that runs here, byte for byte."""
        assert self.recorder is not None
        self.recorder.record.send_f = True
        if code.data != self._held.pool.sources[source_module(spec)][0]:
            raise RefusedError("code-mismatch", "the source of f that Alice sent is not the one that runs at Bob's")
