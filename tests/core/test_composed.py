"""Composed energies against truth: closed forms of Gaussians, quadrature, and autograd in float64."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.composed import MixtureOf, Product
from ebm_lab.core.derived import Coordinates
from ebm_lab.core.errors import UserError
from ebm_lab.core.frames import Moved, Shifted, equal, in_frame, linear, tilted
from ebm_lab.core.functional import energy_and_grad, evaluate, score_and_curvature
from ebm_lab.core.maps import Composed, Linear, Warp
from ebm_lab.core.transforms import Affine
from ebm_lab.distributions.rays import energies_along, falling, growth
from tests.helpers import gaussian_energy

GRID = torch.linspace(-40, 40, 160_001, dtype=torch.float64)[:, None]


def normal(mean, var, log_z=True):
    """E of N(mean, var) on the line; log_z: with its constant, so that exp(-E) has the integral 1."""
    energy = gaussian_energy(torch.tensor([mean]).double(), torch.tensor([[1 / var]]).double())
    return Shifted(energy, 0.5 * math.log(2 * math.pi * var)) if log_z else energy


def law(energy):
    """(mean, variance, log Z) on the line by the trapezoid rule."""
    e = -evaluate(energy, GRID).detach()
    log_z = float(torch.logsumexp(e, 0)) + math.log(float(GRID[1, 0] - GRID[0, 0]))
    p = e.softmax(0)
    mean = float((p * GRID[:, 0]).sum())
    return mean, float((p * (GRID[:, 0] - mean) ** 2).sum()), log_z


def test_the_product_of_two_gaussians():
    """N(-1, 1/2) N(2, 2): precisions add, and the integral of the product of the densities is known."""
    assert law(Product([normal(-1.0, 0.5), normal(2.0, 2.0)], [1, 1])) == pytest.approx(
        (-0.4, 0.4, -3.1770839), abs=1e-6
    )


def test_a_quotient_of_two_gaussians():
    """N(0, 1) / N(0, 4)^0.3: the precision is 1 - 0.3 / 4."""
    found = law(Product([normal(0.0, 1.0), normal(0.0, 4.0)], [1, -0.3]))
    assert found[:2] == pytest.approx((0, 1.0810811), abs=1e-6)


def test_a_mixture_weighs_its_modes_by_the_weights_whatever_constants_its_parts_have():
    """Modes at -8 and 8 with Z_i that differ by a factor of 1000: exact with log Z_i, off by that factor without."""
    parts = [Shifted(normal(-8.0, 1.0), -math.log(1000)), normal(8.0, 4.0)]
    left = GRID[:, 0] < 0

    def share(energy):
        return float((-evaluate(energy, GRID).detach()).softmax(0)[left].sum())

    exact = MixtureOf(parts, [3, 1], [math.log(1000), 0])
    assert share(exact) == pytest.approx(0.75, abs=1e-4) and law(exact)[2] == pytest.approx(0, abs=1e-9)
    assert share(MixtureOf(parts, [3, 1], [0, 0])) == pytest.approx(3000 / 3001, abs=1e-4)


class Plain(nn.Module):
    """The same energy without formulas for its derivatives."""

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def forward(self, x):
        return self.energy(x)


class Wavy(nn.Module):
    """|x|^2 / 4 + sin(x_1 + 2 x_2): an energy without formulas."""

    def forward(self, x):
        return x.square().sum(1) / 4 + torch.sin(x[:, 0] + 2 * x[:, 1])


class Quartic(Shifted):
    """|u|^4 / 4 for u = x - c, with formulas: grad |u|^2 u, v' Hess v = |u|^2 |v|^2 + 2 (u . v)^2."""

    def __init__(self, c=0.0):
        super().__init__(nn.Identity(), c)

    def forward(self, x):
        return (x - self.constant).square().sum(1) ** 2 / 4

    def gradient(self):
        return lambda x: self.derivatives(x.detach(), x.new_zeros(0, *x.shape))[:2]

    def derivatives(self, x, v):
        u = x - self.constant
        r = u.square().sum(1)
        return self(x), r[:, None] * u, r * v.square().sum((0, 2)) + 2 * (u * v).sum(2).square().sum(0)


def plane(seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2, 2, generator=g, dtype=torch.float64)
    return gaussian_energy(torch.randn(2, generator=g, dtype=torch.float64), a @ a.T + torch.eye(2).double())


