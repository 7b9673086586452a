"""Formulas for an energy's derivatives, and the samplers and objectives on them, against automatic differentiation.

In float64 both are the same sums up to their order: 1e-10 is thousands of roundings. In float32 a sum of n products is
off by at most n 6e-8 of their size: 2e-5 for the 128 here and what is built on them.
"""

import pytest
import torch
from torch import nn

from ebm_lab.core import functional
from ebm_lab.core.derived import Tempered
from ebm_lab.core.functional import energy_and_grad, gradient_of, score_and_curvature, score_and_trace
from ebm_lab.core.interfaces import Batch
from ebm_lab.energies.gaussian import Gaussian
from ebm_lab.energies.mlp import MLP
from ebm_lab.models import products
from ebm_lab.models.perceptron import perceptron
from ebm_lab.models.products import linear, outer
from ebm_lab.objectives.dsm import DSM
from ebm_lab.objectives.sm import SM
from ebm_lab.objectives.ssm import SSM, sliced_score_matching
from ebm_lab.samplers.adjusted_mclmc import AdjustedMCLMC
from ebm_lab.samplers.barker import Barker
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.mclmc import MCLMC
from ebm_lab.samplers.nuts import NUTS
from ebm_lab.samplers.tempering import Tempering
from ebm_lab.samplers.underdamped import Underdamped
from tests.helpers import Points

SMOOTH = ("silu", "softplus", "tanh", "gelu")


def mlp(activation="silu", hidden=(9, 7), confine=2.0, shape="isotropic", event=(3,), dtype=torch.float64):
    torch.manual_seed(0)
    data = Points(torch.randn(40, *event) * torch.linspace(0.5, 2, event[-1]) + 1)
    settings = {"confine": confine, "confine_shape": shape, "confine_floor": 0.1, "base": "none"}
    return MLP(data, hidden=list(hidden), activation=activation, **settings).to(dtype), data


def gaussian(d=4, dtype=torch.float64):
    torch.manual_seed(0)
    energy = Gaussian(Points(torch.randn(40, d)), width=0.7).to(dtype)
    with torch.no_grad():
        energy.factor += 0.1 * torch.randn(d, d, dtype=dtype)
    return energy


@pytest.fixture
def both(monkeypatch):
    """f() with formulas and without."""

    def run(f):
        with_formulas = f()
        with monkeypatch.context() as patch:
            patch.setattr(functional, "_formulas", lambda energy: None)
            return with_formulas, f()

    return run


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def points(energy, n=6):
    torch.manual_seed(1)
    like = next(energy.buffers(), None)
    return torch.randn(n, *(energy.mean.shape if like is not None else (4,)), dtype=energy.mean.dtype)


ENERGIES = {
    **{activation: lambda a=activation: mlp(a)[0] for activation in (*SMOOTH, "relu", "leaky_relu")},
    "one layer": lambda: mlp(hidden=(5,))[0],
    "covariance": lambda: mlp(shape="covariance")[0],
    "no quadratic": lambda: mlp(confine=None)[0],
    "image": lambda: mlp(event=(2, 3, 2), shape="covariance")[0],
    "gaussian": gaussian,
}


@pytest.mark.parametrize("name", ENERGIES)
def test_the_gradient_is_autograd_s(name, both):
    energy = ENERGIES[name]()
    assert energy.gradient() is not None
    x = points(energy)
    fast, slow = both(lambda: energy_and_grad(energy, x))
    close(fast, slow)
    assert not any(t.requires_grad for t in fast)
    close(energy_and_grad(Tempered(energy, 0.5), x), tuple(2 * t for t in slow))


def gradients(energy, outputs, weights):
    """Parameters' gradients of the weighted outputs, one set for each subset of them."""
    grads = []
    for chosen in ((0, 1, 2), (1,), (2,), (0,)):
        if pairs := [(outputs[i], weights[i]) for i in chosen if i < len(outputs)]:
            energy.zero_grad()
            sum((o * w).sum() for o, w in pairs).backward(retain_graph=True)
            grads += [p.grad for p in energy.parameters()]
    return grads


