"""Variational entropy-regularised training: a generator draws the model's samples, and its entropy holds it apart.

    energy:     min_theta  E_p[ E(x) ] - E_q[ E(x) ] + penalty E_p[ 1/2 |grad_x E(x)|^2 ]
    generator:  min_q      E_q[ E(x) ] - w H(q),    x = g(z) + s e,  z, e ~ N(0, I)
    grad H(q) = -E[ (grad_x log q(x))' dx ],    grad_x log q(x) = E[ (g(z') - x) / s^2 | x ]

The score of q is an expectation under the posterior of z given x, taken by self-normalised importance weights with
proposals z' ~ N(z, eta^2) about the z that x came from. It is held fixed as a whole: holding the weights alone gives a
wrong gradient in s. eta is learnt by the evidence bound E[log p(z', x)] + sum log eta; too small an eta biases the
score. The generator's best law is q = exp(-E / w) / Z, so the weight w of the entropy is a temperature, and the law
that the run claims is exp(-E / w). The penalty keeps the game from drifting and biases it: for data N(0, v) and
E = a x^2 / 2 it ends at v (1 + 2 penalty a) = w / a instead of v = w / a.

A generator of few latents joins separated modes by bridges, so that q never becomes exp(-E / w), and the energy may do
anything where the generator does not go. With `reweight` the mean under the model is estimated by weighted samples
instead, half of them from the generator and half from the noise n where chains begin:

    E_model[ E(x) ] ~ sum_i u_i E(x_i) / sum_i u_i,    u_i = exp(-E(x_i) / w) / (q(x_i) / 2 + n(x_i) / 2)

with q(x) = E_z[ N(x; g(z), s^2) ] by draws of z. The energy's gradient is then that of the likelihood wherever the
noise reaches, up to a bias of the normalised weights that falls as 1 / batch size.

Will Grathwohl, Jacob Kelly, Milad Hashemi, Mohammad Norouzi, Kevin Swersky and David Duvenaud, No MCMC for Me:
Amortized Sampling for Fast and Stable Training of Energy-Based Models, 2021, sections 3 and 4, arXiv:2010.04230.
"""

import math
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.derived import tempered
from ebm_lab.core.features import Derive, Need, keep
from ebm_lab.core.functional import energy_and_grad, evaluate, flat_sum, frozen
from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Dataset, Distribution, Loss, Objective, Sampleable, Turn
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law
from ebm_lab.models.players import GeneratorNet, Std
from ebm_lab.objectives._contrastive import contrast

LATENTS = 2000
"""Latents by which the density of the generator is estimated."""
WEIGHTS = Metric("weights_ess", meaning="effective samples as a share of the samples that reweighting weighs")


@torch.no_grad()
def log_density(net: GeneratorNet, x: Tensor, z: Tensor) -> Tensor:
    """Estimate log q(x) in nats, (B,), at x (B, *shape) by latents z (M, latent) drawn from their law."""
    flat, centres = x.flatten(1), net(z).flatten(1)
    squares = torch.cdist(flat, centres, compute_mode="donot_use_mm_for_euclid_dist").square() / net.std() ** 2
    log_width = net.std().log() + 0.5 * math.log(2 * math.pi)
    return (-0.5 * squares).logsumexp(1) - math.log(len(z)) - flat.shape[1] * log_width


@torch.no_grad()
def generator_score(net: GeneratorNet, x: Tensor, z: Tensor, eta: Tensor, e: Tensor) -> Tensor:
    """Estimate grad_x log q(x), (B, *shape), detached, at x drawn from latents z (B, latent).

    The proposals are z' = z + eta e for e (K, B, latent); their weights are p(z', x) / N(z'; z, eta^2).
    """
    proposals = z + eta * e
    weights = (net.log_joint(x, proposals) + 0.5 * e.square().sum(-1)).softmax(0)
    pulls = (net(proposals) - x) / net.std() ** 2
    return (weights.view(*weights.shape, *[1] * (x.ndim - 1)) * pulls).sum(0)


def entropy_surrogate(score: Tensor, x: Tensor) -> Tensor:
    """Return (B,) values whose mean has the gradient of the entropy in the parameters of x, (B, *shape)."""
    return -flat_sum(score.detach() * x)


