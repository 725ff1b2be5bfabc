"""What predictors under native numerics have in common: one position at a time, in both directions, by the very same calls.

Floats that depend on the machine differ between a batched pass and single positions; so nothing is batched until a segment
is known to both sides, and then it is learned from. Outside the law of exactness, and its lint.
"""

from abc import abstractmethod
from typing import Final

import numpy as np
import torch
from torch import Tensor

from shared.code.arithmetic import DECODE, MODE, starved
from shared.code.exact.constants import LOGIT_BITS
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.models.head import Head
from shared.code.spec import CodeSpec
from shared.code.training import Step

_LOGIT_LIMIT: Final = 64.0


def adam(step: Step, weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> None:
    """One update of a weight and its moments, all of one shape, by the factors of a step begun."""
    keep1, take1, keep2, take2, up1, up2, epsilon, rate, most = (float(one) for one in step.values)
    with torch.no_grad():
        first.mul_(keep1).add_(gradient, alpha=take1)
        second.mul_(keep2).addcmul_(gradient, gradient, value=take2)
        direction = first * up1 / ((second * up2).sqrt() + epsilon)
        weight.sub_(direction.clamp_(-most, most), alpha=rate)


class RowByRow(Predictor):
    """The head and its buffers, and the loop over rows. table_bits, words: as for `Head`.

    What learns has logits and gradients [T·B, m] of a whole segment; what never does, of one row.
    """

    def __init__(self, spec: CodeSpec, *, table_bits: int, words: bool) -> None:
        size, self._streams = spec.vocabulary_size, spec.streams
        self.max_decisions = self._streams
        self._head = Head(size, self._streams, table_bits, words=words)
        self._kept = spec.segment_tokens if spec.learns else 1
        self._logits = np.zeros((self._kept * self._streams, size), dtype=np.int32)
        self._gradient = np.zeros((self._kept * self._streams, size), dtype=np.float32)
        self._loss_units = 0  # of the segment's rows so far

    @property
    def frequencies(self) -> I64:
        """The integer frequencies [m] of the token coded last."""
        return self._head.frequencies

    def freeze(self) -> None:
        """Fix p^(k): nothing is trained any more."""
        super().freeze()
        self._head.freeze()

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        for t in range(start, len(tokens)):
            if coder.state[MODE] == DECODE and starved(coder.state, np.uint64(self._streams)):
                return t
            first = t % self._kept * self._streams
            with torch.no_grad():
                self._keep(self._row(tokens, t), first)
            row, place = slice(t, t + 1), slice(first, first + self._streams)
            kept = self._logits[place], self._gradient[place]
            self._head.code(tokens[row], np.clip(lengths - t, 0, 1), 0, 1, coder, costs[row], *kept)
            self._loss_units = self._head.loss_units + (self._loss_units if t else 0)
        assert self._loss_units == int(costs.sum(dtype=np.int64)), "what is trained on is what was coded"
        if not self.frozen:
            self._learn(tokens, lengths)
        self._move_on(tokens)
        return len(tokens)

    def _keep(self, logits: Tensor, first: int) -> None:
        """Keep logits [N, m] as the integers of the rows from `first` on."""
        units = torch.round(logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) * (1 << LOGIT_BITS))
        self._logits[first : first + len(units)] = units.to(torch.int32).numpy()

    @abstractmethod
    def _row(self, tokens: U32, t: int) -> Tensor:
        """Logits [B, m] at position t of a segment, whose tokens [T, B] are known before t. Called once for each, in order."""

    @abstractmethod
    def _learn(self, tokens: U32, lengths: I64) -> None:
        """Learn from a whole segment; the gradient of its logits has been left."""

    @abstractmethod
    def _move_on(self, tokens: U32) -> None:
        """Take a segment's tokens as those before the next."""
