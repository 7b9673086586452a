"""Annealed importance sampling and sequential Monte Carlo of discrete data, against enumeration."""

import itertools

import pytest
import torch
from torch.nn.functional import logsigmoid, softplus

from ebm_lab.core.choice import Choice
from ebm_lab.core.discrete import Sites, log_odds
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import reason_against
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.registry import build, find, parse
from ebm_lab.distributions.enumeration import energies, log_z_of
from ebm_lab.distributions.product import product_law
from ebm_lab.energies.rbm import RBM
from ebm_lab.evaluation._annealed_base import fit_model
from ebm_lab.evaluation._annealed_importance import forward_log_weights, log_mean_exp, reverse_log_weights
from ebm_lab.evaluation._annealed_path import Journey, Path
from ebm_lab.evaluation._annealed_sites import AnnealedSites
from ebm_lab.evaluation._bits_per_dim import PIXELS
from ebm_lab.runs.compatibility import faults
from tests.energies.test_discrete import known_rbm, random_potts
from tests.evaluation.test_ais import HMC3, settings, view
from tests.helpers import Discrete, Points

GIBBS = {"name": "gibbs", "steps": 4, "scan": "sweep"}
KERNELS = [
    GIBBS,
    {"name": "gibbs", "steps": 3, "scan": "random"},
    {"name": "gwg", "steps": 3},
    {"name": "locally_balanced", "steps": 2, "balance": "barker"},
    {"name": "dmala", "steps": 2, "step_size": 0.5},
]
B = [0.0, 0.5, 1.0]


def bits(d=4, n=300, p=0.6):
    return Discrete((torch.rand(n, d, generator=torch.Generator().manual_seed(0)) < p).double())


def categories():
    which = torch.randint(3, (300, 3), generator=torch.Generator().manual_seed(0))
    return Discrete(torch.eye(3)[which].mT.double(), one_hot=True)


CASES = [pytest.param(known_rbm(), bits(), id="rbm"), pytest.param(random_potts(), categories(), id="potts")]


def kernel_matrix(target, sites, like):
    """Gibbs sampling of a random site, (states, states), from the log odds of the energy."""
    x = torch.cat(list(sites.every(like)))
    odds = torch.where(sites.moves(x), log_odds(target, x, sites), -torch.inf)
    k = sites.by_site(odds)  # (states, K or 1, d)
    p = torch.cat([k, torch.zeros_like(k[:, :1])], 1).softmax(1)[:, :-1].flatten(1) / sites.count
    matrix, rows = torch.zeros(len(x), len(x)).double(), torch.arange(len(x))
    for m in range(sites.changes):
        matrix[rows, sites.number(sites.apply(x, torch.full((len(x),), m)))] += p[:, m]
    matrix[rows, rows] = 0
    return matrix + (1 - matrix.sum(1)).diag()


@pytest.mark.parametrize("energy, data", CASES)
def test_enumerated_paths_have_the_exact_expectations(energy, data):
    """Temperatures 0, 1/2, 1: sum over x_0 and x_1 of p_0(x_0) K(x_0, x_1) w = Z, and in reverse 1 / Z. The kernel is
    made of the log odds of p_1/2, so that a wrong one breaks both."""
    sites = Sites(data.event_shape, data.event_shape[0] if data.space == "categorical" else 2, data.space != "binary")
    model = fit_model(energy, data, "covariance", 0.1)
    x = torch.cat(list(sites.every(data.train)))
    with torch.no_grad():
        u = -model(x) - model.base.log_prob(x)
        p_0, p_1 = model.base.log_prob(x).exp(), (-model(x)).softmax(0)
        half = AnnealedSites(model, model.base, 0.5)  # type: ignore[arg-type]
        p_half, k = (-half(x)).softmax(0), kernel_matrix(half, sites, data.train)
    log_z = log_z_of(energies(energy, sites, data.train))
    torch.testing.assert_close(p_half @ k, p_half, atol=1e-14, rtol=0)
    w = (0.5 * (u[:, None] + u)).exp()
    assert float((p_0[:, None] * k * w).sum().log()) == pytest.approx(log_z, abs=1e-12)
    assert float((p_1[:, None] * k / w).sum().log()) == pytest.approx(-log_z, abs=1e-12)


@pytest.mark.parametrize("energy, data", CASES)
def test_the_path_has_the_formulas_of_both_ends(energy, data):
    x, base = data.train[:20], product_law(data)
    path = AnnealedSites(energy, base, 0.3)
    e, grad = energy_and_grad(path, x)
    direct = x.clone().requires_grad_(True)
    value = 0.3 * energy(direct) - 0.7 * base.log_prob(direct)
    (slope,) = torch.autograd.grad(value.sum(), direct)
    torch.testing.assert_close(e, value.detach())
    torch.testing.assert_close(grad, slope)
    plain = log_odds(lambda y: 0.3 * energy(y) - 0.7 * base.log_prob(y), x, path.sites)
    torch.testing.assert_close(path.log_odds(x), plain)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: "-".join(str(v) for v in k.values()))
