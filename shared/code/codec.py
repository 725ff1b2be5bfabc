"""Where model and coder meet: tokens in blocks to code bits, and back, with a cost for every token.

A block of L tokens is laid out as T = ⌈L/B⌉ rows of B streams: stream b holds tokens bT … min((b+1)T, L) - 1. Rows are coded in
segments of `segment_tokens` rows; the predictor learns from each. The code is one and continuous: blocks only mark where both
sides compare (`check`). Nothing here knows channels, files or clocks.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.code import arithmetic
from shared.code.errors import CorpusError, StateError
from shared.code.models import build
from shared.code.models.base import I64, U32, Predictor
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import NETWORKS, CodeSpec
from shared.code.vocabulary import Tokens, check_range

_STATE: Final = struct.Struct("<QQQQ")
_JUDGED_TOKENS: Final = 1000
_FLIP_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens just coded: how many, and their costs added up, in units of 2^-24 bit."""

    tokens: int
    cost_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What both sides compare at the end of a block.

    position: tokens coded. crc: CRC-32 over the coder's triples since the last check. digest: SHA-256 of the predictor's
    state, 32 bytes, where asked for.
    """

    position: int
    crc: int
    digest: bytes | None


class _Layout:
    """A block as the rows and streams in which it is coded."""

    def __init__(self, tokens: int, streams: int) -> None:
        self.tokens = tokens
        self.rows = -(-tokens // streams)
        starts = np.arange(streams, dtype=np.int64) * self.rows
        self.lengths: I64 = np.clip(tokens - starts, 0, self.rows)
        self.grid: U32 = np.zeros((streams, self.rows), dtype=np.uint32)
        self.costs: U32 = np.zeros((streams, self.rows), dtype=np.uint32)

    def flat(self, grid: U32) -> U32:
        """The block's tokens, or costs, in the dataset's order."""
        return np.ascontiguousarray(grid).reshape(-1)[: self.tokens]

    def segment(self, first: int, rows: int) -> tuple[U32, I64, U32]:
        """Tokens [T, B], lengths [B] and costs [T, B] of the rows first … first + T - 1; tokens and costs are views."""
        part = slice(first, first + rows)
        return self.grid.T[part], np.clip(self.lengths - first, 0, rows), self.costs.T[part]


class _Codec:
    """What both directions count."""

    _coder: arithmetic.Encoder | arithmetic.Decoder

    def __init__(self, spec: CodeSpec, predictor: Predictor | None) -> None:
        self.spec = spec
        self._predictor = predictor or first_predictor(spec)
        self.position = 0
        """Tokens coded."""
        self.nll_units = 0
        """Σ −log2 p so far, in units of 2^-24 bit."""
        self.z_bits = 0
        """Length of the code: exact once finished, before that the bits that have left the coder."""
        self.notes: list[str] = []
        """What there was to tell of the model at the end of some block, in sentences; see `Predictor.notes`."""
        self._judged = 0, 0  # position and nll_units up to which the cost was compared with the uniform one

    @property
    def steps(self) -> int:
        """k: segments the predictor has learned from."""
        return self._predictor.steps

    @property
    def max_decisions(self) -> int:
        """Upper bound of coder decisions in one row of B tokens."""
        return self._predictor.max_decisions

    @property
    def frequencies(self) -> I64 | None:
        """The integer frequencies [m] of the token coded last; None where a token is not one decision of the coder."""
        return self._predictor.frequencies

    def model_digest(self) -> bytes:
        """SHA-256 of the predictor's state, 32 bytes."""
        return self._predictor.digest()

    def check(self, *, with_digest: bool) -> Check:
        """Describe the block just finished; starts the next CRC."""
        self._judge()
        digest = self._predictor.digest() if with_digest else None
        return Check(position=self.position, crc=self._coder.take_crc(), digest=digest)

    def _judge(self) -> None:
        """Take the predictor's notes, and see whether a trained model predicts far worse than p = 1/m."""
        found = self._predictor.notes()
        tokens, units = self.position - self._judged[0], self.nll_units - self._judged[1]
        if tokens >= _JUDGED_TOKENS and isinstance(self.spec.model, NETWORKS):
            uniform = int(arithmetic.log2_units(np.uint64(self.spec.vocabulary_size)))
            if units > (uniform + arithmetic.COST_UNITS_PER_BIT) * tokens:
                found = [*found, "training diverges, or the data changed much: a block cost over 1 bit a token more than p = 1/m"]
            self._judged = self.position, self.nll_units
        self.notes += [note for note in found if note not in self.notes]

    def state_bytes(self) -> bytes:
        """Everything needed to go on from here, between two blocks."""
        return b"".join(self.state_parts())

    def state_parts(self) -> Iterator[bytes | memoryview]:
        """The same in parts, without a copy of the predictor's tables; they change when the codec goes on."""
        coder = self._coder.state_bytes()
        yield _STATE.pack(self.position, self.nll_units, self.z_bits, len(coder)) + coder
        yield from self._predictor.state_parts()

    def restore(self, data: bytes | memoryview) -> None:
        """Go back to `state_bytes` of the same spec and direction. Raises `StateError`."""
        if len(data) < _STATE.size:
            raise StateError("it is too short for a codec")
        position, nll_units, z_bits, size = _STATE.unpack_from(data)
        before = self._coder.state_bytes()
        self._coder.restore(bytes(data[_STATE.size : _STATE.size + size]))
        try:
            self._predictor.restore(data[_STATE.size + size :])
        except StateError:
            self._coder.restore(before)
            raise
        self.position, self.nll_units, self.z_bits = position, nll_units, z_bits


