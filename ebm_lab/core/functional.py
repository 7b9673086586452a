"""The one place that differentiates an energy with respect to its input.

Sign convention, everywhere: p(x) = exp(-E(x)) / Z, so low energy is likely, and score(x) = grad_x log p = -grad_x E.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError

EnergyFn = Callable[[Tensor], Tensor]


def evaluate(energy: EnergyFn, x: Tensor) -> Tensor:
    """E(x), (B, *shape) -> (B,); raises UserError when the energy returns anything else, (B, 1) included."""
    e = energy(x)
    if e.shape != x.shape[:1]:
        raise UserError(
            f"energy '{type(energy).__name__}' returned shape {tuple(e.shape)} for a batch of {x.shape[0]}; "
            f"it must return one value per sample, shape ({x.shape[0]},)"
        )
    return e


def energy_and_grad(energy: EnergyFn, x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """E(x), (B,), and grad_x E(x), (B, *shape). Detached unless `create_graph`."""
    with torch.enable_grad():
        leaf = x if create_graph and x.requires_grad else x.detach().requires_grad_(True)
        e = evaluate(energy, leaf)
        (grad,) = torch.autograd.grad(e.sum(), leaf, create_graph=create_graph)
    return (e, grad) if create_graph else (e.detach(), grad)


def score(energy: EnergyFn, x: Tensor, create_graph: bool = False) -> Tensor:
    """grad_x log p(x) = -grad_x E(x), (B, *shape) -> (B, *shape), in nats per data unit."""
    return -energy_and_grad(energy, x, create_graph)[1]


def score_and_product(energy: EnergyFn, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(E(x), s, (grad_x s) v): energy (B,), score and Jacobian-vector product (B, *shape), with their graph.

    grad_x s = -Hess E is symmetric, so the product is the gradient of s . v.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        e, grad = energy_and_grad(energy, leaf, create_graph=True)
        (product,) = torch.autograd.grad(-(grad * v).sum(), leaf, create_graph=True)
    return e, -grad, product


def flat_sum(x: Tensor) -> Tensor:
    """Sum over everything but the batch: (B, *shape) -> (B,)."""
    return x.flatten(1).sum(1)


class Tempered(nn.Module):
    """E(x) / T: the energy of exp(-E / T), sharper than the model for T < 1."""

    def __init__(self, energy: EnergyFn, temperature: float) -> None:
        super().__init__()
        self.energy, self.temperature = energy, temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x) / self.temperature


@contextmanager
def frozen(energy: EnergyFn) -> Iterator[None]:
    """Within: modules in eval mode and parameters without gradients, as sampling wants them; restored after."""
    if not isinstance(energy, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in energy.modules()]
    wanted = [p for p in energy.parameters() if p.requires_grad]
    energy.eval()
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in wanted:
            p.requires_grad_(True)