@pytest.mark.parametrize("energy, data", CASES)
def test_every_kernel_has_the_expectations(energy, data, kernel, generator):
    """Three temperatures, 20,000 chains each way, from exact samples: within 4 standard errors of enumeration."""
    sites = build("sampler", kernel, dataset=data).sites
    model = fit_model(energy, data, "covariance", 0.1)
    journey = Journey(
        model, model.base, build("sampler", kernel, dataset=data), Path([], [], []), "linear", generator, model.family
    )
    log_z = log_z_of(energies(energy, sites, data.train))
    x = torch.cat(list(sites.every(data.train)))
    exact = x[torch.multinomial((-model(x)).detach().softmax(0), 20_000, replacement=True, generator=generator)]
    start = model.base.sample(20_000, generator)
    value, se = log_mean_exp(forward_log_weights(journey.rise, B, journey.mover(B), start)[0])
    assert abs(float(value) - log_z) < 4 * float(se) and float(se) < 0.01
    minus, se = log_mean_exp(-reverse_log_weights(journey.rise, B, journey.mover(B), exact)[0])
    assert abs(float(-minus) - log_z) < 4 * float(se) and float(se) < 0.01


def test_a_sweep_goes_on_where_the_last_move_ended(generator):
    """With one update a move, all four sites get their turn; else three of them would stay as the base drew them."""
    model = fit_model(known_rbm(), bits(), "covariance", 0.1)
    kernel = build("sampler", {"name": "gibbs", "steps": 1, "scan": "sweep"}, dataset=bits())
    journey = Journey(model, model.base, kernel, Path([], [], []), "linear", generator, model.family)
    x, moved = model.base.sample(2000, generator), []
    for _ in range(4):
        new = journey.move(x, 1.0)
        moved.append((new != x).any(0).nonzero().flatten().tolist())
        x = new
    assert moved == [[0], [1], [2], [3]]


def evaluation(transition=HMC3, name="ais", data=None, **changes):
    more = settings(transition=transition, **changes)
    if name == "smc":
        more = {key: more[key] for key in ("schedule", "base", "base_floor", "transition", "temperatures")}
        more |= {"name": "smc", "runs": 20, "particles": 50, **changes}
    return build("evaluation", more, f"evaluation.{name}", dataset=data or bits(), scale=1.0)


def sweep_matrix(path, x):
    """One sweep of both layers, (states, states): sum over h of p(h | x) p(x' | h)."""
    h = torch.cat(list(Sites((3,)).every(path.c)))
    up, down = x @ path.w.T + path.c, h @ path.w + path.b
    hidden = (h[None] * logsigmoid(up)[:, None] + (1 - h[None]) * logsigmoid(-up)[:, None]).sum(2).exp()
    visible = (x[None] * logsigmoid(down)[:, None] + (1 - x[None]) * logsigmoid(-down)[:, None]).sum(2).exp()
    return hidden @ visible


def test_the_path_of_the_hidden_units():
    """Bits with the model's own b, temperatures 0, 1/2, 1 and one sweep between them: E w = Z, E log w = 4.8973477 and
    log Z_0 = 5.3893476, by enumeration. The matrix is made of the parameters of p_1/2, which it must leave as it is."""
    rbm = known_rbm()
    logits = rbm.b.detach()
    x = torch.cat(list(Sites((4,)).every(logits)))
    first, half, last = (rbm.annealed(logits, b) for b in (0.0, 0.5, 1.0))
    assert float(first.shift) == pytest.approx(5.3893476, abs=5e-8)
    torch.testing.assert_close(-first(x), (x * logits - softplus(logits)).sum(1))
    torch.testing.assert_close(last(x), rbm(x).detach())
    k, p_half = sweep_matrix(half, x), (-half(x)).softmax(0)
    torch.testing.assert_close(p_half @ k, p_half, atol=1e-14, rtol=0)
    pair = (-first(x)).exp()[:, None] * k
    log_w = (first(x) - half(x))[:, None] + half(x) - last(x)
    assert float((pair * log_w.exp()).sum().log()) == pytest.approx(4.8979962, abs=5e-8)
    assert float((pair * log_w).sum()) == pytest.approx(4.8973477, abs=5e-8)


def test_sweeps_along_the_path_have_the_expectations(generator):
    """Three temperatures, 20,000 chains each way: within 4 standard errors of log Z, from bits of other logits."""
    model = fit_model(known_rbm(), bits(), "covariance", 0.1, hidden=True)
    kernel = build("sampler", {"name": "block_gibbs", "steps": 1}, dataset=bits())
    journey = Journey(model, model.base, kernel, Path([], [], []), "linear", generator, model.family)
    x = torch.cat(list(Sites((4,)).every(bits().train)))
    exact = x[torch.multinomial((-model(x)).detach().softmax(0), 20_000, replacement=True, generator=generator)]
    log_w = forward_log_weights(journey.rise, B, journey.mover(B), model.base.sample(20_000, generator))[0]
    for sign, found in ((1, log_w), (-1, -reverse_log_weights(journey.rise, B, journey.mover(B), exact)[0])):
        value, se = log_mean_exp(found)
        assert abs(sign * float(value) - 4.8979962) < 4 * float(se) < 0.02