class Encoder(_Codec):
    """Tokens to code bits."""

    _coder: arithmetic.Encoder

    def __init__(self, spec: CodeSpec, predictor: Predictor | None = None) -> None:
        super().__init__(spec, predictor)
        self._coder = arithmetic.Encoder()
        self.costs: U32 = np.zeros(0, dtype=np.uint32)
        """Costs of the last complete block's tokens, in units of 2^-24 bit."""

    def encode_block(self, tokens: Tokens, *, skipped: int = 0) -> Iterator[Segment]:
        """Code one block, segment by segment, but for the first `skipped`; drain between them as you like.

        Raises `VocabularyError` before it starts.
        """
        check_range(tokens, self.spec.vocabulary, position=self.position)
        layout = _Layout(len(tokens), self.spec.streams)
        layout.grid.reshape(-1)[: len(tokens)] = tokens
        for first in range(skipped * self.spec.segment_tokens, layout.rows, self.spec.segment_tokens):
            rows = min(self.spec.segment_tokens, layout.rows - first)
            part, lengths, costs = layout.segment(first, rows)
            self._coder.reserve(rows * self._predictor.max_decisions)
            self._predictor.code(part, lengths, 0, self._coder, costs)
            units = int(costs.sum(dtype=np.uint64))
            coded = int(lengths.sum())
            self.position += coded
            self.nll_units += units
            self.z_bits = 8 * self._coder.emitted_bytes
            yield Segment(tokens=coded, cost_units=units)
        self.costs = layout.flat(layout.costs)

    def interval(self) -> tuple[int, int, int]:
        """The coder's interval, before the first drain: low, width, scale; any code in [low, low + width) / 2^scale will do."""
        return self._coder.interval()

    def drain(self) -> bytes:
        """The code bytes that are settled, each given out once."""
        return self._coder.drain()

    def finish(self) -> int:
        """End the code; the rest is to be drained. Returns its length in bits."""
        self.z_bits = self._coder.finish()
        return self.z_bits


