"""What a run keeps of its data: enough to recognise them later, and to draw samples without them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

import torch
from torch import Tensor

from ebm_lab.core.dataset import Space
from ebm_lab.core.discrete import Draws
from ebm_lab.core.errors import UserError
from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.maps import Composed, parsed, plain
from ebm_lab.core.random import stream, subset
from ebm_lab.core.transforms import Affine

SPLITS = ("train", "val", "test")
PROBES = 4
"""Number of test rows for which the true log-density is kept."""


def fingerprints(dataset: Dataset) -> dict[str, str]:
    """Return digests of the whole splits, their labels and the out-of-distribution rows.

    If the data set gives digests of its raw rows itself, these replace the splits' digests: the last bits of a
    transformed split may round differently on another machine.
    """
    found = dataset.digests or {s: digest([getattr(dataset, s)]) for s in SPLITS}
    if dataset.labels:
        found = {**found, "labels": digest([dataset.labels[s] for s in SPLITS])}
    return found if dataset.outside is None else {**found, "outside": digest([dataset.outside])}


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What a run keeps of its data.

    rows: number in each whole split; digests: see `fingerprints`; shape, mean, scale, bounds: the data set's; shift,
    unit: of its transform, or of the first map of a composed one; map: the maps of preprocessing after that, as
    `core.maps.plain` gives them; log_prob: true log-density of the first test rows, if it is known; class_names,
    column_names, space: the data set's.
    """

    rows: dict[str, int]
    digests: dict[str, str]
    shape: list[int]
    mean: Tensor
    scale: float
    bounds: list[float] | None
    shift: Tensor
    unit: Tensor
    log_prob: list[float] | None
    map: list[dict[str, Any]] | None = None
    class_names: list[str] | None = None
    column_names: list[str] | None = None
    space: Space = "continuous"

    @classmethod
    def of(cls, dataset: Dataset, rows: Mapping[str, int], digests: Mapping[str, str]) -> "DataRecord":
        """Make the record of a data set; rows and digests are those from before it was cut to `max_train`."""
        log_prob = dataset.log_prob(subset(dataset.test, PROBES))
        first = dataset.transform if dataset.map is None else cast(Composed, dataset.transform).parts[0]
        assert isinstance(first, Affine), "the data set's own transform is affine"
        return cls(
            rows=dict(rows),
            digests=dict(digests),
            shape=list(dataset.event_shape),
            mean=dataset.mean.detach().cpu().clone(),
            scale=float(dataset.scale),
            bounds=None if dataset.bounds is None else [float(b) for b in dataset.bounds],
            shift=first.shift.cpu(),
            unit=first.scale.cpu(),
            log_prob=None if log_prob is None else log_prob.detach().double().tolist(),
            map=None if dataset.map is None else plain(dataset.map),
            class_names=dataset.class_names,
            column_names=dataset.column_names,
            space=dataset.space,
        )

    @property
    def fitted(self) -> Composed:
        """The map of preprocessing, of no parts where there was none."""
        return Composed(()) if self.map is None else parsed(self.map)

    @classmethod
    def read(cls, values: object, where: object) -> "DataRecord":
        """Read the record in the checkpoint `where`; raise UserError if the values are not a record."""
        kinds = {"rows": dict, "digests": dict, "shape": list, "bounds": list | None, "log_prob": list | None}
        kinds |= {"mean": Tensor, "shift": Tensor, "unit": Tensor, "scale": float}
        later = ("map", "class_names", "column_names")  # runs of before have none of them
        kinds |= {**dict.fromkeys(later, list | None), "space": str}
        names = {f.name for f in fields(cls)}
        found = {**dict.fromkeys(later), "space": "continuous", **values} if isinstance(values, dict) else {}
        if found.keys() != names:
            raise UserError(f"{where}: not the checkpoint of a run, its 'data' is no record of a data set")
        for name, kind in kinds.items():
            if not isinstance(value := found[name], kind):
                raise UserError(f"{where}: not the checkpoint of a run, its 'data.{name}' is a {type(value).__name__}")
        numbers = [*(found["bounds"] or ()), *(found["log_prob"] or ()), *found["rows"].values()]
        sound = all(isinstance(n, int | float) for n in numbers) and len(found["bounds"] or (0, 0)) == 2
        sound &= found["space"] in get_args(Space)
        sound &= all(isinstance(name, str) for key in later[1:] for name in found[key] or ())
        try:
            parsed(found["map"] or ())
        except ValueError:
            sound = False
        if not sound or list(found["mean"].shape) != found["shape"]:
            raise UserError(f"{where}: not the checkpoint of a run, its 'data' is no record of a data set")
        tensors = {name: found[name].cpu() for name in ("mean", "shift", "unit")}
        return cls(**{**found, **tensors})

    def differences(self, now: "DataRecord") -> str:
        """Say which parts of the data changed, as the end of a line; return an empty string if none did."""
        parts = [s for s in SPLITS if self.digests.get(s) != now.digests.get(s)]
        if parts:
            counts = [", ".join(f"{r.rows.get(s)} {s}" for s in SPLITS) for r in (self, now)]
            rows = f" ({counts[0]} rows then, {counts[1]} now)" if counts[0] != counts[1] else ""
            return f"the {_listed(parts)} rows changed{rows}"
        names = {"labels": "labels", "outside": "rows outside"}
        known = [k for k in names if k in self.digests]  # runs of before have no labels of points
        kinds = [names[k] for k in known if self.digests[k] != now.digests.get(k)] or self._facts(now)
        return f"the {_listed(kinds)} changed" if kinds else ""

    def _facts(self, now: "DataRecord") -> list[str]:
        """Return the names of the properties that differ by more than rounding."""
        close = torch.allclose
        pairs = {
            "shape": self.shape == now.shape and self.mean.shape == now.mean.shape,
            "bounds": self.bounds == now.bounds,
            "transform": _same(self.shift, now.shift, self.unit) and _same(self.unit, now.unit, self.unit),
            "scale": abs(self.scale - now.scale) <= 1e-4 * abs(self.scale),
        }
        if pairs["shape"]:
            pairs["mean"] = close(self.mean.double(), now.mean.double(), rtol=0, atol=1e-4 * abs(self.scale))
        if self.log_prob is not None and now.log_prob is not None:
            both = (torch.tensor(p, dtype=torch.float64) for p in (self.log_prob, now.log_prob))
            pairs["true log-density"] = close(*both, rtol=1e-3, atol=1e-3, equal_nan=True)
        return [name for name, same in pairs.items() if not same]


