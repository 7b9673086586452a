"""Identities of maximum likelihood: its gradient by chains, noise and flows, and its blind spot in score matching.

Tolerances: an error c x^s (1 + O(x)) over the range given moves the fitted slope by less than the tolerance; exact rows
are held to float64 and the trapezoid rule, 1e-9.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ebm_lab.core.functional import EnergyFn, energy_and_grad, evaluate
from ebm_lab.distributions.elementary import Distribution, IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.objectives._contrastive import contrast
from ebm_lab.objectives.nce import noise_contrastive_estimation
from ebm_lab.samplers.langevin import langevin_step
from scripts.theory.line import (
    Identity,
    LineEnergy,
    data,
    fisher,
    gradient,
    identity,
    j_ism,
    log_z,
    measure,
    mixture,
    mle_gradient,
    nodes,
    normal_nodes,
    under,
    with_noise,
)


def kl(law: GaussianMixture, energy: EnergyFn) -> float:
    """KL(law || exp(-E) / Z) in nats."""
    x, p = under(law)
    with torch.no_grad():
        return float((p * (law.log_prob(x) + evaluate(energy, x))).sum() + log_z(energy))


@identity
def one_step_of_langevin_is_score_matching() -> Identity:
    energy, (x, p) = LineEnergy(), under(data())
    xx, z, pz = with_noise(x, p)
    exact = gradient(energy, j_ism(energy, data()))

    def error(eps: float) -> float:
        x_neg = langevin_step(xx, energy_and_grad(energy, xx)[1], z, eps)
        e, e_neg = contrast(energy, x, x_neg)
        return float((2 / eps**2 * gradient(energy, (p * e).sum() - (pz * e_neg).sum()) - exact).abs().max())

    equation = r"$\frac{2}{\epsilon^2}\,\nabla_\theta L_\mathrm{CD\text{-}1} \to \nabla_\theta J$"
    xs, errors = measure(error, (0.4, 0.2, 0.1, 0.05))
    return Identity(2, "CD-1", equation, "objectives/cd.py", r"$\epsilon$", xs, errors, 2.0, 0.1)


@dataclass(frozen=True)
class BlurredModel:
    """The energy of exp(-E) * N(0, t), by quadrature over the nodes."""

    energy: EnergyFn
    t: float

    def __call__(self, y: Tensor) -> Tensor:
        x, w = nodes()
        log_terms = w.log() - evaluate(self.energy, x) - (y - x.T) ** 2 / (2 * self.t)
        return -torch.logsumexp(log_terms, 1) + 0.5 * math.log(2 * math.pi * self.t)


@identity
def blurring_contracts_by_fisher() -> Identity:
    energy, t = LineEnergy(), 0.2
    exact = -float(fisher(data(t**0.5), BlurredModel(energy, t)))

    def error(h: float) -> float:
        up, down = (kl(data(u**0.5), BlurredModel(energy, u)) for u in (t + h, t - h))
        return abs((up - down) / (2 * h) - exact)

    equation = r"$\frac{d}{dt} KL(p * N_t \Vert p_\theta * N_t) = -D_F$"
    xs, errors = measure(error, (0.08, 0.04, 0.02, 0.01))
    return Identity(9, "de Bruijn", equation, "core/functional.py", "half step h", xs, errors, 2.0, 0.1)


@identity
def langevin_descends_by_fisher() -> Identity:
    energy, (x, p) = LineEnergy(), under(data())
    exact, start = -2 * float(fisher(data(), energy)), kl(data(), energy)
    grad = energy_and_grad(energy, x)[1]

    def error(dt: float) -> float:
        mean = langevin_step(x, grad, torch.zeros_like(x), (2 * dt) ** 0.5)
        moved = GaussianMixture(p.clamp_min(1e-300), mean, stds=torch.full_like(mean, (2 * dt) ** 0.5))
        return abs((kl(moved, energy) - start) / dt - exact)

    equation = r"$\frac{d}{dt} KL(p_t \Vert p_\theta)|_{t=0} = -2 D_F$"
    xs, errors = measure(error, (0.04, 0.02, 0.01, 0.005))
    return Identity(10, "Langevin descends", equation, "samplers/langevin.py", "dt", xs, errors, 1.0, 0.1)


def nce_gradient(energy: LineEnergy, noise: Distribution, k: float) -> Tensor:
    """d/dtheta of E_p softplus(-h) + k E_n softplus(h) at c = log Z, h by the objective's own function.

    Only log k enters h, so one copy of the nodes with c = log Z + log k serves every k.
    """
    x, w = nodes()
    c = log_z(energy).detach() + math.log(k)
    _, h, h_noise = noise_contrastive_estimation(energy, c, x, x, noise)
    p, p_noise = data().log_prob(x).exp(), noise.log_prob(x).exp().detach()
    return gradient(energy, (w * (p * softplus(-h) + k * p_noise * softplus(h_noise))).sum())


@identity
def nce_tends_to_likelihood() -> Identity:
    energy, noise = LineEnergy(), IsotropicGaussian(torch.zeros(1, dtype=torch.float64), 2.0)
    exact = mle_gradient(energy, data())

    def error(k: float) -> float:
        return float((nce_gradient(energy, noise, k) - exact).abs().max())

    equation = r"$\nabla L_\mathrm{NCE}(k) \to \nabla L_\mathrm{MLE}$"
    xs, errors = measure(error, (100, 1000, 10_000, 100_000))
    return Identity(11, "NCE, many noise samples", equation, "objectives/nce.py", "k", xs, errors, -1.0, 0.03)


@dataclass(frozen=True)
class Frozen:
    """The model itself as noise: log_prob without its graph."""

    energy: nn.Module

    def sample(self, n: int, generator: Generator) -> Tensor:
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return -evaluate(self.energy, x) - log_z(self.energy)


@identity
def nce_against_itself_is_likelihood() -> Identity:
    energy = LineEnergy()
    exact = mle_gradient(energy, data())

    def error(k: float) -> float:
        return float((nce_gradient(energy, Frozen(energy), k) - k / (1 + k) * exact).abs().max())

    equation = r"$p_n = p_\theta:\ \nabla L_\mathrm{NCE} = \frac{k}{1+k} \nabla L_\mathrm{MLE}$"
    xs, errors = measure(error, (1, 3, 10, 100))
    return Identity(12, "NCE against itself", equation, "objectives/nce.py", "k", xs, errors, None, 1e-9)


@identity
def contrastive_divergence_tends_to_likelihood() -> Identity:
    """Data N(0, s), energy a x^2 / 2; Langevin is reversible for its own stationary law N(0, v), r = 1 - eps^2 a / 2.

    A Gaussian chain is a linear map of independent normals: its state is the vector of coefficients, and |x|^2 its
    variance, so that langevin_step propagates it exactly.
    """
    a, s, eps = 0.9, 1.7, 0.5
    r, v = 1 - eps**2 * a / 2, 1 / (a * (1 - eps**2 * a / 4))
    z, q = normal_nodes(8)
    precision = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def error(k: float) -> float:
        chain = torch.zeros(1, 1 + int(k), dtype=torch.float64)
        chain[0, 0] = s**0.5
        for step in range(int(k)):
            unit = torch.zeros_like(chain)
            unit[0, step + 1] = 1
            chain = langevin_step(chain, a * chain, unit, eps)
        e, e_neg = contrast(lambda x: 0.5 * precision * x[:, 0] ** 2, s**0.5 * z[:, None], chain.norm() * z[:, None])
        precision.grad = None
        (q * (e - e_neg)).sum().backward()
        assert precision.grad is not None
        return abs(float(precision.grad) - 0.5 * (s - v))

    xs, errors = measure(error, (1, 2, 4, 8, 16))
    equation = r"$\nabla L_{\mathrm{CD}\text{-}k} - \nabla L_\infty = \frac{1}{2} r^{2k}\,(v - s)$"
    slope = 2 * math.log(r)
    return Identity(16, "CD-k", equation, "objectives/cd.py", "k", xs, errors, slope, 1e-6, axis="linear")


def two_modes(weight: float, m: float) -> GaussianMixture:
    return mixture((weight, 1 - weight), (-m, m), (1.0, 1.0))


def blindness(m: float) -> tuple[float, float]:
    """(D_F, KL) of the mixture .5 / .5 of N(-m, 1) and N(m, 1) against .9 / .1."""
    true, wrong = two_modes(0.5, m), two_modes(0.9, m)
    return float(fisher(true, lambda y: -wrong.log_prob(y))), kl(true, lambda y: -wrong.log_prob(y))


@identity
def score_matching_is_blind() -> Identity:
    """D_F / (m exp(-m^2 / 2)) tends to 0.41777, with an error of order 1 / m^2."""

    def error(m: float) -> float:
        return abs(blindness(m)[0] / (0.41777 * m * math.exp(-(m**2) / 2)) - 1)

    xs, errors = measure(error, (4, 5, 6, 7, 8))
    equation = r"$D_F(\frac{1}{2},\frac{1}{2}\ \mathrm{vs}\ .9,.1) \sim .418\, m\, e^{-m^2/2}$"
    return Identity(17, "blind to mode weights", equation, "objectives/sm.py", "m", xs, errors, -2.0, 0.3)
