"""Kind: a number from quadrature whose error nobody checks, because the rule looks at one place, width or direction."""

import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.registry import build
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.quadrature import box_log_z, framed_log_density
from ebm_lab.evaluation.ais import AIS
from ebm_lab.evaluation.likelihood import Likelihood
from ebm_lab.evaluation.modes import quadrature_weights
from tests.helpers import Points

EXACT = 1e-4
"""Nats: a hundred times the tolerance of the cubature, which float32 energies of some ten nats do not reach."""


def mixture(means, std, weights=None):
    means = torch.tensor(means, dtype=torch.float64)
    stds = torch.as_tensor(std, dtype=torch.float64).view(-1, 1).expand(len(means), 1)
    odds = torch.ones(len(means)) if weights is None else torch.tensor(weights)
    return GaussianMixture(odds.double(), means, stds)


def gaussian(degrees, wide, narrow):
    """N(0, .) in the plane with these standard deviations, the wide axis turned by `degrees`."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    covariance = turn @ torch.diag(torch.tensor([wide**2, narrow**2], dtype=torch.float64)) @ turn.T
    return GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), covariances=covariance[None])


def likelihood(energy, data, cells=300):
    view = EvalView(energy, Points(data), "test", None, 10, 10, torch.Generator().manual_seed(0))
    return Likelihood(cells=cells)(view)


GRID = [[a, b] for a in (-4.0, -2.0, 0.0, 2.0, 4.0) for b in (-4.0, -2.0, 0.0, 2.0, 4.0)]
LAWS = {
    "modes at -100 and 100 of std .1": mixture([[-100.0], [100.0]], 0.1),
    "modes at -10 and 10.3 of std .05": mixture([[-10.0], [10.3]], 0.05),
    "1:100 at 45 degrees": gaussian(45, 1.0, 0.01),
    "1:1000 at 30 degrees": gaussian(30, 1000.0, 1.0),
    "25 modes of std .01": mixture(GRID, 0.01),
    "modes 1,000 apart of std .1, rarely visited": mixture([[0.0, 0.0], [1000.0, 0.0]], 0.1, [0.95, 0.05]),
    "a coordinate of 1e5 and one of 1e-5": GaussianMixture(
        torch.ones(1).double(), torch.zeros(1, 2).double(), torch.tensor([[1e5, 1e-5]]).double()
    ),
    "widths of 1e-3 and 1e3 on the line": mixture([[0.0], [0.0]], [1e-3, 1e3]),
}


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("name", LAWS)
def test_log_z_of_a_normalised_energy_is_zero(name, double, generator):
    law = LAWS[name]
    data = law.sample(2000, generator)
    metrics = likelihood(lambda x: -law.log_prob(x.double()).to(x.dtype), data if double else data.float()).metrics
    assert metrics["log_z"] == pytest.approx(0.0, abs=EXACT)
    assert metrics["log_z_error_bound"] < 0.01 and metrics["log_z_change"] < 0.01


ELSEWHERE = {
    "one row in a thousand is an outlier, line": (mixture([[0.0]], 1.0), [[1000.0]]),
    "one row in a thousand is an outlier, plane": (mixture([[0.0, 0.0]], 1.0), [[1000.0, -1000.0]]),
    "a thousand times as wide as the data": (mixture([[0.0, 0.0]], 1000.0), []),
    "half of the mass a thousand times as wide": (mixture([[0.0, 0.0], [0.0, 0.0]], [1.0, 1e3]), []),
    "a mode where no data are": (mixture([[0.0, 0.0], [50.0, -20.0]], [1.0, 0.1]), []),
    "two modes where no data are": (mixture([[0.0], [400.0], [-3000.0]], [1.0, 0.1, 0.01]), []),
    "a line far longer and thinner than the data": (
        GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.tensor([[1e5, 1e-5]]).double()),
        [],
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_mass_is_found_where_the_data_do_not_point(name, generator):
    law, outliers = ELSEWHERE[name]
    x = torch.randn(999, law.means.shape[1], generator=generator, dtype=torch.float64)
    report = likelihood(
        lambda x: -law.log_prob(x.double()), torch.cat([x, torch.tensor(outliers).view(-1, x.shape[1])])
    )
    assert report.metrics["log_z"] == pytest.approx(0.0, abs=EXACT)
    assert not any("no Z" in note for note in report.notes)


def ring(x):
    return (x.norm(dim=1) - 3) ** 2 / (2 * 0.05**2) + math.log(2 * math.pi * 3 * 0.05 * math.sqrt(2 * math.pi))


def funnel(x):
    return x[:, 0] ** 2 / 18 + x[:, 1] ** 2 * torch.exp(-x[:, 0]) / 2 + x[:, 0] / 2 + math.log(2 * math.pi * 3)


def student(x):
    d = x.shape[1]
    log_c = math.lgamma((3 + d) / 2) - math.lgamma(1.5) - d / 2 * math.log(3 * math.pi)
    return (3 + d) / 2 * torch.log1p((x**2).sum(1) / 3) - log_c


def checkerboard(x):
    inside = (x.abs() < 2).all(1) & (x.floor().sum(1) % 2 == 0)
    return torch.where(inside, math.log(8.0), torch.inf)


def half_plane(x):
    """A normal law of which E = +inf leaves the half x_1 < 0."""
    return torch.where(x[:, 0] > 0, 0.5 * (x**2).sum(1) + math.log(math.pi), torch.inf)


@pytest.mark.parametrize("energy", [ring, funnel, student, checkerboard, half_plane])
def test_log_z_of_other_shapes_is_zero(energy, generator):
    data = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    data = 3 * data / data.norm(dim=1, keepdim=True) if energy is ring else data
    log_z, change = box_log_z(energy, data, 300)
    assert log_z == pytest.approx(0.0, abs=EXACT) and change < 0.01


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_a_large_constant_in_a_float32_energy_costs_no_more_than_its_rounding(offset, generator):
    """float32 numbers near 1e4 are .001 apart."""
    data = torch.randn(1000, 2, generator=generator)
    report = likelihood(lambda x: offset + 0.5 * (x**2).sum(1), data)
    assert report.metrics["log_z"] == pytest.approx(math.log(2 * math.pi) - offset, abs=1e-3)
    assert 1e-4 < report.metrics["log_z_error_bound"] < 0.01


@pytest.mark.parametrize("width", [1.0, 1e-4])
def test_a_coordinate_that_never_changes_leaves_log_z_a_number(width, generator):
    data = torch.randn(500, 2, generator=generator) * torch.tensor([1.0, 0.0])
    metrics = likelihood(lambda x: 0.5 * x[:, 0] ** 2 + 0.5 * (x[:, 1] / width) ** 2, data).metrics
    assert metrics["log_z"] == pytest.approx(math.log(2 * math.pi * width), abs=EXACT)
    assert metrics["nll"] == pytest.approx(0.5 + math.log(2 * math.pi * width), abs=0.2)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_enough_to_begin_from(rows, generator):
    data = torch.randn(rows, 2, generator=generator)
    assert box_log_z(lambda x: 0.5 * (x**2).sum(1), data, 100)[0] == pytest.approx(math.log(2 * math.pi), abs=EXACT)
    assert bool(framed_log_density(lambda x: 0.5 * (x**2).sum(1), data, 20)[1].isfinite().all())


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_an_energy_that_is_no_number_somewhere_has_no_likelihood(bad, generator):
    data = torch.randn(500, 2, generator=generator)
    report = likelihood(lambda x: torch.where(x[:, 0] > 3, bad, 0.5 * (x**2).sum(1)), data)
    assert report.metrics == {} and f"the energy is {bad} at x = " in report.notes[0]
    assert math.isnan(box_log_z(lambda x: torch.full((len(x),), bad), data, 50)[0])


def test_an_energy_that_is_infinite_everywhere_has_no_likelihood(generator):
    report = likelihood(lambda x: torch.full((len(x),), torch.inf), torch.randn(500, 2, generator=generator))
    assert report.metrics == {} and "is 0 wherever it was evaluated" in report.notes[0]


@pytest.mark.parametrize("slope", [0.0, 1.0], ids=["constant", "falling"])
def test_a_model_without_z_has_no_likelihood_and_says_so(slope, generator):
    data = torch.randn(500, 2, generator=generator)
    report = likelihood(lambda x: -slope * x.sum(1), data)
    assert report.metrics["log_z_change"] > 1 and "may have no Z; nll is left out" in report.notes[0]
    assert not {"nll", "log_z", "nll_gap"} & report.metrics.keys()


def test_a_cubature_without_the_work_it_needs_says_how_far_it_is_off(generator):
    """A needle at every datum, of which 50,000 evaluations can't see all."""
    data = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    law = GaussianMixture(torch.ones(200).double(), data, torch.full((200, 1), 1e-4).double())
    report = likelihood(lambda x: torch.cat([-law.log_prob(p) for p in x.split(2000)]), data, cells=10)
    assert report.metrics["log_z_error_bound"] > 0.01 and "evaluation.likelihood.cells" in " ".join(report.notes)


