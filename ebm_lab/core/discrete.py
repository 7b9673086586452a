"""Discrete data: bits or categories at sites, and the changes of one site that lead from a point to its neighbours.

    bits:        x in {0, 1}^d; a change flips one bit
    categories:  x (K, *sites), one-hot along the first axis; a change gives one site another category

Changes are numbered by the entries of the flattened x: m = i flips bit i, and m = c d + i gives site i the category c,
which is no change if the site has it already. With x^m for x after the change m,

    log odds  D_m(x) = E(x) - E(x^m) = log p(x^m) / p(x)

An energy that is a formula in x has values between the points too, so that its gradient guesses the log odds:

    bits:        D_m ~ (2 x_i - 1) dE/dx_i                      exact where E is linear in each bit
    categories:  D_m ~ dE/dx_{c' i} - dE/dx_{c i}, c' = the site's category now

No law of discrete data has a score; methods that use this gradient only propose moves with it, and correct them.

Will Grathwohl, Kevin Swersky, Milad Hashemi, David Duvenaud and Chris J. Maddison, Oops I Took A Gradient: Scalable
Sampling for Discrete Distributions, 2021, arXiv:2102.04509 (the guess).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.core.dataset import Dataset
from ebm_lab.core.functional import EnergyFn, evaluate, known_log_odds, rows_of

ROWS = 65_536
"""Points whose energies are computed at once."""


class Sites(NamedTuple):
    """The space of a point. shape: (*shape) of x; categories: K, 2 for bits; one_hot: whether x is one-hot along its
    first axis, else it holds bits."""

    shape: tuple[int, ...]
    categories: int = 2
    one_hot: bool = False

    @property
    def changes(self) -> int:
        """M, the number of changes of one site, those to the present category included."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """d, the number of sites."""
        return self.changes // self.categories if self.one_hot else self.changes

    @property
    def states(self) -> int:
        """K^d, the number of points."""
        return self.categories**self.count

    def apply(self, x: Tensor, m: Tensor) -> Tensor:
        """Return x (B, *shape) after the changes m (B,), one in each row."""
        flat, m = x.flatten(1), m.unsqueeze(1)
        if self.one_hot:
            column = m % self.count + self.count * torch.arange(self.categories, device=x.device)
            flat = flat.scatter(1, column, 0.0).scatter(1, m, 1.0)
        else:
            flat = flat.scatter(1, m, 1 - flat.gather(1, m))
        return flat.view(x.shape)

    def back(self, x: Tensor, m: Tensor) -> Tensor:
        """Return the changes (B,) that lead from x^m back to x (B, *shape)."""
        if not self.one_hot:
            return m
        site = m % self.count
        now = x.flatten(1).view(len(x), self.categories, -1).argmax(1).gather(1, site.unsqueeze(1)).squeeze(1)
        return now * self.count + site

    def changed(self, x: Tensor, which: Tensor | None = None) -> Tensor:
        """Return x^m for the changes m of `which` (m,), or for all, (m B, *shape), those of one change in a row."""
        m = torch.arange(self.changes, device=x.device) if which is None else which
        return self.apply(x.repeat(len(m), *[1] * (x.ndim - 1)), m.repeat_interleave(len(x)))

    def moves(self, x: Tensor) -> Tensor:
        """Return which changes lead elsewhere, (B, M) booleans."""
        return x.flatten(1) == 0 if self.one_hot else torch.ones_like(x.flatten(1), dtype=torch.bool)

    def guessed_odds(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return the log odds that the gradient of E at x, (B, *shape), guesses, (B, M); 0 for no change."""
        x, grad = x.flatten(1), grad.flatten(1)
        if not self.one_hot:
            return (2 * x - 1) * grad
        return (self.by_site(x * grad).sum(1, keepdim=True) - self.by_site(grad)).flatten(1)

    def by_site(self, values: Tensor) -> Tensor:
        """View values of changes (B, M) by category and site: (B, K, d), or (B, 1, d) for bits."""
        return values.view(len(values), -1, self.count)

    def every(self, like: Tensor, size: int = ROWS) -> Iterator[Tensor]:
        """Yield all points, (n, *shape) at a time, in the order of the numbers whose digits they are, the first site's
        the highest; with the dtype and on the device of `like`."""
        for first in range(0, self.states, size):
            number = torch.arange(first, min(first + size, self.states), device=like.device)
            yield self.encode(digits_of(number, self.categories, self.count)).to(like.dtype)

    def encode(self, digits: Tensor) -> Tensor:
        """Return points (n, *shape) from the categories at their sites, (n, d) integers."""
        if self.one_hot:
            digits = torch.nn.functional.one_hot(digits, self.categories).mT
        return digits.reshape(len(digits), *self.shape).to(torch.get_default_dtype())

    def number(self, x: Tensor) -> Tensor:
        """Return the place of points x (n, *shape) in the order of `every`, (n,); d log2 K must be below 63."""
        digits = x.flatten(1) if not self.one_hot else x.flatten(1).view(len(x), self.categories, -1).argmax(1)
        return (digits.round().long() * place_values(self.categories, self.count, x.device)).sum(1)


