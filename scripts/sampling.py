"""Measure the effective samples per gradient of the samplers on laws with known moments.

    python scripts/sampling.py out=docs [samplers=mala,hmc] [gradients=3000] [chains=64]

Chains begin at exact draws. Each statistic t of a law (coordinates along its principal axes and their squares; for the
funnel the log-width v and v^2) has a known mean and standard deviation; a law's effective samples are those of its
slowest statistic (statistics/diagnostics.py), and its bias is the largest |mean t - E t| / std t, whose standard error
is at least 1 / sqrt(effective samples).

Samplers with a Metropolis test adapt their step size to the acceptance of their YAML in a warm-up that is left out.
The step size of the others is the one at which a Metropolis test would accept 90 % of the steps, and for mclmc an
energy error of 5e-4; all other settings are those of the YAMLs, but one step a call, adapt_rate 0.1, and max_depth 10
for nuts. A call computes the gradient where the last one ended again, which longer calls do not and which is not
counted.

Writes <out>/studies/samplers.csv and samplers.png, and <out>/samplers.md from <out>/studies/samplers.md.j2. What is in
the csv is not measured again.
"""

import csv
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.tools import main
from ebm_lab.core import pictures
from ebm_lab.core.errors import one_of
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.registry import build
from ebm_lab.datasets.funnel import FunnelLaw
from ebm_lab.statistics.diagnostics import effective_sample_size

SAMPLERS = ("langevin", "mala", "barker", "hmc", "underdamped", "nuts", "mclmc", "adjusted_mclmc")
TUNED = {"langevin": ("acceptance", 0.9), "underdamped": ("acceptance", 0.9), "mclmc": ("energy_error", 5e-4)}
"""The metric by which the step size of an unadjusted sampler is chosen, and its value."""
WARMUP, FEW = {"nuts": 50, "mala": 300, "barker": 300, "hmc": 300, "adjusted_mclmc": 300}, 4


class Law(NamedTuple):
    """energy (B, d) -> (B,); draw(n, generator); statistics (..., d) -> (..., S) of mean 0 and std 1 under the law."""

    energy: Callable[[Tensor], Tensor]
    draw: Callable[[int, Generator], Tensor]
    statistics: Callable[[Tensor], Tensor]


class Cell(NamedTuple):
    """ess: of all chains; gradients: of one chain; bias: in standard deviations of the worst statistic."""

    ess: float
    chains: float
    gradients: float
    bias: float
    step_size: float
    acceptance: float


Found = dict[tuple[str, str], Cell]
"""The cell of each sampler and law."""


def gaussian(condition: float, d: int = 10) -> Law:
    """Return N(0, Q diag(var) Q'), var from 1 / condition to 1, with a fixed random rotation Q."""
    own = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(d, d, generator=own, dtype=torch.float64))[0]
    std = condition ** torch.linspace(-0.5, 0, d, dtype=torch.float64)

    def moments(x: Tensor) -> Tensor:
        y = x @ q / std
        return torch.cat([y, (y**2 - 1) / 2**0.5], -1)

    return Law(
        lambda x: 0.5 * (x @ q / std).square().sum(1),
        lambda n, g: (std * torch.randn(n, d, generator=g, dtype=torch.float64)) @ q.T,
        moments,
    )


def funnel(d: int = 5, std: float = 1.5) -> Law:
    law = FunnelLaw(d, std, 0.0)

    def moments(x: Tensor) -> Tensor:
        v = x[..., :1] / std
        return torch.cat([v, (v**2 - 1) / 2**0.5], -1)

    return Law(lambda x: -law.log_prob(x), law.sample, moments)


