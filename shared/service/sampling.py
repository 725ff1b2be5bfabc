"""Sampling at Bob: fair coin flips into the decoder, at the state in which he ended. A job for a worker.

That state is also the one in which an encoder of the same data ends: it is found by coding the reconstruction once more, to
nowhere, and kept for the next time. Flips come from a seed (SHA-256 of `<seed> <counter>`, 32 bytes each) or from the system.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.code.codec import Encoder, Sample, sample
from shared.code.models import build
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec
from shared.service.coding import read_blocks
from shared.service.kernels import ready_for
from shared.service.starts import Origin, TrainedModels
from shared.service.worker import Aborted, Output, Pipe, ready_predictor

_PART_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleJob:
    """Draw `tokens` tokens. reconstruction: the file that Bob decoded, of `length` tokens. steps: k at its end.

    seed: of the flips; None for the system's.
    """

    spec: bytes
    transmission: str
    reconstruction: str
    length: int
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
        kept = TrainedModels(Path(self.snapshots), self.max_bytes)
        family = hashlib.sha256(f"{spec.digest()} the end of {self.transmission}".encode()).hexdigest()
        predictor = build(spec)
        if spec.frozen:
            predictor.freeze()
        if not kept.restore(predictor, family, self.steps):
            predictor = self._replay(spec, pipe)
            kept.put(predictor, family)
        predictor.freeze()
        stream, position = _place(self.length, spec)
        drawn = sample(spec, predictor, self.tokens, stream, flips_of(self.seed))
        pipe.send(Output(finished=True, result=Sampled(sample=drawn, position=position)))

    def _replay(self, spec: CodeSpec, pipe: Pipe) -> Predictor:
        predictor, _ = ready_predictor(spec, self.origin, pipe)
        encoder = Encoder(spec, predictor)
        with Path(self.reconstruction).open("rb") as file:
            for block in read_blocks(file.read, spec):
                for _ in encoder.encode_block(block):
                    encoder.drain()
                    if pipe.told_to_stop():
                        raise Aborted
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


def _place(length: int, spec: CodeSpec) -> tuple[int, int]:
    """The last stream that has run to the end of its rows, and the place in D after which it goes on."""
    if not length:
        return 0, 0
    before = (length - 1) // spec.block_tokens * spec.block_tokens
    rows = -(-(length - before) // spec.streams)
    stream = (length - before) // rows - 1
    return stream, before + (stream + 1) * rows
