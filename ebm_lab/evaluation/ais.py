"""The normalising constant and the held-out likelihood by annealed importance sampling, in any dimension.

    ais_log_z = log mean w,    E[w] = Z;    ais_nll = E_test[ E(x) ] + ais_log_z

w and its estimators: _annealed_importance.py. Since E[log mean w] <= log Z, the log-likelihood is over-stated on
average, by as much as the weights are uneven: `ais_ess` is the number of chains that carry the sum, of
`ais_chains`, and ais_log_z_se the jackknife's standard error. Modes that no chain from the base finds are missing
from both. The base is a Gaussian fitted to the training data and the chains move in coordinates in which it is N(0, I);
`ais_nll_base` is its own held-out nll, the trivial baseline; for discrete data the base is independent sites, and the
chains move in the data's own values (_annealed_sites.py). Others, and where the data's law is known the truth and
the gap to it, stand beside it (_baselines.py). Temperatures and step sizes come from a pilot run and are
frozen in the runs that count.

Reverse AIS goes from the model to the base: exact starts would give E[ais_log_z_reverse] >= log Z. A trained energy has
no exact samples, so the starts (the training's persistent chains, else training data, taken `reverse_moves` exact
moves further) make it a diagnostic: `ais_gap`, reverse - forward, is near 0 where both runs saw the same
modes with enough temperatures; far above, there are too few, or the forward chains miss modes where the reverse ones
began; far below, the starts are not the model's law.

Radford M. Neal, Annealed Importance Sampling, 2001, section 2, arXiv:physics/9803008.
Roger B. Grosse, Zoubin Ghahramani and Ryan P. Adams, Sandwiching the marginal likelihood using bidirectional Monte
Carlo, 2015, arXiv:1511.02543.
"""

import math
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.choice import Nested
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Child, Need
from ebm_lab.core.functional import EnergyFn, evaluate, frozen, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.evaluation._annealed_base import TRANSITION, Shape, check_transition, fit_model, kernels, unfit
from ebm_lab.evaluation._annealed_base import fit_base as fit_base
from ebm_lab.evaluation._annealed_importance import Whitened, effective_sample_size, log_mean_exp
from ebm_lab.evaluation._annealed_path import Journey, Schedule, pilot
from ebm_lab.evaluation._annealed_sites import AtSites
from ebm_lab.evaluation._baselines import BASELINES, Likelihoods, beside, gap_to_truth, true_nll
from ebm_lab.evaluation._bits_per_dim import bits_notes, bits_per_dim, has_bits_per_dim
from ebm_lab.evaluation._kernels import layers_at_once
from ebm_lab.evaluation._raw_units import raw_twin
from ebm_lab.evaluation.likelihood import exact_log_z

PATH = "evaluation.ais.transition"


