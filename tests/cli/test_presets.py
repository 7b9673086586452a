"""Presets and the studies made of them: what is composed, what is measured, and how it is written down."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from ebm_lab.cli.compose import compose_config, config_dir, options
from ebm_lab.datasets.mixture_1d import Mixture1D
from ebm_lab.objectives.ssm import projections, sliced_score_matching
from ebm_lab.runs.train import Result
from tests.conftest import ROOT


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


studies, scaling = script("studies"), script("scaling")
RUNS = [(name, row, column) for name, s in studies.STUDIES.items() for row in s.rows for column in s.columns]


@pytest.mark.parametrize("option", [o for o in options("experiment") if not o.startswith("fashion_")])
def test_a_preset_says_what_it_is_and_the_command_line_wins(option):
    text = (config_dir() / "experiment" / f"{option}.yaml").read_text()
    first, about, *_ = text.splitlines()
    assert first == "# @package _global_" and about.startswith("# ") and len(about) <= 122
    assert "Source:" in text and "You will see:" in text
    assert compose_config([f"experiment={option}", "steps=7", "seed=3"])["steps"] == 7


def test_convergent_learning_is_the_papers_step_on_the_papers_data():
    """eps = step_size * scale is 0.125 in data units, and 0.01 in the other: eight Gaussians of radius 1 and std 0.15
    have the scale sqrt(1 / 2 + 0.15^2)."""
    scale = math.sqrt(0.5 + 0.15**2)
    for option, eps in (("anatomy_convergent", 0.125), ("anatomy_nonconvergent", 0.01)):
        config = compose_config([f"experiment={option}"])
        assert config["sampler"]["step_size"] * scale == pytest.approx(eps, rel=5e-3)
        assert config["dataset"]["radius"] == 1 and config["dataset"]["std"] == 0.15
        assert config["sampler"]["noise_scale"] == 1 and config["sampler"]["steps"] == 100


def test_what_the_step_leaves_is_what_the_preset_says():
    """The fixed point's precision a for variance s: KL(N(0, s) || N(0, 1 / a)) in two dimensions is
    a s - 1 - log(a s) = 0.035 nats."""
    s, eps = 0.15**2, 0.125
    ratio = s * 2 / eps**2 * (1 - math.sqrt(1 - eps**2 / s))
    assert ratio - 1 - math.log(ratio) == pytest.approx(0.035, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name, row, column", RUNS, ids=["-".join(r) for r in RUNS])
def test_every_run_of_every_study_composes(name, row, column):
    study = studies.STUDIES[name]
    own = f"{study.rows[row]} {study.columns[column]} {study.more}".split()
    config = compose_config([f"experiment={study.preset}", *own])
    if name.startswith("levels") and row.isdigit():  # as many Langevin steps in all, whatever the number of levels
        assert config["energy"]["levels"] * config["sampler"]["steps"] == 600


def test_the_error_of_a_weight_is_that_of_the_model():
    """A model with the weights exchanged, 0.8 and 0.2: the lighter mode is 0.6 too heavy. The true density with any
    constant: 0."""

    class Law(torch.nn.Module):
        def __init__(self, sign, constant):
            super().__init__()
            self.sign, self.constant = sign, constant

        def forward(self, x):
            return self.constant - data.law.log_prob(self.sign * x.double())

    law = {"weights": [0.2, 0.8], "means": [-3.0, 3.0], "stds": [0.5, 0.5]}
    data = Mixture1D(**law, train=10, held_out=10, seed=0)
    for sign, constant, expected in ((-1, 0.0, 0.6), (1, 5.0, 0.0)):
        run = Result(Path(), {}, Law(sign, constant), data)
        assert studies.weight_error(run) == pytest.approx(expected, abs=1e-6)


def test_tables_hold_what_the_runs_gave():
    rows = [
        {"row": "a", "column": "1", "m": "0.01234", "status": "finished"},
        {"row": "a", "column": "2", "m": "12.345", "status": "diverged"},
        {"row": "b", "column": "1", "m": "", "status": "finished"},
    ]
    lines = studies.table(rows, "m", "key").splitlines()
    assert lines == ["| key | 1 | 2 |", "|---|---|---|", "| a | 0.012 | 12.3 (diverged) |", "| b | - |  |"]


def test_the_relative_error_of_gradients_of_known_law(generator):
    """g ~ N(mu, diag(s^2)): sqrt(sum s^2) / |mu|. The mean's own noise is taken off, so that |mean|^2 is
    unbiased for eight gradients too."""
    mu, s = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([1.0, 2.0, 2.0])
    g = mu + s * torch.randn(40_000, 3, generator=generator)
    assert scaling.relative_error(g) == pytest.approx(3 / 5, rel=0.02)
    assert scaling.relative_error(torch.tensor([[1.0], [3.0]])) == pytest.approx(math.sqrt(2 / (4 - 2 / 2)))
    assert scaling.relative_error(torch.tensor([[1.0], [-1.0]])) == math.inf


@pytest.mark.parametrize("law, factor", [("gaussian", 2.0), ("rademacher", 0.0)])
def test_the_relative_error_of_sliced_score_matching_is_the_closed_form(law, factor, generator):
    """E = a |x|^2 / 2 at one point x: dL/da = a |x|^2 - |v|^2 for the reduced form, of mean a |x|^2 - d and variance
    2 d with normal v (2 |J|_F^2 / a^2), 0 with signs. 4,000 gradients: a variance to 4 sqrt(2 / 4000)."""
    d, a = 6, 2.0
    x = torch.randn(1, d, generator=generator).double().expand(4000, d)
    v = projections(x, law, generator)
    weight = torch.full((4000,), a, dtype=torch.float64, requires_grad=True)
    values = sliced_score_matching(lambda y: 0.5 * weight * y.square().sum(1), x, v, True)[0]
    (g,) = torch.autograd.grad(values.sum(), weight)
    expected = math.sqrt(factor * d) / abs(a * float(x[0].square().sum()) - d)
    assert scaling.relative_error(g[:, None]) == pytest.approx(expected, rel=0.1, abs=1e-7)


def test_the_variance_of_nce_is_that_of_likelihood_where_theory_says_so():
    """Noise that is the data's own law: (1 + 1 / k) times likelihood's, 2. Any noise, k to infinity: 2."""
    for k in (1, 10):
        assert scaling.nce_variance(1.0, k) == pytest.approx(2 * (1 + 1 / k), rel=1e-6)
    assert scaling.nce_variance(2.0, 1e9) == pytest.approx(2, rel=1e-4)
    assert scaling.nce_variance(0.3, 1) > 100 * 2 > scaling.nce_variance(4.0, 1)


def test_the_variance_of_nce_is_that_of_its_own_estimates(generator):
    """400 estimates from 2,000 data each, by Newton's method on the objective's loss, against n Var: the standard error
    of a variance is sqrt(2 / 400) of it, and the expansion's next term is of order 1 / n."""
    n, k, std, repeats = 2000, 2, 0.7, 400
    x = torch.randn(repeats, n, generator=generator).double()
    y = std * torch.randn(repeats, k * n, generator=generator).double()
    both, label = torch.cat([x, y], 1), torch.cat([torch.ones_like(x), torch.zeros_like(y)], 1)
    log_noise = -0.5 * (both / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
    theta = torch.tensor([1.0, 0.5 * math.log(2 * math.pi)]).double().expand(repeats, 2).clone()
    g = torch.stack([-0.5 * both**2, -torch.ones_like(both)], 2)
    for _ in range(8):
        h = torch.einsum("rnp,rp->rn", g, theta) - log_noise - math.log(k)
        p = torch.sigmoid(h)
        hessian = torch.einsum("rnp,rn,rnq->rpq", g, p * (1 - p), g)
        theta = theta + torch.linalg.solve(hessian, torch.einsum("rnp,rn->rp", g, label - p))
    assert n * float(theta[:, 0].var()) == pytest.approx(scaling.nce_variance(std, k), rel=4 * math.sqrt(2 / repeats))


def test_steps_are_timed_and_their_noise_is_measured():
    """As few steps as are allowed, where there is no time."""
    cell = scaling.measure(scaling.METHODS["dsm"], 2, 0.0)
    assert cell.steps == scaling.LEAST and cell.milliseconds > 0 and cell.error > 0
