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

from shared.code.arithmetic import DECODE, MODE, starved
from shared.code.exact.constants import LOGIT_BITS, first_weights
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.models.head import Head
from shared.code.models.layers import PERCEPTRON_SEED, SEEDS_PER_LAYER, SEEDS_PER_NETWORK
from shared.code.spec import NETWORKS, BytesVocabulary, CodeSpec, TransformerModel
from shared.code.training import Memory, Step

_LOGIT_LIMIT = 64.0


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


class Native(Predictor):
    """The predictor."""

    def __init__(self, spec: CodeSpec) -> None:
        model = spec.model
        assert isinstance(model, NETWORKS)
        size, self._streams, seed = spec.vocabulary_size, spec.streams, model.seed * SEEDS_PER_NETWORK
        self.max_decisions = self._streams
        self._layers = [_Mixing(spec, seed + (index + 1) * SEEDS_PER_LAYER) for index in range(model.layers)]
        first = {"embedding": first_weights(seed, size, model.width, 1, 1), "output": np.zeros((model.width, size), np.float32)}
        first |= {f"{index}.{name}": w for index, layer in enumerate(self._layers) for name, w in layer.weights.items()}
        self._weights = {name: torch.from_numpy(w).requires_grad_() for name, w in first.items()}
        self._moments = {name: (torch.zeros(w.shape), torch.zeros(w.shape)) for name, w in first.items()}
        self._states = [tuple(part.clone() for part in layer.state) for layer in self._layers]
        self._begin = self._states
        tables = model.tables.bits if model.tables else 0
        self._head = Head(size, self._streams, tables, words=isinstance(spec.vocabulary, BytesVocabulary))
        self._step = Step(spec.training.optimizer)
        replay = spec.training.replay
        self._memory = Memory(replay, self._streams) if replay else None
        self._positions = spec.segment_tokens
        self._before = np.zeros(self._streams, dtype=np.int64)
        rows = spec.segment_tokens * self._streams
        self._logits = np.zeros((rows, size), dtype=np.int32)
        self._gradient = np.zeros((rows, size), dtype=np.float32)

    @property
    def frequencies(self) -> I64:
        """The integer frequencies [m] of the token coded last."""
        return self._head.frequencies

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        for t in range(start, len(tokens)):
            if coder.state[MODE] == DECODE and starved(coder.state, np.uint64(self._streams)):
                return t
            if t == 0:
                self._begin = self._states
            rows = slice(t * self._streams, (t + 1) * self._streams)
            inputs = tokens[t - 1].astype(np.int64) if t else self._before
            with torch.no_grad():
                z, states = self._forward(torch.from_numpy(inputs)[None], self._states)
                units = torch.round(z[0].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) * (1 << LOGIT_BITS))
            self._logits[rows] = units.to(torch.int32).numpy()
            self._head.code(tokens, lengths, t, t + 1, coder, costs, self._logits, self._gradient)
            self._states = states
        assert self._head.loss_units == int(costs.sum(dtype=np.int64)), "what is trained on is what was coded"
        if not self.frozen:
            self._train(np.concatenate([self._before[None], tokens[:-1].astype(np.int64)]))
            if self._memory is not None:
                self._memory.keep(tokens, lengths)
                self._replay(self._memory)
        self._before[:] = tokens[-1]
        return len(tokens)

    def _replay(self, memory: Memory) -> None:
        """Train on earlier rows, as if every stream began there."""
        for tokens in memory.windows(self.steps, self._positions):
            self._begin = [layer.state for layer in self._layers]
            inputs = np.zeros(tokens.shape, dtype=np.int64)
            inputs[1:] = np.where(tokens == memory.PADDING, 0, tokens)[:-1]
            with torch.no_grad():
                z, _ = self._forward(torch.from_numpy(inputs), self._begin)
                units = torch.round(z.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) * (1 << LOGIT_BITS))
            self._logits[: inputs.size] = units.to(torch.int32).reshape(inputs.size, -1).numpy()
            self._head.replay(tokens, memory.PADDING, self._logits, self._gradient)
            self._train(inputs)

    def freeze(self) -> None:
        """Fix p^(k): nothing is trained any more."""
        super().freeze()
        self._head.freeze()

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
        keep1, take1, keep2, take2, up1, up2, epsilon, rate, most = (float(one) for one in self._step.values)
        with torch.no_grad():
            for name, g in zip(names, gradients, strict=True):
                first, second = self._moments[name]
                first.mul_(keep1).add_(g, alpha=take1)
                second.mul_(keep2).addcmul_(g, g, value=take2)
                step = first * up1 / ((second * up2).sqrt() + epsilon)
                self._weights[name].sub_(step.clamp_(-most, most), alpha=rate)

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
