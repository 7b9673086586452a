"""A small U-Net conditioned on its noise level: images (B, C, H, W) to images of the same shape.

There are two sets of `blocks` residual blocks per entry of `channels`, each at half the size of the one before: one on
the way down, and one on the way up, to whose input the output of the first is added. Each block scales and shifts its
first convolution by the noise level (conditioning.py). With `patch` p > 1 the network works at 1 / p of the image's
size, on the p^2 C numbers of each p x p square (space to depth), at about 1 / p^2 of the cost.

`norm` group: GroupNorm over 8 groups of channels, or as many as divide them, before each activation. Its statistics are
those of one image, so that an image's output depends smoothly on that image alone, with or without it.

Olaf Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, arXiv:1505.04597.
Jonathan Ho et al., Denoising Diffusion Probabilistic Models, 2020, appendix B, arXiv:2006.11239.
Wenzhe Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network, 2016, section 3.2, arXiv:1609.05158 (space to depth). Yuxin Wu and Kaiming He, Group Normalization, 2018,
arXiv:1803.08494.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, channels_last, nn
from torch.nn.functional import interpolate

from ebm_lab.core.errors import UserError
from ebm_lab.models.conditioning import Film
from ebm_lab.models.curved import Conv2d, GroupNorm
from ebm_lab.models.layers import make_activation

Norm = Literal["none", "group"]
Channels = Annotated[list[PositiveInt], Field(min_length=1)]
GROUPS = 8


def make_norm(norm: Norm, width: int, affine: bool = True) -> nn.Module:
    """Return the normalisation of `width` channels; affine: whether it has scales and shifts of its own."""
    return GroupNorm(math.gcd(GROUPS, width), width, affine=affine) if norm == "group" else nn.Identity()


class Block(nn.Module):
    """x + conv(act(film(norm(conv(act(norm(x))))))); the second convolution is initialised to zero."""

    def __init__(self, width: int, activation: str, norm: Norm = "none") -> None:
        super().__init__()
        self.first, self.second = Conv2d(width, width, 3, padding=1), Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)
        self.act = make_activation(activation)
        self.before, self.between = make_norm(norm, width), make_norm(norm, width, affine=False)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
        gamma, beta = (t[..., None, None] for t in film)
        h = self.between(self.first(self.act(self.before(x))))
        return x + self.second(self.act(torch.addcmul(beta, h, gamma)))


class UNet(nn.Module):
    """u (B, C, H, W) and heights (B,) or (1,) -> (B, C, H, W), for C = `depth`.

    `blocks`: per size and direction; `film_width`: hidden units of the conditioning. H and W must be multiples of
    `patch` (check_patch).
    """

    def __init__(
        self,
        depth: int,
        channels: list[int],
        activation: str,
        *,
        blocks: int = 1,
        norm: Norm = "none",
        patch: int = 1,
        film_width: int = 32,
    ) -> None:
        super().__init__()
        first, *deeper = channels
        widths = [c for c in channels for _ in range(blocks)]
        self.blocks = blocks
        self.split = nn.PixelUnshuffle(patch) if patch > 1 else nn.Identity()
        self.join = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()
        self.act = make_activation(activation)
        self.enter = Conv2d(depth * patch**2, first, 3, padding=1)
        self.down_blocks = nn.ModuleList(Block(c, activation, norm) for c in widths)
        self.up_blocks = nn.ModuleList(Block(c, activation, norm) for c in widths)
        self.downs = nn.ModuleList(Conv2d(i, o, 3, 2, padding=1) for i, o in zip(channels, deeper, strict=False))
        self.ups = nn.ModuleList(Conv2d(o, i, 3, padding=1) for i, o in zip(channels, deeper, strict=False))
        self.leave = Conv2d(first, depth * patch**2, 3, padding=1)
        self.film = Film([*widths, *reversed(widths)], film_width)
        self.last_norm = make_norm(norm, first)
        self.to(memory_format=channels_last)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        films = iter(self.film(c))
        h, kept = self.enter(self.split(u).contiguous(memory_format=channels_last)), []
        for i, blocks in enumerate(self._by_size(self.down_blocks)):
            h = h if i == 0 else self.downs[i - 1](h)
            for block in blocks:
                h = block(h, next(films))
            kept.append(h)
        for i, blocks in reversed(list(enumerate(self._by_size(self.up_blocks)))):
            if i < len(kept) - 1:
                h = kept[i] + self.ups[i](interpolate(h, size=kept[i].shape[2:]))
            for block in blocks:
                h = block(h, next(films))
        return self.join(self.leave(self.act(self.last_norm(h))))

    def _by_size(self, blocks: nn.ModuleList) -> Iterator[nn.ModuleList]:
        """Yield the blocks of each size, the largest first."""
        for i in range(0, len(blocks), self.blocks):
            yield blocks[i : i + self.blocks]


def check_patch(patch: int, height: int, width: int) -> None:
    """Raise UserError if `patch` does not divide the size of the images."""
    if height % patch or width % patch:
        raise UserError(f"energy.patch={patch}: must divide the height and width of the images, {height} and {width}")
