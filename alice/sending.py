"""One transmission from Alice's side: connect, offer, and pass the worker's messages on until Bob says that he has D."""

import asyncio
from typing import Any, Final

from alice.farewells import Farewells, tell
from alice.link import open_link
from alice.outbox import Outbox
from shared.channel.errors import (
    CancelledTransmissionError,
    DigestMismatchError,
    DivergedError,
    PeerLostError,
    RefusedError,
    UnexpectedMessageError,
)
from shared.channel.legs import SAFE_CODE, Leg, safe_code
from shared.channel.messages import MAX_DATA_BYTES, Accept, Ack, Code, Data, Done, Hello, Restart, Rollback, Text
from shared.channel.states import Role
from shared.code.errors import CodelengthError
from shared.code.models import PRESETS, preset
from shared.code.size import source_module
from shared.code.spec import CodeSpec
from shared.service.app import Services
from shared.service.assets import origin_of
from shared.service.choosing import AUTO, ChooseJob, candidates, choice_bits, choice_name
from shared.service.errors import InterruptedTransmissionError, WorkerLostError
from shared.service.kernels import runtime_fingerprint, warning
from shared.service.pool import Worker
from shared.service.records import CodeReference, FBitsRecord, Transmission, measured_f
from shared.service.retrying import Retrying, is_doubtful
from shared.service.snapshots import remove_snapshots
from shared.service.transfer import Conversation, Recorder, side_by_side
from shared.service.worker import EncodeJob, reset_peak_memory

_LEAST_PART_BYTES: Final = 256


def hello(record: Transmission, spec: CodeSpec) -> Hello:
    """The offer of a transmission."""
    return Hello(
        transmission=record.id,
        spec=spec.canonical_bytes(),
        tokens=record.dataset.tokens,
        media_type=record.dataset.media_type,
        name=record.dataset.name,
        code=record.code.name if record.code.name in PRESETS or choice_bits(record.code.name) else "",
        runtime=runtime_fingerprint(),
        safe="" if spec.numerics == "exact" else SAFE_CODE,
    )


