"""The divergence guard: what it takes for trouble, what it leaves alone, and that a rollback loses no bit."""

import gc
import math
import os
import random

import pytest
import torch
from torch import nn

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import Loss, Objective
from ebm_lab.core.registry import register
from ebm_lab.runs.advice import advice
from ebm_lab.runs.train import train
from ebm_lab.training import guard
from ebm_lab.training.guard import Guard
from tests.exhaustive import cases
from tests.helpers import Points
from tests.runs.test_resume import lines, same, state, stop_at

LIMITS = {"enabled": True, "rollbacks": 2, "growth": 10.0, "nats": 5.0, "chain_distance": 10.0, "acceptance": 0.01}
POINTS = Points(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))


def make(cold=False, **changes):
    return Guard(POINTS, cold, cold, **{**LIMITS, **changes})


def feed(watcher, windows):
    """(number of the first window in trouble, its troubles), or None."""
    for i, window in enumerate(windows):
        if troubles := watcher.check_window(window):
            return i, troubles
        watcher.record_window(window, 10 * (i + 1))
    return None


# --- judgement ---


def test_the_guard_names_what_is_not_finite():
    assert guard.complaint({"loss": 1.0, "gap": math.nan}) == "gap is nan: not a finite number"
    assert guard.complaint({"loss": 1.0}) is None
    assert guard.unfit([torch.ones(3), torch.tensor([1.0, math.inf])]) == "a parameter is nan or inf"
    assert guard.unfit([torch.ones(3)]) is None


def test_healthy_runs_are_left_alone():
    """Cold chains' first windows (as measured on digits), noisy losses, drifting energies, adapted MALA."""
    rng = random.Random(0)
    cold = [12.0, 11.8, -17.7, -15.1, -10.8, -3.4, -1.3, *(rng.gauss(0, 0.3) for _ in range(500))]
    runs = {
        "cold": [{"loss": g, "gap": g, "e_pos": -180.0 - i, "chain_distance": 1.5} for i, g in enumerate(cold)],
        "dsm": [{"loss": 1 + abs(rng.gauss(0, 1)) ** 2} for _ in range(2000)],
        "mala": [{"gap": rng.gauss(0, 3), "acceptance": 0.6 + rng.gauss(0, 0.05)} for _ in range(2000)],
        "linear drift": [{"gap": 0.5 * i, "loss": 0.5 * i} for i in range(2000)],
        "falling loss": [{"loss": 1 - 3.0 * i**1.5} for i in range(2000)],
        "adapting": [{"acceptance": 0.0}] * 2 + [{"acceptance": 0.6}] * 10,
        "nothing reported": [{}] * 10,
    }
    for name, windows in runs.items():
        assert feed(make(), windows) is None, name


@pytest.mark.parametrize("rate", [1.05, 1.5, 100.0])
@pytest.mark.parametrize("sign, name", [(1, "gap"), (-1, "gap"), (1, "loss")])
def test_whatever_grows_exponentially_is_caught(rate, sign, name):
    """Also slowly, and from a level that is high: the median over the run lags by half of it."""
    healthy = [{name: sign * 30.0}] * 20
    growing = [{name: sign * 30.0 * rate**i} for i in range(150)]
    caught = feed(make(), healthy + growing)
    assert caught is not None and caught[1][0].kind == name
    assert f"{name} exploded: it is " in caught[1][0].seen and "usual size " in caught[1][0].seen
    assert abs(growing[caught[0] - 20][name]) < 1e4 * rate


def test_limits_are_absolute_and_relative():
    """growth (nats + D) = 70 at D = 2 where the usual size is small; growth * usual where it is not."""
    assert feed(make(), [{"gap": 69.0}]) is None and feed(make(), [{"gap": -71.0}]) is not None
    usual = [{"gap": 40.0}] * 9
    assert feed(make(), [*usual, {"gap": 399.0}]) is None and feed(make(), [*usual, {"gap": 401.0}]) is not None
    assert feed(make(growth=None), [{"gap": 1e30, "loss": 1e30}]) is None


def test_chains_that_leave_and_acceptance_that_vanishes():
    index, (trouble,) = feed(make(), [{"chain_distance": 1.2}, {"chain_distance": 12.0}])
    assert index == 1 and trouble.kind == "chains" and "chain_distance is 12 (about 1 is usual" in trouble.seen
    index, (trouble,) = feed(make(), [{"acceptance": 0.9}, *[{"acceptance": 0.001}] * 5])
    assert index == 3 and trouble.kind == "acceptance" and "acceptance vanished: it is 0.001" in trouble.seen
    frozen = [{"acceptance": 0.0, "chain_distance": 1e6}] * 9
    assert feed(make(cold=True, chain_distance=None), frozen) is None
    assert feed(make(enabled=False), frozen) is None
    assert feed(make(acceptance=None, chain_distance=None), frozen) is None


