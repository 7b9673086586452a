"""A search by Optuna: its spaces, how trials end, the best settings, and going on after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import ebm_lab
from ebm_lab.cli import search, sweep
from ebm_lab.cli.best import experiment
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.process_lock import ProcessLock
from ebm_lab.cli.pruning import pruner_of, watch
from ebm_lab.cli.search_pictures import draw
from ebm_lab.core.errors import UserError
from ebm_lab.core.settings import flat
from ebm_lab.runs.train import train
from tests.exhaustive import exhaustive

optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).resolve().parents[2]
FIXED = ["objective=dsm", "dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "sampler=none"]
FIXED += ["evaluation=[likelihood]", "evaluation.likelihood.cells=20", "energy.hidden=[8]", "threads=1"]
FIXED += ["steps=20", "eval_every=10", "logger=none"]


def parsed(text):
    return OverridesParser.create().parse_override(text)


def drawn(text, n=200):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = []
    for _ in range(n):
        trial = study.ask()
        values.append(search.suggest(trial, parsed(text)))
    return values


def test_an_interval_of_decades_is_searched_on_a_log_scale():
    wide = [float(v) for v in drawn("optim.lr=interval(1e-4,1e-2)")]
    assert min(wide) >= 1e-4 and max(wide) <= 1e-2
    assert 70 <= sum(v < 1e-3 for v in wide) <= 130, "half of the draws in each decade"
    for text in ("x=interval(1.0,2.0)", "optim.lr=tag(linear,interval(1e-4,1e-2))"):
        middle = {"x": 1.5, "optim.lr": 0.00505}[text.partition("=")[0]]
        assert 70 <= sum(float(v) < middle for v in drawn(text)) <= 130
    assert 70 <= sum(float(v) < 2**0.5 for v in drawn("x=tag(log,interval(1.0,2.0))")) <= 130


def test_whole_numbers_ranges_and_choices():
    assert set(drawn("sampler.steps=int(interval(3,6))")) == {"3", "4", "5", "6"}
    assert set(drawn("sampler.steps=range(2,10,3)")) == {"2", "5", "8"}
    assert set(drawn("energy.hidden=[8],[16,16]")) == {"[8]", "[16,16]"}
    assert set(drawn("objective=dsm,nce")) == {"dsm", "nce"}


@pytest.mark.parametrize(
    ("job", "state", "value"),
    [
        ({"status": "finished", "results": {"best": 1.5}}, "COMPLETE", 1.5),
        ({"status": "diverged", "results": {"best": 1.5}}, "PRUNED", None),
        ({"status": "pruned", "results": {"best": 1.5}}, "PRUNED", None),
        ({"status": "finished", "results": {"best": float("nan")}}, "PRUNED", None),
        ({"status": "refused"}, "FAIL", None),
        ({"status": "interrupted", "results": {"best": 1.5}}, "RUNNING", None),
    ],
)
def test_how_a_trial_ends(job, state, value):
    study = optuna.create_study()
    trial = study.ask()
    assert search.tell(study, trial, job, "best") == (state != "RUNNING")
    assert (study.trials[0].state.name, study.trials[0].value) == (state, value)


def test_a_run_that_diverged_is_no_failure_of_a_search(tmp_path):
    sweep.record(tmp_path, 0, [], status="finished", exit=0)
    sweep.record(tmp_path, 1, [], status="diverged", exit=3)
    assert sweep.exit_status(tmp_path) == 1
    (tmp_path / "study.db").touch()
    assert sweep.exit_status(tmp_path) == 0
    sweep.record(tmp_path, 2, [], status="failed", exit=1)
    assert sweep.exit_status(tmp_path) == 1


def test_a_metric_that_runs_lack_is_said_in_one_line():
    study = optuna.create_study()
    with pytest.raises(UserError, match=r"hydra\.sweeper\.metric=nl: the run has no such number; it has: nll"):
        search.tell(study, study.ask(), {"status": "finished", "results": {"nll": 1.0}}, "nl")
    with pytest.raises(UserError, match="nothing was monitored: let eval_every be below steps"):
        search.tell(study, study.ask(), {"status": "finished", "results": {}}, "best")


def test_only_trials_of_dead_processes_are_begun_again(tmp_path):
    study = optuna.create_study()
    with ProcessLock(tmp_path) as dead, ProcessLock(tmp_path) as alive:
        for lock in (dead, alive):
            trial = study.ask()
            trial.suggest_float("optim.lr", 0.0, 1.0)
            trial.set_user_attr("process", lock.name)
        dead.__exit__()
        with ProcessLock(tmp_path) as mine:
            search.begin_again(study, mine)
    assert [t.state.name for t in study.trials] == ["FAIL", "RUNNING", "WAITING"]
    assert study.trials[2].system_attrs["fixed_params"] == study.trials[0].params


def test_the_best_settings_are_an_experiment_that_composes_what_was_typed(tmp_path):
    typed = ["objective=jem", "objective@objective.generative=dsm", "dataset=two_moons", "energy.hidden=[8]"]
    typed += ["evaluation=[likelihood]", "objective.generative.sigma=0.2", 'output_dir="a b"', "optim.lr=0.00012"]
    more = ["~logger", "+logger@logger.csv=csv", "hydra/sweeper=optuna"]
    (tmp_path / "experiment").mkdir()
    text = yaml.safe_dump(experiment([*typed, *more]), sort_keys=False)
    (tmp_path / "experiment" / "best.yaml").write_text("# @package _global_\n" + text)
    assert compose_config(["experiment=best"], tmp_path) == compose_config(typed)


def start(cwd, *words):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def searched(cwd, *words, trials=4):
    program = [str(ROOT / "train.py"), "-m", "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}"]
    return start(cwd, *program, *words, *FIXED)


@pytest.mark.parametrize(
    ("space", "value", "param"),
    [
        ("x=interval(1e-4,1e-2)", 1e-3, 1e-3),
        ("x=interval(1e-4,1e-2)", 0.1, None),
        ("x=interval(1e-4,1e-2)", "auto", None),
        ("x=int(interval(3,6))", 4, 4),
        ("x=int(interval(3,6))", 4.5, None),
        ("x=range(2,10,3)", 5, 5),
        ("x=range(2,10,3)", 6, None),
        ("x=[8],[16,16]", [16, 16], "[16,16]"),
        ("x=null,0.5", 0.5, "0.5"),
        ("x=true,false", True, "True"),
        ("x=a,b", "c", None),
    ],
)
def test_a_default_is_tried_first_where_the_space_holds_it(space, value, param):
    """Optuna takes the value for its own: the first trial has it."""
    assert search.within(parsed(space), value) == param
    if param is not None:
        study = optuna.create_study()
        study.enqueue_trial({"x": param})
        assert search.suggest(study.ask(), parsed(space)) == str(param)


def test_the_value_of_a_key():
    config = {"optim": {"lr": 0.1, "name": "adam"}}
    assert flat(config).get("optim.lr") == 0.1
    assert flat(config).get("optim.lr.x") is flat(config).get("energy.hidden") is None


class Watched:
    """As much of a trainer as the pruning of its run needs."""

    def __init__(self, best_by="nll"):
        self.stop, self.state = None, SimpleNamespace(costs=SimpleNamespace(best_by=best_by))


def searching(tmp_path, pruner, losses):
    """The study of a search in `tmp_path` whose finished trials had these losses at steps 10, 20, ..."""
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}", pruner=pruner)
    for row in losses:
        trial = study.ask()
        for i, loss in enumerate(row):
            trial.report(loss, 10 * (i + 1))
        study.tell(trial, row[-1])
    return study


def test_a_run_worse_than_the_median_of_the_others_is_stopped(tmp_path):
    """By the best value so far at each step: the median of 1, 2, 5 is 2."""
    study = searching(tmp_path, pruner_of("median", 3), [[3.0, 1.0], [3.0, 2.0], [3.0, 5.0]])
    number = study.ask().number
    for values, pruned in (([3.0, 2.1], True), ([3.0, 1.9], False)):
        trainer = Watched()
        (logger,) = watch(tmp_path, number, "median", 3)(trainer)
        for i, value in enumerate(values):
            logger.scalars({"val/nll": value, "val/mmd2": 9.0}, 10 * (i + 1))
            logger.scalars({"loss": 9.0}, 10 * (i + 1) + 5)
        assert trainer.stop == ("pruned" if pruned else None)
        assert study.get_trials()[number].intermediate_values == dict(zip((10, 20), values, strict=True))
        number = study.ask().number


def test_the_median_of_too_few_trials_stops_nothing(tmp_path):
    study = searching(tmp_path, pruner_of("median", 3), [[1.0], [1.0]])
    (logger,) = watch(tmp_path, study.ask().number, "median", 3)(trainer := Watched())
    logger.scalars({"val/nll": 99.0}, 10)
    assert trainer.stop is None


@pytest.mark.parametrize(("name", "made"), [("none", True), ("median", False)])
def test_a_run_without_a_pruner_or_a_search_is_not_watched(name, made, tmp_path):
    if made:
        searching(tmp_path, None, [])
    assert watch(tmp_path, 0, name, 3)(Watched()) == ()


def test_a_pruned_run_is_whole_and_goes_on_if_asked(tmp_path):
    """It ends as `pruned`, is no failure, and its checkpoint continues as that of any stopped run."""
    study = searching(tmp_path, pruner_of("median", 1), [[-100.0, -100.0]])
    watching = watch(tmp_path, study.ask().number, "median", 1)
    run = train(compose_config([*FIXED, f"output_dir={tmp_path}"]), quiet=True, watch=watching)
    assert (run.status, run.exit_status, run.summary["step"]) == ("pruned", 0, 11)
    whole = ebm_lab.train([f"resume={run.path}"], quiet=True)
    straight = train(compose_config([*FIXED, f"output_dir={tmp_path / 'b'}"]), quiet=True)
    assert whole.status == "finished"
    assert whole.summary["nll"] == straight.summary["nll"]


def test_the_pictures_of_a_search(tmp_path):
    """Too few finished trials have a history and no importances."""
    study = optuna.create_study()
    for i in range(6):
        trial = study.ask()
        trial.suggest_float("optim.lr", 0.0, 1.0)
        study.tell(trial, float(i))
        files = draw(study, tmp_path, "best")
        assert [f.name for f in files] == (["history.png"] if i < 4 else ["history.png", "importance.png"])
    assert all(f.read_bytes()[:4] == b"\x89PNG" for f in files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["optim.lr=interval(0.1,1)", "hydra.sweeper.pruner=median", "hydra.sweeper.metric=nll"],
            "hydra.sweeper.pruner=median: it compares the metric on the validation split",
        ),
        (["optim.lr=0.1"], "hydra/sweeper=optuna: nothing to search; give a setting several values"),
        (["optim.lr=interval(1,0.1)"], "optim.lr=interval(1,0.1): an interval must begin below its end"),
        pytest.param(["optim.lrr=interval(0.1,1)"], "optim.lrr", marks=exhaustive),
        pytest.param(
            ["optim.lr=interval(0.1,1)", "hydra.sweeper.direction=up"],
            "hydra.sweeper.direction=up: should be",
            marks=exhaustive,
        ),
    ],
)
def test_a_mistake_is_one_line_and_trains_nothing(words, said, tmp_path):
    process = searched(tmp_path, *words)
    out = process.communicate(timeout=120)[0]
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(lines) == 1 and said in lines[0], out
    assert "Traceback" not in out and not list(tmp_path.glob("outputs/runs/*"))


@pytest.mark.slow
def test_a_search_whose_first_trial_is_refused_stops(tmp_path):
    process = searched(tmp_path, "batch_size=interval(8,64)")
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "search: stopped, for its first trial was refused" in out, out
    assert out.count("error: batch_size=") == 1 and not list(tmp_path.glob("outputs/runs/*"))


@exhaustive
def test_a_search_survives_kill_9_and_goes_on(tmp_path):
    """It is killed within its third run. The continued search finishes that run, and has four trials in the end."""
    process, runs = searched(tmp_path, "optim.lr=interval(1e-4,1e-1)"), tmp_path / "outputs" / "runs"
    until = time.monotonic() + 300
    while not (runs.is_dir() and len(list(runs.iterdir())) == 3):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    before = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}").trials
    assert [t.state.name for t in before] == ["COMPLETE", "COMPLETE", "RUNNING"]
    process = start(tmp_path, str(ROOT / "scripts" / "sweep.py"), f"resume={folder.relative_to(tmp_path)}")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}").trials
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[3].params == before[2].params, "the killed trial is begun again"
    assert len({t.params["optim.lr"] for t in trials}) == 4, "no other draw is repeated"
    best = min((t for t in trials if t.value is not None), key=lambda t: t.value)
    record = json.loads((tmp_path / best.user_attrs["run"] / "summary.json").read_text())
    judged = f"{record['best_by']} on the validation split"
    assert record["best"] == best.value and f"best: trial {best.number}, {judged} {best.value:.6g}" in out
    assert "optuna-dashboard sqlite:///" in out
    config = compose_config(["experiment=best"], folder / "best")
    assert config["optim"]["lr"] == best.params["optim.lr"] and config["energy"]["hidden"] == [8]
    assert "trial 4 of 4: optim.lr=" in out
    (line,) = (line for line in out.splitlines() if line.startswith("run it: "))
    process = start(tmp_path, str(ROOT / "train.py"), *line.split()[4:])
    again = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "error: " not in again, again
