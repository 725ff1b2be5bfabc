"""A dataset as the messages of one transmission, and back: codec on one side, messages on the other, no process or socket.

Alice's messages are made as the code comes out: DATA once 4 KiB are settled or a second has passed, BLOCK before a block of
another length than the spec's, CHECK at the end of every block, with the state's digest in every sixteenth and in the last.
All of z comes before the last CHECK, so that DATA after a CHECK always belongs to a block that follows.
Bob's decoder takes them in the same order and gives checked blocks; what it keeps meanwhile is bounded.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

from shared.channel.errors import (
    BadFrameError,
    ChannelError,
    DigestMismatchError,
    DivergedError,
    LimitError,
    RemoteProtocolError,
    StartMismatchError,
)
from shared.channel.legs import Leg
from shared.channel.messages import MAX_DATA_BYTES, Block, Check, Data, End, Message, Prepared, Restart
from shared.channel.protocol import WINDOW_BYTES
from shared.code import codec
from shared.code.arithmetic import BYTES_PER_DECISION
from shared.code.codec import Decoder, Encoder
from shared.code.errors import SpecError
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec
from shared.code.vocabulary import Digest, Tokens, dataset_digest, from_tokens, to_tokens, token_width
from shared.service.snapshots import Snapshot, StoredSnapshot

DATA_BYTES: Final = 4096
LATENCY_SECONDS: Final = 1.0
DIGEST_EVERY_BLOCKS: Final = 16
MAX_WAITING_BLOCKS: Final = 1 << 16
MAX_UNREAD_BYTES: Final = 1 << 20
_WHOLE: Final = Leg()
_REGISTER_BYTES: Final = 16  # more than a decoder's register, and what an encoder may hold back


def read_blocks(read: Callable[[int], bytes], spec: CodeSpec) -> Iterator[Tokens]:
    """Canonical bytes, as `read` of a file or a pipe gives them, in blocks, the last maybe shorter. Memory is that of one."""
    size = spec.block_tokens * token_width(spec.vocabulary)
    position = 0
    while data := read(size):
        yield to_tokens(data, spec.vocabulary, position=position)
        position += spec.block_tokens


class TransmissionEncoder:
    """Alice's half: blocks of tokens to messages.

    blocks: the dataset in blocks of `spec.block_tokens`, the last one possibly shorter; one is read ahead. sha256: D's identity,
    64 hexadecimal digits, where it is known beforehand, and then checked while the data passes. data_bytes: of one DATA.
    held: PREPARED, BLOCK and CHECK, and bytes of z, that Bob has already; they are made, and not given out (P-15).
    leg: what is coded here, if it is not all of D: `blocks` begin with its first, and digest is of the data before (P-20).
    """

    def __init__(
        self,
        spec: CodeSpec,
        blocks: Iterable[Tokens],
        *,
        sha256: str | None = None,
        data_bytes: int = DATA_BYTES,
        held: tuple[int, int] = (0, 0),
        predictor: Predictor | None = None,
        leg: Leg = _WHOLE,
        digest: Digest | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.encoder = Encoder(spec, predictor)
        self.encoder.position = leg.block * spec.block_tokens
        self.seconds = 0.0
        """Time spent reading and coding."""
        self.sha256 = ""
        """D's identity, once all of it has passed."""
        self.between_blocks = True
        """Whether `snapshot` may be asked: a block has ended, and it was not the last."""
        self._blocks = blocks
        self._leg = leg
        self._digest = digest or dataset_digest(spec.vocabulary)
        self._first_block = self._index = leg.block  # blocks ended
        self._held_records, self._held_bytes = held
        self._records = 0  # PREPARED, BLOCK and CHECK made
        self._passed_bytes = 0  # of z, given out or held by Bob
        self._expected = sha256
        self._data_bytes = data_bytes
        self._clock = clock
        self._pending = bytearray()
        self._flushed_at = clock()
        self._drained_bytes = 0
        self._grown = (0, 0)  # the block in which z had last grown by Bob's lookahead, and the one before
        self._grown_bytes = 0
        self._lookahead_bytes = self.encoder.max_decisions * BYTES_PER_DECISION + _REGISTER_BYTES

    def messages(self) -> Iterator[Message | None]:
        """All messages from the first block to END, or to RESTART where the leg ends before D does.

        None after every segment, for the caller to do something else.

        Raises `DigestMismatchError` if the blocks are not the dataset announced, `SpecError` if its blocks are so short, and so
        predictable, that Bob would refuse to keep as many waiting for their code.
        """
        spec, encoder, digest = self.encoder.spec, self.encoder, self._digest
        if spec.start is not None and not self._index and not self._leg.rollbacks:
            yield from self._record(Prepared(digest=encoder.model_digest()))
        started = self._clock()
        for index, (block, last) in enumerate(_with_last(self._blocks), self._first_block):
            self.between_blocks = False
            if len(block) != spec.block_tokens:
                yield from self._record(Block(index=index, tokens=len(block)))
            digest.update(from_tokens(block, spec.vocabulary))
            for _ in encoder.encode_block(block):
                self._drain(index)
                self.seconds += self._clock() - started
                yield from self._flush(final=False)
                yield None
                started = self._clock()
            ends = last or index + 1 == self._leg.end
            with_digest = ends or index % DIGEST_EVERY_BLOCKS == DIGEST_EVERY_BLOCKS - 1
            if ends:
                encoder.finish()
                self._drain(index)
            if with_digest:
                yield from self._flush(final=True)
            check = encoder.check(with_digest=with_digest)
            yield from self._record(Check(position=check.position, crc=check.crc, digest=check.digest))
            self._index = index + 1
            if ends and not last:
                self.seconds += self._clock() - started
                yield Restart(block=self._index, code="", nll_units=self._leg.nll_units + encoder.nll_units)
                return
            if not last:
                self.between_blocks = True
                self.seconds += self._clock() - started
                yield None
                started = self._clock()
        self.seconds += self._clock() - started
        self.sha256 = digest.hexdigest()
        if self._expected not in (None, self.sha256):
            raise DigestMismatchError(self._expected, self.sha256)
        # Native numerics may have made other z before Alice was started again: then it is for Bob to find that out.
        if spec.numerics == "exact" and (self._held_records > self._records or self._held_bytes > self._passed_bytes):
            raise BadFrameError("ACCEPT tells of more than the transmission has")
        yield End(tokens=encoder.position, sha256=bytes.fromhex(self.sha256), z_bits=encoder.z_bits)

    def _drain(self, block: int) -> None:
        part = self.encoder.drain()
        self._pending += part
        self._drained_bytes += len(part)
        if self._drained_bytes >= self._grown_bytes + self._lookahead_bytes:
            self._grown, self._grown_bytes = (block, self._grown[0]), self._drained_bytes
        # Bob has decoded at least up to the older of both, give or take the blocks until the next DATA.
        if block - self._grown[1] > MAX_WAITING_BLOCKS - 2 * DIGEST_EVERY_BLOCKS:
            length = self.encoder.spec.block_tokens
            raise SpecError(f"blocks of {length} tokens are too short for data that is so predictable; raise block_tokens")

    def snapshot(self) -> Snapshot:
        """The state between two blocks; write it before the next."""
        head = {"blocks": self._index, "tokens": self.encoder.position, "records": self._records, "z_bytes": self._passed_bytes}
        head["pending"] = len(self._pending)
        grown = [*self._grown, self._grown_bytes]
        return Snapshot({**head, "grown": grown}, chain((bytes(self._pending),), self.encoder.state_parts()))

    def restore(self, snapshot: StoredSnapshot, digest: Digest) -> None:
        """Go on from a snapshot before the first message; `blocks` go on there too. digest: of the data before it.

        Raises `StateError`, and changes nothing, if it is of another codec.
        """
        head, pending = snapshot.head, snapshot.head["pending"]
        self.encoder.restore(snapshot.state[pending:])
        self._first_block = self._index = head["blocks"]
        self._records, self._passed_bytes = head["records"], head["z_bytes"]
        self._pending[:] = snapshot.state[:pending]
        self._drained_bytes = self._passed_bytes + pending
        *grown, self._grown_bytes = head["grown"]
        self._grown = grown[0], grown[1]
        self._digest = digest

    def _record(self, message: Prepared | Block | Check) -> Iterator[Message]:
        self._records += 1
        if self._records > self._held_records:
            yield message

    def _flush(self, *, final: bool) -> Iterator[Data]:
        now = self._clock()
        if self._passed_bytes < self._held_bytes:
            gone = min(self._held_bytes - self._passed_bytes, len(self._pending))
            del self._pending[:gone]
            self._passed_bytes += gone
        if self._records < self._held_records:  # this z belongs behind records that Bob has, wherever it stood before (P-15)
            if len(self._pending) > WINDOW_BYTES:
                raise BadFrameError("ACCEPT tells of records that its z cannot have")
            return
        late = final or now - self._flushed_at >= LATENCY_SECONDS
        while len(self._pending) >= self._data_bytes or (late and self._pending):
            # What a segment yields goes in one message, unless it is too much for one.
            part = bytes(self._pending[:MAX_DATA_BYTES])
            del self._pending[:MAX_DATA_BYTES]
            self._passed_bytes += len(part)
            self._flushed_at = now
            yield Data(z=part)


