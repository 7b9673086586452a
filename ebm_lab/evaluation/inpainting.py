"""Inpainting: the missing part of a held-out image, drawn from the model given the rest.

    p(x_u | x_k) is proportional to exp(-E(x_u, x_k)) as a function of the unknown pixels x_u alone

so the energy with the known pixels x_k held fixed is an energy of x_u, and whatever samples exp(-E) exactly samples the
conditional exactly (MALA, HMC) or with its own bias (Langevin). Samplers that go down the noise levels instead see
known pixels with each level's noise, which falls to nothing: even for a perfect model exact only in the limit of many
steps a level, for what unknown pixels settled beside blurred known ones must be undone below.

    inpaint_mse        mean squared error per unknown pixel of one completion
    inpaint_mse_mean   of the mean of `completions` chains: what nears the conditional mean, the best guess there is
    inpaint_mse_mean_image, inpaint_mse_nearest    baselines: the mean training image, and the training image whose
                       known pixels are nearest

A completion is a draw and no best guess: with a perfect model inpaint_mse is twice the conditional variance, and can
lie above the mean image's though every completion is right.

Yang Song and Stefano Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, appendix B.3,
arXiv:1907.05600 (by levels).
"""

from typing import Annotated, Any, Literal, cast

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core import pictures
from ebm_lab.core.choice import Nested
from ebm_lab.core.eval_view import Evaluation, EvalView, Report, walk
from ebm_lab.core.features import Child, features_of
from ebm_lab.core.functional import EnergyFn, per_sample
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation.chains import KEEPS_ITS_LAW, markov
from ebm_lab.models.levels import NoiseLevels

Hole = Literal["lower", "right", "centre"]


