"""Energy histograms of training data, held-out data, samples and sets that the model should find unlikely.

    e_gap_<set> = E_set[ E(x) ] - E_held-out[ E(x) ]        in nats;  e_std = std of the held-out energies

`e_gap_train` far below 0 shows overfitting. `e_gap_samples` is 0 if samples, model and data have the same law.
`e_gap_noise` (uniform noise; for points a Gaussian of their mean and scale) and `e_gap_outside` (classes that training
never saw) should be far above e_std. `e_lower_<set>` is the share of the set with an energy below the held-out median:
one half for the same law, near 0 for a set that the model distinguishes. The zero of an energy is arbitrary, so only
gaps are meaningful.

Will Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One, 2020, figure
5, arXiv:1912.03263.
"""

from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report, too_few
from ebm_lab.core.features import Need
from ebm_lab.core.functional import evaluate, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law

COLOURS = {"train": "#1f5fa8", "held-out": "black", "samples": "#d95f02", "noise": "#777777", "outside": "#1b9e77"}


@register("evaluation", "histograms")
class Histograms(Evaluation):
    """Draw histograms of the energy. `points`: most points of each set. `bins`: bins of the histograms."""

    metrics = (Metric("e_gap_*", unit="nats"), Metric("e_lower_*"), Metric("e_std", unit="nats"))

    needs = (Need("energy", "energy", why="a score network has no energies to count"),)

    def __init__(self, *, points: PositiveInt, bins: PositiveInt) -> None:
        self.points, self.bins = points, bins

    def applies(self, view: EvalView) -> str | None:
        lacking = too_few(view, held_out=2)
        return f"the spread of the held-out energies {lacking}" if lacking else None

    @torch.no_grad()
    def __call__(self, view: EvalView) -> Report:
        data, n = view.dataset, self.points
        sets = {"train": subset(data.train, n), "held-out": subset(view.held_out, n)}
        sets["noise"] = start_law(data).sample(len(sets["held-out"]), view.generator)
        if view.sampler is not None:
            sets["samples"] = view.samples[:n]
        if data.outside is not None:
            sets["outside"] = subset(data.outside, n)
        e = {name: in_parts(partial(evaluate, view.energy), x, 4096).double().cpu() for name, x in sets.items()}
        middle, median = e["held-out"].mean(), e["held-out"].median()
        metrics = {"e_std": float(e["held-out"].std())}
        for name in e.keys() - {"held-out"}:
            metrics[f"e_gap_{name}"] = float(e[name].mean() - middle)
            metrics[f"e_lower_{name}"] = float((e[name] < median).double().mean())
        return Report(dict(sorted(metrics.items())), {"energy_histograms": self._draw(e)})

    def _draw(self, e: dict[str, Tensor]) -> Tensor:
        """Draw the histograms near the data, and all of them on an axis that is logarithmic far from the data."""
        middle, spread = float(e["held-out"].mean()), max(float(e["held-out"].std()), 1e-12)
        at = {name: (values[values.isfinite()] - middle) / spread for name, values in e.items()}
        near = torch.cat([at["train"], at["held-out"]])
        low, high = (float(near.quantile(q)) for q in (0.001, 0.999))

        def draw(fig) -> None:
            left, right = fig.subplots(1, 2)
            room = 0.6 * (high - low)
            plain = torch.linspace(low - room, high + room, self.bins + 1)
            every = torch.cat(list(at.values())).asinh()
            wide = torch.linspace(float(every.min()), float(every.max()), self.bins + 1).sinh()
            for axes, edges in ((left, plain), (right, wide)):
                for name, values in at.items():
                    weights = torch.full_like(values, 1 / len(e[name]))
                    filled = {"histtype": "stepfilled", "alpha": 0.25} if name == "held-out" else {"histtype": "step"}
                    gap = "" if name == "held-out" else f", gap {float(e[name].mean()) - middle:.3g} nats"
                    style = {"color": COLOURS[name], "lw": 1.4, "label": f"{name}{gap}", **filled}
                    axes.hist(values.numpy(), edges.double().numpy(), weights=weights.numpy(), **style)
                axes.set(ylabel="share of the set", xlabel=f"(E - mean held-out E) / {spread:.3g} nats")
            left.set_title("near the data")
            right.set_xscale("symlog", linthresh=1)
            right.set_title("all sets, logarithmic beyond 1")
            left.legend(frameon=False, fontsize=9)
            left.set_ylim(0, left.get_ylim()[1] * 1.45)

        return pictures.figure(draw, 11, 4)