class TransmissionDecoder:
    """Bob's half: messages to checked blocks.

    Give every message to `take`, then run through `blocks`. The block that follows a CHECK has the spec's length unless the next
    message is a BLOCK (P-13). tokens: n, if it was announced. max_tokens: the most that are accepted. `ours` and `theirs`: the
    runtimes' fingerprints, for the error where the sides differ. leg: what is decoded here, if it is not all of D; digest: of the
    data before it (P-20).
    """

    def __init__(
        self,
        spec: CodeSpec,
        *,
        max_tokens: int,
        tokens: int | None = None,
        ours: str = "",
        theirs: str = "",
        predictor: Predictor | None = None,
        leg: Leg = _WHOLE,
        digest: Digest | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoder = Decoder(spec, predictor)
        self.decoder.position = leg.block * spec.block_tokens
        self.seconds = 0.0
        """Time spent decoding."""
        self.finished = False
        """Whether END was reached and all of it holds."""
        self.sha256 = ""
        """Identity of what was decoded, once finished."""
        self._tokens = tokens
        self._max_tokens = max_tokens
        self._fingerprints = ours, theirs
        self._clock = clock
        self._leg = leg
        self._digest = digest or dataset_digest(spec.vocabulary)
        self._lengths: deque[int] = deque()
        self._checks: deque[Check] = deque()
        self._announced = leg.block  # blocks whose length is known
        self._length_known = False  # whether the block that messages now belong to is one of these
        self._announced_tokens = self.decoder.position
        self._end: End | None = None
        self._z_bytes = 0
        self._last_byte = 0
        self._starved = False  # whether decoding has stopped for want of z, and none has come since
        self._agreed = self.decoder.position  # tokens before the last check that held
        self._agreed_units = 0  # and what they cost
        self._proven = spec.start is None or leg.rollbacks > 0  # whether both models are one before the first token (P-18)
        self._blocks = leg.block  # delivered
        self._fed_bytes = 0  # of z, given to the decoder
        self._checks_taken = leg.block
        self._restored_blocks = 0

    def take(self, message: Message) -> None:
        """Accept BLOCK, DATA, CHECK or END. Raises a `RemoteProtocolError` where they contradict each other."""
        spec = self.decoder.spec
        if not (self._proven or self._restored_blocks or isinstance(message, Prepared)):
            raise BadFrameError(f"{type(message).__name__.upper()} comes before PREPARED")
        match message:
            case Prepared(digest=theirs):
                if self._proven:
                    raise BadFrameError("PREPARED has no place here")
                if not self._restored_blocks:  # a snapshot's model has gone on since
                    self._compare(theirs)
                self._proven = True
            case Block(index=index, tokens=tokens):
                if self._length_known or index != self._announced or not 1 <= tokens < spec.block_tokens:
                    raise BadFrameError(f"BLOCK {index} of {tokens} tokens has no place here")
                self._announce(tokens)
            case Data(z=z):
                self._open_block()
                self._z_bytes += len(z)
                self._last_byte = z[-1] if z else self._last_byte
                if self._z_bytes <= self._fed_bytes:
                    return  # the snapshot has it
                z = z[len(z) - (self._z_bytes - self._fed_bytes) :]
                if self.decoder.unread_bytes > MAX_UNREAD_BYTES:
                    raise self._natively(
                        LimitError("bytes of z ahead of their block", self.decoder.unread_bytes, MAX_UNREAD_BYTES)
                    )
                self.decoder.feed(z)
                self._fed_bytes += len(z)
                self._starved = False
            case Check():
                self._open_block()
                self._length_known = False
                if message.position != self._announced_tokens:
                    raise BadFrameError(f"a CHECK at token {message.position}, the block ends at {self._announced_tokens}")
                self._checks_taken += 1
                if self._checks_taken > self._restored_blocks:
                    self._checks.append(message)
            case End():
                unused = 8 * self._z_bytes - message.z_bits
                if not 0 <= unused < 8:
                    raise self._natively(BadFrameError(f"END says {message.z_bits} bits, {self._z_bytes} bytes have come"))
                if self._last_byte & ((1 << unused) - 1):
                    raise self._natively(BadFrameError("the unused bits of z's last byte are not zero"))
                self._end = message
                self.decoder.close(message.z_bits)
                self._starved = False
            case _:
                raise BadFrameError(f"{type(message).__name__.upper()} is no part of a dataset")

    def blocks(self) -> Iterator[tuple[Tokens, Tokens] | None]:
        """Decode what has come: every block whose CHECK has come and holds, and None after every segment.

        A block is its tokens and their costs in units of 2^-24 bit. Raises `DivergedError`, `CorruptCodeError`,
        `DigestMismatchError` or a `RemoteProtocolError`.
        """
        decoder = self.decoder
        while True:
            if decoder.block_done:
                if not self._checks:
                    break
                yield self._check(self._checks.popleft())
            elif decoder.in_block:
                if self._starved:
                    break
                started = self._clock()
                gained = decoder.decode()
                self.seconds += self._clock() - started
                if gained == 0:
                    self._starved = True
                    break
                yield None
            elif self._lengths:
                decoder.begin_block(self._lengths.popleft())
            else:
                break
        if self._end is not None and not self.finished:
            self._finish(self._end)

    def _natively(self, error: RemoteProtocolError) -> ChannelError:
        """What contradicts z is the peer's fault where f is exact; else the two models may have made different z."""
        if self.decoder.spec.numerics == "exact":
            return error
        return DivergedError(self._agreed, max(self._agreed + 1, self._announced_tokens), *self._fingerprints)

    def end_leg(self, restart: Restart) -> Iterator[tuple[Tokens, Tokens] | None]:
        """The leg is over and all of its z has come: the blocks that are left, as `blocks` gives them.

        Raises also `BadFrameError` where the leg does not end there.
        """
        self.decoder.close(8 * self._z_bytes)
        self._starved = False
        yield from self.blocks()
        open_ended = self._length_known or self._lengths or self._checks or self.decoder.in_block
        if (
            open_ended
            or (self._blocks, self.agreed_units) != (restart.block, restart.nll_units)
            or restart.block != self._leg.end
        ):
            raise BadFrameError(f"RESTART at block {restart.block} comes before the leg's end")

    @property
    def agreed_units(self) -> int:
        """Σ −log2 p of all tokens before the last check that held, in units of 2^-24 bit, from D's beginning."""
        return self._leg.nll_units + self._agreed_units

    @property
    def rollback_block(self) -> int | None:
        """The block to go back to after a divergence; None where there is no way back: a safe code, or blocks of odd lengths."""
        spec = self.decoder.spec
        whole = self._agreed == self._blocks * spec.block_tokens
        return self._blocks if whole and spec.numerics == "native" else None

    def _compare(self, theirs: bytes) -> None:
        ours, start = self.decoder.model_digest(), self.decoder.spec.start
        assert start is not None
        if ours != theirs:
            raise StartMismatchError(start.steps, ours.hex(), theirs.hex())

    def unchecked(self, tokens: int) -> tuple[tuple[int, Tokens, Tokens], ...]:
        """What is decoded of the open block, about its newest `tokens`, by stream: the first one's position, tokens, costs."""
        rows = max(1, tokens // self.decoder.spec.streams)
        return tuple((self._agreed + place, part, costs) for place, part, costs in self.decoder.open_block(rows))

    def _check(self, theirs: Check) -> tuple[Tokens, Tokens]:
        ours: codec.Check = self.decoder.check(with_digest=theirs.digest is not None)
        if (ours.position, ours.crc, ours.digest) != (theirs.position, theirs.crc, theirs.digest):
            raise DivergedError(self._agreed, max(ours.position, theirs.position), *self._fingerprints)
        self._agreed, self._agreed_units = ours.position, self.decoder.nll_units
        tokens, costs = self.decoder.take_block()
        self._digest.update(from_tokens(tokens, self.decoder.spec.vocabulary))
        self._blocks += 1
        return tokens, costs

    @property
    def delivered_blocks(self) -> int:
        """Blocks that `blocks` has given out."""
        return self._blocks

    def snapshot(self) -> Snapshot:
        """The state after a block that `blocks` has given out; write it before the next."""
        head = {"blocks": self._blocks, "tokens": self._agreed, "z_bytes": self._fed_bytes}
        return Snapshot({**head, "sha256": self._digest.hexdigest()}, self.decoder.state_parts())

    def restore(self, snapshot: StoredSnapshot, digest: Digest) -> None:
        """Go on from a snapshot, before the first message; then give every message from the first one, none is decoded twice.

        digest: of the data before it. Raises `StateError`, and changes nothing, if it is of another codec.
        """
        self.decoder.restore(snapshot.state)
        self._blocks = self._restored_blocks = snapshot.head["blocks"]
        self._agreed, self._fed_bytes = snapshot.head["tokens"], snapshot.head["z_bytes"]
        self._agreed_units = self.decoder.nll_units
        self._digest = digest

    def _open_block(self) -> None:
        if not self._length_known:
            self._announce(self.decoder.spec.block_tokens)

    def _announce(self, tokens: int) -> None:
        self._announced += 1
        self._announced_tokens += tokens
        self._length_known = True
        if self._tokens is not None and self._announced_tokens > self._tokens:
            raise BadFrameError(f"more than the {self._tokens} tokens that HELLO announced")
        if self._announced_tokens > self._max_tokens:
            raise LimitError("tokens", self._announced_tokens, self._max_tokens)
        if len(self._lengths) >= MAX_WAITING_BLOCKS:
            raise LimitError("blocks ahead of their code", len(self._lengths) + 1, MAX_WAITING_BLOCKS)
        if self._announced > self._restored_blocks:
            self._lengths.append(tokens)

    def _finish(self, end: End) -> None:
        if self._length_known or self._lengths or self._checks or self.decoder.in_block:
            raise BadFrameError("END comes before the CHECK of the last block")
        if self._tokens not in (None, end.tokens):
            raise BadFrameError(f"END says {end.tokens} tokens, HELLO said {self._tokens}")
        found = self._digest.hexdigest()
        if self._agreed != end.tokens or found != end.sha256.hex():
            raise DigestMismatchError(end.sha256.hex(), found)
        self.sha256 = found
        self.finished = True


def _with_last(blocks: Iterable[Tokens]) -> Iterator[tuple[Tokens, bool]]:
    """Every block, and whether it is the last."""
    before = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True
