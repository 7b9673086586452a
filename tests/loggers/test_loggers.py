"""Weights & Biases can neither prompt, nor hang, nor end a run, and shows what a researcher looks for."""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.registry import build
from tests import commands
from tests.exhaustive import cases
from tests.wandb_server import Service

ROOT = Path(__file__).resolve().parents[2]
RUN = ["objective=dsm", "objective.sigma=0.1", "dataset=two_moons", "dataset.train=300", "dataset.held_out=100"]
RUN += ["steps=6", "log_every=2", "evaluation=[density]", "sampler=none", "eval_every=4", "threads=1"]
LATE = 15.0
KEY = {"WANDB_API_KEY": "0" * 40}


def train(cwd, *more, run=RUN, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"HOME": str(cwd)} | environment
    return commands.run("train.py", *run, *more, cwd=cwd, env=env, timeout=120)


def told(done):
    return [line for line in done.stdout.splitlines() if line.startswith("W&B")]


def metrics(cwd):
    (file,) = cwd.glob("outputs/runs/*/metrics.jsonl")
    clocks = ("cpu_seconds", "train_cpu_seconds", "steps_per_second")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


@pytest.mark.slow
def test_without_a_key_it_logs_offline_and_says_how_to_view_and_sync(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = told(done)
    assert "wandb leet outputs/wandb" in line and "wandb sync outputs/wandb/offline-run-" in line
    (offline,) = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb")) and list(offline.rglob("density*.png"))


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The same run with W&B offline: its lines of metrics, and the seconds that its process took."""
    took = []
    for _ in range(2):
        cwd, began = tmp_path_factory.mktemp("offline"), time.monotonic()
        done = train(cwd, "evaluation=[]")
        assert done.returncode == 0, done.stderr
        took.append(time.monotonic() - began)
    return metrics(cwd), min(took)


def seconds_late(began, usual):
    """How much later than usual. What else the machine does meanwhile may make a process up to three times as slow:
    without their limits, W&B's waits are endless, or 30 s and more."""
    late = time.monotonic() - began - usual
    print(f"{late:.1f} s late, usually {usual:.1f} s")
    return late - 2 * usual


@pytest.mark.slow
@pytest.mark.parametrize("fault", cases(["no network", "401", "silent"], ["silent"]))
def test_a_service_that_never_opens_the_run_costs_seconds_and_the_run_is_logged_offline(fault, offline, tmp_path):
    """A closed port, a refused key, a socket that never answers."""
    with Service("ok" if fault == "no network" else fault) as service:
        url = "http://127.0.0.1:9" if fault == "no network" else service.url
        began = time.monotonic()
        done = train(tmp_path, "evaluation=[]", **KEY, WANDB_BASE_URL=url)
        late = seconds_late(began, offline[1])
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert metrics(tmp_path) == offline[0] and late < LATE
    first, second = told(done)
    assert "the service does not take the run" in first and "W&B: offline" in second
    assert ("401" in first) == (fault == "401"), first
    assert list((tmp_path / "outputs" / "wandb").glob("offline-run-*"))


@pytest.mark.slow
@pytest.mark.parametrize("then", cases(["slow", "gone"], ["gone"]))
def test_a_service_lost_in_mid_run_costs_seconds_and_the_rest_waits_on_the_disk(then, offline, tmp_path):
    """The run was opened; from then on every answer takes 20 s, or every connection ends."""
    with Service("ok", then, delay=20.0) as service:
        began = time.monotonic()
        done = train(tmp_path, "evaluation=[]", **KEY, WANDB_BASE_URL=service.url)
        late = seconds_late(began, offline[1])
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "UpsertBucket" in service.asked and service.history == []
    assert metrics(tmp_path) == offline[0] and late < LATE
    (kept,) = (tmp_path / "outputs" / "wandb").glob("run-*")
    assert list(kept.glob("*.wandb"))
    (line,) = told(done)
    assert "did not take everything within 5 s" in line and line.endswith(f"wandb sync outputs/wandb/{kept.name}")


@pytest.mark.slow
def test_a_service_in_order_gets_every_line(offline, tmp_path):
    with Service("ok") as service:
        done = train(tmp_path, "evaluation=[]", **KEY, WANDB_BASE_URL=service.url)
    assert done.returncode == 0 and told(done) == [] and metrics(tmp_path) == offline[0], done.stdout + done.stderr
    rows = [json.loads(line) for line in service.history]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]