def hole_mask(hole: Hole, shape: tuple[int, ...]) -> Tensor:
    """(C, H, W) booleans, true where pixels are unknown: half the image, or a square of half its sides."""
    _, h, w = shape
    rows, columns = torch.arange(h)[:, None], torch.arange(w)[None]
    lower, right = rows >= h // 2, columns >= w // 2
    middle = (rows >= h // 4) & (rows < h - h // 4) & (columns >= w // 4) & (columns < w - w // 4)
    return {"lower": lower, "right": right, "centre": middle}[hole].expand(shape)


class Restricted(nn.Module):
    """E as a function of the unknown coordinates u (B, k), the known ones being those of x (B, *shape)."""

    def __init__(self, energy: EnergyFn, x: Tensor, unknown: Tensor) -> None:
        super().__init__()
        self.energy, self.x, self.unknown = energy, x, unknown

    def whole(self, u: Tensor) -> Tensor:
        """(B, *shape); a batch of several copies (replicas) of the B rows is completed by copies."""
        x = self.x.repeat(len(u) // len(self.x), *[1] * (self.x.ndim - 1))
        return x.masked_scatter(self.unknown.expand_as(x), u)

    def forward(self, u: Tensor) -> Tensor:
        return self.energy(self.whole(u))


def complete(
    sampler: Sampler, energy: EnergyFn, x: Tensor, unknown: Tensor, u: Tensor, steps: int, generator: Generator
) -> Tensor:
    """x (B, *shape) with its unknown coordinates drawn from the conditional law, by chains that start at u (B, k)."""
    restricted = Restricted(energy, x, unknown)
    *_, (_, u, _) = walk(sampler, restricted, u, steps, generator)
    return restricted.whole(u)


class Pinned(NoiseLevels):
    """A model of many levels whose known pixels have the law of the data's plus that level's noise, N(x_k, sigma^2 I):
    unknown pixels keep the model's score, at what the known ones happen to be."""

    def __init__(self, model: NoiseLevels, x: Tensor, unknown: Tensor) -> None:
        nn.Module.__init__(self)
        self.model, self.ladder, self.scale, self.mean = model, model.ladder, model.scale, model.mean
        self.x, self.unknown = x, unknown

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        sigma = self.ladder.sigma_min if sigma is None else sigma
        wide = per_sample(sigma, x) if isinstance(sigma, Tensor) else sigma
        return torch.where(self.unknown, self.model.score(x, sigma, create_graph), (self.x - x) / wide**2)


def complete_by_levels(
    sampler: Sampler, model: NoiseLevels, x: Tensor, unknown: Tensor, start: Tensor, generator: Generator
) -> Tensor:
    """x (B, *shape) with its unknown coordinates from a sampler that goes down the noise levels, begun at `start`."""
    pinned = Pinned(model, x, unknown)
    *_, (_, y, _) = walk(sampler, pinned, start, sampler.total(pinned) or 0, generator)
    return torch.where(unknown, y, x)


def goes_down(sampler: Sampler | None) -> bool:
    """Say whether the run's sampler goes down the noise levels and keeps no one law."""
    return sampler is not None and "stationary" not in features_of(sampler)


@register("evaluation", "inpainting")
class Inpainting(Evaluation):
    """`hole`: the unknown part; `images`: how many; `completions`: chains for each; `kernel`: a sampler for runs
    without one. Chains take the run's steps from noise to sample, and begin at noise."""

    metrics = (Metric("inpaint_*"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must=KEEPS_ITS_LAW),)

    def __init__(
        self,
        *,
        hole: Hole,
        images: PositiveInt,
        completions: PositiveInt,
        kernel: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.hole: Hole = hole
        self.images, self.completions = images, completions
        self.kernel: Sampler = kernel

    def applies(self, view: EvalView) -> str | None:
        if view.dataset.bounds is None:
            return "the data are not images"
        return (
            None
            if view.has("energy") or goes_down(view.sampler)
            else "a score network without a sampler completes nothing"
        )

    def __call__(self, view: EvalView) -> Report:
        real, bounds, train = subset(view.held_out, self.images), view.dataset.bounds, view.dataset.train
        assert bounds is not None, "applies() asks for it"
        unknown = hole_mask(self.hole, view.dataset.event_shape).to(real.device)
        x = real.repeat_interleave(self.completions, 0)
        drawn = self._draw(view, x, unknown).unflatten(0, (len(real), self.completions))
        nearest = torch.cdist(real[:, ~unknown], train[:, ~unknown]).argmin(1)
        guesses = {
            "mse": drawn[:, 0],
            "mse_mean": drawn.mean(1),
            "mse_mean_image": view.dataset.mean.expand_as(real),
            "mse_nearest": train[nearest],
        }
        metrics = {f"inpaint_{k}": float(((g - real)[:, unknown] ** 2).mean()) for k, g in guesses.items()}
        notes = []
        for rival, name in (("mse_mean_image", "the mean image"), ("mse_nearest", "the nearest training image")):
            if metrics["inpaint_mse_mean"] >= metrics[f"inpaint_{rival}"]:
                notes.append(f"inpainting: {name} guesses the hole as well as the mean of the completions, or better")
        masked = real.masked_fill(unknown, (bounds[0] + bounds[1]) / 2)
        rows = {"truth": real, "given": masked}
        rows |= {f"drawn {i + 1}": drawn[:, i] for i in range(min(4, self.completions))}
        rows |= {"mean drawn": drawn.mean(1), "nearest": train[nearest]}
        return Report(metrics, {"inpainting": pictures.strips(rows, bounds)}, notes)

    def _draw(self, view: EvalView, x: Tensor, unknown: Tensor) -> Tensor:
        """Rows of x with their unknown pixels drawn."""
        if view.sampler is not None and goes_down(view.sampler):
            model = cast(NoiseLevels, view.energy)
            start = view.noise.sample(len(x), view.generator)
            return complete_by_levels(view.sampler, model, x, unknown, start, view.generator)
        u = start_law(view.dataset).sample(len(x), view.generator)[:, unknown]
        sampler = markov(view, self.kernel)
        return complete(sampler, view.target, x, unknown, u, view.steps, view.generator)
