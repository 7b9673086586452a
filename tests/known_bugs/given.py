"""Data whose three splits differ, and views whose samples and noise are given: what tests of evaluations share."""

import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.interfaces import Chain, Sampler
from tests.helpers import Drift, Points, gaussian_energy

MALA = {"name": "mala", "steps": 5, "step_size": 0.3, "temperature": 1.0, "mass": "identity", "warmup": None}
MALA |= {"target_acceptance": 0.7, "adapt_rate": 0.02}
LAW = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())


class Splits(Points):
    """N(0, I), N(1, 4 I) and N(-1, 9 I) in the three splits, of 60, 50 and 40 points; the true law is N(0, I)."""

    def __init__(self, generator, shape=(2,), bounds=None):
        def draw(n, mean, std):
            return mean + std * torch.randn(n, *shape, generator=generator, dtype=torch.float64)

        super().__init__(draw(60, 0, 1), bounds)
        self.val, self.test = draw(50, 1, 2), draw(40, -1, 3)

    def log_prob(self, x):
        return LAW.log_prob(x.double()) if self.event_shape == (2,) else None


def energy_of(d=2):
    """E = |x - 0.5|^2."""
    energy = gaussian_energy(torch.full((d,), 0.5).double(), 2 * torch.eye(d).double())
    return energy.requires_grad_(False)


def look(data, generator, energy=None, split="test", n=60, sampler=None, **more):
    """A view whose samples and noise are given: n of each, of laws of their own."""
    settings = {"steps": 6, "generator": generator, **more}
    view = EvalView(energy or energy_of(), data, split, sampler or Drift(), n, **settings)
    shape = (n, *data.event_shape)
    noise, samples = (m + torch.randn(*shape, generator=generator, dtype=torch.float64) for m in (3.0, 0.3))
    view.__dict__["trajectory"] = [(0, noise), (6, samples)]
    return view, noise, samples


class Witness(Sampler):
    """Stays where it is, and remembers the energies and the states that it was given."""

    steps = 2

    def __init__(self):
        self.energies, self.starts = [], []

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        self.energies.append(energy)
        self.starts += [] if state else [x]
        return Chain(x, {"seen": torch.ones(1)}, {"acceptance": torch.tensor(0.25 * len(self.energies))}, 0)


def copied(monkeypatch, module):
    """`markov` copies the run's sampler; let it be the witness itself."""
    monkeypatch.setattr(f"ebm_lab.evaluation.{module}.markov", lambda view, kernel, key: (view.sampler, []))


def equal_sets(a, b):
    """The same rows, in any order."""
    return a.shape == b.shape and torch.equal(a.flatten(1).sort(0).values, b.flatten(1).sort(0).values)
