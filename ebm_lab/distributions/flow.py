"""A normalising flow fitted to data by maximum likelihood, with exact samples and an exact density.

    x = m + w S f^-1(z),    z ~ N(0, I)
    log p(x) = log N(f(u); 0, I) + log |det df/du| - log |w S|,    u = S^-1 (x - m) / w

f consists of coupling layers of rational-quadratic splines, so that sampling and density cost one pass each; S holds
the stds of the data, m is their mean, and w >= 1 widens the law about the mean.

Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, Neural Spline Flows, 2019, arXiv:1906.04032.
"""

import math
import time

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.random import seed_from, seeded


class Flow(nn.Module):
    """A flow fitted to `train` (n, *shape), with noise of std `std` added to it during the fit.

    The fitted weights are fixed, and are in the state dict. Fitting and sampling draw from `generator` alone. `told` is
    a line for the user on the result of the fit.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self, train: Tensor, std: float, widen: float, generator: Generator, steps: int = 400, batch: int = 512
    ) -> None:
        super().__init__()
        import zuko  # a slow import, needed only here

        self.shape, flat = tuple(train.shape[1:]), train.flatten(1)
        self.register_buffer("centre", flat.mean(0))
        self.register_buffer("spread", (flat.var(0) + std**2).sqrt())
        self.widen = widen
        d, seed = flat.shape[1], seed_from(generator)
        with seeded(seed):
            self.net = zuko.flows.NSF(d, transforms=3, passes=2, hidden_features=(64, 64), bins=8).to(flat)
        self._fit((flat - self.centre) / self.spread, std / self.spread, generator, steps, batch)
        self.requires_grad_(False)

    def _fit(self, u: Tensor, std: Tensor, generator: Generator, steps: int, batch: int) -> None:
        """Maximise the likelihood with Adam, whose rate falls to 0 along a cosine; every tenth point is held out."""
        began, held_out = time.perf_counter(), u[::10]
        u = u[torch.arange(len(u), device=u.device) % 10 != 0] if len(u) > 1 else u
        optimiser = torch.optim.Adam(self.net.parameters(), lr=3e-3)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
            which = torch.randint(len(u), (min(batch, len(u)),), generator=generator, device=u.device)
            x = u[which]
            x = x + std * torch.empty_like(x).normal_(generator=generator)
            optimiser.zero_grad()
            (-self.net().log_prob(x).mean()).backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 10.0)
            optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            x = held_out + std * torch.empty_like(held_out).normal_(generator=generator)
            mean = float((self.net().log_prob(x) - self.spread.log().sum()).mean())
        self.told = f"noise=flow: fitted in {time.perf_counter() - began:.0f} s, held-out data at {mean:.3f} nats"

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n samples, (n, *shape)."""
        with torch.no_grad():
            return self.rsample(n, generator)

    def rsample(self, n: int, generator: Generator) -> Tensor:
        """Draw n samples, (n, *shape), as differentiable functions of the weights."""
        z = torch.empty(n, len(self.centre), dtype=self.centre.dtype, device=self.centre.device)
        u = self.net().transform.inv(z.normal_(generator=generator))
        return (self.centre + self.widen * self.spread * u).view(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log density in nats, (B, *shape) -> (B,)."""
        u = (x.flatten(1) - self.centre) / (self.widen * self.spread)
        return self.net().log_prob(u) - (self.widen * self.spread).log().sum()
