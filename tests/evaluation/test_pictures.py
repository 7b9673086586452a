"""Energy histograms, long runs and inpainting, on Gaussians whose every answer is known."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.eval_view import Report
from ebm_lab.core.registry import build
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.evaluation._raw_units import central, raw_densities
from ebm_lab.evaluation.chains import Chains
from ebm_lab.evaluation.histograms import Histograms
from ebm_lab.evaluation.inpainting import Inpainting, Restricted, complete, complete_by_levels, hole_mask
from ebm_lab.evaluation.longrun import LongRun, moment_distance, verdict
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.runs.assemble import assemble
from ebm_lab.samplers.annealed_langevin import AnnealedLangevin
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.tempering import Tempering
from ebm_lab.statistics.diagnostics import effective_sample_size, rhat
from tests.evaluation.test_evaluation import view
from tests.helpers import Drift, Exact, Points, covariance, exact_sample, gaussian_energy

ADAPT = {"target_acceptance": 0.7, "adapt_rate": 0.02}
KERNEL = {
    "name": "mala", "steps": 5, "step_size": 0.3, "temperature": 1.0, "mass": "identity", "warmup": None, **ADAPT
}  # fmt: skip
CHAINS = {"chains": 16, "warmup": 1, "length": 4, "projections": 3, "kernel": build("sampler", KERNEL, scale=1.0)}
LONG = {"multiples": [1, 10], "chains": 200, "max_steps": 10_000, "tolerance": 0.5, "widths": [0.5, 1.0]}
LONG |= {"kernel": build("sampler", KERNEL, scale=1.0)}


def mala(steps):
    values = {k: v for k, v in KERNEL.items() if k != "name"}
    return MALA(1.0, **{**values, "steps": steps})


def gaussian_run(generator, sampler, steps=20, shift=0.0, **more):
    """Data N(0, I) in 3-D, their own energy, and chains that begin at N(0, 4 I) + shift."""
    x = torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    data = Points(x[:2000])
    data.test = x[2000:]
    data.__class__ = type("Far", (Points,), {"start": IsotropicGaussian(torch.full((3,), shift).double(), 2.0)})
    energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double())
    return view(energy, data, sampler=sampler, steps=steps, generator=generator, **more)


# Chains


def test_chains_of_an_exact_sampler_converge(generator):
    """Independent draws: R-hat 1, an effective sample size of all draws, from noise and from data. 16 chains of 80
    draws: the estimate of a correlation time of 1 has a standard error of about 10 %."""
    exact = Exact(torch.zeros(3).double(), torch.eye(3).double())
    report = Chains(**CHAINS)(gaussian_run(generator, exact))
    m = report.metrics
    assert m["chain_draws"] == 16 * 80 and m["rhat_energy"] < 1.02 and m["rhat_x"] < 1.02
    for name in ("energy_noise", "x_noise", "energy_data", "x_data"):
        assert m[f"ess_{name}"] > 0.6 * m["chain_draws"]
    assert m["correlation_steps_energy_data"] == pytest.approx(1.0, rel=0.4), "one step a draw"


def test_the_warm_up_is_left_out(generator):
    """Chains from 20 standard deviations away: with a warm-up R-hat does not see it, without it does."""
    run = {"steps": 40, "shift": 20.0}
    warm = Chains(**CHAINS)(gaussian_run(generator, mala(2), **run)).metrics
    cold = Chains(**{**CHAINS, "warmup": 0})(gaussian_run(generator, mala(2), **run)).metrics
    assert warm["rhat_energy"] < 1.1 < cold["rhat_energy"] and 0.4 < warm["chain_acceptance_data"] < 1
    per_draw = warm["chain_draws"] / warm["ess_energy_data"]
    assert warm["correlation_steps_energy_data"] == pytest.approx(2 * per_draw), "two steps a draw"


def test_the_slowest_projection_counts(generator):
    """Of three quantities, energy and two projections, the last has a chain elsewhere."""
    draws = torch.randn(3, 4, 200, generator=generator).double()
    draws[2, 0] += 3
    report = Report()
    Chains(**CHAINS)._numbers(report, "_data", draws, 10)
    m = report.metrics
    assert m["rhat_x_data"] == pytest.approx(float(rhat(draws[2]))) and m["rhat_x_data"] > 1.3 > m["rhat_energy_data"]
    assert m["ess_x_data"] == pytest.approx(float(effective_sample_size(draws[2]))) and m["ess_energy_data"] > 400


def test_chains_that_drift_or_stand_still_are_told(generator):
    drift = Chains(**CHAINS)(gaussian_run(generator, Drift(0.1)))
    assert drift.metrics["rhat_x"] > 1.5 and "not converged" in drift.notes[-1]
    still = gaussian_run(generator, Drift(0.0))
    still.dataset.train = torch.zeros(16, 3).double()
    report = Chains(**CHAINS)(still)
    assert "ess_energy_data" not in report.metrics and "the chains do not move" in report.notes[0]
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_chains_that_run_away_stop_nothing(generator):
    """States that are not numbers give no number, but words and pictures."""
    run = gaussian_run(generator, Drift(float("nan")), count=50)
    for evaluation in (Chains(**CHAINS), LongRun(**LONG), Histograms(points=100, bins=10)):
        report = evaluation(run)
        assert report.images and "rhat_energy" not in report.metrics
        if isinstance(evaluation, LongRun):
            assert report.notes[0].startswith("not converged") and math.isnan(report.metrics["longrun_e_data_10"])
    assert math.isnan(report.metrics["e_gap_samples"]) and math.isfinite(report.metrics["e_gap_noise"])


def test_a_run_without_a_markov_chain_uses_the_kernel(generator):
    report = Chains(**CHAINS)(gaussian_run(generator, None, steps=100))
    assert report.metrics["rhat_energy"] < 1.1 and "chain_acceptance_noise" in report.metrics


# Long runs


def test_long_runs_of_an_exact_sampler_are_flat(generator):
    """The energy of N(0, I) in 3-D has mean 1.5 and variance 1.5: 200 chains give the mean with a standard error of
    0.087, at every stop and from every start; MMD and moments stay at their floors."""
    exact = Exact(torch.zeros(3).double(), torch.eye(3).double())
    chains = 5 + torch.randn(300, 3, generator=generator).double()
    report = LongRun(**LONG)(gaussian_run(generator, exact, chains=chains))
    m = report.metrics
    for start in ("noise", "data", "buffer"):
        for stop in (1, 10):
            assert m[f"longrun_e_{start}_{stop}"] == pytest.approx(1.5, abs=0.35)
            assert abs(m[f"longrun_mmd2_{start}_{stop}"]) < 0.01
            assert m[f"longrun_moments_{start}_{stop}"] < 0.15
    assert m["longrun_e_data"] == pytest.approx(1.5, abs=0.16) and m["longrun_e_std"] == pytest.approx(
        1.5**0.5, rel=0.1
    )
    assert m["longrun_drift"] < 0.3 and report.notes[0].startswith("convergent")
    assert set(report.images) == {"longrun_energy", "longrun_states"}


def test_long_runs_to_another_law_drift(generator):
    """A sampler whose law is N(2, I): E rises by 1/2 |2|^2 = 6 nats, and means differ by 2 in every coordinate."""
    biased = Exact(torch.full((3,), 2.0).double(), torch.eye(3).double())
    report = LongRun(**LONG)(gaussian_run(generator, biased))
    m = report.metrics
    assert m["longrun_e_data_10"] - m["longrun_e_data"] == pytest.approx(6.0, abs=1.2)
    assert m["longrun_drift"] == pytest.approx(6 / 1.5**0.5, rel=0.2)
    assert m["longrun_moments_noise_10"] == pytest.approx(2.0, rel=0.1) and m["longrun_mmd2_noise_10"] > 0.1
    assert report.notes[0].startswith(
        "biased: long chains from noise, data leave the data's energy, and meet at another"
    )


def test_long_runs_of_a_flat_energy_have_no_drift_in_its_own_unit(generator):
    run = gaussian_run(generator, Exact(torch.zeros(3).double(), torch.eye(3).double()))
    run.energy = lambda x: 0 * x.sum(1)
    report = LongRun(**LONG)(run)
    assert "longrun_drift" not in report.metrics and report.metrics["longrun_e_std"] == 0
    assert report.notes[0].startswith("convergent") and "longrun_energy" in report.images


def test_stops_count_the_sampler_s_steps(generator):
    """A sampler that adds 0.1 to every coordinate in a call of 3 steps: after K = 20 steps (21 taken) chains have moved
    by 0.7, after 10 K (201 taken) by 6.7; `max_steps` ends them earlier, in words."""
    run = gaussian_run(generator, Drift(0.1))
    long = LongRun(**{**LONG, "chains": 300})
    curve, states, reached = long._run(run, run.sampler, torch.zeros(300, 3).double(), [20, 200])
    assert reached == {0: 0, 20: 21, 200: 201}
    assert states[20].mean() == pytest.approx(0.7) and states[200].mean() == pytest.approx(6.7)
    assert float(curve[201][0]) == pytest.approx(1.5 * 6.7**2)
    run.dataset.__dict__["scale"] = 2.0
    m = long(run).metrics
    for multiple, moved in ((1, 0.7), (10, 6.7)):  # means of 300 points from those of the held-out ones: error 0.1
        assert m[f"longrun_moments_data_{multiple}"] == pytest.approx(moved / 2, abs=0.1)
        assert m[f"longrun_e_data_{multiple}"] == pytest.approx(1.5 + 1.5 * moved**2, abs=0.4 + 0.6 * moved)
    report = LongRun(**{**LONG, "max_steps": 60})(run)
    assert "longrun.max_steps=60" in report.notes[1]


def test_verdicts():
    """Energies with a standard deviation of 1, 400 chains (standard error 0.05), s = 0.5."""

    def at(mean, n=400):
        return mean + torch.linspace(-1.7, 1.7, n).double()

    data = at(0.0)

    def said(short, **end):
        return verdict({"noise": at(short)}, {name: at(mean) for name, mean in end.items()}, data, 0.5)

    assert said(0.1, noise=0.1, data=-0.2).startswith("convergent")
    assert said(0.1, noise=-5.0, data=-5.0).startswith("non-convergent: short chains from noise reach")
    assert said(9.0, noise=-5.0, data=-5.1).startswith("biased: long chains from noise, data leave")
    assert said(9.0, noise=9.0, data=0.0).startswith("not converged: long chains from noise leave")
    assert said(0.1, noise=0.6, data=-0.6, buffer=0.0).startswith("undecided")
    assert said(0.1, noise=float("nan"), data=0.0).startswith("non-convergent")
    for lost in (torch.inf, torch.nan):
        data = torch.cat([at(0.0), torch.tensor([lost]).double()])
        line = "no verdict: the energy of 1 of 401 held-out points is not finite"
        assert said(0.1, noise=0.1, data=-0.2) == line and said(9.0, noise=1000.0, data=0.0) == line


def test_moment_distance_by_hand():
    """Means differ by (3, 0), standard deviations by (0, 4): sqrt((9 + 16) / 2)."""
    x, y = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    y[:, 1] = torch.tensor([-1.0, 1.0]) * (1 + 4 / 2**0.5)
    assert float(moment_distance(x, y)) == pytest.approx(12.5**0.5)


# Histograms


def test_energy_gaps_are_the_closed_forms(generator):
    """E = |x|^2 / 2 in 3-D, held-out mean 1.5: noise N(0, 4 I) has 6, a gap of 4.5; `outside`, all at (3, 0, 0), has
    4.5; samples from the data's law have none."""
    exact = Exact(torch.zeros(3).double(), torch.eye(3).double())
    run = gaussian_run(generator, exact, steps=1, count=2000)
    run.dataset.outside = torch.tensor([[3.0, 0.0, 0.0]]).double().repeat(50, 1)
    run.dataset.train = run.dataset.train + 1.0
    report = Histograms(points=4000, bins=40)(run)
    m, held = report.metrics, 0.5 * (run.dataset.test**2).sum(1)
    assert m["e_gap_outside"] == pytest.approx(4.5 - float(held.mean())) and m["e_lower_outside"] == 0
    assert m["e_gap_noise"] == pytest.approx(4.5, abs=0.6) and m["e_gap_train"] == pytest.approx(1.5, abs=0.2)
    assert abs(m["e_gap_samples"]) < 0.2 and m["e_lower_samples"] == pytest.approx(0.5, abs=0.06)
    assert m["e_std"] == pytest.approx(float(held.std()))
    assert report.images["energy_histograms"].shape[0] == 3


