"""The kind: a diagnostic of a sampler is computed for another kernel, or another law, than the one that ran."""

import math

import pytest
import torch

from ebm_lab.core.derived import Tempered
from ebm_lab.samplers.annealed_langevin import AnnealedLangevin
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.predictor_corrector import PredictorCorrector
from ebm_lab.samplers.probability_flow import ProbabilityFlow
from ebm_lab.samplers.underdamped import Underdamped
from tests.helpers import gaussian_energy
from tests.samplers.test_annealed import gaussian_model

FIXED = {"target_acceptance": None, "adapt_rate": 0.0, "mass": "identity", "warmup": None}
N = 40_000


def standard(d):
    return gaussian_energy(torch.zeros(d).double(), torch.eye(d).double())


def quartic(x):
    """E = sum x^4 / 4, whose gradient is x^3."""
    return (x**4).sum(1) / 4


def closed_form(eps):
    """Acceptance of a Langevin proposal x' = a x + eps z from x ~ N(0, 1), a = 1 - eps^2 / 2, by E min(1, R) = 2 P(R >
    1): R > 1 where x^2 > x'^2, where the Gaussians x - x' and x + x' have one sign."""
    a = 1 - eps**2 / 2
    v = a**2 + eps**2
    return 1 + 2 * math.asin((1 - v) / math.sqrt((1 + v) ** 2 - 4 * a**2)) / math.pi


def by_definition(energy, grad, x, new, eps, nu):
    """mean min(1, p(x') q(x | x') / (p(x) q(x' | x))), p = exp(-E / nu^2), q = N(x - eps^2 / 2 grad, (eps nu)^2 I)."""

    def log_q(to, start):
        return torch.distributions.Normal(start - eps**2 / 2 * grad(start), eps * nu).log_prob(to).sum(1)

    ratio = (energy(x) - energy(new)) / nu**2 + log_q(x, new) - log_q(new, x)
    return float(ratio.clamp_max(0).exp().mean())


def langevin(nu, eps, clip=None, steps=2):
    return Langevin(1.0, steps=steps, step_size=eps, noise_scale=nu, clip_grad=clip)


