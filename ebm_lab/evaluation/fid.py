"""The Frechet Inception distance itself, if Inception's weights are installed.

    fid = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))

between Gaussians fitted to the 2,048 pooled features of samples and of training images, by torchmetrics with
torch-fidelity's Inception, which is the network of the literature. Images are clamped to their bounds, converted to
bytes and enlarged to 299 pixels a side. `fid_floor` is the distance of as many held-out images as there are samples.
With fewer images than features the fitted covariances are singular and the distance is far too large: published values
use 50,000 samples, and values with another number, another resizing or other weights cannot be compared with them.
Nothing is ever downloaded.

Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, arXiv:1706.08500.
"""

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.metrics import Metric
from ebm_lab.core.places import Place
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register

FILE = "weights-inception-2015-12-05-6726825d.pth"
LIBRARIES = ("torchmetrics", "torch_fidelity")


@register("evaluation", "fid")
class FID(Evaluation):
    """Compare samples with training images in Inception's features.

    `weights`: file of Inception's weights, as published by torch-fidelity; `auto` looks in torch's hub folder.
    `reference`: most training images. `batch_size`: images that Inception processes at a time.
    """

    metrics = (Metric("fid*"),)

    def __init__(self, *, weights: Place, reference: PositiveInt, batch_size: PositiveInt) -> None:
        auto = Path(torch.hub.get_dir()) / "checkpoints" / FILE
        self.weights = auto if weights == "auto" else Path(weights).expanduser()
        self.reference, self.batch_size = reference, batch_size

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        shape = view.dataset.event_shape
        if view.dataset.bounds is None or len(shape) != 3 or shape[0] not in (1, 3):
            return "the data are not grey or colour images"
        if min(view.count, len(view.held_out), len(view.dataset.train)) < 2:
            return "covariances need two images at least"
        return self._missing()

    def _missing(self) -> str | None:
        """Return what Inception still needs; None if nothing."""
        if absent := [name for name in LIBRARIES if find_spec(name) is None]:
            return (
                f"needs {' and '.join(absent)}: pip install 'ebm_lab[fid]', and Inception's weights at {self.weights}"
            )
        if not self.weights.is_file():
            return (
                f"needs Inception's weights at {self.weights} (torch-fidelity's {FILE}; nothing is downloaded), or "
                f"evaluation.fid.weights=<file>; feature_fid needs none"
            )
        try:
            torch.load(self.weights, map_location="cpu", weights_only=True)  # torch-fidelity would run code in the file
        except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            return f"{self.weights} can't be read as weights ({(str(error).splitlines() or ['empty'])[0][:80]})"
        return None

    def __call__(self, view: EvalView) -> Report:
        bounds, n = view.dataset.bounds, min(view.count, len(view.held_out))
        assert bounds, "applies() asks for bounds"
        real, held_out = subset(view.dataset.train, self.reference), subset(view.held_out, n)
        of_samples, floor = fids(self._metric(), real, [view.samples[:n], held_out], bounds, self.batch_size)
        metrics = {"fid": of_samples, "fid_floor": floor, "fid_samples": float(n), "fid_reference": float(len(real))}
        weights = "averaged" if view.averaged else "raw"
        note = (
            f"fid: {n} samples of the {weights} weights, clamped to [{bounds[0]:g}, {bounds[1]:g}], against "
            f"{len(real)} training images; biased upwards, strongly with fewer images than its 2,048 features: "
            f"compare at equal fid_samples"
        )
        return Report(metrics, notes=[note])

    def _metric(self) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        path = str(self.weights)
        return FrechetInceptionDistance(2048, reset_real_features=False, feature_extractor_weights_path=path)


def fids(metric: Any, real: Tensor, clouds: list[Tensor], bounds: tuple[float, float], batch: int) -> list[float]:
    """Return the distance of each set of images (n, C, H, W) in `clouds` to `real`.

    `metric`: torchmetrics' FID, made with reset_real_features=False.
    """
    found = []
    for part in pictures.to_uint8(real, bounds).split(batch):
        metric.update(part, real=True)
    for cloud in clouds:
        metric.reset()
        for part in pictures.to_uint8(cloud, bounds).split(batch):
            metric.update(part, real=False)
        found.append(float(metric.compute()))
    return found
