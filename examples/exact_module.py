"""A network of your own from the exact layers: the same bits on every machine. Use it with --plugin at both ends."""

import numpy as np

from shared.code.arithmetic import DECODE, MODE, starved
from shared.code.exact import kernels
from shared.code.exact.constants import first_weights
from shared.code.models.base import Predictor
from shared.code.models.head import Head
from shared.code.models.layers import Embedding, Linear, NormTaps, Output, Shape, named
from shared.code.ranks import ALONE
from shared.code.spec import Adam
from shared.code.training import Step

WIDTH, TAPS, HIDDEN = 64, 6, 128


class Convolution:
    """x += W2 · relu(W1 · norm(x of TAPS tokens))² / 2: rows [N, H], forward and backward in lawful operations only."""

    def __init__(self, shape, seed):
        self.kernels = shape.kernels
        self.norm = NormTaps(shape, TAPS)
        self.up = Linear(shape, first_weights(seed, TAPS * WIDTH, HIDDEN, 1, TAPS * WIDTH))
        self.down = Linear(shape, first_weights(seed + 1, HIDDEN, WIDTH, 1, 4 * HIDDEN))
        self.z, self.dz = shape.zeros(shape.rows, HIDDEN), shape.zeros(shape.rows, HIDDEN)
        self.operand = shape.zeros(shape.rows, HIDDEN, kind="int16")

    def forward(self, x, first):
        rows = slice(first, first + len(x))
        raw = self.up.forward(self.norm.forward(x, first))
        self.kernels.relu_squared(self.operand[rows], self.z[rows], raw, self.up.scale)
        self.kernels.add_product(x, self.down.forward(self.operand[rows]), self.down.scale)

    def backward(self, dx, step):
        rows = len(dx)
        raw, scale = self.down.backward(self.operand[:rows], dx, step)
        self.kernels.relu_squared_backward(self.dz[:rows], raw, scale, self.z[:rows])
        self.norm.backward(dx, *self.up.backward(self.norm.operand[:rows], self.dz[:rows], step))

    def arrays(self):
        return named(up=self.up.weight.arrays(), down=self.down.weight.arrays(), norm=self.norm.arrays())


class Mine(Predictor):
    """A causal convolution over six tokens in exact arithmetic, trained online by Adam."""

    segment_tokens, streams = 32, 8

    def __init__(self, spec):
        size, self.b = spec.vocabulary_size, spec.streams
        self.max_decisions = self.b  # of the coder, for one row of B tokens
        self.k = kernels.chosen()
        shape = Shape(positions=spec.segment_tokens, streams=self.b, width=WIDTH, kernels=self.k, ranks=ALONE)
        self.embedding, self.layer, self.output = Embedding(shape, size, 1), Convolution(shape, 2), Output(shape, size)
        self.head, self.optimizer = Head(size, self.b, 0, words=False), Step(Adam())
        self.x, self.dx = shape.zeros(shape.rows, WIDTH), shape.zeros(shape.rows, WIDTH)
        self.logits = shape.zeros(shape.rows, size, kind="int32")  # [T·B, m], in units of 2^-16
        self.gradient = np.zeros((shape.rows, size), np.float32)
        self.inputs, self.before = np.zeros(shape.rows, np.int64), np.zeros(self.b, np.int64)

    def _code(self, tokens, lengths, start, coder, costs):
        end = len(tokens)
        if coder.state[MODE] == DECODE:  # Bob: a row of B tokens at a time
            for t in range(start, end):
                if starved(coder.state, np.uint64(self.b)):
                    return t
                self.rows(tokens, lengths, t, t + 1, coder, costs)
        else:  # Alice: all rows at once, with the same bits
            self.rows(tokens, lengths, start, end, coder, costs)
        if not self.frozen:
            self.train(end * self.b)
        self.layer.norm.advance(end * self.b)
        self.before[:] = tokens[-1]
        return end

    def rows(self, tokens, lengths, start, end, coder, costs):
        """Code positions start … end − 1, whose inputs are the tokens before."""
        rows = slice(start * self.b, end * self.b)
        inputs = self.inputs[rows].reshape(end - start, self.b)
        inputs[0] = tokens[start - 1] if start else self.before
        inputs[1:] = tokens[start : end - 1]
        x = self.x[rows]
        self.embedding.forward(x, self.k.from_numpy(self.inputs[rows]))
        self.layer.forward(x, rows.start)
        self.output.forward(x, rows.start, self.logits[rows])
        logits = self.k.to_numpy(self.logits)[: rows.stop]
        self.head.code(tokens, lengths, start, end, coder, costs, logits, self.gradient)

    def train(self, rows):
        """One step of Adam on the segment that was coded."""
        self.optimizer.begin(self.steps)
        dx = self.dx[:rows]
        dx[:] = 0
        self.output.backward(dx, self.k.from_numpy(self.gradient[:rows]), self.optimizer)
        self.layer.backward(dx, self.optimizer)
        self.embedding.backward(self.k.from_numpy(self.inputs[:rows]), dx, self.optimizer)

    def freeze(self):
        super().freeze()
        self.head.freeze()

    def layers(self):
        """Arrays that lie where the kernels want them, maybe on another device."""
        return named(embedding=self.embedding.arrays(), layer=self.layer.arrays(), output=self.output.arrays())

    def own(self):
        return named(head=self.head.arrays()) | {"powers": self.optimizer.powers, "before": self.before}

    def _arrays(self):
        return {name: self.k.to_numpy(array) for name, array in self.layers().items()} | self.own()

    def _assign(self, saved):
        for name, array in self.layers().items():
            self.k.assign(array, saved[name])
        for name, array in self.own().items():
            array[...] = saved[name]
        for linear in (self.layer.up, self.layer.down, self.output):
            linear.prepare()


CODES = {"exact-convolutions": Mine}
"""What --code may be."""
