"""How near samples of images are to real ones, in the features of a classifier trained on the data set itself.

    feature_fid = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),    feature_kid = MMD^2 with k = (z . z' / d + 1)^3

between the features z of samples and of training images (_feature_net.py, statistics/frechet.py). This is no FID, whose
features are Inception's: its numbers compare with each other on one data set and with nothing else. Beside each stand,
at the same number of images, that of held-out real images (a floor, which a model can't be expected below), of a
mixture of Gaussians on principal components (what a model without a network reaches) and of noise (a ceiling). Samples
are clamped to the pixels' bounds. feature_fid is biased up by about 1/n, the floor at the same n by the same cause:
compare only numbers of equal `feature_samples`. The floor also holds what the classifier has learnt by heart, for it
was trained on the reference images and never saw the held-out ones. feature_kid is unbiased; its deviation is that of
one subset.

Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, arXiv:1706.08500.
Mikolaj Binkowski et al., Demystifying MMD GANs, 2018, section 4, arXiv:1801.01401.
"""

import time
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.core.settings import check
from ebm_lab.distributions.principal_mixture import MixtureSettings, PrincipalMixture, principal_mixture
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._feature_net import FeatureNet, FeatureSettings, feature_net
from ebm_lab.statistics.frechet import feature_distance, subset_mmd2


@register("evaluation", "feature_fid")
class FeatureFID(Evaluation):
    """`network`: the classifier's settings (FeatureSettings); `mixture`: the baseline's (MixtureSettings); `reference`:
    how many training images samples are compared with at most; `subsets` of `subset_size` images for feature_kid."""

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
    ) -> None:
        self.dataset, self.folder = dataset, Path(output_dir) / "features"
        self.network = FeatureSettings(**check(FeatureSettings, network, "evaluation.feature_fid.network"))
        self.mixture = MixtureSettings(**check(MixtureSettings, mixture, "evaluation.feature_fid.mixture"))
        self.reference, self.subsets, self.subset_size = reference, subsets, subset_size
        self._ready: tuple[FeatureNet, PrincipalMixture] | None = None

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
            "_mixture": mixture.sample(n, view.generator),
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
            f"many for floor, mixture and noise, against {len(reference)} training images; biased up by about 1/n, so "
            f"compare at equal feature_samples; its features are this data set's own, so it is no FID"
        )
        return Report(metrics, notes=notes)

    def _distances(self, name: str, z: Tensor, reference: Tensor, view: EvalView) -> dict[str, float]:
        kid, deviation = subset_mmd2(z, reference, self.subsets, self.subset_size, view.generator)
        found = {f"feature_fid{name}": feature_distance(z, reference), f"feature_kid{name}": kid}
        return found if name else {**found, "feature_kid_std": deviation}

    def prepare(self) -> tuple[tuple[FeatureNet, PrincipalMixture], list[str]]:
        """Classifier and mixture, from their files or made now, and what there is to say about it."""
        if self._ready is not None:
            return self._ready, []
        began = time.perf_counter()
        net, kept = feature_net(self.dataset, self.network, self.folder)
        notes = [*kept.notes, *told("classifier trained", kept, began)]
        began = time.perf_counter()
        mixture, kept = principal_mixture(self.dataset, self.mixture, self.folder)
        notes += [*kept.notes, *told("mixture of Gaussians fitted", kept, began)]
        self._ready = net, mixture
        return self._ready, notes


def told(what: str, kept: Any, began: float) -> list[str]:
    """A line for what was made and not found."""
    return [f"{what} in {time.perf_counter() - began:.1f} s, kept as {kept.path}"] if kept.made else []


def unfit(dataset: Dataset) -> str | None:
    """None, or why no classifier of images can be trained on these data."""
    images = dataset.bounds is not None and len(dataset.event_shape) == 3
    return None if images and dataset.labels is not None else "the data are not labelled images"
