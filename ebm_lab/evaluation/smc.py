"""The normalising constant and the held-out likelihood by sequential Monte Carlo, in any dimension.

    smc_log_z = log mean Z_hat over `runs` independent populations,    E[Z_hat] = Z
    smc_nll = E_test[ E(x) ] + smc_log_z

The algorithm: _sequential.py. Unlike in annealed importance sampling (evaluation=ais) particles of small weight are
replaced along the way, so that with few temperatures more of them carry the sum; particles of one population are then
no longer independent, and the standard error, the jackknife's, is that between populations. Since
E[log mean Z_hat] <= log Z the log-likelihood is over-stated on average. A mode that all particles of a population have
left does not come back. Base, coordinates, temperatures and frozen step sizes are those of evaluation=ais, on discrete
data too.

Pierre Del Moral, Arnaud Doucet and Ajay Jasra, Sequential Monte Carlo Samplers, 2006.
"""

import math
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.choice import Nested
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Child, Need
from ebm_lab.core.functional import EnergyFn, evaluate, frozen, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.evaluation._annealed_base import TRANSITION, Shape, check_transition, fit_model, kernels, unfit
from ebm_lab.evaluation._annealed_importance import effective_sample_size, log_mean_exp
from ebm_lab.evaluation._annealed_path import Journey, Schedule, pilot
from ebm_lab.evaluation._baselines import Likelihoods, gap_to_truth, true_nll
from ebm_lab.evaluation._bits_per_dim import bits_per_dim, has_bits_per_dim
from ebm_lab.evaluation._kernels import layers_at_once
from ebm_lab.evaluation._raw_units import raw_twin
from ebm_lab.evaluation._sequential import Estimate, sequential

PATH = "evaluation.smc.transition"


@register("evaluation", "smc")
class SMC(Evaluation):
    """`runs`: independent populations; `particles`: of each, never more than the `samples` asked for; `temperatures`,
    `schedule`, `base`, `base_floor` and `transition` as in evaluation.ais.

    Reports log Z with its standard error, `smc_ess`, the share of the last particles that carries the sum, how often a
    population was resampled, and the held-out nll beside that of the base and, where it is known, the truth's.
    """

    metrics = (
        Metric("smc_nll", unit="nats"),
        Metric("smc_nll_true", unit="nats"),
        Metric("smc_nll_gap", "gap to the truth by SMC", "nats", "lower"),
        Metric("smc_nll_gap_*", unit="nats"),
        Metric("smc_bits_per_dim", unit="bits"),
        Metric("smc_*"),
    )

    needs = (Need("energy", "energy", why="a score network has no energy, so no Z; see flow_likelihood"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (TRANSITION,)

    def __init__(
        self,
        *,
        runs: Annotated[int, Field(ge=2)],
        particles: Annotated[int, Field(ge=2)],
        temperatures: PositiveInt,
        schedule: Schedule,
        base: Shape,
        base_floor: PositiveFloat,
        transition: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.runs, self.particles, self.temperatures = runs, particles, temperatures
        self.schedule: Schedule = schedule
        self.base: Shape = base
        self.base_floor = base_floor
        self.transition: Any = transition
        check_transition(self.transition, PATH)

    def applies(self, view: EvalView) -> str | None:
        return unfit(view.dataset)

    def __call__(self, view: EvalView) -> Report:
        n, kernel = max(2, min(self.particles, view.count)), kernels(self.transition, view, PATH)
        with frozen(view.energy):
            model = fit_model(view.energy, view.dataset, self.base, self.base_floor, layers_at_once(kernel.fixed))
            path = pilot(model, model.base, kernel.adaptive, n, view.generator, model.family)
            journey = Journey(model, model.base, kernel.fixed, path, self.schedule, view.generator, model.family)
            b, x = path.temperatures(self.schedule, self.temperatures), model.base.sample(self.runs * n, view.generator)
            found = sequential(journey.rise, b, journey.mover(b), x, self.runs, view.generator)
            base_nll = -float(model.base_log_prob(view.held_out).double().mean())
            report = self._report(view, found, base_nll, journey.accepted())
            report.notes[:0] = kernel.notes
            return report

    def _report(self, view: EvalView, found: Estimate, base_nll: float, acceptance: list[float]) -> Report:
        log_z, se = (float(value) for value in log_mean_exp(found.log_z))
        e = in_parts(partial(_energies, view.energy), view.held_out, 4096)
        nll, n = float(e.mean()) + log_z, found.log_w.shape[1]
        metrics = {
            "smc_log_z": log_z,
            "smc_log_z_se": se,
            "smc_ess": float(effective_sample_size(found.log_w).mean()) / n,
            "smc_resampled": float(found.resampled.double().mean()),
            "smc_particles": float(n),
            "smc_acceptance": sum(acceptance) / len(acceptance),
            "smc_nll": nll,
            "smc_nll_base": base_nll,
        }
        metrics |= raw_twin("smc_nll", nll, view.dataset, view.held_out)
        if len(e) > 1:
            metrics["smc_nll_se"] = math.hypot(se, float(e.std()) / len(e) ** 0.5)
        notes = ["smc_nll is optimistic: E[Z_hat] = Z, and so E[log mean Z_hat] <= log Z"]
        if (true := true_nll(view)) is not None:
            metrics |= gap_to_truth(view, nll, Likelihoods(e + log_z, se), true, notes, "smc_")
        if has_bits_per_dim(view.dataset):
            metrics["smc_bits_per_dim"] = bits_per_dim(nll, view.dataset)
        if not math.isfinite(log_z):
            notes.append("the weights of SMC are not finite: the energy is not, where the particles came by")
        elif se > 0.5:
            notes.append(f"the populations' log Z differ: a standard error of {se:.2g} nats; give more temperatures")
        return Report(metrics, notes=notes)


@torch.no_grad()
def _energies(energy: EnergyFn, x: Tensor) -> Tensor:
    return evaluate(energy, x).double()
