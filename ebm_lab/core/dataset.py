"""The data of a run: three splits in model space, and the law they were drawn from if it is known."""

from abc import ABC
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ebm_lab.core.features import Offers, Part
from ebm_lab.core.functional import score
from ebm_lab.core.maps import Composed
from ebm_lab.core.transforms import Transform, identity

Space = Literal["continuous", "binary", "categorical"]


class Sampleable(Protocol):
    """A source of (*shape) tensors, such as a law, a generator or replayed data. `sample` draws (n, *shape)."""

    def sample(self, n: int, generator: Generator) -> Tensor: ...


class Distribution(Sampleable, Protocol):
    """A law on (*shape) tensors. `log_prob` is its log density in nats, (B, *shape) -> (B,)."""

    def log_prob(self, x: Tensor) -> Tensor: ...


class Batch(NamedTuple):
    """x: (B, *shape) training points; y: (B,) labels, or None if the data set has none."""

    x: Tensor
    y: Tensor | None = None


class Dataset(Part, ABC):
    """Three splits in model space, held in memory, and what is known about the law they were drawn from."""

    offers = frozenset({"continuous"})
    space: Space = "continuous"
    """What samples are: real numbers; zeros and ones; or categories, one-hot along the first axis of a sample."""
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, Tensor] | None = None
    """Labels by split, (n,) integers each; None if there are none."""
    given_labels: Tensor | None = None
    """The labels of the training split that training may use, (n,), -1 for a point that has none; None: all of
    `labels`."""
    class_names: list[str] | None = None
    """The names of the classes by label, for data that have them."""
    column_names: list[str] | None = None
    """The names of the coordinates of a raw row (d,), for tables that have them."""
    notes: list[str] | tuple[()] = ()
    """Lines for the user about how the data were read."""
    outside: Tensor | None = None
    """(n, *shape): rows of the classes that the splits leave out, for images those of the test split; None if they
    leave none out."""
    bounds: tuple[float, float] | None = None
    """The range of pixel values in model space, for images (C, H, W); None for points."""
    transform: Transform = identity()
    """From raw data to model space."""
    map: Composed | None = None
    """The maps of preprocessing, which `transform` ends with; None if the run trains on the data set's own
    coordinates."""
    precise: tuple[Tensor, Tensor, Tensor] | None = None
    """The splits in float64, where float32 rounds them: what preprocessing begins with."""
    digests: dict[str, str] | None = None
    """A digest of the raw rows by split, for data whose last bits in model space may depend on the machine. None: the
    splits themselves are digested."""
    record: Any = None
    """The run's record of the data, set when a run is built with them."""
    bit_probabilities: Tensor | None = None
    """For bits that training draws anew at each step: the probability of a one in each bit of the training split, (n,
    *shape); None: the split stays as it is."""
    law: Distribution | None = None
    """The law that the splits were drawn from, on the CPU; None if it is unknown."""
    mixture: Distribution | None = None
    """The name of `law` in older plugins, if it is a mixture."""
    start: Distribution | None = None
    """The law from which chains start; None: distributions/start.py chooses one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "binary" in cls.offers and cls.space == "continuous":  # a plugin that declares the feature alone
            cls.space = "binary"

    def found_features(self) -> Offers:
        """Return the features of these data: those that the class declares, and those that shape and labels imply."""
        shape = {"images"} if len(self.event_shape) == 3 else set()
        offers = super().found_features()
        if self.space != "continuous":
            offers = (offers - {"continuous"}) | {"discrete"} | ({"binary"} if self.space == "binary" else set())
        return offers | shape | ({"classes"} if self.labels or self.class_names else set())

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the training split, (*shape)."""
        return self.train.mean(0)

    @cached_property
    def scale(self) -> float:
        """The scale of the data, in data units: the root of the training variance averaged over dimensions."""
        return float(self.train.flatten(1).double().var(0, correction=min(1, len(self.train) - 1)).mean().sqrt())

    def log_prob(self, x: Tensor) -> Tensor | None:
        """Return the true log density in nats, (B, *shape) -> (B,), or None if it is unknown.

        The result is differentiable in x, unless the data set overrides `score`.
        """
        return None

    def class_log_prob(self, x: Tensor) -> Tensor | None:
        """Return the true log p(y | x) in nats, (B, *shape) -> (B, K), or None if it is unknown."""
        return None

    def score(self, x: Tensor) -> Tensor | None:
        """Return the true score, grad_x of `log_prob`, (B, *shape) -> (B, *shape), or None if it is unknown."""
        return None if self.log_prob(x[:1]) is None else score(lambda y: -self._known(y), x)

    def _known(self, x: Tensor) -> Tensor:
        log_p = self.log_prob(x)
        assert log_p is not None, "score() has checked that it is known"
        return log_p

    def to(self, device: torch.device) -> "Dataset":
        """Move the splits and labels to `device`, and return this data set."""
        self.train, self.val, self.test = (t.to(device) for t in (self.train, self.val, self.test))
        self.labels = self.labels and {k: v.to(device) for k, v in self.labels.items()}
        self.given_labels = None if self.given_labels is None else self.given_labels.to(device)
        self.outside = None if self.outside is None else self.outside.to(device)
        self.bit_probabilities = None if self.bit_probabilities is None else self.bit_probabilities.to(device)
        if "mean" in vars(self):
            del self.mean
        return self
