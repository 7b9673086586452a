"""Stein variational gradient descent: fixed points, the update by autograd, and who may use it."""

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Energy
from ebm_lab.samplers.svgd import SVGD, direction, linear, rbf
from tests.helpers import Points, covariance, faults_of, gaussian_energy


def run(energy, x, steps, step_size, kernel):
    sampler = SVGD(1.0, steps=steps, step_size=step_size, kernel=kernel)
    return sampler(energy, x, {}, generator=torch.Generator())


def test_the_linear_kernel_ends_at_a_gaussian_s_mean_and_covariance(generator):
    """20 particles in three dimensions: to 1e-9, as the fixed point's two equations E[P (x - m)] = 0 and
    E[P (x - m) x'] = I say."""
    cov, mean = covariance(3, generator), torch.tensor([0.5, -1.0, 0.2]).double()
    energy = gaussian_energy(mean, torch.linalg.inv(cov))
    out = run(energy, torch.randn(20, 3, generator=generator).double(), 6000, 0.6, "linear")
    assert float(out.metrics["particle_step"]) < 1e-9 and out.grad_evals == 6000 * 20
    torch.testing.assert_close(out.x.mean(0), mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(out.x.T.cov(correction=0), cov, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "d, steps, size, known, near",
    [(1, 3000, 1.0, 0.937, 0.03), (10, 1500, 2.0, 0.29, 0.02), (50, 600, 2.0, 0.078, 0.002)],
)
def test_the_rbf_kernel_s_variance_collapses_in_many_dimensions(d, steps, size, known, near, generator):
    """50 particles of N(0, I), converged; the docstring's numbers."""
    out = run(lambda x: 0.5 * x.square().sum(1), torch.randn(50, d, generator=generator).double(), steps, size, "rbf")
    assert float(out.x.var(0, correction=0).mean()) == pytest.approx(known, abs=near)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_direction_is_the_sum_of_its_definition(kernel, generator):
    """Each kernel and its gradient in the first argument by autograd, over all pairs one by one."""
    x, scale = torch.randn(7, 2, generator=generator).double(), 1.3
    grad = torch.randn(7, 2, generator=generator).double()
    far = (x[:, None] - x).square().sum(2)
    h = far[~torch.eye(7, dtype=torch.bool)].median() / torch.tensor(7.0).double().log()

    def k(a, b):
        return torch.exp(-(a - b).square().sum() / h) if kernel == "rbf" else a @ b / scale**2 + 1

    expected = torch.zeros_like(x)
    for i in range(7):
        for j in range(7):
            at = x[j].clone().requires_grad_()
            value = k(at, x[i])
            (push,) = torch.autograd.grad(value, at)
            expected[i] += (push - value.detach() * grad[j]) / 7
    found = direction(*(rbf(x) if kernel == "rbf" else linear(x, scale)), grad)
    torch.testing.assert_close(found, expected)


def test_a_single_particle_goes_down_the_gradient():
    out = run(lambda x: 0.5 * x.flatten(1).square().sum(1), torch.ones(1, 1, 2).double(), 1, 0.4, "rbf")
    torch.testing.assert_close(out.x, torch.full((1, 1, 2), 1 - 0.08).double())


def test_particles_in_one_place_stay_finite():
    for x in (torch.ones(5, 2), torch.full((40, 2), 0.1)):
        out = run(lambda x: 0.5 * x.square().sum(1), x, 3, 0.4, "rbf")
        assert out.x.isfinite().all() and out.x.abs().max() < 1


def test_where_most_particles_are_in_one_place_the_others_move_as_without_the_rounding(generator):
    """40 particles at one point and 5 strays: the width is next to 0, each feels its own gradient and those at its
    place, and nothing is thrown out by sums that should cancel."""
    x = torch.cat([torch.full((40, 2), 0.1), torch.randn(5, 2, generator=generator)])
    out = run(lambda x: 0.5 * x.square().sum(1), x, 1, 0.1, "rbf")
    weight = torch.tensor([40.0] * 40 + [1.0] * 5)[:, None] / 45
    torch.testing.assert_close(out.x, x - 0.1 * weight * x, rtol=0, atol=0.1)


def test_training_refuses_it_and_evaluation_takes_it():
    data = Points(torch.randn(9, 2))
    line = faults_of(data, energy="mlp", objective="pcd", sampler="svgd")[0]
    assert line.startswith(
        "objective 'pcd' trains with chains that stay at one energy, and sampler 'svgd' moves particles that depend on "
        "one another, and has no law that it keeps: choose sampler="
    )
    for temperature in (1.0, 0.5):
        assert not faults_of(data, temperature=temperature, energy="mlp", objective="dsm", sampler="svgd")


def test_particles_of_different_labels_are_refused():
    class Labelled(Energy):
        offers = frozenset({"energy", "score", "labels"})

        def forward(self, x, y=None):
            return 0.5 * (x - (0 if y is None else y[:, None])).square().sum(1)

    sampler, x = SVGD(1.0, steps=1, step_size=0.1, kernel="rbf"), torch.randn(4, 2)
    sampler(Labelled().given(y=torch.ones(4)), x, {}, generator=torch.Generator())
    with pytest.raises(UserError, match="sampler 'svgd': its particles move together"):
        sampler(Labelled().given(y=torch.tensor([0.0, 0, 1, 1])), x, {}, generator=torch.Generator())
