"""The identities that tie the methods together: each holds in the limit, and is approached at its rate."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_lab.distributions.elementary import IsotropicGaussian
from scripts.theory import estimators, likelihood, meeting, published, score
from scripts.theory.line import IDENTITIES, LineEnergy, data, fisher, j_ism

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    2: (8.4e-3, 2.1e-3, 5.2e-4, 1.3e-4),
    11: (0.0216, 0.0022, 0.00022, 0.000022),
}
"""Errors found independently, where there are any."""


@functools.cache
def measured(check):
    return check()


@pytest.mark.parametrize("check", IDENTITIES, ids=lambda check: check.__name__)
def test_identity(check):
    found = measured(check)
    if found.slope is None:
        assert max(found.error) <= found.tolerance, found
    else:
        assert found.fitted == pytest.approx(found.slope, abs=found.tolerance), found
        small, large = sorted((found.error[0], found.error[-1]))
        assert found.error[-1] == small < 0.5 * large, found
    if found.row in KNOWN:
        assert found.error == pytest.approx(KNOWN[found.row], rel=0.1)


def test_every_row_is_there():
    assert sorted(measured(check).row for check in IDENTITIES) == [*range(1, 14), 16, 17]


def test_the_numbers_of_the_problem():
    """J = -0.1458713 with the minus sign of the Laplacian, by quadrature done elsewhere; D_F = .2886 = .5772 / 2."""
    energy = LineEnergy()
    assert float(j_ism(energy, data()).detach()) == pytest.approx(-0.1458713, abs=1e-7)
    assert 2 * float(fisher(data(), energy)) == pytest.approx(0.5772, abs=1e-4)


@pytest.mark.parametrize("m, d_f, kl", [(1, 0.171, 0.246), (2, 0.0999, 0.467), (3, 0.0131, 0.508), (5, 7.6e-6, 0.511)])
def test_score_matching_loses_the_weights_that_likelihood_sees(m, d_f, kl):
    found = likelihood.blindness(m)
    assert found == pytest.approx((d_f, kl), rel=0.01)


def test_the_slope_fit():
    made = score.Identity(0, "", "", "", "", (1.0, 2.0, 4.0), (3.0, 12.0, 48.0), 2.0, 0.01)
    assert made.fitted == pytest.approx(2.0) and made.axis == "log"


def test_the_published_signs_and_factors_are_wrong_and_the_corrected_ones_right():
    """Corrected forms agree within the identities' own errors at the step used; printed ones are off by half."""
    for verdict in published.verdicts():
        assert verdict.corrected == pytest.approx(verdict.truth, rel=1e-3), verdict
        assert abs(verdict.printed - verdict.truth) > 0.4 * abs(verdict.truth), verdict
    implicit, *_ = published.verdicts()
    assert implicit.printed == pytest.approx(0.355, abs=1e-3)


def test_estimators_follow_their_closed_forms():
    """Variances of 200,000 draws within 3 % (4 standard errors of the variance of squares); CD's bias exact."""
    for name, measured, expected in estimators.ssm_variances():
        assert measured == pytest.approx(expected, rel=0.03), name
    for eps in (0.3, 1.0):
        curve = estimators.cd_bias(eps, (1, 4, 16))
        assert curve.measured == pytest.approx(curve.expected, abs=1e-12)
    plain, controlled, antithetic = estimators.dsm_variances((0.02,))
    assert plain.measured == pytest.approx(plain.expected, rel=0.05)
    assert controlled.measured == pytest.approx([6.7], rel=0.05) and antithetic.measured == pytest.approx(
        [6.7], rel=0.05
    )


def test_coupled_chains_meet_and_independence_steps_let_those_of_two_modes_meet():
    """Where every proposal is accepted, tau is at most 2. On two modes the share still apart falls from move to move,
    to less with independence steps than without."""
    law, wide = likelihood.two_modes(0.5, 3.0), IsotropicGaussian(torch.zeros(1).double(), 3.0)
    x = law.sample(2000, torch.Generator().manual_seed(0))
    own = IsotropicGaussian(torch.zeros(1).double(), 1.0)
    always = meeting.survival(lambda y: -own.log_prob(y), x, 1e-9, own, 1, 3)
    assert always[0] > 0.99 and always[1:] == [0, 0]
    alone, helped = (meeting.survival(lambda y: -law.log_prob(y), x, 1.0, wide, k, 12) for k in (0, 5))
    assert alone == sorted(alone, reverse=True) and alone[0] < 1 and helped[-1] < 0.2 * alone[-1]


@pytest.mark.slow
def test_the_script_draws(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "theory.py"), f"out={tmp_path}", "only=blindness"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "modes at +-5: D_F 7.62e-06, KL 0.511" in done.stdout
    assert (tmp_path / "theory_blindness.png").is_file()
    for picture in (ROOT / "docs").glob("theory_*.png"):
        assert picture.stat().st_size < 300_000
