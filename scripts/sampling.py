"""Measure the effective samples per gradient of the samplers on laws with known moments.

    python scripts/sampling.py out=docs [samplers=mala,hmc] [gradients=3000] [chains=64]

Chains begin at exact draws. The laws, effective samples and biases are those of scripts/sampling_laws.py.

Samplers with a Metropolis test adapt their step size to the acceptance of their YAML in a warm-up that is left out.
The step size of the others is the one at which a Metropolis test would accept 90 % of the steps, and for mclmc an
energy error of 5e-4; all other settings are those of the YAMLs, but one step a call, adapt_rate 0.1, and max_depth 10
for nuts. A call computes the gradient where the last one ended again, which longer calls do not and which is not
counted.

The library blackjax (pip install -e '.[bench]') is measured too where it is installed: samplers=blackjax.nuts and the
others of scripts/sampling_blackjax.py.

Writes <out>/studies/samplers.csv, samplers_blackjax.csv and samplers.png, and <out>/samplers.md from
<out>/studies/samplers.md.j2. What is in a csv is not measured again.
"""

import csv
import math
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Generator

from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.tools import main
from ebm_lab.core import pictures
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.registry import build

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes `scripts` importable
from scripts.sampling_laws import LAWS, Cell, Law, summary

SAMPLERS = ("langevin", "mala", "barker", "hmc", "underdamped", "nuts", "mclmc", "adjusted_mclmc")
TUNED = {"langevin": ("acceptance", 0.9), "underdamped": ("acceptance", 0.9), "mclmc": ("energy_error", 5e-4)}
"""The metric by which the step size of an unadjusted sampler is chosen, and its value."""
WARMUP, FEW = {"nuts": 50, "mala": 300, "barker": 300, "hmc": 300, "adjusted_mclmc": 300}, 4
PEERS = tuple(f"blackjax.{name}" for name in ("mala", "barker", "hmc", "nuts", "mclmc", "adjusted_mclmc"))
INSTALLED = find_spec("blackjax") is not None


Found = dict[tuple[str, str], Cell]
"""The cell of each sampler and law."""


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


def measure(name: str, title: str, gradients: int, chains: int) -> Cell:
    """Run the chains for about `gradients` gradients each, after the warm-up."""
    law, generator = LAWS[title], torch.Generator().manual_seed(0)
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
    size = float(metrics["step_size"]) if step_size is None else step_size
    return summary(law, draws, taken, size, accepted)


def measure_peer(name: str, title: str, gradients: int, chains: int) -> Cell:
    """Measure a sampler of blackjax with the settings of the lab's sampler of that name."""
    from scripts.sampling_blackjax import DENSITIES, measure

    own = name.removeprefix("blackjax.")
    return measure(own, LAWS[title], DENSITIES[title], defaults(own), WARMUP.get(own, 0), gradients, chains)


def chosen(samplers: str) -> list[str]:
    """Return the names in `samplers`, or where it is `all` those that can be measured here."""
    if samplers == "all":
        if not INSTALLED:
            print("blackjax is not installed and is not measured: pip install -e '.[bench]'")
        return [*SAMPLERS, *(PEERS if INSTALLED else ())]
    names = samplers.split(",")
    for name in names:
        if name not in (*SAMPLERS, *PEERS):
            raise one_of("samplers", name, ("all", *SAMPLERS, *PEERS))
        if name in PEERS and not INSTALLED:
            raise UserError(f"samplers={name}: needs the package blackjax: pip install -e '.[bench]'")
    return names


def sampling(
    *, out: str = "docs", samplers: str = "all", gradients: PositiveInt = 3000, chains: PositiveInt = 64
) -> None:
    """Measure samplers; see the top of this file. gradients: of each chain; chains: of each sampler on each law."""
    torch.set_num_threads(1)
    names, folder = chosen(samplers), Path(out) / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = folder / ("samplers_blackjax.csv" if name in PEERS else "samplers.csv")
        found, take = read(file), measure_peer if name in PEERS else measure
        for title in LAWS:
            if (name, title) not in found:
                cell = found[name, title] = take(name, title, gradients, chains)
                write(file, found)
                print(f"{name}, {title}: {shown(cell)} per 1,000 gradients, {cell}", flush=True)
    own, peers = read(folder / "samplers.csv"), read(folder / "samplers_blackjax.csv")
    pictures.save_png(pictures.figure(lambda fig: draw(fig, own), 9.5, 4.2), folder / "samplers.png")
    write_page(Path(out), own | peers)


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
    """Return a table with a row for each sampler; those of blackjax follow the lab's own of the same name."""
    pairs = [name for own in SAMPLERS for name in (own, f"blackjax.{own}")]
    names = [name for name in pairs if (name, next(iter(LAWS))) in found]
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
    peers = any(name in PEERS for name, _ in found)
    text = page.render(speed=speed, bias=bias, chains=f"{any_cell.chains:.0f}", blackjax=peers)
    (out / "samplers.md").write_text(text, encoding="utf-8")
    print(out / "samplers.md")


if __name__ == "__main__":
    main(sampling)
