"""Suggest settings to change after a run has gone wrong, the likeliest remedy first."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ebm_lab.core.interfaces import Dataset
from ebm_lab.training.guard import Trouble


class Shape(NamedTuple):
    """Properties of a data set that can cause trouble.

    scale: of the data set; far: distance of the furthest point from the mean; tails: whether `far` is more than ten
    times the usual distance; uneven: whether the coordinates' standard deviations differ more than a thousandfold.
    """

    scale: float = 1.0
    far: float = 0.0
    tails: bool = False
    uneven: bool = False


def shape_of(dataset: Dataset) -> Shape:
    x = dataset.train.flatten(1)
    far, width = float((x - x.mean(0)).norm(dim=1).max()), x.std(0)
    usual, width = dataset.scale * x.shape[1] ** 0.5, width[width > 0]
    return Shape(dataset.scale, far, far > 10 * usual, len(width) > 1 and bool(width.max() > 1000 * width.min()))


RATE = 0.1
"""A learning rate above this is the likeliest cause of any trouble."""
NARROW = 0.01
"""A noise level below this fraction of the data's scale is too low: the score's variance grows as 1 / sigma^2."""
WIDE = 5.0
"""A confining quadratic wider than this lets chains go further than the guard allows."""
CURVED = ("ssm", "sm", "fdssm", "ksd", "lsd", "min_velocity")
"""Objectives whose loss has the unit of a squared score, 1 / length^2, and so depends on the data's unit."""


class Settings:
    """The settings of a run by their full keys; the sampler's only if the training uses `chains`.

    Each comparison is false for a setting that the run does not have.
    """

    def __init__(self, config: Mapping[str, Any], chains: bool) -> None:
        groups = ("optim", "energy", "objective", "dataset", *(["sampler"] if chains else []))
        chosen = {group: config.get(group) or {} for group in groups}
        self.values = {f"{g}.{name}": value for g, values in chosen.items() for name, value in values.items()}
        if self.values.get("energy.base", "none") != "none":  # the base stands in the quadratic's place
            self.values = {key: value for key, value in self.values.items() if not key.startswith("energy.confine")}

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def below(self, key: str, limit: float) -> bool:
        value = self.number(key)
        return value is not None and value < limit

    def above(self, key: str, limit: float) -> bool:
        value = self.number(key)
        return value is not None and value > limit

    def equal(self, key: str, *allowed: Any) -> bool:
        return key in self.values and self.values[key] in allowed

    def smaller(self, key: str) -> str:
        return f"a smaller {key} (now {self.values.get(key)})"

    def larger(self, key: str) -> str:
        return f"a larger {key} (now {self.values.get(key)})"


def advice(troubles: Iterable[Trouble], config: Mapping[str, Any], chains: bool, dataset: Dataset | None = None) -> str:
    """Return a sentence that says what to try, by kind of trouble.

    It names only settings that this config has, the sampler's only if the training uses `chains`. If the data set is
    given, its shape is taken into account.
    """
    kinds = {t.kind for t in troubles}
    has = Settings(config, chains)
    shape = Shape() if dataset is None else shape_of(dataset)
    at_fault = has.above("optim.lr", RATE) and kinds != {"acceptance"}
    unconfined = has.equal("energy.confine", None)
    first = ["precision=float32"] if "finite" in kinds and config.get("precision") == "bfloat16" else []
    first += ["energy.confine=2"] if kinds & {"chains", "likelihood"} and unconfined else []
    first += [has.smaller("energy.confine")] if "chains" in kinds and has.above("energy.confine", WIDE) else []
    noise = [*of_data(kinds, has, shape), *of_noise(kinds, has, shape)]
    tips = [*first, *of_sampler(kinds, has), *noise]
    if at_fault:
        tips = [*first, *of_sampler(kinds, has), has.smaller("optim.lr"), *noise]
    elif kinds != {"acceptance"} and (not tips or "gap" in kinds or not (noise or "likelihood" in kinds)):
        tips.append(has.smaller("optim.lr"))
    if kinds & {"gap", "finite"} and has.equal("objective.energy_l2", 0):
        tips.append("objective.energy_l2=0.01")
    if "gap" in kinds and unconfined:
        tips.append("energy.confine=2")
    if kinds & {"loss", "finite"} and has.equal("optim.clip", None):
        tips.append("optim.clip=1")
    tips = list(dict.fromkeys(tips))
    return f"Try {', '.join(tips[:-1])}{' or ' if tips[:-1] else ''}{tips[-1]}" if tips else "Try guard.acceptance=null"


def of_sampler(kinds: set[str], has: Settings) -> list[str]:
    """Suggest sampler settings for chains that leave the data, stand still or drive the energy up."""
    if not kinds & {"chains", "gap", "acceptance", "finite"}:
        return []
    found = {
        has.smaller("sampler.step_size"): "sampler.step_size" in has.values,
        "sampler=mala": has.equal("sampler.name", "langevin"),
        "sampler.target_acceptance=0.6": "acceptance" in kinds and has.equal("sampler.target_acceptance", None),
        has.larger("sampler.noise_scale"): "gap" in kinds and has.below("sampler.noise_scale", 1.0),
    }
    return [tip for tip, applies in found.items() if applies]


def of_data(kinds: set[str], has: Settings, shape: Shape) -> list[str]:
    """Suggest scaling for data of an extreme unit, or whose coordinates' widths are too uneven for one step size."""
    unit = not 0.01 < shape.scale < 100 and has.equal("objective.name", *CURVED)
    raw = has.equal("dataset.scaling", "none") and (unit or shape.uneven)
    found = {
        "dataset.scaling=standardize": raw,
        "sampler.mass=diagonal": shape.uneven and "acceptance" in kinds and has.equal("sampler.mass", "identity"),
    }
    return [tip for tip, applies in found.items() if applies]


def of_noise(kinds: set[str], has: Settings, shape: Shape) -> list[str]:
    """Suggest noise levels: those in use make the loss too noisy, or miss regions where data or model have mass."""
    if not kinds & {"loss", "finite", "likelihood"}:
        return []
    lost, blind = "likelihood" in kinds, has.equal("objective.name", *CURVED)
    low, confine = NARROW * shape.scale, has.number("energy.confine")
    found = {
        has.larger("energy.confine"): lost and confine is not None and (confine < 1 or shape.tails),
        has.larger("objective.sigma"): has.below("objective.sigma", shape.scale if lost else low),
        has.larger("energy.sigma_max"): has.below("energy.sigma_max", shape.far),
        has.larger("energy.sigma_min"): has.below("energy.sigma_min", low),
        has.smaller("objective.width_max"): has.equal("objective.name", "mpf") and not lost,
        "objective.data_noise=0.05": lost and blind and has.equal("objective.data_noise", 0),
        has.larger("objective.data_noise"): lost and blind and has.above("objective.data_noise", 0),
    }
    return [tip for tip, applies in found.items() if applies]
