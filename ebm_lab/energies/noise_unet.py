"""A U-Net as an energy of many noise levels, for images. With u = (x - mean) / v, v^2 = sigma^2 + scale^2 and F of
models/unet.py, in d dimensions and up to a constant of sigma that makes exp(-E) the base where F = 0 (for `residual`
where F = (sigma - v) / scale u):

    scalar:    E(x, sigma) = |u|^2 / 2 - (scale / sigma) u . F(w),    w = u / sqrt(1 + |u|^2 / (9 d))
    half:      E(x, sigma) = |u|^2 / 2 - (scale / 2 sigma) u . F(w)
    residual:  E(x, sigma) = |x - D|^2 / (2 sigma^2),    D = x + sigma^2 s,    s = -u / v + scale / (sigma v) F(w)

For `half` and `residual` w = u where |u|^2 <= 36 d, which is far beyond the data (|u|^2 is about d there); the length
of w bends smoothly to its bound, 12 sqrt(d), further out. In every form F is bounded, as w is, and sigma > 0. So Z is
finite at every level: u . F grows no faster than |u|, and x - D = (sigma u - scale F) sigma / v no slower.

The network of score_unet has the score s. `half` has it too where F is linear and symmetric in u, as for Gaussian data
at every level: u . F / 2 then has the gradient F. An energy can therefore begin from a score network (init_from). With
`residual` F has another minimiser: for data N(mean, scale^2 I) it is 0 in `half` and (sigma - v) / scale u here.

Tim Salimans and Jonathan Ho, Should EBMs Model the Energy or the Score?, 2021 (energies built from a denoiser, and
`residual`). Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score
matching, 2025 (the inner product of input and output).
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import NoiseEnergy, require_images
from ebm_lab.models.unet import Channels, Norm, UNet, check_patch

FREE = 6.0
"""The root mean square of u up to which w equals u."""


def confined(u: Tensor) -> Tensor:
    """Return w (B, *shape): u where its root mean square r is at most FREE, and of root mean square
    FREE (1 + tanh(r / FREE - 1)) elsewhere, which is twice continuously differentiable."""
    r = (flat_sum(u * u) / u[0].numel()).clamp_min(FREE**2).sqrt()
    return u * per_sample(FREE * (1 + (r / FREE - 1).tanh()) / r, u)


@register("energy", "noise_unet")
class NoiseUNet(Activated, NoiseEnergy):
    """Images (C, H, W). `form`: one of those above; `channels`, `blocks`, `norm`, `patch`, `film_width`: of the U-Net
    (models/unet.py), `channels` with one entry per size; `sigma_min`, `sigma_max`, `levels`: the ladder, `auto` from
    the data (models/ladder.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        form: Literal["scalar", "half", "residual"],
        channels: Channels,
        blocks: PositiveInt,
        norm: Norm,
        patch: PositiveInt,
        film_width: PositiveInt,
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
        base: BaseName,
    ) -> None:
        depth, height, width = require_images(dataset, "noise_unet")
        check_patch(patch, height, width)
        if form == "residual" and base != "none":
            raise UserError(f"energy.form=residual: replaces the base, so energy.base={base} must be none")
        super().__init__(dataset, sigma_min, sigma_max, levels, base)
        self.form = form
        self.net = UNet(depth, channels, activation, blocks=blocks, norm=norm, patch=patch, film_width=film_width)
        self.begin_at_base(self.net.leave)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        height = self.ladder.height(sigma)
        if self.form == "scalar":
            w = u / per_sample((1 + flat_sum(u * u) / (9 * self.mean.numel())).sqrt(), u)
            return -self.scale / sigma * flat_sum(u * self.net(w, height))
        f = self.net(confined(u), height)
        if self.form == "half":
            return -self.scale / (2 * sigma) * flat_sum(u * f)
        excess = self.scale * flat_sum(f * f - u * u) - 2 * sigma * flat_sum(u * f)
        return self.scale / (2 * (sigma**2 + self.scale**2)) * excess