MAPS = {
    "scale": Affine(torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0, 0.5]).double()),
    "whiten": Composed((Linear(torch.tensor([0.3, 1.0]).double(), torch.tensor([[1.0, 0.4], [0.0, 2.0]]).double()),)),
    "warp": Composed((Warp(torch.tensor([0.2, -0.1]).double(), torch.tensor([0.7, torch.inf]).double()),)),
    "none": Composed(()),
}
LIKE = torch.zeros(2).double()
SMOOTH = [Quartic(-0.3), Quartic(0.5)]
ENERGIES = {
    "product": Product(SMOOTH, [1.0, 0.5]),
    "negation": Product(SMOOTH, [1.0, -0.4]),
    "mixture": MixtureOf(SMOOTH, [1, 2], [0.3, -0.2]),
    "mixture of one without formulas": MixtureOf([plane(0), Wavy()], [1, 2], [0.3, -0.2]),
    "product with one without formulas": Product([plane(0), Wavy()], [1, 2]),
    "shifted": Shifted(Quartic(), 3.0),
    "in a scaled frame": in_frame(Quartic(), MAPS["scale"], MAPS["whiten"], LIKE),
    "in a warped frame": in_frame(plane(0), MAPS["scale"], MAPS["warp"], LIKE),
    "tilted": tilted(plane(0), MAPS["warp"], -0.5, LIKE),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_derivatives_equal_autograd(name, generator):
    energy = ENERGIES[name]
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    v = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    e, grad = energy_and_grad(energy, x)
    slow = energy_and_grad(Plain(energy), x)
    torch.testing.assert_close(e, evaluate(energy, x).detach())
    torch.testing.assert_close(grad, slow[1], rtol=1e-10, atol=1e-10)
    found, wanted = (score_and_curvature(part, x, v) for part in (energy, Plain(energy)))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-9)
    has_formulas = name in ("product", "negation", "mixture", "shifted", "in a scaled frame")
    assert (energy.derivatives(x, v) is not None) == has_formulas  # type: ignore


@pytest.mark.parametrize("kind", [Product, MixtureOf])
def test_parts_bound_to_a_batch_are_bound_to_its_rows(kind, generator):
    shifts = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    bound = Coordinates(plane(0), shifts, torch.ones(4).double())
    made = kind([bound, plane(1)], [1, 1], *([[0, 0]] if kind is MixtureOf else []))
    x, index = torch.randn(4, 2, generator=generator, dtype=torch.float64), torch.tensor([2, 0])
    torch.testing.assert_close(made.rows(index)(x[index]), made(x)[index])


@pytest.mark.parametrize("home", MAPS)
@pytest.mark.parametrize("frame", MAPS)
def test_a_law_in_another_frame_keeps_its_raw_density(home, frame, generator):
    """E_x(x) - log |dx / draw| = E(z) - log |dz / draw| at the same raw points, for all pairs of maps."""
    energy, raw = plane(0), torch.randn(50, 2, generator=generator, dtype=torch.float64)
    home, frame = MAPS[home], MAPS[frame]
    z, x = home.forward(raw), frame.forward(raw)
    moved = in_frame(energy, home, frame, LIKE)
    torch.testing.assert_close(moved(x) - frame.log_det_at(x), energy(z) - home.log_det_at(z))
    assert (moved is energy) == (home is frame)
    if home.is_linear and frame.is_linear and home is not frame:
        torch.testing.assert_close(moved(x), Moved(energy, home, frame)(x))


def test_a_map_with_one_scale_is_a_number():
    one = Affine(torch.tensor([1.0, -2.0]).double(), torch.tensor(3.0).double())
    shift, factor = linear(MAPS["none"], one, LIKE)
    assert factor == pytest.approx(3) and shift.tolist() == pytest.approx([1, -2])
    assert torch.is_tensor(linear(MAPS["scale"], one, LIKE)[1])
    assert equal(one, Affine(one.shift.clone(), one.scale.clone())) and not equal(one, MAPS["scale"])


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("power, exists", [(0.9, False), (1.1, True)])
def test_rays_tell_whether_a_power_law_has_an_integral(d, power, exists):
    """E = power d log |x| in d dimensions: exp(-E) has an integral far out only for a power above 1."""
    e = energies_along(lambda x: power * d * x.square().sum(1).log() / 2, torch.zeros(1, d).double(), 1.0)
    assert bool(falling(d, growth(e)).any()) != exists


def test_rays_see_an_energy_that_falls_along_one_axis():
    def saddle(x):
        return x[:, :4].square().sum(1) - 0.01 * x[:, 4].square()

    bad = falling(5, growth(energies_along(saddle, torch.zeros(1, 5).double(), 1.0)))
    assert bool(bad.any()) and not bool(bad.all())


def test_what_is_wrong_with_numbers_is_said():
    parts = [plane(0), plane(1)]
    with pytest.raises(UserError, match=r"^weights=\[1\]: must be one finite number for each of the 2 energies$"):
        Product(parts, [1])
    with pytest.raises(UserError, match=r"^log_z=\[0, nan\]: must be one finite number"):
        MixtureOf(parts, [1, 1], [0, math.nan])
    with pytest.raises(UserError, match=r"^weights=\[1, -1\]: the weights of a mixture must be positive$"):
        MixtureOf(parts, [1, -1], [0, 0])
