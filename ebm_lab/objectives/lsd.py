"""The learned Stein discrepancy: a critic finds where the model's score is wrong, and the energy follows it.

    A f(x) = s(x) . f(x) + tr grad f(x),    s = -grad_x E
    critic:  max_f      E_p[ A f(x) ] - l2 E_p|f(x)|^2
    energy:  min_theta  E_p[ s(x) . f(x) ]        (the trace does not depend on theta)

E_p[A f] = E_p[(s - s_p) . f], so the best critic is f = (s - s_p) / (2 l2), with the value D_F / (2 l2), where
D_F = 1/2 E_p|s - s_p|^2. With that critic the energy follows the gradient of D_F / (2 l2), and needs no second
derivative of E. The minimiser is the data's score; like score matching it is blind to the weights of modes that lie
far apart. A critic that lags behind is what makes training diverge. At the best critic E_p[A f] = 2 l2 E_p|f|^2: their
ratio `critic_ratio` is near 1 if the critic has kept up.

With `adds_score` the critic is a network plus the model's score, f = c + s / (2 l2), where s counts as fixed. The best
c is then -s_p / (2 l2), which does not move with the energy, and s cancels from the critic's gradient:

    critic:  min_c  E_p[ l2 |c|^2 - tr grad c ]

so that c learns the data's score by score matching and never lags behind. Between modes there are few points; there a
critic that lags pushes the energy up and down at random, and the weights of the modes wander.

Will Grathwohl, Kuan-Chieh Wang, Joern-Henrik Jacobsen, David Duvenaud and Richard Zemel, Learning the Stein Discrepancy
for Training and Evaluating Energy-Based Models without Sampling, 2020, arXiv:2002.05616.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import divergence, flat_sum, frozen, score
from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Dataset, Loss, Objective, Turn
from ebm_lab.core.learnt import ScoreCritic
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.models.players import Critic


def stein_operator(
    s: Tensor,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    v: Tensor | None = None,
    added: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (A f(x), |f(x)|^2), (B,) each, with a graph to the critic, for the score s = s(x), (B, *shape).

    The trace is exact without v, and Hutchinson's estimate with random v (B, *shape), E[v v'] = I. added: the value
    (B, *shape) and the trace (B,) of a field to add to f.
    """
    value, trace = divergence(f, x, v, create_graph=True)
    if added is not None:
        value, trace = value + added[0], trace + added[1]
    return flat_sum(s * value) + trace, flat_sum(value * value)


@register("objective", "lsd")
class LSD(Objective):
    """Minimise the learned Stein discrepancy.

    `critic_steps`: turns of the critic for one of the energy. `l2`: weight of the critic's square. `trace`: exact, in d
    backward passes, or hutchinson, in one. `hidden`: widths of the critic's hidden layers. `adds_score`: the critic is
    its network plus the model's score over 2 l2. `data_noise`: std of Gaussian noise added to the data, in units of the
    data's scale.
    """

    metrics = (
        Metric("loss_critic", good="lower"),
        Metric("stein", "Stein discrepancy", meaning="E_p[A f], which is D_F / l2 at the best critic"),
        Metric("critic_ratio", meaning="E_p[A f] / (2 l2 E_p|f|^2); 1 at the best critic"),
    )
    headline = ("loss", "loss_critic", "critic_ratio", "lr", "lr_critic")
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))

    @classmethod
    def needs_of(cls, *, adds_score: bool = False, **settings: object) -> Iterable[Need]:
        smooth = Need("energy", "smooth", "objective.adds_score=true")
        return (*cls.needs, smooth) if adds_score else cls.needs

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        critic_steps: PositiveInt,
        l2: PositiveFloat,
        trace: Literal["exact", "hutchinson"],
        hidden: list[PositiveInt],
        adds_score: bool,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.critic = Critic(dataset, generator, hidden, dataset.mean.numel())
        self.generator, self.critic_steps, self.l2 = generator, critic_steps, l2
        self.gain = 1 / (2 * l2)
        self.adds_score = adds_score
        self.trace, self.data_noise, self.scale = trace, data_noise * dataset.scale, dataset.scale

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": list(self.energy.parameters()), "critic": list(self.critic.parameters())}

    def turn(self, step: int) -> Turn:
        return Turn(("critic",) if step % (self.critic_steps + 1) else ("energy",))

    def sees_within(self) -> float:
        return self.data_noise

    def learnt_critic(self) -> ScoreCritic:
        return ScoreCritic(self.f, self.gain)

    def c(self, x: Tensor) -> Tensor:
        """The critic's network, (B, *shape) -> (B, *shape), in the unit of a score."""
        return self.critic(x).view(x.shape) / self.scale

    def f(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """The critic, (B, *shape) -> (B, *shape), in the unit of a score; s: the model's score at x, if known."""
        if not self.adds_score:
            return self.c(x)
        return self.c(x) + self.gain * (score(self.energy, x) if s is None else s)

    def forward(self, batch: Batch, turn: Turn = ALL_PLAYERS) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        losses, metrics, evals = [], {}, 0
        if turn.moves("energy"):
            s = score(self.energy, x, create_graph=True)
            with frozen(self.critic):
                f = self.f(x, s).detach()
            losses.append(flat_sum(s * f).mean())
            metrics["loss"], evals = losses[-1].detach(), 2 * len(x)
        if turn.moves("critic"):
            v = None if self.trace == "exact" else x.new_empty(x.shape).normal_(generator=self.generator)
            s, added = self.added(x, v)
            values, square = stein_operator(s, self.c, x, v, added)
            stein, size = values.mean(), self.l2 * square.mean()
            losses.append(size - stein)
            metrics["loss_critic"], metrics["stein"] = losses[-1].detach(), stein.detach()
            metrics["critic_ratio"] = stein.detach() / (2 * size.detach()).clamp_min(torch.finfo(size.dtype).tiny)
            evals += len(x)
        return Loss(sum(losses[1:], losses[0]), metrics, evals)

    def added(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the model's score at x, and what it adds to the critic: its value and its trace."""
        if not self.adds_score:
            return score(self.energy, x), None
        with frozen(self.energy):
            s, trace = divergence(lambda y: score(self.energy, y, create_graph=True), x, v)
        return s, (self.gain * s, self.gain * trace)