@pytest.mark.parametrize("nu", [0.01, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("eps", [0.5, 1.2])
def test_the_acceptance_of_langevin_at_equilibrium_is_the_closed_form_at_any_noise_scale(nu, eps, generator):
    """The law is N(0, nu^2), so that in units of nu the move, and with it the acceptance, is the same at each nu. The
    values lie in [0, 1], so that 4 standard errors are at most 4 * 0.5 / sqrt(40,000)."""
    x = nu * torch.randn(N, 1, generator=generator).double()
    out = langevin(nu, eps)(standard(1), x, {}, generator=generator)
    assert float(out.metrics["acceptance"]) == pytest.approx(closed_form(eps), abs=0.01)
    assert closed_form(0.5) > 0.97 and closed_form(1.2) < 0.9


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_acceptance_of_langevin_at_equilibrium_is_the_closed_form_where_samples_are_tempered(
    temperature, generator
):
    """Samples drawn at `sample_temperature` T have the energy E / T."""
    nu, eps = 0.3, 1.2 * temperature**0.5
    x = nu * temperature**0.5 * torch.randn(N, 1, generator=generator).double()
    out = langevin(nu, eps)(Tempered(standard(1), temperature), x, {}, generator=generator)
    assert float(out.metrics["acceptance"]) == pytest.approx(closed_form(1.2), abs=0.01)


@pytest.mark.parametrize("nu", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_acceptance_of_langevin_is_that_of_the_move_that_was_made(nu, clip):
    """By the definition, with densities of torch.distributions; a shortened gradient is what the proposal drifts by, on
    the way back as well."""
    eps, x = 0.6, torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double()

    def drift(x):
        grad = x**3
        norm = grad.norm(dim=1, keepdim=True)
        return grad if clip is None else torch.where(norm > clip, clip * grad / norm, grad)

    out = langevin(nu, eps, clip)(quartic, x, {}, generator=torch.Generator().manual_seed(7))
    z = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(7))
    new = x - eps**2 / 2 * drift(x) + eps * nu * z
    expected = by_definition(quartic, drift, x, new, eps, nu)
    assert 0.05 < expected < 0.99
    assert float(out.metrics["acceptance"]) == pytest.approx(expected, rel=1e-9)


def test_langevin_without_noise_has_no_acceptance(generator):
    """A gradient descent has no law; the other metric stays."""
    out = langevin(0.0, 0.3, steps=5)(standard(2), torch.randn(10, 2).double(), {}, generator=generator)
    assert out.metrics.keys() == {"chain_grad_norm"}


@pytest.mark.parametrize("nu", [1e-3, 1e-30])
def test_the_acceptance_of_very_cold_chains_is_a_number(nu, generator):
    x = torch.randn(10, 2, generator=generator)
    out = langevin(nu, 0.3, steps=5)(lambda x: x.square().sum(1) / 2, x, {}, generator=generator)
    assert 0 <= float(out.metrics["acceptance"]) <= 1 and out.metrics["acceptance"].dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_acceptance_of_mala_and_langevin_agree_where_their_moves_are_the_same(temperature, generator):
    """Langevin of noise scale nu and step eps makes the moves of MALA at T = nu^2 with step eps nu."""
    nu, eps = temperature**0.5, 0.8
    x = nu * torch.randn(N, 1, generator=generator).double()
    mala = MALA(1.0, steps=1, step_size=eps * nu, temperature=temperature, **FIXED)
    assert float(mala(standard(1), x, {}, generator=generator).metrics["acceptance"]) == pytest.approx(
        closed_form(eps), abs=0.01
    )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_acceptance_of_hmc_is_the_closed_form_at_any_temperature(temperature, generator):
    """One leapfrog step of size h is a Langevin proposal of eps = h; U = E / T."""
    x = temperature**0.5 * torch.randn(N, 1, generator=generator).double()
    h = 0.8 * temperature**0.5
    hmc = HMC(1.0, steps=1, leapfrog=1, step_size=h, temperature=temperature, **FIXED)
    assert float(hmc(standard(1), x, {}, generator=generator).metrics["acceptance"]) == pytest.approx(
        closed_form(0.8), abs=0.01
    )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("friction", [0.0, 2.0])
def test_the_acceptance_of_underdamped_chains_is_the_ratio_of_the_two_paths(temperature, friction):
    """exp(-(H' - H) / T) N(z') / N(z), where z' is the noise that takes (x', -v') back to (x, -v)."""
    h, g = 0.7, torch.Generator().manual_seed(3)
    x, v = (torch.randn(500, 2, generator=g).double() for _ in range(2))
    sampler = Underdamped(1.0, steps=1, step_size=h, friction=friction, temperature=temperature)
    out = sampler(quartic, x, {"v": v}, generator=torch.Generator().manual_seed(5))
    z = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(5))
    c, hot = math.exp(-friction * h), math.sqrt(temperature)
    before = v - h / 2 * x**3
    after = c * before + hot * math.sqrt(1 - c**2) * z
    new = x + h / 2 * before + h / 2 * after
    v_new = after - h / 2 * new**3
    change = quartic(new) - quartic(x) + (v_new.square() - v.square()).sum(1) / 2
    log_ratio = -change / temperature
    if friction:
        back = (-before + c * after) / (hot * math.sqrt(1 - c**2))
        log_ratio = log_ratio + (z.square() - back.square()).sum(1) / 2
    expected = float(log_ratio.clamp_max(0).exp().mean())
    assert 0.3 < expected < 0.99
    assert float(out.metrics["acceptance"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "sampler",
    [
        AnnealedLangevin(steps=1, step_size=0.1, noise_scale=0.5, denoise=False),
        PredictorCorrector(steps=1, corrections=1, snr=0.1, denoise=False),
        ProbabilityFlow(steps=1, denoise=False),
    ],
    ids=lambda s: type(s).__name__,
)
def test_chain_sigma_is_the_level_that_the_chains_have_reached(sampler, generator):
    """Samplers that step from level to level are at the next one after a call; all end at sigma_min."""
    model = gaussian_model(generator)[0]
    x, state, seen = sampler.start(model).sample(10, generator), {}, []
    for _ in range(sampler.rungs(model)):
        x, state, metrics, _ = sampler(model, x, state, generator=generator)
        seen.append(float(metrics["chain_sigma"]))
    first = model.ladder.levels - sampler.rungs(model)
    assert seen == pytest.approx([model.ladder.rung(i) for i in range(first, model.ladder.levels)])
