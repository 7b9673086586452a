"""Telescoping density-ratio estimation: its value at the optimum, the telescope, and what one bridge cannot learn."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from ebm_lab.core.interfaces import Batch, Energy
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.models.ladder import Ladder
from ebm_lab.objectives.tre import TRE, telescoping_ratio_estimation
from tests.helpers import faults_of

NARROW = 1e-3
"""Std of the data, N(0, 1e-6); the prior is N(0, 1)."""


class Levels(Energy):
    """E(x, sigma) = -log N(x; 0, v_k), with log v_k a parameter of each rung k; data at 0, so that v_k = sigma_k^2."""

    offers = Energy.offers | {"levels"}

    def __init__(self, bridges, learnt=True, d=1):
        super().__init__()
        low = NARROW if bridges == 1 else NARROW ** (1 / bridges)
        self.ladder = Ladder(max(low, NARROW * 1.0001), NARROW, max(bridges, 2)) if bridges > 1 else One(NARROW)
        self.register_buffer("mean", torch.zeros(d).double())
        rungs = torch.tensor([self.ladder.rung(i) for i in range(self.ladder.levels)]).double()
        self.register_buffer("rungs", rungs)
        self.log_v = nn.Parameter(torch.zeros_like(rungs) if learnt else 2 * rungs.log())

    def prior(self):
        return IsotropicGaussian(self.mean, 1.0)

    def forward(self, x, sigma=None):
        sigma = self.rungs[-1:] if sigma is None else torch.as_tensor(sigma).reshape(-1)
        log_v = self.log_v[(sigma[:, None] / self.rungs).log().abs().argmin(1)]
        square, d = x.square().sum(1), x.shape[1]
        return 0.5 * (square * (-log_v).exp() + d * (log_v + math.log(2 * math.pi)))


def nodes_near_zero(n=2001, finest=1e-5):
    """Points z (n,) and probabilities of N(0, 1), densest near 0, where the narrow law is: z = finest * sinh(t)."""
    t = torch.linspace(-1, 1, n).double() * math.asinh(9 / finest)
    z = finest * t.sinh()
    w = torch.exp(-0.5 * z**2) * t.cosh()
    return z, w / w.sum()


class One:
    """A ladder of a single level."""

    levels = 1

    def __init__(self, sigma):
        self.sigma_min = self.sigma = sigma

    def rung(self, i):
        return self.sigma


def truth(bridges):
    model = Levels(bridges, learnt=False)
    return model, torch.cat([torch.tensor([math.inf]).double(), model.rungs])


@pytest.mark.parametrize(
    "bridges, optimum", [(1, 0.017162), (2, 0.242369), (4, 0.731333), (8, 1.123917), (16, 1.304123)]
)
def test_each_bridge_has_its_value_at_the_optimum_and_no_gradient(bridges, optimum):
    """N(0, 1e-6) against N(0, 1) by geometric bridges: E_p softplus(-h) + E_q softplus(h), by quadrature."""
    model, sigmas = truth(bridges)
    z, w = nodes_near_zero()
    for i in range(bridges):
        sigma, up = sigmas[i + 1].expand(len(z)), sigmas[i].expand(len(z))
        x, x_up = (sigma * z)[:, None], (up.masked_fill(up.isinf(), 1.0) * z)[:, None]
        values, h, h_up = telescoping_ratio_estimation(model, x, x_up, sigma, up, model.prior())
        torch.testing.assert_close(values, softplus(-h) + softplus(h_up))
        value = (w * values).sum()
        assert float(value.detach()) == pytest.approx(optimum, abs=2e-6)
        model.zero_grad()
        value.backward()
        assert float(model.log_v.grad.abs().max()) < 1e-6


def test_log_ratios_telescope_to_that_of_the_ends(generator):
    """The sum of h over all bridges at one point is log p_0 - log prior there, whatever the levels between say."""
    model, sigmas = truth(6)
    with torch.no_grad():
        model.log_v[:-1] += torch.randn(5, generator=generator).double()
    x = 0.3 * torch.randn(9, 1, generator=generator).double()
    ratios = [
        telescoping_ratio_estimation(model, x, x, sigmas[i + 1].expand(9), sigmas[i].expand(9), model.prior())[1]
        for i in range(6)
    ]
    law = IsotropicGaussian(model.mean, NARROW)
    torch.testing.assert_close(torch.stack(ratios).sum(0), law.log_prob(x) - model.prior().log_prob(x))


def trained(bridges, generator, steps=150):
    model = Levels(bridges)
    objective = TRE(model, generator)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(Batch(torch.zeros(128, 1).double())).value.backward()
        optimiser.step()
        schedule.step()
    return float(model.log_v[-1].detach()) / 2


def test_eight_bridges_learn_the_ratio_that_one_does_not(generator):
    """From v = 1 at every level: log std of N(0, 1e-6) is -6.908; one bridge's easy problem leaves it farther away."""
    errors = [abs(trained(bridges, generator) - math.log(NARROW)) for bridges in (8, 1)]
    assert errors[0] < 0.1 and errors[1] > 2 * errors[0]


def test_pairs_are_drawn_from_neighbouring_levels_and_counted(generator):
    """Every bridge gets its share; the points' stds are those of their levels, within 5 standard errors."""
    model, seen = Levels(4, learnt=False, d=2), []
    objective, forward = TRE(model, generator), Levels.forward
    model.forward = lambda x, sigma=None: seen.append((x, sigma)) or forward(model, x, sigma)
    n = 40_000
    loss = objective(Batch(torch.zeros(n, 2).double()))
    ((x, sigma),) = seen
    low, up, level, level_up = x[:n], x[n : 2 * n], sigma[:n], sigma[2 * n : 3 * n]
    assert torch.equal(x[2 * n :], x[: 2 * n]) and torch.equal(sigma[n : 2 * n], level)
    for i, rung in enumerate(model.rungs):
        rows = level == rung
        assert int(rows.sum()) == pytest.approx(n / 4, abs=5 * (n * 3 / 16) ** 0.5)
        error = 5 / (4 * int(rows.sum())) ** 0.5
        assert float(low[rows].std()) == pytest.approx(float(rung), rel=error)
        above = 1.0 if i == 0 else float(model.rungs[i - 1])
        assert float(up[rows].std()) == pytest.approx(above, rel=error)
        if i:
            torch.testing.assert_close(up[rows] / above, low[rows] / rung)
            assert (level_up[rows] == above).all()
    assert loss.grad_evals == 4 * n and 0.5 < float(loss.metrics["accuracy"]) < 1
    assert float(objective.learnt_log_z()) == 0 and objective.learnt_blur() == NARROW


def test_an_energy_without_levels_is_refused():
    from tests.helpers import Points

    (line,) = faults_of(Points(torch.randn(20, 2)), energy="mlp", objective="tre")
    assert line.startswith("objective 'tre' needs a model of many noise levels, and energy 'mlp' has none")
