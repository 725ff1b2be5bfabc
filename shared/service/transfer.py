"""One conversation over one websocket: a `Channel` and a link, a reader and a pump side by side, and how it ends.

What Alice and Bob do differently is theirs; what both need is here: saying messages, hearing them, running both directions
at once, and turning an exception into a last word to the peer and a state of the record.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from shared.channel.errors import CancelledTransmissionError, PeerFailedError, PeerLostError, RefusedError, RemoteProtocolError
from shared.channel.legs import SAFE_BLOCKS, Leg
from shared.channel.messages import MAX_TEXT_BYTES, Cancel, Error, Message, Refuse
from shared.channel.protocol import Channel
from shared.channel.states import Role, State
from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.errors import CodelengthError
from shared.code.spec import CodeSpec
from shared.service import records
from shared.service.errors import close_code_of, problem, problem_fields, slug_of
from shared.service.kernels import ranks_used
from shared.service.metering import ConnectionMeter
from shared.service.records import Transmission, measured_f
from shared.service.registry import Registry
from shared.service.retrying import is_doubtful, may_be_cured
from shared.service.worker import Progress, peak_memory_bytes

logger = logging.getLogger("codelength.transfer")
R = TypeVar("R")


class Link(Protocol):
    """A websocket, of a client or of a server. Methods raise `PeerLostError` once it is gone."""

    meter: ConnectionMeter

    async def send(self, data: bytes) -> None:
        """Send one binary message."""

    async def receive(self) -> bytes | None:
        """The next binary message, None at the end."""

    async def close(self, code: int, reason: str) -> None:
        """Close, if it is still open."""


class Conversation:
    """A channel over a link."""

    def __init__(self, role: Role, link: Link) -> None:
        self.channel = Channel(role)
        self.link = link
        self.high_z_bytes = 0
        """How far the leg's z had been sent, or received, before this connection."""
        self.nonsense: RemoteProtocolError | None = None
        """What the link brought that is no conversation: a wrong peer, or damage, and then the next connection may be better."""

    async def say(self, *messages: Message) -> None:
        """Send messages; waits while the peer takes nothing. After the peer's last word, which `hear` tells, nothing is sent."""
        if self.channel.state is State.CLOSED:
            return
        for message in messages:
            self.channel.send(message)
        data = self.channel.data_to_send()
        if data:
            self._count()
            await self.link.send(data)

    async def hear(self) -> AsyncIterator[Message]:
        """The peer's messages until the conversation has closed.

        Raises `CancelledTransmissionError`, `RefusedError` or `PeerFailedError` where the peer says so, `PeerLostError`, or a
        `RemoteProtocolError`.
        """
        while self.channel.state is not State.CLOSED:
            try:
                async with asyncio.timeout(self.link.meter.silence_seconds if self.channel.unfinished else None):
                    data = await self.link.receive()
            except RemoteProtocolError as error:
                self.nonsense = error
                raise
            except TimeoutError:
                raise PeerLostError("the peer has left unfinished what it began to say") from None
            if data is None:
                self.channel.receive_eof()
                return
            self.channel.receive_data(data)
            for message in self._events():
                self._count()
                match message:
                    case Cancel(reason=reason):
                        raise CancelledTransmissionError(reason)
                    case Refuse(problem=slug, reason=reason):
                        raise RefusedError(slug, reason)
                    case Error(problem=slug, reason=reason):
                        raise PeerFailedError(slug, reason)
                    case _:
                        yield message

    def _events(self) -> Iterator[Message]:
        try:
            yield from self.channel.events()
        except RemoteProtocolError as error:
            self.nonsense = error
            raise

    def doubts(self, error: BaseException) -> bool:
        """Whether a side could not make sense of what came, and no SEAL has told that it was what the other said."""
        return error is self.nonsense or (isinstance(error, PeerFailedError) and is_doubtful(error))

    def begin_leg(self) -> None:
        """What crosses from here on has not crossed before."""
        self.high_z_bytes = min(self.high_z_bytes, self.channel.z_before_bytes + self.channel.z_sent_bytes)

    async def end(self, error: BaseException | None) -> None:
        """Say a last word, if the peer does not know yet, and close."""
        if isinstance(error, PeerLostError):
            self.link.meter.abort()
            return
        code, reason = (1000, "") if error is None else (close_code_of(error), slug_of(error))
        if error is not None and not isinstance(error, PeerLostError):
            word: Message
            if isinstance(error, CancelledTransmissionError):
                word = Cancel(reason=clip(error.reason))
            else:
                word = Error(problem=slug_of(error), reason=clip(problem(error).detail))
            with contextlib.suppress(PeerLostError):
                if self.channel.state is not State.CLOSED:
                    await self.say(word)
                elif isinstance(error, RemoteProtocolError):
                    await self.link.send(self.channel.fail(word))
        await self.link.close(code, reason)
        self.link.meter.broken = error is not None and not isinstance(error, CancelledTransmissionError | RefusedError)

    def _count(self) -> None:
        """Z is counted where messages are: by the channel."""
        meter = self.link.meter
        direction = meter.sent if self.channel.role is Role.ALICE else meter.received
        direction.z_bytes = self.channel.z_sent_bytes
        before = self.channel.z_before_bytes
        direction.retransmitted_bytes = max(0, min(before + direction.z_bytes, self.high_z_bytes) - before)


