"""RBM, Ising and Potts energies against enumeration and against each other."""

import pytest
import torch

from ebm_lab.core.discrete import Draws, Sites, log_odds
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.energies.ising import Ising, fit, pseudo_loss
from ebm_lab.energies.potts import Potts
from ebm_lab.energies.rbm import RBM
from tests.helpers import Discrete


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n, d, generator=generator(seed)) < 0.5).float()


def known_rbm() -> RBM:
    """4 visible and 3 hidden units with written-down parameters."""
    rbm = RBM(Discrete(bits(10, 4)), hidden=3, weight_std=0.1).double()
    i, j = torch.arange(4.0), torch.arange(3.0)
    with torch.no_grad():
        rbm.b.copy_(0.1 * (i + 1))
        rbm.c.copy_(-0.2 * (j + 1))
        rbm.w.copy_(0.5 * torch.cos(i + 2 * j[:, None]))
    return rbm


def random_ising(d: int = 5) -> Ising:
    energy = Ising(Discrete(bits(10, d)), l1=0.0, support=None).double()
    with torch.no_grad():
        energy.couplings.copy_(0.3 * torch.randn(d, d, generator=generator(3)))
        energy.field.copy_(0.4 * torch.randn(d, generator=generator(4)))
    return energy


def random_potts() -> Potts:
    x = Sites((3, 3), 3, True).encode(torch.randint(0, 3, (10, 3), generator=generator(5)))
    energy = Potts(Discrete(x, one_hot=True), l1=0.0).double()
    with torch.no_grad():
        energy.couplings.copy_(0.3 * torch.randn(9, 9, generator=generator(6)))
        energy.field.copy_(0.4 * torch.randn(9, generator=generator(7)))
    return energy


DRAWS = Draws(generator(9))
CASES = [
    pytest.param(known_rbm(), Sites((4,)), id="rbm"),
    pytest.param(random_ising(), Sites((5,)), id="ising"),
    pytest.param(random_potts(), Sites((3, 3), 3, True), id="potts"),
]


def test_rbm_has_the_known_numbers():
    rbm, points = known_rbm(), torch.cat(list(Sites((4,)).every(torch.zeros(1).double())))
    with torch.no_grad():
        log_z, ones = rbm.exact_log_z(), torch.ones(1, 4).double()
        p = (-rbm(points) - log_z).exp()
        assert float(log_z) == pytest.approx(4.8979962, abs=5e-8)
        assert float(torch.logsumexp(-rbm(points), 0)) == pytest.approx(float(log_z), abs=1e-12)
        assert float(rbm(ones)) == pytest.approx(-2.6022909, abs=5e-8)
        assert float((-rbm(ones) - log_z).exp()) == pytest.approx(0.1006903, abs=5e-8)
        assert (p @ points).tolist() == pytest.approx([0.528318, 0.558947, 0.579384, 0.593803], abs=5e-7)


def test_rbm_sums_over_whichever_layer_is_smaller():
    rbm = RBM(Discrete(bits(10, 3)), hidden=7, weight_std=1.0).double()
    points = torch.cat(list(Sites((3,)).every(rbm.b)))
    with torch.no_grad():
        assert float(rbm.exact_log_z()) == pytest.approx(float(torch.logsumexp(-rbm(points), 0)), abs=1e-12)


