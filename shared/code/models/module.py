"""A `torch.nn.Module` of one's own as a predictor, in plain float32: `numerics: native`. Outside the law of exactness.

The module's forward takes tokens, int64 [B, n], and gives logits, float32 [B, n, m]: those at position i predict token i + 1 from
tokens 0 … i and from nothing after them. Here n = context + segment_tokens. Both sides make the very same calls, token by token,
of the same shapes, with zeros where tokens are not known yet; then the segment is trained on, once, with the optimiser.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.code.models.base import I64, U32
from shared.code.models.rows import RowByRow
from shared.code.spec import CodeSpec


class ModulePredictor(RowByRow):
    """Subclass it in a plugin file: give `module` and `optimizer`, and sizes where these do not serve.

    context: tokens before the segment that the module sees. seed: of torch, while `module` is called. The module runs in
    evaluation mode: dropout and the like would differ between the sides.
    """

    numerics: ClassVar[Literal["exact", "native"]] = "native"
    segment_tokens: ClassVar[int] = 16
    streams: ClassVar[int] = 8
    context: ClassVar[int] = 16
    seed: ClassVar[int] = 1
    memory_mebibytes: ClassVar[int] = 256

    def module(self, vocabulary_size: int) -> nn.Module:
        """The module, with its first weights."""
        raise NotImplementedError

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of its weights; its state must be tensors."""
        raise NotImplementedError

    def __init__(self, spec: CodeSpec) -> None:
        super().__init__(spec, table_bits=0, words=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._module = self.module(spec.vocabulary_size).eval()
        self._parameters = [one for one in self._module.parameters() if one.requires_grad]
        self._optimizer = self.optimizer(self._parameters)
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        first = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer.step()  # with gradients of 0: so that its state is there to be stored
        with torch.no_grad():
            for parameter, value in zip(self._parameters, first, strict=True):
                parameter.copy_(value)
        self._past = torch.zeros(self._streams, self.context + 1, dtype=torch.int64)
        self._segment = spec.segment_tokens

    def _row(self, tokens: U32, t: int) -> Tensor:
        return self._forward(self._window(tokens[:t]))[:, t]

    def _learn(self, tokens: U32, lengths: I64) -> None:
        del lengths
        self._train(self._window(tokens[:-1]), len(tokens))

    def _move_on(self, tokens: U32) -> None:
        known = torch.cat([self._past, torch.from_numpy(tokens.T.astype(np.int64))], 1)
        self._past.copy_(known[:, -self._past.shape[1] :])

    def _window(self, known: U32) -> Tensor:
        """Tokens [B, context + T]: those before, the known ones of this segment, zeros."""
        window = torch.zeros(self._streams, self.context + self._segment, dtype=torch.int64)
        begin = self._past.shape[1]
        window[:, :begin] = self._past
        window[:, begin : begin + len(known)] = torch.from_numpy(known.T.astype(np.int64))
        return window

    def _forward(self, window: Tensor) -> Tensor:
        """Logits [B, T, m] of the segment's positions."""
        logits = self._module(window)
        wanted = (*window.shape, self._logits.shape[1])
        if logits.shape != wanted:
            raise ValueError(f"forward gave logits of shape {tuple(logits.shape)}, not {wanted}")
        if not torch.isfinite(logits).all():
            raise ValueError("forward gave logits that are not finite; a smaller learning rate may help")
        found: Tensor = logits[:, self.context :]
        return found

    def _train(self, window: Tensor, rows: int) -> None:
        gradient = torch.from_numpy(self._gradient[: rows * self._streams]).reshape(rows, self._streams, -1)
        self._optimizer.zero_grad(set_to_none=False)
        logits = self._forward(window)[:, :rows].transpose(0, 1)
        torch.autograd.backward(logits, gradient / gradient.shape[0] / gradient.shape[1])
        self._optimizer.step()

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        out: dict[str, npt.NDArray[Any]] = {f"head.{name}": array for name, array in self._head.arrays().items()}
        out |= {f"module.{name}": value.detach().numpy() for name, value in self._module.state_dict().items()}
        for index, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state[parameter].items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    raise TypeError(f"the optimiser keeps {name}, a {type(value).__name__}; only tensors can be stored")
                out[f"optimizer.{index}.{name}"] = value.numpy()
        return {**out, "past": self._past.numpy()}
