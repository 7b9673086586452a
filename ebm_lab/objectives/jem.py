"""A classifier that is an energy-based model: cross-entropy of its labels, and any objective of the lab for p(x).

    L = E[ -log p(y | x) ] + w L_generative(E),    p(y | x) = softmax_y(-E(x, y)),    E(x) = -log sum_y exp(-E(x, y))

The two terms are those of -log p(x, y) = -log p(x) - log p(y | x). The generative one sees the marginal E(x) alone and
needs no labels; with `generative: pcd` this is JEM, with `dsm` it has no chains. The cross-entropy fixes p(y | x) and
nothing of E(x): a function of x added to all logits leaves it as it is. It also sees the weights of the classes, to
which some generative halves are blind only in E(x).

For an energy of many noise levels, half of the cross-entropy is that of the points at the lowest level and half that of
noisy points at levels drawn with log sigma uniform, p(y | x + sigma z), so that the classes are known at every level.

Where only some training points have labels, all of them enter by the marginal, and the cross-entropy takes a batch of
the labelled points, drawn afresh at each step.

Will Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat It Like One, 2020,
equation 9 and algorithm 1, arXiv:1912.03263.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import NonNegativeFloat
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ebm_lab.core.choice import Choice, Nested
from ebm_lab.core.features import Derive, Need, features_of, same
from ebm_lab.core.functional import per_sample
from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Dataset, Energy, Loss, Objective, Sampleable, Turn
from ebm_lab.core.learnt import Coupling, RatioCritic, ScoreCritic
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.core.turns import loss_of
from ebm_lab.models.ladder import Ladder
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.objectives._levels import draw_levels


def label_loss(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p(y | x), (B,), and whether the most probable class is y, (B,), for logits (B, K) and labels (B,)."""
    return cross_entropy(logits, y, reduction="none"), logits.argmax(1) == y


@register("objective", "jem")
class JEM(Objective):
    """Train a classifier and a density in one. `generative`: the objective of the density, with its own settings below
    it. `weight`: of its loss; 0 leaves a plain classifier. `data_noise`: std of Gaussian noise added to the points that
    are classified, in units of the data's scale."""

    metrics = (
        Metric("class_accuracy", "training accuracy", good="higher"),
        Metric("cross_entropy", unit="nats", good="lower"),
        Metric("generative_loss", good="lower"),
    )
    needs = (Need("energy", "labels"), Need("dataset", "classes"))

    penalises = False

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        batch_size: int,
        *,
        generative: Annotated[Any, Nested("objective")],
        weight: NonNegativeFloat,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        half = cast(Objective, generative)
        self.generative, self.weight, self.generator, self.batch_size = half, weight, generator, batch_size
        self.label_noise = data_noise * dataset.scale
        self.headline = ("class_accuracy", *(name for name in half.headline if name != "loss"))
        self.data_noise, self.needs_float32, self.validates = half.data_noise, half.needs_float32, half.validates
        self.not_separable, self.notes = half.not_separable, half.notes
        self.rows = tuple(f"generative.{name}" for name in half.rows)
        self.resolved = {f"generative.{key}": value for key, value in half.resolved.items()}
        labels = (dataset.labels or {}).get("train")
        self._labelled = Batch(dataset.train, labels)
        """The labelled training points."""
        self._few = False
        """Whether only some training points are labelled."""
        levels = "levels" in features_of(energy)
        self._ladder = cast(NoiseEnergy, energy).ladder if levels else None
        given = dataset.given_labels
        if given is not None and bool((given < 0).any()):
            known = given >= 0
            self._labelled, self._few = Batch(dataset.train[known], given[known]), True
            self.notes = [*self.notes, f"{int(known.sum()):,} of {len(given):,} training points have labels"]

    @classmethod
    def sampled(cls, generative: Choice | None = None, **settings: Any) -> Derive:
        return _of_half("sampled", generative)

    @classmethod
    def modelled(cls, generative: Choice | None = None, **settings: Any) -> Derive:
        return _of_half("modelled", generative)

    def forward(self, batch: Batch, turn: Turn = ALL_PLAYERS) -> Loss:
        half = self._half(batch, turn)
        if not turn.moves("energy"):
            return half
        x, y = self._with_labels(batch)
        values, right = label_loss(cast(Energy, self.energy).logits(x), y)
        ce = values.mean()
        if self._ladder is not None:
            ce = 0.5 * (ce + self._noisy_label_loss(x, y, self._ladder))
        loss = ce + self.weight * half.value
        metrics: Mapping[str, Tensor] = {
            **half.metrics,
            "loss": loss.detach(),
            "generative_loss": half.value.detach(),
            "cross_entropy": ce.detach(),
            "class_accuracy": right.float().mean(),
        }
        return Loss(loss, dict(metrics), grad_evals=half.grad_evals + len(x))

    def _half(self, batch: Batch, turn: Turn) -> Loss:
        """Return the loss of the generative half; a zero that costs nothing where its weight is 0."""
        if not self.weight:
            return Loss(batch.x.new_zeros(()), {}, grad_evals=0)
        return loss_of(self.generative, batch, turn)

    def _noisy_label_loss(self, x: Tensor, y: Tensor, ladder: Ladder) -> Tensor:
        sigma = draw_levels(ladder, len(x), False, self.generator, x)
        noisy = x + per_sample(sigma, x) * torch.empty_like(x).normal_(generator=self.generator)
        return label_loss(cast(Energy, self.energy).logits(noisy, sigma), y)[0].mean()

    def _with_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the points to classify, with noise, and their labels."""
        x, y = batch.x, batch.y
        if self._few or y is None:
            whole, labels = self._labelled
            u = torch.empty(self.batch_size, dtype=x.dtype, device=x.device).uniform_(generator=self.generator)
            index = (u * len(whole)).long().clamp_max(len(whole) - 1)
            x, y = whole[index], cast(Tensor, labels)[index]
        return with_noise(x, self.label_noise, self.generator), cast(Tensor, y)

    def beyond_density(self, batch: Batch) -> Tensor:
        """Return the mean of -log p(y | x) over the batch, or over the labelled training points where only some have
        labels, since training may not use those of held-out points."""
        x, y = self._labelled if self._few else batch
        return label_loss(cast(Energy, self.energy).logits(x), cast(Tensor, y))[0].mean()

    def players(self) -> dict[str, list[nn.Parameter]]:
        return self.generative.players()

    def turn(self, step: int) -> Turn:
        return self.generative.turn(step)

    def model(self) -> nn.Module:
        return self.generative.model()

    def learnt_log_z(self) -> Tensor | None:
        return self.generative.learnt_log_z()

    def learnt_blur(self) -> float:
        return self.generative.learnt_blur()

    def learnt_critic(self) -> ScoreCritic | RatioCritic | None:
        return self.generative.learnt_critic()

    def coupling(self) -> Coupling | None:
        return self.generative.coupling()

    def trains_levels(self) -> bool:
        return self.generative.trains_levels()

    def sees_within(self) -> float | None:
        return self.generative.sees_within()

    def origin(self) -> Sampleable | None:
        return self.generative.origin()

    def chains(self) -> Tensor | Batch | None:
        return self.generative.chains()


def _of_half(what: str, generative: Choice | None) -> Derive:
    """Return how the generative half changes the energy's features."""
    half = None if generative is None else generative.part
    if generative is None or half is None:
        return same
    learns = cast(type[Objective], half)
    return (learns.sampled if what == "sampled" else learns.modelled)(**generative.settings)
