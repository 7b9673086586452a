"""Measure cost and gradient noise of a training step against the data's dimension, and NCE's variance by its noise.

    python scripts/scaling.py out=docs [dims=2,8,32,128,784] [seconds=3]

The objectives have the values of their YAMLs. All train the same untrained multilayer perceptron on a Gaussian of
dimension d (dataset=gaussian). One step is the loss of a batch and its gradient with respect to the parameters.

    milliseconds      median over the steps of one run, with its ratio to that of dsm
    relative error    sqrt(tr Cov(g)) / |E g| over independent batches and noises: the distance of one step's gradient
                      from its mean, relative to that mean; 1 is as much noise as signal

Each objective's error is relative to its own mean gradient. The estimate of |E g|^2 is unbiased, |mean|^2 - tr Cov / n;
if it is not positive, the error is large but unknown and is written as inf. Writes <out>/studies/scaling.csv,
scaling.md, scaling.png, and noise.md, the theoretical variance of NCE's estimate.
"""

import csv
import math
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.tools import main
from ebm_lab.core import pictures
from ebm_lab.runs.assemble import assemble

METHODS = {
    "dsm": ["objective=dsm", "objective.sigma=0.1"],
    "sm": ["objective=sm", "objective.data_noise=0.0"],
    "ssm, 1 projection": ["objective=ssm", "objective.data_noise=0.0", "objective.variance_reduced=false"],
    "ssm, 8 projections": [
        *("objective=ssm", "objective.data_noise=0.0"),
        *("objective.variance_reduced=false", "objective.projections=8"),
    ],
    "ssm-vr": ["objective=ssm", "objective.data_noise=0.0"],
    "fdssm": ["objective=fdssm", "objective.data_noise=0.0"],
    "nce": ["objective=nce"],
    "cd": ["objective=cd"],
}
COMMON = ["dataset=gaussian", "dataset.train=4096", "dataset.held_out=16", "energy=mlp", "threads=1"]
BATCH, LEAST, MOST = 128, 4, 60


class Cell(NamedTuple):
    milliseconds: float
    error: float
    steps: int


def relative_error(gradients: Tensor) -> float:
    """Estimate sqrt(tr Cov) / |E g| from independent gradients (n, p); inf if the mean can't be told from 0."""
    n, variance = len(gradients), float(gradients.double().var(0).sum())
    square = float(gradients.double().mean(0).square().sum()) - variance / n
    return math.sqrt(variance / square) if square > 0 else math.inf


def measure(overrides: list[str], d: int, seconds: float) -> Cell:
    """Measure steps for about `seconds`, at least 4 and at most 60, after one warm-up step."""
    own = [*overrides, *COMMON, f"dataset.dim={d}", f"batch_size={BATCH}", "evaluation=[]", "logger=none", "seed=0"]
    trainer, _ = assemble(compose_config(own))
    objective, times, gradients = trainer.state.objective, [], []
    weights = list(objective.energy.parameters())
    began = time.perf_counter()
    for step in range(1, MOST + 2):
        start = time.thread_time()
        objective(trainer.batches(step)[0]).value.backward()
        times.append(1000 * (time.thread_time() - start))
        gradients.append(torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                                    for p in weights]))  # fmt: skip
        for p in objective.parameters():
            p.grad = None
        if step > LEAST and time.perf_counter() - began > seconds:
            break
    return Cell(median(times[1:]), relative_error(torch.stack(gradients[1:])), len(times) - 1)


