"""Compose the energies of several runs, draw samples of the law they make together, and say what is known of it."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt

from ebm_lab.cli.compose import options
from ebm_lab.cli.evaluate import place
from ebm_lab.cli.tools import main, writable, write_csv
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.files import dumps, write_atomic
from ebm_lab.runs.defaults import config_dir
from ebm_lab.runs.isolation import isolated

if TYPE_CHECKING:
    from torch import Tensor

    from ebm_lab.runs.composed_samples import Drawn
    from ebm_lab.runs.composition import Composition
    from ebm_lab.runs.loaded import LoadedRun, LogZ


@isolated()
def compose(
    *,
    runs: list[str],
    op: Literal["product", "mixture", "negation"] = "product",
    weights: list[float | str] | None = None,
    n: PositiveInt = 64,
    sampler: str | None = None,
    steps: PositiveInt | None = None,
    cells: PositiveInt = 300,
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    seed: NonNegativeInt = 0,
    device: str = "auto",
    plugins: list[str] | None = None,
    out: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Compose the energies of runs and draw n samples; write samples.npy, samples.csv for points, samples.png and
    summary.json.

    product: E = sum_i w_i E_i, w_i > 0; negation: the same with some w_i < 0; mixture: p = sum_i w_i p_i, which needs
    each run's log Z. weights: one for each run, by default 1, and for a mixture equal; sampler: a name under
    configs/sampler, by default the first run's, and for models of many noise levels MALA at each level;
    sampler.<key>=<value> sets one of its settings; steps: of the sampler, in all, by default the first run's
    sample_steps; cells: log Z in 1 and 2 dimensions takes at most 8 cells^2 evaluations; out: where to write (default:
    outputs/composed/<op> of the first run's names). Samples are in the units of the raw data; runs trained in other
    units or coordinates are brought into one space exactly.
    """
    import torch

    from ebm_lab.core.random import stream
    from ebm_lab.runs.composed_samples import check_sampler, draw, sampler_values
    from ebm_lab.runs.composition import check_weights, compose_runs
    from ebm_lab.runs.load import load_run
    from ebm_lab.training.memory import keep_freed_memory

    keep_freed_memory()
    began, w = time.perf_counter(), _weights(weights)
    check_weights(op, w, len(runs))
    given = dict(which=which, ema=ema, device=device, plugins=plugins or [], evaluation={}, data="kept")
    loaded = [load_run(run, **given) for run in runs]  # type: ignore[arg-type]
    torch.set_num_threads(max(run.parts.config["threads"] for run in loaded))
    made = compose_runs(loaded, op, w)
    values = sampler_values(loaded, made, sampler, _yaml)
    for key, value in (overrides or {}).items():
        if not key.startswith("sampler."):
            raise UserError(f"{key}={value}: unknown key; write a sampler's setting as sampler.<key>=<value>")
        place(values, key.split(".")[1:], value)
    check_sampler(made, values)
    folder = Path(out or f"outputs/composed/{op}_{'_'.join(run.path.name for run in loaded)}"[:200])
    writable(folder)
    generator = stream(seed, "compose", 0, loaded[0].parts.generator.device)
    total = steps or loaded[0].parts.settings.sample_steps
    drawn = draw(made, values, n, total, generator)
    log_z = _log_z(made, loaded[0], cells)
    facts = {
        "runs": [str(run.path) for run in loaded],
        "op": op,
        "weights": made.weights,
        "n": n,
        "sampler": values,
        "steps": drawn.steps,
        "seed": seed,
        "which": which,
        "ema": ema,
        "log_z_of_runs": [z._asdict() for z in made.log_z],
        **log_z,
        "sampler_metrics": drawn.metrics,
        **_moments(drawn.x, made, loaded[0], log_z.get("log_z")),
        "notes": made.notes,
        "seconds": round(time.perf_counter() - began, 3),
    }
    _write(folder, drawn, made, loaded[0], facts)
    _show(made, loaded, drawn, facts)
    print(folder)


MOMENTS = ("samples_mean", "law_mean", "samples_std", "law_std")


def _weights(weights: list[float | str] | None) -> list[float] | None:
    """Read weights; YAML takes -.5 for a text."""
    if weights is None:
        return None
    try:
        return [float(w) for w in weights]
    except ValueError:
        raise UserError(f"weights={weights}: must be numbers, one for each run, as weights=[1,-0.5]") from None


def _yaml(name: str) -> dict[str, Any]:
    """Read the settings of a sampler under configs/sampler."""
    if name not in options("sampler") or name == "none":
        raise one_of("sampler", name, set(options("sampler")) - {"none"})
    return yaml.safe_load((config_dir() / "sampler" / f"{name}.yaml").read_text(encoding="utf-8"))


