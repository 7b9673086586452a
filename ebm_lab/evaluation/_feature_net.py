"""A small image classifier, whose last hidden layer provides the features in which samples are compared.

    z(x) = (h(x) - mean) / spread

h is the last hidden layer and mean its mean over the training images; spread is a single number, the root of the mean
over coordinates of the variance there. Distances between features are thus in units of the real images' own spread,
whatever scale training gave h. Inception's features are made for colour photographs of 299 pixels a side; a network
trained on the data set itself sees what distinguishes its classes, and these distances measure nothing else.

Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, section 4 (distances in a classifier's
features), arXiv:1706.08500.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ebm_lab.core.files import Kept, cache
from ebm_lab.core.functional import in_parts
from ebm_lab.core.identity import identity_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import seed_of, seeded, stream


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Settings of the network and its training by Adam.

    `channels`: output channels of each 3x3 convolution, which halves the image. `width`: width of the last hidden
    layer, which is the number of features. `passes`: passes over the training images, in batches of `batch_size`.
    `steps`: most updates. `lr`: learning rate at the start, which falls linearly to 0. `seed`: seed of the weights and
    of the images' order.
    """

    channels: Annotated[list[PositiveInt], Field(min_length=1)]
    width: PositiveInt
    steps: PositiveInt
    passes: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    seed: NonNegativeInt


class FeatureNet(nn.Module):
    """Map images (B, C, H, W) to the logits of their classes, (B, classes)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int, channels: list[int], width: int) -> None:
        super().__init__()
        depth, height, breadth = shape
        layers: list[nn.Module] = []
        for c_in, c_out in zip([depth, *channels], channels, strict=False):
            layers += [nn.Conv2d(c_in, c_out, 3, 2, padding=1), nn.ReLU()]
            height, breadth = -(-height // 2), -(-breadth // 2)
        layers += [nn.Flatten(), nn.Linear(channels[-1] * height * breadth, width), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, classes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return z(x), (B, *shape) -> (B, width), in float64."""
        h = in_parts(self.body, x, 1024)
        return ((h - self.mean) / self.spread).double()

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Return the share of images that are classified correctly."""
        found = in_parts(self, x, 1024).argmax(1)
        return float((found == y).double().mean())

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Set mean and spread from the features of the images x."""
        h = in_parts(self.body, x, 1024).double()
        self.mean.copy_(h.mean(0))
        self.spread.copy_(h.var(0).mean().sqrt().clamp_min(1e-12))


def train(net: FeatureNet, x: Tensor, y: Tensor, settings: FeatureSettings) -> None:
    """Train the network to predict the labels y (n,) of the images x (n, C, H, W)."""
    size = min(settings.batch_size, len(x))
    steps = min(settings.steps, settings.passes * max(1, len(x) // size))
    generator = stream(settings.seed, "features")
    optimiser = torch.optim.Adam(net.parameters(), settings.lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    order = torch.empty(0, dtype=torch.long)
    with torch.enable_grad():
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(x), generator=generator)
            batch, order = order[:size].to(x.device), order[size:]
            loss = cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()
    net.standardise(x)


def feature_net(dataset: Dataset, settings: FeatureSettings, folder: Path) -> tuple[FeatureNet, Kept]:
    """Return the data set's classifier, from its file in `folder`, or trained now and saved there."""
    assert dataset.labels is not None
    x, y = dataset.train, dataset.labels["train"]
    classes = int(max(labels.max() for labels in dataset.labels.values())) + 1
    with seeded(seed_of(settings.seed, "features")):
        net = FeatureNet(dataset.event_shape, classes, settings.channels, settings.width).to(x.device)

    def make() -> dict[str, Any]:
        train(net, x, y, settings)
        return {name: tensor.cpu() for name, tensor in net.state_dict().items()}

    identity = {**identity_of(dataset), "classes": classes, "bounds": list(dataset.bounds or ()), **asdict(settings)}
    kept = cache(folder, f"{type(dataset).__name__.lower()}_net", identity, make)
    net.load_state_dict(kept.content)
    return net.eval().requires_grad_(False), kept
