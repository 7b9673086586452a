"""Evaluate an existing run by the evaluations under `configs/evaluation` that apply, or by those asked for."""

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.cli.compose import options
from ebm_lab.cli.tools import data_place, main, writable
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.files import dumps, write_atomic
from ebm_lab.runs.defaults import evaluation_settings
from ebm_lab.runs.isolation import isolated

if TYPE_CHECKING:
    from ebm_lab.core.eval_view import EvalView, Report
    from ebm_lab.training.evaluations import Evaluations


@isolated()
def evaluate(
    *,
    run: str,
    evaluation: str = "all",
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    samples: PositiveInt | None = None,
    sample_steps: PositiveInt | None = None,
    sample_temperature: PositiveFloat | None = None,
    seed: NonNegativeInt = 0,
    device: str = "auto",
    plugins: list[str] | None = None,
    out: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Evaluate a run on its test split; write evaluation.json and pictures.

    evaluation: comma-separated names under configs/evaluation, `all`, or `own` for those that the run was trained with;
    which: the last or the best checkpoint; ema: averaged weights; samples, sample_steps, sample_temperature: in place
    of the run's own; out: where to write (default: <run>/evaluation). evaluation.<name>.<key>=<value> sets one
    evaluation's setting; dataset.path=<path> or dataset.root=<path> says where the data are now.
    """
    import torch

    from ebm_lab.core.places import moved
    from ebm_lab.runs.load import load_run
    from ebm_lab.runs.run_directory import RunDir
    from ebm_lab.runs.settings import import_plugins
    from ebm_lab.training.distributed import Processes
    from ebm_lab.training.memory import keep_freed_memory

    keep_freed_memory()
    processes = Processes.join()
    import_plugins(plugins or [])
    place = data_place({k: v for k, v in (overrides or {}).items() if k.startswith("dataset.")})
    own = moved(RunDir.open(run, "run").read_config(), place)
    chosen = roster(own, evaluation, {k: v for k, v in (overrides or {}).items() if not k.startswith("dataset.")})
    loaded = load_run(run, which=which, ema=ema, device=device, plugins=plugins or [], evaluation=chosen, dataset=place)
    torch.set_num_threads(loaded.parts.config["threads"])
    loaded.check_sampling(sample_steps=sample_steps, sample_temperature=sample_temperature)
    changes = {"count": samples, "steps": sample_steps, "temperature": sample_temperature}
    evaluations = loaded.evaluations
    evaluations.sampling = replace(evaluations.sampling, **{k: v for k, v in changes.items() if v is not None})
    evaluations.seed, evaluations.processes = seed, processes
    folder = Path(out or loaded.path / "evaluation")
    writable(folder)
    record: dict[str, Any] = {"which": which, "ema": ema, "step": loaded.step}
    record |= {"seconds": {}, "left_out": {}, "failed": {}, "notes": []}
    view = evaluations.view("test", loaded.step)
    view.averaged = ema
    try:
        for name in evaluations.dealt(view):
            one(evaluations, view, name, record, folder)
            if processes.world == 1:
                write_atomic(folder / "evaluation.json", dumps(record, indent=2) + "\n")
        record = merged(processes.gather(record))
        if processes.first:
            write_atomic(folder / "evaluation.json", dumps(record, indent=2) + "\n")
            print(folder)
    except OSError as error:
        raise UserError(f"out={folder}: can't be written there ({error})") from None
    if record["failed"]:
        raise UserError(
            f"could not be done: {', '.join(record['failed'])}; the reasons are in {folder}/evaluation.json"
        )


def merged(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the records of all processes into one."""
    whole = dict(records[0])
    for record in records[1:]:
        joined = {key: {**whole[key], **record[key]} for key in ("seconds", "left_out", "failed")}
        whole = {**whole, **record, **joined, "notes": whole["notes"] + record["notes"]}
    return whole


def one(evaluations: "Evaluations", view: "EvalView", name: str, record: dict[str, Any], folder: Path) -> None:
    """Run one evaluation, print it and add it to `record`; a failure is recorded and does not stop the others."""
    began = time.perf_counter()
    try:
        report = evaluations.report(name, view)
    except Exception as error:  # whatever a user's data or component does, the other evaluations are still wanted
        record["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"-- {name}: failed, {record['failed'][name]}")
        return
    if isinstance(report, str):
        record["left_out"][name] = report
        print(f"-- {name}: left out, {report}")
        return
    seconds = record["seconds"][name] = round(time.perf_counter() - began, 3)
    print(f"-- {name} ({seconds:.1f} s)")
    show(report, folder)
    record |= report.metrics
    record["notes"] += report.notes


def show(report: "Report", folder: Path) -> None:
    """Print the numbers and notes of a report; write its pictures."""
    from ebm_lab.core.pictures import save_png

    for name, value in report.metrics.items():
        print(f"   {name:<28} {value:.4g}")
    for note in report.notes:
        print(f"   {note}")
    for name, image in report.images.items():
        save_png(image, folder / f"{name}.png")


def roster(own: Mapping[str, Any], evaluation: str, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the requested evaluations: the run's own if it has them, else those under `configs/`.

    A YAML may refer to the run's config, as ${dataset.name} does.
    """
    mine = own.get("evaluation") or {}
    known = sorted({*mine, *options("evaluation")})
    given = [n.strip() for n in evaluation.strip("[]").split(",") if n.strip()]
    asked = {"all": known, "own": list(mine)}.get(evaluation, given)
    for name in asked:
        if name not in known:
            raise one_of("evaluation", name, [*known, "all", "own"])
    chosen = {name: deepcopy(evaluation_settings(name, own)) for name in asked}
    for key, value in overrides.items():
        group, name, setting = (*key.split("."), "", "")[:3]
        if group != "evaluation" or not setting:
            raise UserError(f"{key}={value}: unknown key; write a setting as evaluation.<name>.<key>=<value>")
        if name not in chosen:
            raise one_of("evaluation", name, chosen)
        place(chosen[name], key.split(".")[2:], value)
    return chosen


def place(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a nested setting; `check` later rejects one that does not exist."""
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def main_evaluate() -> None:
    """Run the console command `ebm-lab-evaluate`."""
    main(evaluate)
