"""Checkerboard: uniform on every other square of a board centred at the origin, with sharp edges.

p(x) = 1 / (ceil(squares^2 / 2) side^2) on the squares (i, j) with i + j even, 0 (log -inf) elsewhere
"""

import math
from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic


@dataclass(frozen=True)
class UniformSquares:
    """A board of squares x squares; `side` is the length of a square."""

    squares: int
    side: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        axis = torch.arange(self.squares)
        board = torch.cartesian_prod(axis, axis)
        board = board[board.sum(1) % 2 == 0]
        corner = board[torch.randint(len(board), (n,), generator=generator)]
        u = torch.rand(n, 2, dtype=torch.float64, generator=generator)
        return self.side * (corner + u - self.squares / 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log density. A square includes its edges, and points that float32 rounds across them."""
        u, blur = x.double() / self.side + self.squares / 2, 1e-7 * self.squares
        on_board = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for shift in ((-blur, -blur), (-blur, blur), (blur, -blur), (blur, blur)):
            cell = (u + torch.tensor(shift, dtype=u.dtype, device=u.device)).floor()
            inside = ((cell >= 0) & (cell < self.squares)).all(1)
            on_board |= inside & (cell.sum(1) % 2 == 0)
        area = (self.squares**2 + 1) // 2 * self.side**2
        return torch.where(on_board, torch.full_like(u[:, 0], -math.log(area)), -math.inf)


@register("dataset", "checkerboard")
class Checkerboard(Synthetic):
    """`squares`: number along each side of the board; `side`: the length of a square, in data units; `train` /
    `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        squares: PositiveInt,
        side: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(UniformSquares(squares, side), "checkerboard", train, held_out, seed)

    def score(self, x: Tensor) -> None:
        """Return None, because the density jumps at the edges of the squares."""
        return None
