"""Streams spread over ranks: the code, the weights and the state are those of one rank."""

import threading

import numpy as np
import pytest

from shared.code.errors import StateError
from shared.code.models import build, build_trunk
from shared.code.models.trunk import follow, leave
from shared.service.ranks import device_of, group_backend
from tests.support import decode, encode, small

TOKENS = np.frombuffer((b"A rank has all weights and some of the streams. " * 12)[:430], dtype=np.uint8).astype(np.uint32)


@pytest.mark.parametrize(
    ("device", "gpus", "backend", "devices"),
    [
        ("cpu", 8, "gloo", ["cpu"] * 4),
        ("cuda", 4, "cpu:gloo,cuda:nccl", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 2, "gloo", ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda:1", 4, "gloo", ["cuda:1"] * 4),
    ],
)
def test_nccl_only_where_each_rank_has_a_gpu(monkeypatch, device, gpus, backend, devices):
    monkeypatch.setenv("CODELENGTH_DEVICE", device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    assert group_backend(4) == backend
    assert [device_of(rank) for rank in range(4)] == devices


class ThreadRanks:
    """Ranks that are threads of this process; `table` is what they all see."""

    def __init__(self, rank, size, table, barrier):
        self.rank, self.size = rank, size
        self._table, self._barrier = table, barrier

    def _all(self, value):
        self._barrier.wait()
        self._table[self.rank] = value
        self._barrier.wait()
        found = list(self._table)
        self._barrier.wait()
        return found

    def maximum(self, value):
        return max(self._all(value))

    def add(self, sums):
        sums[...] = sum(self._all(sums.copy()))

    def broadcast(self, array):
        array[...] = self._all(array.copy())[0]

    def gather(self, part, whole):
        parts = self._all(part.copy())
        if self.rank == 0:
            for place, one in zip(whole, parts, strict=True):
                place[...] = one.reshape(place.shape)

    def scatter(self, part, whole):
        part[...] = self._all(whole.copy())[0][self.rank].reshape(part.shape)


class Team:
    """A predictor of so many ranks, as a context manager."""

    def __init__(self, spec, size):
        barrier, table = threading.Barrier(size, timeout=60), [None] * size
        ranks = [ThreadRanks(rank, size, table, barrier) for rank in range(size)]
        self._followers = [
            threading.Thread(target=lambda r=r: follow(build_trunk(spec, r), spec, r), daemon=True) for r in ranks[1:]
        ]
        for one in self._followers:
            one.start()
        self._leader = ranks[0]
        self.predictor = build(spec, self._leader)

    def __enter__(self):
        return self.predictor

    def __exit__(self, *_):
        if self._followers:
            leave(self._leader)
        for one in self._followers:
            one.join(60)


@pytest.mark.parametrize("name", ["recurrent", "transformer", "transformer-tables"])
def test_z_and_the_weights_are_the_same_for_any_number_of_ranks(name):
    """Alice with four ranks, Bob with one and with two; the last block leaves some streams a row short."""
    spec = small(name, streams=4)
    z, bits, units, checks = encode(spec, TOKENS)
    for size in (2, 4):
        with Team(spec, size) as predictor:
            assert encode(spec, TOKENS, predictor) == (z, bits, units, checks)
            assert predictor.digest() == checks[-1].digest
    replayed = small(name, streams=4, training={"replay": {"passes": 1, "history_bits": 8}})
    with Team(replayed, 2) as predictor:
        assert encode(replayed, TOKENS, predictor) == encode(replayed, TOKENS)
    with Team(spec, 2) as predictor:
        tokens, found = decode(spec, z, bits, len(TOKENS), 7, predictor)
    assert (tokens == TOKENS).all()
    assert found == checks


@pytest.mark.parametrize("name", ["recurrent", "transformer"])
def test_a_state_goes_from_any_number_of_ranks_to_any_other(name):
    spec = small(name, streams=4, block_tokens=len(TOKENS))
    one = build(spec)
    encode(spec, TOKENS, one)
    with Team(spec, 2) as two:
        two.restore(one.state_bytes())
        assert two.state_bytes() == one.state_bytes()
        with pytest.raises(StateError):
            two.restore(one.state_bytes()[:-1])
        encode(spec, TOKENS, two)
        encode(spec, TOKENS, one)
        assert two.digest() == one.digest()
        one.freeze()
        two.freeze()
        assert encode(spec, TOKENS, two) == encode(spec, TOKENS, one)
