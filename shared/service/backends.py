"""Which back end multiplies f's integers on this machine: timed here, offered and checked by `shared.code.exact.products`.

All of them give the same integers (they are proven equal by tests), so the choice is a property of the machine and never of f.
"""

import os
import time
from typing import Final

import torch

from shared.code.exact import products

_SHAPES: Final = ((256, 256, 384), (16, 256, 384))  # rows, inner and columns as the presets have them: a segment, and a position
_SECONDS: Final = 0.03


def choose(wanted: str = "auto") -> dict[str, float]:
    """Choose a back end by name, or the fastest one; returns seconds per product of each that is exact here.

    Raises `ValueError` for a name that is unknown or not exact here.
    """
    exact = products.available()
    if wanted not in ("auto", *exact):
        raise ValueError(f"the product back end {wanted!r} is not exact on this machine; {', '.join(exact)} are")
    timings = {name: _seconds(products.BACKENDS[name]) for name in exact}
    products.choose(min(timings, key=timings.__getitem__) if wanted == "auto" else wanted)
    return timings


def _seconds(backend: products.Backend) -> float:
    """Seconds of the products of one segment coded and trained on, by the fastest of several tries."""
    total = 0.0
    for rows, inner, columns in _SHAPES:
        left = torch.ones((rows, inner), dtype=torch.int16)
        right = backend(torch.ones((inner, columns), dtype=torch.int16))
        best, until = float("inf"), time.perf_counter() + _SECONDS
        while time.perf_counter() < until:
            started = time.perf_counter()
            right.times(left)
            best = min(best, time.perf_counter() - started)
        total += best * (1 if rows > 16 else 4)
    return total


def set_threads(count: int) -> None:
    """How many threads torch's products may use in this process."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)
