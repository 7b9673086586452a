"""The reference: samplers and the training loop as a good PyTorch engineer writes them, about 20 lines each.

Parameters are frozen while chains run, `autograd.grad` is called on the input alone, the energy and
gradient of the current state are kept for the next step, Adam and the averaged weights are updated by one foreach call.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Net = Callable[[Tensor], Tensor]


@contextmanager
def freeze(net: nn.Module) -> Iterator[None]:
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


def gradient(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) and grad E(x), detached."""
    x = x.detach().requires_grad_(True)
    e = net(x)
    (g,) = torch.autograd.grad(e.sum(), x)
    return e.detach(), g


def wide(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))


def langevin(net: nn.Module, x: Tensor, steps: int, eps: float) -> Tensor:
    with freeze(net):
        for _ in range(steps):
            _, g = gradient(net, x)
            x = x - (eps**2 / 2) * g + eps * torch.randn_like(x)
    return x


def mala(net: nn.Module, x: Tensor, steps: int, eps: float) -> Tensor:
    with freeze(net):
        e, g = gradient(net, x)
        for _ in range(steps):
            z = torch.randn_like(x)
            new = x - (eps**2 / 2) * g + eps * z
            e_new, g_new = gradient(net, new)
            back = (x - new + (eps**2 / 2) * g_new) / eps
            log_ratio = e - e_new + 0.5 * ((z * z).flatten(1).sum(1) - (back * back).flatten(1).sum(1))
            yes = torch.rand_like(e).log() < log_ratio
            w = wide(yes, x)
            x, e, g = torch.where(w, new, x), torch.where(yes, e_new, e), torch.where(w, g_new, g)
    return x


def hmc(net: nn.Module, x: Tensor, steps: int, leapfrog: int, eps: float) -> Tensor:
    with freeze(net):
        e, g = gradient(net, x)
        for _ in range(steps):
            v = torch.randn_like(x)
            h = e + 0.5 * (v * v).flatten(1).sum(1)
            new, g_new, e_new = x, g, e
            v = v - (eps / 2) * g
            for i in range(leapfrog):
                new = new + eps * v
                e_new, g_new = gradient(net, new)
                v = v - (eps if i < leapfrog - 1 else eps / 2) * g_new
            yes = torch.rand_like(e).log() < h - e_new - 0.5 * (v * v).flatten(1).sum(1)
            w = wide(yes, x)
            x, e, g = torch.where(w, new, x), torch.where(yes, e_new, e), torch.where(w, g_new, g)
    return x


class Loop:
    """One call is one training step: batch, loss, backward, clipping, Adam, averaged weights."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor], Tensor],
        data: Tensor,
        batch: int,
        extra: Iterable[nn.Parameter] = (),
        lr: float = 1e-3,
        clip: float | None = 100.0,
        decay: float = 0.995,
    ) -> None:
        self.loss, self.data, self.batch, self.clip, self.decay = loss, data, batch, clip, decay
        self.params: list[Tensor] = [*net.parameters(), *extra]
        self.adam = torch.optim.Adam(self.params, lr, foreach=True)
        self.average = [p.detach().clone() for p in self.params]

    def __call__(self) -> None:
        x = self.data[torch.randint(len(self.data), (self.batch,))]
        loss = self.loss(x)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.params, self.clip, foreach=True)
        self.adam.step()
        if self.decay:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.params, 1 - self.decay)
