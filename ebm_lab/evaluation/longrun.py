"""Compare short and long chains: does the model's own law resemble the data, or only the states after K steps?

Chains from noise, from training data and from the persistent buffer are run for `multiples` of K steps, where K is the
run's own number of steps from noise to sample. At each multiple are reported:

    longrun_e_<start>_<multiple>       mean energy; `longrun_e_data`, `longrun_e_std`: mean and std on held-out data
    longrun_mmd2_<start>_<multiple>    unbiased MMD^2 to held-out data; `longrun_mmd2_floor`: that of training points
    longrun_moments_<start>_<multiple> sqrt(mean over coordinates of (difference of means)^2 + (of stds)^2) / scale

The verdict compares mean energies, within s = `tolerance` times the energy's standard deviation on held-out data plus
three standard errors:
    the starts meet     at the end, the means from all starts lie within s of one another
    the law is kept     at the end, the means from all starts lie within s of the held-out data's
    the short run fits  after K steps, the mean from noise lies within s of the held-out data's
Convergent means that the starts meet and the law is kept. Non-convergent means that the short run fits but the law is
not kept: training has shaped K-step chains and not exp(-E). A sampler with little noise, or a cold one, ends below the
data's energy for any model. Equal energies do not imply equal laws, so MMD and moments are reported too.

Erik Nijkamp et al., On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models, 2020, sections 3.2
and 4.2, arXiv:1903.12370.
"""

from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.choice import Nested
from ebm_lab.core.eval_view import Evaluation, EvalView, Report, too_few, walk
from ebm_lab.core.features import Child, Need
from ebm_lab.core.functional import evaluate, in_parts
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._shown import as_images, as_points
from ebm_lab.evaluation.chains import COLOURS, KEEPS_ITS_LAW, markov
from ebm_lab.evaluation.mmd import mmd2
from ebm_lab.statistics.prdc import median_distance

Curve = dict[int, Tensor]
"""By number of steps, a tensor over all chains: energies (n,) or states (n, *shape)."""