class FakeRun:
    """Records what a W&B run is asked."""

    id = "run"

    def __init__(self, settings):
        self.settings = SimpleNamespace(sync_dir="outputs/wandb/run-1", **vars(settings))
        self.summary, self.step, self.logged, self.defined, self.kept = {}, 0, [], {}, []

    def log(self, values, step):
        assert step >= self.step, "W&B drops what goes back"
        self.step = step
        self.logged.append((step, values))

    def define_metric(self, name, **what):
        self.defined[name] = what

    def log_artifact(self, artifact):
        self.kept.append(artifact)

    def finish(self, exit_code):
        self.exit_code = exit_code
        if self.settings.late:
            raise TimeoutError("Timed out finishing run.")


@pytest.fixture
def service(monkeypatch):
    """A module in the place of `wandb`; `failing` holds the modes whose `init` fails, `late` makes `finish` run out of
    time."""
    wandb = SimpleNamespace(
        key=True, failing=set(), late=False, inits=[], runs=[], Image=lambda picture: ("picture", picture.shape)
    )

    def init(**asked):
        wandb.inits.append(asked)
        if asked["mode"] in wandb.failing:
            raise RuntimeError("returned error 401: user is not logged in\nmore")
        asked["settings"].late = wandb.late
        wandb.runs.append(FakeRun(asked["settings"]))
        return wandb.runs[-1]

    class Artifact:
        def __init__(self, name, type):
            self.name, self.type, self.files = name, type, []

        def add_file(self, path):
            self.files.append(Path(path).name)

    wandb.init, wandb.Artifact, wandb.Settings = init, Artifact, SimpleNamespace
    wandb.login = lambda prompt, verify: wandb.key
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


def logger(tmp_path, say=print, **changes):
    config = compose_config(["dataset=two_moons", "logger.tags=[a,b]", "logger.group=g", f"output_dir={tmp_path}"])
    values = {**config["logger"], **changes}
    return build("logger", values, info=RunInfo("2026.x", tmp_path, {**config, "logger": values}, say)), config


def test_the_dashboard_gets_what_a_researcher_looks_for(service, tmp_path):
    """Config, tags, group, job type, code version; the training step as the axis of numbers and pictures alike; the
    best value of each metric that has a good direction; the final numbers; checkpoints only if asked."""
    facts = {"git_commit": "abc+", "versions": {"torch": "2"}, "command": "train.py", "host": "h", "parameters": 3}
    (tmp_path / "summary.json").write_text(json.dumps({"status": "running", **facts}))
    log, config = logger(tmp_path)
    log.scalars({"loss": 1.0, "acceptance": 0.6}, 50)
    for name in ("samples", "density", "histograms", "chains"):
        log.image(name, torch.zeros(3, 8, 6, dtype=torch.uint8), 100)
    log.scalars({"loss": 0.5, "val/nll_gap": 0.2}, 100)
    log.close({"status": "finished", "nll_gap": 0.1, "step": 100, "versions": {}})
    ((asked,), (run,)) = service.inits, service.runs
    assert asked["config"]["energy"] == config["energy"] and asked["config"]["seed"] == 0
    assert asked["config"]["facts"] == {"run": str(tmp_path), **facts}
    assert (asked["tags"], asked["group"], asked["job_type"], asked["mode"]) == (["a", "b"], "g", "train", "online")
    assert run.defined["*"] == {"step_metric": "step"} and run.defined["step"] == {"hidden": True}
    assert run.defined["val/nll_gap"]["summary"] == "min,last"
    assert run.defined["val/classes_found"]["summary"] == "max,last"
    assert all(values["step"] == step for step, values in run.logged)
    pictures = {name: (step, v[name]) for step, v in run.logged for name in v if isinstance(v[name], tuple)}
    assert pictures == {n: (100, ("picture", (8, 6, 3))) for n in ("samples", "density", "histograms", "chains")}
    assert run.summary == {"status": "finished", "nll_gap": 0.1, "step": 100}
    assert run.exit_code == 0 and run.kept == []


