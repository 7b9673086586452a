"""Check that each component of a run offers what the others need, before anything but the data set is built.

The objective is checked against the energy, the data and the sampler; the sampler against the energy that the objective
gives it and against the model that the run evaluates; components nested in these are checked in the same way.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ebm_lab.core.choice import Choice
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Derive, Need, Offers, Part, features_of, same, unmet
from ebm_lab.core.interfaces import Dataset, Objective
from ebm_lab.core.registry import names

ASKS: dict[tuple[str, str], tuple[str, str]] = {
    ("energy", "energy"): ("needs an energy", "is a score network, which has none"),
    ("energy", "score"): ("needs a score", "has none"),
    ("energy", "smooth"): ("differentiates the score", "has an activation without a second derivative"),
    ("energy", "labels"): ("needs an energy with class labels", "has none"),
    ("energy", "levels"): ("needs a model of many noise levels", "has none"),
    ("energy", "conditionals"): ("draws each coordinate given the others", "has no formula for that"),
    ("energy", "log_prob"): ("needs a normalised density", "has none"),
    ("sampler", "stationary"): ("trains with chains that stay at one energy", "goes down many noise levels"),
    ("sampler", "exact"): ("needs chains without bias", "has one"),
    ("sampler", "coupled"): ("trains with coupled chains", "can't couple them"),
    ("sampler", "reparameterised"): ("needs differentiable chains", "has none"),
    ("dataset", "continuous"): ("needs real numbers", "has discrete values"),
    ("dataset", "discrete"): ("needs discrete values", "has real numbers"),
    ("dataset", "binary"): ("needs zeros and ones", "has other values"),
    ("dataset", "images"): ("needs images (C, H, W)", ""),
    ("dataset", "classes"): ("needs class labels", "has none"),
}
"""By role and feature: what the component that needs the feature does, and how the one that lacks it is described."""
FEW = 5
"""The largest number of options that an error line lists."""
MANY = 16
"""The same where the data decide which options fit."""


class Role(NamedTuple):
    """What a role is called in an error line, and the features it offers; None if unknown until it is built."""

    who: str
    offers: Offers | None


def check_fit(
    run: Mapping[str, Choice], dataset: Dataset, temperature: float = 1.0, built: Mapping[str, object] | None = None
) -> None:
    """Reject a run whose components lack what others need of them.

    run: the choices of `energy`, `objective`, the evaluations and, if present, `sampler` and `evaluation_sampler`;
    temperature: of the samples; built: components that exist already, whose own features count instead of their
    choice's. Raises UserError with the first fault.
    """
    for line in faults(run, dataset, temperature, built):
        raise UserError(line)


def faults(
    run: Mapping[str, Choice], dataset: Dataset, temperature: float = 1.0, built: Mapping[str, object] | None = None
) -> Iterator[str]:
    """Yield a line for each need that is not met, with the options that would meet it."""
    found = {kind: features_of(part) for kind, part in (built or {}).items() if part is not None}
    offers = {kind: found.get(kind, choice.offers) for kind, choice in run.items()}
    energy, objective, sampler = run["energy"], run["objective"], run.get("sampler")
    data = Role(f"the data set's samples have shape {dataset.event_shape}", features_of(dataset))
    model, roles = Role(f"energy '{energy.name}'", offers["energy"]), {"dataset": data}
    yield from _faults(energy, roles, run)
    chains = {"sampler": Role(f"sampler '{sampler.name}'", offers["sampler"])} if sampler else {}
    yield from _faults(objective, {**roles, **chains, "energy": model}, run)
    trains = any(need.role == "sampler" for choice in objective.walk() for need in choice.needs)
    if sampler and trains:
        yield from _faults(sampler, {**roles, "energy": _seen(model, _derived(objective, "sampled"), objective)}, run)
    judge = run.get("evaluation_sampler", sampler)
    if judge:
        yield from _faults(judge, {**roles, "energy": _seen(model, _derived(objective, "modelled"), objective)}, run)
        able, levels = offers[judge.path], any(need.feature == "levels" for need in judge.needs)
        if temperature != 1 and any(need.feature == "conditionals" for need in judge.needs):
            yield (
                f"sample_temperature={temperature:g}: {judge.path} '{judge.name}' draws from the energy's own "
                f"conditional laws, those of temperature 1: choose evaluation_sampler=gwg, or sample_temperature=1"
            )
        if temperature != 1 and able is not None and "stationary" not in able and levels:
            yield (
                f"sample_temperature={temperature:g}: {judge.path} '{judge.name}' goes down many noise levels, each at "
                f"the model's own temperature: choose sample_temperature=1"
            )
    for choice in run.values():
        if choice.kind == "evaluation":
            yield from _misfits(choice, roles)
            yield from _unserved(choice, {**roles, "energy": _seen(model, _derived(objective, "modelled"), objective)})


def _faults(choice: Choice, roles: Mapping[str, Role], run: Mapping[str, Choice]) -> Iterator[str]:
    """Yield the faults of a choice and of those nested in it; needs of roles that are not given are skipped."""
    known = {role: offers for role, (_, offers) in roles.items() if offers is not None}
    for need in unmet(choice.needs, known):
        yield _line(choice, need, roles, run)
    yield from _misfits(choice, roles)
    for child, inner in choice.children().values():
        seen = {role: of for role, of in roles.items() if role == "energy" or child.binds}
        if "energy" in seen:
            seen["energy"] = _seen(seen["energy"], child.sees, choice)
        yield from _faults(inner, seen, run)


def _misfits(choice: Choice, roles: Mapping[str, Role]) -> Iterator[str]:
    """Yield a line for each nested component that lacks what its parent asks of it."""
    for child, inner in choice.children().values():
        for feature, why in child.must.items():
            if inner.offers is not None and feature not in inner.offers:
                fits = _either(_having(inner.kind, feature, roles)) or f"a {inner.kind} with the feature '{feature}'"
                yield f"{inner.path}.name={inner.name}: must be {fits}: {why}"


def _unserved(evaluation: Choice, roles: Mapping[str, Role]) -> Iterator[str]:
    """Yield a line for each component nested in an evaluation that needs other data, or conditional laws that its
    energy does not have. An evaluation that needs others itself is left out of the run."""
    known = {role: offers for role, (_, offers) in roles.items() if offers is not None}
    if unmet(evaluation.needs, known):
        return
    for child, inner in evaluation.children().values():
        lacking = unmet(inner.needs, {"dataset": known.get("dataset", frozenset())})
        if any(need.feature in child.replaced for need in lacking):
            continue
        seen = {"energy": child.sees(known["energy"])} if "energy" in known else {}
        lacking += [need for need in unmet(inner.needs, seen) if need.feature == "conditionals"]
        fits = [{o for o in _having(inner.kind, feature, roles) if o != inner.name} for feature in child.must]
        ways = _either(sorted(set.intersection(*fits))) if fits else ""
        for need in lacking:
            yield _line(inner, need, roles, {}) + (f": choose {inner.path}={ways}" if ways else "")


def _derived(objective: Choice, what: str) -> Derive:
    """Return how an objective changes the energy's features for the sampler: `sampled` or `modelled`."""
    learns = objective.part
    if learns is None or not issubclass(learns, Objective):
        return same
    return (learns.sampled if what == "sampled" else learns.modelled)(**objective.settings)


