"""A causal language model whose weights both sides hold, in plain float32: `numerics: native`. Outside the law of exactness.

It sees a window of the last tokens: at most `context`, and when a segment would not fit, the oldest give way so that it does.
Then, and after every training step, keys and values are made anew by one pass over the window; all else is token by token, all
streams at once. Both sides make the very same calls, of the same shapes, in the same order; Alice, who could batch, does not.

The state is the window's tokens, not its keys and values: whoever goes on from it makes the same calls again. Weights and
moments belong to it where there is any training.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.code.errors import CodelengthError, PretrainedFailedError
from shared.code.models.base import I64, U32
from shared.code.models.rows import RowByRow, adam
from shared.code.spec import CodeSpec, PretrainedModel
from shared.code.training import Step

R = TypeVar("R")

_STALE: Final = -1


class CausalModel(Protocol):
    """What is needed of a model."""

    module: nn.Module

    def forward(self, tokens: Tensor, cache: Any, last: int) -> tuple[Tensor, Any]:
        """Logits [B, last, m] after each of the last of tokens [B, n], that follow those in the cache (None: none).

        And the cache with these added; the one given may be changed.
        """


class PretrainedPredictor(RowByRow):
    """The predictor. model: with its first weights, its own. name: for errors. first_token: before every stream's first."""

    def __init__(self, spec: CodeSpec, model: CausalModel, *, name: str, first_token: int) -> None:
        super().__init__(spec, table_bits=0, words=False)
        assert isinstance(spec.model, PretrainedModel)
        self._model, self._name, self._segment = model, name, spec.segment_tokens
        self._parameters: dict[str, Tensor] = dict(model.module.named_parameters()) if spec.learns else {}
        self._moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in self._parameters.items()}
        for weight in model.module.parameters():
            weight.requires_grad_(spec.learns)
        self._step = Step(spec.training.optimizer)
        self._before = np.full(self._streams, first_token, dtype=np.int64)
        self._window = np.zeros((self._streams, spec.model.context), dtype=np.int64)  # what the model has been given, then zeros
        self._counts = np.zeros(2, dtype=np.int64)  # of the window: tokens, and those given in one pass, or _STALE
        self._cache: Any = None
        self._lost = False  # whether the cache is that of the state

    def _row(self, tokens: U32, t: int) -> Tensor:
        if t == 0:
            self._open()
        logits = self._forward(self._before if t == 0 else tokens[t - 1].astype(np.int64))
        return logits - logits.amax(-1, keepdim=True)

    def _open(self) -> None:
        """Make room for a segment, and have the cache of the window."""
        count, passed = (int(one) for one in self._counts)
        context, keep = self._window.shape[1], count
        if count + self._segment > context:
            keep = context - self._segment
            self._window[:, :keep] = self._window[:, count - keep : count]
            self._window[:, keep:] = 0
        if keep != count or passed == _STALE:
            passed = keep
        elif not self._lost:
            return
        self._counts[:] = keep, passed
        self._lost, self._cache = False, None
        if passed:
            self._forward(self._window[:, :passed])
        for place in range(passed, keep):
            self._forward(self._window[:, place])

    def _forward(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Give the model tokens [B, n] or [B]; the logits [B, m] after them."""
        given = torch.from_numpy(np.ascontiguousarray(tokens.reshape(self._streams, -1)))
        logits, self._cache = self._guard(lambda: self._model.forward(given, self._cache, 1))
        return self._checked(logits, 1)[:, 0]

    def _checked(self, logits: Tensor, last: int) -> Tensor:
        wanted = self._streams, last, self._logits.shape[1]
        if logits.shape != wanted:
            raise PretrainedFailedError(self._name, f"it gave logits of shape {tuple(logits.shape)}, not {wanted}")
        if not torch.isfinite(logits).all():
            raise PretrainedFailedError(self._name, "it gave logits that are not finite; a smaller training rate may help")
        return logits

    def _guard(self, work: Callable[[], R]) -> R:
        try:
            return work()
        except CodelengthError:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's code: anything
            raise PretrainedFailedError(self._name, f"{type(error).__name__}: {str(error)[:300]}") from None

    def _learn(self, tokens: U32, lengths: I64) -> None:
        del lengths  # padding has no gradient
        rows, count = len(tokens), int(self._counts[0])
        inputs = np.concatenate([self._window[:, :count], self._before[:, None], tokens[:-1].T.astype(np.int64)], 1)
        logits = self._guard(lambda: self._model.forward(torch.from_numpy(inputs), None, rows)[0])
        gradient = torch.from_numpy(self._gradient[: rows * self._streams]).reshape(rows, self._streams, -1).transpose(0, 1)
        weights = list(self._parameters.values())
        found = self._guard(lambda: torch.autograd.grad(self._checked(logits, rows), weights, gradient, allow_unused=True))
        self._step.begin(self.steps)
        for weight, g, moments in zip(weights, found, self._moments.values(), strict=True):
            if g is not None:
                adam(self._step, weight, g, *moments)
        self._counts[1] = _STALE

    def _move_on(self, tokens: U32) -> None:
        count = int(self._counts[0])
        self._window[:, count] = self._before
        self._window[:, count + 1 : count + len(tokens)] = tokens[:-1].T
        self._counts[0] += len(tokens)
        self._before[:] = tokens[-1]

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        out: dict[str, npt.NDArray[Any]] = {f"head.{name}": array for name, array in self._head.arrays().items()}
        for name, weight in self._parameters.items():
            first, second = self._moments[name]
            out |= {f"{name}.w": weight.detach().numpy(), f"{name}.m": first.numpy(), f"{name}.v": second.numpy()}
        return {**out, "before": self._before, "counts": self._counts, "powers": self._step.powers, "window": self._window}

    def _assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        super()._assign(saved)
        self._lost = True