def two_modes(apart: float = 4.0, weight: float = 0.3) -> Law:
    """Return weight N(-apart / 2, I) + (1 - weight) N(apart / 2, I) in the plane, apart along the first axis."""
    m, shift = apart / 2, (1 - 2 * weight) * apart / 2
    spread = (1 + m**2 - shift**2) ** 0.5
    square = (2 + 4 * m**2) ** 0.5  # std of x_1^2, whose law is that of (m + z)^2

    def energy(x: Tensor) -> Tensor:
        logs = [math.log(w) - 0.5 * (x[:, 0] - c) ** 2 for w, c in ((weight, -m), (1 - weight, m))]
        return 0.5 * x[:, 1] ** 2 - torch.logaddexp(*logs)

    def draw(n: int, g: Generator) -> Tensor:
        x = torch.randn(n, 2, generator=g, dtype=torch.float64)
        side = torch.where(torch.rand(n, generator=g) < weight, -m, m)
        return x + torch.stack([side, torch.zeros(n)], 1)

    def moments(x: Tensor) -> Tensor:
        return torch.stack([(x[..., 0] - shift) / spread, (x[..., 0] ** 2 - 1 - m**2) / square], -1)

    return Law(energy, draw, moments)


LAWS = {
    "Gaussian, condition 1": gaussian(1),
    "condition 100": gaussian(100),
    "condition 10,000": gaussian(10_000),
    "funnel": funnel(),
    "two modes": two_modes(),
}


@cache
def defaults(name: str) -> dict[str, Any]:
    """Return the values of a sampler's YAML."""
    return compose_config([f"sampler={name}", "dataset=two_moons", "recipe=none"])["sampler"]


def made(name: str, step_size: float | None = None, steps: int = 1) -> Sampler:
    """Return a sampler with the values of its YAML, but for these."""
    values = {**defaults(name), "steps": steps}
    if step_size is not None:
        values["step_size"] = step_size
    if "warmup" in values:
        values["warmup"] = WARMUP[name]
    if "adapt_rate" in values:
        values["adapt_rate"] = 0.1
    if name == "nuts":
        values["max_depth"] = 10
    sampler = build("sampler", values, "sampler", scale=1.0)
    assert isinstance(sampler, Sampler)
    return sampler


def tuned(name: str, law: Law, generator: Generator) -> float:
    """Find by bisection the step size at which the metric of TUNED has its value, over 10 steps from exact draws."""
    metric, value = TUNED[name]
    low, high = math.log(1e-4), math.log(10.0)
    for _ in range(10):
        middle = (low + high) / 2
        chain = made(name, math.exp(middle), 10)(law.energy, law.draw(500, generator), {}, generator=generator)
        found = float(chain.metrics[metric])
        fine = found > value if metric == "acceptance" else found < value
        low, high = (middle, high) if fine else (low, middle)
    return math.exp(low)


def measure(name: str, law: Law, gradients: int, chains: int) -> Cell:
    """Run the chains for about `gradients` gradients each, after the warm-up."""
    generator = torch.Generator().manual_seed(0)
    step_size = tuned(name, law, generator) if name in TUNED else None
    sampler, x = made(name, step_size), law.draw(chains, generator)
    state = sampler.begin(law.energy, x, generator)
    for _ in range(WARMUP.get(name, 0)):
        x, state, _, _ = sampler(law.energy, x, state, generator=generator)
    taken, draws, accepted, metrics = 0, [], [], {}
    while taken < gradients:
        x, state, metrics, evals = sampler(law.energy, x, state, generator=generator)
        taken += evals // chains - (name != "langevin")
        draws.append(x)
        accepted.append(float(metrics["acceptance"]) if "acceptance" in metrics else math.nan)
    values = law.statistics(torch.stack(draws, 1)).permute(2, 0, 1)
    ess, bias = float(effective_sample_size(values).min()), float(values.mean((1, 2)).abs().max())
    size = float(metrics["step_size"]) if step_size is None else step_size
    return Cell(ess, chains, taken, bias, size, sum(accepted) / len(accepted))