def _seen(model: Role, derive: Derive, user: Choice) -> Role:
    """Return the model as `user` presents it."""
    if model.offers is None or derive(model.offers) == model.offers:
        return model
    return Role(f"what {user.kind} '{user.name}' makes of {model.who}", derive(model.offers))


def _line(choice: Choice, need: Need, roles: Mapping[str, Role], run: Mapping[str, Choice]) -> str:
    """Return a line that says what needs which feature, what lacks it, and what to choose."""
    asks, lacks = ASKS.get((need.role, need.feature), (f"needs a {need.role} with '{need.feature}'", "lacks it"))
    if need.role in run:
        lacks = (run[need.role].part or Part).lacks.get(need.feature, lacks)
    who = f"{need.setting}:" if need.setting else f"{choice.path} '{choice.name}'"
    holder = f"{roles[need.role].who} {lacks}"
    if need.role == "dataset":
        who = f"{need.setting or f'{choice.path}={choice.name}'}:"
        holder = f"the data {lacks}" if lacks else roles[need.role].who
    ways = [*_instead(need, roles, run), *_otherwise(choice, need, roles)]
    return f"{who} {asks}, and {holder}" + (f": choose {', or '.join(ways)}" if ways else "")


def _instead(need: Need, roles: Mapping[str, Role], run: Mapping[str, Choice]) -> Iterator[str]:
    """Yield options that meet the need, in place of the component that does not."""
    if need.role not in run:
        return
    other = run[need.role]
    if need.feature == "smooth" and "activation" in other.settings:
        yield f"{need.role}.activation=silu"
        return
    had = (other.offers or frozenset()) - {"smooth"}
    fits = [name for name in _having(need.role, need.feature, roles) if had <= _class(need.role, name).offers]
    if fits := fits or _having(need.role, need.feature, roles):
        yield f"{need.role}={_either(_unlabelled(need.role, fits, had | {need.feature}))}"


def _otherwise(choice: Choice, need: Need, roles: Mapping[str, Role]) -> Iterator[str]:
    """Yield options without the need, in place of the component that has it."""
    if need.setting:
        key, _, value = need.setting.partition("=")
        yield f"{key}={'false' if value == 'true' else 0}"
        return
    if choice.path != choice.kind or need.role == "sampler":
        return
    known = {role: offers for role, (_, offers) in roles.items() if offers is not None}
    parts = {name: part for name in sorted(names(choice.kind)) if (part := _class(choice.kind, name)) is not Part}
    able = [name for name, part in parts.items() if not unmet(part.needs, known)]
    if choice.kind == "energy":
        had = choice.offers or frozenset()
        able = _unlabelled(choice.kind, [name for name in able if had <= parts[name].offers], had)
    if able:
        few = MANY if need.role == "dataset" else FEW
        yield f"another {choice.kind}" if len(able) > few else f"{choice.kind}={_either(able)}"


def _class(kind: str, name: str) -> type[Part]:
    """Return the registered class, or Part itself for one that declares no features."""
    found: Any = names(kind)[name]
    return found if isinstance(found, type) and issubclass(found, Part) else Part


def _having(kind: str, feature: str, roles: Mapping[str, Role] | None = None) -> list[str]:
    """Return the options of `kind` that offer a feature and can work with the data."""
    data = (roles or {}).get("dataset")
    known = {"dataset": data.offers} if data is not None and data.offers is not None else {}
    parts = {name: _class(kind, name) for name in sorted(names(kind))}
    return [name for name, part in parts.items() if feature in part.offers and not unmet(part.needs, known)]


def _unlabelled(kind: str, options: list[str], asked: Offers) -> list[str]:
    """Leave out the options with class labels where nobody asks for labels and there are others."""
    if "labels" in asked:
        return options
    return [name for name in options if "labels" not in _class(kind, name).offers] or options


def _either(options: list[str]) -> str:
    """Join options as "a, b or c"."""
    return " or ".join(filter(None, (", ".join(options[:-1]), *options[-1:])))