def test_weights_of_narrow_modes_far_apart_are_those_of_the_model():
    means = [[-300.0, 0.0], [300.0, 10.0]]
    model, data = mixture(means, 0.01, [0.3, 0.7]), mixture(means, 0.01)
    box = torch.tensor([-300.1, -0.1]).double(), torch.tensor([300.1, 10.1]).double()
    found = quadrature_weights(lambda x: 5 - model.log_prob(x.double()), data, *box, 100)
    torch.testing.assert_close(found, torch.tensor([0.3, 0.7]).double(), atol=1e-4, rtol=0)


def test_ais_is_not_held_against_a_log_z_that_is_none(generator):
    """An energy without Z: AIS reports its own numbers and no error against another meaningless one."""
    kernel = {"name": "mala", "steps": 1, "step_size": 0.3, "target_acceptance": 0.6, "adapt_rate": 0.05}
    kernel |= {"temperature": 1.0, "mass": "identity", "warmup": None}
    ais = AIS(
        chains=4,
        temperatures=3,
        schedule="linear",
        base="covariance",
        base_floor=0.1,
        reverse_moves=1,
        cells=50,
        transition=build("sampler", kernel, scale=1.0),
    )
    data = Points(torch.randn(200, 2, generator=generator))
    metrics = ais(EvalView(lambda x: 0.0 * x.sum(1), data, "test", None, 4, 10, generator)).metrics
    assert "ais_log_z" in metrics and not {"ais_error", "ais_exact_log_z"} & metrics.keys()
