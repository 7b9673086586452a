"""TensorBoard and CSV get what W&B gets, one at a time or several at once, and continue their logs."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.grammar import folded, rewritten
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.logger import loggers_of
from ebm_lab.core.registry import build
from ebm_lab.loggers.files import rows
from ebm_lab.runs.run_directory import RunDir

RUN = ["objective=dsm", "objective.sigma=0.1", "dataset=two_moons", "dataset.train=300", "dataset.held_out=100"]
RUN += ["steps=6", "log_every=2", "evaluation=[density,likelihood]", "evaluation.likelihood.cells=20"]
RUN += ["sampler=none", "eval_every=2", "threads=1", "checkpoint_every=2"]


def events(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def info(path: Path) -> RunInfo:
    return RunInfo("run", path, {"seed": 0}, print)


@pytest.mark.slow
def test_several_loggers_hold_what_the_run_directory_holds_and_a_resumed_run_continues_them(tmp_path):
    out = f"output_dir={tmp_path}"
    path = ebm_lab.train([*RUN, "steps=4", out, "logger=[tensorboard,csv]"], quiet=True).path
    ebm_lab.train([f"resume={path}", "steps=6"], quiet=True)
    lines = rows(path / "metrics.jsonl")
    known = {(row["step"], name): value for row in lines for name, value in row.items() if name != "step"}
    shown = events(path)
    logged = {(e.step, tag): e.value for tag in shown.Tags()["scalars"] for e in shown.Scalars(tag)}
    test = {(step, name): value for (step, name), value in logged.items() if name.startswith("test/")}
    summary = json.loads((path / "summary.json").read_text())
    assert test[6, "test/nll"] == pytest.approx(summary["nll"], rel=1e-6)
    logged = {k: v for k, v in logged.items() if k not in test}
    assert set(logged) ^ set(known) == set() and (2, "val/nll") in known and (6, "loss") in known
    assert all(logged[k] == pytest.approx(known[k], rel=1e-6) for k in known)
    cells = {(int(r["step"]), k): float(v) for r in table(path) for k, v in r.items() if v and k != "step"}
    assert cells == known
    pictures = {(tag, e.step) for tag in shown.Tags()["images"] for e in shown.Images(tag)}
    assert {f"{tag}_{step:07d}.png" for tag, step in pictures} == {file.name for file in (path / "images").iterdir()}


def test_a_single_logger_has_its_keys_in_logger_and_several_have_them_by_name():
    assert compose_config(["logger=wandb", "logger.project=mine"])["logger"]["project"] == "mine"
    assert compose_config(["logger=[wandb]", "logger.project=mine"])["logger"]["project"] == "mine"
    assert compose_config(["logger=[]"])["logger"] == {"name": "none"}
    several = compose_config(["logger.wandb.project=mine", "logger=[wandb, csv]"])["logger"]
    assert several["wandb"]["project"] == "mine" and several["csv"] == {"name": "csv"}
    assert list(loggers_of(several)) == ["wandb", "csv"] and loggers_of({"name": "csv"}) == {"csv": {"name": "csv"}}


def test_a_sweep_that_continues_names_its_loggers_as_they_were_typed():
    typed = ["seed=1", "logger=[wandb,csv]"]
    assert folded(rewritten(typed, lambda group: [])) == typed
    assert folded(["logger=csv", "seed=1"]) == ["logger=csv", "seed=1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("logger=[wandb,tensorbord]", r"no such option: tensorbord; allowed: .*; did you mean 'tensorboard'\?"),
        ("logger=[csv,csv]", "names csv twice"),
        ("logger.mode=offline logger=[csv,wandb]", r"write logger\.csv\.mode=offline or logger\.wandb\.mode=offline"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(given, said):
    with pytest.raises(UserError, match=said) as caught:
        compose_config(given.split())
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_setting_of_one_of_several_loggers_stops_the_run_before_it_begins(tmp_path):
    with pytest.raises(UserError, match=r"logger\.wandb\.init_timeout=0: should be greater than 0"):
        ebm_lab.train([*RUN, f"output_dir={tmp_path}", "logger=[csv,wandb]", "logger.wandb.init_timeout=0"], quiet=True)
    assert not list(tmp_path.glob("runs/*"))


def test_tensorboard_that_is_not_installed_is_said_in_one_line_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("ebm_lab.loggers.tensorboard.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"logger=tensorboard: not installed here: pip install 'ebm_lab\[tensorboard\]'"
    ):
        ebm_lab.train([*RUN, f"output_dir={tmp_path}", "logger=tensorboard"], quiet=True)
    assert not list(tmp_path.glob("runs/*"))


def test_tensorboard_forgets_what_a_rollback_or_a_kill_undid(tmp_path):
    first = build("logger", {"name": "tensorboard"}, info=info(tmp_path))
    for step in (1, 2, 3):
        first.scalars({"loss": float(step)}, step)
    first.scalars({"loss": 20.0}, 2)  # after a rollback
    first.scalars({"loss": 30.0}, 3)
    first.image("digits", torch.zeros(3, 4, 5, dtype=torch.uint8), 3)
    first.writer.flush()  # a killed process closes nothing
    second = build("logger", {"name": "tensorboard"}, info=info(tmp_path))
    second.scalars({"loss": 300.0}, 3)
    second.close({"nll": 1.5, "status": "finished"})
    shown = events(tmp_path)
    assert [(e.step, e.value) for e in shown.Scalars("loss")] == [(1, 1.0), (2, 20.0), (3, 300.0)]
    assert [e.value for e in shown.Scalars("test/nll")] == [1.5] and "test/status" not in shown.Tags()["scalars"]


def test_csv_has_a_column_for_each_metric_and_forgets_what_was_undone(tmp_path):
    first = build("logger", {"name": "csv"}, info=info(tmp_path))
    first.scalars({"loss": 1.0}, 1)
    first.scalars({"loss": 2.0}, 2)
    first.scalars({"val/nll": 9.0}, 2)  # the same step: the same row
    first.scalars({"loss": 3.0}, 3)
    assert table(tmp_path)[1] == {"step": "2", "loss": "2.0", "val/nll": "9.0"}
    assert table(tmp_path)[2] == {"step": "3", "loss": "3.0", "val/nll": ""}
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,5")  # a kill in the middle of a line
    second = build("logger", {"name": "csv"}, info=info(tmp_path))
    second.scalars({"loss": 30.0}, 3)
    second.scalars({"loss": 40.0}, 4)
    assert [(r["step"], r["loss"]) for r in table(tmp_path)] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "30.0"),
        ("4", "40.0"),
    ]


def test_a_run_of_someone_else_with_several_loggers_writes_only_within_its_directory(tmp_path):
    run = RunDir.create(tmp_path / "outputs", "x")
    config = compose_config([*RUN, "logger=[wandb,csv]", f"output_dir={tmp_path / 'outputs'}"])
    config["logger"]["wandb"]["directory"] = str(tmp_path / "elsewhere")
    del config["logger"]["wandb"]["finish_timeout"]  # a run of before that setting
    run.config_file.write_text(yaml.safe_dump(config))
    read = run.read_config()["logger"]
    run.release()
    assert read["wandb"]["directory"] == str(tmp_path / "outputs") and read["wandb"]["finish_timeout"] == 5
    assert read["csv"] == {"name": "csv"}
