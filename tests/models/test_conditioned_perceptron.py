"""Formulas for the derivatives of a perceptron that is conditioned on its noise level, against automatic
differentiation, in float64, and those in turn against finite differences.

Both are the same sums in another order: 1e-10 of the size is thousands of roundings.
"""

import pytest
import torch

from ebm_lab.core import functional
from ebm_lab.core.functional import energy_and_grad, gradient_of, level_gradients
from ebm_lab.core.registry import build
from ebm_lab.energies.noise_mlp import NoiseMLP
from ebm_lab.models.conditioned_perceptron import derivatives
from ebm_lab.models.perceptron import SMOOTH
from tests.helpers import Points

LADDER = {"sigma_min": 0.1, "sigma_max": 5.0, "levels": 5}
BASES = ("none", "gaussian", "mixture", "student")
CASES = [*((a, [9, 7, 5], "none") for a in ("silu", "softplus", "tanh", "gelu")), *(("silu", [6], b) for b in BASES)]
LEVELS = {"one of each": torch.linspace(0.1, 4, 6).double(), "a number": 0.4, "a tensor": torch.tensor(0.4).double()}


def model(activation="silu", hidden=(9, 7), base="none", name="noise_mlp"):
    """With every parameter, those of the levels too, away from where it begins."""
    torch.manual_seed(0)
    data = Points(torch.cat([torch.randn(60, 3), torch.randn(60, 3) + 2]).double())
    data.labels = dict.fromkeys(("train", "val", "test"), torch.arange(120) % 2)
    settings = {"name": name, "hidden": list(hidden), "activation": activation, "base": base, **LADDER}
    energy = build("energy", settings, dataset=data).double()
    for p in energy.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return energy


def x():
    return 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cotangents(parts):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parts]


def with_parameters(energy, parts):
    """Values, and the gradient of a random combination of them in every parameter."""
    total = sum((c * p).sum() for c, p in zip(cotangents(parts), parts, strict=True))
    grads = torch.autograd.grad(total, list(energy.parameters()), materialize_grads=True)
    return [*(p.detach() for p in parts), *grads]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def without(monkeypatch, f):
    with monkeypatch.context() as patch:
        patch.setattr(functional, "_formulas", lambda energy: None)
        return f()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation, hidden, base", CASES)
def test_energy_and_gradient_are_those_of_autograd(activation, hidden, base, level, monkeypatch):
    """With a graph to the parameters, and without any; a level for each point, and one for all."""
    energy = model(activation, hidden, base)
    at = energy.given(sigma=LEVELS[level])
    assert at.derivatives(x(), x().new_empty(0, 6, 3)) is not None

    def known():
        return with_parameters(energy, energy_and_grad(at, x(), create_graph=True))

    close(known(), without(monkeypatch, known))
    close(gradient_of(at)(x()), without(monkeypatch, lambda: gradient_of(at)(x())))
    assert (at.gradient() is None) == (level == "one of each")


@pytest.mark.parametrize("activation, hidden, base", CASES)
def test_rates_of_the_level_are_those_of_autograd(activation, hidden, base):
    """E, grad E and dE / d log sigma; and the energy's own, at its lowest level."""
    energy, sigma = model(activation, hidden, base), LEVELS["one of each"]
    assert energy.known_rates(x(), sigma) is not None
    own, usual = energy.level_gradients(x(), sigma), level_gradients(energy.energy, x(), sigma)
    close(with_parameters(energy, own), with_parameters(energy, usual))
    close(gradient_of(energy)(x()), energy_and_grad(energy.given(sigma=0.1), x()))


def test_each_cotangent_alone_is_carried_back():
    """Values of which only one is used: the parts of the backward pass that it leaves out are not needed for it."""
    energy, sigma = model(), LEVELS["one of each"]
    for part in range(3):
        own, usual = energy.level_gradients(x(), sigma), level_gradients(energy.energy, x(), sigma)
        close(with_parameters(energy, own[part : part + 1]), with_parameters(energy, usual[part : part + 1]))


def test_the_function_s_gradients_are_finite_differences():
    """Of f, grad f and df/dfilm in the film, the weights and the biases: torch's own check, in float64."""
    torch.manual_seed(3)
    sizes = ((4, 3), (5, 4), (1, 5))
    weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes]
    biases = [torch.randn(s[0], dtype=torch.float64, requires_grad=True) for s in sizes]
    film = torch.randn(6, 18, dtype=torch.float64, requires_grad=True)

    def f(film, *parameters):
        return derivatives(SMOOTH[torch.nn.Tanh], x(), film, parameters[:3], parameters[3:], True)

    torch.autograd.gradcheck(f, (film, *weights, *biases))


@pytest.mark.parametrize("name, activation", [("labelled_noise_mlp", "silu"), ("noise_mlp", "relu")])
def test_what_the_formulas_do_not_cover_is_differentiated_automatically(name, activation):
    """Several outputs, and an activation without a second derivative; relu has a first one, for samplers."""
    energy, sigma = model(activation, name=name), LEVELS["one of each"]
    at = energy.given(sigma=0.4)
    assert at.derivatives(x(), x().new_empty(0, 6, 3)) is None and energy.known_rates(x(), sigma) is None
    assert (at.gradient() is None) == (name == "labelled_noise_mlp")
    close(energy.level_gradients(x(), sigma)[:2], energy_and_grad(energy.given(sigma=sigma), x(), create_graph=True))


def test_a_class_of_its_own_has_no_formulas():
    """Whatever it changes of the energy."""

    class Doubled(NoiseMLP):
        def energy(self, x, sigma):
            return 2 * super().energy(x, sigma)

    energy, sigma = model(), LEVELS["one of each"]
    expected = [2 * part for part in energy.level_gradients(x(), sigma)]
    energy.__class__ = Doubled
    close(list(energy.level_gradients(x(), sigma)), expected)
    close(energy_and_grad(energy.given(sigma=sigma), x())[1], expected[1])


def test_mixed_precision_uses_no_formula(monkeypatch):
    energy = model().float()
    monkeypatch.setattr(NoiseMLP, "known_rates", lambda *_: pytest.fail("a formula was used"))
    monkeypatch.setattr(NoiseMLP, "derivatives_given", lambda *_, **__: pytest.fail("a formula was used"))
    with torch.autocast("cpu", torch.bfloat16):
        energy.level_gradients(x().float(), LEVELS["one of each"].float())
        energy_and_grad(energy.given(sigma=0.4), x().float(), create_graph=True)
