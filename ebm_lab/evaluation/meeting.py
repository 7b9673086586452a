"""When do an objective's coupled chains meet, and how far from the model's law are its chains by then?

    tau = inf{ t >= 1: X_t = Y_{t-1} },    X_0 = Y_0 a held-out point, with the noise that training adds to the data
    TV(pi_t, pi) <= E[ max(0, tau - 1 - t) ]

with pi_t the law of a chain after t moves from the data and pi the model's. This is the bound of Biswas, Jacob and
Vanetti, E[max(0, ceil((tau - L - t) / L))], for the lag L = 1 of these pairs: TV(pi_t, pi) is at most the sum over
j >= 1 of TV(pi_{t+j}, pi_{t+j-1}) <= P(X_{t+j} != Y_{t+j-1}) = P(tau > t + j), and the sum of these is the mean. At
t = 0 it bounds the distance of data and model, at t = k that of the negatives of plain CD-k and the model. It is no
estimate: above 1 it says nothing, and chains that couple badly make it large where the distance is small.

Training cuts pairs off after its `max_moves`, which brings back a bias, for which `meeting_unmet` must be near 0. Here
they go on to `moves`. Pairs that are apart even then count with moves + 1, so that mean and bound are too small.

Niloy Biswas, Pierre E. Jacob and Paul Vanetti, Estimating Convergence of Markov chains with L-Lag Couplings, 2019,
theorem 2.5, arXiv:1905.09971.
"""

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.functional import frozen
from ebm_lab.core.interfaces import Objective
from ebm_lab.core.learnt import Coupling
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset, with_noise
from ebm_lab.core.registry import register


def survival(times: Tensor, most: int) -> Tensor:
    """Return the share of times (B,) that are above t = 0 ... most, (most + 1,)."""
    return (times[:, None] > torch.arange(most + 1).to(times)).double().mean(0)


def distance_bound(times: Tensor, most: int) -> Tensor:
    """Return E[ max(0, tau - 1 - t) ] for t = 0 ... most, (most + 1,), for meeting times tau (B,)."""
    return (times[:, None] - 1 - torch.arange(most + 1).to(times)).clamp_min(0).double().mean(0)


@register("evaluation", "meeting")
class Meeting(Evaluation):
    """Run the objective's coupled chains from held-out points until they meet.

    `points`: most pairs. `moves`: moves after which they are stopped, if that is more than training's `max_moves`.
    """

    silent = True
    metrics = (
        Metric("meeting_mean", "mean meeting time", "moves", "lower", "after which coupled chains are at one point."),
        Metric("meeting_mean_se", unit="moves"),
        Metric("meeting_unmet", "unmet pairs", "", "lower", "share of pairs that training's limit would cut off."),
        Metric(
            "meeting_bound",
            "distance of the negatives",
            "",
            "lower",
            "upper bound of the total variation between the model and the chains whose state training uses; above 1 it "
            "says nothing.",
        ),
    )

    def __init__(self, *, points: PositiveInt, moves: PositiveInt) -> None:
        self.points, self.moves = points, moves

    def applies(self, view: EvalView) -> str | None:
        return None if _coupling(view.objective) else "the objective trains with no coupled chains"

    def __call__(self, view: EvalView) -> Report:
        coupling = _coupling(view.objective)
        assert coupling is not None, "applies() asks for it"
        x = with_noise(subset(view.held_out, self.points), view.blur, view.generator)
        most = max(self.moves, coupling.max_moves)
        with frozen(view.energy):
            tau = coupling.times(x, most, view.generator).double().cpu()
        spread = float(tau.std(correction=0)) / math.sqrt(len(tau))
        metrics = {"meeting_mean": float(tau.mean()), "meeting_mean_se": spread}
        metrics["meeting_unmet"] = float((tau > coupling.max_moves).double().mean())
        report, apart = Report(metrics), float((tau > most).double().mean())
        if apart:
            told = f"{apart:.2%} of the pairs are apart after {most} moves: the mean meeting time is a lower bound"
            report.notes.append(f"{told}, and there is no bound on the distance")
        else:
            report.metrics["meeting_bound"] = float(distance_bound(tau, coupling.burn_in)[-1])
        report.images["meeting"] = _draw(tau, coupling, most, bool(apart))
        return report


def _coupling(objective: Objective | None) -> Coupling | None:
    return None if objective is None else objective.coupling()


def _draw(tau: Tensor, coupling: Coupling, most: int, cut: bool) -> Tensor:
    end = min(most, max(int(tau.max()), coupling.max_moves) + 1)
    moves = list(range(end + 1))

    def draw(fig) -> None:
        left, right = fig.subplots(1, 2)
        counts = torch.bincount(tau.clamp_max(most + 1).long(), minlength=end + 1)[: end + 1] / len(tau)
        left.bar(moves, counts.numpy(), width=0.9, color="#7aa6d6", label="pairs that meet at this move")
        mean = float(tau.mean())
        label = f"mean {mean:.3g}" + (" at least" if cut else "")
        left.axvline(mean, color="#d95f02", lw=1.5, label=label)
        unmet = float((tau > coupling.max_moves).double().mean())
        limit = {"color": "k", "lw": 1.0, "ls": ":"}
        left.axvline(coupling.max_moves + 0.5, **limit, label=f"training's limit: {unmet:.2%} of the pairs are apart")
        left.set(xlabel=r"meeting time $\tau$ in moves", ylabel="share of the pairs", xlim=(0.3, end + 0.7))
        left.set_ylim(0, 1.35 * float(counts.max()) + 1e-9)  # room for the legend
        left.legend(fontsize=9, framealpha=0.9, loc="upper right")
        left.xaxis.get_major_locator().set_params(integer=True)
        apart = survival(tau, end)
        right.step(moves, apart.numpy(), where="post", color="#1f5fa8", label=r"P($\tau$ > t): share of pairs apart")
        if not cut:
            bound = distance_bound(tau, end)
            label = r"bound E max(0, $\tau$ $-$ 1 $-$ t) of TV($\pi_t$, model)"
            right.plot(moves, bound.clamp_max(1).numpy(), "o-", ms=3, color="#d95f02", label=label)
        least = 1 / len(tau)
        right.axhline(least, color="0.7", lw=0.8, label="one pair")
        right.axvline(coupling.burn_in, color="0.5", lw=1.0, ls="--", label=f"burn_in = {coupling.burn_in}")
        right.axvline(coupling.max_moves, **limit, label=f"max_moves = {coupling.max_moves}")
        right.set(xlabel="t in moves from the data", yscale="log", ylim=(0.5 * least, 1.3), xlim=(0, end))
        right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return pictures.figure(draw, 12.0, 3.8)
