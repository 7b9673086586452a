"""A normalising flow as noise: a density that is one, samples that follow it, and bits that come back."""

import math

import pytest
import torch

import ebm_lab
from ebm_lab.core.interfaces import Batch
from ebm_lab.distributions.flow import Flow
from ebm_lab.objectives.nce import NCE
from tests.exhaustive import exhaustive
from tests.helpers import Points, gaussian_energy


def two_clouds(generator, n=2000):
    return torch.cat([torch.randn(n, 2, generator=generator) - 2, 0.5 * torch.randn(n, 2, generator=generator) + 2])


@pytest.fixture(scope="module")
def flow():
    generator = torch.Generator().manual_seed(0)
    return Flow(two_clouds(generator), 0.1, 1.3, generator, steps=150)


def test_it_has_unit_mass_and_is_what_it_samples(flow, generator):
    """log_prob integrates to 1 over the plane, and the mean log_prob of its own samples is minus its entropy."""
    axis = torch.linspace(-14, 14, 561)
    with torch.no_grad():
        log_p = flow.log_prob(torch.cartesian_prod(axis, axis)).double()
        draws = flow.log_prob(flow.sample(20_000, generator)).double()
    assert float(log_p.exp().sum()) * 0.05**2 == pytest.approx(1.0, abs=2e-3)
    entropy = -float((log_p.exp() * log_p).sum()) * 0.05**2
    assert -float(draws.mean()) == pytest.approx(entropy, abs=4 * float(draws.std()) / 20_000**0.5 + 0.01)


def test_it_comes_closer_to_the_data_than_a_gaussian(flow, generator):
    x = two_clouds(generator)
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean()
    narrow = Flow(x, 0.0, 1.0, generator, steps=150)
    assert float(narrow.log_prob(x).mean()) > float(gaussian) + 0.5
    assert "fitted in" in narrow.told


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2, 2)])
def test_any_shape_in_its_own_dtype(shape, generator):
    x = torch.randn(60, *shape, generator=generator, dtype=torch.float64)
    flow = Flow(x, 0.1, 1.0, generator, steps=2)
    draws = flow.sample(5, generator)
    assert draws.shape == (5, *shape) and draws.dtype == torch.float64
    assert flow.log_prob(draws).shape == (5,) and not any(p.requires_grad for p in flow.parameters())


def test_the_same_generator_gives_the_same_flow_and_torch_s_own_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    flows = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        flows.append(Flow(two_clouds(generator, 100), 0.1, 1.0, generator, steps=5))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(flows[0].state_dict().values(), flows[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_nce_keeps_the_flow_out_of_the_optimiser_and_in_its_state(generator):
    x = torch.randn(200, 2, generator=generator)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()).float()
    settings = {"noise": "flow", "components": 1, "widen": 1.2, "noise_ratio": 2, "data_noise": 0.0, "loss": "logistic"}
    objective = NCE(energy, Points(x), generator, **settings)
    assert {id(p) for p in objective.players()["energy"]} == {id(p) for p in (*energy.parameters(), objective.log_z)}
    assert any(name.startswith("noise.net") for name in objective.state_dict())
    assert objective.log_z.item() == pytest.approx(math.log(2 * math.pi), abs=0.1)
    assert objective(Batch(x)).value.isfinite()


@exhaustive
def test_stopping_and_resuming_with_a_flow_gives_the_same_bits(tmp_path, monkeypatch):
    from tests.runs.test_resume import QUICK, same, state, stop_at

    flow = [*QUICK, "objective=nce", "objective.noise=flow", "steps=8", f"output_dir={tmp_path}"]
    straight = ebm_lab.train(flow, quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        stopped = ebm_lab.train(flow, quiet=True)
    resumed = ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    same(state(straight.path), state(resumed.path))
    error = straight.summary["log_z_error"]
    learnt = state(straight.path)["objective"]["log_z"]
    assert math.isfinite(error) and abs(straight.summary["log_z"] + error - float(learnt)) < 0.5