def test_steps_that_a_rollback_takes_again_come_behind_those_before(service, tmp_path):
    log, _ = logger(tmp_path)
    for step in (10, 20, 30, 20, 30, 40):
        log.scalars({"loss": 1.0}, step)
    assert [(tick, v["step"]) for tick, v in service.runs[0].logged] == [
        (10, 10), (20, 20), (30, 30), (31, 20), (41, 30), (51, 40)
    ]  # fmt: skip


@pytest.mark.parametrize("status, code", [("finished", 0), ("interrupted", 0), ("failed", 1), ("diverged", 1)])
def test_checkpoints_are_an_artifact_if_asked_and_the_run_ends_as_it_ended(status, code, service, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for file in ("checkpoints/last.pt", "checkpoints/best.pt", "config.yaml"):
        (tmp_path / file).write_text("")
    log, _ = logger(tmp_path, checkpoints=True)
    log.scalars({"loss": 1.0}, 1)
    log.close({"status": status})
    (artifact,) = service.runs[0].kept
    assert artifact.type == "model" and artifact.files == ["last.pt", "best.pt", "config.yaml"]
    assert service.runs[0].exit_code == code


def test_every_wait_has_an_end_and_a_fault_is_one_line(service, tmp_path):
    said = []
    service.failing, service.late = {"online"}, True
    log, _ = logger(tmp_path, said.append)
    log.scalars({"loss": 1.0}, 1)
    log.close({"status": "finished"})
    refused, offline = service.inits
    assert offline["mode"] == "offline" and offline["id"] != refused["id"]
    waits = refused["settings"]
    assert waits.init_timeout + waits.finish_timeout < LATE and waits.finish_timeout_raises
    assert "401: user is not logged in); logging offline instead" in said[0] and "W&B: offline" in said[1]
    assert "within 5 s; upload the rest later: wandb sync outputs/wandb/run-1" in said[2] and len(said) == 3
    service.failing = {"online", "offline"}
    said.clear()
    log, _ = logger(tmp_path, said.append)
    for step in (1, 2):
        log.scalars({"loss": 1.0}, step)
    log.close({"status": "finished"})
    assert len(said) == 2 and "the run goes on without it" in said[1]


def test_a_run_that_breaks_is_left_alone_and_ended(service, tmp_path):
    said = []
    log, _ = logger(tmp_path, said.append)
    log.scalars({"loss": 1.0}, 1)
    run = service.runs[0]
    run.log = lambda *_, **__: 1 / 0
    for step in (2, 3):
        log.scalars({"loss": 1.0}, step)
    log.close({"status": "finished"})
    assert said == ["W&B: ZeroDivisionError: division by zero; the run goes on without it"]
    assert run.exit_code == 1 and run.step == 1


@pytest.mark.slow
def test_the_sweep_for_wandb_asks_for_what_the_command_line_takes():
    """Every combination of the ends of its ranges composes; the metric is one that the run's evaluations report."""
    sweep = yaml.safe_load((ROOT / "configs" / "wandb_sweep.yaml").read_text())
    fixed = [part for part in sweep["command"] if not part.startswith("${")]
    assert sweep["program"] == "train.py" and sweep["command"][-1] == "${args_no_hyphens}"
    assert sweep["method"] in ("grid", "random", "bayes") and sweep["metric"] == {
        "name": "val/nll_gap",
        "goal": "minimize",
    }
    ends = [
        [f"{name}={value}" for value in what.get("values") or [what["min"], what["max"]]]
        for name, what in sweep["parameters"].items()
    ]
    for chosen in itertools.product(*ends):
        config = compose_config([*fixed, *chosen])
        assert "likelihood" in config["evaluation"] and config["dataset"]["name"] == "two_moons"
        for override in chosen:
            name, value = override.split("=")
            node = config
            for part in name.split("."):
                node = node[part]
            assert node == yaml.safe_load(value), override
