"""The ranks of a worker as processes of this machine, which speak through `torch.distributed`.

What lies on the CPU goes by gloo; what lies on GPUs by NCCL where each rank has one of its own, else by gloo too.
`kernels.ranks_for` says how many, the worker itself being the leader. The others start when the first network needs them, and end
with the worker: their standard input is a pipe that only it holds.
"""

import os
import subprocess
import sys
import tempfile
import threading
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from shared.code.models import build_trunk
from shared.code.models.trunk import follow, leave
from shared.code.ranks import Ranks
from shared.code.spec import CodeSpec
from shared.service.backends import prepare

_PATIENCE: Final = timedelta(days=3650)  # a worker may be idle for long; one that is gone is noticed at once
_COMMAND: Final = "from shared.service.ranks import main; main()"
Array = npt.NDArray[Any]


def device_of(rank: int) -> str:
    """Where a rank computes: `cuda` is the ranks' GPUs in turn."""
    wanted = os.environ.get("CODELENGTH_DEVICE", "cpu")
    return f"cuda:{rank % max(1, torch.cuda.device_count())}" if wanted == "cuda" else wanted


def group_backend(size: int) -> str:
    """What the ranks speak through; NCCL wants a GPU for each."""
    own = os.environ.get("CODELENGTH_DEVICE") == "cuda" and torch.cuda.device_count() >= size
    return "cpu:gloo,cuda:nccl" if own and distributed.is_nccl_available() else "gloo"


class Processes:
    """One of the ranks, which meet at a file. Raises `RuntimeError` once one of them is gone."""

    def __init__(self, meeting: str, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        distributed.init_process_group(
            group_backend(size), init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=_PATIENCE
        )
        self.maximum(0.0)  # all have met, and the file is needed no more

    def maximum(self, value: Any) -> float:
        """The largest of all ranks' numbers."""
        found = torch.tensor([float(value)])
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return float(found)

    def add(self, sums: Any) -> None:
        """Replace `sums` by their sum over the ranks."""
        distributed.all_reduce(torch.as_tensor(sums))

    def broadcast(self, array: Array) -> None:
        """Replace the array by the leader's."""
        distributed.broadcast(_octets(array), 0)

    def gather(self, part: Array, whole: Array) -> None:
        """Set the leader's `whole` to all ranks' parts."""
        distributed.gather(_octets(part), [_octets(one) for one in whole] if self.rank == 0 else None)

    def scatter(self, part: Array, whole: Array) -> None:
        """Set each rank's part to what the leader's `whole` has for it."""
        distributed.scatter(_octets(part), [_octets(one) for one in whole] if self.rank == 0 else None)


def _octets(array: Array) -> torch.Tensor:
    """The same memory, as gloo moves it whatever the type."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


class Leading:
    """The leader's ranks, and which spec they are at work on."""

    def __init__(self, size: int) -> None:
        directory = tempfile.TemporaryDirectory(prefix="codelength-ranks-")
        meeting = str(Path(directory.name) / "meeting")
        self._followers = [
            subprocess.Popen(  # noqa: S603 - our own Python
                [sys.executable, "-c", _COMMAND, meeting, str(rank), str(size), device_of(rank)], stdin=subprocess.PIPE, stdout=2
            )
            for rank in range(1, size)
        ]
        self._ranks = Processes(meeting, 0, size)
        directory.cleanup()
        self._at_work = False

    def begin(self, spec: CodeSpec) -> Ranks:
        """The ranks for a new predictor of a spec, which ends the one before: the others make their trunks anew."""
        if self._at_work:
            leave(self._ranks)
        text = np.frombuffer(spec.canonical_bytes(), dtype=np.uint8).copy()
        self._ranks.broadcast(np.array([len(text)], dtype=np.int64))
        self._ranks.broadcast(text)
        self._at_work = True
        return self._ranks


@cache
def leading(size: int) -> Leading:
    """The ranks of this process, started at the first call."""
    return Leading(size)


def main() -> None:
    """Follow the leader, one spec after the other."""
    threading.Thread(target=_end_with_leader, daemon=True).start()
    meeting, rank, size, device = sys.argv[1:]
    ranks = Processes(meeting, int(rank), int(size))
    os.environ["CODELENGTH_DEVICE"] = device
    length = np.zeros(1, dtype=np.int64)
    while True:
        ranks.broadcast(length)
        text = np.zeros(int(length[0]), dtype=np.uint8)
        ranks.broadcast(text)
        spec = CodeSpec.parse(text.tobytes())
        prepare()
        follow(build_trunk(spec, ranks), spec, ranks)


def _end_with_leader() -> None:
    os.read(0, 1)
    os._exit(0)
