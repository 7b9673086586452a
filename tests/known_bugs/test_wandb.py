"""What W&B was told or told us was lost: its variables, names that it refuses, the parts of a run, a refused key."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.loggers.wandb import refusal
from tests.exhaustive import cases, exhaustive
from tests.loggers.test_loggers import KEY, LATE, ROOT, logger, seconds_late, service, told, train  # noqa: F401 (fixtures)
from tests.wandb_server import Service


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


OFF = {"WANDB_MODE": ["disabled"], "WANDB_DISABLED": ["true", "1", "True", "yes", " on "]}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in OFF.items() for value in values])
def test_variables_that_turn_wandb_off_are_obeyed(name, value, service, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(name, value)
    log, _ = logger(tmp_path, pytest.fail)
    log.scalars({"loss": 1.0}, 1)
    log.close({"status": "finished"})
    assert service.inits == [] and os.listdir(tmp_path) == []


def test_the_setting_stands_above_the_variables(service, tmp_path, monkeypatch):  # noqa: F811
    log, _ = logger(tmp_path, mode="disabled")
    log.scalars({"loss": 1.0}, 1)
    assert service.inits == []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log, _ = logger(tmp_path, mode="offline")
    log.scalars({"loss": 1.0}, 1)
    assert [asked["mode"] for asked in service.inits] == ["offline"]


@pytest.mark.parametrize("value", ["false", "0", ""])
def test_a_variable_that_says_no_turns_nothing_off(value, service, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_DISABLED", value)
    log, _ = logger(tmp_path)
    log.scalars({"loss": 1.0}, 1)
    assert len(service.inits) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "off", cases([{"WANDB_MODE": "disabled"}, {"WANDB_DISABLED": "true"}], [{"WANDB_MODE": "disabled"}], ids=str)
)
def test_a_run_with_wandb_turned_off_neither_writes_nor_calls(off, tmp_path):
    with Service("ok") as there:
        done = train(tmp_path, "evaluation=[]", **KEY, **off, WANDB_BASE_URL=there.url)
    assert done.returncode == 0 and done.stderr == "" and told(done) == []
    assert there.asked == [] and not (tmp_path / "outputs" / "wandb").exists()


BAD = {
    "logger.tags=['']": r"logger\.tags: tag 1, '', has 0 characters; allowed: 1 to 64",
    f"logger.tags=[ok,{'x' * 65}]": r"logger\.tags: tag 2, 'x{65}', has 65 characters; allowed: 1 to 64",
    "logger.project=''": r"logger\.project=: has 0 characters; allowed: 1 to 128",
    f"logger.project={'x' * 129}": r"logger\.project=x{129}: has 129 characters; allowed: 1 to 128",
    "logger.group=[a]": r"logger\.group",
    "logger.tags=a": r"logger\.tags",
    "logger.mode=disable": r"logger\.mode=disable.*disabled",
} | {f"logger.project='a{c}b'": rf"logger\.project=a{re.escape(c)}b: contains {re.escape(c)} " for c in "/?%:#"}
BAD_VARIABLES = {
    "WANDB_MODE=offlin": "WANDB_MODE=offlin: not an option; allowed: .*offline.*did you mean 'offline'",
    "WANDB_TAGS=a,,b": "WANDB_TAGS: tag 2, '', has 0 characters",
    "WANDB_PROJECT=a/b": "logger.project=a/b: contains /",
}


@pytest.mark.parametrize("bad", [*BAD, *BAD_VARIABLES])
def test_what_wandb_refuses_is_one_line_before_training_without_importing_it(bad, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    overrides = ["objective=dsm", "dataset=two_moons", "energy.hidden=[8]", "steps=2", f"output_dir={tmp_path}"]
    if bad in BAD:
        overrides.append(bad)
    else:
        monkeypatch.setenv(*bad.split("=", 1))
    with pytest.raises(UserError, match=(BAD | BAD_VARIABLES)[bad]):
        ebm_lab.train(overrides, quiet=True)
    assert not (tmp_path / "runs").exists()


def test_the_longest_names_are_taken(service, tmp_path):  # noqa: F811
    log, _ = logger(tmp_path, tags=["x" * 64, "\u00e9"], project="p" * 128)
    log.scalars({"loss": 1.0}, 1)
    assert service.inits[0]["tags"] == ["x" * 64, "\u00e9"] and service.inits[0]["project"] == "p" * 128


def test_variables_stand_where_no_setting_is_given(service, tmp_path, monkeypatch):  # noqa: F811
    """Without a tag of its own the run asks W&B for none, and W&B reads WANDB_TAGS, as it does WANDB_ENTITY."""
    given = {"PROJECT": "mine", "RUN_GROUP": "band", "JOB_TYPE": "sweep", "NAME": "my run", "TAGS": "a,b"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    log, _ = logger(tmp_path, **compose_config([])["logger"])
    log.scalars({"loss": 1.0}, 1)
    (asked,) = service.inits
    assert [asked[k] for k in ("project", "group", "job_type", "name", "tags")] == [
        "mine", "band", "sweep", "my run", None
    ]  # fmt: skip
    own = compose_config(["logger.project=p", "logger.group=g", "logger.job_type=j"])["logger"]
    assert (own["project"], own["group"], own["job_type"]) == ("p", "g", "j")


def test_a_key_that_can_not_be_used_is_told(service, tmp_path):  # noqa: F811
    said = []
    service.login = lambda **_: 1 / 0
    log, _ = logger(tmp_path, said.append)
    log.scalars({"loss": 1.0}, 1)
    assert said[0] == "W&B: the key can't be used (ZeroDivisionError: division by zero)"
    assert said[1].startswith("W&B: offline") and len(said) == 2


def test_a_setting_that_wandb_refuses_is_named(service, tmp_path):  # noqa: F811
    class Settings(BaseModel):
        run_tags: int

    said = []
    service.Settings = lambda **_: Settings(run_tags="many")  # pyright: ignore[reportArgumentType]
    log, _ = logger(tmp_path, said.append, mode="offline")
    log.scalars({"loss": 1.0}, 1)
    (line,) = said
    assert "run_tags: Input should be a valid integer" in line and "goes on without it" in line


def test_steps_of_a_run_gone_on_with_offline_come_behind_those_sent_before(service, tmp_path):  # noqa: F811
    """The process was killed at step 30, and its last checkpoint is of step 20; W&B drops what goes back."""
    part = tmp_path / "wandb" / "offline-run-20260101_000000-2026-x"
    part.mkdir(parents=True)
    said = []
    for steps in ((10, 20, 30), (30, 40)):
        log, _ = logger(tmp_path, said.append, mode="offline", directory=str(tmp_path))
        log.scalars({"loss": 1.0}, steps[0])
        service.runs[-1].settings.sync_dir = str(part)
        for step in steps[1:]:
            log.scalars({"loss": 1.0}, step)
    assert [[tick for tick, _ in run.logged] for run in service.runs] == [[10, 20, 30], [31, 41]]
    assert all(asked["resume"] == "allow" for asked in service.inits)
    assert said[1].count("offline-run-20260101_000000-2026-x") == 1, "the hint names all parts"


@pytest.mark.slow
def test_an_offline_run_that_was_resumed_is_uploaded_whole(tmp_path):
    """The real wandb, and the line that the lab prints, pasted."""
    first = train(tmp_path, "evaluation=[]", "steps=4")
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    again = train(tmp_path, f"resume={run}", "steps=8", run=[])
    assert again.returncode == 0, again.stderr
    (line,) = told(again)
    command = line[line.index("wandb sync") :].split()
    assert len(command) == 4
    with Service("ok") as there:
        env = {**os.environ, **KEY, "WANDB_BASE_URL": there.url, "HOME": str(tmp_path)}
        tool = Path(sys.executable).with_name("wandb")
        done = subprocess.run([str(tool), *command[1:]], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in there.history]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]
    assert [row["_step"] for row in rows] == sorted(row["_step"] for row in rows)


@exhaustive
def test_a_key_refused_in_mid_run_is_told_at_its_end(tmp_path):
    with Service("ok", "401") as there:
        done = train(tmp_path, "evaluation=[]", **KEY, WANDB_BASE_URL=there.url)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (kept,) = (tmp_path / "outputs" / "wandb").glob("run-*")
    (line,) = told(done)
    assert "the service no longer takes the run (401 Unauthorized)" in line
    assert line.endswith(f"wandb sync outputs/wandb/{kept.name}")


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"level":"ERROR+4","msg":"filestream: fatal error: a: 403 Forbidden url=http://x: {}"}', "403 Forbidden"),
        ('{"level":"ERROR","msg":"runfiles: CreateRunFiles returned error: returned error 401"}', "returned error 401"),
        ('{"level":"ERROR","msg":"api: HTTP error"}', None),
        ('{"level":"INFO","msg":"filestream: sending request"}', None),
        ("no json", None),
        ("[1]", None),
    ],
)  # fmt: skip
def test_a_refusal_is_found_in_the_log_of_wandbs_own_process(line, reason, tmp_path):
    (tmp_path / "log").write_text(f"{line}\n")
    assert refusal(SimpleNamespace(settings=SimpleNamespace(log_internal=str(tmp_path / "log")))) == reason


def test_no_log_is_no_refusal(tmp_path):
    for settings in (SimpleNamespace(), SimpleNamespace(log_internal=None), SimpleNamespace(log_internal=tmp_path)):
        assert refusal(SimpleNamespace(settings=settings)) is None
