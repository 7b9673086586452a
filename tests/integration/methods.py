"""Small methods that use what the lab offers to objectives: a second player, turns, a model on another scale, an
origin, an objective within an objective, chains with labels; and a sampler within a sampler."""

import math
from typing import Annotated, Any

import torch
from torch import nn

from ebm_lab.core import choice
from ebm_lab.core.derived import Tempered, Tethered
from ebm_lab.core.features import Child, Need
from ebm_lab.core.functional import flat_sum, frozen, stacked
from ebm_lab.core.interfaces import Batch, Dataset, Energy, Loss, Objective, Sampler, Turn
from ebm_lab.core.registry import register
from ebm_lab.distributions.elementary import Gaussian
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
        settings = {
            "buffer_size": 128,
            "restart": 0.05,
            "refresh": 1,
            "data_noise": 0.0,
            "energy_l2": 0.0,
            "conditional": False,
        }
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


@register("dataset", "test_two_classes")
class TwoClasses(Dataset):
    """y a fair coin, x | y ~ N(m_y, S_y) in the plane."""

    means = torch.tensor([[-1.5, 0.5], [1.0, -1.0]])
    covariances = torch.tensor([[[0.6, 0.3], [0.3, 0.5]], [[0.3, -0.2], [-0.2, 1.0]]])

    def __init__(self, *, n: int) -> None:
        self.laws = [Gaussian(m, s) for m, s in zip(self.means, self.covariances, strict=True)]
        generator, self.labels = torch.Generator().manual_seed(0), {}
        for split in ("train", "val", "test"):
            y = torch.randint(2, (n,), generator=generator)
            both = torch.stack([law.sample(n, generator) for law in self.laws])
            self.labels[split] = y
            setattr(self, split, both[y, torch.arange(n)])

    def log_prob(self, x):
        return torch.logaddexp(*[law.log_prob(x) for law in self.laws]) - math.log(2)


@register("energy", "test_two_gaussians")
class TwoGaussians(Energy):
    """E(x, y) = |L_y' (x - m_y)|^2 / 2 - log |det L_y|: exp(-E) has the same integral for each y."""

    offers = frozenset({"energy", "score", "smooth", "labels"})
    needs = (Need("dataset", "classes"),)
    classes = 2

    def __init__(self, dataset):
        super().__init__()
        self.m = nn.Parameter(dataset.mean + 0.1 * torch.randn(2, 2))
        self.factor = nn.Parameter(torch.eye(2).repeat(2, 1, 1) / dataset.scale)

    def logits(self, x, sigma=None):
        lower = self.factor.tril()
        far = torch.einsum("bki,kij->bkj", x[:, None] - self.m, lower)
        return lower.diagonal(dim1=1, dim2=2).abs().log().sum(1) - 0.5 * far.square().sum(2)

    def forward(self, x, y=None):
        logits = self.logits(x)
        return -logits.logsumexp(1) if y is None else -logits.gather(1, y[:, None]).squeeze(1)


@register("objective", "test_labelled_pcd")
class LabelledPCD(PCD):
    """PCD of E(x, y): each chain has a label for good, and those advance whose labels are the batch's."""

    needs = (*PCD.needs, Need("energy", "labels"), Need("dataset", "classes"))
    rows = (*PCD.rows, "labels")

    def __init__(self, energy, sampler, dataset, generator, batch_size, *, buffer_size: int):
        settings = {"restart": 0.0, "refresh": 0, "data_noise": 0.0, "energy_l2": 0.0, "conditional": False}
        super().__init__(energy, sampler, dataset, generator, batch_size, buffer_size=buffer_size, **settings)
        self.register_buffer("labels", torch.arange(buffer_size, device=self.buffer.x.device) % energy.classes)

    def slots(self, y):
        """Distinct chains with the labels y."""
        order, found = self.buffer.draw(len(self.labels), self.generator), torch.empty_like(y)
        for label in range(self.energy.classes):
            found[y == label] = order[self.labels[order] == label][: int((y == label).sum())]
        return found

    def forward(self, batch):
        slots, own = self.slots(batch.y), self.energy.given(y=batch.y)
        chain = self.sampler(own, self.buffer.x[slots], self.sampler_state, generator=self.generator)
        self.sampler_state = chain.state
        self.buffer.put(slots, chain.x, self.sampler.steps)
        e_pos, e_neg = stacked(own, batch.x, chain.x)
        loss = (e_pos - e_neg).mean()
        return Loss(loss, {"loss": loss.detach(), **chain.metrics}, chain.grad_evals)

    def chains(self):
        return Batch(self.buffer.x, self.labels)


@register("sampler", "test_cycle")
class Cycle(Sampler):
    """`rounds` calls of the kernel for one of its own."""

    def __init__(self, *, rounds: int, kernel: Annotated[Any, choice.Nested("sampler")]) -> None:
        self.rounds, self.kernel, self.steps = rounds, kernel, rounds * kernel.steps

    @classmethod
    def children_of(cls, **settings):
        return (Child("kernel", must={"stationary": "the rounds are to keep the model's law"}),)

    @classmethod
    def offers_of(cls, *, kernel, **settings):
        return (kernel.offers or frozenset()) - {"reparameterised"}

    def begin(self, energy, x, generator):
        return self.kernel.begin(energy, x, generator)

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        evals = 0
        for _ in range(self.rounds):
            chain = self.kernel(energy, x, state, generator=generator)
            x, state, evals = chain.x, chain.state, evals + chain.grad_evals
        return chain._replace(grad_evals=evals)