@pytest.mark.parametrize("transition", [HMC3, {"name": "gwg", "steps": 4}, {"name": "block_gibbs", "steps": 1}])
def test_ais_of_an_rbm(transition):
    """Forward and reverse within 4 standard errors of log Z; the default kernel is replaced, in words."""
    report = evaluation(transition, chains=400, temperatures=50)(view(known_rbm(), bits(), count=400))
    m = report.metrics
    assert m["ais_exact_log_z"] == pytest.approx(4.8979962, abs=5e-8)
    assert abs(m["ais_error"]) < 4 * m["ais_log_z_se"] and m["ais_log_z_se"] < 0.02
    assert abs(m["ais_log_z_reverse"] - m["ais_exact_log_z"]) < 4 * m["ais_log_z_reverse_se"]
    nll = float(known_rbm()(bits().test).detach().mean())
    assert m["ais_nll"] == pytest.approx(nll + m["ais_log_z"], abs=1e-9)
    assert m["ais_nll_base"] == pytest.approx(-float(product_law(bits()).log_prob(bits().test).mean()), abs=1e-9)
    assert "nll_independent" in m and "ais_nll_above_independent_se" in m and "ais_bits_per_dim" in m
    said = "evaluation.ais.transition: HMC moves real numbers, and the data are bits: its place takes block_gibbs, 5"
    assert [said in note for note in report.notes].count(True) == (transition is HMC3) and PIXELS not in report.notes


def test_smc_of_an_rbm():
    report = evaluation(name="smc", temperatures=10)(view(known_rbm(), bits(), count=50))
    m = report.metrics
    assert abs(m["smc_log_z"] - 4.8979962) < 4 * m["smc_log_z_se"] and m["smc_log_z_se"] < 0.02
    assert "block_gibbs" in report.notes[0] and "smc_bits_per_dim" in m


def test_larger_points_get_dmala_and_an_energy_without_a_gradient_gibbs():
    large = Discrete((torch.rand(50, 40) < 0.5).double())
    torch.manual_seed(0)

    class NoPath(RBM):
        offers = Energy.offers

    for kind, takes in ((NoPath, "dmala"), (RBM, "block_gibbs")):
        report = evaluation(temperatures=20)(view(kind(large, hidden=3, weight_std=0.5).double(), large))
        assert takes in report.notes[0] and abs(report.metrics["ais_error"]) < 5 * report.metrics["ais_log_z_se"]

    class NoGradient(Energy):
        offers = frozenset({"energy"})

        def forward(self, x):
            return x.round().sum(1)

    assert "one sweep over the 40 sites" in evaluation(temperatures=5)(view(NoGradient(), large)).notes[0]


def test_categories_are_annealed_too():
    gwg = evaluation({"name": "gwg", "steps": 5}, data=categories(), chains=400, temperatures=50)
    report = gwg(view(random_potts(), categories(), count=400))
    assert abs(report.metrics["ais_error"]) < 4 * report.metrics["ais_log_z_se"] < 0.1


def run_of(data, transition, name="ais"):
    ais = parse("evaluation", settings(transition=transition), f"evaluation.{name}")
    pairs = (("energy", "mlp"), ("objective", "mle"))
    run = {kind: Choice(kind, chosen, kind, find(kind, chosen), {}) for kind, chosen in pairs}
    return [line for line in faults({**run, "evaluation.ais": ais}, data) if "transition" in line]


def test_which_kernels_a_run_accepts():
    real = Points(torch.randn(9, 2))
    assert run_of(bits(), HMC3) == run_of(bits(), GIBBS) == run_of(real, HMC3) == []
    (line,) = run_of(real, GIBBS)
    assert line == (
        "evaluation.ais.transition=gibbs: needs discrete values, and the data has real numbers: choose "
        "evaluation.ais.transition=adjusted_mclmc, barker, hmc, mala or nuts"
    )
    langevin = {"name": "langevin", "steps": 1, "step_size": 0.5, "noise_scale": 1.0, "clip_grad": None}
    (line,) = run_of(bits(), langevin)
    assert line.startswith("evaluation.ais.transition.name=langevin: must be block_gibbs, dmala, gibbs, gwg or locally")
    with pytest.raises(UserError, match="evaluation.ais.transition: Gibbs is not for these data, which are real numbe"):
        evaluation(GIBBS)(view(lambda x: 0.5 * (x**2).sum(1), real))
    layers = {"name": "block_gibbs", "steps": 1}
    (line,) = run_of(bits(), layers)
    assert "draws each coordinate given the others" in line
    with pytest.raises(UserError, match="transition=BlockGibbs: draws many sites at once, and p_b has no formula"):
        evaluation(layers)(view(random_potts(), categories()))


def test_discrete_values_of_another_kind_are_left_out():
    class Counts(Points):
        offers = frozenset({"discrete"})

    counts = Counts(torch.tensor(list(itertools.product([0.0, 1, 2], repeat=2))))
    for name in ("ais", "smc"):
        line = reason_against(evaluation(name=name), view(lambda x: x.sum(1), counts))
        assert line == "the data are discrete, and neither bits nor one-hot categories"