def clip(text: str) -> str:
    """A text that fits in a message."""
    return text.encode()[: MAX_TEXT_BYTES - 4].decode("utf-8", "ignore")


async def side_by_side(first: Coroutine[Any, Any, R], *others: Coroutine[Any, Any, None]) -> R:
    """Run all until the first has its result; an exception of any ends all and is raised."""
    main = asyncio.ensure_future(first)
    tasks: set[asyncio.Future[Any]] = {main, *map(asyncio.ensure_future, others)}
    try:
        left = tasks
        while not main.done():
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return main.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Recorder:
    """Keeps one transmission's record current. `coding` is `encode` or `decode`."""

    def __init__(self, registry: Registry, record: Transmission, coding: str) -> None:
        self.registry = registry
        self.record = record
        self.cancel_reason: str | None = None
        """Set before the task is cancelled on somebody's wish; without it, a cancelled task means that the service stops."""
        self.told_peer = False
        """Whether the peer has heard that it was cancelled, and deleted all."""
        self._coding = coding
        self._earlier: list[dict[str, Any]] = record.wire["connections"]  # of an earlier run of this service, or settled
        self._meters: list[ConnectionMeter] = []
        self._started = asyncio.get_running_loop().time()
        self._seconds_before = dict(record.seconds)

    def computing(self, spec: CodeSpec, ranks: int) -> None:
        """Say how many of so many ranks compute this spec."""
        self.record.ranks, notes = ranks_used(spec, ranks)
        self.record.notes += [note for note in notes if note not in self.record.notes]

    def connected(self, meter: ConnectionMeter) -> None:
        """Count this connection as part of the transmission, and remember at once that there was one."""
        self._meters.append(meter)
        self._update(save=True)

    def recoding(self) -> None:
        """The worker begins anew: its seconds come on top."""
        before = self._seconds_before
        before[self._coding] = self.record.seconds.get(self._coding, 0.0)

    def state(self, state: records.State) -> None:
        """Change the state."""
        self.record.state = state
        self._update(save=True)

    def leg(self, leg: Leg, safe: CodeSpec | None, sources: dict[str, tuple[bytes, int]]) -> None:
        """The transmission is in this leg. safe: the spec of the safe code, where there may be one."""
        record = self.record
        if leg == record.leg_begun():
            return
        if safe is not None and bool(leg.rollbacks) != bool(record.rollbacks):  # back, too: Bob may say the same ROLLBACK again
            record.f_bits = record.f_bits.plus(measured_f(safe, sources), 1 if leg.rollbacks else -1)
        if leg.rollbacks > record.rollbacks:
            note, lost = f"the models diverged in block {leg.block}:", leg.abandoned_bytes - record.abandoned_bytes
            to = "to the end" if leg.end is None else f"for {SAFE_BLOCKS} blocks"
            if not any(one.startswith(note) for one in record.notes):
                record.notes.append(f"{note} sent again from there with {leg.code}, {to}; {lost} bytes of z were given up")
        record.leg, record.sent_z_bytes = asdict(leg), 0
        record.rollbacks, record.abandoned_bytes = leg.rollbacks, leg.abandoned_bytes
        record.nll_bits, record.z_bits = leg.nll_units / COST_UNITS_PER_BIT, 8 * leg.coded_bytes
        self._update(save=True)

    def progress(self, progress: Progress) -> None:
        """Take what the worker reports."""
        record = self.record
        record.tokens_done, record.steps = progress.tokens, progress.steps
        record.nll_bits, record.z_bits = progress.nll_bits, progress.z_bits
        record.seconds[self._coding] = self._seconds_before.get(self._coding, 0.0) + progress.seconds
        if progress.prepare_seconds is not None:
            record.seconds["prepare"] = progress.prepare_seconds
        self.registry.unchecked[record.id] = progress.unchecked
        record.peak_memory_bytes = max(record.peak_memory_bytes or 0, progress.peak_memory_bytes + peak_memory_bytes())
        record.notes += [note for note in progress.notes if note not in record.notes]
        self._update(save=False)

    def acknowledged(self) -> None:
        """Something came through, maybe long after it was made: time and ledger go on."""
        self._update(save=False)

    def verified(self, sha256: str) -> None:
        """The reconstruction is D."""
        self.record.reconstruction = records.Reconstruction(sha256=sha256, verified=True)
        self.record.error = None
        self._finish("verified")

    def interrupted(self, error: BaseException) -> None:
        """Say why nothing goes on just now; this side will try again by itself."""
        self.record.error = problem_fields(error)
        self.record.resuming = True
        self.state("interrupted")

    def running(self, *, paused: bool = False) -> None:
        """It goes on."""
        self.record.error, self.record.resuming, self.record.finished_at = None, False, None
        self.record.queue_position = None
        self.state("paused" if paused else "running")

    def failed(self, error: BaseException, *, curable: bool = False) -> None:
        """End the record with an error, in the state that the error means."""
        state: records.State = "failed"
        if isinstance(error, CancelledTransmissionError):
            state = "cancelled"
        elif curable or may_be_cured(error):
            state = "interrupted"
        if not isinstance(error, CodelengthError):
            logger.error("transmission %s failed", self.record.id, exc_info=error)
        self.record.error = problem_fields(error)
        self._finish(state)

    async def settle(self) -> None:
        """Wait for the kernels' last word on every connection; then the ledger is final."""
        for meter in self._meters:
            await meter.final.wait()
        self._update(save=True, final=True)

    def _finish(self, state: records.State) -> None:
        if self.record.state in ("running", "paused"):
            self._take_time()  # all z may have been made long ago, and have waited for a slow line
        self.record.finished_at, self.record.resuming = records.now(), False
        self.state(state)

    def _update(self, *, save: bool, final: bool = False) -> None:
        record = self.record
        if record.state not in ("queued", *records.FINAL_STATES):
            self._take_time()
        record.wire = records.wire([*self._earlier, *(meter.as_dict() for meter in self._meters)], final=final)
        record.measure()
        self.registry.changed(record, save=save)

    def _take_time(self) -> None:
        elapsed = asyncio.get_running_loop().time() - self._started
        self.record.seconds["total"] = self._seconds_before.get("total", 0.0) + elapsed

    def restart_clock(self) -> None:
        """The total counts from here: the time in a queue is not the transmission's."""
        self._started = asyncio.get_running_loop().time()