def _log_z(made: "Composition", first: "LoadedRun", cells: int) -> dict[str, Any]:
    """Return log Z of the composed energy by quadrature in one and two dimensions, with its errors, in nats."""
    from ebm_lab.core.features import features_of
    from ebm_lab.distributions.quadrature import cubature_log_z

    if "energy" not in features_of(made.model) or first.dataset.event_shape not in ((1,), (2,)):
        return {}
    found = cubature_log_z(made.model, made.points, cells)
    if found.trouble is not None:
        return {"log_z_trouble": found.trouble}
    return {"log_z": found.value, "log_z_error_bound": found.bound, "log_z_change": found.change}


def _moments(x: "Tensor", made: "Composition", first: "LoadedRun", log_z: float | None) -> dict[str, Any]:
    """Return mean and standard deviation of the samples in raw units, by coordinate, for points of few dimensions; and
    those of the law itself on a grid around data and samples where log Z is known and most of its mass is there."""
    import torch

    from ebm_lab.distributions.quadrature import framed_log_density

    raw = first.dataset.transform.inverse(x.cpu()).double()
    if raw.ndim != 2 or raw.shape[1] > 20:
        return {}
    found = {"samples_mean": raw.mean(0), "samples_std": raw.std(0, correction=min(1, len(raw) - 1))}
    if log_z is None:
        return {k: v.tolist() for k, v in found.items()}
    nodes, log_p, inside_log_z = framed_log_density(made.model, torch.cat([x, made.points]), 200)
    inside = float(inside_log_z) - log_z
    if (share := math.exp(min(inside, 0.0))) < 0.99:
        made.notes.append(
            f"{1 - share:.1%} of the law's mass lies outside the place of data and samples, which the picture shows"
        )
        return {k: v.tolist() for k, v in found.items()}
    nodes, p = first.dataset.transform.inverse(nodes.cpu()).double(), log_p.cpu().softmax(0)[:, None]
    found["law_mean"] = mean = (p * nodes).sum(0)
    found["law_std"] = (p * (nodes - mean) ** 2).sum(0).sqrt()
    off = float(((found["samples_mean"] - mean).abs() / (found["law_std"] / len(raw) ** 0.5)).max())
    if off > 5:
        made.notes.append(
            f"the samples' mean is {off:.0f} standard errors off the law's, by quadrature: their chains have not "
            f"reached its modes in the right shares; sampler=tempering or more steps may"
        )
    return {k: v.tolist() for k, v in found.items()}


def _write(folder: Path, drawn: "Drawn", made: "Composition", first: "LoadedRun", facts: dict[str, Any]) -> None:
    """Write samples and summary; raise UserError if the folder can't be written to."""
    import numpy as np

    from ebm_lab.cli.combined_picture import picture
    from ebm_lab.core.pictures import save_png

    raw = first.dataset.transform.inverse(drawn.x.cpu())
    try:
        np.save(folder / "samples.npy", raw.numpy())
        if raw.ndim == 2:
            columns = first.dataset.column_names or [f"x{i}" for i in range(raw.shape[1])]
            write_csv(folder / "samples.csv", columns, raw.tolist())
        if (image := picture(drawn.x, made, first)) is not None:
            save_png(image, folder / "samples.png")
        write_atomic(folder / "summary.json", dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"out={folder}: can't be written there ({error})") from None


def _show(made: "Composition", loaded: "list[LoadedRun]", drawn: "Drawn", facts: dict[str, Any]) -> None:
    """Print a table of the runs and what is known of the composed law."""
    head = ["run", "weight"] + (["log Z", "source"] if made.log_z else [])
    rows = [[run.path.name, f"{w:.4g}"] for run, w in zip(loaded, made.weights, strict=True)]
    for row, z in zip(rows, made.log_z, strict=False):
        row += [_number(z), z.source]
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    print(f"{made.op} of {len(loaded)} runs, in the space of the first")
    for row in (head, *rows):
        print("   " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    error = max(facts.get("log_z_error_bound", 0.0), facts.get("log_z_change", 0.0))
    known = {
        "samples": f"{len(drawn.x)}, by {drawn.sampler}, {drawn.steps} steps from {_origin(made)}",
        "log Z": f"{facts['log_z']:.5f} +- {error:.2g} by quadrature" if "log_z" in facts else _no_log_z(facts),
        **{k: f"{v:.4g}" for k, v in drawn.metrics.items()},
        **{k.replace("_", " "): " ".join(f"{v:.4g}" for v in facts[k]) for k in MOMENTS if k in facts},
    }
    for name, value in known.items():
        print(f"   {name:<16} {value}")
    for note in made.notes:
        print(f"note: {note}")


def _origin(made: "Composition") -> str:
    from ebm_lab.runs.composition import OfRuns

    return "the runs' samples" if isinstance(made.start, OfRuns) else "noise"


def _number(z: "LogZ") -> str:
    return f"{z.value:.4f} +- " + (f"{z.error:.2g}" if z.error == z.error else "unknown")


def _no_log_z(facts: dict[str, Any]) -> str:
    return facts.get("log_z_trouble", "not known: quadrature takes an energy of one or two dimensions")


def main_compose() -> None:
    """Run the command `ebm-lab compose`."""
    main(compose)
