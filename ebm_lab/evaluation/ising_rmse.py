"""How well an Ising energy has learnt the couplings that its data were drawn with.

    rmse = sqrt( 1/d^2 sum_ij (J_ij - J*_ij)^2 ),    J learnt, J* true, (d, d), both symmetric with a zero diagonal

`ising_neg_log_rmse`, minus its logarithm, is the number that papers report: higher is better. An edge is a pair with
J*_ij != 0, and found if |J_ij| exceeds half of the least |J*_ij| of all edges: `ising_edges_found` is the share of
edges found, `ising_edges_false` that of the other pairs. `ising_edge_mean` is the mean over edges of J_ij sign(J*_ij),
beside `ising_edge_mean_true`, that of |J*_ij|: a penalty on |J| shrinks it.

Will Grathwohl, Kevin Swersky, Milad Hashemi, David Duvenaud and Chris J. Maddison, Oops I Took A Gradient: Scalable
Sampling for Discrete Distributions, 2021, section 6.3 (-log RMSE of J on the 10 x 10 torus), arXiv:2102.04509.
"""

import math

import torch
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.evaluation._extras import learnt_couplings, true_couplings


@register("evaluation", "ising_rmse")
class IsingRMSE(Evaluation):
    """Compare the couplings of energy=ising with those of dataset=ising."""

    metrics = (
        Metric("ising_rmse", "RMSE of couplings", good="lower", meaning="over all d^2 entries of J."),
        Metric(
            "ising_neg_log_rmse",
            "-log RMSE of couplings",
            good="higher",
            meaning="minus the natural logarithm of the root mean square error over all d^2 entries of J.",
            shown=("compare", "report", "sweep"),
            rank=45,
        ),
        Metric("ising_edges_found", good="higher", meaning="share of coupled pairs, of 1, that are learnt as coupled."),
        Metric("ising_edges_false", good="lower", meaning="share of the other pairs that are learnt as coupled."),
        Metric("ising_edge_mean", meaning="mean learnt coupling of coupled pairs, in the sign of the true one."),
        Metric("ising_edge_mean_true", meaning="mean size of the true couplings of coupled pairs."),
    )
    needs = (Need("dataset", "binary", why="the data are no bits, whose couplings could be known"),)
    silent = True

    def applies(self, view: EvalView) -> str | None:
        true, learnt = true_couplings(view.dataset), learnt_couplings(view.energy)
        if true is None:
            return "the data have no known couplings, as those of dataset=ising"
        if learnt is None or learnt.shape != true.shape:
            return "the energy has no matrix of couplings, as energy=ising has"
        return None if bool((true != 0).any()) else "the true couplings are all 0"

    def __call__(self, view: EvalView) -> Report:
        true, learnt = true_couplings(view.dataset), learnt_couplings(view.energy)
        assert true is not None and learnt is not None, "applies() asks for both"
        true, learnt = true.double().cpu(), learnt.double().cpu()
        return Report(compared(learnt, true), {"couplings": draw(learnt, true)})


def compared(learnt: Tensor, true: Tensor) -> dict[str, float]:
    """Return the metrics of J and J*, (d, d) each; without the log of an error of 0, and shares of no pairs."""
    upper = torch.ones_like(true, dtype=torch.bool).triu(1)
    edges, others = (true != 0) & upper, (true == 0) & upper
    found = learnt.abs() > true[edges].abs().min() / 2
    rmse = float((learnt - true).square().mean().sqrt())
    metrics = {"ising_rmse": rmse, **({"ising_neg_log_rmse": -math.log(rmse)} if rmse else {})}
    metrics["ising_edges_found"] = float(found[edges].double().mean())
    if bool(others.any()):
        metrics["ising_edges_false"] = float(found[others].double().mean())
    metrics["ising_edge_mean"] = float((learnt * true.sign())[edges].mean())
    return metrics | {"ising_edge_mean_true": float(true[edges].abs().mean())}


def draw(learnt: Tensor, true: Tensor) -> Tensor:
    """Draw both matrices on one scale of colours, which the larger of the two fills."""
    most = max(float(true.abs().max()), float(learnt.abs().max()))

    def on(fig) -> None:
        panels = fig.subplots(1, 2)
        for axes, (title, matrix) in zip(panels, {"true J": true, "learnt J": learnt}.items(), strict=True):
            picture = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
            axes.set(title=title, xlabel="site", ylabel="site")
        fig.colorbar(picture, ax=panels, shrink=0.8)

    return pictures.figure(on, 9.0, 4.2)
