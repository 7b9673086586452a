"""Langevin dynamics against its known stationary law, for flat and for image-shaped states."""

import pytest
import torch
from torch import nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.mcmc import log_acceptance
from ebm_lab.samplers.langevin import Langevin
from tests.helpers import gaussian_energy


def chain(energy, x, eps, calls, generator, noise_scale=1.0, steps=20):
    sampler = Langevin(1.0, steps=steps, step_size=eps, noise_scale=noise_scale, clip_grad=None)
    kept = []
    for _ in range(calls):
        x, _, metrics, _ = sampler(energy, x, {}, generator=generator)
        kept.append(x)
    return torch.stack(kept[calls // 2 :]).flatten(0, 1), metrics


@pytest.mark.parametrize("eps", [0.3, 1.0])
@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
def test_stationary_covariance(eps, noise_scale, generator):
    """nu^2 (P - (eps^2 / 4) P^2)^-1, the step's bias included; 20,000 nearly independent draws, so 5 SE is 5 %."""
    precision = torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double()
    energy = gaussian_energy(torch.tensor([1.0, -2.0]).double(), precision)
    x = torch.zeros(2000, 2).double()
    draws, _ = chain(energy, x, eps, 20 if eps > 0.5 else 40, generator, noise_scale, steps=20 if eps > 0.5 else 100)
    expected = noise_scale**2 * torch.linalg.inv(precision - eps**2 / 4 * precision @ precision)
    size = expected.diagonal().max()
    torch.testing.assert_close(draws.mean(0), energy.mean.detach(), atol=float(0.05 * size.sqrt()), rtol=0)
    torch.testing.assert_close(draws.T.cov(), expected, atol=float(0.05 * size), rtol=0)


def test_image_shaped_states_have_the_same_law_as_flat_ones():
    """The same noise gives the same chain, whatever the shape."""
    energy = gaussian_energy(torch.zeros(12).double(), torch.eye(12).double() * 2)
    sampler = Langevin(1.0, steps=7, step_size=0.4, noise_scale=1.0, clip_grad=5.0)
    x = torch.randn(5, 12).double()
    flat = sampler(energy, x, {}, generator=torch.Generator().manual_seed(3))
    image = sampler(energy, x.view(5, 3, 2, 2), {}, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(flat.x.view(5, 3, 2, 2), image.x)
    torch.testing.assert_close(flat.metrics["acceptance"], image.metrics["acceptance"])


def test_acceptance_is_the_metropolis_ratio():
    """From the definition: log p(x') q(x | x') - log p(x) q(x' | x) with q(x'|x) = N(x - eps^2/2 grad E, eps^2 I)."""
    x, x_new = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    eps = 0.7

    def e(x):
        return (x**4).sum(1) / 4

    def log_q(to, start):
        mean = start - eps**2 / 2 * start**3
        return torch.distributions.Normal(mean, eps).log_prob(to).sum(1)

    expected = -e(x_new) + log_q(x, x_new) + e(x) - log_q(x_new, x)
    torch.testing.assert_close(log_acceptance(e(x), x**3, x, e(x_new), x_new**3, x_new, eps), expected)


def test_the_acceptance_metric_is_the_mean_of_min_1_ratio():
    """Of the last move but one, recomputed along the chain with its own noise; some ratios lie above 1."""
    eps, g = 1.2, torch.Generator().manual_seed(2)
    x = torch.randn(500, 2, generator=g).double()
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    sampler = Langevin(1.0, steps=2, step_size=eps, noise_scale=1.0, clip_grad=None)
    out = sampler(energy, x, {}, generator=torch.Generator().manual_seed(7))
    z = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(7))
    new = (1 - eps**2 / 2) * x + eps * z
    e, e_new = 0.5 * x.square().sum(1), 0.5 * new.square().sum(1)
    ratio = log_acceptance(e, x, x, e_new, new, new, eps).exp()
    assert ratio.max() > 1.1
    torch.testing.assert_close(out.metrics["acceptance"], ratio.clamp_max(1).mean())


def test_clip_grad_shortens_long_gradients_only(generator):
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    sampler = Langevin(1.0, steps=1, step_size=1.0, noise_scale=0.0, clip_grad=2.0)
    x = torch.tensor([[1.0, 0.0], [30.0, 40.0]]).double()
    moved = x - sampler(energy, x, {}, generator=generator).x
    torch.testing.assert_close(moved, 0.5 * torch.tensor([[1.0, 0.0], [1.2, 1.6]]).double())


def test_the_step_is_relative_to_the_data_s_scale(generator):
    """eps = 0.3 * 2: one step without noise on E = |x|^2 / 2 moves by eps^2 / 2 = 0.18 of x; its gradients are counted
    per chain and step."""
    sampler = Langevin(2.0, steps=1, step_size=0.3, noise_scale=0.0, clip_grad=None)
    x = torch.ones(7, 2).double()
    out = sampler(gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), x, {}, generator=generator)
    torch.testing.assert_close(x - out.x, 0.18 * x)
    assert out.grad_evals == 7


def test_sampling_freezes_and_restores_the_energy(generator):
    """Dropout is off and no parameter collects a gradient while chains run; both come back after."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = nn.Linear(2, 1), nn.Dropout(0.5)
            self.seen = []

        def forward(self, x):
            self.seen.append((self.training, self.layer.weight.requires_grad))
            return self.drop(self.layer(x)).squeeze(1)

    net = Net()
    out = Langevin(1.0, steps=3, step_size=0.1, noise_scale=1.0, clip_grad=None)(
        net, torch.zeros(4, 2), {}, generator=generator
    )
    assert set(net.seen) == {(False, False)}
    assert net.training and net.layer.weight.requires_grad and net.layer.weight.grad is None
    assert not out.x.requires_grad and out.grad_evals == 12


def test_differentiable_chains_carry_the_exact_gradient(generator):
    """One step from x on E = a x^2 / 2 without noise: x1 = x (1 - eps^2 a / 2), so dx1/da = -eps^2 x / 2, two steps
    by the product rule."""
    a = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    sampler = Langevin(1.0, steps=2, step_size=0.6, noise_scale=0.0, clip_grad=None)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    out = sampler(lambda x: 0.5 * a * x.square().sum(1), x, {}, generator=generator, differentiable=True)
    (grad,) = torch.autograd.grad(out.x.sum(), a)
    assert float(grad) == pytest.approx(2 * 2.0 * (1 - 0.18 * 1.5) * -0.18)


def test_an_energy_of_shape_b1_is_refused(generator):
    sampler = Langevin(1.0, steps=1, step_size=0.1, noise_scale=1.0, clip_grad=None)
    with pytest.raises(UserError, match=r"returned shape \(4, 1\) for a batch of 4"):
        sampler(nn.Linear(2, 1), torch.zeros(4, 2), {}, generator=generator)