# Inpainting


def test_holes():
    lower, right, centre = (hole_mask(h, (2, 4, 8)) for h in ("lower", "right", "centre"))
    assert lower.shape == (2, 4, 8) and lower[:, 2:].all() and not lower[:, :2].any()
    assert right[..., 4:].all() and not right[..., :4].any()
    assert int(centre.sum()) == 2 * 2 * 4 and centre[:, 1:3, 2:6].all()


def conditional(generator):
    """A Gaussian energy of (1, 2, 2) images; of the lower two pixels given the upper ones: mean and covariance."""
    precision, mean = torch.linalg.inv(covariance(4, generator)), torch.randn(4, generator=generator).double()
    flat = gaussian_energy(mean, precision)
    known = torch.tensor([1.5, -0.7]).double()
    cov = torch.linalg.inv(precision[2:, 2:])
    expected = mean[2:] - cov @ precision[2:, :2] @ (known - mean[:2])
    image = torch.cat([known, torch.zeros(2).double()]).view(1, 1, 2, 2)
    return (lambda x: flat(x.flatten(1))), image, expected, cov


def test_the_restricted_energy_is_the_conditional_s(generator):
    """E(u, x_k) is 1/2 (u - m)' S^-1 (u - m) plus a constant, m and S those of the conditional; every image keeps its
    own known pixels, copies of the batch too."""
    energy, image, mean, cov = conditional(generator)
    unknown = hole_mask("lower", (1, 2, 2))
    restricted = Restricted(energy, image.repeat(6, 1, 1, 1), unknown)
    u = torch.randn(6, 2, generator=generator).double()
    expected = 0.5 * ((u - mean) @ torch.linalg.inv(cov) * (u - mean)).sum(1)
    found = restricted(u).detach()
    torch.testing.assert_close(found - found[0], expected - expected[0])
    x = torch.arange(12.0).view(3, 1, 2, 2)
    whole = Restricted(energy, x, unknown).completed(-torch.arange(12.0).view(6, 2))
    assert torch.equal(whole[:, 0, 0], x[:, 0, 0].repeat(2, 1)) and torch.equal(
        whole[5, 0, 1], torch.tensor([-10.0, -11.0])
    )