def nce_variance(noise_std: float, k: float, n: int = 20_001) -> float:
    """Compute n Var of NCE's estimate of a for data N(0, 1), E = a x^2 / 2, k noises N(0, noise_std^2) per datum:

    Sigma = I^-1 - (1 + 1/k) e e',    I = E_p[g g' w],  w = k p_n / (p + k p_n),  e = (0, 1)

    with g = d log p_theta / d(a, c) = (-x^2 / 2, -1); by the trapezoid rule. The second term concerns only log Z, so
    the result is (I^-1)_aa. For maximum likelihood it is 2.

    Michael U. Gutmann and Aapo Hyvarinen, Noise-Contrastive Estimation of Unnormalized Statistical Models, 2012,
    theorem 3.
    """
    x = torch.linspace(-12, 12, n, dtype=torch.float64)
    log_p = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    log_n = -0.5 * (x / noise_std) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(noise_std)
    weight = torch.sigmoid(log_n + math.log(k) - log_p) * log_p.exp() * (x[1] - x[0])
    g = torch.stack([-0.5 * x**2, -torch.ones_like(x)])
    return float(torch.linalg.inv((g * weight) @ g.T)[0, 0])


def scaling(*, out: str = "docs", dims: str = "2,8,32,128,784", seconds: PositiveFloat = 3.0) -> None:
    """Measure cost and noise of a step against the dimension; see the top of this file. seconds: per measurement."""
    folder, ds = Path(out) / "studies", [int(d) for d in str(dims).split(",")]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, int], Cell] = {}
    for d in ds:
        for name, overrides in METHODS.items():
            cell = found[name, d] = measure(overrides, d, seconds)
            print(f"d={d} {name}: {cell.milliseconds:.2f} ms, error {cell.error:.3g}, {cell.steps} steps", flush=True)
    with (folder / "scaling.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "dimension", "milliseconds", "cost_over_dsm", "relative_error", "steps"])
        for (name, d), c in found.items():
            ratio = c.milliseconds / found["dsm", d].milliseconds
            writer.writerow([name, d, f"{c.milliseconds:.3g}", f"{ratio:.3g}", f"{c.error:.3g}", c.steps])
    (folder / "scaling.md").write_text(tables(found, ds), encoding="utf-8")
    (folder / "noise.md").write_text(noise_table(), encoding="utf-8")
    pictures.save_png(pictures.figure(lambda fig: draw(fig, found, ds), 10.5, 4.2), folder / "scaling.png")


def tables(found: dict[tuple[str, int], Cell], ds: list[int]) -> str:
    head = f"| d | {' | '.join(map(str, ds))} |\n|{'---|' * (len(ds) + 1)}\n"
    base = " | ".join(f"{found['dsm', d].milliseconds:.2g}" for d in ds)
    text = f"Cost of a step over that of dsm, whose own is in milliseconds:\n\n{head}| dsm, ms | {base} |\n"
    for name in METHODS:
        if name != "dsm":
            ratios = (found[name, d].milliseconds / found["dsm", d].milliseconds for d in ds)
            text += f"| {name} | {' | '.join(f'{r:.2g}' for r in ratios)} |\n"
    text += f"\nRelative error of the gradient of one batch of {BATCH}:\n\n{head}"
    for name in METHODS:
        text += f"| {name} | {' | '.join(f'{found[name, d].error:.2g}' for d in ds)} |\n"
    return text


def noise_table(stds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0, 8.0)) -> str:
    text = f"| noise std / data std | {' | '.join(map(str, stds))} |\n|{'---|' * (len(stds) + 1)}\n"
    for k in (1, 10, 100):
        text += f"| k = {k} | {' | '.join(f'{nce_variance(s, k) / 2:.3g}' for s in stds)} |\n"
    return text


def draw(fig, found: dict[tuple[str, int], Cell], ds: list[int]) -> None:
    left, right = fig.subplots(1, 2)
    for i, name in enumerate(METHODS):
        style = {"color": f"C{i}", "marker": "osv^D<>P"[i % 8], "ms": 5, "label": name}
        left.loglog(ds, [found[name, d].milliseconds / found["dsm", d].milliseconds for d in ds], **style)
        right.loglog(ds, [found[name, d].error for d in ds], **style)
    for axes, title in ((left, "cost of a step / that of dsm"), (right, "relative error of the gradient")):
        axes.set(title=title, xlabel="dimension d")
        axes.set_xticks(ds, [str(d) for d in ds])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25)
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


if __name__ == "__main__":
    main(scaling)
