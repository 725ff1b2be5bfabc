"""A torch.nn.Module of your own as a code: a small causal convolution network. Use it with --plugin at both ends."""

import torch
from torch import nn

from shared.code.models.module import ModulePredictor


class Convolutions(nn.Module):
    """forward(tokens int64 [B, n]) -> logits float32 [B, n, m]; position i sees tokens 0 … i."""

    def __init__(self, vocabulary_size, width=64, taps=4):
        super().__init__()
        self.taps = taps
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.mix = nn.Conv1d(width, width, taps)
        self.output = nn.Linear(width, vocabulary_size)
        nn.init.zeros_(self.output.weight)

    def forward(self, tokens):
        x = self.embedding(tokens).transpose(1, 2)
        y = self.mix(nn.functional.pad(x, (self.taps - 1, 0)))
        return self.output((x + torch.relu(y)).transpose(1, 2))


class Mine(ModulePredictor):
    """A causal convolution over four tokens, trained online by Adam."""

    def module(self, vocabulary_size):
        return Convolutions(vocabulary_size)

    def optimizer(self, parameters):
        return torch.optim.Adam(parameters, lr=0.004)


CODES = {"convolutions": Mine}
