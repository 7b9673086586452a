"""The kind: a number that no test looked at closely enough, so that a wrong formula in its place passed every test."""

import math

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.eval_view import EvalView
from ebm_lab.distributions.flow import Flow
from ebm_lab.distributions.noise import fit_noise
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation import ais
from ebm_lab.evaluation._annealed_importance import fixed_schedule
from ebm_lab.evaluation._annealed_path import Journey, Path
from ebm_lab.runs.assemble import assemble
from ebm_lab.samplers.annealed_langevin import AnnealedLangevin
from ebm_lab.statistics.diagnostics import rhat, split
from tests.evaluation.test_ais import evaluation, view
from tests.exhaustive import cases
from tests.helpers import Drift, Exact, Points, covariance, exact_sample, gaussian_energy
from tests.models.test_levels import gaussian_model
from tests.samplers.test_annealed import check_law, draw

TINY = ["objective=dsm", "dataset=two_moons", "dataset.train=200", "dataset.held_out=60", "energy.hidden=[8]"]
TINY += ["logger=none", "batch_size=16", "steps=4", "samples=20", "sample_steps=10", "sampler.steps=5"]

# --- annealed importance sampling ---------------------------------------------------------------------------------


def test_the_error_of_ais_nll_is_that_of_log_z_and_of_a_mean_of_n_energies(generator):
    """Two independent errors: the jackknife's, and std(E) / sqrt(n) over the n held-out points."""
    data = Points(exact_sample(torch.zeros(3).double(), covariance(3, generator), 300, generator))
    data.test = data.train[:75]
    energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double())
    m, e = evaluation()(view(energy, data)).metrics, energy(data.test).detach()
    expected = m["ais_log_z_se"] ** 2 + float(e.var()) / 75
    assert m["ais_nll_se"] == pytest.approx(math.sqrt(expected), rel=1e-9)
    assert float(e.var()) / 75 > 10 * m["ais_log_z_se"] ** 2, "the second term is the one that shows"


def test_the_numbers_of_ais_are_those_of_the_weights(generator, monkeypatch):
    """From given weights: log mean w and its jackknife error, forward; minus those of 1 / w in reverse; the sum's
    effective size; each for T and for a tenth and a hundredth of it; acceptance of the run with T alone."""
    weights = {(way, t): torch.randn(40, generator=generator).double() + t for way in "fr" for t in (1, 10, 100)}

    def run(way):
        def walk(self, n_or_x, steps):
            self.acceptance += map(torch.tensor, {1: [], 10: [0.1, 0.2], 100: [0.3, 0.9]}[steps])
            return weights[way, steps]

        return walk

    monkeypatch.setattr(Journey, "forward", run("f"))
    monkeypatch.setattr(Journey, "reverse", run("r"))
    data = Points(exact_sample(torch.zeros(3).double(), covariance(3, generator), 300, generator))
    m = evaluation(chains=40)(view(gaussian_energy(torch.zeros(3).double(), torch.eye(3).double()), data)).metrics

    def jackknife(w):
        rest = torch.stack([torch.cat([w[:i], w[i + 1 :]]).mean().log() for i in range(len(w))])
        return float(w.mean().log()), math.sqrt((len(w) - 1) / len(w) * float((rest - rest.mean()).square().sum()))

    for t, end in ((100, ""), (10, "_at_10"), (1, "_at_1")):
        found = jackknife(weights["f", t].exp())
        assert (m[f"ais_log_z{end}"], m[f"ais_log_z{end}_se"]) == pytest.approx(found, rel=1e-9)
    minus, se = jackknife((-weights["r", 100]).exp())
    assert (m["ais_log_z_reverse"], m["ais_log_z_reverse_se"]) == pytest.approx((-minus, se), rel=1e-9)
    assert m["ais_gap"] == pytest.approx(-minus - m["ais_log_z"])
    w = weights["f", 100].exp()
    assert m["ais_ess"] == pytest.approx(float(w.sum() ** 2 / w.square().sum())) and m["ais_chains"] == 40
    assert (m["ais_acceptance"], m["ais_acceptance_min"]) == pytest.approx((0.6, 0.3))


