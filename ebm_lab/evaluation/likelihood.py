"""Held-out likelihood, exact where it can be had.

    nll = E_test[ E(x) ] + log Z,    nll_gap = nll - E_test[ -log p_data(x) ]

The gap estimates KL(p_data || p_model) on the same points. log Z comes from the energy's own formula where it has one,
else in one and two dimensions from adaptive cubature (distributions/cubature.py) over ten million data scales. Two
numbers say what it is worth: `log_z_error_bound`, nats, of the cubature; and `log_z_change`, what the outermost decade
of the reach adds to log Z, so that mass far from the data is seen and not assumed. Either above 0.01 is said in a note;
above 1 nat there is no likelihood to report, only `nll_uncertain` where mass was found and not resolved, by which the
guard still sees a model that has lost the data.
In more dimensions log Z comes from exact samples (_importance.py), of the data's law where it is known, or of the base
that the energy corrects, whichever cover the model better: `log_z_ess` is the share of them that carries it and
`log_z_se` its standard error. Below a share of 0.01 there is no likelihood to report. `kl_forward` is
KL(p_data || p_model) on samples of a known law, `kl_reverse` the other way round.
Discrete data of at most 2^20 points are enumerated instead: log Z and both divergences are exact there, and of a law
without mass at some points, `support_mass` is what the model has at the others (_states.py). Larger spaces are sampled
from the data's law and from independent sites at once (_importance_of_sites.py).
Beside it stand trivial models of the same points, and the part of the gap that is blur (_baselines.py).
Where the objective learns log Z itself (nce, dual_sm), `nll_learnt` is the nll by that log Z, in any dimension, and
`log_z_error` is what it learnt minus the log Z above, where there is one. For images and discrete data also in bits per
dimension (_bits_per_dim.py). `nll_raw` is nll in the units of the raw data, for points that the model sees in
others (_raw_units.py).
"""

import math
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need, features_of
from ebm_lab.core.functional import evaluate, in_parts, known_log_z
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.enumeration import few_states, log_z_of
from ebm_lab.distributions.quadrature import LogZ, cubature_log_z
from ebm_lab.evaluation._baselines import BASELINES, Likelihoods, beside, gap_to_truth, true_nll
from ebm_lab.evaluation._bits_per_dim import bits_notes, bits_per_dim, has_bits_per_dim
from ebm_lab.evaluation._importance import FEW, NOT_FINITE, by_importance, judged
from ebm_lab.evaluation._importance_of_sites import Mixed, mixed_samples, weigh_sites
from ebm_lab.evaluation._raw_units import raw_twin
from ebm_lab.evaluation._states import Truth, all_energies


