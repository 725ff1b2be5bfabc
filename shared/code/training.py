"""The optimiser's schedule: what an update at step k multiplies by. Exact: rates are integers in units of 2^-20, their roots too.

Adam (D. P. Kingma and J. L. Ba 2015) with a rate that falls as 1 / √(1 + decay · k) and a clipped direction.
"""

from math import isqrt
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.code.spec import Adam

_UNIT: Final = 1 << 20
_EPSILON: Final = 2.0**-27
_CEILING: Final = 4.0


class Step:
    """The factors of one update, the same for all weights."""

    def __init__(self, optimizer: Adam) -> None:
        self._optimizer = optimizer
        self.powers = np.ones(2, dtype=np.float64)
        """β1^k and β2^k."""
        self.values: npt.NDArray[np.float32] = np.zeros(9, dtype=np.float32)
        """The factors of the update begun, as `adam` names them."""

    def begin(self, k: int) -> None:
        """Start the update that follows step k ≥ 0."""
        adam = self._optimizer
        beta1, beta2 = np.float64(adam.beta1) / _UNIT, np.float64(adam.beta2) / _UNIT  # exact
        self.powers[0] *= beta1
        self.powers[1] *= beta2
        rate = isqrt((adam.rate**2 << 40) // (_UNIT + adam.decay * k)) / (1 << 30)  # rate · 2^-20 / √(1 + decay · k · 2^-20)
        self.values = np.array(
            [beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - self.powers[0]), 1 / (1 - self.powers[1]), _EPSILON, rate, _CEILING],
            dtype=np.float32,
        )

    def factors(self, kernels: ModuleType) -> Any:
        """The factors as `adam` takes them."""
        return kernels.from_numpy(self.values)
