"""A run's end was told wrongly: each way in which one ends has its status, its `ended_by` and its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ebm_lab
from ebm_lab.core.errors import Diverged
from ebm_lab.training.evaluations import Evaluations
from ebm_lab.training.guard import Trouble
from ebm_lab.training.trainer import Trainer
from tests.exhaustive import cases, exhaustive
from tests.runs.test_resume import QUICK, lines, same, state
from tests.training.test_distributed import port

ROOT = Path(__file__).resolve().parents[2]
RUN = [*QUICK, "objective=dsm", "objective.sigma=0.1", "sampler=none", "steps=12"]
RUN += ["evaluation=[likelihood]", "evaluation.likelihood.cells=20"]


def train(tmp_path, *more):
    return ebm_lab.train([*RUN, f"output_dir={tmp_path}", *more])


def kept(path):
    return json.loads((path / "summary.json").read_text())


def at(monkeypatch, name, act, when=lambda *_: True):
    """Has `act` happen before the method `name` of the trainer or of its evaluations."""
    owner = Evaluations if name == "reports" else Trainer
    method = getattr(owner, name)

    def acting(self, *arguments, **named):
        if when(*arguments):
            act()
        return method(self, *arguments, **named)

    monkeypatch.setattr(owner, name, acting)


def fail(error):
    def act():
        raise error

    return act


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_a_run_that_came_to_its_end(tmp_path):
    done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("finished", "done", 0)


def test_a_run_that_came_to_its_time(tmp_path):
    done = train(tmp_path, "max_seconds=1e-9")
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("finished", "max_seconds", 0)
    assert done.summary["step"] == 1


def test_a_run_that_diverged_in_its_last_weighing(tmp_path, monkeypatch, capsys):
    from ebm_lab.training.guard import Guard

    monkeypatch.setattr(Guard, "check_final", lambda *_: [Trouble(seen="gap 99 nats", kind="gap")])
    done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("diverged", "diverged", 3)
    assert kept(done.path)["ended_by"] == "diverged" and "gap 99 nats" in done.summary["message"]
    assert "nll_gap" in done.summary, "what was weighed is kept"
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ended_by", "diverged"] in told and ["ended_by", "done"] not in told


def test_a_run_that_diverged_in_the_middle(tmp_path, monkeypatch):
    at(monkeypatch, "_train_step", fail(Diverged("step 5: nan")), lambda step: step == 5)
    done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("diverged", "diverged", 3)


@pytest.mark.parametrize("method, when", [("_train_step", lambda step: step == 5), ("evaluate", lambda split: True)])
def test_a_run_that_failed(method, when, tmp_path, monkeypatch):
    at(monkeypatch, method, fail(RuntimeError("broken")), when)
    with pytest.raises(RuntimeError, match="broken"):
        train(tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    found = kept(path)
    assert (found["status"], found["ended_by"]) == ("failed", "failed") and "broken" in found["message"]


def test_a_run_whose_last_checkpoint_is_on_no_disk(tmp_path, monkeypatch):
    save = Trainer.save

    def unsaved(self, **named):
        save(self, **named)
        self.unsaved = "No space left on device"

    monkeypatch.setattr(Trainer, "save", unsaved)
    done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("failed", "failed", 1)


SIGNALS = [("SIGINT", 130), ("SIGTERM", 75), ("SIGHUP", 75)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return train(tmp_path_factory.mktemp("straight"))


@pytest.mark.slow
@pytest.mark.parametrize("name, status", cases(SIGNALS, [("SIGTERM", 75)]))
@pytest.mark.parametrize("method", ["_train_step", "save", "evaluate", "reports"])
def test_a_signal_at_any_moment_loses_nothing(method, name, status, straight, tmp_path, monkeypatch, capsys):
    """In a step, in the writing of a checkpoint, at the beginning and in the middle of the last evaluation."""
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        whens = {"_train_step": lambda step: step == 5, "save": lambda *_: True}
        at(patch, method, send(getattr(signal, name)), whens.get(method, lambda *_: True))
        done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("interrupted", name, status)
    assert kept(done.path)["status"] == "interrupted"
    out = capsys.readouterr()
    assert "Traceback" not in out.out + out.err and f"resume={done.path}" in out.out
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    again = ebm_lab.train([f"resume={done.path}"], quiet=True)
    assert again.status == "finished" and again.summary["nll_gap"] == straight.summary["nll_gap"]
    same(state(straight.path), state(again.path))
    assert lines(straight.path) == lines(again.path)


@pytest.mark.slow
def test_a_second_sigint_ends_a_step_at_once(straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at(patch, "_train_step", lambda: [send(signal.SIGINT)() for _ in range(2)], lambda step: step == 6)
        done = train(tmp_path)
    assert (done.status, done.summary["ended_by"], done.exit_status) == ("interrupted", "SIGINT", 130)
    assert done.summary["step"] == 5
    again = ebm_lab.train([f"resume={done.path}"], quiet=True)
    same(state(straight.path), state(again.path))


@pytest.mark.slow
@pytest.mark.parametrize("number", cases([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGTERM]))
def test_a_signal_while_a_run_closes_changes_nothing(number, tmp_path, monkeypatch):
    """Its summary is written and its service takes the rest."""
    from ebm_lab.loggers.files import Files

    close = Files.close

    def closing(self, summary):
        for _ in range(2):
            os.kill(os.getpid(), number)
        close(self, summary)

    monkeypatch.setattr(Files, "close", closing)
    done = train(tmp_path)
    assert done.status == kept(done.path)["status"] == "finished"


def test_nohup_stays_nohup(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at(monkeypatch, "_train_step", send(signal.SIGHUP), lambda step: step == 5)
        assert train(tmp_path).status == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


def steps(folder):
    return sum(len(file.read_text().splitlines()) for file in folder.glob("runs/*/metrics.jsonl"))


def run_until(command, folder, number, until):
    """(exit status, stderr) of a command to which a signal is sent once its run has written `until` lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and steps(folder) < until and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    return process.communicate(timeout=120)[1], process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("name, status", cases(SIGNALS, [("SIGTERM", 75)]))
def test_the_command_line_ends_with_the_status_of_its_signal(name, status, tmp_path):
    command = [sys.executable, "train.py", *RUN, "steps=100000", f"output_dir={tmp_path}"]
    said, code = run_until(command, tmp_path, getattr(signal, name), 2)
    assert (code, said) == (status, "")
    (path,) = (tmp_path / "runs").iterdir()
    assert kept(path)["ended_by"] == name and state(path)["counters"]["step"] == kept(path)["step"]


@exhaustive
def test_torchrun_ends_with_1_and_its_run_is_interrupted_and_can_be_gone_on_with(tmp_path):
    """torchrun itself dies of the SIGTERM it was sent, whatever its processes end with; the run tells what happened."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port()}"]
    command += ["train.py", *RUN, "steps=100000", f"output_dir={tmp_path}", "resume=auto"]
    _, code = run_until(command, tmp_path, signal.SIGTERM, 2)
    assert code not in (0, 2, 3)
    (path,) = (tmp_path / "runs").iterdir()
    assert (kept(path)["status"], kept(path)["ended_by"]) == ("interrupted", "SIGTERM")
    reached = kept(path)["step"]
    run_until(command, tmp_path, signal.SIGTERM, steps(tmp_path) + 2)
    (path,) = (tmp_path / "runs").iterdir()
    assert kept(path)["step"] > reached
