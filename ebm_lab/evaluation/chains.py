"""Diagnose whether the run's Markov chains converge, and how many independent draws they equal.

Chains from noise and from the training data are warmed up; then the energy and a few random projections v . x / scale
are recorded after each call of the sampler. The formulas are in statistics/diagnostics.py.

    ess_*:    effective sample size of all draws from one start, at most about `chain_draws`; least of the projections
    rhat_*:   split R-hat; without a start's name over the chains from both starts, which shows whether they meet
    correlation_steps_*:  sampler steps per chain that equal one independent draw

R-hat above 1.01 shows that the chains have not converged; below it, they may still all miss the same mode. An effective
sample size near the number of chains shows that each chain stays where it began; `correlation_steps` is then only a
lower bound. All numbers refer to the sampler's own law, which for an unadjusted sampler, or one of little noise, is not
exp(-E). If the run has no Markov chain (no sampler, or one that goes down the noise levels), `kernel` samples the
energy of the data; on discrete data another one takes its place (_kernels.py).

Aki Vehtari et al., Rank-Normalization, Folding, and Localization: An Improved R-hat, 2021, arXiv:1903.08008.
"""

import copy
import math
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.choice import Nested
from ebm_lab.core.eval_view import Evaluation, EvalView, Report, walk
from ebm_lab.core.features import Child, Need, features_of
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._kernels import for_data
from ebm_lab.statistics.diagnostics import autocorrelation, correlation_time, effective_sample_size, rhat

COLOURS = {"noise": "#d95f02", "data": "#1f5fa8", "buffer": "#1b9e77"}


KEEPS_ITS_LAW = {"stationary": "chains that go down noise levels keep no one law"}
"""The feature that the kernel of a Markov chain must offer, and why."""


def markov(view: EvalView, kernel: Sampler, key: str) -> tuple[Sampler, list[str]]:
    """Return a copy of the run's own sampler if it is a Markov kernel of one energy, else of `kernel`, and what to say
    of it; `key`: the setting of `kernel`."""
    own = view.sampler
    if own is not None and "stationary" in features_of(own):
        return copy.copy(own), []
    mine, notes = for_data(kernel, view, key)
    return copy.copy(mine), notes


