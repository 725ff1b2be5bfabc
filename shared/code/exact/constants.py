"""The numbers of exact arithmetic: scales, ranges, polynomial coefficients, first weights. All are from integers or `decimal`.

Operands of matrix products are integers: activations in units of 2^-10 and gradients at a scale of their own, both below
2^14 in magnitude; weights below 2^13. Both scales are powers of two, so that scaling is exact.
"""

from decimal import Decimal, localcontext
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ACTIVATION_BITS: Final = 10
"""log2 of the units per 1 of an activation that enters a product."""
ACTIVATION_LIMIT: Final = 1 << 14
WEIGHT_BITS: Final = 13
"""A weight tensor is scaled so that its largest magnitude lies in [2^12, 2^13]."""
GRADIENT_BITS: Final = 13
SUM_BITS: Final = 20
"""Terms of an exact sum are rounded to integers below 2^20 in magnitude."""
WEIGHT_CEILING: Final = 64
EXPONENT_LIMIT: Final = 60
"""Exponents of scales stay in ±60: no scaling reaches infinity or a denormal number."""
LARGEST_EXPONENT: Final = 30
"""Gradients saturate at 2^30 as they enter a product: whatever training does, every number stays finite."""
LOGIT_BITS: Final = 16
"""log2 of the units per 1 (a natural logit) of the integer logits."""
FLUSH: Final = np.float32(2.0**-100)


def _coefficients() -> F32:
    """ln(2)^k / k! for k = 0 … 6: 2^f for |f| ≤ 1/2 by Horner, within 2e-7."""
    with localcontext() as context:
        context.prec = 40
        ln2, term, out = Decimal(2).ln(), Decimal(1), []
        for k in range(7):
            out.append(np.float32(str(+term)))
            term = term * ln2 / (k + 1)
        return np.array(out, dtype=np.float32)


def _log2_e() -> np.float32:
    with localcontext() as context:
        context.prec = 40
        return np.float32(str(1 / Decimal(2).ln()))


EXP2: Final = _coefficients()
LOG2_E: Final = _log2_e()
POWERS: Final = np.array([2.0**i for i in range(-126, 127)], dtype=np.float32)
"""2^-126 … 2^126: entry i + 126 is 2^i."""


def root(numerator: int, denominator: int) -> float:
    """√(numerator / denominator) rounded down to a multiple of 2^-24, by an integer square root."""
    return isqrt((numerator << 48) // denominator) / (1 << 24)


def first_weights(seed: int, rows: int, columns: int, numerator: int, denominator: int) -> F32:
    """Uniform weights with variance numerator / denominator, float32 [rows, columns], from a counter.

    Weight i is the top 24 bits of a hash of (seed, i) (SplitMix64, after G. L. Steele et al. 2014), centred and scaled.
    """
    index = np.arange(rows * columns, dtype=np.uint64) + np.uint64((seed << 32) % (1 << 64))
    z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    whole = 2 * (z >> np.uint64(40)).astype(np.int64) - ((1 << 24) - 1)  # odd, below 2^24 in magnitude
    scale = isqrt((3 * numerator << 48) // denominator)  # √(3 variance) in units of 2^-24
    return (whole.astype(np.float64) * scale * 2.0**-48).astype(np.float32).reshape(rows, columns)