class Decoder(_Codec):
    """Code bits to tokens, as they arrive."""

    _coder: arithmetic.Decoder

    def __init__(self, spec: CodeSpec, predictor: Predictor | None = None) -> None:
        super().__init__(spec, predictor)
        self._coder = arithmetic.Decoder()
        self._layout: _Layout | None = None
        self._row = 0

    def feed(self, data: bytes) -> None:
        """Add code bytes."""
        self._coder.feed(data)
        self.z_bits += 8 * len(data)

    @property
    def unread_bytes(self) -> int:
        """Code bytes fed and not yet needed."""
        return self._coder.unread_bytes

    def close(self, z_bits: int) -> None:
        """No more bytes will come: the code is `z_bits` long."""
        self._coder.close()
        self.z_bits = z_bits

    def begin_block(self, tokens: int) -> None:
        """Expect a block of this many tokens, at least one."""
        self._layout = _Layout(tokens, self.spec.streams)
        self._row = 0

    @property
    def block_done(self) -> bool:
        """Whether the open block is complete."""
        return self._layout is not None and self._row == self._layout.rows

    @property
    def in_block(self) -> bool:
        """Whether a block is open, complete or not."""
        return self._layout is not None

    def decode(self) -> int:
        """Decode at most one segment of the open block; returns the tokens gained, 0 if input is lacking or the block done.

        Raises `CorruptCodeError` where the code is damaged so that the coder itself notices.
        """
        layout = self._layout
        if layout is None or self._row == layout.rows:
            return 0
        size = self.spec.segment_tokens
        first = self._row - self._row % size
        rows = min(size, layout.rows - first)
        part, lengths, costs = layout.segment(first, rows)
        start = self._row - first
        end = self._predictor.code(part, lengths, start, self._coder, costs)
        self._row = first + end
        gained = int((np.minimum(lengths, end) - np.minimum(lengths, start)).sum())
        self.position += gained
        self.nll_units += int(costs[start:end].sum(dtype=np.uint64))
        self._coder.check(self.position)
        return gained

    def open_block(self, rows: int) -> list[tuple[int, Tokens, U32]]:
        """The open block's newest rows, at most `rows`, of which nothing has been checked yet.

        For every stream: the place in the block of its first token there, the tokens, and their costs.
        """
        layout, found = self._layout, []
        if layout is not None:
            for stream, length in enumerate(layout.lengths.tolist()):
                part = slice(max(0, self._row - rows), min(self._row, length))
                if part.start < part.stop:
                    place = stream * layout.rows + part.start
                    found.append((place, layout.grid[stream, part].copy(), layout.costs[stream, part].copy()))
        return found

    def take_block(self) -> tuple[Tokens, U32]:
        """The complete block's tokens and their costs, uint32 [L] each; the block is closed."""
        layout = self._layout
        if layout is None or self._row != layout.rows:
            raise RuntimeError("the block is not complete")
        self._layout = None
        return layout.flat(layout.grid), layout.flat(layout.costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Tokens drawn from a model: −log2 of their interval, in units of 2^-24 bit, and the coin flips that the decoder took in."""

    tokens: Tokens
    nll_units: int
    flips: int


def sample(spec: CodeSpec, predictor: Predictor, tokens: int, stream: int, flips: Callable[[int], bytes]) -> Sample:
    """Draw tokens from a frozen predictor: decode what fair coin flips say.

    stream: the one that goes on; the others stand still. flips: gives so many bytes of fair flips. They name a place in [0, 1),
    and the tokens are those in whose interval it lies: each with the probability that the coder gives it.
    """
    coder = arithmetic.Decoder()
    drawn: U32 = np.zeros(tokens, dtype=np.uint32)
    units = 0
    for first in range(0, tokens, spec.segment_tokens):
        rows = min(spec.segment_tokens, tokens - first)
        grid: U32 = np.zeros((rows, spec.streams), dtype=np.uint32)
        costs: U32 = np.zeros((rows, spec.streams), dtype=np.uint32)
        lengths: I64 = np.zeros(spec.streams, dtype=np.int64)
        lengths[stream] = rows
        done = 0
        while (done := predictor.code(grid, lengths, done, coder, costs)) < rows:
            coder.feed(flips(_FLIP_BYTES))
        coder.check(first + rows)
        drawn[first : first + rows] = grid[:, stream]
        units += int(costs.sum(dtype=np.uint64))
    return Sample(tokens=drawn, nll_units=units, flips=8 * coder.read_bytes)


def first_predictor(spec: CodeSpec, ranks: Ranks = ALONE) -> Predictor:
    """P^(0), frozen where the spec is; ranks: as for `build`.

    Raises `CorpusError` where the spec starts from a corpus: see `prepare`.
    """
    if spec.start is not None:
        raise CorpusError(spec.start.corpus, "the code starts from it, and it is not given")
    predictor = build(spec, ranks)
    if spec.frozen:
        predictor.freeze()
    return predictor


def prepare(
    spec: CodeSpec,
    blocks: Callable[[], Iterable[Tokens]],
    predictor: Predictor | None = None,
    *,
    finish: Callable[[Predictor], None] = lambda _: None,
) -> Iterator[tuple[Predictor, bool]]:
    """The predictor at step k of a spec that starts from a corpus: after every segment the predictor, and whether it is done.

    blocks: the corpus, in blocks of `block_tokens`, from its beginning, as often as it is called. It is coded as D would be, to
    nowhere: in the same blocks, rows and segments, one step for each, and from the beginning again where it ends. predictor: one
    that has taken some of these steps. The done one is frozen where the spec is, after `finish` has seen it.
    Raises `CorpusError` if the corpus is empty.
    """
    start = spec.start
    assert start is not None
    predictor = predictor or build(spec)
    encoder = Encoder(spec, predictor)
    done = start.steps if predictor.steps == start.steps else 0  # steps passed over or taken
    while done < start.steps:
        before = done
        for block in blocks():
            rows = -(-len(block) // spec.streams)
            segments = -(-rows // spec.segment_tokens)
            skipped = min(segments, max(0, predictor.steps - done))
            done += skipped
            for _ in encoder.encode_block(block, skipped=skipped) if done < start.steps else ():
                encoder.drain()
                done += 1
                if done == start.steps:
                    break
                yield predictor, False
            if done == start.steps:
                break
        if done == before:
            raise CorpusError(start.corpus, "it is empty, nothing can be learned from it")
    finish(predictor)
    if spec.frozen:
        predictor.freeze()
    yield predictor, True
