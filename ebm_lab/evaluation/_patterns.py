"""The patterns found, of data that are patterns with some bits flipped, such as bars and stripes.

    w_k = E_q[ r_k(x) ],    r_k(x) = 1 / m for the m patterns nearest to x by Hamming distance, 0 for the others

q is the law of the samples or, where all points can be summed over, the model's own. The true shares are those of the
data's law, by the same r_k, exactly. `modes_found` is the number of patterns that some sample equals, `modes_exact` the
share of samples that are patterns; `modes_hit` and `modes_quality` are as for mixtures, with points at most one flip
away in place of three standard deviations.
"""

from typing import Any

import torch
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import EvalView, Report
from ebm_lab.core.random import subset
from ebm_lab.distributions.enumeration import expectation, few_states, log_z_of
from ebm_lab.evaluation._shares import kl, total_variation
from ebm_lab.evaluation._states import Truth, all_energies

COLOURS = {"samples": "#d95f02", "model": "#1f5fa8", "training data": "0.75"}


def flips(x: Tensor, patterns: Tensor) -> Tensor:
    """Return the Hamming distance of bits x (n, *shape) to each pattern (P, *shape), (n, P)."""
    a, b = x.flatten(1).double(), patterns.flatten(1).to(x.device).double()
    return (a.sum(1, keepdim=True) + b.sum(1) - 2 * a @ b.T).round()


def nearest(x: Tensor, patterns: Tensor) -> Tensor:
    """Return r_k(x), (n, P) in float64."""
    distance = flips(x, patterns)
    least = (distance == distance.amin(1, keepdim=True)).double()
    return least / least.sum(1, keepdim=True)


def without(view: EvalView) -> str | None:
    """Return why no patterns can be looked for; None if they can."""
    if view.sampler is None and (not view.has("energy") or few_states(view.dataset) is None):
        return "the run has no sampler, and no law that could be summed over"
    return None


def report_patterns(view: EvalView, patterns: Tensor) -> Report:
    """Compare the shares of the patterns in the samples and in the model with the true ones."""
    truth, report, shares = true_shares(view, patterns), Report(), dict[str, Tensor]()
    report.metrics["modes"] = float(len(patterns))
    if view.sampler is not None:
        sets = {"samples": ("", view.samples), "training data": ("_real", subset(view.dataset.train, view.count))}
        for name, (suffix, x) in sets.items():
            shares[name] = nearest(x, patterns).mean(0).cpu()
            near = flips(x, patterns)
            values = {
                "found": float((near == 0).any(0).sum()),
                "hit": float((near <= 1).any(0).double().mean()),
                "exact": float((near == 0).any(1).double().mean()),
                "quality": float((near <= 1).any(1).double().mean()),
                **compared(shares[name], truth),
            }
            report.metrics |= {f"modes_{key}{suffix}": value for key, value in values.items()}
        report.notes.append("modes_kl and modes_tv from few samples are biased upwards, by about modes_*_real")
    report.metrics |= of_model(view, patterns, truth, shares)
    report.images["modes"] = draw(patterns, shares, truth)
    return report


def of_model(view: EvalView, patterns: Tensor, truth: Tensor | None, shares: dict[str, Tensor]) -> dict[str, float]:
    """Return the model's own numbers by a sum over all points, and put its shares into `shares`; {} if there are too
    many points."""
    sites, e = few_states(view.dataset), all_energies(view) if view.has("energy") else None
    if sites is None or e is None:
        return {}
    log_q = -e - log_z_of(e)
    shares["model"] = expectation(lambda x: nearest(x, patterns), log_q, sites, view.dataset.train)
    numbers = sites.number(patterns.cpu())
    found = {"exact": float(log_q[numbers].exp().sum()), **compared(shares["model"], truth)}
    return {f"modes_density_{key}": value for key, value in found.items()}


def compared(w: Tensor, truth: Tensor | None) -> dict[str, float]:
    """Return KL and total variation of the shares w (P,) to the true ones; {} if these are unknown."""
    return {} if truth is None else {"kl": kl(w, truth), "tv": total_variation(w, truth)}


def true_shares(view: EvalView, patterns: Tensor) -> Tensor | None:
    """Return the shares under the data's law, (P,) in float64 on the CPU; None where it can't be summed over."""
    sites, log_p = few_states(view.dataset), Truth().log_p(view)
    if sites is None or log_p is None:
        return None
    return expectation(lambda x: nearest(x, patterns), log_p, sites, view.dataset.train)


def draw(patterns: Tensor, shares: dict[str, Tensor], truth: Tensor | None) -> Tensor:
    """Draw the shares as bars, with the patterns beneath them."""

    def on(fig: Any) -> None:
        above, below = fig.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [5, 1]})
        places, width = torch.arange(len(patterns)).double(), 0.8 / max(1, len(shares))
        for i, (name, w) in enumerate(shares.items()):
            at = places - 0.4 + (i + 0.5) * width
            above.bar(at.numpy(), w.numpy(), width, color=COLOURS[name], label=name)
        if truth is not None:
            above.plot(places.numpy(), truth.numpy(), "k_", ms=12, label="truth")
        above.set(ylabel="share of the nearest pattern", xlim=(-0.6, len(patterns) - 0.4))
        above.set_ylim(0, 1.2 * above.get_ylim()[1])
        above.legend(frameon=False, fontsize=9, loc="upper center", ncols=4)
        square = patterns.flatten(0, -3).cpu()
        for k, image in enumerate(square):
            extent = (k - 0.4, k + 0.4, 0.0, 1.0)
            below.imshow(image.numpy(), cmap="gray_r", vmin=-0.15, vmax=1, extent=extent, aspect="auto")
        below.set(yticks=[], xticks=[], xlim=(-0.6, len(patterns) - 0.4), ylim=(-0.05, 1.05))
        below.spines[:].set_visible(False)

    return pictures.figure(on, max(5.0, 0.4 * len(patterns)), 4.2)
