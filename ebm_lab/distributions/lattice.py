"""Ising and Potts models on a lattice: exact log Z, probabilities, means and samples, by transfer matrices over rows.

    Ising:  log p(x) = x' J x + b 1'x - log Z,  x in {-1, 1}^d
    Potts:  log p(x) = 2 sigma sum_edges a(x_i, x_j) - log Z

J = sigma A with the 0/1 adjacency A of the lattice, so that x'Jx counts each edge twice: both laws give an edge the
weight exp(2 sigma a), with a = 1 for equal neighbours and a = -1 for different ones. In these units the infinite square
lattice of two values is critical at sigma = log(1 + sqrt 2) / 4 = .2203434. Sites that are neighbours both ways round a
torus of length 2 have one edge.

With h(s) the log weight within a row s, of K^W states, and v(s, s') that between two rows:

    A(s, s') = exp(h(s)/2 + v(s, s') + h(s')/2)
    Z = tr A^H on a torus,    Z = exp(h/2)' A^(H-1) exp(h/2) on a lattice with free ends

Products are divided by their largest entry, and its log is kept. A sample begins with a row from the diagonal of A^H;
then the row m steps after a known row s and l - m before a known row t follows, with p(r) ~ A^m(s, r) A^(l-m)(r, t).

Hendrik Kramers and Gregory Wannier, Statistics of the two-dimensional ferromagnet, 1941,
https://doi.org/10.1103/PhysRev.60.252 (the transfer matrix). Bruria Kaufman, Crystal statistics II, 1949,
https://doi.org/10.1103/PhysRev.76.1232 (log Z of the torus in closed form, which the tests compare with).
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebm_lab.core.discrete import Sites, digits_of
from ebm_lab.distributions.table import TableLaw, draw, tabulated

STATES = 1024
"""The most states of a row."""
CHUNK = 4096
"""Rows that are drawn at once."""


@dataclass(frozen=True)
class LatticeLaw:
    """An Ising or Potts model.

    size: (H, W); torus: whether each row and column closes to a ring; bias: b, for two values only; categories: K;
    one_hot: points are one-hot along their first axis, (K, H, W), else bits (1, H, W) with x_i = 2 bit - 1.
    """

    size: tuple[int, int]
    sigma: float
    torus: bool
    bias: float = 0.0
    categories: int = 2
    one_hot: bool = False
    _known: dict[int, tuple[Tensor, float]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.categories > 2 and (self.bias or not self.one_hot):
            raise ValueError("more than two values are one-hot, and have no bias")
        if self.states > STATES:
            raise ValueError(f"{self.states} states of a row; at most {STATES}")

    @property
    def sites(self) -> Sites:
        return Sites((self.categories if self.one_hot else 1, *self.size), self.categories, self.one_hot)

    @property
    def rows(self) -> int:
        """The number of rows, which run along the shorter side."""
        return max(self.size)

    @property
    def states(self) -> int:
        """The number of states of a row."""
        return self.categories ** min(self.size)

    @property
    def wraps(self) -> bool:
        """Whether the last row is a neighbour of the first, by an edge of its own."""
        return self.torus and self.rows > 2

    @cached_property
    def edges(self) -> Tensor:
        """The pairs of neighbouring sites, (E, 2), with the sites numbered along the rows of (H, W)."""
        return edges(self.size, self.torus)

    @property
    def couplings(self) -> Tensor:
        """J, (d, d) in float64."""
        j = torch.zeros(self.sites.count, self.sites.count, dtype=torch.float64)
        j[self.edges[:, 0], self.edges[:, 1]] = j[self.edges[:, 1], self.edges[:, 0]] = self.sigma
        return j

    @cached_property
    def _row_states(self) -> Tensor:
        """The values at the sites of each state of a row, (S, W)."""
        return digits_of(torch.arange(self.states), self.categories, min(self.size))

    @cached_property
    def _within(self) -> tuple[Tensor, Tensor]:
        """Of each state of a row, (S,): the sum of a over its edges, and its log weight h."""
        pairs = edges((1, min(self.size)), self.torus)
        agreement = _agreement(self._row_states, pairs)
        spins = (2.0 * self._row_states.double() - 1).sum(1)
        return agreement, 2 * self.sigma * agreement + (self.bias * spins if self.bias else 0.0)

    @cached_property
    def _between(self) -> Tensor:
        """The sum of a over the edges between two rows, by their states, (S, S)."""
        one_hot = torch.nn.functional.one_hot(self._row_states, self.categories).flatten(1).double()
        return 2 * one_hot @ one_hot.T - min(self.size)

    @cached_property
    def _end(self) -> tuple[Tensor, float]:
        """exp(h/2) divided by a number, (S,), and that number's log."""
        half = self._within[1] / 2
        return (half - half.max()).exp(), float(half.max())

    def _power(self, k: int) -> tuple[Tensor, float]:
        """Return A^k divided by a number, (S, S), and that number's log. All powers are symmetric."""
        if k not in self._known:
            if k == 0:
                self._known[k] = torch.eye(self.states, dtype=torch.float64), 0.0
            elif k == 1:
                half = self._within[1] / 2
                logs = half.unsqueeze(1) + 2 * self.sigma * self._between + half
                self._known[k] = (logs - logs.max()).exp(), float(logs.max())
            else:
                (a, log_a), (b, log_b) = self._power((k + 1) // 2), self._power(k // 2)
                product = a @ b
                most = float(product.max())
                self._known[k] = product / most, log_a + log_b + math.log(most)
        return self._known[k]

    @cached_property
    def log_z(self) -> float:
        """log Z, in nats."""
        if self.wraps:
            (a, log_a), (b, log_b) = self._power((self.rows + 1) // 2), self._power(self.rows // 2)
            return log_a + log_b + math.log(float((a * b).sum()))
        (end, log_end), (power, log_power) = self._end, self._power(self.rows - 1)
        return 2 * log_end + log_power + math.log(float(end @ power @ end))

    def _expected(self, within: Tensor, between: Tensor) -> float:
        """Compute the mean of the sum of within(s) over the rows, (S,), plus that of between(s, s') over neighbouring
        rows, (S, S)."""
        step = self._power(1)[0]
        if self.wraps:
            pair = step * self._power(self.rows - 1)[0]
            pair = pair / pair.sum()
            return self.rows * float((pair * between).sum() + pair.sum(1) @ within)
        ahead = [self._end[0]]  # A^t exp(h/2), each up to a factor; by symmetry also what follows a row
        for _ in range(self.rows - 1):
            ahead.append(step @ ahead[-1])
            ahead[-1] = ahead[-1] / ahead[-1].max()
        total = 0.0
        for t in range(self.rows):
            row = ahead[t] * ahead[self.rows - 1 - t]
            total += float(row @ within / row.sum())
            if t < self.rows - 1:
                pair = ahead[t].unsqueeze(1) * step * ahead[self.rows - 2 - t]
                total += float((pair * between).sum() / pair.sum())
        return total

    @cached_property
    def mean_agreement(self) -> float:
        """The mean of a over the edges: of x_i x_j for the Ising model."""
        return self._expected(self._within[0], self._between) / len(self.edges)

    @cached_property
    def entropy(self) -> float:
        """The entropy, in nats: log Z - E[log weight]."""
        return self.log_z - self._expected(self._within[1], 2 * self.sigma * self._between)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p in nats, (B, *shape) -> (B,) in float64."""
        values = x.argmax(1).flatten(1) if self.one_hot else x.flatten(1).round().long()
        log_weight = 2 * self.sigma * _agreement(values, self.edges)
        if self.bias:
            log_weight = log_weight + self.bias * (2.0 * values.double() - 1).sum(1)
        return log_weight - self.log_z

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n independent points, (n, *shape)."""
        return torch.cat([self._sample(min(CHUNK, n - i), generator) for i in range(0, n, CHUNK)])

    def _sample(self, n: int, generator: Generator) -> Tensor:
        def row(weights: Tensor) -> Tensor:
            u = torch.rand(n, 1, dtype=torch.float64, generator=generator)
            return draw(weights.expand(n, -1).cumsum(1), u).squeeze(1)

        state = torch.empty(n, self.rows + 1, dtype=torch.int64)
        if self.wraps:
            diagonal = (self._power((self.rows + 1) // 2)[0] * self._power(self.rows // 2)[0]).sum(1)
            state[:, 0] = state[:, self.rows] = row(diagonal)
            known = [(0, self.rows)]
        else:
            power, end = self._power(self.rows - 1)[0], self._end[0]
            state[:, 0] = row(end * (power @ end))
            if self.rows > 1:
                state[:, self.rows - 1] = row(power[state[:, 0]] * end)
            known = [(0, self.rows - 1)]
        while known:
            first, last = known.pop()
            if last - first > 1:
                middle = first + (last - first + 1) // 2
                before, after = self._power(middle - first)[0], self._power(last - middle)[0]
                state[:, middle] = row(before[state[:, first]] * after[state[:, last]])
                known += [(first, middle), (middle, last)]
        values = self._row_states[state[:, : self.rows]]  # (n, rows, W)
        values = values if self.size[0] == self.rows else values.mT
        return self.sites.encode(values.flatten(1))


def edges(size: tuple[int, int], torus: bool) -> Tensor:
    """Return the pairs of neighbouring sites of an H x W lattice, (E, 2), each once."""
    site, found = torch.arange(math.prod(size)).view(size), []
    for axis, n in enumerate(size):
        found.append(torch.stack([site.narrow(axis, 0, n - 1).flatten(), site.narrow(axis, 1, n - 1).flatten()], 1))
        if torus and n > 2:
            found.append(torch.stack([site.select(axis, n - 1), site.select(axis, 0)], 1))
    return torch.cat(found)


def _agreement(values: Tensor, pairs: Tensor) -> Tensor:
    """Compute the sum of a over these pairs of sites, (n, d) -> (n,) in float64."""
    return (2.0 * (values[:, pairs[:, 0]] == values[:, pairs[:, 1]]).double() - 1).sum(1)


def enumerated(sites: Sites, couplings: Tensor, fields: Tensor) -> TableLaw:
    """Return the law of bits with log p(x) = x' J x + b'x - log Z, x = 2 bit - 1, by enumeration; J (d, d), b (d,)."""

    def log_weight(bits: Tensor) -> Tensor:
        x = 2 * bits.flatten(1) - 1
        return ((x @ couplings) * x).sum(1) + x @ fields

    return tabulated(sites, log_weight)
