"""Models of many noise levels and their ladder, against Gaussian data, for which every level is known.

Data N(m, s^2 I) blurred by sigma is N(m, v^2 I), v^2 = s^2 + sigma^2: the base of every model of many levels.
"""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import divergence, energy_and_grad
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.energies.noise_conv import NoiseConv
from ebm_lab.energies.noise_mlp import NoiseMLP
from ebm_lab.energies.noise_unet import NoiseUNet
from ebm_lab.energies.score_mlp import ScoreMLP
from ebm_lab.energies.score_unet import ScoreUNet
from ebm_lab.models.ladder import Ladder, largest_distance, make_ladder
from ebm_lab.models.levels import NoiseEnergy, ScoreNetwork, tweedie
from ebm_lab.models.probability_flow import flow_log_prob, heun_step, rk4_step
from tests.helpers import Points, exact_sample

LADDER = {"sigma_min": 0.1, "sigma_max": 5.0, "levels": 12}
SMOOTH = {"activation": "silu", **LADDER}
PLAIN = {"channels": [4, 8], "blocks": 1, "norm": "none", "patch": 1, "film_width": 32, **SMOOTH}
NORMED = {**PLAIN, "blocks": 2, "norm": "group", "patch": 2}


class ExactMixture(NoiseEnergy):
    """E(x, sigma) = -log of the mixture blurred by sigma, for a mixture of N(m_k, std^2 I)."""

    def __init__(self, data, weights, means, std, **ladder):
        super().__init__(data, **ladder)
        self.weights, self.means, self.std = weights, means, std

    def correction(self, u, sigma):
        raise NotImplementedError

    def energy(self, x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
        square = (x[:, None] - self.means).square().sum(2)
        variance = self.std**2 + sigma**2
        logs = self.weights.log() - square / (2 * variance) - 0.5 * x.shape[1] * (2 * math.pi * variance).log()
        return -torch.logsumexp(logs, 1)


class ExactScore(ScoreNetwork):
    """The score of an energy, as a network that has nothing else."""

    def __init__(self, data, energy, **ladder):
        super().__init__(data, **ladder)
        self.of = energy

    def correction(self, u, sigma):
        raise NotImplementedError

    def score(self, x, sigma, create_graph=False):
        return self.of.score(x, sigma, create_graph)


def gaussian_model(generator, d=2, s=0.7, **ladder):
    """(model, data, m) for data N(m, s^2 I) with exact moments."""
    m = torch.linspace(-1, 2, d, dtype=torch.float64)
    data = Points(exact_sample(m, s**2 * torch.eye(d, dtype=torch.float64), 2000, generator))
    one = torch.ones(1, dtype=torch.float64)
    return ExactMixture(data, one, m[None], s, **{**LADDER, **ladder}), data, m


def images(generator):
    return Points(torch.randn(20, 1, 8, 8, generator=generator), (-1.0, 1.0))


def models(generator):
    points, pixels = Points(torch.randn(50, 3, generator=generator)), images(generator)
    return [
        (NoiseMLP(points, hidden=[16, 16], base="none", **SMOOTH), points),
        (NoiseConv(pixels, channels=[4, 8], hidden=8, base="none", **SMOOTH), pixels),
        (NoiseUNet(pixels, form="scalar", base="none", **PLAIN), pixels),
        (NoiseUNet(pixels, form="half", base="none", **NORMED), pixels),
        (ScoreMLP(points, hidden=[16, 16], **SMOOTH), points),
        (ScoreUNet(pixels, **PLAIN), pixels),
        (ScoreUNet(pixels, **NORMED), pixels),
    ]


def shaken(model):
    """The model with random weights everywhere, those that begin at zero too."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.double()


def test_the_ladder_is_geometric():
    ladder = Ladder(8.0, 0.5, 5)
    assert [ladder.rung(i) for i in range(5)] == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])
    assert ladder.between(1, 2) == pytest.approx([4.0, 8**0.5, 2.0])
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert ladder.spread(u).tolist() == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])
    assert ladder.height(torch.tensor([8.0, 2.0, 0.5])).tolist() == pytest.approx([1.0, 0.0, -1.0], abs=1e-6)


def test_auto_levels_come_from_the_data_and_are_kept(generator):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert largest_distance(x) == pytest.approx(5.0)
    data = Points(torch.randn(500, 2, generator=generator))
    ladder, chosen = make_ladder(data, "auto", "auto", 7)
    assert chosen == {"sigma_max": ladder.sigma_max, "sigma_min": ladder.sigma_min}
    assert ladder.sigma_max == pytest.approx(largest_distance(data.train), rel=0.05)
    assert make_ladder(data, 0.2, 3.0, 7) == (Ladder(3.0, 0.2, 7), {})
    with pytest.raises(UserError, match=r"energy.sigma_min=9: must be less than energy.sigma_max="):
        make_ladder(data, 9.0, "auto", 7)


def test_an_untrained_energy_is_near_its_base_far_away_so_that_z_exists(generator):
    """E - |u|^2 / 2 grows more slowly than |u|^2 along rays, at every level."""
    for model, data in models(generator):
        if isinstance(model, NoiseEnergy):
            shaken(model)
            for sigma in (0.1, 1.0, 5.0):
                ray = data.train[:8].double()
                sizes = []
                for t in (1e3, 1e4):
                    u, level, _ = model.inputs(t * ray, sigma)
                    ratio = model.correction(u, level) / (0.5 * u.flatten(1).square().sum(1))
                    sizes.append(ratio.detach().abs().max())
                assert sizes[1] < 0.2 * sizes[0]


def test_a_level_per_sample_equals_one_level_at_a_time(generator):
    for model, data in models(generator):
        shaken(model)
        x, sigma = data.train[:4].double(), torch.tensor([0.1, 0.5, 2.0, 5.0]).double()
        together = model.score(x, sigma)
        alone = torch.cat([model.score(x[i : i + 1], float(s)) for i, s in enumerate(sigma)])
        torch.testing.assert_close(together, alone)
        assert (together[0] - model.score(x, 5.0)[0]).abs().max() > 1e-3


def test_an_energy_s_score_is_minus_its_gradient_and_its_lowest_level_is_the_energy(generator):
    for model, data in models(generator):
        if isinstance(model, NoiseEnergy):
            shaken(model)
            x = data.train[:4].double()
            torch.testing.assert_close(model(x), model.energy(x, 0.1))
            h = torch.zeros_like(x)
            h.view(4, -1)[:, 1] = 1e-5
            slope = (model.at(2.0)(x + h) - model.at(2.0)(x - h)) / 2e-5
            torch.testing.assert_close(-model.score(x, 2.0).view(4, -1)[:, 1], slope, rtol=1e-5, atol=1e-7)


def test_the_base_is_the_blurred_gaussian(generator):
    """With f = 0 the energy is -log N(m, (s^2 + sigma^2) I) and the score network its gradient, at each level."""
    _, data, m = gaussian_model(generator)
    exact = ExactMixture(data, torch.ones(1).double(), m[None], data.scale, **LADDER)
    for model in (
        NoiseMLP(data, hidden=[4], base="none", **SMOOTH).double(),
        ScoreMLP(data, hidden=[4], **SMOOTH).double(),
    ):
        torch.nn.init.zeros_(model.net.last.weight), torch.nn.init.zeros_(model.net.last.bias)
        x, sigma = data.train[:9], torch.linspace(0.1, 5, 9, dtype=torch.float64)
        torch.testing.assert_close(model.score(x, sigma), exact.score(x, sigma), rtol=1e-5, atol=1e-6)
        if isinstance(model, NoiseEnergy):
            torch.testing.assert_close(model.energy(x, sigma), exact.energy(x, sigma), rtol=1e-5, atol=1e-5)


def test_tweedie_s_denoising_is_the_posterior_mean(generator):
    """E[x_0 | x] = m + s^2 / (s^2 + sigma^2) (x - m) for a Gaussian."""
    model, _, m = gaussian_model(generator)
    x = torch.randn(6, 2, generator=generator).double() * 3
    torch.testing.assert_close(tweedie(model, x, 1.3), m + 0.49 / (0.49 + 1.69) * (x - m), rtol=1e-12, atol=1e-12)


def test_level_gradients_are_the_closed_form(generator):
    """E = |x - m|^2 / (2 v^2) + d log v + const: dE / d log sigma = sigma^2 / v^2 (d - |x - m|^2 / v^2)."""
    model, _, m = gaussian_model(generator, d=3)
    x = torch.randn(6, 3, generator=generator).double()
    sigma = torch.linspace(0.2, 4, 6, dtype=torch.float64)
    _, grad, rate = model.level_gradients(x, sigma)
    v2, square = 0.49 + sigma**2, (x - m).square().sum(1)
    torch.testing.assert_close(grad, (x - m) / v2[:, None])
    torch.testing.assert_close(rate, sigma**2 / v2 * (3 - square / v2))


def test_divergence_is_the_trace_and_hutchinson_s_mean(generator):
    """f(x) = A x + sin(x): trace A + sum cos x; Rademacher v averaged over all 2^d sign patterns is exact."""
    a = torch.randn(3, 3, generator=generator).double()
    x = torch.randn(5, 3, generator=generator).double()

    def field(x):
        return x @ a.T + x.sin()

    expected = a.trace() + x.cos().sum(1)
    value, trace = divergence(field, x)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(trace, expected)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    mean = torch.stack([divergence(field, x, v.expand_as(x))[1] for v in signs]).mean(0)
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("step, order", [(heun_step, 2), (rk4_step, 4)])
def test_the_solvers_have_their_orders(step, order):
    """dy/dt = y cos t, y(0) = 1, y(2) = exp(sin 2): the error falls as h^order."""
    errors = []
    for n in (20, 40):
        y = (torch.ones(1).double(),)
        for i in range(n):
            y = step(lambda y, t: (y[0] * math.cos(t),), y, 2 * i / n, 2 / n)
        errors.append(abs(float(y[0]) - math.exp(math.sin(2))))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_the_flow_s_likelihood_of_a_gaussian_is_exact(kind, generator):
    """log N(x; m, (s^2 + sigma_min^2) I), within 1e-3 nats at every point, with 30 steps."""
    exact, data, _ = gaussian_model(generator)
    model = exact if kind == "energy" else ExactScore(data, exact, **LADDER)
    x = data.train[:50]
    expected = -exact.energy(x, 0.1)
    assert (flow_log_prob(model, x, 30) - expected).abs().max() < 1e-3
    v = torch.ones_like(x)
    v[:, 0] = -1
    assert (flow_log_prob(model, x, 30, v) - expected).abs().max() < 1e-3  # the Jacobian is diagonal: any signs do


def test_the_flow_s_likelihood_of_a_mixture(generator):
    """Modes at +-3 with weights 0.2 and 0.8. What differs is the prior: a Gaussian for the mixture blurred by 40."""
    means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).double()
    weights = torch.tensor([0.2, 0.8]).double()
    law = GaussianMixture(weights, means, torch.tensor(1.0).double())
    data = Points(law.sample(2000, generator))
    model = ExactMixture(data, weights, means, 1.0, sigma_min=0.05, sigma_max=40.0, levels=12)
    x = data.train[:100]
    assert (flow_log_prob(model, x, 80) + model.energy(x, 0.05)).abs().mean() < 2e-3


def test_a_score_network_says_that_it_has_no_energy(generator):
    _, data, _ = gaussian_model(generator)
    with pytest.raises(UserError, match="no energy"):
        energy_and_grad(ScoreMLP(data, hidden=[4], **SMOOTH), data.train)
