"""An exact model with labels, f_y = log pi_y + log N(x; m_y, s^2 I), and data of its law."""

import torch

from ebm_lab.core.features import PLAIN
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.evaluation.calibration import Calibration
from tests.evaluation.test_evaluation import view

LAW = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]).double(),
    torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).double(),
    torch.tensor(1.0).double(),
)


class ExactLabelled(Energy):
    """The law's energy, its logits divided by `temperature`: of class weights 1 / 1 and given its own E(x, y)."""

    offers = PLAIN | {"labels"}

    def __init__(self, law=LAW, temperature=1.0, order=None):
        super().__init__()
        self.law, self.temperature = law, temperature
        self.order = list(range(len(law.weights))) if order is None else order

    def logits(self, x, sigma=None):
        means, std = self.law.means.to(x), self.law.stds
        square = (x[:, None] - means).flatten(2).square().sum(2)
        log_p = self.law.odds.log() - square / (2 * std**2) - x[0].numel() * torch.log(std * (2 * torch.pi) ** 0.5)
        return log_p[:, self.order] / self.temperature

    def forward(self, x, y=None):
        logits = self.logits(x)
        return -logits.logsumexp(1) if y is None else -logits.gather(1, y[:, None])[:, 0]


class Labelled(Dataset):
    """Points of the law with the labels of their components."""

    def __init__(self, generator, law=LAW, n=2000, bounds=None):
        self.known, self.labels, self.bounds, splits = law, {}, bounds, {}
        for split in ("train", "val", "test"):
            y = torch.multinomial(law.odds, n, replacement=True, generator=generator)
            z = torch.randn(n, *law.means.shape[1:], generator=generator, dtype=torch.float64)
            splits[split], self.labels[split] = law.means[y] + law.stds * z, y
        self.train, self.val, self.test = splits.values()

    def class_log_prob(self, x):
        return self.known.responsibilities(x).log()


def look(generator, temperature=1.0, split="test", law=LAW, bounds=None, n=2000, order=None, **more):
    """The view of a run of the exact model on its own data."""
    data = Labelled(generator, law, n, bounds)
    return view(ExactLabelled(law, temperature, order), data, split, generator=generator, **more)


CALIBRATION = Calibration(bins=15)