@register("objective", "vera")
class VERA(Objective):
    """Train the energy on samples of a generator, in turns.

    `entropy`: w, the weight of the generator's entropy. `penalty`: weight of the energy's squared gradient at the
    data, in units of the data's scale squared. `latent`: dimension of z; `hidden`: widths of the generator's hidden
    layers; `std`: initial s in units of the data's scale. `proposals`: K, the importance samples per point. `reweight`:
    weigh the samples that the energy is trained on by what the model's density is there.
    `data_noise`: std of Gaussian noise added to the data, in units of the data's scale.
    """

    metrics = (Metric("loss_net", good="lower"), Metric("net_std"), Metric("proposal_std"), WEIGHTS)
    headline = ("gap", "loss", "loss_net", "lr", "lr_net")
    needs_float32 = "weighs latents by differences of log-densities"
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: torch.Generator,
        *,
        entropy: PositiveFloat,
        penalty: NonNegativeFloat,
        latent: PositiveInt,
        hidden: list[PositiveInt],
        std: Std,
        proposals: PositiveInt,
        reweight: bool,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.net = GeneratorNet(dataset, generator, latent, hidden, std)
        self.log_eta = nn.Parameter(dataset.mean.new_full((latent,), 0.1).log())
        self.generator, self.entropy, self.proposals = generator, entropy, proposals
        self.start = start_law(dataset, energy) if reweight else None
        if reweight:
            self.not_separable = "objective.reweight gives the samples of a batch weights that sum to 1"
        self.penalty, self.data_noise = penalty * dataset.scale**2, data_noise * dataset.scale

    @classmethod
    def modelled(cls, **settings: Any) -> Derive:
        return keep("energy", "score", "smooth")

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": list(self.energy.parameters()), "net": [*self.net.parameters(), self.log_eta]}

    def turn(self, step: int) -> Turn:
        return Turn(("net",) if step % 2 else ("energy",))

    def model(self) -> nn.Module:
        return tempered(self.energy, self.entropy)

    def origin(self) -> Sampleable:
        return self.net

    def forward(self, batch: Batch, turn: Turn = ALL_PLAYERS) -> Loss:
        losses, metrics, evals = [], {}, 0
        x_net, z = self.net.draw(len(batch.x), self.generator)
        if turn.moves("energy"):
            x = with_noise(batch.x, self.data_noise, self.generator)
            if self.start is not None:
                x_neg, log_density = self._spread(x_net, self.start)
                e_pos, e_neg = contrast(self.energy, x, x_neg)
                weights = torch.softmax(-e_neg.detach() / self.entropy - log_density, 0)
                metrics["weights_ess"] = 1 / (len(weights) * weights.square().sum())
            else:
                e_pos, e_neg = contrast(self.energy, x, x_net)
                weights = torch.full_like(e_neg, 1 / len(e_neg))
            gap, evals = e_pos.mean() - (weights * e_neg).sum(), 2 * len(x)
            losses.append(gap)
            if self.penalty:
                grad = energy_and_grad(self.energy, x, create_graph=True)[1]
                losses[0], evals = gap + self.penalty * 0.5 * flat_sum(grad * grad).mean(), 4 * len(x)
            metrics |= {"loss": losses[0].detach(), "gap": gap.detach(), "e_pos": e_pos.detach().mean()}
        if turn.moves("net"):
            losses.append(self._net_loss(x_net, z))
            metrics |= {"loss_net": losses[-1].detach(), "net_std": self.net.std().detach()}
            metrics["proposal_std"] = self.log_eta.detach().exp().mean()
            evals += len(x_net)
        return Loss(sum(losses[1:], losses[0]), metrics, evals)

    def _spread(self, x_net: Tensor, start: Distribution) -> tuple[Tensor, Tensor]:
        """Return half of the generator's samples and as many draws of the noise, (B, *shape), with the log-density of
        both in nats, (B,)."""
        half = len(x_net) // 2
        x = torch.cat([x_net.detach()[:half], start.sample(len(x_net) - half, self.generator)])
        z = x.new_empty(LATENTS, self.net.latent).normal_(generator=self.generator)
        return x, torch.logaddexp(log_density(self.net, x, z), start.log_prob(x)) - math.log(2)

    def _net_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Return E(x) - w H(q) with the entropy's gradient, minus the evidence bound of eta."""
        e = z.new_empty(self.proposals, *z.shape).normal_(generator=self.generator)
        with frozen(self.energy):
            loss = evaluate(self.energy, x)
        loss = loss - self.entropy * entropy_surrogate(generator_score(self.net, x, z, self.log_eta.exp(), e), x)
        with frozen(self.net):
            bound = self.net.log_joint(x.detach(), z + self.log_eta.exp() * e).mean(0) + self.log_eta.sum()
        return loss.mean() - bound.mean()
