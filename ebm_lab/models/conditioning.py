"""Conditioning a network on its noise level: Fourier features of log sigma, and a scale and a shift for each layer.

    h <- (1 + gamma_l(c)) h + beta_l(c),    (gamma, beta) = W_2 silu(W_1 phi(c))
    phi(c) = (c, cos(pi k c / 2), sin(pi k c / 2)),    k = 1 ... frequencies

with c in [-1, 1] the height on the ladder. W_2 starts at zero, so that an untrained network ignores its level.

Ethan Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, 2018, equation 2, arXiv:1709.07871.
"""

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ebm_lab.models.conditioned_perceptron import derivatives
from ebm_lab.models.layers import initialise, make_activation
from ebm_lab.models.perceptron import SMOOTH, Perceptron
from ebm_lab.models.products import Linear


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
        both = self.outer(nn.functional.silu(self.inner(self.phi(c))))
        return [
            (1 + gamma, beta) for gamma, beta in (p.chunk(2, 1) for p in both.split([2 * w for w in self.widths], 1))
        ]

    def phi(self, c: Tensor) -> Tensor:
        angles = c[:, None] * self.frequencies
        return torch.cat([c[:, None], angles.cos(), angles.sin()], 1)

    def side_by_side(self, c: Tensor) -> Tensor:
        """Return what `forward` returns in one tensor, (B, 2 sum of widths); differentiable once, in the parameters."""
        ones = torch.cat([t for w in self.widths for t in (c.new_ones(w), c.new_zeros(w))])
        hidden = nn.functional.silu(self.inner(self.phi(c)))
        return cast(Tensor, Linear.apply(hidden, self.outer.weight, self.outer.bias + ones))

    def rate(self, c: Tensor, slope: Tensor) -> Tensor:
        """Return df/dc, (B,), for the derivatives `slope` (B, 2 sum of widths) of f in `side_by_side(c)`."""
        angles, k = c[:, None] * self.frequencies, self.frequencies
        turn = torch.cat([torch.ones_like(c)[:, None], -k * angles.sin(), k * angles.cos()], 1)
        h = self.inner(self.phi(c))
        s = h.sigmoid()
        along = (s + h * s * (1 - s)) * nn.functional.linear(turn, self.inner.weight)
        return (along * cast(Tensor, Linear.apply(slope, self.outer.weight.T, None))).sum(1)


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

    def at(self, c: Tensor) -> Perceptron:
        """Return the perceptron that this is at one height c (1,): with the weights gamma_l W_l."""
        film = self.film(c)
        layers = [cast(nn.Linear, layer) for layer in self.layers]
        weights = [gamma.T * layer.weight for layer, (gamma, _) in zip(layers, film, strict=True)]
        biases = [(gamma * layer.bias + beta)[0] for layer, (gamma, beta) in zip(layers, film, strict=True)]
        return Perceptron([*weights, self.last.weight], [*biases, self.last.bias], self.act)

    def derivatives(self, u: Tensor, c: Tensor, rates: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute f(u, c), (B,), grad_u f, (B, inputs), and, if `rates`, df/dc, (B,), of a network with one output.

        Differentiable once, in the parameters; c (B,). The activation must be in `SMOOTH`.
        """
        layers = [cast(nn.Linear, layer) for layer in (*self.layers, self.last)]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        film = self.film.side_by_side(c)
        f, grad, slope = derivatives(SMOOTH[type(self.act)], u, film, weights, biases, rates)
        return f, grad, None if slope is None else self.film.rate(c, slope)
