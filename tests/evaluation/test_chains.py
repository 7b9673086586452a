"""Chain diagnostics: chains of which everything is known."""

import pytest
import torch

from ebm_lab.statistics.diagnostics import (
    autocorrelation,
    autocovariance,
    correlation_time,
    effective_sample_size,
    plain_rhat,
    rank_normalised,
    rhat,
    split,
)


def autoregressive(rho, chains, draws, generator, repetitions=1):
    """x' = rho x + sqrt(1 - rho^2) z from its stationary law N(0, 1), (repetitions, chains, draws)."""
    z = torch.randn(repetitions, chains, draws, generator=generator, dtype=torch.float64)
    x = [z[..., 0]]
    for t in range(1, draws):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * z[..., t])
    return torch.stack(x, -1)


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregressive_chain(rho, generator):
    """ESS = n (1 - rho) / (1 + rho), within 5 %: over 40 repetitions of 4 x 2,000 draws the mean's standard error is
    below 2 %, and the truncation's bias about as much."""
    x = autoregressive(rho, 4, 2000, generator, 40)
    expected = 8000 * (1 - rho) / (1 + rho)
    assert float(effective_sample_size(x).mean()) == pytest.approx(expected, rel=0.05)


def test_effective_sample_size_says_how_the_mean_varies(generator):
    """Var(mean) = Var(x) / ESS, over 2,000 repetitions: a variance's standard error is sqrt(2 / 2000) = 3.2 %, and that
    a split chain's variance is taken about its own mean costs some more."""
    x = autoregressive(0.7, 2, 400, generator, 2000)
    claimed = float((1 / effective_sample_size(x)).mean())
    assert float(x.mean((1, 2)).var()) == pytest.approx(claimed, rel=0.13)


def test_autocorrelation_is_that_of_the_chain(generator):
    """rho_t = rho^t; with 8 x 20,000 draws the standard error is below 0.006."""
    x = autoregressive(0.8, 8, 20_000, generator)[0]
    found = autocorrelation(x)[:6]
    torch.testing.assert_close(found, 0.8 ** torch.arange(6.0).double(), atol=0.02, rtol=0)


def test_autocovariance_is_its_definition(generator):
    x = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    c = x - x.mean(1, keepdim=True)
    expected = torch.stack([(c[:, : 9 - t] * c[:, t:]).sum(1) / 9 for t in range(9)], 1)
    torch.testing.assert_close(autocovariance(x), expected)


def test_correlation_time_ends_before_the_first_negative_pair_and_never_rises():
    """Pairs 1.5, 0.2, 0.4 (counts as 0.2), -0.1 (ends it), 0.9: tau = -1 + 2 (1.5 + 0.2 + 0.2)."""
    rho = torch.tensor([1.0, 0.5, 0.15, 0.05, 0.3, 0.1, 0.1, -0.2, 0.5, 0.4, 7.0])
    assert float(correlation_time(rho)) == pytest.approx(2.8)
    assert float(correlation_time(torch.tensor([0.9, 0.5]))) == pytest.approx(2.0), "rho_0 counts as 1"


def test_plain_rhat_by_hand():
    """Chains (0, 2) and (4, 6): W = 2, B/n = 8, var+ = 1/2 W + 8 = 9."""
    assert float(plain_rhat(torch.tensor([[0.0, 2.0], [4.0, 6.0]]))) == pytest.approx(4.5**0.5)


def test_ranks_become_normal_quantiles():
    x = torch.tensor([[10.0, -1.0], [3.0, 3.0]])
    quantile = torch.special.ndtri((torch.tensor([[4.0, 1.0], [2.5, 2.5]]) - 0.375) / 4.25)
    torch.testing.assert_close(rank_normalised(x), quantile)


def test_rhat_is_one_for_one_law_and_more_for_two(generator):
    """One law, even without a variance (Cauchy): 1 within 0.01. Another place, another width and a drift within each
    chain are all seen; by plain R-hat the width is not."""
    x = torch.randn(4, 1000, generator=generator, dtype=torch.float64)
    cauchy = (torch.rand(4, 1000, generator=generator, dtype=torch.float64) * 3.14159).tan()
    for same in (x, cauchy, 100 + 1e-3 * x):
        assert float(rhat(same)) < 1.01
    shift = torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None].double()
    drift = torch.linspace(0, 2, 1000).double()
    assert float(rhat(x + shift)) > 1.08 and float(rhat(cauchy + 5 * shift)) > 1.08
    assert float(rhat(x + drift)) > 1.08 and float(plain_rhat(x + drift)) < 1.01
    assert float(rhat(x * (1 + 2 * shift))) > 1.08 and float(plain_rhat(split(x * (1 + 2 * shift)))) < 1.01


def test_two_chains_that_never_meet_are_worth_two_draws(generator):
    """Modes at -10 and 10: the mean over both knows no more than two draws would."""
    x = torch.randn(2, 1000, generator=generator).double() + torch.tensor([[-10.0], [10.0]])
    assert 1 < float(effective_sample_size(x)) < 5


def test_chains_that_stand_still_have_no_effective_sample_size():
    assert effective_sample_size(torch.ones(2, 10)).isnan()
