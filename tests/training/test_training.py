"""The loop's parts: data order, averages, schedules, run directories."""

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import ebm_lab
from ebm_lab.distributions.base import BaseLaw, MixtureBase
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.training.batches import Batches
from ebm_lab.training.ema import EMA
from ebm_lab.training.meter import Meter
from ebm_lab.training.optim.adam import Adam
from ebm_lab.training.optimiser import decay_of
from ebm_lab.training.schedules import factor
from tests.helpers import Points

QUICK = ["dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "energy.hidden=[8]", "batch_size=32"]
QUICK += ["logger=none", "samples=10", "sample_steps=10", "evaluation=[likelihood]"]


def test_every_epoch_visits_every_point_once():
    data = Points(torch.arange(10.0).view(10, 1))
    batches = Batches(data, 4, seed=0)
    seen = torch.cat([batches.indices(step) for step in range(1, 6)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert torch.equal(Batches(data, 4, seed=0).indices(4), batches.indices(4))
    assert len(Batches(data, 25, seed=0).indices(1)) == 25


def test_the_average_follows_its_formula_and_gives_the_weights_back():
    p = nn.Parameter(torch.zeros(1))
    ema, expected = EMA([p], 0.9), 0.0
    for step in range(1, 101):
        p.data.fill_(float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected += (1 - decay) * (step - expected)
    assert float(ema.average[0]) == pytest.approx(expected, rel=1e-5)
    with ema.applied():
        assert float(p.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(p.detach()) == 100.0


def test_schedules():
    assert factor("cosine", 5, 100, 10) == 0.5 and factor("cosine", 10, 100, 10) == 1.0
    assert factor("cosine", 55, 100, 10) == pytest.approx(0.5) and factor("cosine", 100, 100, 10) == pytest.approx(0.0)
    assert factor("constant", 100, 100, 0) == 1.0
    assert [factor("step", s, 100, 0) for s in (60, 61, 85, 86)] == [1.0, 0.1, 0.1, 0.01]


def test_the_meter_means_and_lets_nan_through():
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"a": torch.tensor(value), "b": torch.tensor(math.nan)})
    means = meter.means()
    assert means["a"] == 3.0 and math.isnan(means["b"])
    meter.clear()
    assert meter.means() == {}


def test_a_meter_adds_by_name_in_any_order_with_a_count_per_name():
    meter = Meter()
    turns = [{"a": 1.0, "b": 10.0}, {"b": 20.0, "a": 3.0}, {"c": math.inf}, {"b": 60.0}]
    for turn in turns:
        meter.add({name: torch.tensor(value) for name, value in turn.items()})
    assert meter.means() == {"a": 2.0, "b": 30.0, "c": math.inf}
    other = Meter()
    other.load_state_dict(copy.deepcopy(meter.state_dict()))
    for each in (meter, other):
        each.add({"c": torch.tensor(math.nan), "a": torch.tensor(8.0)})
        means = each.means()
        assert means["a"] == 4.0 and means["b"] == 30.0 and math.isnan(means["c"])
    meter.clear()
    assert meter.names == ["a", "b", "c"] and meter.means() == {}
    meter.add({"b": torch.tensor(7.0)})
    assert meter.means() == {"b": 7.0}


def test_a_meters_state_is_a_copy_both_ways():
    meter, other = Meter(), Meter()
    meter.add({"a": torch.tensor(1.0)})
    state = meter.state_dict()
    other.load_state_dict(state)
    for each in (meter, other):
        each.add({"a": torch.tensor(8.0)})
    assert state["sums"] == [torch.tensor(1.0)] and meter.means() == other.means() == {"a": 4.5}


def test_a_meter_reads_states_with_one_count_for_all_names():
    meter = Meter()
    meter.load_state_dict({"names": ["a", "b"], "sums": [torch.tensor(6.0), torch.tensor(9.0)], "count": 3})
    assert meter.means() == {"a": 2.0, "b": 3.0}
    meter.load_state_dict({"names": ["a"], "sums": [torch.tensor(6.0)], "count": 0})
    assert meter.means() == {} and meter.names == ["a"]


def test_run_directories_are_never_shared(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: RunDir.create(tmp_path, "x"), range(100)))
    assert len({run.path for run in runs}) == 100
    for run in runs:
        run.release()


def test_a_run_directory_holds_what_it_promises(tmp_path):
    result = ebm_lab.train(
        [*QUICK, "objective=pcd", "steps=10", "eval_every=5", "log_every=5", f"output_dir={tmp_path}"]
    )
    files = {str(p.relative_to(result.path)) for p in result.path.rglob("*") if p.is_file()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints/last.pt", "checkpoints/best.pt"} <= files
    summary = json.loads((result.path / "summary.json").read_text())
    wanted = "status step seconds cpu_seconds steps_per_second grad_evals versions git_commit command nll_gap nll_true"
    assert set(wanted.split()) <= summary.keys()
    assert summary["status"] == "finished" and summary["step"] == 10
    assert summary["grad_evals"] == 10 * 32 * (10 + 1 + 2)  # 10 steps of MALA take 11 gradients, the loss 2
    rows = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10]
    assert {"loss", "e_pos", "e_neg", "gap", "grad_norm", "acceptance", "buffer_age", "val/nll_gap"} <= rows[0].keys()


def test_max_seconds_ends_a_run_that_can_go_on(tmp_path):
    more = ["objective=dsm", "steps=100000", "max_seconds=0.5", f"output_dir={tmp_path}"]
    result = ebm_lab.train([*QUICK, *more], quiet=True)
    assert result.status == "finished" and result.summary["ended_by"] == "max_seconds"
    assert (result.path / "checkpoints" / "last.pt").is_file() and "nll_gap" in result.summary


def test_initial_weights_and_results_depend_on_the_seed_alone(tmp_path):
    def weights(seed):
        torch.manual_seed(seed * 17 + 3)
        result = ebm_lab.train(
            [*QUICK, "objective=dsm", "steps=3", f"seed={seed}", f"output_dir={tmp_path}"], quiet=True
        )
        return torch.cat([p.detach().flatten() for p in result.energy.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_training_on_a_gaussian_finds_its_precision(tmp_path):
    """DSM of a Gaussian energy learns (S + sigma^2 I)^-1 and the exact gap follows: KL of two known Gaussians."""
    more = ["dataset.dim=3", "objective.sigma=0.2", "steps=1500", "optim.lr=0.02", "logger=none", "batch_size=512"]
    result = ebm_lab.train(
        ["objective=dsm", "dataset=gaussian", *more, "evaluation=[likelihood]", f"output_dir={tmp_path}"], quiet=True
    )
    data = result.dataset
    cov = data.law.covariance
    found, expected = result.energy.precision.double().detach(), torch.linalg.inv(cov + 0.04 * torch.eye(3))
    torch.testing.assert_close(found, expected, atol=0.1 * float(expected.abs().max()), rtol=0)
    ratio = expected @ cov
    gap = 0.5 * float(ratio.trace() - 3 - ratio.logdet())
    assert result.summary["nll_gap"] == pytest.approx(gap, abs=0.02)


def test_auto_decays_weights_towards_a_base_by_its_dimensions():
    """min(1/2, d / 20) with a base, 0 without, and none of a number such as log Z."""
    assert decay_of(0.3, None) == 0.3 and decay_of("auto", None) == 0
    for d, decay in ((2, 0.1), (9, 0.45), (10, 0.5), (80, 0.5)):
        energy = torch.nn.Module()
        energy.base = BaseLaw(MixtureBase((d,), torch.ones(1), torch.zeros(1, d), None, torch.ones(1, d)))  # type: ignore
        assert decay_of("auto", energy) == pytest.approx(decay)
        weights, log_z = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(()))
        settings = {"lr": 0.1, "schedule": "constant", "warmup": 0, "clip": None, "beta1": 0.0, "beta2": 0.0}
        adam = Adam([weights, log_z], 10, energy, weight_decay="auto", **settings)  # type: ignore
        weights.grad, log_z.grad = torch.zeros(3), torch.zeros(())
        adam.step(1)
        assert weights.tolist() == pytest.approx([1 - 0.1 * decay] * 3) and log_z.item() == 1
        assert adam.resolved == {"weight_decay": pytest.approx(decay)}
