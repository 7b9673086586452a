"""Measure and draw the identities that connect the objectives.

    python scripts/theory.py out=docs [only=identities|blindness|estimators|meeting]

Writes <out>/theory_identities.png, theory_blindness.png, theory_estimators.png and theory_meeting.png, and prints what
they show. Without `only`, all of them. On a CPU it takes about a minute; the costs among the estimators are this
machine's.
"""

import math
import sys
from pathlib import Path
from typing import Literal

import torch

from ebm_lab.cli.tools import main
from ebm_lab.core import pictures
from ebm_lab.core.functional import score
from ebm_lab.distributions.elementary import IsotropicGaussian
from scripts.theory import estimators, likelihood, meeting, published
from scripts.theory import score as _score  # noqa: F401  (files its identities)
from scripts.theory.line import IDENTITIES, Identity, nodes

BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d95f02", "#1b9e77", "#777777"


Picture = Literal["identities", "blindness", "estimators", "meeting"]


def theory(*, only: Picture | None = None, out: str = "docs") -> None:
    """Measure and draw; see the top of this file."""
    torch.set_num_threads(1)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"identities": identities, "blindness": blindness}
    makers |= {"estimators": compare_estimators, "meeting": meeting_times}
    for name, make in makers.items():
        if only in (None, name):
            path = folder / f"theory_{name}.png"
            pictures.save_png(make(), path)
            print(path)


def identities() -> torch.Tensor:
    found = sorted((check() for check in IDENTITIES), key=lambda i: i.row)
    print(f"| {'row':>3} | {'identity':<26} | largest and smallest error | slope | predicted | holds |")
    print("|---|---|---|---|---|---|")
    for i in found:
        slopes = ("exact", "exact") if i.slope is None else (f"{i.fitted:.3f}", f"{i.slope:.3g}")
        row = f"| {i.row:>3} | {i.name:<26} | {max(i.error):.1e} {min(i.error):.1e} | {slopes[0]} | {slopes[1]} |"
        print(f"{row} {i.holds} |")
    if not all(i.holds for i in found):
        sys.exit("an identity does not hold")

    print("| published equation | should equal | as printed | corrected |")
    print("|---|---|---|---|")
    for v in published.verdicts():
        print(f"| {v.where} | {v.truth:.5f} | {v.printed:.5f} | {v.corrected:.5f} |")

    def draw(fig) -> None:
        panels = fig.subplots(5, 3).flatten()
        for axes, i in zip(panels, found, strict=True):
            panel(axes, i)
        fig.suptitle("measured error (dots) and predicted rate (line)", fontsize=13)

    return pictures.figure(draw, 11, 15)


def panel(axes, i: Identity) -> None:
    axes.set_title(f"{i.row}. {i.name}", fontsize=11, loc="left", fontweight="bold")
    axes.text(0.5, 0.97, i.equation, transform=axes.transAxes, ha="center", va="top", fontsize=9.5)
    axes.set_yscale("log")
    if i.axis == "log":
        axes.set_xscale("log")
    if i.slope is None:
        floor = [max(e, 1e-17) for e in i.error]
        axes.plot(i.x, floor, "o", color=BLUE, label="measured")
        axes.axhline(i.tolerance, color=ORANGE, lw=1.5, label="tolerance")
        axes.set_ylim(1e-18, 1e-3)
        axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.5, 0.75), fontsize=9)
    else:
        middle = len(i.x) // 2
        if i.axis == "log":
            line = [i.error[middle] * (x / i.x[middle]) ** i.slope for x in i.x]
            label = f"slope {i.slope:g} (fitted {i.fitted:.2f})"
        else:
            line = [i.error[middle] * math.exp(i.slope * (x - i.x[middle])) for x in i.x]
            label = f"rate {i.slope:.3f} (fitted {i.fitted:.3f})"
        axes.plot(i.x, line, color=ORANGE, lw=1.5, label=label)
        axes.plot(i.x, i.error, "o", color=BLUE)
        low, high = min(i.error), max(i.error)
        axes.set_ylim(low * (low / high) ** 0.45 if low / high > 1e-3 else low / 30, high * (high / low) ** 0.65)
        axes.legend(frameon=False, loc="lower left", fontsize=9)
    axes.set_xticks(i.x, [f"{x:g}" for x in i.x])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(i.variable, fontsize=10)
    axes.tick_params(labelsize=9)


def blindness() -> torch.Tensor:
    ms = [0.25 * i for i in range(2, 29)]
    d_f, kl = zip(*(likelihood.blindness(m) for m in ms), strict=True)
    for m in (1, 2, 3, 4, 5):
        one, other = likelihood.blindness(float(m))
        print(f"modes at +-{m}: D_F {one:.3g}, KL {other:.3g}")

    def draw(fig) -> None:
        left, middle, right = fig.subplots(1, 3)
        x, _ = nodes(1201, 7.0)
        for weight, colour in ((0.5, BLUE), (0.9, ORANGE)):
            law = likelihood.two_modes(weight, 3.0)
            name = f"weights {weight:g}, {1 - weight:.2g}"
            left.plot(x[:, 0], law.log_prob(x).exp(), color=colour, label=name)
            s = score(lambda y, law=law: -law.log_prob(y), x)
            middle.plot(x[:, 0], s[:, 0], color=colour, ls="-" if weight == 0.5 else "--", label=name)
        left.set(title="two densities, modes at -3 and 3", xlabel="x", ylim=(0, 0.47))
        left.legend(frameon=False, loc="upper right")
        middle.set(title="their scores", xlabel="x")
        middle.legend(frameon=False, loc="upper right")
        right.semilogy(ms, kl, color=GREEN, label="KL: what likelihood sees")
        right.semilogy(ms, d_f, color=BLUE, label="$D_F$: what score matching sees")
        law = [0.41777 * m * math.exp(-m * m / 2) for m in ms]
        right.semilogy(ms, law, ":", color=ORANGE, lw=2, label=r"$0.418\, m\, e^{-m^2/2}$")
        right.set(title="between the two, modes at -m and m", xlabel="m", ylim=(1e-11, 50))
        right.legend(frameon=False, loc="lower left", fontsize=9)

    return pictures.figure(draw, 12, 3.7)


