"""The product of several models of many noise levels, level by level.

    s(x, sigma) = sum_i w_i s_i(x, sigma),    E(x, sigma) = sum_i w_i E_i(x, sigma) where all have an energy

These levels are not the product's own law blurred by sigma: the blur of a product is no product of blurs. For two
N(0, 1) the blurred product has variance 1/2 + t at t = sigma^2, and the summed scores belong to variance (1 + t) / 2.
So only the lowest level means something, the product of the laws as the models know them there; the others are
intermediate targets on the way down, each to be sampled by chains that leave it invariant. A sampler that follows the
diffusion itself (probability flow, predictor-corrector) has no meaning here.

Yilun Du et al., Reduce, Reuse, Recycle: Compositional Generation with Energy-Based Diffusion Models and MCMC, 2023,
sections 3 and 4, arXiv:2302.11552.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.composed import Product
from ebm_lab.core.derived import Coordinates
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Offers, Part, features_of
from ebm_lab.core.frames import Shifted
from ebm_lab.core.functional import score
from ebm_lab.core.model import Model
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.models.ladder import Ladder
from ebm_lab.models.levels import NoiseLevels

LEVELS_LINE = (
    "the levels above the lowest are intermediate targets, not the product blurred by their sigma: only the law of the "
    "lowest level is the product"
)


class LevelPart(NamedTuple):
    """One model of z = shift + factor x, with shift (*shape); jump: what its energy adds, in nats, for the change of
    coordinates."""

    shift: Tensor
    factor: float
    jump: float = 0.0


class LevelProduct(Part, Model):
    """The product of `models` with `weights`, in common coordinates x; sigma is in units of x.

    mean, scale: place and size of the data in x, from which chains start at sigma_max. Its ladder spans the levels that
    all models have. Raises UserError if there are none.
    """

    offers = frozenset({"score", "levels"})

    def __init__(
        self,
        models: Sequence[NoiseLevels],
        weights: Sequence[float],
        parts: Sequence[LevelPart],
        mean: Tensor,
        scale: float,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.weights, self.parts = [float(w) for w in weights], list(parts)
        self.mean, self.scale = mean, scale
        tops = [m.ladder.sigma_max / p.factor for m, p in zip(models, parts, strict=True)]
        lows = [m.ladder.sigma_min / p.factor for m, p in zip(models, parts, strict=True)]
        if not max(lows) < min(tops):
            raise UserError(
                f"runs: their noise levels do not overlap, {_spans(lows, tops)} in the first run's units: choose runs "
                f"with a common range of energy.sigma_min and energy.sigma_max"
            )
        self.ladder = Ladder(min(tops), max(lows), max(m.ladder.levels for m in models))

    def found_features(self) -> Offers:
        """Return the features: an energy where all models have one, and smooth where all are."""
        common = frozenset.intersection(*(features_of(model) for model in self.models))
        return self.offers | (common & {"energy", "smooth"})

    def prior(self) -> IsotropicGaussian:
        """Return the law from which chains start: the data's place, as wide as the data blurred by sigma_max."""
        return IsotropicGaussian(self.mean, math.hypot(self.ladder.sigma_max, self.scale))

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        """Compute sum_i w_i grad_x log q_i(x, sigma), (B, *shape) -> (B, *shape); None is the lowest level."""
        if "energy" in self.found_features():
            return score(self.given(sigma=sigma), x, create_graph)
        sigma = self.ladder.sigma_min if sigma is None else sigma
        total = torch.zeros_like(x)
        for w, model, part in zip(self.weights, self.models, self.parts, strict=True):
            z = part.shift + part.factor * x
            total = total + w * part.factor * cast(NoiseLevels, model).score(z, part.factor * sigma, create_graph)
        return total

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return the sum of the energies at level sigma, None being the lowest."""
        if "energy" not in self.found_features():
            raise UserError("a product of score networks has a score at every noise level and no energy")
        sigma = self.ladder.sigma_min if sigma is None else sigma
        at = []
        for model, part in zip(self.models, self.parts, strict=True):
            inner = model.given(y=y, sigma=part.factor * sigma)  # type: ignore
            same = part.factor == 1 and not bool(part.shift.any())
            moved = inner if same else Coordinates(inner, part.shift, part.factor)
            at.append(Shifted(moved, part.jump) if part.jump else moved)
        return Product(at, self.weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.given()(x)


def _spans(lows: Sequence[float], tops: Sequence[float]) -> str:
    return " and ".join(f"{low:.3g} to {top:.3g}" for low, top in zip(lows, tops, strict=True))
