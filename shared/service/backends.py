"""What computes a network on this machine: threads, and the back end of its products, timed here and checked by `products`.

All back ends give the same integers (they are proven equal by tests), so the choice is a property of the machine and never of f.
Three environment variables say what is wanted: CODELENGTH_DEVICE, CODELENGTH_PRODUCTS and CODELENGTH_WORKER_THREADS. torch is
imported here, late.
"""

import os
import time
from functools import cache
from typing import Final

import torch

from shared.code.errors import MachineError
from shared.code.exact import fused, kernels, products

_SHAPES: Final = ((256, 256, 384), (16, 256, 384))  # rows, inner and columns as the presets have them: a segment, and a position
_SECONDS: Final = 0.03


def prepare() -> dict[str, float]:
    """Make this process ready for networks; returns seconds per segment of products of each back end that is exact here.

    Raises `MachineError` where the processor flushes denormal numbers, or where the device or back end wanted is not there or
    not exact.
    """
    torch.set_num_threads(int(os.environ.get("CODELENGTH_WORKER_THREADS", "1")))
    check_denormals()
    wanted = os.environ.get("CODELENGTH_PRODUCTS", "auto")
    device = os.environ.get("CODELENGTH_DEVICE", "cpu")
    if device != "cpu":
        if not torch.cuda.is_available():
            raise MachineError(f"CODELENGTH_DEVICE is {device}, and torch finds no CUDA device here")
        index, there = device.partition(":")[2], torch.cuda.device_count()
        if index and int(index) >= there:
            raise MachineError(f"CODELENGTH_DEVICE is {device}, and there are {there} CUDA devices, counted from 0")
        if index:
            torch.cuda.set_device(int(index))  # CUDA graphs are recorded on the current device
        kernels.choose("reference", device)
    timings = _timings(device)
    if not timings:
        raise MachineError(f"no back end of products is exact on {device}, or it has no memory left")
    if wanted not in ("auto", *timings):
        raise MachineError(f"the product back end {wanted!r} is not exact on this machine; {', '.join(timings)} are")
    products.choose(min(timings, key=timings.__getitem__) if wanted == "auto" else wanted)
    return dict(timings)


@cache
def _timings(device: str) -> dict[str, float]:
    """Once per process: checking and timing takes half a second, and `ready_for` runs for every file."""
    return {name: _seconds(products.BACKENDS[name], device) for name in products.available(device)}


def check_denormals() -> None:
    """Raise `MachineError` if this thread's processor replaces denormal numbers by zero."""
    if not fused.keeps_denormals() or float(torch.tensor(2.0**-126) * 0.5) == 0.0:
        raise MachineError("the processor replaces denormal numbers by zero (flush-to-zero is on); f would not be exact")


def _seconds(backend: products.Backend, device: str) -> float:
    """Seconds of the products of one segment coded and trained on, by the fastest of several tries."""
    total = 0.0
    for rows, inner, columns in _SHAPES:
        left = torch.ones((rows, inner), dtype=torch.int16, device=device)
        right = backend(torch.ones((inner, columns), dtype=torch.int16, device=device))
        best, until = float("inf"), time.perf_counter() + _SECONDS
        while time.perf_counter() < until:
            started = time.perf_counter()
            float(right.times(left)[0, 0])  # waits for a GPU
            best = min(best, time.perf_counter() - started)
        total += best * (1 if rows > 16 else 4)
    return total