@pytest.mark.parametrize("even", [True, False])
def test_ais_says_so_where_few_chains_carry_the_weights(even, generator, monkeypatch):
    """Of 40 chains one outweighs the others by 30 nats, or all weigh about as much."""
    log_w = 0.1 * torch.randn(40, generator=generator).double()
    log_w[0] += 0 if even else 30
    monkeypatch.setattr(Journey, "forward", lambda self, n, steps: log_w)
    monkeypatch.setattr(Journey, "reverse", lambda self, x, steps: log_w.mean().expand(40))
    data = Points(exact_sample(torch.zeros(3).double(), covariance(3, generator), 300, generator))
    report = evaluation(chains=40)(view(gaussian_energy(torch.zeros(3).double(), torch.eye(3).double()), data))
    said = [note for note in report.notes if "chains carry the weights" in note]
    assert len(said) == (0 if even else 1) and all("1.0 of 40 chains" in note for note in said)


def test_ais_learnt_error_is_what_was_learnt_minus_what_was_found(generator, monkeypatch):
    monkeypatch.setattr(Journey, "forward", lambda self, n, steps: torch.full((n,), 2.0).double())
    monkeypatch.setattr(Journey, "reverse", lambda self, x, steps: torch.full((len(x),), 2.0).double())
    data = Points(exact_sample(torch.zeros(3).double(), covariance(3, generator), 300, generator))
    seen = view(lambda x: 0.5 * x.square().sum(1), data, learnt_log_z=2.75)
    assert evaluation()(seen).metrics["ais_learnt_error"] == pytest.approx(0.75)


def test_schedules_of_temperatures_by_their_formulas():
    steep = [1 / (1 + math.exp(4 - 8 * k / 4)) for k in range(5)]
    sigmoid = [(v - steep[0]) / (steep[4] - steep[0]) for v in steep]
    assert fixed_schedule("sigmoid", 4) == pytest.approx(sigmoid)
    assert fixed_schedule("linear", 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert fixed_schedule("geometric", 4) == pytest.approx([0, 1e-3, 1e-2, 1e-1, 1])


def test_steps_at_a_temperature_lie_between_those_of_the_pilot():
    path = Path([0.0, 1.0, 2.0], [0.0, 0.5, 1.0], [0.0, -1.0, -3.0])
    assert [path.log_step(b) for b in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, -0.5, -1, -2, -3])


@pytest.mark.parametrize("law", cases(["covariance", "diagonal", "isotropic"], ["covariance"]))
def test_reverse_ais_begins_at_training_points_or_chains_moved_by_exact_steps(law, generator, monkeypatch):
    """In the base's coordinates, `reverse_moves` moves at b = 1; of given chains, those."""
    data = Points(exact_sample(torch.ones(3).double(), covariance(3, generator), 300, generator))
    data.test, seen, moved = data.train + 100, [], []
    monkeypatch.setattr(Journey, "forward", lambda self, n, steps: torch.zeros(n).double())
    monkeypatch.setattr(Journey, "reverse", lambda self, x, steps: seen.append(self.energy.x(x)) or torch.zeros(len(x)))
    monkeypatch.setattr(Journey, "move", lambda self, x, b: moved.append(b) or x)
    energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double())
    for pool in (data.train, data.train - 50):
        seen.clear(), moved.clear()
        chains = None if pool is data.train else pool
        evaluation(chains=20, base=law, reverse_moves=4)(view(energy, data, chains=chains))
        assert moved == [1.0] * 4 and len(seen[0]) == 20
        assert float(torch.cdist(seen[0], pool).amin(1).max()) < 1e-5, "but for the rounding of cdist"


