"""A dataset as the messages of one transmission, and back: codec on one side, messages on the other, no process or socket.

Alice's messages are made as the code comes out: DATA once 4 KiB are settled or a second has passed, BLOCK before a block of
another length than the spec's, CHECK at the end of every block, with the state's digest in every sixteenth and in the last.
All of z comes before the last CHECK, so that DATA after a CHECK always belongs to a block that follows.
Bob's decoder takes them in the same order and gives checked blocks.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from shared.channel.errors import BadFrameError, DigestMismatchError, DivergedError, LimitError
from shared.channel.messages import MAX_DATA_BYTES, Block, Check, Data, End, Message
from shared.code import codec
from shared.code.codec import Decoder, Encoder
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec
from shared.code.vocabulary import Tokens, dataset_digest, from_tokens

DATA_BYTES: Final = 4096
LATENCY_SECONDS: Final = 1.0
DIGEST_EVERY_BLOCKS: Final = 16


class TransmissionEncoder:
    """Alice's half: blocks of tokens to messages.

    blocks: the dataset in blocks of `spec.block_tokens`, the last one possibly shorter. tokens: n. sha256: D's identity, 64
    hexadecimal digits, checked while the data passes.
    """

    def __init__(
        self,
        spec: CodeSpec,
        blocks: Iterable[Tokens],
        *,
        tokens: int,
        sha256: str,
        predictor: Predictor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.encoder = Encoder(spec, predictor)
        self.seconds = 0.0
        """Time spent reading and coding."""
        self._blocks = blocks
        self._tokens = tokens
        self._sha256 = sha256
        self._clock = clock
        self._pending = bytearray()
        self._flushed_at = clock()

    def messages(self) -> Iterator[Message | None]:
        """All messages from the first block to END; None after every segment, for the caller to do something else.

        Raises `DigestMismatchError` if the blocks are not the dataset announced.
        """
        spec, encoder = self.encoder.spec, self.encoder
        digest = dataset_digest(spec.vocabulary)
        started = self._clock()
        for index, block in enumerate(self._blocks):
            if len(block) != spec.block_tokens:
                yield Block(index=index, tokens=len(block))
            digest.update(from_tokens(block, spec.vocabulary))
            for _ in encoder.encode_block(block):
                self._pending += encoder.drain()
                self.seconds += self._clock() - started
                yield from self._flush(final=False)
                yield None
                started = self._clock()
            last = encoder.position >= self._tokens
            if last:
                encoder.finish()
                self._pending += encoder.drain()
                yield from self._flush(final=True)
            check = encoder.check(with_digest=last or index % DIGEST_EVERY_BLOCKS == DIGEST_EVERY_BLOCKS - 1)
            yield Check(position=check.position, crc=check.crc, digest=check.digest)
        self.seconds += self._clock() - started
        if encoder.position != self._tokens or digest.hexdigest() != self._sha256:
            raise DigestMismatchError(self._sha256, digest.hexdigest())
        yield End(tokens=encoder.position, sha256=bytes.fromhex(self._sha256), z_bits=encoder.z_bits)

    def _flush(self, *, final: bool) -> Iterator[Data]:
        now = self._clock()
        late = final or now - self._flushed_at >= LATENCY_SECONDS
        while len(self._pending) >= DATA_BYTES or (late and self._pending):
            # What a segment yields goes in one message, unless it is too much for one.
            part = bytes(self._pending[:MAX_DATA_BYTES])
            del self._pending[:MAX_DATA_BYTES]
            self._flushed_at = now
            yield Data(z=part)


class TransmissionDecoder:
    """Bob's half: messages to checked blocks.

    Give every message to `take`, then call `step` until it returns False and take the blocks that have come of it. The block
    that follows a CHECK has the spec's length unless the next message is a BLOCK (P-13). `ours` and `theirs` are the runtimes'
    fingerprints, for the error where the sides differ.
    """

    def __init__(
        self,
        spec: CodeSpec,
        *,
        max_tokens: int,
        ours: str = "",
        theirs: str = "",
        predictor: Predictor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decoder = Decoder(spec, predictor)
        self.seconds = 0.0
        """Time spent decoding."""
        self.finished = False
        """Whether END was reached and all of it holds."""
        self.sha256 = ""
        """Identity of what was decoded, once finished."""
        self._max_tokens = max_tokens
        self._fingerprints = ours, theirs
        self._clock = clock
        self._digest = dataset_digest(spec.vocabulary)
        self._lengths: deque[int] = deque()
        self._checks: deque[Check] = deque()
        self._announced = 0  # blocks whose length is known
        self._length_known = False  # whether the block that messages now belong to is one of these
        self._announced_tokens = 0
        self._end: End | None = None
        self._z_bytes = 0
        self._agreed = 0  # tokens before the last check that held

    def take(self, message: Message) -> None:
        """Accept BLOCK, DATA, CHECK or END. Raises a `RemoteProtocolError` where they contradict each other."""
        spec = self.decoder.spec
        match message:
            case Block(index=index, tokens=tokens):
                if self._length_known or index != self._announced or not 1 <= tokens < spec.block_tokens:
                    raise BadFrameError(f"BLOCK {index} of {tokens} tokens has no place here")
                self._announce(tokens)
            case Data(z=z):
                self._open_block()
                self._z_bytes += len(z)
                self.decoder.feed(z)
            case Check():
                self._open_block()
                self._length_known = False
                if message.position != self._announced_tokens:
                    raise BadFrameError(f"a CHECK at token {message.position}, the block ends at {self._announced_tokens}")
                self._checks.append(message)
            case End():
                if message.z_bits > 8 * self._z_bytes or message.z_bits <= 8 * self._z_bytes - 8:
                    raise BadFrameError(f"END says {message.z_bits} bits, {self._z_bytes} bytes have come")
                self._end = message
                self.decoder.close(message.z_bits)
            case _:
                raise BadFrameError(f"{type(message).__name__.upper()} is no part of a dataset")

    def step(self) -> bool:
        """Decode one segment, or check one block; False if there is nothing to do before more has come.

        Raises `DivergedError`, `CorruptCodeError`, `DigestMismatchError` or a `RemoteProtocolError`.
        """
        decoder = self.decoder
        if not decoder.in_block and self._lengths:
            decoder.begin_block(self._lengths.popleft())
        if decoder.in_block and not decoder.block_done:
            started = self._clock()
            gained = decoder.decode()
            self.seconds += self._clock() - started
            return gained > 0
        if self._end is not None and not decoder.in_block and not self.finished:
            self._finish(self._end)
        return False

    def take_block(self) -> tuple[Tokens, Tokens] | None:
        """The next block's tokens and their costs in units of 2^-24 bit, once its CHECK has come and held."""
        if not (self.decoder.block_done and self._checks):
            return None
        theirs = self._checks.popleft()
        ours: codec.Check = self.decoder.check(with_digest=theirs.digest is not None)
        if (ours.position, ours.crc, ours.digest) != (theirs.position, theirs.crc, theirs.digest):
            raise DivergedError(self._agreed, max(ours.position, theirs.position), *self._fingerprints)
        self._agreed = ours.position
        tokens, costs = self.decoder.take_block()
        self._digest.update(from_tokens(tokens, self.decoder.spec.vocabulary))
        return tokens, costs

    def _open_block(self) -> None:
        if not self._length_known:
            self._announce(self.decoder.spec.block_tokens)

    def _announce(self, tokens: int) -> None:
        self._announced += 1
        self._announced_tokens += tokens
        self._length_known = True
        if self._announced_tokens > self._max_tokens:
            raise LimitError("tokens", self._announced_tokens, self._max_tokens)
        self._lengths.append(tokens)

    def _finish(self, end: End) -> None:
        if self._length_known or self._lengths or self._checks:
            raise BadFrameError("END comes before the CHECK of the last block")
        found = self._digest.hexdigest()
        if self._agreed != end.tokens or found != end.sha256.hex():
            raise DigestMismatchError(end.sha256.hex(), found)
        self.sha256 = found
        self.finished = True
