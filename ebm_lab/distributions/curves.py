"""Points on curves plus Gaussian noise: exact samples, and a density by quadrature along the curves.

    x = c(t) + std z,  t ~ U[0, 1],    p(x) = integral over [0, 1] of N(x; c(t), std^2 I) dt

The integrand is smooth in t, and the error of the midpoint rule falls as the square of the spacing; choose `nodes` so
that neighbours are closer than a fraction of std.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class NoisyCurves:
    """`pieces` curves, equally likely; piece(i, t) maps t (n,) in [0, 1] to (n, 2)."""

    piece: Callable[[int, Tensor], Tensor]
    pieces: int
    std: float
    nodes: int = 1000

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.labelled(n, generator)[0]

    def labelled(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw n samples, (n, 2), and the piece that each comes from, (n,)."""
        which = torch.randint(self.pieces, (n,), generator=generator)
        t = torch.rand(n, dtype=torch.float64, generator=generator)
        z = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        on_curve = torch.stack([self.piece(i, t) for i in range(self.pieces)])
        return on_curve[which, torch.arange(n)] + self.std * z, which

    def log_prob(self, x: Tensor, chunk: int = 512) -> Tensor:
        """Compute the log density in nats, (B, 2) -> (B,); differentiable in x."""
        return self.piece_log_prob(x, chunk).logsumexp(1)

    def piece_log_prob(self, x: Tensor, chunk: int = 512) -> Tensor:
        """Compute log p(piece, x) in nats, (B, 2) -> (B, pieces); differentiable in x."""
        t = (torch.arange(self.nodes, dtype=torch.float64) + 0.5) / self.nodes
        nodes = torch.cat([self.piece(i, t) for i in range(self.pieces)])
        logs = [
            (-torch.cdist(part, nodes).square() / (2 * self.std**2)).view(len(part), self.pieces, -1).logsumexp(2)
            for part in x.cpu().double().split(chunk)
        ]
        constant = math.log(len(nodes)) + math.log(2 * math.pi * self.std**2)
        return (torch.cat(logs) - constant).to(x.device)
