"""The kind: a setting that `auto` chooses from the data follows a rule that holds in two dimensions only."""

import math

import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.distributions.bandwidth import bandwidth
from ebm_lab.distributions.blur import NATS, blur_cost, largest_blur, local_variances, noise_level, two_digits
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.models.ladder import make_ladder
from tests.helpers import Points

AUTO = 4 / 3
N = 1000


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=draw(seed), dtype=torch.float64)


def chosen(x):
    return noise_level(Points(x), AUTO, "objective.sigma")[0]


def cost_of(sigma, stds):
    """KL(N(0, diag s^2) || N(0, diag(s^2 + sigma^2))), by the formula for two Gaussians."""
    p, q = (torch.distributions.Normal(0.0, s) for s in (stds, (stds**2 + sigma**2).sqrt()))
    return float(torch.distributions.kl_divergence(p, q).sum())


def cost_in(mixture, sigma, n=50_000):
    """KL(p || p * N(0, sigma^2 I)) of a mixture by Monte Carlo, with the mean of q / p, which is 1, as control variate:
    the values r - 1 - log r are positive, and their mean's error is some 2 % of it."""
    blurred = GaussianMixture(mixture.weights, mixture.means, (mixture.stds**2 + sigma**2).sqrt())
    x = mixture.sample(n, draw(1))
    log_r = blurred.log_prob(x) - mixture.log_prob(x)
    return float((log_r.exp() - 1 - log_r).mean())


def three_gaussians(d=10):
    means = torch.zeros(3, d).double()
    means[1, 0] = means[2, 1] = 6.0
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5]).double(), means, torch.ones(3, 1).double())


def two_sizes(d):
    means = torch.zeros(2, d).double()
    means[1, 0] = 8.0
    return GaussianMixture(torch.tensor([0.75, 0.25]).double(), means, torch.tensor([[1.0], [0.05]]).double())


def test_the_cost_of_a_blur_is_the_divergence_of_two_gaussians():
    stds = torch.tensor([0.1, 1.0, 3.0]).double()
    for sigma in (0.01, 0.3, 2.0):
        assert blur_cost(sigma, torch.ones(1), stds[None] ** 2) == pytest.approx(cost_of(sigma, stds), rel=1e-9)
    assert blur_cost(largest_blur(0.02, torch.ones(1), stds[None] ** 2), torch.ones(1), stds[None] ** 2) == (
        pytest.approx(0.02)
    )


@pytest.mark.parametrize("d, today", [(2, 0.44), (10, 0.93), (50, 1.3)])
def test_the_blur_of_a_standard_normal_costs_a_hundredth_of_a_nat_in_any_dimension(d, today):
    """The sigma of a given cost goes with the variance's estimate, known to 2 / sqrt(500 d), and its cost with the
    square: a tenth in two dimensions, less in more. The sigma is not too small either: rounding down to two digits
    costs a third at most. The old rule was off by 58 and 900 times."""
    x = normal(N, d)
    assert bandwidth(x, 1.0) * AUTO == pytest.approx(today, rel=0.15), "what `auto` would be without a bound"
    cost = cost_of(chosen(x), torch.ones(d).double())
    assert 0.6 * NATS < cost < 1.2 * NATS


@pytest.mark.parametrize("d", [2, 10, 50])
def test_the_blur_of_an_anisotropic_normal_is_bounded_by_its_thinnest_direction(d):
    """Standard deviations from 0.03 to 3, on axes turned at random; 40 held-out rows or more for each dimension."""
    stds = torch.logspace(-1.5, 0.5, d).double()
    turn = torch.linalg.qr(normal(d, d, seed=3)).Q
    cost = cost_of(chosen(normal(40 * d + 600, d) * stds @ turn), stds)
    assert 0.5 * NATS < cost < 1.25 * NATS


@pytest.mark.parametrize("make, d", [(three_gaussians, 10), (two_sizes, 2), (two_sizes, 10)])
def test_the_blur_of_a_mixture_is_bounded_by_its_components(make, d):
    """Clusters apart, of one size and of sizes 1 and 0.05: the law's own width says nothing of the small one's."""
    mixture = make(d)
    sigma = chosen(mixture.sample(2000, draw()))
    assert 0.5 * NATS < cost_in(mixture, sigma) < 1.25 * NATS


def test_the_lowest_level_of_a_ladder_has_the_same_bound():
    mixture = three_gaussians()
    data = Points(mixture.sample(2000, draw()))
    notes = []
    ladder, values = make_ladder(data, "auto", "auto", 10, notes)
    assert bandwidth(data.train, data.scale) > 0.6 and ladder.sigma_min == values["sigma_min"]
    assert 0.5 * NATS < cost_in(mixture, ladder.sigma_min) < 1.25 * NATS
    (note,) = notes
    assert note.startswith(f"energy.sigma_min={ladder.sigma_min:g}: this blur costs about 0.00")


