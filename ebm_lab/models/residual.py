"""Residual blocks for energies of images; `energies/resnet.py` has the equation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_lab.models.curved import Conv2d
from ebm_lab.models.layers import Activation, make_activation


class Block(nn.Module):
    """pool(skip(h) + conv(a(conv(a(h))))): (B, c_in, H, W) -> (B, c_out, H, W), or half of each side, rounded up."""

    def __init__(self, c_in: int, c_out: int, activation: Activation, halve: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            make_activation(activation),
            Conv2d(c_in, c_out, 3, padding=1),
            make_activation(activation),
            Conv2d(c_out, c_out, 3, padding=1),
        )
        self.skip = Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if halve else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.pool(self.skip(h) + self.branch(h))


def residual_blocks(channels: Sequence[int], blocks: int, activation: Activation) -> tuple[nn.Sequential, list[int]]:
    """Return `blocks` residual blocks for each stage, and the width after each block.

    The image halves between stages.
    """
    widths = [c for c in channels for _ in range(blocks)]
    ends = [i % blocks == blocks - 1 and i < len(widths) - 1 for i in range(len(widths))]
    pairs = zip([channels[0], *widths], widths, ends, strict=False)
    return nn.Sequential(*[Block(c_in, c_out, activation, halve) for c_in, c_out, halve in pairs]), widths


def initialise_blocks(blocks: nn.Sequential) -> None:
    """Apply He's initialisation to convolutions that follow an activation, and scale the last one of each branch so
    that all branches together have the weight of the skips."""
    for module in blocks:
        first, last = (m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        with torch.no_grad():
            last.weight /= len(blocks) ** 0.5