def test_only_ais_s_pilot_adapts_its_steps(generator, monkeypatch):
    """E[w] = Z is exact where the kernels of the runs that count do not depend on their own states."""
    kernels = []
    pilot = ais.pilot
    monkeypatch.setattr(ais, "pilot", lambda e, b, kernel, *more: kernels.append(kernel) or pilot(e, b, kernel, *more))
    monkeypatch.setattr(Journey, "forward", lambda self, n, steps: kernels.append(self.kernel) or torch.zeros(n))
    data = Points(exact_sample(torch.zeros(3).double(), covariance(3, generator), 300, generator))
    evaluation(chains=20)(view(gaussian_energy(torch.zeros(3).double(), torch.eye(3).double()), data))
    assert [k.step_size.target for k in kernels] == [0.8, None, None, None]


# --- samplers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.5])
def test_annealed_langevin_s_noise_is_multiplied_by_noise_scale(nu, generator):
    """N(m, c): c <- (1 - e^2 / (2 v^2))^2 c + nu^2 e^2 a step, from the prior."""
    model, data, m = gaussian_model(generator)
    c = 5.0**2 + data.scale**2
    for i in range(12):
        v2, e2 = 0.49 + model.ladder.rung(i) ** 2, 0.64 * model.ladder.rung(i) ** 2
        for _ in range(2):
            c = (1 - e2 / (2 * v2)) ** 2 * c + nu**2 * e2
    sampler = AnnealedLangevin(steps=2, step_size=0.8, noise_scale=nu, denoise=False)
    check_law(draw(sampler, model, data)[0], m, torch.tensor(c))


# --- noise laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["gaussian", "mixture", "flow"])
@pytest.mark.parametrize("widen, data_noise", [(1.0, 0.3), (1.5, 0.0), (2.0, 0.3)])
def test_noise_has_the_data_s_widths_times_widen(law, widen, data_noise, generator, monkeypatch):
    """Two clusters 40 stds apart, each with known moments: within each component stds are widen * sqrt(S + floor +
    data_noise^2), where floor is a thousandth of the variance of all, and twice that in the mixture. The flow widens
    the whole law about its mean."""
    shapes = [torch.tensor([[1.0, 0.6], [0.6, 2.0]]).double(), torch.tensor([[0.5, 0.0], [0.0, 0.5]]).double()]
    far = [torch.tensor([-20.0, 0.0]).double(), torch.tensor([20.0, 0.0]).double()]
    x = torch.cat([exact_sample(m, s, 400, generator) for m, s in zip(far, shapes, strict=True)])
    floor = 1e-3 * float(x.var(0).mean())
    monkeypatch.setattr(Flow, "_fit", lambda flow, *_: setattr(flow, "told", ""))  # its law does not matter here
    if law == "flow":
        centre, spread = x.mean(0), (x.var(0) + floor + data_noise**2).sqrt()
        noise = fit_noise(law, x, 1, widen, data_noise, generator)
        torch.testing.assert_close(noise.centre, centre), torch.testing.assert_close(noise.spread, spread)
        y = noise.sample(500, torch.Generator().manual_seed(3))
        noise.widen = 1.0
        torch.testing.assert_close(y - centre, widen * (noise.sample(500, torch.Generator().manual_seed(3)) - centre))
        return
    noise = fit_noise(law, x, 2 if law == "mixture" else 1, widen, data_noise, generator)
    if law == "gaussian":
        expected = widen**2 * (x.T.cov() + (floor + data_noise**2) * torch.eye(2))
        drawn = noise.sample(200_000, generator).T.cov()
        torch.testing.assert_close(drawn, expected, rtol=0.02, atol=0.02 * float(expected[1, 1]))
        return
    for mean, s in zip(far, shapes, strict=True):
        k = int((noise.means - mean).norm(dim=1).argmin())
        torch.testing.assert_close(noise.means[k], mean, rtol=0, atol=1e-3)
        expected = widen**2 * (s + (2 * floor + data_noise**2) * torch.eye(2))
        torch.testing.assert_close(noise.covariances[k], expected, rtol=1e-3, atol=1e-3)


# --- diagnostics of chains ----------------------------------------------------------------------------------------


