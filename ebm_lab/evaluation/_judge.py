"""An independent classifier of the real training data, which judges the classes of samples.

    h(x) = relu(W (x - shift) / scale + b)

is its only hidden layer; its values are features in which samples of a class can be compared with real points.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset

_last: dict[tuple[Any, ...], Any] = {}
"""The perceptron that this process fitted last, by its data and settings: the next run on the same data takes it."""


def perceptron(x: Tensor, y: Tensor, *, hidden: int, points: int, passes: int) -> Any:
    """Fit scikit-learn's perceptron with one hidden layer to x (n, *shape) and labels y (n,), with a fixed seed.

    `hidden`: width of that layer. `points`: most training points. `passes`: points shown during training, over all
    epochs.
    """
    x, y = subset(x, points), subset(y, points)
    known = (digest([x, y]), x.shape, hidden, points, passes)
    if (model := _last.get(known)) is None:
        model = _fit(x, y, hidden, max(1, passes // len(x)))
        _last.clear()
        _last[known] = model
    return model


def _fit(x: Tensor, y: Tensor, hidden: int, epochs: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MLPClassifier((hidden,), max_iter=epochs, random_state=0)
        return model.fit(x.flatten(1).cpu().numpy(), y.cpu().numpy())


@dataclass(frozen=True)
class Judge:
    """A fitted perceptron, with the place and size of the data: those of points, and 0 and 1 for images."""

    model: Any
    shift: Tensor | float
    scale: Tensor | float

    def _inputs(self, x: Tensor) -> Tensor:
        return ((x - self.shift) / self.scale).flatten(1).cpu()

    def classes(self, x: Tensor) -> Tensor:
        """Return the most likely class of each row, (n, *shape) -> (n,), on the CPU."""
        return torch.from_numpy(self.model.predict(self._inputs(x).numpy()))

    def features(self, x: Tensor) -> Tensor:
        """Return the hidden layer h(x), (n, *shape) -> (n, hidden), in float64 on the CPU."""
        weight, bias = (torch.from_numpy(layer[0]).double() for layer in (self.model.coefs_, self.model.intercepts_))
        return (self._inputs(x).double() @ weight + bias).relu()


def judge(dataset: Dataset, **settings: int) -> Judge:
    """Fit the judge to the training split; `settings` are those of `perceptron`."""
    assert dataset.labels, "evaluations ask for them"
    shift, scale = 0.0, 1.0
    if dataset.bounds is None:
        std = dataset.train.std(0, correction=0)
        shift, scale = dataset.mean, torch.where(std > 0, std, torch.ones_like(std))
    x = (dataset.train - shift) / scale
    return Judge(perceptron(x, dataset.labels["train"], **settings), shift, scale)
