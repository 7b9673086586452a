"""How good, and how honest, are the class probabilities of a model with labels?

    p(y | x) = softmax(logits(x))_y,    logits(x)_y = -E(x, y)

Reported on the held-out points are the accuracy, the expected and maximum calibration error, the mean of -log p(y | x)
in nats and the Brier score (statistics/calibration.py). A calibrated model too has an ECE above 0: `ece_floor` is the
value to expect of one with these confidences on this number of points, so an ECE near it shows no error.

`temperature` is the T that minimises the mean of -log softmax(logits / T)_y on the validation split: above 1 the model
is over-confident, below 1 under-confident. `ece_scaled` and `label_nll_scaled` are the numbers with it; the accuracy
does not change. On the validation split itself the three are left out, since a fit isn't judged on its own points.
Where the true p(y | x) is known, `label_kl` is the mean of KL(true || model) over the held-out points, in nats.

Chuan Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599. Will Grathwohl et al., Your
Classifier is Secretly an Energy Based Model, 2020, section 5.1, arXiv:1912.03263.
"""

from typing import cast

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.functional import in_parts
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.statistics.calibration import (
    Reliability,
    brier,
    ece,
    ece_floor,
    fit_temperature,
    label_nll,
    mce,
    reliability,
)


@torch.no_grad()
def logits_of(view: EvalView, x: Tensor) -> Tensor:
    """Compute the model's logits -E(x, y), (n, *shape) -> (n, K), in float64."""
    return in_parts(cast(Energy, view.energy).logits, x, 1024).double()


def label_kl(truth: Tensor, model: Tensor) -> float:
    """Compute the mean over rows of KL(p || q) in nats, from log p and log q, (n, K) each; p may be 0."""
    truth, model = truth.double().cpu(), model.double().cpu()
    return float(torch.where(truth > -torch.inf, truth.exp() * (truth - model), 0.0).sum(1).mean())


@register("evaluation", "calibration")
class Calibration(Evaluation):
    """Compare class probabilities with the labels of held-out points.

    `bins`: bins of the confidence, of equal width.
    """

    metrics = (
        Metric(
            "accuracy",
            "accuracy",
            good="higher",
            meaning="share of held-out points, of 1, whose label is the class that the model finds most likely.",
            shown=("compare", "report", "sweep"),
            rank=61,
        ),
        Metric(
            "ece",
            "ECE",
            good="lower",
            meaning="expected calibration error: mean distance between confidence and accuracy, over bins.",
            shown=("compare", "report", "sweep"),
            rank=62,
        ),
        Metric("ece_floor", meaning="the ECE to be expected of a calibrated model on as many points."),
        Metric("mce", good="lower", meaning="largest distance between confidence and accuracy in a bin."),
        Metric("label_nll", unit="nats", good="lower", meaning="mean of -log p(y | x) over held-out points."),
        Metric("brier", good="lower", meaning="mean squared distance of the probabilities from the label's 0 and 1."),
        Metric("temperature", meaning="divisor of the logits that fits the validation split best."),
        Metric("ece_scaled", good="lower", meaning="ECE of the logits divided by that temperature."),
        Metric("label_nll_scaled", unit="nats", good="lower", meaning="label_nll of the logits so divided."),
        Metric("label_kl", unit="nats", good="lower", meaning="mean KL of the true p(y | x) to the model's."),
    )
    needs = (
        Need("energy", "labels", why="the model has no class labels"),
        Need("dataset", "classes", why="the data have no class labels"),
    )
    silent = True

    def __init__(self, *, bins: PositiveInt) -> None:
        self.bins = bins

    def applies(self, view: EvalView) -> str | None:
        if not view.dataset.labels:
            return "the data have no class labels"
        return None if len(view.held_out) else "there are no held-out points"

    def __call__(self, view: EvalView) -> Report:
        labels = view.dataset.labels
        assert labels, "applies() asks for them"
        logits, y = logits_of(view, view.held_out), labels[view.split]
        p, report = logits.softmax(1), Report()
        report.metrics = {
            "accuracy": float((logits.argmax(1) == y).double().mean()),
            "ece": ece(p, y, self.bins),
            "ece_floor": ece_floor(p, self.bins),
            "mce": mce(p, y, self.bins),
            "label_nll": label_nll(logits, y),
            "brier": brier(p, y),
        }
        if view.split != "val":
            self._scale(view, logits, y, report)
        truth = view.dataset.class_log_prob(view.held_out)
        if truth is not None:
            report.metrics["label_kl"] = label_kl(truth, logits.log_softmax(1))
        report.images["reliability"] = draw(reliability(p, y, self.bins), report.metrics)
        return report

    def _scale(self, view: EvalView, logits: Tensor, y: Tensor, report: Report) -> None:
        """Add the temperature that fits the validation split, and the numbers with it."""
        assert view.dataset.labels, "applies() asks for them"
        x = view.dataset.val
        temperature = fit_temperature(logits_of(view, x), view.dataset.labels["val"]) if len(x) else None
        if temperature is None:
            why = "all its points are classified correctly, or the logits say nothing of the labels"
            report.notes.append(f"calibration: no temperature is best on the {len(x)} validation points: {why}")
            return
        scaled = logits / temperature
        report.metrics |= {
            "temperature": temperature,
            "ece_scaled": ece(scaled.softmax(1), y, self.bins),
            "label_nll_scaled": label_nll(scaled, y),
        }


def draw(table: Reliability, metrics: dict[str, float]) -> Tensor:
    """Draw the reliability diagram: accuracy against confidence by bin, above the histogram of confidences."""

    def on(fig) -> None:
        above, below = fig.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        some, width = (table.counts > 0).numpy(), 1 / len(table.counts)
        middles = (torch.arange(len(table.counts)).numpy() + 0.5) * width
        above.bar(middles[some], table.accuracy.numpy()[some], width, color="#1f5fa8", alpha=0.35, label="accuracy")
        above.plot(table.confidence.numpy()[some], table.accuracy.numpy()[some], "o", color="#1f5fa8", ms=4)
        above.plot([0, 1], [0, 1], "--", color="0.4", lw=1.0, label="calibrated")
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        numbers = f"accuracy {metrics['accuracy']:.3f}, ECE {metrics['ece']:.3f} (floor {metrics['ece_floor']:.3f})"
        above.set_title(numbers, fontsize=10)
        above.legend(frameon=False, loc="upper left", fontsize=9)
        below.bar(middles, table.counts.numpy(), width, color="0.6")
        below.set(yscale="symlog", xlabel="confidence", ylabel="points")

    return pictures.figure(on, 4.6, 5.6)