def test_where_the_bandwidth_costs_less_it_stays():
    """Many points in few dimensions: 4/3 of the leave-one-out bandwidth, as ever."""
    x = normal(3000, 1)
    assert chosen(x) == two_digits(AUTO * bandwidth(x, float(x.std()))) and cost_of(chosen(x), torch.ones(1)) < NATS / 2


@pytest.mark.parametrize("shift, factor", [(0.0, 1e5), (0.0, 1e-5), (1e6, 1.0)])
def test_the_noise_level_goes_with_the_data_s_own_unit(shift, factor):
    """Also for float32 rows far from zero, whose digits are 1 / 16 apart there: a few per cent."""
    x = normal(N, 3).float()
    assert chosen(x * factor + shift) == pytest.approx(factor * chosen(x), rel=0.06)


def test_directions_without_width_bound_nothing():
    """A constant coordinate, one of two values, and a sum of two others: the blur is that of the rest."""
    x = normal(N, 5)
    thin = torch.cat([x, torch.full((N, 1), 3.7).double(), x[:, :1] + x[:, 1:2]], 1)
    alone = chosen(x)
    assert chosen(thin) == pytest.approx(alone, rel=0.15)
    binary = torch.cat([x, torch.arange(N)[:, None] % 2], 1)
    assert 0.6 * alone < chosen(binary) < 1.1 * alone


def test_repeated_rows_count_once():
    x = normal(300, 3)
    assert chosen(x.repeat(5, 1)) == chosen(x)


@pytest.mark.parametrize("d", [1, 2, 50])
@pytest.mark.parametrize("n", [2, 3, 5, 17, 40])
def test_few_rows_give_a_positive_number(n, d):
    """Fewer than dimensions too; never wider than the data."""
    x = normal(n, d)
    assert 0 < chosen(x) < 1.5 * float(x.var(0).mean().sqrt())


@pytest.mark.parametrize("x", [torch.ones(1, 2), torch.ones(10, 2)], ids=["single", "equal"])
def test_a_single_point_is_refused_in_one_line(x):
    with pytest.raises(UserError, match="^objective.sigma=auto: needs two different training points; give a number$"):
        chosen(x)


def test_images_keep_their_rule():
    """Pixels have exact values, whose density no blur could keep: no bound, and nothing said."""
    x = torch.randint(0, 2, (200, 1, 4, 4), generator=draw()).float()
    data = Points(x, bounds=(0.0, 1.0))
    sigma, told = noise_level(data, AUTO, "objective.sigma")
    assert sigma == two_digits(AUTO * bandwidth(x, data.scale)) and told == []
    assert make_ladder(data, "auto", "auto", 5)[0].sigma_min == two_digits(data.scale / 10)


def test_two_digits_never_round_above_the_bound():
    assert two_digits(0.0668) == 0.067 and two_digits(0.0668, 0.0668) == 0.066
    assert two_digits(0.0999, 0.0999) == 0.099 and two_digits(12345.0, 12345.0) == 12000.0
    assert two_digits(0.25, 0.25) == 0.25


def test_the_variances_are_those_of_rows_that_the_mixture_was_not_fitted_to():
    """120 rows of a standard normal in 50 dimensions: the least eigenvalue of half of them is 0, and no variance along
    an eigenvector of the others is far from 1 (4 standard errors of 60 squares)."""
    weights, variances = local_variances(normal(120, 50))
    assert len(weights) == 1 and 1 - 4 * math.sqrt(2 / 60) < float(variances.min()) < float(variances.max()) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, key",
    [
        (["objective=dsm"], "objective.sigma"),
        (["objective=dsm_cv"], "objective.sigma"),
        (["objective=multi_dsm"], "energy.sigma_min"),
        (["objective=multi_dsm", "energy=score_mlp", "sampler=probability_flow"], "energy.sigma_min"),
    ],
    ids=["dsm", "dsm_cv", "multi_dsm", "score"],
)
def test_a_run_says_what_its_blur_costs(overrides, key, tmp_path, capsys):
    more = ["dataset=gaussian", "dataset.dim=10", "dataset.train=1500", "steps=2", "evaluation=[]", "logger=none"]
    result = ebm_lab.train([*overrides, *more, f"output_dir={tmp_path}"])
    told = capsys.readouterr().out
    group, name = key.split(".")
    value = ebm_lab.load_run(result.path).config[group][name]
    assert f"chosen from the data: {key}={value:g}\n" in told
    assert f"\n{key}={value:g}: this blur costs about 0.00" in told and result.status == "finished"
    ebm_lab.train([f"resume={result.path}", "steps=3"])
    assert "this blur costs" not in capsys.readouterr().out, "the value is settled"
