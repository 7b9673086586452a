"""Independent bits and categories: the base of discrete energies against enumeration."""

import pytest
import torch

from ebm_lab.core.discrete import Sites, log_odds, sites_of
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.registry import build
from ebm_lab.distributions.product import LEAST, ProductBase, fit_product, product_law
from ebm_lab.distributions.start import start_law
from tests.helpers import Discrete, Points

BITS, CATEGORIES = Sites((4,)), Sites((3, 3), 3, True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law(sites: Sites) -> ProductBase:
    return ProductBase(torch.randn(sites.shape, generator=generator(1)).double(), sites.one_hot)


def points(sites: Sites) -> torch.Tensor:
    return torch.cat(list(sites.every(torch.zeros(1).double())))


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
def test_probabilities_sum_to_one_and_draws_have_them(sites):
    """60,000 draws: each point's share within 4.5 standard errors."""
    base, x, n = law(sites), points(sites), 60_000
    p = (-base(x)).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    share = torch.bincount(sites.number(base.sample(n, generator(2))), minlength=len(p)).double() / n
    assert bool(((share - p).abs() < 4.5 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
def test_formulas_agree_with_energies(sites):
    base, x = law(sites), points(sites)
    torch.testing.assert_close(base.log_odds(x), log_odds(lambda y: base(y), x, sites), rtol=0, atol=1e-12)
    e, grad = base.with_gradient(x)
    torch.testing.assert_close((e, grad), energy_and_grad(lambda y: base(y), x), rtol=0, atol=1e-12)


def test_frequencies_are_fitted_and_no_value_is_impossible():
    x = torch.tensor([[1.0, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
    found = fit_product(Discrete(x)).logits.sigmoid()
    assert found.tolist() == pytest.approx([3 / 4, LEAST, 3 / 4])
    rare = fit_product(Discrete(torch.zeros(1000, 2))).logits.sigmoid()
    assert rare.tolist() == pytest.approx([LEAST, LEAST])
    one_hot = CATEGORIES.encode(torch.tensor([[0, 1, 2], [0, 2, 2]]))
    p = fit_product(Discrete(one_hot, one_hot=True)).logits.exp()
    least = 2 * LEAST / 3
    rest = 1 - LEAST + 2 * least
    assert p[:, 0].tolist() == pytest.approx([(1 - LEAST) / rest, least / rest, least / rest])
    torch.testing.assert_close(p.sum(0), torch.ones(3))


def test_chains_on_discrete_data_begin_at_independent_sites():
    data = Discrete((torch.rand(500, 4, generator=generator(3)) < 0.3).float())
    x = start_law(data).sample(2000, generator(4))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    error = (0.3 * 0.7 * (1 / 500 + 1 / 2000)) ** 0.5
    assert float((x.mean(0) - 0.3).abs().max()) < 4.5 * error
    assert sites_of(data) == Sites((4,))


def energy(data, base):
    values = {"hidden": [8], "activation": "silu", "confine": 2.0, "confine_shape": "isotropic", "confine_floor": 0.1}
    return build("energy", {"name": "mlp", "base": base, **values}, dataset=data)


def test_an_energy_on_independent_sites_begins_at_their_law():
    data = Discrete((torch.rand(500, 4, generator=generator(5)) < 0.3).float())
    x = points(BITS).float()
    for base in ("bernoulli", "auto"):
        found = energy(data, base)
        with torch.no_grad():
            torch.testing.assert_close(-found(x), product_law(data).log_prob(x))
        assert found.bound is None
    assert energy(data, "auto").resolved == {"base": "bernoulli"}


def test_a_base_for_other_data_is_refused():
    data = Discrete(points(BITS).float())
    with pytest.raises(UserError, match="energy.base=gaussian: is for real numbers.*energy.base=bernoulli"):
        energy(data, "gaussian")
    with pytest.raises(UserError, match="energy.base=bernoulli: is for bits and categories"):
        energy(Points(torch.randn(50, 2, generator=generator(6))), "bernoulli")