def folded_rhat(x, about):
    """Vehtari et al. 2021, in numpy and scipy: split R-hat of the normal quantiles of the ranks of |x - about|."""
    from scipy import stats

    z = (split(x) - about).abs().numpy()
    ranks = stats.rankdata(z).reshape(z.shape)
    z = stats.norm.ppf((ranks - 3 / 8) / (z.size + 1 / 4))
    n, within = z.shape[1], z.var(1, ddof=1).mean()
    return math.sqrt((n - 1) / n + z.mean(1).var(ddof=1) / within)


def test_rhat_is_folded_about_the_median(generator):
    """Skewed draws, whose mean is far from their median, and chains of unlike width about the median. The lower of the
    two middle draws serves as the median, which changes the fifth digit."""
    skewed = torch.randn(4, 500, generator=generator, dtype=torch.float64).mul(1.5).exp()
    sign = torch.where(torch.rand(4, 500, generator=generator) < 0.5, 1.0, -1.0)
    about_0 = sign * skewed * torch.tensor([0.5, 1.0, 1.0, 3.0])[:, None]
    x = torch.where(about_0 > 0, 20 * about_0, about_0).double()
    median, mean = folded_rhat(x, x.median()), folded_rhat(x, x.mean())
    assert float(rhat(x)) == pytest.approx(median, rel=1e-4)
    assert abs(mean - median) > 0.02, "by the mean it would be another number"


# --- who draws with which random numbers --------------------------------------------------------------------------


def test_samples_are_drawn_with_their_own_generator_and_not_with_the_evaluation_s(generator):
    data = Points(torch.randn(50, 2, generator=generator).double())
    exact = Exact(torch.zeros(2).double(), torch.eye(2).double())

    def seen(own, sampling):
        streams = [None if s is None else torch.Generator().manual_seed(s) for s in (own, sampling)]
        return EvalView(torch.sum, data, "test", exact, 9, 1, streams[0], sampling=streams[1], start=start_law(data))

    first, second, other = seen(1, 5), seen(2, 5), seen(1, 6)
    before = first.generator.get_state()
    assert torch.equal(first.samples, second.samples) and torch.equal(first.trajectory[0][1], second.trajectory[0][1])
    assert torch.equal(first.generator.get_state(), before), "the evaluation's own stream is not touched"
    assert not torch.equal(first.samples, other.samples)
    assert torch.equal(seen(3, None).samples, seen(3, None).samples)
    assert not torch.equal(seen(3, None).samples, seen(4, None).samples)


def test_a_run_s_samples_depend_on_split_step_and_seed_and_not_on_who_asks():
    """The first evaluation that asks for samples has them drawn; which one that is must not matter, nor what the
    training's own generator has given out."""

    def trainer(*more):
        made = assemble(compose_config([*TINY, "evaluation=[samples,mmd]", *more]))[0]
        made.evaluations.sampler = Drift(0.0)  # what is drawn is where chains begin
        return made

    one, two = trainer(), trainer()
    two.state.generator.manual_seed(99)
    begun = two.state.generator.get_state()
    first, second = one.evaluations.view("val", one.state.step), two.evaluations.view("val", two.state.step)
    one.evaluations.report("samples", first), two.evaluations.report("mmd", second)
    assert torch.equal(first.samples, second.samples)
    assert torch.equal(two.state.generator.get_state(), begun), "the training's own stream is not touched"
    assert not torch.equal(one.evaluations.view("test", one.state.step).samples, first.samples)
    assert not torch.equal(trainer("seed=1").evaluations.view("val", 0).samples, first.samples)
    one.state.costs.step = 7
    assert not torch.equal(one.evaluations.view("val", one.state.step).samples, first.samples)


def test_an_evaluation_s_numbers_do_not_depend_on_the_others_beside_it(tmp_path):
    """Chosen alone or last of three: the same bits, from the training's end to the summary."""
    numbers = []
    for chosen in ("[samples]", "[mmd,c2st,samples]"):
        made = ebm_lab.train([*TINY, f"evaluation={chosen}", f"output_dir={tmp_path}"], quiet=True)
        numbers.append({k: v for k, v in made.summary.items() if k in ("e_samples", "e_noise", "energy_gap")})
    assert numbers[0] == numbers[1] and len(numbers[0]) == 3