@pytest.mark.parametrize("name", ["mala", "hmc", "tempering"])
def test_completions_have_the_conditional_mean_and_covariance(name, generator):
    """3,000 independent chains: standard errors of sqrt(S / n) for means and sqrt((S_ii S_jj + S_ij^2) / n) for
    covariances; four of them allowed."""
    energy, image, mean, cov = conditional(generator)
    sampler = {
        "mala": mala(30),
        "hmc": HMC(1.0, steps=10, step_size=0.3, leapfrog=4, temperature=1.0, mass="identity", warmup=None, **ADAPT),
        "tempering": Tempering(1.0, steps=30, replicas=3, max_temperature=4.0, step_size=0.5, **ADAPT),
    }[name]
    n, unknown = 3000, hole_mask("lower", (1, 2, 2))
    u = 3 * torch.randn(n, 2, generator=generator).double()
    done = complete(sampler, energy, image.repeat(n, 1, 1, 1), unknown, u, 120, generator)
    assert torch.equal(done[:, 0, 0], image[0, 0, 0].repeat(n, 1)), "known pixels are kept"
    drawn, var = done[:, 0, 1], cov.diagonal()
    assert ((drawn.mean(0) - mean).abs() < 4 * (var / n).sqrt()).all()
    assert ((drawn.T.cov() - cov).abs() < 4 * ((torch.outer(var, var) + cov**2) / n).sqrt()).all()


