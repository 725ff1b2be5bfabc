"""The time that `auto` has is for coding: compiling kernels, which may take a minute, neither counts nor is left out of it."""

import numpy as np

from shared.code.models import preset
from shared.code.spec import BytesVocabulary
from shared.service import choosing

PART = np.zeros(20_000, np.uint32)
CODES = {"uniform": 0, "frequency": 0, "ngram": 0}


class Machine:
    """A clock, and an Encoder under which it goes on by 60 s where kernels are used for the first time, then by 1 s a segment."""

    def __init__(self):
        self.seconds, self.compiled = 0.0, set()
        machine, real = self, choosing.Encoder

        class Encoder(real):
            def encode_block(self, tokens, **more):
                if self.spec.model.kind not in machine.compiled:
                    machine.compiled.add(self.spec.model.kind)
                    machine.seconds += 60
                for segment in super().encode_block(tokens, **more):
                    machine.seconds += 1
                    yield segment

        self.Encoder = Encoder


def chosen(monkeypatch, seconds):
    machine = Machine()
    monkeypatch.setattr(choosing, "Encoder", machine.Encoder)
    _, trials = choosing.choose(BytesVocabulary(), PART, len(PART), CODES, seconds, clock=lambda: machine.seconds)
    return {one["code"]: one for one in trials}


def test_compiling_is_not_counted(monkeypatch):
    segments = -(-len(PART) // preset("ngram").segment_tokens)
    trials = chosen(monkeypatch, 3 * segments)
    assert [one["seconds"] for one in trials.values()] == [segments] * 3
    assert all(one["sk_bits"] is not None for one in trials.values())


def test_coding_ends_with_the_time_at_a_segment(monkeypatch):
    trials = chosen(monkeypatch, 6.5)
    assert [one["seconds"] for one in trials.values()] == [5, 2, 0]
    assert [one["sk_bits"] is None for one in trials.values()] == [False, True, True]
    assert (trials["frequency"]["tokens"], trials["ngram"]["tokens"]) == (2 * 4096, 0)
