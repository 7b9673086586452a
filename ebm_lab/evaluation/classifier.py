"""Classify the samples with a classifier trained on the real training images.

Reported are the share of samples that get a class with probability above `confident`, the number of classes among them
and the entropy of their histogram, which a picture shows beside that of held-out images; for comparison the same share
of held-out real images (a ceiling) and of uniform noise (a floor), and the classifier's accuracy. A picture shows
samples beside their nearest training images; the mean distance to them is reported with that of 500 held-out images:
samples that are much nearer are copies.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._judge import perceptron


@register("evaluation", "classifier")
class Classifier(Evaluation):
    """Classify samples by a perceptron with one hidden layer, fitted once per run by scikit-learn with a fixed seed.

    `hidden`: width of the hidden layer. `points`: most training images. `passes`: images shown during training, over
    all epochs. `confident`: probability above which a class counts as certain.
    """

    metrics = (
        Metric(
            "confident_share",
            "confident share",
            good="higher",
            meaning="share of samples, of 1, that a classifier of the real images puts into a class with probability "
            "above 0.9.",
            shown=("compare", "report", "sweep"),
            rank=60,
        ),
        Metric(
            "classes_found",
            "classes",
            good="higher",
            meaning="classes among those samples.",
            shown=("compare", "report"),
            rank=70,
        ),
        Metric("class_entropy", unit="nats", good="higher"),
        Metric("confident_share_*"),
        Metric("classifier_accuracy"),
        Metric("nearest_distance*"),
    )
    silent = True

    def __init__(
        self,
        *,
        confident: Annotated[float, Field(gt=0, lt=1)],
        hidden: PositiveInt,
        points: PositiveInt,
        passes: PositiveInt,
    ) -> None:
        self.confident, self.hidden, self.points, self.passes = confident, hidden, points, passes
        self._fitted: Any = None

    def applies(self, view: EvalView) -> str | None:
        if view.dataset.labels is None or view.dataset.bounds is None:
            return "the data are not labelled images"
        return None if view.sampler is not None else "the run has no sampler to draw samples with"

    def __call__(self, view: EvalView) -> Report:
        data, labels, bounds = view.dataset, view.dataset.labels, view.dataset.bounds
        assert labels and bounds, "applies() asks for both"
        if self._fitted is None:
            self._fitted = self._fit(data.train, labels["train"])
        samples = view.samples.clamp(*bounds)
        noise = start_law(data).sample(1000, view.generator)
        sets = {"samples": samples, "real": view.held_out, "noise": noise}
        confident = {name: self._confident_classes(x) for name, x in sets.items()}
        shares = {n: shares_of(confident[n], int(labels["train"].max()) + 1) for n in ("real", "samples")}
        p = shares["samples"]
        nearest, distance = nearest_images(samples, data.train)
        metrics = {
            "confident_share": len(confident["samples"]) / len(samples),
            "classes_found": float((p > 0).sum()),
            "class_entropy": float(-(p[p > 0] * p[p > 0].log()).sum()),
            "confident_share_real": len(confident["real"]) / len(view.held_out),
            "confident_share_noise": len(confident["noise"]) / len(noise),
            "classifier_accuracy": self._accuracy(view.held_out, labels[view.split]),
            "nearest_distance": float(distance.mean()),
            "nearest_distance_real": float(nearest_images(subset(view.held_out, 500), data.train)[1].mean()),
        }
        pairs = torch.stack([samples[:50], nearest[:50]], 1).flatten(0, 1)
        return Report(metrics, {"nearest": pictures.grid(pairs, bounds, columns=10), "classes": histogram(shares)})

    def _fit(self, x: Tensor, y: Tensor) -> Any:
        return perceptron(x, y, hidden=self.hidden, points=self.points, passes=self.passes)

    def _confident_classes(self, x: Tensor) -> Tensor:
        """Return the classes of those rows of x that get one with probability above `confident`."""
        p = torch.from_numpy(self._fitted.predict_proba(x.flatten(1).cpu().numpy()))
        best, label = p.max(1)
        return label[best > self.confident]

    def _accuracy(self, x: Tensor, y: Tensor) -> float:
        found = torch.from_numpy(self._fitted.predict(x.flatten(1).cpu().numpy()))
        return float((found == y.cpu()).double().mean())


def shares_of(classes: Tensor, k: int) -> Tensor:
    """Return the share of each of k classes, (k,); zeros if there are none."""
    counts = torch.bincount(classes, minlength=k).double()
    return counts / counts.sum().clamp_min(1)


def histogram(shares: dict[str, Tensor]) -> Tensor:
    """Draw the shares of the classes (k,) of each set of images side by side."""

    def draw(figure: Any) -> None:
        axes, width = figure.subplots(), 0.8 / len(shares)
        for i, (name, share) in enumerate(shares.items()):
            places = torch.arange(len(share)) + (i + 0.5) * width - 0.4
            axes.bar(places.numpy(), share.numpy(), width, label=name, color=("#999999", "#0072b2")[i])
        axes.set(xlabel="class", ylabel="share of the confident ones", xticks=range(len(share)))
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))

    return pictures.figure(draw, 6.0, 3.0)


def nearest_images(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's nearest training image by Euclidean distance, (n, *shape), and that distance, (n,)."""
    best = [torch.cdist(part.flatten(1), train.flatten(1)).min(1) for part in x.split(256)]
    return train[torch.cat([b.indices for b in best])], torch.cat([b.values for b in best])