class _Coding:
    """Alice's encoder at work for one transmission, whatever becomes of connections: a job of a worker, and what it made."""

    def __init__(
        self,
        worker: Worker,
        recorder: Recorder,
        job: EncodeJob,
        may_run: asyncio.Event,
        after: "_Coding | None",
        restart: Restart | None,
    ) -> None:
        self.outbox = Outbox(job.records, job.z_bytes, restart)
        self.leg = job.leg
        self.first_bytes = 0  # of z that this conversation carried before the leg
        self._worker = worker
        self._recorder = recorder
        self._job = job
        self._may_run = may_run
        self._after = after
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        if self._after is not None:
            await self._after.stop()
            self._after = None
        await self._worker.run(self._job)
        if not self._may_run.is_set():
            await self._worker.tell(paused=True)
        async for output in self._worker.outputs():
            self.outbox.put(output.messages)
            if output.progress is not None:
                self._recorder.progress(output.progress)

    async def acknowledge(self, durable_bytes: int) -> None:
        """Tell encoder and outbox how much z, as this conversation counts it, Bob holds for certain."""
        durable_bytes -= self.first_bytes
        if durable_bytes < 0:
            return
        self.outbox.acknowledge(durable_bytes)
        if self._worker.busy:
            await self._worker.tell(durable_bytes=durable_bytes)

    async def stop(self) -> None:
        """End the job, so that the worker can take another one."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if self._after is not None:
            await self._after.stop()
        await self._worker.abort()


class Sending:
    """The transmission of one record: connections, one after the other, until Bob has D."""

    def __init__(self, held: Services, recorder: Recorder, spec: CodeSpec, farewells: Farewells) -> None:
        self._held = held
        self._farewells = farewells
        self._recorder = recorder
        self._spec = spec
        self._worker: Worker | None = None
        self._coding: _Coding | None = None
        self._retrying = Retrying(held.settings.retry_seconds)
        self._connected = False
        self._reached, self._offered = (0, 0, 0, 0), False  # what Bob held at the last ACCEPT, and whether there was one
        self._part_bytes = MAX_DATA_BYTES  # of one DATA: less where connections break before one is through
        self._may_run = asyncio.Event()
        if recorder.record.state != "paused":
            self._may_run.set()

    async def run(self) -> None:
        """Do all of it; the record says how it ended. Raises nothing."""
        recorder = self._recorder
        try:
            sha256 = await self._deliver()
        except asyncio.CancelledError:
            await self._stopped()
        except Exception as error:  # noqa: BLE001 - the record is where it is told
            recorder.failed(error, curable=is_doubtful(error) and not isinstance(error, RefusedError))
        else:
            recorder.verified(sha256)
        if recorder.record.state in ("verified", "failed", "cancelled"):
            self._held.store.empty_transmission(recorder.record.id)
        await asyncio.shield(recorder.settle())
        self._held.metrics.ended(recorder.record)

    async def _stopped(self) -> None:
        """Cancelled by the user, of which Bob is told, or stopped with the service, after which it will go on."""
        recorder, reason = self._recorder, self._recorder.cancel_reason
        if reason is not None:
            recorder.failed(CancelledTransmissionError(reason))
            self._farewells.end(recorder.record.id, told=recorder.told_peer)
        elif recorder.record.state == "paused":
            recorder.state("paused")
        else:
            recorder.failed(InterruptedTransmissionError("Alice stopped"))

    async def pause(self, *, paused: bool) -> None:
        """Stop coding, or go on, at once even where the next try would be later."""
        if paused:
            self._may_run.clear()
        else:
            self._may_run.set()
            self._retrying.hurry()
        record = self._recorder.record
        if paused or record.state == "paused":
            started = self._worker is not None
            self._recorder.state("paused" if paused else "running" if self._connected else "interrupted" if started else "queued")
        if self._worker is not None and self._worker.busy:
            await self._worker.tell(paused=paused)

    def cancel(self, reason: str) -> None:
        """Give up; Bob is told why, at once or as soon as he can be reached."""
        if self._recorder.record.wire["connections"]:
            self._farewells.begin(self._recorder.record, reason)
        self._recorder.cancel_reason = reason
        self._held.registry.cancel_task(self._recorder.record.id)

    async def _deliver(self) -> str:
        """All connections, with one worker or, where that is lost, the next."""
        while True:
            await self._may_run.wait()
            self._held.registry.last_in_line(self._recorder.record.id)
            try:
                async with self._held.pool.worker() as worker:
                    if not self._may_run.is_set():  # paused in the queue: others go on with this worker
                        continue
                    reset_peak_memory()
                    self._recorder.restart_clock()
                    self._worker = worker
                    try:
                        if self._recorder.record.code.name == AUTO:
                            await self._choose(worker)
                        return await self._connect_until_done(worker)
                    finally:
                        self._worker = None
                        await self._drop_coding()
            except WorkerLostError as error:
                await self._wait_after(error)

    async def _choose(self, worker: Worker) -> None:
        """Try the presets on D's first part, and go on with the best."""
        record, held = self._recorder.record, self._held
        assert record.auto_seconds is not None
        vocabulary = record.dataset.as_vocabulary()
        names, assets = candidates(vocabulary, held.settings.max_model_bytes), record.f_bits.assets
        found = await worker.ask(
            ChooseJob(
                vocabulary=vocabulary,
                path=str(held.store.object(record.dataset.id)),
                tokens=record.dataset.tokens or 0,
                f_bits={name: measured_f(preset(name, vocabulary), held.pool.sources, assets).total for name in names},
                seconds=record.auto_seconds,
            )
        )
        self._spec = preset(found["chosen"], vocabulary)
        name = choice_name(found["chosen"], len(names))
        record.choice = found["trials"]
        record.code = CodeReference.of(name, self._spec)
        record.f_bits = FBitsRecord.of(measured_f(self._spec, held.pool.sources, assets, choice_bits(name)))

    async def _connect_until_done(self, worker: Worker) -> str:
        while True:
            await self._may_run.wait()
            try:
                return await self._transmit(worker)
            except WorkerLostError:
                raise
            except CodelengthError as error:
                await self._wait_after(error)

    async def _wait_after(self, error: CodelengthError) -> None:
        """Wait before the next try. Raises the error where another one would not help."""
        if not self._retrying.may_go_on(error):
            raise error
        if self._may_run.is_set():
            self._recorder.interrupted(error)
        await self._retrying.wait()

    async def _drop_coding(self) -> None:
        coding, self._coding = self._coding, None
        if coding is not None:
            await coding.stop()

    async def _transmit(self, worker: Worker) -> str:
        """One connection."""
        link = await open_link(self._held.settings)
        self._recorder.connected(link.meter)
        self._connected = True
        conversation = Conversation(Role.ALICE, link)
        try:
            sha256 = await self._converse(worker, conversation)
        except BaseException as error:
            stopped, reason = isinstance(error, asyncio.CancelledError), self._recorder.cancel_reason
            if stopped and reason is not None:
                self._recorder.told_peer = await asyncio.shield(tell(conversation, reason))
            else:
                await asyncio.shield(conversation.end(InterruptedTransmissionError("Alice stopped") if stopped else error))
            raise
        finally:
            self._connected = False
        await conversation.end(None)
        return sha256

    async def _converse(self, worker: Worker, conversation: Conversation) -> str:
        record, spec = self._recorder.record, self._spec
        await conversation.say(hello(record, spec))
        heard = conversation.hear()
        answer = await anext(heard)
        if isinstance(answer, Done):  # Bob has had all of it since an earlier connection, whose end did not come through
            await self._finish_figures(worker)
            return self._checked(answer)
        assert isinstance(answer, Accept)
        self._recorder.computing(spec, self._held.settings.ranks)
        record.notes += [note for note in warning(spec, runtime_fingerprint(), answer.runtime) if note not in record.notes]
        if answer.code not in ("", self._safe and SAFE_CODE):
            raise UnexpectedMessageError(f"ACCEPT with {answer.code}", "sending with another code")
        coding = await self._coding_from(worker, answer)
        reached = answer.rollbacks, answer.block, answer.records, answer.z_bytes
        if reached > self._reached:
            self._retrying.progress()
            self._part_bytes = min(2 * self._part_bytes, MAX_DATA_BYTES)
        elif self._reached > (0, 0, 0, 0) or self._offered:
            self._part_bytes = max(self._part_bytes // 4, _LEAST_PART_BYTES)
        self._reached, self._offered = reached, True
        conversation.high_z_bytes = record.sent_z_bytes = max(record.sent_z_bytes, answer.z_bytes)
        dataset = record.dataset
        if dataset.octets is not None and dataset.octets_sha256 is not None:
            await conversation.say(Text(size=dataset.octets, sha256=bytes.fromhex(dataset.octets_sha256)))
        if record.send_f and reached == (0, 0, 0, 0):
            archive, _ = self._held.pool.sources[source_module(spec)]
            await conversation.say(Code(name=f"source {spec.model.kind}", data=archive))
        self._recorder.running(paused=not self._may_run.is_set())

        async def listen() -> str:
            async for message in heard:
                if isinstance(message, Ack):
                    self._retrying.progress()
                    credit.set()
                    self._recorder.acknowledged()
                    await coding.acknowledge(message.durable_bytes)
                elif isinstance(message, Done):
                    return self._checked(message)
                elif isinstance(message, Rollback) and self._safe is not None and not coding.leg.code:
                    first = message.block * spec.block_tokens
                    last = min(first + spec.block_tokens, record.dataset.tokens or first + spec.block_tokens)
                    record.notes.append(str(DivergedError(first, last, runtime_fingerprint(), answer.runtime)))
                    sent = max(record.sent_z_bytes, message.z_bytes)
                    leg = coding.leg.rolled_back(message.block, message.nll_units, sent, SAFE_CODE)
                    begin(leg, Restart(block=leg.block, code=leg.code, nll_units=leg.nll_units))
                else:
                    raise UnexpectedMessageError(type(message).__name__.upper(), "sending with a code that cannot diverge")
            raise PeerLostError("the conversation ended without DONE")

        credit, changed = asyncio.Event(), asyncio.Event()

        def begin(leg: Leg, restart: Restart | None = None) -> None:
            """The next leg. restart: to be said first, as the answer to ROLLBACK."""
            nonlocal coding
            coding.outbox.close()
            self._enter(leg)
            remove_snapshots(self._held.store.transmission_directory(record.id))
            coding = self._coding = self._code(worker, leg, after=coding, restart=restart)
            coding.first_bytes = channel.z_before_bytes + channel.z_sent_bytes
            conversation.begin_leg()
            credit.set()
            changed.set()

        channel = conversation.channel

        async def send() -> None:
            while True:
                sending = coding
                messages = await sending.outbox.take(self._part_bytes)
                size = sum(len(message.z) for message in messages if isinstance(message, Data))
                while size > channel.credit_bytes and not sending.outbox.closed:
                    credit.clear()
                    await credit.wait()
                if sending.outbox.closed:  # Bob has given up the leg
                    continue
                await conversation.say(*messages)
                if sending.outbox.closed:
                    continue
                sent = channel.z_before_bytes + channel.z_sent_bytes - sending.first_bytes
                record.sent_z_bytes = max(record.sent_z_bytes, sent)
                end = messages[-1]
                if isinstance(end, Restart) and not end.code:
                    begin(sending.leg.ended(end.block, end.nll_units, sending.outbox.made_z_bytes))

        async def code() -> None:
            while True:
                coded = coding
                changed.clear()
                await asyncio.wait([coded.task])
                if coded is coding:
                    coded.task.result()
                    await changed.wait()

        return await side_by_side(listen(), send(), code())

    def _checked(self, done: Done) -> str:
        expected = self._recorder.record.dataset.sha256
        if done.sha256.hex() != expected:
            raise DigestMismatchError(expected, done.sha256.hex())
        return expected

    @property
    def _safe(self) -> CodeSpec | None:
        """The code to go on with where native models diverge."""
        return None if self._spec.numerics == "exact" else safe_code(SAFE_CODE, self._spec)

    def _enter(self, leg: Leg) -> None:
        self._recorder.leg(leg, self._safe, self._held.pool.sources)

    async def _coding_from(self, worker: Worker, accept: Accept) -> _Coding:
        """The encoder that runs, if what it made reaches back to where Bob stands; else one that begins anew."""
        coding, leg, known = self._coding, Leg.of(accept), self._recorder.record.leg_begun()
        if (leg.block, leg.code, leg.rollbacks) == (known.block, known.code, known.rollbacks):
            leg = known  # what she counted as abandoned may be more than Bob has seen
        self._enter(leg)
        if coding is not None and coding.leg == leg and coding.outbox.rewind(accept.records, accept.z_bytes):
            coding.first_bytes = 0
            await coding.acknowledge(accept.z_bytes)
            return coding
        await self._drop_coding()
        self._coding = self._code(worker, leg, records=accept.records, z_bytes=accept.z_bytes)
        return self._coding

    def _code(
        self, worker: Worker, leg: Leg, *, after: _Coding | None = None, restart: Restart | None = None, **position: Any
    ) -> _Coding:
        record, store, spec = self._recorder.record, self._held.store, self._safe if leg.code else self._spec
        assert spec is not None
        self._recorder.recoding()
        job = EncodeJob(
            spec=spec.canonical_bytes(),
            path=str(store.object(record.dataset.id)),
            sha256=record.dataset.sha256,
            directory=str(store.transmission_directory(record.id)),
            leg=leg,
            origin=origin_of(self._held, spec)[0],
            **position,
        )
        return _Coding(worker, self._recorder, job, self._may_run, after, restart)

    async def _finish_figures(self, worker: Worker) -> None:
        """Encode to the end for the figures' sake, if that was not done."""
        if self._coding is None or not self._coding.task.done():
            await self._drop_coding()
            self._coding = self._code(worker, self._recorder.record.leg_begun(), quiet=True)
        await asyncio.shield(self._coding.task)
