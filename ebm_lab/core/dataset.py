"""What a run's data are: three splits in model space, and the law that they come from, where it is known."""

from abc import ABC
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ebm_lab.core.features import Offers, Part
from ebm_lab.core.functional import score
from ebm_lab.core.transforms import Transform, identity


class Sampleable(Protocol):
    """Something to draw (*shape) tensors from: a law, a generator, a replay of data. `sample` draws (n, *shape)."""

    def sample(self, n: int, generator: Generator) -> Tensor: ...


class Distribution(Sampleable, Protocol):
    """A law on (*shape) tensors. `log_prob` is its log density in nats, (B, *shape) -> (B,)."""

    def log_prob(self, x: Tensor) -> Tensor: ...


class Batch(NamedTuple):
    """x: (B, *shape) training points; y: (B,) labels, where the data set has any."""

    x: Tensor
    y: Tensor | None = None


class Dataset(Part, ABC):
    """Three splits in model space, resident in memory, and what is known about the law that they come from."""

    offers = frozenset({"continuous"})
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, Tensor] | None = None
    """Per split, (n,) integers."""
    notes: list[str] | tuple[()] = ()
    """Lines for the user about how the data were read."""
    outside: Tensor | None = None
    """(n, *shape): test images of the classes that the splits leave out, where they leave any out."""
    bounds: tuple[float, float] | None = None
    """The range of pixel values in model space, for images (C, H, W); None for points."""
    transform: Transform = identity()
    """From raw data to model space."""
    precise: tuple[Tensor, Tensor, Tensor] | None = None
    """The splits in float64, where float32 rounds them: what preprocessing begins with."""
    digests: dict[str, str] | None = None
    """Per split, a digest of its raw rows, where the splits' last bits may depend on the machine; None: the splits' own
    digests serve."""
    record: Any = None
    """What a run keeps of the data, once a run is built with them."""
    law: Distribution | None = None
    """The law that the splits come from, on the CPU, where it is known."""
    mixture: Distribution | None = None
    """The name that `law` has in older plugins, where it is a mixture."""
    start: Distribution | None = None
    """Where chains begin, if the data set says so itself; None: as distributions/start.py chooses."""

    def found_features(self) -> Offers:
        """Return the features of these data: those of their kind, and what their shape and labels say."""
        shape = {"images"} if len(self.event_shape) == 3 else set()
        return super().found_features() | shape | ({"classes"} if self.labels else set())

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    @cached_property
    def mean(self) -> Tensor:
        """(*shape), over the training split."""
        return self.train.mean(0)

    @cached_property
    def scale(self) -> float:
        """One length for the data: root mean over dimensions of the training variance, in data units."""
        return float(self.train.flatten(1).double().var(0, correction=min(1, len(self.train) - 1)).mean().sqrt())

    def log_prob(self, x: Tensor) -> Tensor | None:
        """The true log-density in nats, (B, *shape) -> (B,), where it is known; else None. Differentiable in
        x, or `score` must say otherwise."""
        return None

    def score(self, x: Tensor) -> Tensor | None:
        """The true score, grad_x of `log_prob`, (B, *shape) -> (B, *shape), where there is one; else None."""
        return None if self.log_prob(x[:1]) is None else score(lambda y: -self._known(y), x)

    def _known(self, x: Tensor) -> Tensor:
        log_p = self.log_prob(x)
        assert log_p is not None, "asked before"
        return log_p

    def to(self, device: torch.device) -> "Dataset":
        """Move the splits and labels; returns itself."""
        self.train, self.val, self.test = (t.to(device) for t in (self.train, self.val, self.test))
        self.labels = self.labels and {k: v.to(device) for k, v in self.labels.items()}
        self.outside = None if self.outside is None else self.outside.to(device)
        if "mean" in vars(self):
            del self.mean
        return self