@register("evaluation", "ais")
class AIS(Evaluation):
    """`chains`: of each run, never more than the `samples` asked for; `temperatures`: T, also a tenth and a hundredth
    of it for the convergence; `schedule`: adaptive (by the pilot), linear, sigmoid or geometric; `base`: its
    covariance's shape; `base_floor`: added to its variances, in units of the data's scale squared; `reverse_moves`:
    exact moves at the model before reverse AIS; `cells`: of the quadrature that shows AIS's error in 1 and 2
    dimensions, as in evaluation.likelihood; `transition`: mala or hmc with their settings, lengths in units of the
    base's widths; on discrete data gibbs, gwg, locally_balanced, dmala or, for an RBM, block_gibbs, one of
    which takes the place of the default (_annealed_base.py, _kernels.py); there `base` and `base_floor` have no
    meaning."""

    metrics = (
        Metric("ais_nll", unit="nats"),
        Metric("ais_nll_true", unit="nats"),
        Metric("ais_nll_gap", "gap to the truth by AIS", "nats", "lower"),
        Metric("ais_nll_gap_*", unit="nats"),
        *BASELINES,
        Metric("ais_bits_per_dim*", unit="bits"),
        Metric("ais_*"),
    )

    needs = (Need("energy", "energy", why="a score network has no energy, so no Z; see flow_likelihood"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (TRANSITION,)

    def __init__(
        self,
        *,
        chains: Annotated[int, Field(ge=2)],
        temperatures: PositiveInt,
        schedule: Schedule,
        base: Shape,
        base_floor: PositiveFloat,
        reverse_moves: NonNegativeInt,
        cells: PositiveInt,
        transition: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.chains, self.temperatures, self.reverse_moves, self.cells = chains, temperatures, reverse_moves, cells
        self.schedule: Schedule = schedule
        self.base: Shape = base
        self.base_floor = base_floor
        self.transition: Any = transition
        check_transition(self.transition, PATH)

    def applies(self, view: EvalView) -> str | None:
        return unfit(view.dataset)

    def __call__(self, view: EvalView) -> Report:
        n, kernel = max(2, min(self.chains, view.count)), kernels(self.transition, view, PATH)
        with frozen(view.energy):
            model = fit_model(view.energy, view.dataset, self.base, self.base_floor, layers_at_once(kernel.fixed))
            path = pilot(model, model.base, kernel.adaptive, n, view.generator, model.family)
            journey = Journey(model, model.base, kernel.fixed, path, self.schedule, view.generator, model.family)
            starts = self._starts(view, model, journey, n)
            journey.acceptance.clear()
            runs = {}
            for steps in sorted({max(1, self.temperatures // k) for k in (100, 10, 1)}):
                moved = len(journey.acceptance)
                runs[steps] = journey.forward(n, steps), journey.reverse(starts, steps)
            acceptance = journey.accepted(moved)  # one temperature moves nothing
            report = self._report(view, model, runs, acceptance)
            report.notes[:0] = kernel.notes
            return report

    def _starts(self, view: EvalView, model: Whitened | AtSites, journey: Journey, n: int) -> Tensor:
        """Where reverse AIS begins, (n, d), or (n, *shape) of discrete data."""
        pool = view.dataset.train if view.chains is None else view.chains
        x = model.y(pool[torch.randint(len(pool), (n,), generator=view.generator, device=pool.device)])
        for _ in range(self.reverse_moves):
            x = journey.move(x, 1.0)
        return x

    def _report(
        self, view: EvalView, model: Whitened | AtSites, runs: dict[int, tuple[Tensor, Tensor]], acceptance: list[float]
    ) -> Report:
        both = {steps: (_log_z(forward), _log_z(-reverse)) for steps, (forward, reverse) in runs.items()}
        (log_z, se), (minus, se_reverse) = both[self.temperatures]
        e = in_parts(partial(_energies, view.energy), view.held_out, 4096)
        at_points = Likelihoods(e + log_z, se)
        nll, n = float(e.mean()) + log_z, len(runs[self.temperatures][0])
        base_nll = -float(model.base_log_prob(view.held_out).double().mean())
        metrics = {
            "ais_log_z": log_z,
            "ais_log_z_se": se,
            "ais_ess": float(effective_sample_size(runs[self.temperatures][0])),
            "ais_chains": float(n),
            "ais_temperatures": float(self.temperatures),
            "ais_acceptance": sum(acceptance) / len(acceptance),
            "ais_acceptance_min": min(acceptance),
            "ais_log_z_reverse": -minus,
            "ais_log_z_reverse_se": se_reverse,
            "ais_gap": -minus - log_z,
            "ais_nll": nll,
            "ais_nll_base": base_nll,
        }
        metrics |= raw_twin("ais_nll", nll, view.dataset, view.held_out)
        if len(e) > 1:
            metrics["ais_nll_se"] = math.hypot(se, float(e.std()) / len(e) ** 0.5)
        told: list[str] = []
        if (true := true_nll(view)) is not None:
            metrics |= gap_to_truth(view, nll, at_points, true, told, "ais_")
        metrics |= beside(view, at_points, "ais_")
        for steps, ((value, error), _) in both.items():
            if steps != self.temperatures:
                metrics |= {f"ais_log_z_at_{steps}": value, f"ais_log_z_at_{steps}_se": error}
        report = Report(metrics, notes=[*_notes(metrics, view), *told])
        if has_bits_per_dim(view.dataset):
            metrics["ais_bits_per_dim"] = bits_per_dim(nll, view.dataset)
            metrics["ais_bits_per_dim_base"] = bits_per_dim(base_nll, view.dataset)
            report.notes += bits_notes(view.dataset)
        known = exact_log_z(view, self.cells)
        exact = known.value if known is not None and known.sound else None
        if exact is not None:
            metrics |= {"ais_error": log_z - exact, "ais_exact_log_z": exact}
        elif view.learnt_log_z is not None:
            metrics["ais_learnt_error"] = view.learnt_log_z - log_z
        report.images["ais"] = _picture(both, exact)
        return report


def _log_z(log_w: Tensor) -> tuple[float, float]:
    value, error = log_mean_exp(log_w)
    return float(value), float(error)


@torch.no_grad()
def _energies(energy: EnergyFn, x: Tensor) -> Tensor:
    return evaluate(energy, x).double()


def _notes(m: dict[str, float], view: EvalView) -> list[str]:
    start = "training data" if view.chains is None else "persistent chains"
    notes = [
        "ais_nll is optimistic: AIS underestimates log Z on average, since E[w] = Z and so E[log mean w] <= log Z",
        f"ais_log_z_reverse starts at {start} moved on by exact steps, not at exact samples: a diagnostic, no bound",
    ]
    if not math.isfinite(m["ais_log_z"]):
        notes.append("the weights of AIS are not finite: the energy is not, where the chains came by")
    elif m["ais_ess"] < 0.1 * m["ais_chains"]:
        few = f"{m['ais_ess']:.1f} of {m['ais_chains']:.0f} chains carry the weights: log Z is too low by nats and its "
        notes.append(few + "standard error is not to be trusted; give more temperatures")
    error = math.hypot(m["ais_log_z_se"], m["ais_log_z_reverse_se"])
    settled = m["ais_ess"] >= 0.1 * m["ais_chains"] and abs(m["ais_gap"]) <= 0.1 + 2 * error
    word = "converged" if settled else "did not converge"
    notes.append(
        f"AIS {word}: reverse minus forward log Z is {m['ais_gap']:+.2g} nats, "
        f"with a standard error of {error:.2g}, and {m['ais_ess']:.3g} of {m['ais_chains']:.0f} chains carry the sum"
    )
    if abs(m["ais_gap"]) > 3:
        cause = "too few temperatures" if m["ais_gap"] > 0 else "reverse starts far from the model's law"
        notes.append(
            f"forward and reverse AIS differ by {m['ais_gap']:+.1f} nats: {cause}, or chains that mix too slowly"
        )
    return notes


def _picture(both: dict[int, tuple[tuple[float, float], tuple[float, float]]], exact: float | None) -> Tensor:
    """log Z against temperatures, with one standard error."""

    def draw(fig) -> None:
        axes = fig.subplots()
        steps = list(both)
        forward = list(zip(*(both[t][0] for t in steps), strict=True))
        reverse = list(zip(*(both[t][1] for t in steps), strict=True))
        axes.errorbar(steps, forward[0], forward[1], fmt="o-", capsize=4, label="forward: below log Z on average")
        above, beside = [-v for v in reverse[0]], [1.07 * t for t in steps]
        label = "reverse: above it, if started exactly"
        axes.errorbar(beside, above, reverse[1], fmt="s--", capsize=4, color="C1", label=label)
        if exact is not None:
            axes.axhline(exact, color="k", ls=":", label="exact")
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(t) for t in steps], minor=False)
        axes.minorticks_off()
        axes.set(xlabel="temperatures", ylabel="log Z (nats)", title="log Z by annealed importance sampling")
        axes.legend(frameon=False)

    return pictures.figure(draw, 6, 4)
