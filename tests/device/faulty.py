"""Objectives with one fault each, which the pretended device must find: those that a CPU forgives."""

import torch
from torch import Generator

from ebm_lab.core.functional import flat_sum, score
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.core.registry import register


class Sound(Objective):
    """Denoising score matching at one level; a subclass plants its fault in `noise` or `weight`."""

    def __init__(self, energy, generator) -> None:
        super().__init__(energy)
        self.generator = generator

    def noise(self, x):
        return torch.empty_like(x).normal_(generator=self.generator)

    def weight(self, x):
        return torch.ones_like(x[:, 0])

    def forward(self, batch: Batch) -> Loss:
        z = self.noise(batch.x)
        s = score(self.energy, batch.x + 0.1 * z, create_graph=True)
        loss = (self.weight(batch.x) * flat_sum((0.1 * s + z).square())).mean()
        return Loss(loss, {"loss": loss.detach()}, grad_evals=len(batch.x))


@register("objective", "faulty_none")
class NoFault(Sound):
    """No fault at all."""


@register("objective", "faulty_item")
class ReadsANumber(Sound):
    """A loss that reads a number."""

    def weight(self, x):
        return super().weight(x) * x.abs().mean().item()


@register("objective", "faulty_generator")
class DrawsOnTheCPU(Sound):
    """Noise from a generator of the CPU."""

    def noise(self, x):
        return torch.empty_like(x).normal_(generator=Generator().manual_seed(0))


@register("objective", "faulty_tensor")
class MixesDevices(Sound):
    """Weights of the batch that were made on the CPU."""

    def weight(self, x):
        return torch.linspace(0, 1, len(x))


@register("objective", "faulty_numpy")
class GoesThroughNumPy(Sound):
    """Weights by NumPy."""

    def weight(self, x):
        return torch.from_numpy(x[:, 0].detach().numpy()).to(x)


@register("objective", "faulty_mask")
class SelectsByAMask(Sound):
    """A size that depends on values."""

    def noise(self, x):
        z = super().noise(x)
        z[z > 0] = z[z > 0] * 0.5
        return z


FAULTY = ("faulty_none", "faulty_item", "faulty_generator", "faulty_tensor", "faulty_numpy", "faulty_mask")
