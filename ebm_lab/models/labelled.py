"""Energies of a point and its class: one network with a value f_y(x) for each class y.

    E(x, y) = a(x) - f_y(x),    E(x) = -log sum_y exp(-E(x, y)) = a(x) - logsumexp_y f_y(x)
    p(y | x) = softmax_y f(x)

with the anchor a of the energy: its quadratic, or minus the log of its base. So the network is a classifier, and its
logits define a law of x too. They are one joint energy: a constant added to one f_y changes that class's weight.

`condition` says how f depends on y. logits: the last layer has K outputs. embedding: y shifts and scales the features
of each layer, h <- (1 + s_y) h + t_y, and a last layer with one output gets a constant c_y, so that one class takes one
pass and the marginal takes K; s, t and c begin at 0, where all classes are alike.

Will Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat It Like One, 2020,
equations 5 to 8, arXiv:1912.03263.
Ethan Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, 2018, equation 2, arXiv:1709.07871.
"""

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.models.base import Anchored

Condition = Literal["logits", "embedding"]


def class_count(dataset: Dataset) -> int:
    """Return the number K of classes, whose labels are 0 to K - 1.

    Raises UserError for other labels and for a class without a training point.
    """
    labels, names = dataset.labels, dataset.class_names
    if not labels:
        raise UserError("the data have no class labels, and an energy with labels needs them")
    for split, y in labels.items():
        if y.is_floating_point() or (len(y) and int(y.min()) < 0):
            raise UserError(f"the labels of '{split}' must be whole numbers from 0, and hold {float(y.min()):g}")
    highest = max(int(y.max()) for y in labels.values() if len(y))
    k = len(names) if names else highest + 1
    if highest >= k:
        raise UserError(f"there are {k} class names, and a label {highest}: allowed are 0 to {k - 1}")
    count = torch.bincount(labels["train"], minlength=k)
    if empty := (count == 0).nonzero()[:, 0].tolist():
        who = f"'{names[empty[0]]}'" if names else empty[0]
        raise UserError(f"class {who} has no training point; leave it out, for example by dataset.classes")
    if k < 2:
        raise UserError("all training points are of one class, and an energy with labels needs two")
    return k


class FiLM(nn.Module):
    """(1 + s_y) h + t_y for features h (B, C, ...) and labels y (B,); s and t begin at 0."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(classes, 2 * channels))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        scale, shift = (t.view(len(h), -1, *[1] * (h.ndim - 2)) for t in self.table[y].chunk(2, 1))
        return (1 + scale) * h + shift


class Labelled(Anchored):
    """An energy of a point and its class. The classes that inherit from it define `features`."""

    needs = (Need("dataset", "classes"),)
    offers = Anchored.offers | {"labels"}
    films: nn.ModuleDict

    def build_labels(self, dataset: Dataset, condition: Condition, widths: dict[str, int], last: nn.Linear) -> None:
        """Build what depends on the class, after `last`, a layer with as many outputs as `outputs` says.

        widths: the channels after each layer that y modulates, by the name of the layer.
        """
        self.classes = class_count(dataset)
        embedded = condition == "embedding"
        self.films = nn.ModuleDict({n: FiLM(self.classes, c) for n, c in widths.items()} if embedded else {})
        self.offset = nn.Parameter(torch.zeros(self.classes)) if embedded else None
        self.begin_at_base(last)
        if self.law is not None:
            constant = last.bias if self.offset is None else self.offset
            nn.init.constant_(constant, -math.log(self.classes))  # so that the marginal begins at the base

    @staticmethod
    def outputs(dataset: Dataset, condition: Condition) -> int:
        """Return the number of outputs of the last layer."""
        return class_count(dataset) if condition == "logits" else 1

    @abstractmethod
    def features(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return the output of the last layer, (B, outputs), with features modulated by y (B,) where there is one."""

    def through(self, layers: nn.Sequential, h: Tensor, y: Tensor | None) -> Tensor:
        """Apply `layers` to h (B, ...) in turn, and after those with a FiLM shift and scale the features by the
        class."""
        if y is None:
            return layers(h)
        for name, layer in layers.named_children():
            h = layer(h)
            h = self.films[name](h, y) if name in self.films else h
        return h

    def class_scores(self, x: Tensor) -> Tensor:
        """Compute f_y(x) of every class, (B, *shape) -> (B, K)."""
        if self.offset is None:
            return self.features(x, None)
        every = torch.arange(self.classes, device=x.device).repeat(len(x))
        f = self.features(x.repeat_interleave(self.classes, 0), every)
        return f.view(len(x), self.classes) + self.offset

    def _score_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute f_y(x), (B,), for labels y (B,)."""
        if self.offset is None:
            return self.features(x, None).gather(1, y.unsqueeze(1)).squeeze(1)
        return self.features(x, y).squeeze(1) + self.offset[y]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute E(x, y), for labels y (B,) or one label for all, 0-d, or E(x) without labels, (B,)."""
        f = self.class_scores(x).logsumexp(1) if y is None else self._score_of(x, y.expand(len(x)))
        return self.anchor(x) - f

    def logits(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Compute -E(x, y) of every class, (B, K)."""
        anchor = self.anchor(x)
        return self.class_scores(x) - (anchor.unsqueeze(1) if isinstance(anchor, Tensor) else anchor)
