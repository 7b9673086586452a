"""Conditioning a network on its noise level: Fourier features of log sigma, and a scale and a shift for each layer.

    h <- (1 + gamma_l(c)) h + beta_l(c),    (gamma, beta) = W_2 silu(W_1 phi(c))
    phi(c) = (c, cos(pi k c / 2), sin(pi k c / 2)),    k = 1 ... frequencies

with c in [-1, 1] the height on the ladder. W_2 starts at zero, so that an untrained network ignores its level.

Ethan Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, 2018, equation 2, arXiv:1709.07871.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebm_lab.models.layers import initialise, make_activation


class Film(nn.Module):
    """Scales and shifts for layers of these `widths`, from heights c (B,)."""

    frequencies: Tensor

    def __init__(self, widths: list[int], hidden: int = 32, frequencies: int = 4) -> None:
        super().__init__()
        self.widths = widths
        self.register_buffer("frequencies", math.pi / 2 * torch.arange(1, frequencies + 1), persistent=False)
        self.inner, self.outer = nn.Linear(1 + 2 * frequencies, hidden), nn.Linear(hidden, 2 * sum(widths))
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, c: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (1 + gamma, beta) for each layer, each (B, width)."""
        angles = c[:, None] * self.frequencies
        phi = torch.cat([c[:, None], angles.cos(), angles.sin()], 1)
        both = self.outer(nn.functional.silu(self.inner(phi)))
        return [
            (1 + gamma, beta) for gamma, beta in (p.chunk(2, 1) for p in both.split([2 * w for w in self.widths], 1))
        ]


class FilmMLP(nn.Module):
    """A perceptron conditioned on its level: (B, inputs) and heights (B,) or (1,) -> (B, outputs)."""

    def __init__(self, inputs: int, hidden: list[int], outputs: int, activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise([inputs, *hidden]))
        self.last, self.act = nn.Linear(hidden[-1], outputs), make_activation(activation)
        initialise(nn.Sequential(*self.layers, self.last))
        self.film = Film(hidden)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        for layer, (gamma, beta) in zip(self.layers, self.film(c), strict=True):
            u = self.act(layer(u) * gamma + beta)
        return self.last(u)