def place_values(categories: int, count: int, device: torch.device) -> Tensor:
    """Return what a digit counts at each of `count` places to the base `categories`, (count,), the highest first."""
    return torch.tensor([categories ** (count - 1 - i) for i in range(count)], dtype=torch.int64, device=device)


def digits_of(number: Tensor, categories: int, count: int) -> Tensor:
    """Return the `count` digits of numbers (n,) to the base `categories`, (n, count), the highest first."""
    return number.unsqueeze(1) // place_values(categories, count, number.device) % categories


def sites_in(shape: tuple[int, ...], one_hot: bool) -> Sites:
    """Return the space of points of this shape, which are one-hot along the first axis or bits."""
    return Sites(shape, shape[0] if one_hot else 2, one_hot)


def sites_of(dataset: Dataset) -> Sites:
    """Return the space of a discrete data set's points."""
    return sites_in(dataset.event_shape, dataset.space == "categorical")


def known_sites(dataset: Dataset) -> Sites | None:
    """Return the space of bits or of one-hot categories; None for real numbers, and for discrete values of another
    kind, which a plugin may have."""
    return None if dataset.space == "continuous" else sites_of(dataset)


def log_odds(energy: EnergyFn, x: Tensor, sites: Sites, which: Tensor | None = None) -> Tensor:
    """Compute D_m(x) = E(x) - E(x^m), (B, *shape) -> (B, M), with its graph to the parameters; 0 for no change.

    It takes the energy's own formula where it has one, else M + 1 evaluations for each point. which: the changes m to
    compute, (m,); None: all.
    """
    if (known := known_log_odds(energy, x)) is not None:
        return known if which is None else known[:, which]
    changes = torch.arange(sites.changes, device=x.device) if which is None else which
    n, e, parts = len(x), evaluate(energy, x), []
    for some in changes.split(max(1, ROWS // n)):

        def index(m: int = len(some)) -> Tensor:
            return torch.arange(m * n, device=x.device) % n

        parts.append(evaluate(rows_of(energy, index), sites.changed(x, some)).view(len(some), n))
    odds = (e - torch.cat(parts)).mT
    return torch.where(sites.moves(x)[:, changes], odds, 0.0) if sites.one_hot else odds


class Draws:
    """Random draws of sites from their laws. copies: several copies of each row draw by the same random numbers."""

    def __init__(self, generator: Generator, copies: int = 1) -> None:
        self.generator, self.copies = generator, copies

    def _for_all(self, u: Tensor) -> Tensor:
        return u if self.copies == 1 else u.repeat(self.copies, *[1] * (u.ndim - 1))

    def bits(self, logits: Tensor) -> Tensor:
        """Draw bits that are 1 with probability sigmoid(logits), of the same shape."""
        u = self._for_all(torch.empty_like(logits[: len(logits) // self.copies]).uniform_(generator=self.generator))
        return logits.sigmoid().gt_(u)

    def categories(self, logits: Tensor) -> Tensor:
        """Draw one-hot categories from softmax(logits) along dimension 1, (B, K, ...), as the largest with Gumbel
        noise. A logit that is not a number is never drawn."""
        u = torch.empty_like(logits[: len(logits) // self.copies]).exponential_(generator=self.generator)
        noisy = logits.nan_to_num(-torch.inf, torch.inf, -torch.inf) - self._for_all(u.log())
        return torch.zeros_like(logits).scatter(1, noisy.argmax(1, keepdim=True), 1.0)