@pytest.mark.parametrize(("energy", "sites"), CASES)
def test_formulas_agree_with_energies(energy, sites):
    """Log odds against differences of energies at every point and change; the gradient against autograd's."""
    x = torch.cat(list(sites.every(torch.zeros(1).double())))
    with torch.no_grad():
        near = energy(sites.changed(x)).view(sites.changes, len(x)).T
        torch.testing.assert_close(log_odds(energy, x, sites), energy(x)[:, None] - near, rtol=0, atol=1e-12)
    e, grad = energy_and_grad(energy, x)
    leaf = x.clone().requires_grad_(True)
    (known,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    torch.testing.assert_close(grad, known, rtol=0, atol=1e-12)
    torch.testing.assert_close(e, energy(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("energy", "sites"), CASES)
def test_sweeps_leave_the_law_invariant(energy, sites):
    """Exact samples of the enumerated law, after three sweeps, have its probabilities within 4.5 standard errors."""
    points, n = torch.cat(list(sites.every(torch.zeros(1).double()))), 60_000
    pi = (-energy(points)).softmax(0).detach()
    for start in (torch.multinomial(pi, n, replacement=True, generator=generator(8)), torch.zeros(n).long()):
        x = points[start]
        with torch.no_grad():
            for _ in range(3 if len(start.unique()) > 1 else 25):
                x = energy.sweep(x, DRAWS)
        share = torch.bincount(sites.number(x), minlength=len(pi)).double() / n
        assert bool(((share - pi).abs() < 4.5 * (pi * (1 - pi) / n).sqrt()).all())


def test_ising_counts_each_pair_twice_and_ignores_the_diagonal():
    energy = random_ising()
    x = bits(7, 5, 1).double()
    u, j = 2 * x - 1, energy.matrix
    expected = -torch.einsum("bi,ij,bj->b", u, j, u) - u @ energy.field
    torch.testing.assert_close(energy(x), expected, rtol=0, atol=1e-12)
    assert float(j.detach().diagonal().abs().max()) == 0 and torch.equal(j, j.T)


def test_penalty_is_the_sum_of_absolute_couplings():
    energy = random_ising()
    energy.l1 = 0.25
    assert float(energy.penalty().detach()) == pytest.approx(
        0.25 * float(energy.matrix.detach().abs().sum()), abs=1e-12
    )  # type: ignore


def test_pseudo_likelihood_of_an_ising_model_is_that_of_its_log_odds():
    energy, x = random_ising(), bits(50, 5, 2).double()
    odds = log_odds(energy, x, Sites((5,)))
    known = float(torch.nn.functional.softplus(odds).sum(1).mean().detach())
    assert float(pseudo_loss(energy.matrix, energy.field, energy.code(x)).detach()) == pytest.approx(known, abs=1e-12)


def test_fit_recovers_couplings_and_l1_removes_absent_ones():
    """Three coupled pairs among eight spins, 20,000 exact samples: J within 4.5 standard errors (about .0035 each), and
    auto keeps the right pairs."""
    d, n = 8, 20_000
    truth = torch.zeros(d, d)
    for i, j in ((0, 1), (2, 5), (6, 7)):
        truth[i, j] = truth[j, i] = 0.2
    points = torch.cat(list(Sites((d,)).every(torch.zeros(1))))
    u = 2 * points - 1
    pi = torch.einsum("bi,ij,bj->b", u, truth, u).softmax(0)
    x = points[torch.multinomial(pi, n, replacement=True, generator=generator(10))]
    j, b = fit(2 * x - 1, 0.0)
    assert float((j - truth).abs().max()) < 4.5 * 0.0035 and float(b.abs().max()) < 4.5 * 0.01
    energy = Ising(Discrete(x), l1="auto", support=0.05)
    assert torch.equal(energy.mask, (truth > 0).float()) and energy.l1 == 0 and "3 of 28" in energy.notes[0]
    few = Discrete(x[:300])
    few.val = x[300:900]
    whole, half = (Ising(few, l1=way, support=None) for way in ("auto", "auto_half"))
    assert whole.l1 > 0 and half.l1 == whole.l1 / 2 == half.resolved["l1"]


def test_the_penalty_is_part_of_every_loss_once():
    """The gradient of the loss is that without a penalty plus l1 sign(J) on the symmetric couplings."""
    from ebm_lab.core.interfaces import Batch
    from ebm_lab.objectives.pseudo_likelihood import PseudoLikelihood

    energy, data = random_ising(), Discrete(bits(20, 5, 3).double())
    objective, grads = PseudoLikelihood(energy, data, generator(), sites=None), []
    for l1 in (0.0, 0.25):
        energy.l1 = l1
        loss = objective(Batch(data.train))
        grads.append(torch.autograd.grad(loss.value, energy.couplings)[0])
        assert ("penalty" in loss.metrics) == (l1 > 0)
    torch.testing.assert_close(grads[1] - grads[0], 0.25 * energy.matrix.detach().sign(), rtol=0, atol=1e-12)