class GaussianLevels(NoiseEnergy):
    """Data N(0, S) of (1, 2, 2) images: E(x, sigma) = 1/2 x' (S + sigma^2 I)^-1 x, right at every level."""

    def __init__(self, data, cov):
        super().__init__(data, 0.05, 5.0, 40)
        self.register_buffer("cov", cov)

    def energy(self, x, sigma):
        flat = x.flatten(1)
        return 0.5 * (flat @ torch.linalg.inv(self.cov + float(sigma) ** 2 * torch.eye(4).double()) * flat).sum(1)

    def correction(self, u, sigma):
        raise NotImplementedError


def test_completions_by_levels_near_the_conditional(generator):
    """With many steps at each level, to four standard errors of 500 chains: 0.18 standard deviations for means, 13 %
    for standard deviations; with few it is off by more. The known pixels return as they were."""
    cov = covariance(4, generator)
    data = Points(exact_sample(torch.zeros(4).double(), cov, 500, generator).view(-1, 1, 2, 2))
    model, n, unknown = GaussianLevels(data, cov), 500, hole_mask("lower", (1, 2, 2))
    x = torch.tensor([1.5, -0.7, 9.0, 9.0]).double().view(1, 1, 2, 2).repeat(n, 1, 1, 1)
    sampler = AnnealedLangevin(steps=100, step_size=0.5, noise_scale=1.0, denoise=False)
    start = model.prior().sample(n, generator)
    drawn = complete_by_levels(sampler, model, x, unknown, start, generator)
    assert torch.equal(drawn[:, 0, 0], x[:, 0, 0]), "known pixels are kept"
    expected = cov[2:, :2] @ torch.linalg.inv(cov[:2, :2]) @ x[0, 0, 0]
    within = cov[2:, 2:] - cov[2:, :2] @ torch.linalg.inv(cov[:2, :2]) @ cov[:2, 2:]
    std = within.diagonal().sqrt()
    assert ((drawn[:, 0, 1].mean(0) - expected).abs() < 0.18 * std).all()
    torch.testing.assert_close(drawn[:, 0, 1].std(0), std, rtol=0.13, atol=0)


