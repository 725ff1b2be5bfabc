"""The networks in plain float32 torch with autograd: `numerics: native`, for comparison and for machines that are alike.

Results depend on the machine: instruction set, threads, versions. Both sides therefore run the very same calls, one position
at a time, and compare at every CHECK; runtimes that differ are announced at the handshake. Structure, first weights, head
and optimiser are those of the exact networks; only the arithmetic is not. Outside the law of exactness, and its lint.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from shared.code.exact.constants import first_weights
from shared.code.models.base import I64, U32
from shared.code.models.layers import PERCEPTRON_SEED, SEEDS_PER_LAYER, SEEDS_PER_NETWORK
from shared.code.models.rows import RowByRow, adam
from shared.code.spec import NETWORKS, BytesVocabulary, CodeSpec, TransformerModel
from shared.code.training import Memory, Step


def _norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 2.0**-20)


class _Mixing:
    """A mixing layer's forward pass: x [n, B, H] and its state, a tuple of tensors, to both after it."""

    def __init__(self, spec: CodeSpec, seed: int) -> None:
        model = spec.model
        assert isinstance(model, NETWORKS)
        width, self.model, streams = model.width, model, spec.streams
        self.weights = {
            "in": first_weights(seed, model.taps * width, 3 * width, 1, model.taps * width),
            "out": first_weights(seed + 1, width, width, 1, 4 * width),
        }
        self.state: tuple[Tensor, ...]
        if isinstance(model, TransformerModel):
            self.weights["bias"] = np.zeros((model.heads, model.context + 1), dtype=np.float32)
            window = torch.zeros(model.context, streams, width)
            self.state = (torch.zeros(model.taps - 1, streams, width), window, window.clone(), torch.zeros(model.context))
        else:
            self.weights["bias"] = (np.arange(width) * 4.0 / width).astype(np.float32)[None]
            self.state = (torch.zeros(model.taps - 1, streams, width), torch.zeros(streams, width))
        if model.hidden:
            self.weights["up"] = first_weights(seed + PERCEPTRON_SEED, width, model.hidden, 1, width)
            self.weights["down"] = first_weights(seed + PERCEPTRON_SEED + 1, model.hidden, width, 1, 4 * model.hidden)

    def forward(self, x: Tensor, state: tuple[Tensor, ...], w: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        taps, rows = self.model.taps, x.shape[0]
        u = torch.cat([state[0], _norm(x)])
        z = torch.cat([u[taps - 1 - tap : taps - 1 - tap + rows] for tap in range(taps)], -1) @ w["in"]
        mix = self._attend if isinstance(self.model, TransformerModel) else self._scan
        y, rest = mix(z, state[1:], w["bias"])
        x = x + y @ w["out"]
        if self.model.hidden:
            x = x + (torch.relu(_norm(x) @ w["up"]) ** 2 * 0.5) @ w["down"]
        return x, (u[rows:], *rest)

    def _scan(self, z: Tensor, state: tuple[Tensor, ...], bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        keep, candidate, gate = z.chunk(3, -1)
        keep, h, out = torch.sigmoid(keep + bias), state[0], []
        for a, c in zip(keep, candidate, strict=True):
            h = a * h + (1 - a) * c
            out.append(h)
        return _norm(torch.stack(out)) * F.silu(gate), (h,)

    def _attend(self, z: Tensor, state: tuple[Tensor, ...], bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert isinstance(self.model, TransformerModel)
        context, heads, (rows, streams, _) = self.model.context, self.model.heads, z.shape
        q, k, v = (part.reshape(rows, streams, heads, -1) for part in z.chunk(3, -1))
        keys = torch.cat([state[0], _norm(k).reshape(rows, streams, -1)])
        values, seen = torch.cat([state[1], v.reshape(rows, streams, -1)]), torch.cat([state[2], torch.ones(rows)])
        split = (len(keys), streams, heads, -1)
        scores = torch.einsum("tbad,sbad->bats", _norm(q), keys.reshape(split)) * (1.5 / q.shape[-1] ** 0.5)
        back = torch.arange(rows)[:, None] + context - torch.arange(len(keys))[None]
        scores = scores + bias[:, back.clamp(0, context)]
        visible = (back >= 0) & (back <= context) & (seen > 0)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        y = torch.einsum("bats,sbad->tbad", weights, values.reshape(split)).reshape(rows, streams, -1)
        return y, (keys[rows:], values[rows:], seen[rows:])


class Native(RowByRow):
    """The predictor."""

    def __init__(self, spec: CodeSpec) -> None:
        model = spec.model
        assert isinstance(model, NETWORKS)
        words = isinstance(spec.vocabulary, BytesVocabulary)
        super().__init__(spec, table_bits=model.tables.bits if model.tables else 0, words=words)
        size, seed = spec.vocabulary_size, model.seed * SEEDS_PER_NETWORK
        self._layers = [_Mixing(spec, seed + (index + 1) * SEEDS_PER_LAYER) for index in range(model.layers)]
        first = {"embedding": first_weights(seed, size, model.width, 1, 1), "output": np.zeros((model.width, size), np.float32)}
        first |= {f"{index}.{name}": w for index, layer in enumerate(self._layers) for name, w in layer.weights.items()}
        self._weights = {name: torch.from_numpy(w).requires_grad_() for name, w in first.items()}
        self._moments = {name: (torch.zeros(w.shape), torch.zeros(w.shape)) for name, w in first.items()}
        self._states = [tuple(part.clone() for part in layer.state) for layer in self._layers]
        self._begin = self._states
        self._step = Step(spec.training.optimizer)
        replay = spec.training.replay
        self._memory = Memory(replay, self._streams) if replay else None
        self._positions = spec.segment_tokens
        self._before = np.zeros(self._streams, dtype=np.int64)

    def _row(self, tokens: U32, t: int) -> Tensor:
        if t == 0:
            self._begin = self._states
        inputs = tokens[t - 1].astype(np.int64) if t else self._before
        z, self._states = self._forward(torch.from_numpy(inputs)[None], self._states)
        return z[0]

    def _learn(self, tokens: U32, lengths: I64) -> None:
        self._train(np.concatenate([self._before[None], tokens[:-1].astype(np.int64)]))
        if self._memory is not None:
            self._memory.keep(tokens, lengths)
            self._replay(self._memory)

    def _move_on(self, tokens: U32) -> None:
        self._before[:] = tokens[-1]

    def _replay(self, memory: Memory) -> None:
        """Train on earlier rows, as if every stream began there."""
        for tokens in memory.windows(self.steps, self._positions):
            self._begin = [layer.state for layer in self._layers]
            inputs = np.zeros(tokens.shape, dtype=np.int64)
            inputs[1:] = np.where(tokens == memory.PADDING, 0, tokens)[:-1]
            with torch.no_grad():
                z, _ = self._forward(torch.from_numpy(inputs), self._begin)
                self._keep(z.flatten(0, 1), 0)
            self._head.replay(tokens, memory.PADDING, self._logits, self._gradient)
            self._train(inputs)

    def _forward(self, inputs: Tensor, states: list[tuple[Tensor, ...]]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Logits [n, B, m] of inputs [n, B], and the states after them."""
        x, after = self._weights["embedding"][inputs], []
        for index, (layer, state) in enumerate(zip(self._layers, states, strict=True)):
            weights = {name: self._weights[f"{index}.{name}"] for name in layer.weights}
            x, state_after = layer.forward(x, state, weights)
            after.append(state_after)
        return _norm(x) @ self._weights["output"], after

    def _train(self, inputs: npt.NDArray[np.int64]) -> None:
        logits, _ = self._forward(torch.from_numpy(inputs), self._begin)
        gradient = torch.from_numpy(self._gradient[: inputs.size]).reshape(logits.shape)
        names = list(self._weights)
        gradients = torch.autograd.grad(logits, [self._weights[name] for name in names], gradient)
        self._step.begin(self.steps)
        for name, g in zip(names, gradients, strict=True):
            adam(self._step, self._weights[name], g, *self._moments[name])

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        out: dict[str, npt.NDArray[Any]] = {f"head.{name}": array for name, array in self._head.arrays().items()}
        for name, weight in self._weights.items():
            first, second = self._moments[name]
            out |= {f"{name}.w": weight.detach().numpy(), f"{name}.m": first.numpy(), f"{name}.v": second.numpy()}
        for index, state in enumerate(self._states):
            out |= {f"{index}.state{place}": part.numpy() for place, part in enumerate(state)}
        if self._memory is not None:
            out |= {f"replay.{name}": array for name, array in self._memory.arrays().items()}
        return {**out, "before": self._before, "powers": self._step.powers}
