"""Precision, recall, density and coverage of samples among held-out data (statistics/prdc.py), in data space.

Precision and density are low if samples lie away from the data, recall and coverage if data lie away from the samples;
density exceeds 1 if samples concentrate where the data are densest. `_real` is the value for as many training points
instead of samples, which a perfect model reaches up to noise; its expected coverage is `prdc_coverage_expected`.
`prdc_*_noise` is the value for the noise at which chains begin by default. All values depend on the number of points:
compare them only at the same number of samples and `points`. Distances between pixels say little about what an image
shows; distances in a classifier's features say more.
"""

from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.statistics.prdc import expected_coverage, prdc


@register("evaluation", "prdc")
class PRDC(Evaluation):
    """Measure precision, recall, density and coverage of the samples.

    `neighbours`: k; the radius of each point's ball is the distance to its k-th neighbour. `points`: most held-out
    points, and most samples.
    """

    metrics = (Metric("prdc_*"),)

    def __init__(self, *, neighbours: PositiveInt, points: PositiveInt) -> None:
        self.neighbours, self.points = neighbours, points

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        n = min(view.count, len(view.held_out), len(view.dataset.train), self.points)
        return None if n > self.neighbours else f"{self.neighbours} nearest neighbours among {n} points do not exist"

    def __call__(self, view: EvalView) -> Report:
        real, samples = _flat(subset(view.held_out, self.points)), _flat(view.samples[: self.points])
        if not samples.isfinite().all():
            return Report(notes=["prdc: some samples are not finite, so they have no nearest neighbours"])
        n, m = len(real), len(samples)
        values = {f"prdc_{name}": v for name, v in prdc(real, samples, self.neighbours).items()}
        others = {"real": _flat(subset(view.dataset.train, m)), "noise": _flat(view.from_noise()[:m])}
        for suffix, x in others.items():
            values |= {f"prdc_{name}_{suffix}": v for name, v in prdc(real, x, self.neighbours).items()}
        values["prdc_coverage_expected"] = expected_coverage(n, m, self.neighbours)
        return Report(
            values, notes=["prdc_* change with the number of points: compare with prdc_*_real, not across counts"]
        )


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()
