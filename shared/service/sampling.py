"""Sampling at Bob: fair coin flips into the decoder, at the state in which he ended. A job for a worker.

He keeps z and the lengths of the blocks; the state is found again by decoding them once more, and kept as a snapshot for the
next time. Flips come from a seed (SHA-256 of `<seed> <counter>`, 32 bytes each) or from the system.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.code.codec import Decoder, Sample, first_predictor, sample
from shared.code.models import build
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec
from shared.service.errors import ConflictError
from shared.service.kernels import ready_for
from shared.service.snapshots import Origin, Snapshots
from shared.service.worker import Aborted, Output, Pipe, ready_predictor

_PART_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleJob:
    """Draw `tokens` tokens. directory: Bob's files of the transmission. steps: k at its end.

    seed: of the flips; None for the system's.
    """

    spec: bytes
    transmission: str
    directory: str
    steps: int
    tokens: int
    seed: int | None
    origin: Origin | None
    snapshots: str
    max_bytes: int

    def run(self, pipe: Pipe) -> None:
        """Do it; the result is a `Sampled`."""
        spec = CodeSpec.parse(self.spec)
        ready_for(spec)
        kept = Snapshots(Path(self.snapshots), self.max_bytes)
        family = hashlib.sha256(f"{spec.digest()} the end of {self.transmission}".encode()).hexdigest()
        lengths = self._lengths()
        predictor = build(spec)
        if spec.frozen:
            predictor.freeze()
        if not kept.restore(predictor, family, self.steps):
            predictor = self._replay(spec, lengths, pipe)
            kept.put(predictor, family)
        predictor.freeze()
        stream, position = _place(lengths, spec.streams)
        drawn = sample(spec, predictor, self.tokens, stream, flips_of(self.seed))
        pipe.send(Output(finished=True, result=Sampled(sample=drawn, position=position)))

    def _lengths(self) -> list[int]:
        path = Path(self.directory) / "blocks.jsonl"
        if not path.exists() or not (path.parent / "z").exists():
            raise ConflictError(f"the code of transmission {self.transmission} is not kept any more")
        return [json.loads(line)["tokens"] for line in path.read_bytes().splitlines()]

    def _replay(self, spec: CodeSpec, lengths: list[int], pipe: Pipe) -> Predictor:
        predictor, _ = ready_predictor(spec, self.origin, pipe)
        predictor = predictor or first_predictor(spec)
        decoder = Decoder(spec, predictor)
        with (Path(self.directory) / "z").open("rb") as file:
            for length in lengths:
                decoder.begin_block(length)
                while not decoder.block_done:
                    if decoder.decode() == 0 and not decoder.block_done:
                        if part := file.read(_PART_BYTES):
                            decoder.feed(part)
                        else:
                            decoder.close(decoder.z_bits)
                    if pipe.told_to_stop():
                        raise Aborted
                decoder.take_block()
        return predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was drawn, and how many tokens of D stand before it in its stream's context and all that precedes."""

    sample: Sample
    position: int


def flips_of(seed: int | None) -> Callable[[int], bytes]:
    """Coin flips, so many bytes at a time."""
    if seed is None:
        return secrets.token_bytes
    counter, waiting = 0, b""

    def draw(count: int) -> bytes:
        nonlocal counter, waiting
        while len(waiting) < count:
            waiting += hashlib.sha256(f"{seed} {counter}".encode()).digest()
            counter += 1
        out, waiting = waiting[:count], waiting[count:]
        return out

    return draw


def _place(lengths: list[int], streams: int) -> tuple[int, int]:
    """The last stream that has run to the end of its rows, and the place in D after which it goes on."""
    if not lengths:
        return 0, 0
    rows = -(-lengths[-1] // streams)
    stream = lengths[-1] // rows - 1
    return stream, sum(lengths[:-1]) + (stream + 1) * rows