def test_a_model_worse_than_noise_is_lost():
    """N(mean, scale^2) on its own fit has nll log 2 pi + 2 log scale + 1 at D = 2; 7 nats more is the limit."""
    known = math.log(2 * math.pi) + 2 * math.log(POINTS.scale) + 0.5 * 2 * 499 / 500
    assert guard.noise_nll(POINTS) == pytest.approx(known, abs=1e-4)
    assert make().check_final({"nll": known + 6.99}) == [] and make().check_final({"loss": 1e9}) == []
    (trouble,) = make().check_final({"nll": known + 7.01})
    assert trouble.kind == "likelihood" and "the model lost the data: nll is " in trouble.seen
    assert make().check_final({"nll": math.nan}) and make().check_final({"nll": math.inf})
    assert make(cold=True).check_final({"nll": 1e9}) == [] and make(enabled=False).check_final({"nll": 1e9}) == []


def test_starting_noise_far_from_the_data_moves_the_limit():
    """Pictures of little contrast in [-1, 1]: uniform noise has distance 0.577 / 0.01 from their mean."""
    grey = 0.01 * torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    data = Points(grey, bounds=(-1.0, 1.0))
    assert guard.noise_distance(data) == pytest.approx(3**-0.5 / data.scale, rel=0.03)
    assert feed(Guard(data, False, False, **LIMITS), [{"chain_distance": 60.0}]) is None
    assert guard.noise_distance(POINTS) == pytest.approx(1.0, abs=0.15)  # 512 numbers: 5 standard errors


def test_a_checkpoint_is_proven_by_a_whole_calm_window_after_it():
    watcher = make()
    watcher.record_window({"gap": 1.0}, 10)
    watcher.candidate = 15
    assert not watcher.record_window({"gap": 1.0}, 20), "this window began before the checkpoint"
    assert not watcher.record_window({"gap": 40.0}, 30), "no trouble, but no calm either"
    assert watcher.record_window({"gap": 1.0}, 40) and watcher.candidate is None
    assert not watcher.record_window({"gap": 1.0}, 50), "nothing waits"


def test_the_record_is_bounded_and_travels():
    watcher, other = make(), make()
    for i in range(3000):
        watcher.record_window({"gap": float(i), "loss": 1.0}, i)
    assert len(watcher.sizes["gap"]) <= guard.KEPT + 1
    assert watcher.usual("gap") == pytest.approx(1500, rel=0.05)
    other.load_state_dict(watcher.state_dict())
    assert other.state_dict() == watcher.state_dict()


def test_advice_names_only_settings_that_the_run_has():
    config = compose_config(["dataset=two_moons", "energy.confine=null", "objective=pcd", "sampler=langevin"])
    chains = advice([guard.Trouble("", "chains")], config, chains=True)
    assert "energy.confine=2" in chains and "sampler.step_size" in chains and "sampler=mala" in chains
    loss = advice([guard.Trouble("", "finite")], compose_config(["objective=dsm", "dataset=two_moons"]), chains=False)
    assert "optim.lr" in loss and "confine" not in loss and "sampler" not in loss


# --- runs ---


@register("objective", "stiff")
class Stiff(Objective):
    """Minimises k theta^2 / 2 (and a little noise) with k = 1 up to `begins` steps, then `stiffness`: under gradient
    descent theta is multiplied by 1 - lr k, which explodes exactly where lr k > 2. The gap is theta's energy."""

    def __init__(self, energy, generator, *, begins: int, stiffness: float, nan_at: int) -> None:
        super().__init__(energy)
        self.generator, self.begins, self.stiffness, self.nan_at = generator, begins, stiffness, nan_at
        self.theta = nn.Parameter(torch.ones(()))
        self.register_buffer("t", torch.zeros(()))

    def forward(self, batch):
        self.t += 1
        k = 1.0 if self.t <= self.begins else self.stiffness
        z = torch.empty(()).normal_(generator=self.generator)
        value = k * self.theta**2 / 2 + 0.01 * z * self.theta
        if self.t == self.nan_at:
            value = value * math.nan
        return Loss(value, {"loss": value.detach(), "gap": (k * self.theta**2 / 2).detach()}, grad_evals=1)


