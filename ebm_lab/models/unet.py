"""A small U-Net conditioned on its noise level: images (B, C, H, W) to images of the same shape.

There is one pair of residual blocks per entry of `channels`, each at half the size of the one before: one on the way
down, and one on the way up, to whose input the output of the first is added. Each block scales and shifts its first
convolution by the noise level (conditioning.py). There is no normalisation, so that an image's output depends smoothly
on that image alone.

Olaf Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, arXiv:1505.04597.
Jonathan Ho et al., Denoising Diffusion Probabilistic Models, 2020, appendix B, arXiv:2006.11239.
"""

from torch import Tensor, channels_last, nn
from torch.nn.functional import interpolate

from ebm_lab.models.conditioning import Film
from ebm_lab.models.layers import make_activation


class Block(nn.Module):
    """x + conv(act(film(conv(act(x))))); the second convolution is initialised to zero."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)
        self.act = make_activation(activation)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
        gamma, beta = (t[..., None, None] for t in film)
        return x + self.second(self.act(self.first(self.act(x)) * gamma + beta))


class UNet(nn.Module):
    """u (B, C, H, W) and heights (B,) or (1,) -> (B, C, H, W)."""

    def __init__(self, depth: int, channels: list[int], activation: str) -> None:
        super().__init__()
        first, *deeper = channels
        self.act = make_activation(activation)
        self.enter = nn.Conv2d(depth, first, 3, padding=1)
        self.down_blocks = nn.ModuleList(Block(c, activation) for c in channels)
        self.up_blocks = nn.ModuleList(Block(c, activation) for c in channels)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 3, 2, padding=1) for i, o in zip(channels, deeper, strict=False))
        self.ups = nn.ModuleList(nn.Conv2d(o, i, 3, padding=1) for i, o in zip(channels, deeper, strict=False))
        self.leave = nn.Conv2d(first, depth, 3, padding=1)
        self.film = Film([*channels, *reversed(channels)])
        self.to(memory_format=channels_last)

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        films = iter(self.film(c))
        h, kept = self.enter(u), []
        for i, block in enumerate(self.down_blocks):
            h = block(h if i == 0 else self.downs[i - 1](h), next(films))
            kept.append(h)
        for i, block in reversed(list(enumerate(self.up_blocks))):
            if i < len(kept) - 1:
                h = kept[i] + self.ups[i](interpolate(h, size=kept[i].shape[2:]))
            h = block(h, next(films))
        return self.leave(self.act(h))
