"""Does a sample that is drawn for a class look like that class?

For each class c, chains of exp(-E(x, c) / T) run from where the run's own chains start, for as many steps, at its
sample temperature T. A classifier of the real training data (_judge.py), which has never seen the model, then names the
class of each sample:

    asked_class_share         share of samples that get the class they were drawn for; `asked_class_lowest`: that of the
                              class with the lowest one
    asked_class_share_real    share of held-out points that get their label: what perfect samples would reach

A model can have a high share with samples that are all alike. `conditional_distance` sees that: it is the mean over
classes of the Frechet distance between samples and training points of the class (statistics/frechet.py), in the
classifier's hidden layer, in units of the training points' spread there. `conditional_distance_real` is that of as many
held-out points of the class. Both are too large by about 1/n, so that only numbers of equal `conditional_samples`, the
mean of n over classes, can be compared; the classifier was trained on the training points, so the floor also contains
what it has memorised. Classes with fewer than two held-out or two training points have no distance.

Will Grathwohl et al., Your Classifier is Secretly an Energy Based Model, 2020, section 5.2, arXiv:1912.03263. Martin
Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, arXiv:1706.08500.
"""

from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.discrete import known_sites
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import NUMBERS, Evaluation, EvalView, Report, walk
from ebm_lab.core.features import Need, features_of
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.evaluation._judge import Judge, judge
from ebm_lab.evaluation.calibration import logits_of
from ebm_lab.statistics.frechet import feature_distance


