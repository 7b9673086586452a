"""The labels that training may use: how many there are, which are hidden, and what they must be.

Every data set with classes takes two settings beside its own: `labels`, the share of the training points whose label
training may use, and `labels_per_class`, their number in each class. Which points they are follows from the run's
seed; they come from the training split alone, and the other labels stay hidden from training but not from evaluations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.settings import check

UNLABELLED = -1
"""The label of a training point whose class training does not know."""


@dataclass(frozen=True, kw_only=True)
class FewLabels:
    """labels: the share of the training points that keep their labels, None for all; labels_per_class: the number that
    do in each class, None for all."""

    labels: Annotated[float, Field(gt=0, le=1)] | None = None
    labels_per_class: PositiveInt | None = None

    def hide(self, dataset: Dataset, seed: int) -> None:
        """Hide the labels of all training points of `dataset` but those that this seed draws. Raises UserError where
        there are fewer than asked for."""
        asked = {k: v for k, v in vars(self).items() if v is not None}
        if not asked:
            return
        key, value = next(iter(asked.items()))
        if len(asked) > 1:
            raise UserError(f"dataset.labels={self.labels}: give either this or dataset.labels_per_class, not both")
        if not dataset.labels:
            raise UserError(f"dataset.{key}={value}: the data have no class labels")
        y = dataset.labels["train"]
        order = torch.randperm(len(y), generator=stream(seed, "labels")).to(y.device)
        shown = self._of_each_class(y, order) if self.labels is None else order[: max(1, round(self.labels * len(y)))]
        if lacking := sorted({*y.tolist()} - {*y[shown].tolist()}):
            raise UserError(f"dataset.{key}={value}: leaves class {lacking[0]} without a labelled training point")
        dataset.given_labels = torch.full_like(y, UNLABELLED)
        dataset.given_labels[shown] = y[shown]

    def _of_each_class(self, y: Tensor, order: Tensor) -> Tensor:
        """Return the first `labels_per_class` indices in `order` of each class."""
        per_class = self.labels_per_class or 0
        places = {int(c): order[y[order] == c] for c in y.unique()}
        for c, place in places.items():
            if len(place) < per_class:
                raise UserError(
                    f"dataset.labels_per_class={per_class}: class {c} has only {len(place)} training points"
                )
        return torch.cat([place[:per_class] for place in places.values()])


def few_labels(values: Mapping[str, Any]) -> tuple[dict[str, Any], FewLabels]:
    """Return the settings of a data set without those of this module, and these, checked."""
    if not isinstance(values, Mapping):  # which the registry rejects
        return values, FewLabels()
    own = {k: values[k] for k in values if k in ("labels", "labels_per_class")}
    rest = {k: v for k, v in values.items() if k not in own}
    filled = {"labels": None, "labels_per_class": None} | own
    return rest, FewLabels(**check(FewLabels, filled, "dataset"))


def number_classes(dataset: Dataset) -> None:
    """Number the classes 0 to K - 1 in the order of their labels, as an energy with labels needs them, where some
    number below the largest does not occur, as when `dataset.classes` keeps only some. `class_names` gets a name for
    each."""
    labels = dataset.labels
    if not labels or any(y.is_floating_point() or int(y.min()) < 0 for y in labels.values() if len(y)):
        return  # reported by `class_count` to whoever needs the classes
    found = torch.cat([*labels.values()]).unique().tolist()
    names = dataset.class_names or [str(c) for c in range(max(found) + 1)]
    if len(found) < len(names) and dataset.law is None:
        number = torch.full((len(names),), UNLABELLED, device=labels["train"].device)
        number[torch.tensor(found, device=number.device)] = torch.arange(len(found), device=number.device)
        dataset.labels = {split: number[y] for split, y in labels.items()}
        if dataset.given_labels is not None:
            known = dataset.given_labels
            dataset.given_labels = torch.where(known < 0, UNLABELLED, number[known.clamp_min(0)])
    dataset.class_names = names if dataset.law is not None else [names[c] for c in found]
