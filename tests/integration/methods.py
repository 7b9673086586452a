"""Small methods that use what the lab offers to objectives: a second player, turns, a model on another scale, an
origin, an objective within an objective."""

import torch
from torch import nn

from ebm_lab.core.derived import Tempered, Tethered
from ebm_lab.core.functional import flat_sum, frozen, stacked
from ebm_lab.core.interfaces import Batch, Loss, Objective, Turn
from ebm_lab.core.registry import register
from ebm_lab.objectives.pcd import PCD
from ebm_lab.samplers.langevin import Langevin


class Generator(nn.Module):
    """x = mean + L z: a Gaussian that can be drawn from, and has no density of its own."""

    def __init__(self, dataset):
        super().__init__()
        d = dataset.mean.numel()
        self.mean, self.factor = nn.Parameter(dataset.mean.clone()), nn.Parameter(dataset.scale * torch.eye(d))

    def forward(self, z):
        return self.mean + z @ self.factor.T

    @torch.no_grad()
    def sample(self, n, generator):
        return self(torch.randn(n, len(self.mean), generator=generator, device=self.mean.device))


@register("objective", "test_cooperative")
class Cooperative(Objective):
    """`rounds` turns of the generator, by |sg x - g(z)|^2 after Langevin steps from g(z), then one of the energy V, by
    E+ - E-; the law is exp(-V / eps).

    Jianwen Xie et al., Cooperative Training of Descriptor and Generator Networks, 2018, arXiv:1609.09408.
    """

    def __init__(self, energy, sampler, dataset, generator, *, rounds: int, eps: float):
        super().__init__(energy)
        self.sampler, self.generator, self.rounds, self.eps = sampler, generator, rounds, eps
        self.net = Generator(dataset)

    def players(self):
        return {"energy": list(self.energy.parameters()), "net": list(self.net.parameters())}

    def turn(self, step):
        return Turn(("energy",), "contrast") if step % (self.rounds + 1) == 0 else Turn(("net",), "teach")

    def model(self):
        return Tempered(self.energy, self.eps)

    def origin(self):
        return self.net

    def forward(self, batch, turn):
        z = torch.empty_like(batch.x).normal_(generator=self.generator)
        g = self.net(z)
        chain = self.sampler(self.model(), g.detach(), self.sampler_state, generator=self.generator)
        self.sampler_state = chain.state
        e_pos, e_neg = stacked(self.model(), batch.x, chain.x.detach())
        loss = (e_pos - e_neg).mean() if turn.form == "contrast" else flat_sum((chain.x.detach() - g) ** 2).mean()
        return Loss(loss, {"loss": loss.detach(), "gap": (e_pos - e_neg).mean().detach()}, chain.grad_evals)


@register("objective", "test_nested")
class Nested(Objective):
    """An objective around PCD, which it builds itself: PCD's loss and a penalty on the energy's square."""

    def __init__(self, energy, sampler, dataset, generator, batch_size, *, penalty: float):
        super().__init__(energy)
        settings = {"buffer_size": 128, "restart": 0.05, "refresh": 1, "data_noise": 0.0, "energy_l2": 0.0}
        self.generative = PCD(energy, sampler, dataset, generator, batch_size, **settings)
        self.penalty, self.rows = penalty, tuple(f"generative.{name}" for name in PCD.rows)

    def forward(self, batch):
        inner = self.generative(batch)
        loss = inner.value + self.penalty * self.energy(batch.x).square().mean()
        return Loss(loss, {**inner.metrics, "loss": loss.detach()}, inner.grad_evals)

    def chains(self):
        x = self.generative.chains()
        return Batch(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))


@register("objective", "test_recovery")
class Recovery(Objective):
    """E(x_t, t) - E(sg x-, t), with x- by Langevin steps on E + |x - x_(t-1)|^2 / (2 gap^2), lengths by the gap.

    Ruiqi Gao et al., Learning Energy-Based Models by Diffusion Recovery Likelihood, 2021, arXiv:2012.08125.
    """

    needs = "levels"

    def __init__(self, energy, dataset, generator, *, steps: int):
        super().__init__(energy)
        self.generator, self.dataset = generator, dataset
        self.kernel = Langevin(1.0, steps=steps, step_size=0.3, noise_scale=1.0, clip_grad=None)

    def forward(self, batch):
        ladder, n = self.energy.ladder, len(batch.x)
        i = int(torch.randint(ladder.levels - 1, (), generator=self.generator))
        high, low = ladder.rung(i), ladder.rung(i + 1)
        gap = (high**2 - low**2) ** 0.5
        x = batch.x + low * torch.empty_like(batch.x).normal_(generator=self.generator)
        seen = x + gap * torch.empty_like(x).normal_(generator=self.generator)
        level = self.energy.given(sigma=x.new_full((n,), low))
        kernel = Langevin(gap, steps=self.kernel.steps, step_size=0.3, noise_scale=1.0, clip_grad=None)
        with frozen(self.energy):
            chain = kernel(Tethered(level, seen, gap), seen, {}, generator=self.generator)
        e_pos, e_neg = stacked(level, x, chain.x)
        loss = (e_pos - e_neg).mean()
        return Loss(loss, {"loss": loss.detach()}, chain.grad_evals)
