"""The command line of the comparison: training methods on some data sets, under one budget."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from ebm_lab.cli.compose import compose_config, options
from ebm_lab.cli.listing import choice_of
from ebm_lab.cli.manual import comment
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.features import features_of
from ebm_lab.core.registry import build
from ebm_lab.reports.compare.plan import Arm, Case, Study, Unit, cases, mine, pieces, varied

if TYPE_CHECKING:
    from ebm_lab.reports.compare.runner import Runner

LEFT_OUT = {"mle_short": "its energy learns to be sampled in few cold steps and is no log-density, so it has no gap"}
"""Objectives that `objectives=all` leaves out, with the reason; they can be given by name."""

HARD = "stretched,funnel,student_t,random_mixture,gaussian_50d,two_modes_50d,two_shapes_50d"
"""Data sets of several scales, heavy tails and many dimensions: what `datasets=hard` stands for."""


def compare(
    *,
    objectives: str = "all",
    datasets: str = "two_moons,eight_gaussians",
    seeds: str = "0,1,2",
    budget: PositiveFloat = 45.0,
    unit: Unit = "cpu_seconds",
    jobs: PositiveInt = 2,
    out: str = "outputs/compare",
    overrides: str = "",
    vary: str | None = None,
    evaluate: str = "",
    columns: str = "",
    publish: str = "",
    name: str = "compare",
    train: bool = True,
) -> None:
    """Train objectives on data sets over seeds under an equal budget; write comparison.csv, comparison.md, index.html.

    objectives: comma-separated names under configs/objective, or all, those that suit a data set; datasets, seeds:
    comma-separated, and datasets=hard stands for those of several scales, heavy tails and many dimensions; budget: what
    the training of each run may spend, in unit (cpu_seconds, grad_evals or steps), without start-up and evaluation;
    unit=recipe: no budget, each run trains as its recipe says; jobs: processes at a time, of one thread each; out: the
    directory to write to, whose finished cases are not run again; overrides: for every run, as
    "energy.hidden=[64,64] optim.lr=1e-3"; vary: one more key with its values, as "dataset.noise=0.1,0.2", one row each;
    evaluate: evaluations of each trained model, by name; columns: metrics to show beside the usual ones; publish: a
    directory to which tables and pictures are copied under name, for scripts/results.py; train: false only writes the
    tables and the page of finished cases. Tables and page show the cases of this command.
    """
    from ebm_lab.reports.compare.runner import Runner

    known = options("objective")
    chosen = known if objectives == "all" else _known("objectives", objectives, known)
    sets = _known("datasets", HARD if datasets == "hard" else datasets, options("dataset"))
    if evaluate:
        _known("evaluate", evaluate, options("evaluation"))
    extra = tuple(shlex.split(overrides))
    mine(extra, "overrides")
    suited = {d: fitting(d) if objectives == "all" else chosen for d in sets}
    arms = [Arm(o, d, v) for d in sets for o in suited[d] for v in varied(vary)]
    wanted = cases(arms, _seeds(seeds))
    study = Study(None if unit == "recipe" else budget, unit, extra)
    runner = Runner(study, Path(out), jobs, evaluate, say=lambda line: print(line, flush=True))
    runner.prepare()
    if train:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            runner.run(wanted)
        except KeyboardInterrupt:
            print("stopped; run the same command again to continue")
        finally:
            signal.signal(signal.SIGTERM, before)
    for path in show(runner, wanted, pieces(columns), fresh=train):
        print(path)
    if publish:
        from ebm_lab.reports.compare import page

        for path in page.publish(runner.out, Path(publish), name):
            print(path)


def fitting(dataset: str) -> list[str]:
    """Return the objectives that `objectives=all` means for a data set: those whose needs of it are met, and that learn
    a log-density."""
    there = features_of(build("dataset", compose_config([f"dataset={dataset}"])["dataset"]))
    found = {o: choice_of("objective", o) for o in options("objective") if o not in LEFT_OUT}
    needed = {o: [n for part in c.walk() for n in part.needs if n.role == "dataset"] for o, c in found.items() if c}
    return [o for o in found if all(need.feature in there for need in needed.get(o, []))]


def show(runner: "Runner", wanted: Sequence[Case], asked: Sequence[str], fresh: bool) -> list[Path]:
    """Write comparison.csv, comparison.md and index.html of the finished cases; return the files.

    fresh: this command trained the cases itself.
    """
    from ebm_lab.reports.compare import images, page, table
    from ebm_lab.reports.compare.runner import read

    out = runner.out
    rows = [table.row(case, runner.study, runner) for case in wanted]
    table.write_csv(rows, out / "comparison.csv")
    pictures = images.draw(table.lines(rows), out)
    kinds = [f"{kind}/{r[kind]}" for r in rows for kind in ("objective", "dataset")]
    kept = {} if fresh else read(out / "facts.json")
    facts = {
        "command": command(sys.argv[1:], kept.get("jobs") or runner.jobs),
        "machine": kept.get("machine") or page.machine(),
        "jobs": kept.get("jobs") or runner.jobs,
        "torch": next((r["torch"] for r in rows if r.get("torch")), "unknown"),
        "commit": next((r["git_commit"] for r in rows if r.get("git_commit")), "unknown"),
        "study": asdict(runner.study),
        "columns": list(asked),
        "about": {kind: comment(*kind.split("/")) for kind in dict.fromkeys(kinds)},
    }
    return [out / "comparison.csv", *page.write(rows, out, pictures, facts)]


def command(arguments: Sequence[str], jobs: int) -> str:
    """Return the command that repeats the comparison, without its output directory."""
    said = [a for a in arguments if a.partition("=")[0] not in ("out", "publish", "name", "train", "jobs")]
    return " ".join(["python scripts/compare.py", *map(shlex.quote, said), f"jobs={jobs}"])


def _known(key: str, text: str, allowed: list[str]) -> list[str]:
    names = list(dict.fromkeys(pieces(text)))
    for name in names:
        if name not in allowed:
            raise one_of(key, name, allowed)
    if not names:
        raise UserError(f"{key}={text}: give at least one; allowed: {', '.join(allowed)}")
    return names


def _seeds(text: str) -> list[int]:
    if not all(part.isdecimal() for part in pieces(text)) or not pieces(text):
        raise UserError(f"seeds={text}: give comma-separated whole numbers, as seeds=0,1,2")
    return list(dict.fromkeys(int(part) for part in pieces(text)))


def main_compare() -> None:
    """Run the console command `ebm-lab-compare`."""
    main(compare)
