"""A data set in the coordinates in which a run trains: an ordinary data set, with the map back to the given one.

    x = f_k(.. f_1(raw)),    log p_x(x) = log p_raw(raw) - sum_i log |det f_i'|

Each f_i is fitted to the training split as those before it leave that, in float64; only x itself is cast to float32.
`auto` takes the coordinates in which a Gaussian fitted to the training split gives the validation split the highest
likelihood, in nats per point of the given data. Networks learn well in the data's own coordinates up to some point: a
linear map of each direction must gain a nat over one scale for all, as it does at a ratio of five between two standard
deviations, and a warp .2 nats over all linear maps, as it does for Student laws of up to five degrees of freedom. Among
such maps a candidate must better all simpler ones by .01 nats and by two standard errors of the paired difference. Else
the data stay as they are, or are shifted and scaled as a whole if they are far from zero or of another scale than 1.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import flat_sum
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.maps import FUNCTIONS, Composed, Inverted, Monotone, Warp, raw_score
from ebm_lab.core.transforms import Affine, Transform, standardising
from ebm_lab.distributions import coordinates
from ebm_lab.distributions.pushed import pushed

Step = Literal["scale", "standardize", "whiten", "principal", "robust", "warp", "asinh", "log", "logit"]
How = Literal["none", "standardize", "whiten", "warp", "auto"]
"""What `preprocess` may be."""
AXES: dict[str, Callable[[Affine, Tensor], Transform]] = {
    "standardize": lambda affine, train: affine,
    "whiten": coordinates.symmetric,
    "principal": coordinates.principal,
    "robust": coordinates.robust,
}
CANDIDATES: dict[str, tuple[Step, ...]] = {
    "scale": ("scale",),
    "standardize": ("standardize",),
    "whiten": ("whiten",),
    "warp": ("standardize", "warp", "whiten"),
    "warp along principal axes": ("principal", "warp", "whiten"),
    "warp along symmetric axes": ("whiten", "warp", "whiten"),
    "warp along robust axes": ("robust", "warp", "whiten"),
}
"""What `auto` chooses from, the simplest first."""
LEAST = 0.01
"""Nats per point by which a candidate must better all simpler ones."""
UNEVEN = 1.0
"""Nats per point that a linear map of each direction must gain over one scale for all."""
HEAVY = 0.2
"""Nats per point that a warp must gain over all linear maps."""
FAR = 10.0
"""Data stay as they are if their mean is within so many scales of zero, and their scale within this factor of 1."""


class Preprocessed(Dataset):
    """`dataset` seen through `map`."""

    map: Composed  # pyright: ignore[reportIncompatibleVariableOverride] (always given)

    def __init__(self, dataset: Dataset, map: Composed, notes: Sequence[str] = ()) -> None:
        self.dataset, self.map = dataset, map
        self.transform = Composed((dataset.transform, *map.parts))
        self.labels, self.notes, self.digests = dataset.labels, [*dataset.notes, *notes], dataset.digests
        self.class_names, self.column_names = dataset.class_names, dataset.column_names
        self.train, self.val, self.test = (
            map.forward(split).float() for split in (dataset.train, dataset.val, dataset.test)
        )
        self.outside = None if dataset.outside is None else map.forward(dataset.outside).float()
        law = dataset.law if dataset.mixture is None else dataset.mixture
        self.law = None if law is None else pushed(law, map)
        self.start = None if dataset.start is None else pushed(dataset.start, map)

    def found_features(self) -> frozenset[str]:
        return self.dataset.found_features()

    def log_prob(self, x: Tensor) -> Tensor | None:
        log_p = self.dataset.log_prob(self.map.inverse(x))
        return None if log_p is None else (log_p.double().cpu() - self.map.log_det_at(x)).to(x.device)

    def class_log_prob(self, x: Tensor) -> Tensor | None:
        return self.dataset.class_log_prob(self.map.inverse(x))

    def score(self, x: Tensor) -> Tensor | None:
        if self.dataset.score(self.map.inverse(x[:1])) is None:
            return None
        return raw_score(Inverted(self.map), x, self._raw_score)

    def _raw_score(self, raw: Tensor) -> Tensor:
        found = self.dataset.score(raw)
        assert found is not None, "asked before"
        return found


def preprocessed(dataset: Dataset, how: Step | Sequence[Step]) -> Preprocessed:
    """Return `dataset` in other coordinates: each of `how`, one after another. standardize: every coordinate to mean 0
    and standard deviation 1; whiten: to the identity covariance, by the symmetric map; principal and robust: to
    standard deviation 1 along the principal axes of the covariance, or of a robust scatter; warp: an asinh of fitted
    scale in each coordinate; asinh, log and logit: that function of each coordinate. Raises UserError where the
    training data are not in the domain of such a function, or where a direction has no spread."""
    return Preprocessed(dataset, _fit(dataset.train, (how,) if isinstance(how, str) else how))


def unrounded(dataset: Dataset) -> Dataset:
    """Give `dataset` its splits in float64 where it has them so and would be preprocessed; returns itself."""
    if dataset.precise is not None and _left_alone(dataset) is None:
        dataset.train, dataset.val, dataset.test = dataset.precise
    return dataset


def for_run(dataset: Dataset, how: How, known: Composed | None = None) -> Dataset:
    """Return `dataset` as the setting `preprocess` has it: in its own coordinates for `none`, and for `auto` where it
    holds images or discrete values. known: the map of the same run as it was fitted before, one of no parts where the
    data were left as they are. Raises UserError for other settings of such data."""
    if how == "none":
        return dataset
    if known is not None and not known.parts and how == "auto":
        return _as_it_is(dataset, ())
    if known is not None and known.parts and _fits(known, dataset.train[:1]):
        return Preprocessed(dataset, known)
    kind = _left_alone(dataset)
    if kind is not None and how == "auto":
        return dataset
    if kind is not None:
        raise UserError(f"preprocess={how}: the data are {kind}; allowed: none, auto")
    try:
        if how == "auto":
            map, notes = _best(dataset)
            if not map.parts:
                return _as_it_is(dataset, notes)
            return Preprocessed(dataset, map, notes)
        return preprocessed(dataset, CANDIDATES[how])
    except UserError as error:
        raise UserError(f"preprocess={how}: {str(error).split(': ', 1)[-1]}") from None


def _as_it_is(dataset: Dataset, notes: Sequence[str]) -> Dataset:
    """The data set in the precision of its own splits, with lines for the user."""
    dataset.train, dataset.val, dataset.test = (split.float() for split in (dataset.train, dataset.val, dataset.test))
    dataset.notes = [*dataset.notes, *notes]
    return dataset


def _fits(map: Composed, x: Tensor) -> bool:
    """Is x (n, *shape) of the shape of the data that `map` was fitted to?"""
    try:
        return map.forward(x).shape == x.shape
    except RuntimeError:
        return False


def _left_alone(dataset: Dataset) -> str | None:
    offers = features_of(dataset)
    if "continuous" not in offers:
        return "discrete values, which have no density"
    return None if dataset.bounds is None else "images, whose grey levels have a scale of their own"


def _fit(train: Tensor, steps: Sequence[Step]) -> Composed:
    return Composed(tuple(_parts(train, steps)))


def _parts(train: Tensor, steps: Sequence[Step]) -> Iterator[Transform]:
    """Fit one step after another, each to the training data as the steps before it have left them."""
    train = train.cpu().double()
    for i, name in enumerate(steps, 1):
        part = _fitted(name, train)
        yield part
        if i < len(steps) or name in FUNCTIONS:
            train = part.forward(train)
            if not bool(train.isfinite().all()):
                raise UserError(f"preprocessing '{name}': training data lie outside its domain, or on its edge")


def _fitted(name: str, train: Tensor) -> Transform:
    if name in FUNCTIONS:
        return Monotone(name)
    if name == "warp":
        return coordinates.warp(train)
    if name == "scale":
        return _one_scale(train)
    return AXES[name](standardising(train, f"preprocessing '{name}'", lambda at: f"coordinate(s) {at}"), train)


def _one_scale(train: Tensor) -> Affine:
    """The shift and the scale of the data as a whole: a coordinate that never changes does no harm here."""
    mean = train.mean(0)
    scale = (train - mean).square().mean().sqrt()
    if not float(scale) > 0:
        raise UserError("preprocessing 'scale': all training points are equal")
    return Affine(mean, scale.expand_as(mean))


def _best(dataset: Dataset) -> tuple[Composed, list[str]]:
    """The best of the candidates, and a line that says which it is and why; no map if the data may stay as they are."""
    found: dict[str, tuple[Composed, Tensor]] = {}
    for name, steps in CANDIDATES.items():
        try:
            parts = []
            for part in _parts(dataset.train, steps):
                parts.append(part)
                if isinstance(part, Warp) and not bool(part.s.isfinite().any()):
                    break
        except UserError:
            if name == "scale":
                raise
            continue
        if len(parts) == len(steps):
            map = Composed(tuple(parts))
            found[name] = map, gaussian_log_prob(map, dataset.val)
    log_p = {name: values for name, (_, values) in found.items()}
    best = _linear(log_p)
    most = max((log_p[name] for name in log_p if "warp" not in name), key=lambda values: float(values.mean()))
    for name in (name for name in log_p if "warp" in name):
        if _is_better(log_p[name], *((log_p[best], LEAST) if "warp" in best else (most, HEAVY))):
            best = name
    values = ", ".join(f"{name} {float(value.mean()):.3f}" for name, value in log_p.items())
    why = "mean held-out log-likelihood of a Gaussian fitted there, in nats"
    none = "" if any("warp" in name for name in found) else "; no axis gains by a warp"
    map = found[best][0]
    if best == "scale" and _is_moderate(map):
        map, best = Composed(()), "left as they are"
    return map, [f"preprocess=auto: {best} ({why}: {values}{none})"]


def _linear(log_p: Mapping[str, Tensor]) -> str:
    """The simplest linear map that is good enough."""
    means = {name: float(log_p[name].mean()) for name in ("scale", "standardize", "whiten") if name in log_p}
    best = max(means.values())
    if best - means["scale"] < UNEVEN:
        return "scale"
    return next(name for name, value in means.items() if name != "scale" and value >= best - LEAST)


def _is_moderate(map: Composed) -> bool:
    """Are data that `map` shifts and scales near zero, and of a scale near 1?"""
    affine = cast(Affine, map.parts[0])
    scale = float(affine.scale.max())
    return 1 / FAR <= scale <= FAR and float(affine.shift.abs().max()) <= FAR * scale


def gaussian_log_prob(map: Composed, x: Tensor) -> Tensor:
    """log p(x), (n,) in nats: of the law that is N(0, I) behind `map`."""
    z = map.forward(x)
    return -0.5 * flat_sum(z * z) - 0.5 * z[0].numel() * math.log(2 * math.pi) + map.log_det_at(z)


def _is_better(log_p: Tensor, than: Tensor, least: float) -> bool:
    gain = log_p - than
    error = float(gain.std(correction=0)) / math.sqrt(len(gain))
    return float(gain.mean()) > max(least, 2 * error)