@register("evaluation", "likelihood")
class Likelihood(Evaluation):
    """`cells`: log Z may cost 8 cells^2 evaluations of the energy, 50,000 at least."""

    metrics = (
        Metric(
            "nll_gap",
            "gap to the truth",
            "nats",
            "lower",
            "mean log-likelihood of held-out test points under the true density minus that under the model; an "
            "estimate of KL(truth || model), so 0 is perfect, and at 0.7 a typical point has half its density. Z is "
            "had by quadrature, above two dimensions from exact samples of the truth or of the base. A diverged "
            "run counts as infinite.",
            shown=("report", "sweep"),
            rank=10,
        ),
        Metric("nll", unit="nats", good="lower", monitors=True, shown=("report",), rank=30),
        Metric("nll_raw", unit="nats", good="lower"),
        Metric("nll_true", unit="nats"),
        Metric(
            "nll_gap_base",
            "gap of the base alone",
            "nats",
            "lower",
            "the gap to the truth that the model had before training, when it was its base.",
        ),
        Metric("nll_learnt", unit="nats"),
        Metric("nll_gap_*", unit="nats"),
        *BASELINES,
        Metric("nll_uncertain", unit="nats"),
        Metric("bits_per_dim", unit="bits", good="lower"),
        Metric("log_z", unit="nats"),
        Metric("log_z_ess", "samples that carry log Z", "share", "higher"),
        Metric("log_z_*", unit="nats"),
        Metric("kl_forward", "KL(truth || model)", "nats", "lower"),
        Metric("kl_reverse", "KL(model || truth)", "nats", "lower"),
        Metric("kl_*", unit="nats"),
        Metric(
            "support_mass",
            "mass on the support",
            "share",
            "higher",
            "probability, of 1, that the model gives to the points which the data's law can have; exact.",
            shown=("report", "sweep"),
            rank=35,
        ),
    )
    silent = True

    needs = (Need("energy", "energy", why="a score network has no energy; its likelihood is that of flow_likelihood"),)

    def __init__(self, *, cells: PositiveInt) -> None:
        self.cells = cells
        self._true: dict[str, Tensor | None] = {}
        self._truth = Truth()
        self._samples: Mixed | None = None

    def applies(self, view: EvalView) -> str | None:
        if _measurable(view) or view.learnt_log_z is not None:
            return None
        if (sites := known_sites(view.dataset)) is not None:
            many = f"{sites.count} sites of {sites.categories} values have too many states to sum over"
            return f"log Z has no formula here, and {many}; evaluation=ais estimates it"
        if "continuous" not in features_of(view.dataset):
            return "log Z has no formula here, and only bits and one-hot categories could be summed over"
        return (
            f"log Z has no formula here, and quadrature serves 1 and 2 dimensions, not {view.dataset.event_shape}; "
            f"evaluation=ais estimates it"
        )

    def __call__(self, view: EvalView) -> Report:
        report, se, states = Report(), 0.0, all_energies(view)
        known = exact_log_z(view, self.cells) if states is None else LogZ(log_z_of(states))
        if view.learnt_log_z is not None:
            self._by_learnt(view, view.learnt_log_z, report)
            if not _measurable(view):
                report.notes.append("nll_learnt takes the log Z that the objective learnt; evaluation=ais checks it")
                return report
        if known is None:
            known, se = self._by_samples(view, report)
        if known.trouble is not None:
            return Report(report.metrics, notes=[*report.notes, f"no likelihood: {known.trouble}"])
        if _is_low(view) and _formula(view) is None:
            report.metrics |= {"log_z_change": known.change, "log_z_error_bound": known.bound}
            report.notes += doubts(known)
            if known.change > 1:
                return report
        log_z = known.value
        e = _held_out_energies(view)
        nll = float(e.mean()) + log_z
        if known.bound > 1:
            report.metrics["nll_uncertain"] = nll
            return report
        report.metrics |= {"nll": nll, **raw_twin("nll", nll, view.dataset, view.held_out), "log_z": log_z}
        if has_bits_per_dim(view.dataset):
            report.metrics["bits_per_dim"] = bits_per_dim(nll, view.dataset)
            report.notes += bits_notes(view.dataset)
        if view.learnt_log_z is not None:
            report.metrics["log_z_error"] = view.learnt_log_z - log_z
        if states is not None:
            report.metrics |= self._truth.compare(view, -states - log_z)
        model = Likelihoods(e + log_z, se)
        if (true := self._true_nll(view)) is not None:
            report.metrics |= gap_to_truth(view, nll, model, true, report.notes)
        report.metrics |= beside(view, model)
        if {"nll_true", "nll_base"} <= report.metrics.keys():
            report.metrics["nll_gap_base"] = report.metrics["nll_base"] - report.metrics["nll_true"]
        return report

    def _by_learnt(self, view: EvalView, log_z: float, report: Report) -> None:
        """Report the likelihood by the log Z that the objective learnt."""
        report.metrics["nll_learnt"] = float(_held_out_energies(view).mean()) + log_z
        if (true := self._true_nll(view)) is not None:
            report.metrics["nll_gap_learnt"] = report.metrics["nll_learnt"] - float(true.mean())

    def _by_samples(self, view: EvalView, report: Report) -> tuple[LogZ, float]:
        """log Z from exact samples of known laws, and its standard error; an infinite bound where it is not trusted."""
        if known_sites(view.dataset) is None:
            return by_importance(view, report)
        self._samples = self._samples or mixed_samples(view.dataset)
        found = weigh_sites(view.energy, self._samples)
        if not math.isfinite(found.log_z):
            return LogZ(math.nan, trouble=NOT_FINITE), 0.0
        if found.ess >= FEW and math.isfinite(found.forward):
            report.metrics |= {"kl_forward": found.forward, "kl_forward_se": found.forward_se}
        return judged(found.log_z, found.se, found.ess, report), found.se

    def _true_nll(self, view: EvalView) -> Tensor | None:
        """-log p at the held-out points, (n,) in float64."""
        if view.split not in self._true:
            self._true[view.split] = true_nll(view)
        return self._true[view.split]


def doubts(log_z: LogZ) -> list[str]:
    """What makes log Z uncertain by more than 0.01 nats, in a line each."""
    notes = []
    if log_z.change > 1e-2:
        notes.append(f"log Z still changes by {log_z.change:.2g} nats when the box grows: the model may have no Z")
    if log_z.bound > 1e-2:
        notes.append(f"log Z is uncertain by {log_z.bound:.2g} nats: give evaluation.likelihood.cells a larger value")
    return [f"{note}; nll is left out" if max(log_z.change, log_z.bound) > 1 else note for note in notes]


def exact_log_z(view: EvalView, cells: int) -> LogZ | None:
    """log Z in nats by the energy's formula, of discrete data by the sum over all points if they are few, or in 1 and 2
    dimensions by cubature; else None."""
    exact = _formula(view)
    if exact is not None:
        return LogZ(float(exact))
    if (states := all_energies(view)) is not None:
        return LogZ(log_z_of(states))
    return cubature_log_z(view.energy, view.dataset.train, cells) if _is_low(view) else None


def _is_low(view: EvalView) -> bool:
    shape = view.dataset.event_shape
    return len(shape) == 1 and shape[0] <= 2 and "continuous" in features_of(view.dataset)


@torch.no_grad()
def _held_out_energies(view: EvalView) -> Tensor:
    """E at the held-out points, (n,) in float64."""
    return in_parts(partial(evaluate, view.energy), view.held_out, 65_536).double()


def _measurable(view: EvalView) -> bool:
    """Whether log Z can be had by a formula, by a sum or quadrature, or from exact samples of the data's law or of a
    base."""
    known = view.dataset.log_prob(view.dataset.test[:1]) is not None or base_of(view.energy) is not None
    return _is_low(view) or known or few_states(view.dataset) is not None or _formula(view) is not None


def _formula(view: EvalView) -> Tensor | None:
    return known_log_z(view.energy)