def compare_estimators() -> torch.Tensor:
    bars, dsm = estimators.ssm_variances(), estimators.dsm_variances()
    cd = [estimators.cd_bias(eps) for eps in (0.3, 0.6, 1.0)]
    nce = [estimators.nce_errors(std) for std in (1.5, 2.0, 4.0)]
    steps = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    fd = [c for d in (2, 64) for c in estimators.finite_difference_errors(d, steps)]
    cost = estimators.costs()
    for name, measured, expected in bars:
        print(f"variance of SSM, {name.replace(chr(10), ' '):<20}: {measured:.3f}, closed form {expected:.3f}")
    for title, curves in (("DSM", dsm), ("CD", cd), ("NCE", nce), ("FD-SSM", fd), ("cost / ssm", cost)):
        for c in curves:
            print(f"{title}, {c.name}: " + "  ".join(f"{x:g}: {y:.3g}" for x, y in zip(c.x, c.measured, strict=True)))

    def draw(fig) -> None:
        (a, b, c), (d, e, f) = fig.subplots(2, 3)
        at = range(len(bars))
        a.bar(at, [m for _, m, _ in bars], color=BLUE, width=0.6, label="measured")
        a.plot(at, [x for *_, x in bars], "D", color=ORANGE, ms=6, label="closed form")
        a.set_xticks(list(at), [n for n, *_ in bars], fontsize=7.5)
        a.set(title="sliced score matching: variance over v")
        a.legend(frameon=False)
        lines(b, dsm, r"$\sigma$", r"denoising: gradient's variance (line: $S/\sigma^2$)")
        lines(c, cd, "k", "CD-k, unadjusted: |bias| (lines: closed form)")
        c.set_yticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
        lines(d, nce, "k, noise samples per datum", "NCE: |error| of the gradient")
        lines(e, fd, r"step $\epsilon/\sqrt{d}$", "finite differences: error per point")
        lines(f, cost, "dimension d", "time of a step / that of ssm")
        f.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])

    return pictures.figure(draw, 13, 7.4)


def meeting_times() -> torch.Tensor:
    moves, n, generator = 40, 20_000, torch.Generator().manual_seed(1)
    one, two = likelihood.two_modes(1.0, 0.0), likelihood.two_modes(0.5, 3.0)
    wide = IsotropicGaussian(torch.zeros(1, dtype=torch.float64), 3.0)
    found = {"one": [], "two": []}
    for step in (0.5, 1.0, 2.0):
        x = 1.3 * torch.randn(n, 1, generator=generator).double()
        curve = meeting.survival(lambda y: -one.log_prob(y), x, step, wide, 0, moves)
        found["one"].append((f"MALA, step {step:g}", curve))
    for refresh in (0, 1, 5):
        curve = meeting.survival(lambda y: -two.log_prob(y), two.sample(n, generator), 1.0, wide, refresh, moves)
        found["two"].append((f"MALA and {refresh} independence steps", curve))
    for name, curves in found.items():
        for label, curve in curves:
            mean = 1 + sum(curve)
            print(f"{name} mode(s), {label}: mean meeting time {mean:.2f}, apart after {moves} moves {curve[-1]:.2g}")

    def draw(fig) -> None:
        titles = {"one": "one Gaussian, chains from wider data", "two": "two modes at -3 and 3, chains from them"}
        for axes, (name, curves) in zip(fig.subplots(1, 2), found.items(), strict=True):
            for (label, curve), colour in zip(curves, (BLUE, ORANGE, GREEN), strict=True):
                seen = [(t + 1, share) for t, share in enumerate(curve) if share > 0]
                axes.semilogy(*zip(*seen, strict=True), "o-", ms=3, color=colour, label=label)
            axes.set(title=titles[name], xlabel="move t", ylabel="share of pairs still apart", ylim=(1e-4, 1.5))
            axes.legend(frameon=False, fontsize=9)

    return pictures.figure(draw, 11, 4)


def lines(axes, data, x_label: str, title: str) -> None:
    from matplotlib.ticker import NullFormatter

    colours = (BLUE, ORANGE, GREEN, GREY)
    for c, colour in zip(data, colours, strict=False):
        axes.loglog(c.x, c.measured, "o-" if c.expected is None else "o", color=colour, label=c.name)
        if c.expected is not None:
            axes.loglog(c.x, c.expected, "-", color=colour, lw=1.2)
    axes.set(title=title, xlabel=x_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=9)


def main_theory() -> None:
    """Run the command line of `scripts/theory.py`."""
    main(theory)