def stiff(tmp_path, name, *more, begins=22, stiffness=30.0, nan_at=0):
    """SGD at 0.1: with k = 30 the factor is -2, after one halving -0.5; with k = 300 two halvings do not help."""
    base = ["objective=dsm", "dataset=two_moons", "optim=sgd", "dataset.train=300", "dataset.held_out=100", "steps=60"]
    base += ["energy.hidden=[8]", "evaluation=[]", "logger=none", "log_every=5", "checkpoint_every=5", "optim.lr=0.1"]
    base += ["optim.momentum=0", "optim.clip=null", "optim.schedule=constant", "optim.warmup=0", "batch_size=8"]
    config = compose_config([*base, f"output_dir={tmp_path / name}", *more])
    config["objective"] = {"name": "stiff", "begins": begins, "stiffness": stiffness, "nan_at": nan_at}
    return config


def record(path):
    rows = lines(path)
    return [r for r in rows if "event" not in r], [r for r in rows if "event" in r]


def finite(path):
    content = torch.load(path, weights_only=True)
    tensors = [*(v for v in content["objective"].values() if isinstance(v, torch.Tensor)), *content["ema"]["average"]]
    return all(bool(t.isfinite().all()) for t in tensors)


def test_an_explosion_that_stays_finite_is_rolled_back_and_recovers(tmp_path, capsys):
    result = train(stiff(tmp_path, "a"))
    rows, events = record(result.path)
    assert result.status == "finished" and result.summary["rollbacks"] == len(events) == 1
    assert [r["step"] for r in rows] == list(range(5, 61, 5))
    event = events[0]
    assert event["event"] == "rollback" and event["step"] in (10, 15, 20) and event["lr"] == 0.05
    assert event["from"] in (25, 30) and "gap exploded: it is " in event["seen"]
    assert max(r["gap"] for r in rows) < 70 and rows[-1]["gap"] < 0.1
    assert rows[-1]["lr"] == 0.05 and rows[0]["lr"] == 0.1
    assert f"rolled back to step {event['step']}, learning rate halved to 0.05" in capsys.readouterr().out
    assert ebm_lab.load_run(result.path).content["optimiser/energy"]["base"] == 0.05


def test_a_run_that_never_recovers_ends_diverged_with_its_good_checkpoint(tmp_path, capsys):
    result = train(stiff(tmp_path, "a", stiffness=300.0))
    told = capsys.readouterr().out
    assert result.status == "diverged" and result.summary["rollbacks"] == 2
    message = result.summary["message"]
    assert "gap exploded" in message and "after 2 rollback(s)" in message and "Try a smaller optim.lr" in message
    assert "diverged: step" in told
    assert all(finite(p) for p in result.path.rglob("*.pt"))
    last = state(result.path)
    assert last["counters"]["step"] == result.summary["step"] <= 22 and abs(float(last["objective"]["theta"])) <= 1.0
    assert len(record(result.path)[1]) == 2
    loaded = ebm_lab.load_run(result.path)
    assert loaded.step == last["counters"]["step"]
    for key, value in result.energy.state_dict().items():
        assert torch.equal(value, loaded.energy.state_dict()[key])


def test_trouble_before_any_proof_goes_back_to_the_start(tmp_path):
    result = train(stiff(tmp_path, "a", begins=0), quiet=True)
    rows, events = record(result.path)
    assert result.status == "finished" and [e["step"] for e in events] == [0]
    assert [r["step"] for r in rows] == list(range(5, 61, 5))


def test_a_nan_is_rolled_back_and_never_mended(tmp_path):
    """A nan that comes again at the same step ends the run; no checkpoint and no metric line ever holds it."""
    result = train(stiff(tmp_path, "a", nan_at=33, stiffness=1.0), quiet=True)
    assert result.status == "diverged" and result.summary["rollbacks"] == 2
    assert "loss is nan" in result.summary["message"]
    assert all(finite(p) for p in result.path.rglob("*.pt"))
    rows, events = record(result.path)
    assert all(math.isfinite(v) for r in rows for v in r.values()) and [e["step"] for e in events] == [25, 25]


def test_switched_off_only_what_is_not_finite_ends_a_run(tmp_path):
    result = train(stiff(tmp_path, "a", "guard.enabled=false", stiffness=24.0), quiet=True)
    assert result.status == "finished" and record(result.path)[0][-1]["gap"] > 1e6
    result = train(stiff(tmp_path, "b", "guard.enabled=false", nan_at=33), quiet=True)
    assert result.status == "diverged" and result.summary["rollbacks"] == 0


