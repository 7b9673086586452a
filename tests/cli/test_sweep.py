"""Sweeps: a run and a record for each job, one failing job stops no other, and going on runs only what is missing."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from ebm_lab.cli import resume_sweep, sweep
from ebm_lab.cli.compose import compose_config, options
from ebm_lab.core.errors import UserError
from tests import commands
from tests.exhaustive import cases

ROOT = Path(__file__).resolve().parents[2]
TINY = ["dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "energy.hidden=[8]", "steps=6", "logger=none"]
TINY += ["evaluation=[likelihood]", "evaluation.likelihood.cells=20", "log_every=2"]


def call(cwd, *arguments, script="train.py"):
    return commands.run(script, *arguments, cwd=cwd)


def results(folder):
    """What each job of a sweep came to, without its clock."""
    kept = {}
    for job in sweep.jobs(folder):
        checkpoint = torch.load(Path(folder.parents[2] / job["run"]) / "checkpoints" / "last.pt", weights_only=True)
        kept[job["job"]] = (job["results"]["nll_gap"], checkpoint["objective"])
    return kept


@pytest.mark.slow
def test_a_job_that_fails_stops_no_other_and_the_rest_can_be_done_later(tmp_path):
    done = call(tmp_path, "-m", "objective=dsm", "objective.sigma=0.1,-1,0.2", *TINY)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "objective.sigma=-1: should be greater than 0" in done.stderr and "2 of 3 jobs ended" in done.stdout
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    found = sweep.jobs(folder)
    assert [job["status"] for job in found] == ["finished", "refused", "finished"]
    assert len({job["run"] for job in found if "run" in job}) == 2
    first = (folder / "jobs" / "0.json").read_text()
    (tmp_path / found[2]["run"] / "summary.json").unlink()  # as if the last job had never run
    again = call(tmp_path, f"resume={folder.relative_to(tmp_path)}", script="scripts/sweep.py")
    assert again.returncode == 1 and "nothing is left to do" in again.stdout
    after = sweep.jobs(folder)
    assert after[0]["run"] == found[0]["run"] and json.loads(first)["results"] == after[0]["results"]
    assert after[2]["run"] != found[2]["run"] and after[2]["results"]["nll_gap"] == found[2]["results"]["nll_gap"]


MANY = ["-m", "objective=dsm,pcd", "seed=0,1", *TINY]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder in which four jobs ran one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    done = call(folder, *MANY)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", cases(["joblib", "submitit_local"], []))
def test_side_by_side_gives_the_results_of_one_after_the_other(launcher, alone, tmp_path):
    side_by_side = call(tmp_path, *MANY, f"hydra/launcher={launcher}")
    assert side_by_side.returncode == 0, side_by_side.stderr
    folders = [next((path / "outputs" / "sweeps").iterdir()) for path in (alone, tmp_path)]
    a, b = (results(f) for f in folders)
    assert a.keys() == b.keys() == {0, 1, 2, 3}
    for job, (gap, state) in a.items():
        assert gap == b[job][0]
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, b[job][1][name]), name


def test_the_slurm_launcher_composes():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["hydra/launcher=slurm"], return_hydra_config=True)
    launcher = config.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher") and launcher.cpus_per_task == 1 and launcher.timeout_min == 240


def test_a_signal_ends_the_whole_sweep(tmp_path):
    sweep.record(tmp_path, 0, [], status="finished", exit=0)
    assert sweep.exit_status(tmp_path) == 0
    sweep.record(tmp_path, 1, [], status="interrupted", exit=75)
    sweep.record(tmp_path, 2, [], status="not started", exit=75)
    assert sweep.exit_status(tmp_path) == 75
    sweep.record(tmp_path, 10, [], status="diverged", exit=3)
    assert sweep.exit_status(tmp_path) == 1 and [job["job"] for job in sweep.jobs(tmp_path)] == [0, 1, 2, 10]


def test_only_a_sweep_is_gone_on_with(tmp_path):
    with pytest.raises(UserError, match="not the directory of a sweep"):
        resume_sweep.sweep(resume=str(tmp_path))


@pytest.mark.parametrize("name", options("sweep"))
def test_every_sweep_composes_and_each_of_its_settings_exists(name):
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from ebm_lab.cli.compose import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [f"sweep={name}"], return_hydra_config=True)
    params = OmegaConf.to_container(config.hydra.sweeper.params)
    assert isinstance(params, dict) and config.hydra.mode.name == "MULTIRUN"
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    choices = [list(o.sweep_string_iterator()) if o.is_sweep_override() else [str(o.value())] for o in parsed]
    keys = [o.key_or_group for o in parsed]
    for last in (False, True):
        overrides = [f"{k}={c[-1 if last else 0]}" for k, c in zip(keys, choices, strict=True)]
        assert compose_config(overrides)["objective"]["name"]


@pytest.mark.parametrize(
    "overrides, alike",
    [
        (["seed=range(5)"], 5),
        (["seed=1,2", "optim.lr=1e-3,1e-2,1e-1", "objective=dsm,ssm"], 6),
        (["objective.sigma=0.1,0.2"], 1),
        (["seed=1,2", "hydra/launcher=joblib"], 1),
        (["sweep=dsm_sigma"], 3),
    ],
)
def test_jobs_that_share_their_compiled_code_are_counted(overrides, alike):
    """As Hydra tells the callback of the sweep."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", overrides, RunMode.MULTIRUN)
    assert sweep.count_alike(config) == alike


@pytest.mark.slow
def test_a_job_is_told_how_many_share_its_compiled_code(tmp_path):
    assert call(tmp_path, "-m", "objective=dsm", "seed=1,2", *TINY).returncode == 0
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    configs = [yaml.safe_load((tmp_path / job["run"] / "config.yaml").read_text()) for job in sweep.jobs(folder)]
    assert [(c["seed"], c["runs_alike"], c["compile"]) for c in configs] == [(1, 2, "off"), (2, 2, "off")]
