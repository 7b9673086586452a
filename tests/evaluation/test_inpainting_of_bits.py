"""Inpainting of bits against the conditional law by enumeration."""

import pytest
import torch

from ebm_lab.core.discrete import Sites, log_odds
from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.registry import build
from ebm_lab.distributions.start import start_law
from ebm_lab.energies.rbm import RBM
from ebm_lab.evaluation._held_sites import HeldSites
from ebm_lab.evaluation.inpainting import Inpainting, complete, hole_mask
from tests.helpers import Discrete

SITES = Sites((1, 2, 3))
UNKNOWN = torch.tensor([[[False, True, False], [True, True, False]]])
MALA = {
    **{"name": "mala", "steps": 10, "step_size": 0.1, "target_acceptance": 0.6, "adapt_rate": 0.02},
    **{"temperature": 1.0, "mass": "identity", "warmup": None},
}
KERNELS = [
    {"name": "gibbs", "steps": 6, "scan": "sweep"},
    {"name": "gwg", "steps": 6},
    {"name": "locally_balanced", "steps": 4, "balance": "sqrt"},
    {"name": "dmala", "steps": 4, "step_size": 0.5},
]


def bits(n=400, shape=(1, 2, 3)):
    return Discrete((torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) < 0.6).double())


def strong_rbm():
    """An RBM whose bits depend on each other: weights of deviation 2."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return RBM(bits(), hidden=4, weight_std=2.0).double()


def conditional(energy, x):
    """p(x_u | x_k) of the eight completions of x (1, 2, 3), by their three unknown bits as a number."""
    every = torch.cat(list(SITES.every(x)))
    fits = every[(every == x)[:, ~UNKNOWN].all(1)]
    p = torch.zeros(8).double()
    p[number(fits)] = (-energy(fits)).detach().softmax(0)
    return p


def number(x):
    return (x[:, UNKNOWN] @ torch.tensor([4.0, 2.0, 1.0]).double()).long()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k["name"])
def test_completions_have_the_conditional_law(kernel, generator):
    """20,000 chains of 40 moves: each of the eight completions within 4.5 standard errors, and known bits are kept."""
    energy, data = strong_rbm(), bits()
    for x in data.train[:2]:
        given = x.expand(20_000, *x.shape)
        start = start_law(data).sample(len(given), generator)
        sampler = build("sampler", kernel, dataset=data)
        drawn = complete(sampler, energy, given, UNKNOWN, start, 40 * kernel["steps"], generator, HeldSites)
        assert torch.equal(drawn[:, ~UNKNOWN], given[:, ~UNKNOWN])
        p = conditional(energy, x)
        found = torch.bincount(number(drawn), minlength=8).double() / len(drawn)
        assert p.max() < 0.95, "the law is no single completion"
        assert ((found - p).abs() < 4.5 * (p * (1 - p) / len(drawn)).sqrt() + 1e-9).all()


def test_the_energy_of_the_unknown_bits_has_the_formulas_of_the_whole():
    energy, x = strong_rbm(), bits().train[:20]
    held = HeldSites(energy, x, UNKNOWN)
    u = x.flip(0)
    whole = torch.where(UNKNOWN, u, x)
    e, grad = energy_and_grad(held, u)
    expected, slope = energy_and_grad(energy, whole)
    torch.testing.assert_close(e, expected)
    torch.testing.assert_close(grad, slope * UNKNOWN)
    plain = log_odds(lambda y: energy(torch.where(UNKNOWN, y, x.repeat(len(y) // len(x), 1, 1, 1))), u, SITES)
    torch.testing.assert_close(held.log_odds(u), plain)


def view(data, energy, **more):
    settings = {"sampler": None, "count": 20, "steps": 60, "generator": torch.Generator().manual_seed(0), **more}
    return EvalView(energy, data, "test", start=start_law(data), **settings)


def test_errors_of_independent_bits_are_the_closed_forms():
    """Bits of probability .6, and a model that knows it: a draw misses 2 p (1 - p) = .48 of them, the mean of 4 draws
    by p (1 - p) (1 + 1/4) = .3, the mean image by .24. Over 300 images of 8 hidden bits a share's error is .01."""
    data = bits(900, (1, 4, 4))
    data.train, data.test, data.bounds = data.train[:600], data.train[600:], (0.0, 1.0)
    logit = float(torch.tensor(0.6).logit())
    paint = Inpainting(hole="lower", images=300, completions=4, kernel=build("sampler", MALA, scale=1.0))
    for sampler in (None, build("sampler", {"name": "block_gibbs", "steps": 1})):
        m = paint(view(data, lambda x: -logit * x.flatten(1).sum(1), sampler=sampler)).metrics
        assert m["inpaint_mse"] == pytest.approx(0.48, abs=0.04)
        assert m["inpaint_mse_mean"] == pytest.approx(0.30, abs=0.03)
        assert m["inpaint_mse_mean_image"] == pytest.approx(0.24, abs=0.02)
    assert int(hole_mask("lower", (1, 4, 4)).sum()) == 8


def test_images_of_categories_are_left_out():
    one_hot = Discrete(torch.eye(3)[torch.randint(3, (20, 4, 4))].movedim(3, 1), one_hot=True)
    one_hot.bounds = (0.0, 1.0)
    paint = Inpainting(hole="lower", images=3, completions=1, kernel=build("sampler", MALA, scale=1.0))
    energy = view(one_hot, lambda x: x.flatten(1).sum(1))
    assert reason_against(paint, energy) == "it hides pixels, and these images have categories"
