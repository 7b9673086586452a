"""Cooperative recovery likelihood: with the right start chains of any length have the right law; training finds it.

For E = a x^2 / 2 and data N(0, S), p(x | seen) is N(seen / (gap^2 pi), 1 / pi), pi = a + 1 / gap^2.
"""

import math

import pytest
import torch

from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.cdrl import CDRL, Initialiser
from ebm_lab.objectives.drl import DRL
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from tests.helpers import Points
from tests.objectives.test_drl import LOW, Bowl, S

GAP = 1.0
FIXED = {"target_acceptance": None, "adapt_rate": 0.02, "temperature": 1.0, "mass": "identity", "warmup": None}


class Linear(torch.nn.Module):
    """h = weight seen, in gaps, and s = exp(log_std)."""

    def __init__(self, weight, std):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.log_std = torch.nn.Parameter(torch.tensor(math.log(std), dtype=torch.float64))

    def forward(self, model, seen, low):
        return self.weight * seen, self.log_std.exp().expand(len(seen))


def exact(a):
    """The initialiser whose law is p(x | seen) for E = a x^2 / 2."""
    pi = a + 1 / GAP**2
    return Linear((1 / (GAP**2 * pi) - 1) / GAP, 1 / (GAP * math.sqrt(pi)))


def objective_of(a, sampler, net, generator):
    data = Points(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    made = CDRL(Bowl(a, GAP), sampler, data, generator, 1.0, hidden=[4])
    made.net = net
    return made


def batch(generator, n=20_000):
    return Batch((S - LOW**2) ** 0.5 * torch.randn(n, 1, generator=generator).double())


def mean_and_error(slopes):
    found = torch.stack(slopes)
    return found.mean(0), found.std(0) / len(slopes) ** 0.5


@pytest.mark.parametrize("steps", [1, 3])
def test_at_the_truth_the_gradients_of_both_players_vanish_after_any_number_of_steps(steps, generator):
    """12 batches of 20,000 points: within 4 standard errors of 0. As long chains from `seen` are 20 errors away."""
    sampler = MALA(1.0, steps=steps, step_size=0.5, **FIXED)
    cooperative = objective_of(1 / S, sampler, exact(1 / S), generator)
    moving = [cooperative.energy.a, cooperative.net.weight, cooperative.net.log_std]
    slopes = [torch.stack(torch.autograd.grad(cooperative(batch(generator)).value, moving)) for _ in range(12)]
    mean, error = mean_and_error(slopes)
    assert (mean.abs() < 4 * error).all(), mean / error
    alone = DRL(Bowl(1 / S, GAP), sampler, generator, 1.0)
    slopes = [torch.autograd.grad(alone(batch(generator)).value, [alone.energy.a])[0] for _ in range(12)]
    mean, error = mean_and_error(slopes)
    assert float(mean.abs() / error) > 20


def test_the_initialiser_loss_is_the_negative_log_density_of_the_ends(generator):
    """At h = w seen and s, in d = 3: |v - h|^2 / (2 s^2) + d log s with v = end / unit, by hand; v counts as fixed."""
    net = Linear(-0.3, 0.7)
    made = objective_of(0.9, MALA(1.0, steps=1, step_size=0.5, **FIXED), net, generator)
    made.unit = 2.0
    seen, end = (torch.randn(6, 3, generator=generator).double() for _ in range(2))
    (loss,) = made.beside(seen, torch.full((6,), LOW).double(), end.requires_grad_()).values()
    by_hand = (((end / 2 + 0.3 * seen) ** 2).sum(1) / (2 * 0.7**2) + 3 * math.log(0.7)).mean()
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert end.grad is None and net.weight.grad is not None


def test_training_with_short_chains_finds_the_truth_that_recovery_likelihood_misses(generator):
    """K = 3 steps of MALA: a = .5882 where `drl` settles above 1. A batch of 4,000 leaves a standard error of some .01
    in the mean of the last 100 of 400 steps."""
    found = {}
    for name in ("drl", "cdrl"):
        sampler = MALA(1.0, steps=3, step_size=0.5, **FIXED)
        model = Bowl(1.0, GAP)
        if name == "cdrl":
            made = objective_of(1.0, sampler, Linear(0.0, 1.0), generator)
            model = made.energy
        else:
            made = DRL(model, sampler, generator, 1.0)
        optimiser = torch.optim.SGD(made.parameters(), lr=0.2)
        path = []
        for _ in range(400):
            optimiser.zero_grad()
            made(batch(generator, 4000)).value.backward()
            optimiser.step()
            path.append(float(model.a.detach()))
        found[name] = sum(path[-100:]) / 100
    assert found["cdrl"] == pytest.approx(1 / S, abs=0.04)
    assert found["drl"] > 1.0


def test_at_first_the_chains_begin_a_gap_around_the_copies_and_the_range_of_the_std_is_kept(generator):
    model = Bowl(0.9, GAP)
    net = Initialiser(model, [8], generator)
    seen, low = torch.randn(5, 1, generator=generator).double(), torch.full((5,), LOW).double()
    h, s = net(model, seen, low)
    assert h.abs().max() == 0 and (s == 1).all()
    for bias, s in ((-50.0, 0.01), (50.0, 3.0)):
        torch.nn.init.constant_(net.net.last.bias, bias)
        assert net(model, seen, low)[1].tolist() == [s] * 5


def test_short_chains_are_no_longer_warned_of(generator):
    langevin = Langevin(1.0, steps=3, step_size=0.3, noise_scale=1.0, clip_grad=None)
    (law,) = objective_of(0.9, langevin, exact(0.9), generator).notes
    assert law.startswith("cdrl: the density that is measured is exp(-E) at the lowest noise level")
