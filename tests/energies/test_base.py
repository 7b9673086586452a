"""Energies on a base: what they are without a network, their derivatives, and that their Z exists."""

import copy
import math

import pytest
import torch

from ebm_lab.core import functional
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad, score_and_curvature, score_and_trace
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.registry import build
from ebm_lab.distributions import fitting
from ebm_lab.distributions.base import BaseLaw
from ebm_lab.distributions.quadrature import cubature_log_z
from ebm_lab.distributions.start import start_law
from ebm_lab.energies.mlp import MLP
from ebm_lab.energies.noise_mlp import NoiseMLP
from ebm_lab.models.base import RADIUS, Bound
from ebm_lab.objectives.nce import NCE
from tests.helpers import Points
from tests.models.test_levels import PLAIN

POINT_LAWS = ("gaussian", "mixture", "student", "auto")
CONFINE = {"confine": 2.0, "confine_shape": "isotropic", "confine_floor": 0.1}
LADDER = {"sigma_min": 0.1, "sigma_max": 5.0, "levels": 5}
NETS = {
    "mlp": {"hidden": [8, 8], "activation": "silu", **CONFINE},
    "noise_mlp": {"hidden": [8], "activation": "silu", **LADDER},
    "conv": {"channels": [4, 4], "hidden": 8, "activation": "silu", **CONFINE},
    "resnet": {"channels": [4, 8], "blocks": 1, "activation": "silu", "spectral_norm": False, **CONFINE},
    "noise_conv": {"channels": [4, 4], "hidden": 8, "activation": "silu", **LADDER},
    "noise_unet": {"form": "half", **PLAIN},
}


@pytest.fixture(autouse=True, scope="module")
def fitted_once():
    """Fit a mixture to the same points once for all tests: the fit depends on its arguments alone."""
    known, fit = {}, fitting.fit_components

    def remembered(x, k, starts, hidden=None):
        key = (x.double().numpy().tobytes(), k, starts, None if hidden is None else hidden.numpy().tobytes())
        if key not in known:
            known[key] = fit(x, k, starts, hidden)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit_components", remembered)
        yield


def points(generator, dtype=torch.float32):
    """Two modes of different width in the plane."""
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 1.0])
    return Points((x + 4 * torch.randint(0, 2, (400, 1), generator=generator)).to(dtype))


def pictures(generator):
    return Points(torch.rand(40, 1, 8, 8, generator=generator), bounds=(0.0, 1.0))


def energy_of(name, base, data):
    torch.manual_seed(0)
    return build("energy", {"name": name, **NETS[name], "base": base}, dataset=data)


def stirred(energy):
    """With a last layer that is not zero."""
    last = [m for m in energy.modules() if isinstance(m, torch.nn.Linear)][-1] if isinstance(energy, MLP) else None
    layer = last if last is not None else energy.net.last
    torch.nn.init.normal_(layer.weight)
    return energy


CASES = [*((n, b) for n in ("mlp", "noise_mlp") for b in POINT_LAWS), *((n, "gaussian") for n in NETS)]


