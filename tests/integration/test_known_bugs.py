"""Faults seen in other libraries, each with the test that would show it here, where no other file has one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import ebm_lab
from ebm_lab.cli.compose import compose_config, options
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.cd import CD
from ebm_lab.objectives.mle import MLE
from ebm_lab.objectives.pcd import PCD
from ebm_lab.objectives.ssm import sliced_score_matching
from ebm_lab.runs.assemble import assemble
from tests.exhaustive import cases
from tests.helpers import Drift, Points, gaussian_energy
from tests.runs.test_resume import ON_BITS, quick

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "energy.hidden=[8]", "batch_size=32"]
QUICK += ["logger=none", "samples=10", "sample_steps=10", "evaluation=[]", "threads=1"]


class Recording(nn.Module):
    """E = sum x, and every batch that it was asked about."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x.flatten(1).sum(1)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_contrastive_divergence_begins_at_the_data_it_is_given(noise, generator):
    """With a sampler that adds 2, the negatives are the (noisy) data plus 2, row by row."""
    energy, x = Recording(), torch.randn(40, 3, generator=generator)
    plain = {"energy_l2": 0.0, "neglected_term": 0.0, "neglected_steps": None, "neglected_entropy": 1.0}
    objective = CD(energy, Drift(2.0), Points(x), generator, data_noise=noise, **plain)
    loss = objective(Batch(x[:16]))
    data, negatives = energy.seen[-1].chunk(2)
    torch.testing.assert_close(negatives, data + 2)
    assert torch.equal(data, x[:16]) == (noise == 0.0)
    torch.testing.assert_close(loss.value, torch.tensor(-6.0))
    if noise:
        assert float((data - x[:16]).std()) == pytest.approx(noise * objective.start.std, rel=0.5)


def test_maximum_likelihood_begins_at_noise_each_time(generator):
    """10,000 chains have the starting noise's mean and std within 5 standard errors, and no chain is kept."""
    x = 3 + 2 * torch.randn(10_000, 1, generator=generator)
    energy, data = Recording(), Points(x)
    objective = MLE(energy, Drift(0.0), data, generator, refresh=0, data_noise=0.0, energy_l2=0.0)
    objective(Batch(x))
    objective(Batch(x))
    first, second = (seen[10_000:] for seen in energy.seen[-2:])
    assert not torch.equal(first, second) and not torch.equal(first, x)
    assert float(second.mean()) == pytest.approx(float(data.mean), abs=5 * data.scale / 100)
    assert float(second.std()) == pytest.approx(data.scale, rel=5 / 2**0.5 / 100)


@pytest.mark.parametrize("restart, anew", [(0.0, 0), (1.0, 32)])
def test_the_objective_restarts_chains(restart, anew, generator):
    """A sampler that stands still: what moved in the buffer is what began anew, from the starting noise."""
    x = torch.randn(64, 2, generator=generator)
    objective = PCD(
        Recording(), Drift(0.0), Points(x), generator, 32, buffer_size=64, restart=restart, refresh=0, data_noise=0.0,
        energy_l2=0.0,
        conditional=False,
    )  # fmt: skip
    objective.buffer.age += 100
    before = objective.buffer.x.clone()
    objective(Batch(x[:32]))
    assert int((objective.buffer.x != before).any(1).sum()) == anew
    assert int((objective.buffer.age == Drift.steps).sum()) == anew


def test_score_matching_keeps_the_shape_of_images(generator):
    """A convolution is linear in its input: on E = sum(conv(x)^2) / 2 the loss equals that of the same quadratic form
    written for flat vectors, x' A x / 2 with A by autograd."""
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()

    def energy(x):
        assert x.shape[1:] == (2, 4, 5), "a flattened image"
        return 0.5 * conv(x).square().flatten(1).sum(1)

    x, v = (torch.randn(6, 2, 4, 5, generator=generator).double() for _ in range(2))
    matrix = torch.autograd.functional.hessian(lambda y: energy(y.view(1, 2, 4, 5)).sum(), x[0].flatten()).detach()
    flat = gaussian_energy(torch.zeros(40).double(), matrix + 1e-12 * torch.eye(40).double())
    for reduced in (False, True):
        expected = sliced_score_matching(flat, x.flatten(1), v.flatten(1), reduced)[0]
        torch.testing.assert_close(sliced_score_matching(energy, x, v, reduced)[0], expected, rtol=1e-6, atol=1e-6)


ON_THE_CPU = {"energy_matching": "pairs points by optimal transport, which is solved on the CPU"}


WAITING = {f"objective={o}": [f"objective={o}"] for o in options("objective") if o not in ON_THE_CPU} | ON_BITS


@pytest.mark.parametrize("name", cases(WAITING, [*(f"objective={o}" for o in ("dsm", "pcd", "nce")), "sampler=gwg"]))
def test_a_training_step_never_waits_for_the_device(name, monkeypatch):
    """No `.item()`, `float()`, `bool()` or copy to the host in an objective's forward and backward."""
    trainer, _ = assemble(compose_config(quick(*WAITING[name])))
    asked = []
    for method in ("item", "tolist", "__float__", "__int__", "__bool__", "__index__", "cpu", "numpy"):
        real = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor, method, lambda *a, _real=real, _name=method, **k: asked.append(_name) or _real(*a, **k)
        )
    batch = Batch(trainer.evaluations.dataset.train[:32])
    trainer.state.objective(batch).value.backward()
    assert asked == []
    float(batch.x[0, 0])
    assert asked == ["__float__"], "the watch works"


@pytest.mark.slow
def test_importing_and_building_a_run_change_no_setting_of_torch():
    code = """
import numpy, torch
def settings():
    return (torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32, torch.is_anomaly_enabled(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist())
before = settings()
from ebm_lab.cli.compose import compose_config
from ebm_lab.runs.assemble import assemble
from ebm_lab.core import registry
for kind in registry.PACKAGES:
    registry.names(kind)
assert settings() == before, "importing"
trainer, _ = assemble(compose_config(%r))
trainer._train_step(1)
assert settings() == before, "training"
""" % [*QUICK, "objective=pcd"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_buffer_of_another_shape_is_one_line_at_loading(tmp_path):
    result = ebm_lab.train([*QUICK, "objective=pcd", "steps=3", f"output_dir={tmp_path}"], quiet=True)
    file = result.path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["objective"]["buffer_size"] += 1
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"checkpoint.*buffer\.x"):
        ebm_lab.load_run(result.path)


@pytest.mark.parametrize("lost", ["objective", "optimiser/energy", "ema", "meter", "guard", "generator", "counters"])
def test_a_checkpoint_that_lacks_a_part_is_one_line(lost, tmp_path):
    result = ebm_lab.train([*QUICK, "objective=pcd", "steps=3", f"output_dir={tmp_path}"], quiet=True)
    last = result.path / "checkpoints" / "last.pt"
    content = torch.load(last, weights_only=True)
    assert {"x", "age"} <= {k.removeprefix("buffer.") for k in content["objective"]} and content["counters"][
        "step"
    ] == 3
    del content[lost]
    torch.save(content, last)
    with pytest.raises(UserError, match=f"checkpoint without {lost}"):
        ebm_lab.load_run(result.path)
