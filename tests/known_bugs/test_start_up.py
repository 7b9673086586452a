"""Kind: a signal comes before a command is at its work, while it imports, reads its settings or makes its directory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ebm_lab
from ebm_lab.cli import main as command_line
from ebm_lab.cli.commands import command
from ebm_lab.core.errors import Terminated
from ebm_lab.runs.run_directory import RunDir
from tests.exhaustive import cases

ROOT = Path(ebm_lab.__file__).resolve().parent.parent
SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "objective.sigma=0.1",
    "energy=mlp", "energy.hidden=[8]", "steps=4", "batch_size=32", "evaluation=[]", "logger=none",
]  # fmt: skip
ENDS = {signal.SIGINT: (130, "interrupted\n"), signal.SIGTERM: (75, "terminated\n")}
# A module that stands for a slow import: it says when the command is there, and is read before anything else. It sleeps
# in short pieces, because Python handles a signal that comes just before a sleep only when this sleep has ended.
SLOW = "import os, time\nopen(os.environ['REACHED'], 'w').close()\nfor _ in range(1200): time.sleep(0.05)\n"


def stopped(number, arguments, tmp_path, slow):
    """(exit status, stderr) of a command that gets a signal while it imports the module `slow`."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{slow}.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "REACHED": str(tmp_path / "reached")}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # else a test run in the background ignores it
    )
    until = time.monotonic() + 60
    while not (tmp_path / "reached").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    try:
        _, problem = process.communicate(timeout=120)
    finally:
        process.kill()  # else a command that goes on would also fail the tests after this one
        process.communicate()
    return process.returncode, problem


@pytest.mark.parametrize("number", ENDS, ids=lambda n: n.name)
@pytest.mark.parametrize("slow", cases(["hydra", "torch"], ["torch"]))
def test_training_that_is_stopped_while_it_starts_says_a_word(number, slow, tmp_path):
    assert stopped(number, [ROOT / "train.py", *SHORT], tmp_path, slow) == ENDS[number]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda n: n.name)
def test_a_plugin_s_import_is_stopped_with_a_word(number, tmp_path):
    arguments = [ROOT / "train.py", *SHORT, "plugins=[slow_one]"]
    assert stopped(number, arguments, tmp_path, "slow_one") == ENDS[number]
    assert not (tmp_path / "outputs").exists()


SCRIPTS = [
    ("sample", "pydantic"), ("evaluate", "omegaconf"), ("report", "yaml"), ("compare", "hydra"), ("features", "hydra"),
    ("sweep", "yaml"), ("benchmark", "pydantic"),
]  # fmt: skip


@pytest.mark.parametrize("number", cases(ENDS, [signal.SIGTERM], lambda n: n.name))
@pytest.mark.parametrize("script, slow", cases(SCRIPTS, SCRIPTS[:2]))
def test_a_script_that_is_stopped_while_it_starts_says_a_word(number, script, slow, tmp_path):
    assert stopped(number, [ROOT / f"scripts/{script}.py", "run=nowhere"], tmp_path, slow) == ENDS[number]


@pytest.mark.slow
@pytest.mark.parametrize("number", cases(ENDS, [signal.SIGTERM], lambda n: n.name))
def test_a_sweep_that_is_stopped_as_a_job_starts_keeps_its_records(number, tmp_path):
    arguments = [ROOT / "train.py", *SHORT, "plugins=[slow_one]", "seed=1,2", "-m"]
    status, problem = stopped(number, arguments, tmp_path, "slow_one")
    assert (status, problem) == (75, "")  # a sweep whose jobs were stopped and did not fail
    jobs = [json.loads(f.read_text()) for f in sorted((tmp_path / "outputs" / "sweeps").glob("*/jobs/*.json"))]
    assert [job["status"] for job in jobs] == ["not started", "not started"]
    assert {job["exit"] for job in jobs} == {ENDS[number][0]}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_run_that_is_stopped_before_it_began_leaves_no_directory(stop, tmp_path, monkeypatch):
    def interrupt(*args):
        raise stop

    for place in ("introduce", "describe", "Console", "Files"):
        with monkeypatch.context() as patch, pytest.raises(stop):
            patch.setattr(f"ebm_lab.runs.train.{place}", interrupt)
            ebm_lab.train([*SHORT, f"output_dir={tmp_path}"], quiet=True)
        assert not list((tmp_path / "runs").iterdir()), place
    with monkeypatch.context() as patch, pytest.raises(stop):
        patch.setattr(RunDir, "write_config", interrupt)
        ebm_lab.train([*SHORT, f"output_dir={tmp_path}"], quiet=True)
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_that_began_keeps_its_directory(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebm_lab.training.trainer.Trainer.fit", interrupt)
    result = ebm_lab.train([*SHORT, f"output_dir={tmp_path}"], quiet=True)
    assert (result.status, result.summary["ended_by"], result.exit_status) == ("interrupted", "SIGINT", 130)
    assert result.path.is_dir()


def test_a_resumed_run_that_is_stopped_as_it_starts_stays_whole(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    run = ebm_lab.train([*SHORT, f"output_dir={tmp_path}"], quiet=True).path
    before = {f: f.read_bytes() for f in run.rglob("*.pt")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ebm_lab.runs.train.introduce", interrupt)
        ebm_lab.train([f"resume={run}", "steps=8"], quiet=True)
    assert {f: f.read_bytes() for f in run.rglob("*.pt")} == before
    assert ebm_lab.train([f"resume={run}", "steps=8"], quiet=True).status == "finished"


def test_sigterm_after_training_ends_with_its_own_status(tmp_path, monkeypatch):
    def terminate(self, split):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("ebm_lab.training.trainer.Trainer.evaluate", terminate)
    monkeypatch.setattr(sys, "argv", ["train.py", *SHORT, f"output_dir={tmp_path}"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code == 75
    assert json.loads(next(tmp_path.glob("runs/*/summary.json")).read_text())["status"] == "interrupted"


def test_the_handler_of_sigterm_is_put_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    for end in (KeyboardInterrupt, Terminated, ebm_lab.UserError("x=1: no")):
        with pytest.raises(SystemExit), command():
            raise end
    with command():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "interrupted\nterminated\nerror: x=1: no\n"


def test_a_python_without_the_packages_is_told_what_to_do(capsys):
    with pytest.raises(SystemExit) as end, command():
        raise ModuleNotFoundError("No module named 'hydra'", name="hydra")
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1
    assert f"hydra is not installed for {sys.executable}" in told and "make install" in told
    with pytest.raises(ModuleNotFoundError), command():
        raise ModuleNotFoundError("No module named 'mine'", name="mine")