def moment_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return sqrt(mean_i (mean x_i - mean y_i)^2 + (std x_i - std y_i)^2) of (n, *shape) and (m, *shape), 0-d."""
    x, y = x.flatten(1), y.flatten(1)
    return ((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2).mean().sqrt()


def differ(a: Tensor, b: Tensor, s: float) -> bool:
    """Return whether the means of energies a (n,) and b (m,) differ by more than s plus three standard errors, or are
    not finite."""
    error = (a.var() / len(a) + b.var() / len(b)).sqrt()
    return not bool((a.mean() - b.mean()).abs() <= s + 3 * error)


def verdict(short: dict[str, Tensor], end: dict[str, Tensor], data: Tensor, s: float) -> str:
    """Return the verdict in words, from energies (n,) by start, after the short run and at the end, and of data."""
    if lost := int((~data.isfinite()).sum()):
        return f"no verdict: the energy of {lost} of {len(data)} held-out points is not finite"
    names = list(end)
    meet = not any(differ(end[a], end[b], s) for i, a in enumerate(names) for b in names[:i])
    strays = [name for name in names if differ(end[name], data, s)]
    fits = not differ(short["noise"], data, s)
    if meet and not strays:
        return "convergent: long chains from every start end at the data's energy"
    if not strays:
        return "undecided: long chains end near the data's energy, but at different energies"
    what = f"long chains from {', '.join(strays)} leave the data's energy"
    if fits:
        return f"non-convergent: short chains from noise reach the data's energy, {what}"
    return f"{'biased' if meet else 'not converged'}: {what}, {'and meet at another' if meet else 'and differ'}"


@register("evaluation", "longrun")
class LongRun(Evaluation):
    """Run chains from several starts for long times, and judge whether the model's law is that of the data.

    `multiples`: multiples of the run's steps at which chains are examined. `chains`: chains from each start.
    `max_steps`: most steps of a chain. `tolerance`: tolerance of the verdict, in standard deviations of the energy.
    `widths`: widths of the MMD's kernels, in units of the median distance. `kernel`: the sampler for runs without a
    Markov chain.
    """

    metrics = (Metric("longrun_*"),)

    needs = (Need("energy", "energy", why="a score network has no energy whose law a Markov chain could keep"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must=KEEPS_ITS_LAW, replaced=frozenset({"continuous"})),)

    def __init__(
        self,
        *,
        multiples: Annotated[list[PositiveInt], Field(min_length=1)],
        chains: Annotated[int, Field(ge=4)],
        max_steps: PositiveInt,
        tolerance: PositiveFloat,
        widths: Annotated[list[PositiveFloat], Field(min_length=1)],
        kernel: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.multiples, self.chains, self.max_steps = sorted(set(multiples)), chains, max_steps
        self.tolerance, self.widths = tolerance, widths
        self.kernel: Sampler = kernel

    def applies(self, view: EvalView) -> str | None:
        if lacking := too_few(view, held_out=2, train=2):
            return f"a comparison of means and spreads {lacking}"
        equal = median_distance(subset(view.held_out, 1000)) == 0
        return "most held-out points are equal: their distances give the kernels no width" if equal else None

    def __call__(self, view: EvalView) -> Report:
        sampler, notes = markov(view, self.kernel, "evaluation.longrun.kernel")
        report, held = Report(notes=notes), view.held_out
        steps = {m: min(m * view.steps, self.max_steps) for m in self.multiples}
        with torch.no_grad():
            real = in_parts(partial(evaluate, view.energy), subset(held, 4096), 1024).double().cpu()
        report.metrics = {"longrun_e_data": float(real.mean()), "longrun_e_std": float(real.std())}
        curves, stops, reached = {}, {}, {}
        for name, x in self._starts(view).items():
            curves[name], stops[name], reached[name] = self._run(view, sampler, x, sorted(set(steps.values())))
        data, widths = self._reference(view)
        self._compare(report, "floor", subset(view.dataset.train, self.chains), data, widths, view.dataset.scale)
        for name, stop in stops.items():
            for m, k in steps.items():
                e = curves[name][reached[name][k]]
                report.metrics[f"longrun_e_{name}_{m}"] = float(e.mean())
                self._compare(report, f"{name}_{m}", stop[k], data, widths, view.dataset.scale)
        first, last = steps[self.multiples[0]], steps[self.multiples[-1]]
        short, end = ({name: curves[name][reached[name][k]] for name in curves} for k in (first, last))
        drift = max(abs(float(end[name].mean()) - float(real.mean())) for name in end)
        if real.std() > 0:
            report.metrics["longrun_drift"] = drift / float(real.std())
        said = verdict(short, end, real, self.tolerance * float(real.std()))
        report.notes.append(f"{said} ({first:,} and {last:,} steps, within {self.tolerance:g} std + 3 standard errors)")
        if last < self.multiples[-1] * view.steps:
            report.notes.append(f"chains ended at evaluation.longrun.max_steps={self.max_steps}")
        report.images["longrun_energy"] = self._draw(curves, real, [first, last])
        if as_images(held[:1], view.dataset) is not None or as_points(held[:1], view.dataset) is not None:
            report.images["longrun_states"] = self._states(view, stops, held)
        return report

    def _starts(self, view: EvalView) -> dict[str, Tensor]:
        def some(x: Tensor) -> Tensor:
            return x[torch.randperm(len(x), generator=view.generator, device=x.device)[: self.chains]]

        starts = {
            "noise": start_law(view.dataset).sample(self.chains, view.generator),
            "data": some(view.dataset.train),
        }
        if view.chains is not None and len(view.chains) >= 4:
            starts["buffer"] = some(view.chains)
        return starts

    def _run(
        self, view: EvalView, sampler: Sampler, x: Tensor, stops: list[int]
    ) -> tuple[Curve, Curve, dict[int, int]]:
        """Run chains from x; returns energies and states by number of steps, and the step at which each stop fell.

        Energies are taken at the first 20 calls of the sampler, at about 200 more and at each stop; states at the start
        and at each stop.
        """
        every = max(1, stops[-1] // sampler.steps // 200)
        curve, states, reached = {}, {}, {}
        walked = walk(sampler, view.target, x, stops[-1], view.generator)
        for call, (taken, y, _) in enumerate(walked):
            due = [k for k in (0, *stops) if taken >= k and k not in states]
            states |= {k: y for k in due}
            reached |= {k: taken for k in due}
            if due or call % every == 0 or call < 20:
                with torch.no_grad():
                    curve[taken] = evaluate(view.energy, y).double().cpu()
        return curve, states, reached

    def _reference(self, view: EvalView) -> tuple[Tensor, list[float]]:
        data = subset(view.held_out, 1000).flatten(1).double()
        return data, [w * median_distance(data) for w in self.widths]

    def _compare(self, report: Report, name: str, x: Tensor, data: Tensor, widths: list[float], scale: float) -> None:
        flat = x.flatten(1).double()
        report.metrics[f"longrun_mmd2_{name}"] = mmd2(flat, data, widths)
        report.metrics[f"longrun_moments_{name}"] = float(moment_distance(flat, data)) / scale

    def _draw(self, curves: dict[str, Curve], real: Tensor, marks: list[int]) -> Tensor:
        middle, spread = real.mean(), float(real.std())

        def draw(fig) -> None:
            axes, furthest, first = fig.subplots(), 0.0, 1
            axes.axhspan(-spread, spread, color="0.9", label="held-out data, mean +- std")
            axes.axhline(0, color="black", lw=1)
            for name, curve in curves.items():
                at, e = list(curve), torch.stack(list(curve.values())) - middle
                mean, std = e.mean(1), e.std(1)
                furthest, first = max(furthest, float(mean.abs().max())), at[1]
                axes.plot(at, mean.numpy(), color=COLOURS[name], label=f"chains from {name}, mean +- std")
                axes.fill_between(at, (mean - std).numpy(), (mean + std).numpy(), color=COLOURS[name], alpha=0.15, lw=0)
            for k in marks:
                axes.axvline(k, color="0.6", lw=0.8, ls=":")
            axes.set_xscale("symlog", linthresh=first)
            if furthest > 40 * spread > 0:
                axes.set_yscale("symlog", linthresh=4 * spread)
            axes.set(xlabel="sampler steps (dotted: where numbers were taken)", xlim=(0, None))
            axes.set_ylabel("E - mean held-out E, in nats")
            axes.legend(frameon=False, fontsize=9)

        return pictures.figure(draw, 7, 4.2)

    def _states(self, view: EvalView, stops: dict[str, Curve], held: Tensor) -> Tensor:
        """Draw the states: a row per start, a column per stop; points are drawn over held-out data."""
        shape, data = view.dataset.event_shape, view.dataset
        images = as_images(held[:1], data) is not None

        def draw(fig) -> None:
            times = list(next(iter(stops.values())))
            panels = fig.subplots(len(stops), len(times), squeeze=False)
            for row, (name, states) in zip(panels, stops.items(), strict=True):
                for axes, k in zip(row, times, strict=True):
                    if (shown := as_images(states[k][:24], data)) is not None:
                        axes.imshow(pictures.grid(*shown, columns=8, side=24).permute(1, 2, 0).numpy())
                        axes.set_axis_off()
                    else:
                        self._cloud(axes, as_points(states[k], data), as_points(held, data))
                    axes.set_title(f"from {name}, {k:,} steps", fontsize=10)

        columns = len(next(iter(stops.values())))
        height = 1.75 if images and shape[-1] == shape[-2] else 2.8
        return pictures.figure(draw, 3.6 * columns, height * len(stops) + 0.2)

    def _cloud(self, axes: Any, x: Tensor | None, held: Tensor | None) -> None:
        """Draw the first two coordinates, or a histogram if there is only one."""
        assert x is not None and held is not None, "asked before the picture is drawn"
        points, data = x.flatten(1).cpu().numpy(), subset(held, 1000).flatten(1).cpu().numpy()
        if data.shape[1] == 1:
            axes.hist(data[:, 0], 40, density=True, color="0.85")
            axes.hist(points[:, 0], 20, density=True, histtype="step", color="#d95f02")
            axes.set(xlabel="x", ylabel="density")
            return
        axes.plot(data[:, 0], data[:, 1], ".", ms=1.5, color="0.8")
        axes.plot(points[:, 0], points[:, 1], ".", ms=3, color="#d95f02")
        middle, reach = data[:, :2].mean(0), 1.4 * abs(data[:, :2] - data[:, :2].mean(0)).max(0)
        axes.set(xlim=(middle[0] - reach[0], middle[0] + reach[0]), ylim=(middle[1] - reach[1], middle[1] + reach[1]))
        axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
