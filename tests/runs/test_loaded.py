"""What a loaded run answers, in raw units: against a known Gaussian, quadrature and the run's summary."""

import math

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.training.optimiser import Optimiser

QUICK = ["steps=60", "logger=none", "evaluation=[likelihood]", "eval_every=60", "samples=400", "sample_steps=200"]
RAW_MEAN, RAW_COV = np.array([1000.0, -3.0]), np.array([[25.0, 0.3], [0.3, 0.01]])


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    """A run on a table whose columns have means 1000 and -3 and widths 5 and 0.1, with a Gaussian energy."""
    folder = tmp_path_factory.mktemp("loaded")
    np.save(folder / "x.npy", np.random.default_rng(0).multivariate_normal(RAW_MEAN, RAW_COV, 2000))
    data = ["dataset=array", f"dataset.path={folder / 'x.npy'}", "energy=gaussian", "objective=ssm", "optim.lr=0.05"]
    return ebm_lab.load_run(ebm_lab.train([*QUICK, *data, f"output_dir={folder}"], quiet=True).path)


def law_of(run):
    """The law of the run's energy in raw units, x = scale z + shift: N(scale mu + shift, scale P^-1 scale)."""
    scale, shift = run.dataset.transform.scale.double(), run.dataset.transform.shift.double()
    cov = torch.linalg.inv(run.energy.precision.double().detach()) * scale.outer(scale)
    return torch.distributions.MultivariateNormal(run.energy.mean.double().detach() * scale + shift, cov)


def test_log_prob_and_score_are_those_of_the_raw_data(gaussian):
    law = law_of(gaussian)
    x = law.sample((50,)).requires_grad_()
    found = gaussian.log_prob(x.detach())
    assert found.log_z.source == "formula" and found.log_z.error == 0
    torch.testing.assert_close(found.values, law.log_prob(x).detach(), rtol=0, atol=1e-4)  # float32 in model space
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(gaussian.score(x.detach()).double(), score, rtol=1e-3, atol=1e-3)


def test_in_model_space_the_numbers_differ_by_the_map_alone(gaussian):
    raw = torch.tensor(RAW_MEAN).view(1, 2)
    z = gaussian.dataset.transform.forward(raw).float()
    jump = gaussian.log_prob(raw).values - gaussian.log_prob(z, raw=False).values
    assert float(jump) == pytest.approx(-float(gaussian.dataset.transform.scale.log().sum()), abs=1e-6)
    scaled = gaussian.score(raw) * gaussian.dataset.transform.scale
    torch.testing.assert_close(scaled.float(), gaussian.score(z, raw=False), rtol=1e-4, atol=1e-5)


def test_samples_come_in_raw_units_and_each_call_draws_others(gaussian):
    """Means of 400 samples within 5 standard errors; chains from noise have mixed after 200 steps of MALA."""
    law, x = law_of(gaussian), gaussian.sample(400)
    error = (x.double().mean(0) - law.mean).abs() / (law.variance / 400).sqrt()
    assert x.shape == (400, 2) and float(error.max()) < 5
    assert not torch.equal(x[:5], gaussian.sample(5))
    a, b = (gaussian.sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)


def test_log_z_by_quadrature_gives_the_summary_s_nll_and_mass_one(tmp_path):
    data = ["dataset=two_moons", "dataset.train=500", "dataset.held_out=200", "energy.hidden=[16]", "objective=dsm"]
    result = ebm_lab.train([*QUICK, *data, f"output_dir={tmp_path}"], quiet=True)
    run = ebm_lab.load_run(result.path)
    found = run.log_prob(run.dataset.test)
    assert found.log_z.source == "quadrature" and found.log_z.error < 1e-3
    assert -float(found.values.mean()) == pytest.approx(result.summary["nll"], abs=1e-6)
    axis = torch.linspace(-12, 12, 601)
    values = run.log_prob(torch.cartesian_prod(axis, axis)).values
    assert float(values.exp().sum() * 0.04**2) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("objective, source", [("nce", "learnt"), ("dsm", "ais")])
def test_in_three_dimensions_log_z_is_learnt_or_estimated(objective, source, tmp_path):
    data = ["dataset=gaussian", "dataset.dim=3", "dataset.train=500", "energy=mlp", "energy.hidden=[8]"]
    result = ebm_lab.train([*QUICK, *data, f"objective={objective}", f"output_dir={tmp_path}"], quiet=True)
    run = ebm_lab.load_run(result.path)
    log_z = run.log_z
    assert log_z.source == source
    if source == "learnt":
        assert log_z.value == pytest.approx(float(run.objective.learnt_log_z().detach())) and math.isnan(log_z.error)
    else:
        metrics = run.evaluate("ais").metrics
        assert (log_z.value, log_z.error) == (metrics["ais_log_z"], metrics["ais_log_z_se"]) and 0 < log_z.error < 0.2


def test_one_evaluation_is_done_by_name_and_says_why_where_it_can_not(gaussian):
    report = gaussian.evaluate("ksd")
    assert report.metrics["ksd2_data"] == gaussian.evaluate("ksd").metrics["ksd2_data"]
    assert "nll" in gaussian.evaluate("likelihood").metrics
    with pytest.raises(UserError, match="evaluation=classifier: left out"):
        gaussian.evaluate("classifier")
    with pytest.raises(UserError, match="evaluation=ks: not an option.*did you mean 'ksd'"):
        gaussian.evaluate("ks")
    with pytest.raises(UserError, match=r"evaluation.mmd.points=0"):
        gaussian.evaluate("mmd", points=0)


def test_loading_builds_no_optimiser(gaussian, monkeypatch):
    def build(self, *args):
        raise AssertionError("an optimiser was built")

    monkeypatch.setattr(Optimiser, "__init__", build)
    assert ebm_lab.load_run(gaussian.path).step == 60