def sampling(
    *, out: str = "docs", samplers: str = ",".join(SAMPLERS), gradients: PositiveInt = 3000, chains: PositiveInt = 64
) -> None:
    """Measure samplers; see the top of this file. gradients: of each chain; chains: of each sampler on each law."""
    torch.set_num_threads(1)
    folder = Path(out) / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    found = read(folder / "samplers.csv")
    for name in samplers.split(","):
        if name not in SAMPLERS:
            raise one_of("samplers", name, SAMPLERS)
        for title, law in LAWS.items():
            if (name, title) not in found:
                cell = found[name, title] = measure(name, law, gradients, chains)
                write(folder / "samplers.csv", found)
                print(f"{name}, {title}: {shown(cell)} per 1,000 gradients, {cell}", flush=True)
    pictures.save_png(pictures.figure(lambda fig: draw(fig, found), 9.5, 4.2), folder / "samplers.png")
    write_page(Path(out), found)


def read(path: Path) -> Found:
    """Read the cells of an earlier measurement."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(r["sampler"], r["law"]): Cell(*(float(r[f]) for f in Cell._fields)) for r in csv.DictReader(file)}


def write(path: Path, found: Found) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "law", *Cell._fields])
        writer.writerows([name, title, *(f"{number:.4g}" for number in c)] for (name, title), c in found.items())


def per_thousand(c: Cell) -> tuple[float, bool]:
    """Return the effective samples per 1,000 gradients of a chain, and whether that is a bound since they hardly
    move."""
    least = FEW * c.chains
    return 1000 * max(c.ess, least) / (c.gradients * c.chains), c.ess < least


def shown(c: Cell) -> str:
    size, bound = per_thousand(c)
    return f"{'< ' if bound else ''}{float(f'{size:.2g}'):g}"


def table(found: Found, show: Callable[[Cell], str]) -> str:
    names = [name for name in SAMPLERS if (name, next(iter(LAWS))) in found]
    lines = ["| sampler | " + " | ".join(LAWS) + " |", "|" + "---|" * (len(LAWS) + 1)]
    return "\n".join(
        [
            *lines,
            *(
                f"| `{n}` | " + " | ".join(show(found[n, t]) if (n, t) in found else "-" for t in LAWS) + " |"
                for n in names
            ),
        ]
    )


def draw(fig, found: Found) -> None:
    """Plot the effective samples per 1,000 gradients; hollow where they are upper bounds."""
    axes, places = fig.subplots(), range(len(LAWS))
    for i, name in enumerate(n for n in SAMPLERS if (n, next(iter(LAWS))) in found):
        cells = [(p, found[name, title]) for p, title in enumerate(LAWS) if (name, title) in found]
        axes.semilogy([p for p, _ in cells], [per_thousand(c)[0] for _, c in cells], ls=":", lw=0.8, color=f"C{i}")
        for p, c in cells:
            size, bound = per_thousand(c)
            face = "white" if bound else f"C{i}"
            label = name if p == 0 else None
            axes.semilogy(p, size, marker="osv^D<>P"[i % 8], color=f"C{i}", mfc=face, ls="", label=label)
    axes.set_xticks(places, list(LAWS))
    axes.set(ylabel="effective samples per 1,000 gradients")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def write_page(out: Path, found: Found) -> None:
    """Write <out>/samplers.md from its template, if there is one."""
    from jinja2 import Environment, StrictUndefined

    file = out / "studies" / "samplers.md.j2"
    if not file.is_file():
        return
    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        file.read_text(encoding="utf-8")
    )
    speed, any_cell = table(found, shown), next(iter(found.values()))
    bias = table(found, lambda c: f"{c.bias:.2g} ({max(c.ess, 1) ** -0.5:.1g})")
    text = page.render(speed=speed, bias=bias, chains=f"{any_cell.chains:.0f}")
    (out / "samplers.md").write_text(text, encoding="utf-8")
    print(out / "samplers.md")


if __name__ == "__main__":
    main(sampling)
