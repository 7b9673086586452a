"""Inpainting: draw the missing part of a held-out image from the model, given the rest.

    p(x_u | x_k) is proportional to exp(-E(x_u, x_k)) as a function of the unknown pixels x_u alone

So E with the known pixels x_k held fixed is an energy of x_u, and a sampler of exp(-E) samples this conditional law,
exactly (MALA, HMC) or with its usual bias (Langevin). Samplers that go down the noise levels instead get known pixels
with each level's noise, which decreases to 0. Even for a perfect model this is exact only in the limit of many steps
per level, because unknown pixels that adapted to blurred known ones must change again at lower levels. Of bits the
unknown ones are drawn by samplers of bits (_held_sites.py), and a squared error is 1 for a wrong bit.

    inpaint_mse        mean squared error per unknown pixel of one completion
    inpaint_mse_mean   the same for the mean of `completions` chains, which estimates the best guess
    inpaint_mse_mean_image, inpaint_mse_nearest    baselines: the mean training image, and the training image whose
                       known pixels are nearest

A completion is a random draw, not a best guess: for a perfect model inpaint_mse is twice the conditional variance,
which can exceed the error of the mean image although every completion is right.

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
from ebm_lab.evaluation._held_sites import HeldSites
from ebm_lab.evaluation._kernels import for_data, layers_at_once
from ebm_lab.evaluation.chains import KEEPS_ITS_LAW, markov
from ebm_lab.models.levels import NoiseLevels

Hole = Literal["lower", "right", "centre"]


def hole_mask(hole: Hole, shape: tuple[int, ...]) -> Tensor:
    """Return booleans (C, H, W), true for unknown pixels: half the image, or a central square of half its sides."""
    _, h, w = shape
    rows, columns = torch.arange(h)[:, None], torch.arange(w)[None]
    lower, right = rows >= h // 2, columns >= w // 2
    middle = (rows >= h // 4) & (rows < h - h // 4) & (columns >= w // 4) & (columns < w - w // 4)
    return {"lower": lower, "right": right, "centre": middle}[hole].expand(shape)


class Restricted(nn.Module):
    """E as a function of the unknown coordinates u (B, k), with the known ones taken from x (B, *shape)."""

    def __init__(self, energy: EnergyFn, x: Tensor, unknown: Tensor) -> None:
        super().__init__()
        self.energy, self.x, self.unknown = energy, x, unknown

    def completed(self, u: Tensor) -> Tensor:
        """Return x with its unknown coordinates set to u, (B, *shape); u may hold several replicas of the B rows."""
        x = self.x.repeat(len(u) // len(self.x), *[1] * (self.x.ndim - 1))
        return x.masked_scatter(self.unknown.expand_as(x), u)

    def forward(self, u: Tensor) -> Tensor:
        return self.energy(self.completed(u))


def complete(
    sampler: Sampler,
    energy: EnergyFn,
    x: Tensor,
    unknown: Tensor,
    u: Tensor,
    steps: int,
    generator: Generator,
    law: type[Restricted] | type[HeldSites] = Restricted,
) -> Tensor:
    """Return x (B, *shape) with unknown coordinates drawn from the conditional law, by chains from u: (B, k), or like x
    for HeldSites."""
    restricted = law(energy, x, unknown)
    *_, (_, u, _) = walk(sampler, restricted, u, steps, generator)
    return restricted.completed(u)


class Pinned(NoiseLevels):
    """A model of many levels whose known pixels have the law N(x_k, sigma^2 I) at each level.

    The unknown pixels have the model's score, given the present values of the known ones.
    """

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
    """Return x (B, *shape) with unknown coordinates from a sampler that goes down the noise levels from `start`."""
    pinned = Pinned(model, x, unknown)
    *_, (_, y, _) = walk(sampler, pinned, start, sampler.total(pinned) or 0, generator)
    return torch.where(unknown, y, x)


def goes_down(sampler: Sampler | None) -> bool:
    """Return whether the run's sampler goes down the noise levels, and so has no stationary law."""
    return sampler is not None and "stationary" not in features_of(sampler)


@register("evaluation", "inpainting")
class Inpainting(Evaluation):
    """Complete held-out images of which a part is unknown.

    `hole`: the unknown part. `images`: number of images. `completions`: chains per image, which begin at noise and take
    the run's number of steps from noise to sample. `kernel`: the sampler for runs without one.
    """

    metrics = (Metric("inpaint_*"),)

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must=KEEPS_ITS_LAW, replaced=frozenset({"continuous"})),)

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
        if view.dataset.bounds is None or "images" not in features_of(view.dataset):
            return "the data are not images"
        if view.dataset.space == "categorical":
            return "it hides pixels, and these images have categories"
        return (
            None
            if view.has("energy") or goes_down(view.sampler)
            else "a score network without a sampler cannot complete images"
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
        """Return the rows of x with their unknown pixels drawn."""
        if view.sampler is not None and goes_down(view.sampler):
            model = cast(NoiseLevels, view.energy)
            start = view.noise.sample(len(x), view.generator)
            return complete_by_levels(view.sampler, model, x, unknown, start, view.generator)
        u = start_law(view.dataset).sample(len(x), view.generator)
        sampler, _ = markov(view, self.kernel, "evaluation.inpainting.kernel")
        if view.dataset.space == "binary":
            if layers_at_once(sampler):  # draws all bits of a layer, known ones too
                sampler, _ = for_data(self.kernel, view, "evaluation.inpainting.kernel")
            return complete(sampler, view.target, x, unknown, u, view.steps, view.generator, HeldSites)
        return complete(sampler, view.target, x, unknown, u[:, unknown], view.steps, view.generator)