@pytest.mark.parametrize("name, base", CASES)
def test_an_energy_begins_at_its_base(name, base, generator):
    """E = -log base before the first step, blurred along at every level; to the rounding of float32."""
    data = points(generator) if name in ("mlp", "noise_mlp") else pictures(generator)
    energy = energy_of(name, base, data)
    x = data.train[:20] * 1.5
    torch.testing.assert_close(energy(x), -energy.base.log_prob(x), rtol=1e-6, atol=1e-5)
    if name.startswith("noise"):
        sigma = torch.linspace(0.1, 5.0, 20)
        torch.testing.assert_close(energy.energy(x, sigma), energy.law(x, sigma), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(energy(x), energy.law(x, 0.1), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(energy.prior().log_prob(x), -energy.law(x, 5.0), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_without_a_base_nothing_is_added(name, generator):
    """No buffer, no bound and no law: checkpoints of earlier versions load as they are."""
    data = points(generator) if name in ("mlp", "noise_mlp") else pictures(generator)
    energy = energy_of(name, "none", data)
    assert energy.base is None and energy.bound is None and not energy.notes
    assert not any(key.startswith("law") for key in energy.state_dict())


@pytest.mark.parametrize("name", ["mlp", "noise_mlp"])
@pytest.mark.parametrize("base", ["gaussian", "mixture", "student"])
def test_a_state_dict_carries_the_base(name, base, generator):
    """Into an energy that was fitted to other data, with another number of Gaussians."""
    energy = stirred(energy_of(name, base, points(generator)))
    other = energy_of(name, base, Points(3 * torch.randn(300, 2, generator=generator)))
    other.load_state_dict(energy.state_dict())
    other.mean.copy_(energy.mean)
    other.scale = energy.scale
    x = torch.randn(6, 2, generator=generator)
    torch.testing.assert_close(other(x), energy(x))


@pytest.mark.parametrize("dimensions", [1, 3])
def test_the_bound_keeps_its_radius_and_its_derivatives(dimensions, generator):
    """|w| < sqrt(d) R, w = z to second order near 0; J and w'' against automatic differentiation."""
    bound = Bound(dimensions)
    z = 20 * torch.randn(5, dimensions, generator=generator, dtype=torch.float64)
    v, g = torch.randn(2, 5, dimensions).double(), torch.randn(5, dimensions).double()
    assert (bound(1e6 * z).norm(dim=1) <= dimensions**0.5 * RADIUS).all()
    torch.testing.assert_close(bound(1e-5 * z), 1e-5 * z, rtol=1e-7, atol=0)
    rows = [(z[i : i + 1], g[i]) for i in range(5)]
    jacobians = [torch.autograd.functional.jacobian(bound, row)[0, :, 0] for row, _ in rows]
    exact = torch.stack([v[:, i] @ j.T for i, j in enumerate(jacobians)], 1)
    torch.testing.assert_close(bound.turn(z, v), exact, rtol=1e-9, atol=1e-12)
    bends = [torch.autograd.functional.hessian(lambda y, h=h: (bound(y) * h).sum(), row)[0, :, 0] for row, h in rows]
    exact = torch.stack([(v[:, i] @ h * v[:, i]).sum() for i, h in enumerate(bends)])
    torch.testing.assert_close(bound.bend(z, v, g), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("base", ["gaussian", "mixture", "student"])
@pytest.mark.parametrize("activation", ["silu", "tanh"])
def test_the_formulas_are_autograd_s(base, activation, generator, monkeypatch):
    """Energy, gradient, curvature, trace and the parameters' gradients, in float64 and far out too."""
    data = points(generator, torch.float64)
    torch.manual_seed(0)
    energy = stirred(MLP(data, hidden=[9, 7], activation=activation, base=base, **CONFINE).double())
    x = torch.cat([data.train[:5], 30 * data.train[5:8]])
    v = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)

    def everything():
        energy.zero_grad()
        e, s, bend = score_and_curvature(energy, x, v)
        _, grad = energy_and_grad(energy, x)
        trace = score_and_trace(energy, x, 1)[2]
        (e.sum() + (s * v[0]).sum() + bend.sum() + trace.sum()).backward()
        return [e.detach(), s.detach(), bend.detach(), grad, trace.detach(), *(p.grad for p in energy.parameters())]

    assert energy.gradient() is not None and energy.derivatives(x, v) is not None
    fast = everything()
    with monkeypatch.context() as patch:
        patch.setattr(functional, "_formulas", lambda energy: None)
        slow = everything()
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("base", ["gaussian", "mixture", "student"])
def test_the_rate_of_a_level_is_that_of_the_blurred_law(base, generator):
    """dE / d log sigma against a central difference; error (1e-4)^2 of a third derivative of order one."""
    data = points(generator, torch.float64)
    energy = stirred(NoiseMLP(data, hidden=[8], activation="silu", base=base, **LADDER).double())
    x, sigma, h = data.train[:8], torch.linspace(0.2, 4, 8).double(), 1e-4
    _, grad, rate = energy.level_gradients(x, sigma)
    up, down = (energy.energy(x, sigma * math.exp(step)) for step in (h, -h))
    torch.testing.assert_close(rate, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, -energy.score(x, sigma), rtol=1e-9, atol=1e-9)


def heavy(generator, n=1000):
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    g = 2 * torch._standard_gamma(torch.full((n,), 1.5, dtype=torch.float64), generator=generator)
    return Points(z * (3 / g).sqrt()[:, None])


def test_z_exists_on_a_student_base_however_large_the_network(generator):
    """f is at most c where |w| <= sqrt(2) R, so that |log Z| <= c; and log Z is found by cubature, tails and all."""
    data = heavy(generator)
    energy = stirred(MLP(data, hidden=[16], activation="silu", base="student", **CONFINE).double())
    with torch.no_grad():
        energy.net[-1].weight.abs_().mul_(-5)
        w = 2**0.5 * RADIUS * (2 * torch.rand(4000, 2, generator=generator, dtype=torch.float64) - 1)
        f = energy.net(w[w.norm(dim=1) <= 2**0.5 * RADIUS]).squeeze(1)
    assert float(f.min()) < -10, "a network that would win against the base, were it not bounded"
    found = cubature_log_z(energy, data.train, 401)
    assert found.trouble is None and math.isfinite(found.value) and found.bound < 1e-3
    assert -float(f.max()) - 0.1 <= found.value <= -float(f.min()) + 0.1
    bounded, energy.bound = energy.bound, lambda u: u
    far = 1e6 * torch.nn.functional.normalize(torch.randn(64, 2, generator=generator, dtype=torch.float64))
    assert float(energy(far).detach().min()) < -1e5, "unbounded, the same network has no Z"
    energy.bound = bounded
    growth = (energy(10 * far) - energy(far)).detach()
    torch.testing.assert_close(growth, (energy.law.nu + 2) * math.log(10) * torch.ones(64).double(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", ["mlp", "noise_mlp"])
@pytest.mark.parametrize("base", ["gaussian", "mixture", "student"])
def test_nce_takes_the_base_for_its_noise(name, base, generator):
    """Where f = 0 and c = 0 the logit of k noise points is -log k at every point, and c begins at 0."""
    data = points(generator)
    energy = energy_of(name, base, data)
    settings = {"components": 3, "widen": 1.0, "noise_ratio": 1, "data_noise": 0.0, "loss": "logistic"}
    objective = NCE(energy, data, generator, noise="auto", **settings)
    assert objective.resolved == {"noise": "base"} and isinstance(objective.noise, BaseLaw)
    x = torch.cat([data.train[:20], objective.noise.sample(20, generator)])
    logits = -energy(x) - objective.log_z - objective.noise.log_prob(x)
    torch.testing.assert_close(logits, torch.zeros(40), rtol=0, atol=1e-5)
    assert float(objective(Batch(data.train[:64])).value.detach()) == pytest.approx(2 * math.log(2), abs=1e-5)
    assert not any(key.startswith("noise") for key in objective.state_dict()), "held once, by the energy"


@pytest.mark.slow
def test_nce_without_a_base_has_a_gaussian_as_before(generator):
    data = points(generator)
    settings = {"components": 3, "widen": 1.5, "noise_ratio": 1, "data_noise": 0.0, "loss": "logistic"}
    objective = NCE(energy_of("mlp", "none", data), data, generator, noise="auto", **settings)
    named = NCE(energy_of("mlp", "none", data), data, generator, noise="gaussian", **settings)
    x = data.train[:9]
    assert objective.resolved == {"noise": "gaussian"} and not named.resolved
    assert torch.equal(objective.noise.log_prob(x), named.noise.log_prob(x))
    with pytest.raises(UserError, match="objective.noise=base: the energy has no base"):
        NCE(energy_of("mlp", "none", data), data, generator, noise="base", **{**settings, "widen": 1.0})
    with pytest.raises(UserError, match="objective.widen=1.5: must be 1"):
        NCE(energy_of("mlp", "mixture", data), data, generator, noise="auto", **settings)
    with pytest.raises(UserError, match="energy.base=student"):
        blurred = {**settings, "widen": 1.0, "data_noise": 0.3}
        NCE(energy_of("mlp", "student", data), data, generator, noise="auto", **blurred)


def test_noise_on_the_data_blurs_the_base_that_is_the_noise(generator):
    data = points(generator)
    settings = {"components": 3, "widen": 1.0, "noise_ratio": 1, "data_noise": 0.5, "loss": "logistic"}
    energy = energy_of("mlp", "mixture", data)
    noise, x = NCE(energy, data, generator, noise="auto", **settings).noise, data.train[:9]
    torch.testing.assert_close(noise.log_prob(x), -energy.law(x, 0.5 * data.scale))


def test_chains_start_at_the_base(generator):
    """But where the data set names its own start, there."""
    data = points(generator)
    energy = energy_of("mlp", "gaussian", data)
    assert isinstance(start_law(data, energy), BaseLaw)
    assert not isinstance(start_law(data, energy_of("mlp", "none", data)), BaseLaw)
    data.start = start_law(data)
    assert start_law(data, energy) is data.start