@register("evaluation", "chains")
class Chains(Evaluation):
    """Compute convergence diagnostics of chains from noise and from the training data.

    `chains`: chains from each start. `warmup`, `length`: steps that are left out and steps that are recorded, both in
    units of the run's steps from noise to sample. `projections`: number of random projections. `kernel`: the sampler
    for runs without a Markov chain.
    """

    metrics = (
        Metric("rhat_*"),
        Metric("ess_*"),
        Metric("correlation_steps_*", unit="steps"),
        Metric("chain_acceptance_*"),
        Metric("chain_draws"),
    )

    needs = (Need("energy", "energy", why="a score network has no energy whose law a Markov chain could keep"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must=KEEPS_ITS_LAW, replaced=frozenset({"continuous"})),)

    def __init__(
        self,
        *,
        chains: Annotated[int, Field(ge=2)],
        warmup: NonNegativeInt,
        length: PositiveInt,
        projections: PositiveInt,
        kernel: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.chains, self.warmup, self.length, self.projections = chains, warmup, length, projections
        self.kernel: Sampler = kernel

    def __call__(self, view: EvalView) -> Report:
        sampler, notes = markov(view, self.kernel, "evaluation.chains.kernel")
        report = Report(notes=notes)
        v = torch.empty_like(view.dataset.mean.flatten().expand(self.projections, -1)).normal_(generator=view.generator)
        v = v / v.norm(dim=1, keepdim=True) / view.dataset.scale
        watched, traces = {}, {}
        for name, x in self._starts(view).items():
            traces[name], watched[name], acceptance = self._record(view, sampler, x, v)
            self._numbers(report, f"_{name}", watched[name], sampler.steps)
            if acceptance is not None:
                report.metrics[f"chain_acceptance_{name}"] = acceptance
        together = torch.cat(list(watched.values()), 1)
        self._numbers(report, "", together, None)
        report.metrics["chain_draws"] = float(watched["data"][0].numel())
        worst = max((v for k, v in report.metrics.items() if k in ("rhat_energy", "rhat_x")), default=torch.inf)
        seen = "converged, as far as R-hat can see" if worst < 1.01 else "not converged: R-hat should be below 1.01"
        report.notes.append(f"chains from noise and from data together have R-hat {worst:.3g}: {seen}")
        report.images["chain_diagnostics"] = self._draw(traces, watched, sampler.steps)
        return report

    def _starts(self, view: EvalView) -> dict[str, Tensor]:
        data = view.dataset.train
        some = torch.randperm(len(data), generator=view.generator, device=view.generator.device)[: self.chains]
        return {"noise": start_law(view.dataset).sample(len(some), view.generator), "data": data[some]}

    def _record(self, view: EvalView, sampler: Sampler, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, float | None]:
        """Run m chains and record them.

        Returns the energies of all draws (m, all n), energies and p projections of the n draws after the warm-up
        (1 + p, m, n), and the mean acceptance, None if the sampler reports none.
        """
        first = self.warmup * view.steps // sampler.steps + 1
        draws = max(8, self.length * view.steps // sampler.steps)
        seen, acceptance = [], []
        for _, y, metrics in walk(sampler, view.target, x, (first - 1 + draws) * sampler.steps, view.generator):
            with torch.no_grad():
                seen.append(torch.cat([evaluate(view.energy, y)[None], v @ y.flatten(1).T]).double())
            acceptance += [metrics["acceptance"]] if "acceptance" in metrics else []
        every = torch.stack(seen, -1).cpu()
        return every[0], every[..., first:], float(torch.stack(acceptance).mean()) if acceptance else None

    def _numbers(self, report: Report, start: str, draws: Tensor, steps: int | None) -> None:
        """Add the finite diagnostics to the report; some are not finite if chains do not move."""
        values = {f"rhat_energy{start}": float(rhat(draws[0])), f"rhat_x{start}": float(rhat(draws[1:]).max())}
        if steps is not None:
            for name, ess in (("energy", effective_sample_size(draws[:1])), ("x", effective_sample_size(draws[1:]))):
                values[f"ess_{name}{start}"] = float(ess.min())
                values[f"correlation_steps_{name}{start}"] = steps * draws[0].numel() / float(ess.min())
        lost = [k for k, value in values.items() if not math.isfinite(value)]
        report.metrics |= {k: value for k, value in values.items() if k not in lost}
        if lost:
            report.notes.append(f"left out, because the chains do not move or diverge: {', '.join(lost)}")

    def _draw(self, traces: dict[str, Tensor], watched: dict[str, Tensor], steps: int) -> Tensor:
        def draw(fig) -> None:
            left, right = fig.subplots(1, 2)
            for name, e in traces.items():
                at = [steps * i for i in range(e.shape[1])]
                left.plot(at, e[:8].T.numpy(), color=COLOURS[name], lw=0.5, alpha=0.35)
                left.plot(at, e.mean(0).numpy(), color=COLOURS[name], lw=1.8, label=f"mean of chains from {name}")
                rho = autocorrelation(watched[name])
                lags = range(0, steps * (rho.shape[1] // 2 + 1), steps)
                right.plot(lags, rho[0, : len(lags)].numpy(), color=COLOURS[name], label=f"energy, from {name}")
                slowest = int(correlation_time(rho[1:]).argmax()) + 1
                label = f"slowest projection, from {name}"
                right.plot(lags, rho[slowest, : len(lags)].numpy(), "--", color=COLOURS[name], label=label)
            after = torch.cat([e[:, e.shape[1] // 10 :] for e in traces.values()]).flatten()
            low, high = float(after.quantile(0.001)), float(after.quantile(0.999))
            left.axvline(steps * (e.shape[1] - watched[name].shape[2]), color="0.6", lw=0.8, ls=":")
            left.set(xlabel="sampler steps (dotted: end of the warm-up)", ylabel="energy in nats")
            if math.isfinite(high - low) and high > low:
                left.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
            right.axhline(0, color="0.6", lw=0.8)
            right.set(xlabel="lag in sampler steps", ylabel="autocorrelation", ylim=(-0.3, 1.05))
            left.legend(frameon=False, fontsize=9, loc="upper right")
            right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))

        return pictures.figure(draw, 12.5, 3.8)
