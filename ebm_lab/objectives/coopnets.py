"""Cooperative training: a generator starts the energy's chains, and learns from where they end.

    x~ = chain from sg x0,  x0 = g(z) + s e,    z, e ~ N(0, I)
    energy:     min  E_p[ E(x) ] - E[ E(x~) ]
    generator:  min  E[ |x~ - g(z~)|^2 / (2 s^2) + d log s ],    z~ from p(z | x~) ~ exp(-U)
    U(z) = |z|^2 / 2 + |x~ - g(z)|^2 / (2 s^2)

The generator's step is one of expectation maximisation: z~ is inferred by Langevin steps with a Metropolis test, which
begin at the z that x0 came from. Without inference (z~ = z) the generator contracts: for g = w z and k Langevin steps
of size eps on a x^2 / 2, it learns w (1 - eps^2 a / 2)^k. The energy answers by going flat, and samples look right
while E is nothing. With inference the generator comes to the stationary law of the chains.

Jianwen Xie, Yang Lu, Ruiqi Gao, Song-Chun Zhu and Ying Nian Wu, Cooperative Training of Descriptor and Generator
Networks, 2018, algorithm 1, arXiv:1609.09408.
"""

from functools import partial

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import frozen, gradient_of
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Sampleable, Sampler
from ebm_lab.core.mcmc import accept, log_acceptance
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.models.players import GeneratorNet, Std
from ebm_lab.objectives._contrastive import Chained, contrast


def latent_energy(net: GeneratorNet, x: Tensor, z: Tensor) -> Tensor:
    """Compute U(z) + d log s, (B,), at latents z (B, latent) for x (B, *shape)."""
    return -net.log_joint(x, z)


def infer(
    net: GeneratorNet, x: Tensor, z: Tensor, steps: int, eps: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Take Langevin steps of size eps in z with a Metropolis test, which leave p(z | x) invariant; returns (z, share
    accepted), (B, latent) and 0-d. `steps` is at least 1."""
    at, half, taken = gradient_of(partial(latent_energy, net, x)), eps**2 / 2, []
    with frozen(net):
        u, grad = at(z)
        for _ in range(steps):
            new = z - half * grad + eps * torch.empty_like(z).normal_(generator=generator)
            u_new, grad_new = at(new)
            yes = accept(log_acceptance(u, grad, z, u_new, grad_new, new, eps), generator)
            taken.append(yes.to(z.dtype).mean())
            u = torch.where(yes, u_new, u)
            z, grad = (torch.where(yes[:, None], *pair) for pair in ((new, z), (grad_new, grad)))
    return z, torch.stack(taken).mean()


@register("objective", "coopnets")
class CoopNets(Chained):
    """Train energy and generator on the same chains; both move at each step.

    `latent`: dimension of z; `hidden`: widths of the generator's hidden layers; `std`: initial s in units of the data's
    scale. `inference_steps`: steps in z, 0 to keep the known z; `inference_size`: their size eps, in units of `std`.
    `refresh`: number of independence-Metropolis steps before the chain's own, with proposals from noise; without them
    nothing keeps E high where neither data nor generator are. `data_noise`: std of Gaussian noise added to the data, in
    units of the data's scale.
    """

    metrics = (Metric("loss_net", good="lower"), Metric("net_std"), Metric("inference_acceptance"))
    headline = ("gap", "loss_net", "acceptance", "lr", "lr_net")
    needs_float32 = "compares the ends of chains with the generator's samples, which lie near them"
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: torch.Generator,
        *,
        latent: PositiveInt,
        hidden: list[PositiveInt],
        std: Std,
        inference_steps: NonNegativeInt,
        inference_size: PositiveFloat,
        refresh: NonNegativeInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise)
        self.net = GeneratorNet(dataset, generator, latent, hidden, std)
        self.refresh = refresh
        self.inference_steps, self.eps = inference_steps, inference_size * std

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": list(self.energy.parameters()), "net": list(self.net.parameters())}

    def origin(self) -> Sampleable:
        return self.net

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        with torch.no_grad():
            start, z = self.net.draw(len(x), self.generator)
        chain = self.advance(start, self.refresh)
        told = dict(chain.metrics)
        if self.inference_steps:
            z, told["inference_acceptance"] = infer(
                self.net, chain.x, z, self.inference_steps, self.eps, self.generator
            )
        e_pos, e_neg = contrast(self.energy, x, chain.x)
        gap, loss_net = e_pos.mean() - e_neg.mean(), latent_energy(self.net, chain.x, z).mean()
        metrics = {"loss": gap, "loss_net": loss_net, "e_pos": e_pos.mean(), "e_neg": e_neg.mean(), "gap": gap}
        metrics |= {"chain_distance": self.distance(chain.x), "net_std": self.net.std()}
        metrics = {name: value.detach() for name, value in metrics.items()} | told
        return Loss(gap + loss_net, metrics, grad_evals=chain.grad_evals + 2 * len(x))