def test_no_rollbacks_allowed_stops_at_once(tmp_path):
    result = train(stiff(tmp_path, "a", "guard.rollbacks=0"), quiet=True)
    assert result.status == "diverged" and result.summary["rollbacks"] == 0 and not record(result.path)[1]


@pytest.mark.parametrize("step", [3, 13, 23])
@pytest.mark.parametrize("often", ["log_every=5 checkpoint_every=5", "log_every=4 checkpoint_every=7"])
def test_stopping_changes_nothing_with_a_rollback_between(step, often, tmp_path, monkeypatch):
    straight = train(stiff(tmp_path, "a", *often.split()), quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        stopped = train(stiff(tmp_path, "b", *often.split()), quiet=True)
    assert stopped.status == "interrupted"
    resumed = ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    assert straight.summary["rollbacks"] == resumed.summary["rollbacks"] == 1
    same(state(straight.path), state(resumed.path))
    assert lines(straight.path) == lines(resumed.path)


class Killed(BaseException):
    """What no part of a run catches, as no part outlives kill -9."""


def kill_at(monkeypatch, function, n, after):
    """Die at the n-th call of os.<function>, before or after it acts; returns how often it was called."""
    real, calls = getattr(os, function), []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == n and not after:
            raise Killed
        out = real(*args, **kwargs)
        if len(calls) == n:
            raise Killed
        return out

    monkeypatch.setattr(os, function, dying)
    return calls


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("every", cases([7, 1], [7]))
def test_a_kill_at_any_write_leaves_a_directory_that_resumes_to_the_same_bits(every, tmp_path, monkeypatch):
    """Each rename and link (or each `every`-th) of a run with a rollback in it, as the last thing that a process did;
    what it had open stays open, hence the warnings."""
    counts = {}
    for function in ("replace", "link"):
        with monkeypatch.context() as patch:
            calls = kill_at(patch, function, -1, False)
            straight = train(stiff(tmp_path, f"straight_{function}", "steps=40", "checkpoint_every=10"), quiet=True)
        counts[function] = len(calls)
    assert straight.summary["rollbacks"] == 1 and counts["replace"] >= 12 and counts["link"] >= 3
    wanted, good = state(straight.path), torch.load(straight.path / "checkpoints" / "good.pt", weights_only=True)
    points = [(f, n, after) for f in counts for n in range(1, counts[f] + 1) for after in (False, True)]
    for function, n, after in points[::every]:
        name = f"{function}_{n}_{after}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, function, n, after)
            train(stiff(tmp_path, name, "steps=40", "checkpoint_every=10"), quiet=True)
        gc.collect()  # here, so that the warnings about its open files reach no other test
        (path, *_) = [*(tmp_path / name / "runs").iterdir(), None]
        if path is None or not (path / "summary.json").is_file():
            assert function == "replace" and n <= 3, "config.yaml, metrics.jsonl, summary.json: then the run has begun"
            continue
        if not (path / "checkpoints" / "last.pt").is_file() or state(path)["counters"]["step"] < 40:
            ebm_lab.train([f"resume={path}"], quiet=True)
        same(wanted, state(path), name)
        same(good, torch.load(path / "checkpoints" / "good.pt", weights_only=True), name)
        assert lines(path) == lines(straight.path), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", cases([["steps=150"], ["objective=dsm", "dataset=two_moons", "steps=300"]], [["steps=150"]], " ".join)
)
def test_healthy_training_is_left_alone(overrides, tmp_path):
    more = ["evaluation=[]", "logger=none", "log_every=10", "threads=1", f"output_dir={tmp_path}"]
    result = ebm_lab.train([*overrides, *more], quiet=True)
    assert result.status == "finished" and result.summary["rollbacks"] == 0


def test_wandb_s_step_never_falls_and_is_the_training_step_until_a_rollback():
    from types import SimpleNamespace

    from ebm_lab.loggers.wandb import WandB

    log = object.__new__(WandB)
    log.step = log.ticks = log.first_tick = 0
    run = SimpleNamespace(step=0, settings=SimpleNamespace(sync_dir="/nowhere"))
    assert [log._tick(run, s) for s in (10, 10, 20, 30)] == [10, 10, 20, 30]
    assert [log._tick(run, s) for s in (20, 30, 40)] == [31, 41, 51], "after a rollback to 10"
    resumed = object.__new__(WandB)
    resumed.step = resumed.ticks = resumed.first_tick = 0
    run.step = 51
    assert resumed._tick(run, 45) == 51