def samples_of_classes(view: EvalView, classes: int, per_class: int) -> Tensor:
    """Draw `per_class` samples of each class, (classes, per_class, *shape), with the evaluation's generator.

    Chains are run in batches, in each of which all classes take turns.
    """
    assert view.sampler is not None, "applies() asks for one"
    law, steps = view.origin or view.noise, view.sampler.total(view.energy) or view.steps
    labels = torch.arange(classes, device=view.dataset.train.device).repeat(per_class)
    done = []
    for y in labels.split(max(500, NUMBERS // view.dataset.mean.numel())):
        x = law.sample(len(y), view.generator)
        target = cast(Energy, view.target).given(y=y)
        for _, state, _ in walk(view.sampler, target, x, steps, view.generator):
            x = state
        done.append(x)
    return torch.cat(done).unflatten(0, (per_class, classes)).transpose(0, 1)


def distances(judge: Judge, x: Tensor, view: EvalView) -> dict[str, float]:
    """Compute the mean distances to the training points of each class, of samples x (K, n, *shape) and of held-out
    points; {} if no class has points enough."""
    data, labels = view.dataset, view.dataset.labels
    assert labels, "applies() asks for them"
    train, held = judge.features(data.train), judge.features(view.held_out)
    y_train, y_held = labels["train"].cpu(), labels[view.split].cpu()
    spread = train.var(0).mean().sqrt().clamp_min(1e-12)
    found: list[tuple[float, float, int]] = []
    for c, drawn in enumerate(x):
        reference, real = train[y_train == c] / spread, held[y_held == c] / spread
        n = min(len(drawn), len(real))
        if n >= 2 and len(reference) >= 2:
            own = feature_distance(judge.features(drawn[:n]) / spread, reference)
            found.append((own, feature_distance(subset(real, n), reference), n))
    names = ("conditional_distance", "conditional_distance_real", "conditional_samples")
    return {name: sum(column) / len(found) for name, column in zip(names, zip(*found, strict=True), strict=False)}


@register("evaluation", "conditional")
class Conditional(Evaluation):
    """Draw samples of each class, and ask a classifier of the real data whether it sees that class.

    `per_class`: samples of each class. `hidden`, `points`, `passes`: width of the classifier's hidden layer, most
    training points, and points shown during its training, over all epochs, as in evaluation.classifier.
    """

    metrics = (
        Metric(
            "asked_class_share",
            "asked class",
            good="higher",
            meaning="share of samples drawn for a class, of 1, that a classifier of the real data puts into it.",
            shown=("compare", "report", "sweep"),
            rank=63,
        ),
        Metric("asked_class_share_real", meaning="share of held-out points that get their label: the ceiling."),
        Metric("asked_class_lowest", good="higher", meaning="the lowest share of a class."),
        Metric(
            "conditional_distance",
            good="lower",
            meaning="mean over classes of the Frechet distance to training points, in the classifier's features.",
        ),
        Metric("conditional_distance_real", meaning="that of as many held-out points: the floor."),
        Metric("conditional_samples", meaning="points of each class in these distances."),
    )
    needs = (
        Need("energy", "energy", why="a score network has no energy of a class"),
        Need("energy", "labels", why="the model has no class labels"),
        Need("dataset", "classes", why="the data have no class labels"),
    )
    silent = True

    def __init__(
        self,
        *,
        per_class: Annotated[int, Field(ge=2)],
        hidden: PositiveInt,
        points: PositiveInt,
        passes: PositiveInt,
    ) -> None:
        self.per_class = per_class
        self.settings = {"hidden": hidden, "points": points, "passes": passes}

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        if "stationary" not in features_of(view.sampler) and not view.has("levels"):
            return "the run's sampler goes down noise levels, and the model knows no classes there"
        if not view.dataset.labels:
            return "the data have no class labels"
        if len(view.held_out) == 0 or len(view.dataset.labels["train"].unique()) < 2:
            return "a classifier needs training points of two classes and held-out points"
        return None

    def __call__(self, view: EvalView) -> Report:
        data, labels = view.dataset, view.dataset.labels
        assert labels, "applies() asks for them"
        classes = logits_of(view, view.held_out[:1]).shape[1]
        x = samples_of_classes(view, classes, self.per_class)
        if lost := int((~x.isfinite().flatten(2).all(2)).sum()):
            raise UserError(f"conditional: {lost} of {classes * self.per_class} samples are not finite")
        x = x if data.bounds is None else x.clamp(*data.bounds)
        seen = judge(data, **self.settings)
        hits = (seen.classes(x.flatten(0, 1)).view(classes, -1) == torch.arange(classes)[:, None]).double().mean(1)
        real = seen.classes(view.held_out) == labels[view.split].cpu()
        metrics = {
            "asked_class_share": float(hits.mean()),
            "asked_class_share_real": float(real.double().mean()),
            "asked_class_lowest": float(hits.min()),
            **distances(seen, x, view),
        }
        names = data.class_names or []
        names = names if len(names) == classes else [str(c) for c in range(classes)]
        lowest = int(hits.argmin())
        pictured = data.bounds is not None or known_sites(data) is None
        note = (
            f"conditional: the class seen least often where it was asked for is '{names[lowest]}', {hits[lowest]:.0%}"
        )
        return Report(metrics, {"samples_by_class": draw(x, view, names)} if pictured else {}, [note])


def draw(x: Tensor, view: EvalView, names: list[str]) -> Tensor:
    """Draw samples x (K, n, *shape): images with a row for each class, points in their first two coordinates in the
    classes' colours."""
    bounds = view.dataset.bounds
    if bounds is not None and x.ndim == 5:
        return pictures.strips({name: images for name, images in zip(names, x, strict=True)}, bounds)
    flat = x.flatten(2).cpu()

    def on(fig) -> None:
        import matplotlib

        axes, colours = fig.subplots(), matplotlib.colormaps["tab10"]
        for c, (name, points) in enumerate(zip(names, flat, strict=True)):
            height = points[:, 1] if points.shape[1] > 1 else torch.full((len(points),), float(c))
            axes.scatter(points[:, 0], height, s=6, alpha=0.6, color=colours(c % 10), label=name)
        axes.set(xlabel="x1", ylabel="x2" if flat.shape[2] > 1 else "class")
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))

    return pictures.figure(on, 6.0, 4.6)
