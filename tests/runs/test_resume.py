"""Stopping and resuming gives the bits of never stopping; a kill loses only what no checkpoint holds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import find
from ebm_lab.runs.run_directory import RunDir
from tests.exhaustive import cases

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["dataset=two_moons", "dataset.train=500", "dataset.held_out=200", "energy.hidden=[16]", "batch_size=64"]
QUICK = [*SMALL, "logger=none", "samples=20", "sample_steps=20", "log_every=3", "checkpoint_every=4", "eval_every=1000"]
QUICK += ["evaluation=[likelihood,flow_likelihood,samples,mmd]"]  # no pictures of densities, which take a second each
BITS = ["dataset=random_bits", "dataset.bits=6", "dataset.train=500", "energy.base=bernoulli"]


def options(kind, discrete=False):
    """The options of a group but none and same: those for discrete data alone, or the others."""
    files = sorted(p for p in (ROOT / "configs" / kind).glob("*.yaml") if p.stem not in ("none", "same"))
    names = {p.stem: yaml.safe_load(p.read_text()).get("name", "dsm") for p in files}  # dsm_cv builds on dsm's
    return [s for s, n in names.items() if discrete == any(need.feature == "discrete" for need in find(kind, n).needs)]


OBJECTIVES, SAMPLERS = options("objective"), options("sampler")
ON_BITS = {f"objective={o}": [*BITS, f"objective={o}"] for o in [*options("objective", True), "mpf", "ed", "nce"]}
ON_BITS |= {f"sampler={s}": [*BITS, "objective=pcd", f"sampler={s}"] for s in options("sampler", True)}
ON_BITS["sampler=block_gibbs"] = [*BITS[:-1], "objective=pcd", "energy=rbm", "sampler=block_gibbs"]
ON_BITS["unbiased_cd"] = [*BITS[:-1], "objective=unbiased_cd", "energy=rbm", "sampler=block_gibbs"]
KEEPING = [s for s in SAMPLERS if "stationary" in find("sampler", s).offers]
CHOICES = [
    *([f"objective={o}"] for o in OBJECTIVES),
    *([f"objective={'pcd' if s in KEEPING else 'multi_dsm'}", f"sampler={s}"] for s in SAMPLERS),
    ["objective=pcd", "sampler=mala", "sampler.mass=diagonal", "sampler.warmup=120"],  # ends between the two halves
    ["objective=cd", "objective.neglected_term=0.1", "objective.neglected_steps=2", "sampler=underdamped"],
    ["objective=pcd", "energy=labelled_mlp", "objective.conditional=true", "dataset.labels=0.5"],
    ["objective=jem", "objective.generative=nce", "dataset.labels_per_class=10"],
    ["objective=jem", "objective.generative=vera", "energy.condition=embedding"],
    *ON_BITS.values(),
]
CLOCKS = ("cpu_seconds", "train_cpu_seconds", "steps_per_second")


def quick(*more):
    """QUICK with these overrides in place of its own."""
    chosen = {m.partition("=")[0] for m in more} | ({"energy.hidden"} if "energy=rbm" in more else set())
    flow = ["objective.fit_steps=20"] if "objective=fce" in more else []
    return [*(q for q in QUICK if q.partition("=")[0] not in chosen), *flow, *more]


def run(tmp_path, name, *more):
    return ebm_lab.train(quick(f"output_dir={tmp_path / name}", *more), quiet=True)


def state(path):
    return torch.load(path / "checkpoints" / "last.pt", weights_only=True)


def same(a, b, where=""):
    """Equal bit for bit, whatever the nesting."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in ("config", "seconds") and not str(key).endswith("_seconds"):
                same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def lines(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def stop_at(monkeypatch, step):
    """Have the next run stop after `step`, as a signal would."""
    from ebm_lab.training.trainer import Trainer

    train_step = Trainer._train_step

    def stopping(self, number):
        train_step(self, number)
        if number == step:
            self.stop = "SIGTERM"

    monkeypatch.setattr(Trainer, "_train_step", stopping)


REPRESENTATIVE = (
    ["objective=dsm"],
    ["objective=pcd"],
    ["objective=multi_dsm"],
    ["objective=coopnets"],
    ["objective=pcd", "sampler=mala", "sampler.mass=diagonal", "sampler.warmup=120"],
    ["objective=pcd", "energy=labelled_mlp", "objective.conditional=true", "dataset.labels=0.5"],
    ON_BITS["sampler=gibbs"],
)
"""No state, chains in a buffer, levels, two players with optimisers, what a sampler adapts, labels, and bits."""


@pytest.mark.parametrize("choice", cases(CHOICES, REPRESENTATIVE, " ".join, slow=REPRESENTATIVE[3:]))
def test_stop_at_9_resume_to_20_equals_20_straight(choice, tmp_path, monkeypatch):
    straight = run(tmp_path, "a", *choice, "steps=20")
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        stopped = run(tmp_path, "b", *choice, "steps=20")
    assert stopped.status == "interrupted" and stopped.summary["step"] == 9
    resumed = ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    assert resumed.path == stopped.path and resumed.status == "finished"
    same(state(straight.path), state(resumed.path))
    assert lines(straight.path) == lines(resumed.path)
    assert [row["step"] for row in lines(straight.path)] == [3, 6, 9, 12, 15, 18, 20]
    for key in ("nll_gap", "grad_evals", "e_samples"):
        assert straight.summary[key] == resumed.summary[key]


@pytest.mark.parametrize("objective", cases(OBJECTIVES, ["pcd"]))
def test_evaluation_frequency_changes_nothing(objective, tmp_path):
    often = run(tmp_path, "a", f"objective={objective}", "steps=12", "eval_every=2")
    never = run(tmp_path, "b", f"objective={objective}", "steps=12")
    a, b = state(often.path), state(never.path)
    for content in (a, b):
        content["counters"] = {k: v for k, v in content["counters"].items() if not k.startswith("best")}
    same(a, b)
    assert (often.path / "checkpoints" / "best.pt").is_file()


def test_what_a_killed_process_wrote_after_its_checkpoint_is_written_again(tmp_path, monkeypatch):
    straight = run(tmp_path, "a", "objective=dsm", "steps=20")
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        killed = run(tmp_path, "b", "objective=dsm", "steps=20")
    with open(killed.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 12, "lo')  # a later line, and one cut by the kill
    summary = json.loads((killed.path / "summary.json").read_text())
    (killed.path / "summary.json").write_text(json.dumps({**summary, "status": "running", "pid": 2**22 + 1}))
    resumed = ebm_lab.train([f"resume={killed.path}"], quiet=True)
    assert lines(straight.path) == lines(resumed.path)


@pytest.mark.slow
@pytest.mark.parametrize("objective", cases(["dsm", "pcd"], ["pcd"]))
def test_sigkill_loses_at_most_what_followed_the_last_checkpoint(objective, tmp_path):
    """A real process, killed at no chosen moment; resumed, it ends with the bits of an unbroken run."""
    more = [f"objective={objective}", "steps=400", "log_every=10", "checkpoint_every=20"]
    straight = run(tmp_path, "a", *more)
    command = [sys.executable, str(ROOT / "train.py"), *QUICK, *more, f"output_dir={tmp_path / 'b'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("b/runs/*/checkpoints/last.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = (tmp_path / "b" / "runs").iterdir()
    reached = state(path)["counters"]["step"]
    assert 20 <= reached < 400 and reached % 20 == 0
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"resume={path}"], capture_output=True, text=True, cwd=ROOT
    )
    assert resumed.returncode == 0, resumed.stderr
    same(state(straight.path), state(path))
    assert lines(straight.path) == lines(path)


def test_sigterm_checkpoints_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from ebm_lab.training.trainer import Trainer

    train_step = Trainer._train_step

    def kill_at_5(self, number):
        train_step(self, number)
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train_step", kill_at_5)
    result = ebm_lab.train([*QUICK, f"output_dir={tmp_path}", "objective=dsm", "steps=20"])
    assert result.status == "interrupted" and state(result.path)["counters"]["step"] in (5, 6)
    assert f"resume={result.path}" in capsys.readouterr().out


def test_resume_refuses_other_changes_and_finished_runs(tmp_path):
    done = run(tmp_path, "a", "objective=dsm", "steps=6")
    with pytest.raises(
        UserError, match=r"objective: can't be changed when a run is resumed; allowed beside resume: steps"
    ):
        ebm_lab.train([f"resume={done.path}", "objective=pcd"])
    with pytest.raises(UserError, match="already at step 6 of 6; give steps=<more>"):
        ebm_lab.train([f"resume={done.path}"])
    longer = ebm_lab.train([f"resume={done.path}", "steps=9"], quiet=True)
    assert longer.summary["step"] == 9 and longer.path == done.path
    assert yaml.safe_load((longer.path / "config.yaml").read_text())["steps"] == 9


def test_a_running_run_is_not_resumed_beside_itself(tmp_path):
    """A run is alive while a process holds its lock, whatever its summary says."""
    done = run(tmp_path, "a", "objective=dsm", "steps=6")
    summary = json.loads((done.path / "summary.json").read_text())
    (done.path / "summary.json").write_text(json.dumps({**summary, "status": "running", "pid": os.getpid()}))
    holder = RunDir(done.path)
    assert holder.hold() and RunDir(done.path).read_summary()["status"] == "running"
    with pytest.raises(UserError, match="still running, as process"):
        ebm_lab.train([f"resume={done.path}"])
    holder.release()
    assert RunDir(done.path).read_summary()["status"] == "interrupted"


def test_a_run_killed_in_its_last_evaluation_is_evaluated_on_resume(tmp_path):
    done = run(tmp_path, "a", "objective=dsm", "steps=6")
    summary = json.loads((done.path / "summary.json").read_text())
    (done.path / "summary.json").write_text(json.dumps({"status": "running", "request": summary["request"]}))
    again = ebm_lab.train([f"resume={done.path}"], quiet=True)
    assert again.status == "finished" and again.summary["nll_gap"] == summary["nll_gap"]


def test_resume_auto_continues_what_the_same_command_began(tmp_path, monkeypatch, capsys):
    """Begun, interrupted, continued, ended: one command, and one directory with an unbroken run's bits."""
    command = ["objective=dsm", "steps=20", "resume=auto"]
    straight = run(tmp_path, "a", *command)
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        first = run(tmp_path, "b", *command)
    assert first.exit_status == 75
    other = run(tmp_path, "b", "objective=dsm", "steps=6", "resume=auto")
    assert other.path != first.path
    second, third = run(tmp_path, "b", *command), run(tmp_path, "b", *command)
    assert first.path == second.path == third.path and second.exit_status == third.exit_status == 0
    assert "has ended; nothing is left to do" in capsys.readouterr().out
    same(state(straight.path), state(second.path))
    assert third.summary == second.summary
    for (name, p), q in zip(third.energy.state_dict().items(), second.energy.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def test_resume_auto_leaves_alone_what_another_process_runs(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        first = run(tmp_path, "a", "objective=dsm", "steps=4", "resume=auto")
    holder = RunDir(first.path)
    assert holder.hold()
    assert run(tmp_path, "a", "objective=dsm", "steps=4", "resume=auto").path != first.path
    holder.release()


def test_init_from_takes_the_averaged_weights_and_nothing_else(tmp_path):
    first = run(tmp_path, "a", "objective=dsm", "steps=30")
    second = run(tmp_path, "b", "objective=pcd", "steps=1", "optim.lr=1e-12", f"init_from={first.path}")
    assert second.path != first.path and second.summary["step"] == 1
    for name, value in first.energy.state_dict().items():
        torch.testing.assert_close(second.energy.state_dict()[name], value, atol=1e-6, rtol=0)
    with pytest.raises(
        UserError, match=r"init_from=.*: its energy does not fit: 'net.0.bias' is \(16,\) there and \(8,\) here"
    ):
        run(tmp_path, "c", "objective=dsm", "steps=1", "energy.hidden=[8]", f"init_from={first.path}")


def test_load_run_gives_averaged_or_raw_last_or_best(tmp_path):
    result = run(tmp_path, "a", "objective=dsm", "steps=12", "eval_every=4", "log_every=4")
    averaged, raw = ebm_lab.load_run(result.path), ebm_lab.load_run(result.path, ema=False)
    best = ebm_lab.load_run(result.path, which="best")
    x = result.dataset.test[:50]
    assert torch.equal(averaged.energy(x), result.energy(x))
    assert not torch.equal(averaged.energy(x), raw.energy(x))
    assert best.step == result.summary["best_step"]
    assert averaged.summary["status"] == "finished" and averaged.config["objective"]["sigma"] > 0


def test_a_foreign_or_damaged_checkpoint_is_one_line(tmp_path):
    result = run(tmp_path, "a", "objective=dsm", "steps=4")
    last = result.path / "checkpoints" / "last.pt"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        ebm_lab.load_run(result.path)
    torch.save({"format": 99}, last)
    with pytest.raises(UserError, match="checkpoint format 99, and this version reads format 1"):
        ebm_lab.load_run(result.path)

    class Payload:
        def __reduce__(self):
            return (os.system, ("echo this must never run",))

    torch.save({"format": 1, "objective": Payload()}, last)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        ebm_lab.load_run(result.path)