def _same(a: Tensor, b: Tensor, unit: Tensor) -> bool:
    """Return whether two tensors are equal to 1e-6 of the raw data's unit."""
    return a.shape == b.shape and bool(((a.double() - b.double()).abs() <= 1e-6 * unit.double().abs()).all())


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class KeptData(Dataset):
    """A run's data set without its rows: mean, scale, bounds and transform come from the record.

    why: the reason for their absence, given in the error if rows are asked for.
    """

    def __init__(self, record: DataRecord, why: str) -> None:
        self.record = self.kept = record
        self.why = why
        self.bounds = None if record.bounds is None else (record.bounds[0], record.bounds[1])
        affine, parts = Affine(record.shift, record.unit), record.fitted.parts
        self.transform = Composed((affine, *parts)) if parts else affine
        self.mean, self.scale = record.mean, record.scale
        self.class_names, self.column_names, self.space = record.class_names, record.column_names, record.space

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.kept.shape)

    def __getattr__(self, name: str) -> Any:
        if name in SPLITS:
            raise UserError(f"the run's '{name}' rows are not at hand: {self.why}")
        raise AttributeError(name)

    def fill(self, seed: int) -> None:
        """Put noise with the kept mean and scale in place of the rows until `forget`; components need their number.
        Discrete rows have independent sites with the kept frequencies."""
        limit = max(1024, 2**24 // max(1, self.mean.numel()))
        n, generator = max(2, min(limit, int(self.kept.rows.get("train", 2)))), stream(seed, "placeholder")
        mean = self.mean.cpu().expand(n, *self.mean.shape)
        if self.space == "continuous":
            self.train = mean + self.scale * torch.empty(n, *self.mean.shape).normal_(generator=generator).to(mean)
        else:
            draws = Draws(generator)
            self.train = draws.bits(mean.logit()) if self.space == "binary" else draws.categories(mean.log())
        self.train = self.train.to(self.mean)
        self.val = self.test = self.train[:2]
        if self.class_names:
            labels = torch.arange(n, device=self.train.device) % len(self.class_names)
            self.labels = {"train": labels, "val": labels[:2], "test": labels[:2]}

    def forget(self) -> None:
        for split in SPLITS:
            delattr(self, split)
        self.labels = None

    def to(self, device: torch.device) -> "KeptData":
        self.mean = self.mean.to(device)
        for split in SPLITS:
            if split in vars(self):
                setattr(self, split, getattr(self, split).to(device))
        return self
