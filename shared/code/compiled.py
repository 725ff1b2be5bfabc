"""The one way in which f is compiled: numba, integers, no fast mathematics, results cached on disk.

`kernel` is `numba.njit` with the settings that exactness needs, typed so that the checker sees through it. Where the
cache lies is the machine's business (`shared.service.kernels`), not f's.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call.

    `error_model="numpy"` leaves out the checks for division by zero, which no kernel here can meet: totals are
    positive by contract. `nogil` lets a service thread answer while a kernel runs.
    """
    compiled: Any = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")
    return cast("Callable[P, R]", compiled(function))
