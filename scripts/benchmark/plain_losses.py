"""The losses of the reference, as a script has them: each takes a batch x and returns the loss, with its graph.

Equations and citations are those of ebm_lab/objectives; the tests hold each to them on the same draws.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from scripts.benchmark.plain import langevin, wide

LossFn = Callable[[Tensor], Tensor]
MakeLoss = Callable[..., LossFn]


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def grad_of(y: Tensor, x: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    return g


def dsm(net: nn.Module, sigma: float) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        z = torch.randn_like(x)
        noisy = (x + sigma * z).requires_grad_(True)
        g = grad_of(net(noisy).sum(), noisy)
        return 0.5 * total((z - sigma * g) ** 2).mean()

    return loss


def multi_dsm(net: nn.Module, energy: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        sigma = torch.exp(math.log(low) + math.log(high / low) * torch.rand(len(x)))
        z = torch.randn_like(x)
        noisy = (x + wide(sigma, x) * z).requires_grad_(True)
        g = grad_of(energy(noisy, sigma).sum(), noisy)
        return 0.5 * total((z - wide(sigma, x) * g) ** 2).mean()

    return loss


def multi_dsm_of_score(net: nn.Module, score: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        sigma = torch.exp(math.log(low) + math.log(high / low) * torch.rand(len(x)))
        z = torch.randn_like(x)
        s = wide(sigma, x)
        return 0.5 * total((z + s * score(x + s * z, sigma)) ** 2).mean()

    return loss


def ssm(net: nn.Module) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        v = torch.randint(0, 2, x.shape).to(x) * 2 - 1
        g = grad_of(net(x).sum(), x)
        hv = grad_of((g * v).sum(), x)
        return (0.5 * total(g * g) - total(v * hv)).mean()

    return loss


def sm(net: nn.Module) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        g = grad_of(net(x).sum(), x)
        flat, trace = g.flatten(1), 0.0
        for i in range(flat.shape[1]):
            trace = trace + grad_of(flat[:, i].sum(), x).flatten(1)[:, i]
        return (0.5 * total(g * g) - trace).mean()

    return loss


def fdssm(net: nn.Module, eps: float) -> LossFn:
    """eps = |v|."""

    def loss(x: Tensor) -> Tensor:
        z = torch.randn_like(x)
        v = eps * z / wide(total(z * z).sqrt(), z)
        e, ahead, behind = net(torch.cat([x, x + v, x - v])).chunk(3)
        d = x[0].numel()
        return (d / eps**2 * ((ahead - behind) ** 2 / 8 - (ahead + behind - 2 * e))).mean()

    return loss


def contrast(net: nn.Module, x: Tensor, x_neg: Tensor) -> Tensor:
    e = net(torch.cat([x, x_neg]))
    return e[: len(x)].mean() - e[len(x) :].mean()


def cd(net: nn.Module, steps: int, eps: float) -> LossFn:
    return lambda x: contrast(net, x, langevin(net, x, steps, eps))


def mle(net: nn.Module, steps: int, eps: float, start: Callable[[int], Tensor]) -> LossFn:
    return lambda x: contrast(net, x, langevin(net, start(len(x)), steps, eps))


def pcd(net: nn.Module, steps: int, eps: float, start: Callable[[int], Tensor], size: int, restart: float) -> LossFn:
    buffer = start(size)

    def loss(x: Tensor) -> Tensor:
        slots = torch.randint(size, (len(x),))
        fresh = wide(torch.rand(len(x)) < restart, x)
        x_neg = langevin(net, torch.where(fresh, start(len(x)), buffer[slots]), steps, eps)
        buffer[slots] = x_neg
        return contrast(net, x, x_neg)

    return loss


class GaussianNoise:
    """A Gaussian fitted to the data; a thousandth of the variance is added for nearly constant coordinates. The
    triangular system is solved once."""

    def __init__(self, data: Tensor) -> None:
        flat = data.flatten(1)
        eye = torch.eye(flat.shape[1])
        self.shape, self.mean = data.shape[1:], flat.mean(0)
        self.factor = torch.linalg.cholesky(flat.T.cov() + 1e-3 * flat.var(0).mean() * eye)
        self.whiten = torch.linalg.solve_triangular(self.factor, eye, upper=False)
        self.log_z = float(self.factor.diagonal().log().sum()) + 0.5 * len(eye) * math.log(2 * math.pi)

    def sample(self, n: int) -> Tensor:
        return (self.mean + torch.randn(n, len(self.mean)) @ self.factor.T).view(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * total(((x.flatten(1) - self.mean) @ self.whiten.T) ** 2) - self.log_z


def nce(net: nn.Module, log_z: nn.Parameter, noise: GaussianNoise, k: int) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        both = torch.cat([x, noise.sample(k * len(x))])
        h = -net(both) - log_z - noise.log_prob(both) - math.log(k)
        return softplus(-h[: len(x)]).mean() + k * softplus(h[len(x) :]).mean()

    return loss


def pairs(net: nn.Module, x: Tensor, copies: int, narrow: float, wider: float) -> Tensor:
    """E(x') - E(x) for `copies` Gaussian displacements of each point."""
    x = x.repeat(copies, *[1] * (x.ndim - 1))
    width = torch.exp(math.log(narrow) + math.log(wider / narrow) * torch.rand(len(x)))
    e, e_new = net(torch.cat([x, x + wide(width, x) * torch.randn_like(x)])).chunk(2)
    return e_new - e


def cnce(net: nn.Module, copies: int, narrow: float, wider: float) -> LossFn:
    return lambda x: 2 * softplus(-pairs(net, x, copies, narrow, wider)).mean()


def mpf(net: nn.Module, copies: int, narrow: float, wider: float) -> LossFn:
    return lambda x: (-pairs(net, x, copies, narrow, wider) / 2).exp().mean()


def ed(net: nn.Module, blur: float, samples: int, w: float) -> LossFn:
    def loss(x: Tensor) -> Tensor:
        y = x + blur * torch.randn_like(x)
        around = y + blur * torch.randn(samples, *x.shape)
        rise = net(x) - net(around.flatten(0, 1)).view(samples, -1)
        rise = torch.cat([rise, torch.full_like(rise[:1], math.log(w))])
        return (torch.logsumexp(rise, 0) - math.log(samples)).mean()

    return loss