def test_inpainting_errors_are_the_closed_forms(generator):
    """Independent pixels N(0, 1): a draw misses by 2, the mean of c draws by 1 + 1/c, the mean image by 1. Over 300
    images of 8 unknown pixels the standard error of a mean square is 2 to 3 %."""
    x = torch.randn(900, 1, 4, 4, generator=generator).double()
    data = Points(x[:600], (-1.0, 1.0))
    data.test = x[600:]
    run = view(lambda y: 0.5 * y.flatten(1).square().sum(1), data, sampler=mala(10), steps=60, generator=generator)
    paint = Inpainting(hole="lower", images=300, completions=4, kernel=build("sampler", KERNEL, scale=1.0))
    m = paint(run).metrics
    assert m["inpaint_mse"] == pytest.approx(2.0, rel=0.12) and m["inpaint_mse_mean"] == pytest.approx(1.25, rel=0.12)
    assert m["inpaint_mse_mean_image"] == pytest.approx(1.0, rel=0.12)
    assert m["inpaint_mse_nearest"] == pytest.approx(2.0, rel=0.12), "neighbours by the known pixels alone know nothing"


def test_the_nearest_image_is_found_by_its_known_pixels(generator):
    """Training images are held-out ones with another lower half, plus one: the nearest misses by exactly that one."""
    x = torch.randn(20, 1, 4, 4, generator=generator).double()
    data = Points(x.clone(), (-1.0, 1.0))
    data.test, data.train = x, x.flip(0) + hole_mask("lower", (1, 4, 4))
    run = view(lambda y: 0.5 * y.flatten(1).square().sum(1), data, sampler=mala(1), steps=1, generator=generator)
    m = Inpainting(hole="lower", images=20, completions=1, kernel=build("sampler", KERNEL, scale=1.0))(run).metrics
    assert m["inpaint_mse_nearest"] == pytest.approx(1.0)


def test_the_frame_of_a_raw_density_leaves_out_a_few_far_points():
    """Of 1,000 points in the unit square and one at 1e6, the frame holds the square alone; of two points, both."""
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)).double()
    far = torch.cat([x, torch.full((1, 2), 1e6).double()])
    assert float(central(far).max()) < 1.0 and len(central(far)) > 970
    assert torch.equal(central(x[:2]), x[:2])


def test_a_narrow_law_is_drawn_as_high_as_the_truth():
    """Of stds 100 to 1, at 45 degrees: a grid in raw units misses it, and Z is that of the model's own units. What is
    left is the mass outside the frame of 2,000 points, and the rounding of float32."""
    made, _ = assemble(compose_config(["dataset=stretched", "preprocess=whiten", "logger=none", "evaluation=[]"]))
    data = made.evaluations.dataset
    _, log_p, truth, _ = raw_densities(lambda z: 1.7 - data.log_prob(z), data, data.test[:2000], 159)
    seen = truth > truth.max() - 5
    assert int(seen.sum()) > 10
    torch.testing.assert_close(log_p[seen], truth[seen], rtol=0, atol=0.01)