@pytest.mark.parametrize("what", ["score", "sliced", "trace"])
@pytest.mark.parametrize("activation, hidden", [*((a, (9, 7)) for a in SMOOTH), ("silu", (5,)), ("silu", (9, 6, 7))])
def test_values_and_parameter_gradients_are_those_of_a_double_backward(what, activation, hidden, both):
    """Which parameters get no gradient is the same too: weight decay must not move what a loss never reaches."""
    energy, _ = mlp(activation, hidden, shape="covariance")
    x, v = points(energy), torch.randn(2, 6, 3, dtype=torch.float64)
    weights = [torch.randn(6).double(), torch.randn(6, 3).double(), torch.randn(6).double()]
    ask = {
        "score": lambda: energy_and_grad(energy, x, create_graph=True),
        "sliced": lambda: score_and_curvature(energy, x, v),
        "trace": lambda: score_and_trace(energy, x, 3),
    }[what]

    def run():
        outputs = ask()
        return [o.detach() for o in outputs], gradients(energy, outputs, weights)

    (fast, fast_grads), (slow, slow_grads) = both(run)
    close(fast, slow)
    assert [g is None for g in fast_grads] == [g is None for g in slow_grads]
    close([g for g in fast_grads if g is not None], [g for g in slow_grads if g is not None])


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def library(request, monkeypatch):
    """Take the products from either library, whatever the CPU; return whether it is oneDNN."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "mkl_is_slow", lambda: request.param)
    return request.param


def test_float32_at_the_sizes_that_onednn_takes(both, library):
    energy, _ = mlp(hidden=(128, 128), event=(2,), dtype=torch.float32)
    x, v = torch.randn(256, 2), torch.randn(1, 256, 2)

    def run():
        energy.zero_grad()
        e, s, curvature = score_and_curvature(energy, x, v)
        (e + s.square().sum(1) + curvature).mean().backward()
        grads = [p.grad / p.grad.abs().max() for p in energy.parameters() if p.grad is not None]
        return [*energy_and_grad(energy, x), e.detach(), s.detach(), curvature.detach(), *grads]

    fast, slow = both(run)
    close(fast, slow, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, i, o", [(1, 128, 128), (200, 2, 128), (200, 128, 2), (200, 128, 64), (64, 16, 16)])
def test_products_are_the_plain_ones(n, i, o, dtype, generator, library):
    x, w, b, y = (torch.randn(s, generator=generator, dtype=dtype) for s in ((n, i), (o, i), (o,), (n, o)))
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5 * i
    close(linear(x, w), x @ w.T, tolerance)
    close(linear(x, w, b), x @ w.T + b, tolerance)
    close(linear(x, w.T.contiguous().T), x @ w.T, tolerance)
    close(outer(y, x), y.T @ x, tolerance if dtype == torch.float64 else 2e-5 * n)


def test_onednn_is_called_where_mkl_is_slow_and_nowhere_else(library, generator):
    x, w = (torch.randn(128, 128, generator=generator) for _ in range(2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        linear(x, w)
        outer(x, w)
    calls = sum(e.count for e in seen.key_averages() if e.key == "mkldnn::_linear_pointwise")
    assert calls == (2 if library else 0)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("name", ["mlp", "gaussian"])
def test_many_projections_are_the_mean_of_one_each(name, variance_reduced):
    """For an energy with a formula and for one without."""
    energy = mlp()[0] if name == "mlp" else gaussian(3)
    x, v = torch.randn(6, 3).double(), torch.randn(4, 6, 3).double()
    one_each = [sliced_score_matching(energy, x, v_k, variance_reduced)[0] for v_k in v]
    together, e, s = sliced_score_matching(energy, x, v, variance_reduced)
    close(together, torch.stack(one_each).mean(0))
    close(e, energy(x))
    close(s, functional.score(energy, x))


def test_a_graph_to_x_stays_autograd_s(both):
    """A chain that is differentiated through, and any derivative of the score in x."""
    energy, _ = mlp()
    x = points(energy).requires_grad_(True)

    def run():
        energy.zero_grad()
        x.grad = None
        _, grad = energy_and_grad(energy, x, create_graph=True)
        _, again = energy_and_grad(energy, x - 0.1 * grad, create_graph=True)
        again.square().sum().backward()
        return [x.grad, *(p.grad for p in energy.parameters() if p.grad is not None)]

    close(*both(run))


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_a_second_derivative_in_the_parameters_is_refused():
    """The formulas are differentiable once; more would be wrong, and is an error."""
    energy, _ = mlp()
    _, grad = energy_and_grad(energy, points(energy), create_graph=True)
    grad.square().sum().backward(create_graph=True)
    weight = energy.net[0].weight
    with pytest.raises(RuntimeError, match="once_differentiable"):
        weight.grad.sum().backward()


class Shifted(MLP):
    def forward(self, x):
        return super().forward(x + 1)


def test_other_networks_are_left_to_autograd():
    energy, data = mlp("silu")
    energy.__class__ = Shifted
    assert energy.gradient() is None and energy.derivatives(data.train, data.train[None]) is None
    close(energy_and_grad(energy, points(energy)), energy_and_grad(lambda x: energy(x), points(energy)))
    assert mlp("relu")[0].derivatives(data.train, data.train[None]) is None
    one = nn.Linear(3, 4), nn.Linear(4, 1)
    assert perceptron(nn.Sequential(one[0], nn.SiLU(), one[1]), smooth=True) is not None
    for act in (nn.GELU(approximate="tanh"), nn.Softplus(beta=2.0), nn.Hardswish(), nn.LeakyReLU(0.2)):
        assert perceptron(nn.Sequential(one[0], act, one[1]), smooth=False) is None
    assert perceptron(nn.Sequential(one[0], nn.SiLU(), nn.LayerNorm(4), one[1]), smooth=False) is None
    assert perceptron(nn.Sequential(nn.Linear(3, 4, bias=False), nn.SiLU(), one[1]), smooth=False) is None


def test_mixed_precision_is_left_to_autograd():
    energy, _ = mlp(dtype=torch.float32)
    x = points(energy)
    with torch.autocast("cpu", torch.bfloat16):
        fast = energy_and_grad(energy, x)
        slow = functional._by_autograd(energy, x)
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


def test_a_gradient_that_is_asked_anew_knows_the_new_parameters():
    for energy in (mlp()[0], gaussian()):
        x, before = points(energy), gradient_of(energy)(points(energy))[1]
        with torch.no_grad():
            for p in energy.parameters():
                p.mul_(1.5)
        after = gradient_of(energy)(x)[1]
        assert (after - before).abs().max() > 1e-2
        close(after, functional._by_autograd(energy, x)[1])


ADAPTED = {"target_acceptance": 0.6, "adapt_rate": 0.1}
PROPOSED = {**ADAPTED, "temperature": 1.3, "mass": "diagonal", "warmup": 4}
SAMPLERS = {
    "langevin": lambda: Langevin(1.0, steps=6, step_size=0.2, noise_scale=0.9, clip_grad=2.0),
    "mala": lambda: MALA(1.0, steps=6, step_size=0.5, **PROPOSED),
    "barker": lambda: Barker(1.0, steps=6, step_size=0.5, **PROPOSED),
    "adjusted_mclmc": lambda: AdjustedMCLMC(1.0, steps=3, leapfrog=3, step_size=0.3, **PROPOSED),
    "mclmc": lambda: MCLMC(1.0, steps=6, step_size=0.2, length=1.0, temperature=1.3),
    "hmc": lambda: HMC(1.0, steps=3, leapfrog=3, step_size=0.3, **PROPOSED),
    "nuts": lambda: NUTS(
        1.0, steps=3, max_depth=3, step_size=0.3, **{k: v for k, v in PROPOSED.items() if k != "adapt_rate"}
    ),
    "underdamped": lambda: Underdamped(1.0, steps=6, step_size=0.2, friction=1.0, temperature=1.0),
    "tempering": lambda: Tempering(1.0, steps=4, replicas=3, max_temperature=3.0, step_size=0.3, **ADAPTED),
}


@pytest.mark.parametrize("energy", [mlp()[0], gaussian()], ids=["mlp", "gaussian"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_are_those_of_autograd(name, energy, both):
    """Two calls with the same noise: one proposal that went otherwise would part the chains by a whole step."""
    sampler = SAMPLERS[name]()

    def run():
        generator, x, state = torch.Generator().manual_seed(2), points(energy, 20), {}
        for _ in range(2):
            chain = sampler(energy, x, state, generator=generator)
            x, state = chain.x, chain.state
        return x, state, chain.metrics

    fast, slow = both(run)
    close(fast[0], slow[0], 1e-8)
    for a, b in zip(fast[1:], slow[1:], strict=True):
        close(a, b, 1e-5)  # step sizes are kept in float32
    assert (fast[0] - points(energy, 20)).abs().max() > 0.1


OBJECTIVES = {
    "dsm": lambda e, d, g: DSM(e, d, g, sigma=0.3, antithetic=True, control_variate=False),
    "dsm_cv": lambda e, d, g: DSM(e, d, g, sigma=0.3, antithetic=False, control_variate=True),
    "ssm": lambda e, d, g: SSM(e, d, g, projection="gaussian", variance_reduced=True, projections=2, data_noise=0.1),
    "ssm_plain": lambda e, d, g: SSM(
        e, d, g, projection="sphere", variance_reduced=False, projections=1, data_noise=0.0
    ),
    "sm": lambda e, d, g: SM(e, d, g, chunk=16, data_noise=0.0),
    "sm_chunks": lambda e, d, g: SM(e, d, g, chunk=2, data_noise=0.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_step_is_autograd_s(name, both):
    energy, data = mlp()

    def run():
        energy.zero_grad()
        objective = OBJECTIVES[name](energy, data, torch.Generator().manual_seed(3))
        loss = objective(Batch(data.train.double()))
        loss.value.backward()
        return loss.value.detach(), loss.metrics, [p.grad for p in energy.parameters() if p.grad is not None]

    close(*both(run))


@pytest.mark.parametrize(
    "name, calls",
    [
        ("langevin", 6),
        ("mala", 7),
        ("barker", 7),
        ("hmc", 10),
        ("adjusted_mclmc", 10),
        ("mclmc", 7),
        ("underdamped", 7),
    ],
)
def test_gradients_per_step_are_as_few_as_they_can_be(name, calls):
    """MALA and Barker: k + 1 gradients for k proposals, HMC: k L + 1, Langevin: k, underdamped: k + 1."""
    seen, energy = [], gaussian()

    def counted(x):
        seen.append(len(x))
        return energy(x)

    SAMPLERS[name]()(counted, points(energy), {}, generator=torch.Generator())
    assert len(seen) == calls


def test_many_points_are_taken_in_parts(monkeypatch, both):
    energy = mlp()[0]
    monkeypatch.setattr("ebm_lab.energies.mlp.ROWS", 4)
    x = points(energy, 11)
    fast, slow = both(lambda: energy_and_grad(energy, x))
    close(fast, slow)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_trace_in_chunks_is_the_trace(chunk, both):
    """With its gradient: each chunk but the first is computed anew in the backward pass."""
    energy, _ = mlp(event=(5,))
    x, weights = points(energy), torch.rand(3, 6, dtype=torch.float64)

    def run():
        e, s, trace = score_and_trace(energy, x, chunk)
        energy.zero_grad()
        (weights[0] * e + weights[1] * s.sum(1) + weights[2] * trace).sum().backward()
        return [e.detach(), s.detach(), trace.detach(), *(p.grad for p in energy.parameters())]

    fast, slow = both(run)
    close(fast, slow)
