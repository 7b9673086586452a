"""Compare image samples with real images, in the features of a classifier trained on the data set itself.

    feature_fid = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),    feature_kid = MMD^2 with k = (z . z' / d + 1)^3

between the features z of samples and of training images (_feature_net.py, statistics/frechet.py). feature_density and
feature_coverage (statistics/prdc.py) compare samples with as many training images: density is low if samples lie off
the data, coverage if some of the data have no sample near. This is not the FID, whose features are Inception's: the
numbers can only be compared with one another on one data set. For comparison each is also reported, for the same number
of images, for held-out real images (a floor below which no model can be expected), for a mixture of Gaussians on
principal components (what a model without a network reaches; images of bits have none) and for noise (a ceiling).
Samples are clamped to the pixels' bounds. feature_fid is biased upwards by about 1/n, and so is its floor: compare only
numbers of equal `feature_samples`. The floor also contains what the classifier has memorised, since it was trained on
the reference images and never saw the held-out ones. feature_kid is unbiased; its deviation is that of one subset.

Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, arXiv:1706.08500.
Mikolaj Binkowski et al., Demystifying MMD GANs, 2018, section 4, arXiv:1801.01401.
"""

import time
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import features_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.core.settings import check
from ebm_lab.distributions.principal_mixture import MixtureSettings, PrincipalMixture, principal_mixture
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._feature_net import FeatureNet, FeatureSettings, feature_net
from ebm_lab.statistics.frechet import feature_distance, subset_mmd2
from ebm_lab.statistics.prdc import density_coverage


@register("evaluation", "feature_fid")
class FeatureFID(Evaluation):
    """Compare samples with training images in a classifier's features.

    `network`: settings of the classifier (FeatureSettings). `mixture`: settings of the baseline (MixtureSettings).
    `reference`: most training images for the comparison. `subsets`, `subset_size`: number and size of the subsets for
    feature_kid. `neighbours`: k of density and coverage.
    """

    metrics = (
        Metric(
            "feature_fid",
            "feature-FID",
            good="lower",
            meaning="Frechet distance in the features of a small classifier.",
            shown=("compare",),
            rank=50,
        ),
        Metric("feature_kid", good="lower"),
        Metric("feature_*"),
    )

    def __init__(
        self,
        dataset: Dataset,
        output_dir: str,
        *,
        network: dict[str, Any],
        mixture: dict[str, Any],
        reference: PositiveInt,
        subsets: PositiveInt,
        subset_size: PositiveInt,
        neighbours: PositiveInt,
    ) -> None:
        self.dataset, self.folder = dataset, Path(output_dir) / "features"
        self.network = FeatureSettings(**check(FeatureSettings, network, "evaluation.feature_fid.network"))
        self.mixture = MixtureSettings(**check(MixtureSettings, mixture, "evaluation.feature_fid.mixture"))
        self.reference, self.subsets, self.subset_size, self.neighbours = reference, subsets, subset_size, neighbours
        self._ready: tuple[FeatureNet, PrincipalMixture | None] | None = None

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        if min(view.count, len(view.held_out), len(view.dataset.train)) < 2:
            return "covariances need two images at least"
        return unfit(view.dataset)

    def __call__(self, view: EvalView) -> Report:
        (net, mixture), notes = self.prepare()
        labels, bounds = view.dataset.labels, view.dataset.bounds
        assert labels and bounds, "applies() asks for both"
        n = min(view.count, len(view.held_out))
        reference = net.features(subset(view.dataset.train, self.reference))
        clouds = {
            "": view.samples[:n].clamp(*bounds),
            "_floor": subset(view.held_out, n),
            **({} if mixture is None else {"_mixture": mixture.sample(n, view.generator)}),
            "_noise": start_law(view.dataset).sample(n, view.generator),
        }
        metrics: dict[str, float] = {}
        for name, images in clouds.items():
            metrics |= self._distances(name, net.features(images), reference, view)
        metrics["feature_accuracy"] = net.accuracy(view.held_out, labels[view.split])
        metrics |= {"feature_samples": float(n), "feature_reference": float(len(reference))}
        weights = "averaged" if view.averaged else "raw"
        notes.append(
            f"feature_fid: {n} samples of the {weights} weights, clamped to [{bounds[0]:g}, {bounds[1]:g}], and as "
            f"many for {', '.join(name[1:] for name in clouds if name)}, against {len(reference)} training images; "
            f"biased upwards by about 1/n, so compare at equal feature_samples; the features are this data set's own, "
            f"so this is not the FID"
        )
        return Report(metrics, notes=notes)

    def _distances(self, name: str, z: Tensor, reference: Tensor, view: EvalView) -> dict[str, float]:
        kid, deviation = subset_mmd2(z, reference, self.subsets, self.subset_size, view.generator)
        found = {f"feature_fid{name}": feature_distance(z, reference), f"feature_kid{name}": kid}
        near = reference[: len(z)]
        if len(near) > self.neighbours:
            density, coverage = density_coverage(near, z, self.neighbours)
            found |= {f"feature_density{name}": float(density), f"feature_coverage{name}": float(coverage)}
        return found if name else {**found, "feature_kid_std": deviation}

    def prepare(self) -> tuple[tuple[FeatureNet, PrincipalMixture | None], list[str]]:
        """Return classifier and mixture, from their files or made now, and notes about them; bits have no mixture."""
        if self._ready is not None:
            return self._ready, []
        began = time.perf_counter()
        net, kept = feature_net(self.dataset, self.network, self.folder)
        notes = [*kept.notes, *_notes("classifier trained", kept, began)]
        mixture, began = None, time.perf_counter()
        if "continuous" in features_of(self.dataset):
            mixture, kept = principal_mixture(self.dataset, self.mixture, self.folder)
            notes += [*kept.notes, *_notes("mixture of Gaussians fitted", kept, began)]
        self._ready = net, mixture
        return self._ready, notes


def _notes(what: str, kept: Any, began: float) -> list[str]:
    """Return a line if the part was made now and not read from its file."""
    return [f"{what} in {time.perf_counter() - began:.1f} s, kept as {kept.path}"] if kept.made else []


def unfit(dataset: Dataset) -> str | None:
    """Return why no image classifier can be trained on these data; None if one can."""
    images = dataset.bounds is not None and len(dataset.event_shape) == 3
    return None if images and dataset.labels is not None else "the data are not labelled images"
