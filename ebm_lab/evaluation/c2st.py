"""Classifier two-sample test: can a classifier tell samples from held-out data?

    accuracy = mean_i 1[ sign f_{-i}(z_i) = y_i ],    y_i = 1 for samples, -1 for data, equally many of each

where f_{-i} is fitted on the folds that do not contain point i, by kernel ridge regression of y with a Gaussian kernel
whose width is a multiple of the median distance between the points. Chance is 0.5. The best possible classifier has
accuracy 1/2 + TV(data, samples) / 2, so the accuracy of any classifier is a lower bound on the distance of the two
laws, up to its own noise.

The folds of a cross-validation are not independent, so a binomial p-value rejects too often. `c2st_p` comes from a
permutation test instead, which does not, because folds and kernel do not depend on the labels; scikit-learn fits all
permutations at once. With few points it rejects too rarely, because many accuracies are equal. `_floor` is the accuracy
with equally many training points instead of samples, `_floor_std` its std over permutations, `_noise` the accuracy for
the noise at which chains begin by default.

David Lopez-Paz and Maxime Oquab, Revisiting Classifier Two-Sample Tests, 2017, section 3, arXiv:1610.06545.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.statistics.permutation import labellings, p_value


def accuracies(z: Tensor, labels: Tensor, width: float, ridge: float, folds: int) -> Tensor:
    """Return the cross-validated accuracy on z (n, d), in random order, for each row of labels (P, n) of +-1: (P,).

    f = sum_j a_j k(., z_j) with (K + ridge I) a = y over the other folds' points, k of width `width` median distances.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import KFold, cross_val_predict

    unit = width * max(float(torch.pdist(z).median()), 1e-12)
    model = KernelRidge(kernel="rbf").set_params(alpha=ridge, gamma=1 / (2 * unit**2))
    f = cross_val_predict(model, z.numpy(), labels.T.numpy(), cv=KFold(folds))
    return (torch.from_numpy(f).T.sign() == labels).double().mean(1)


@register("evaluation", "c2st")
class C2ST(Evaluation):
    """Test whether a classifier distinguishes samples from held-out data.

    `width`: width of the kernel, in median distances. `ridge`: regularisation; more is smoother. `folds`: folds of the
    cross-validation. `permutations`: permutations of the test. `points`: most samples, and most held-out points.
    """

    metrics = (Metric("c2st_*"),)

    def __init__(
        self,
        *,
        width: PositiveFloat,
        ridge: PositiveFloat,
        folds: Annotated[int, Field(ge=2)],
        permutations: PositiveInt,
        points: PositiveInt,
    ) -> None:
        self.width, self.ridge, self.folds = width, ridge, folds
        self.permutations, self.points = permutations, points

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        n = self._count(view)
        return None if n >= self.folds else f"{n} samples and as many data are too few for {self.folds} folds"

    def __call__(self, view: EvalView) -> Report:
        n = self._count(view)
        data, samples = subset(view.held_out, n), view.samples[:n]
        if not samples.isfinite().all():
            return Report(notes=["c2st: some samples are not finite, so any classifier distinguishes them from data"])
        value, p, _ = self.test(samples, data, self.permutations, view.generator)
        floor, _, spread = self.test(subset(view.dataset.train, n), data, self.permutations, view.generator)
        noise, _, _ = self.test(view.from_noise()[:n], data, 1, view.generator)
        metrics = {"c2st_accuracy": value, "c2st_p": p, "c2st_accuracy_noise": noise, "c2st_points": 2.0 * n}
        metrics |= {"c2st_accuracy_floor": floor, "c2st_accuracy_floor_std": spread}
        return Report(metrics, notes=["c2st_accuracy is a lower bound: a better classifier may find more differences"])

    def test(self, x: Tensor, y: Tensor, permutations: int, generator: Generator) -> tuple[float, float, float]:
        """Return (accuracy, p, std over permutations) for x and y, (n, *shape) each."""
        z, n = torch.cat([x, y]).flatten(1).cpu().double(), len(x)
        order = torch.rand(2 * n, generator=generator, device=generator.device).argsort().cpu()
        own = (torch.arange(2 * n) < n)[order].unsqueeze(0)
        labels = torch.cat([own, labellings(n, n, permutations, generator).cpu()]) * 2.0 - 1.0
        value, null = accuracies(z[order], labels, self.width, self.ridge, self.folds).split([1, permutations])
        return float(value), float(p_value(value[0], null)), float(null.std(correction=0))

    def _count(self, view: EvalView) -> int:
        return min(view.count, len(view.held_out), len(view.dataset.train), self.points)
