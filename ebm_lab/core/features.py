"""Features: what components offer, and what they need of each other.

A component declares the features that it offers and those that it needs of others. `unmet` is the only place where the
two are compared: for a whole run before anything is built, and for each evaluation with the model that it is given.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ebm_lab.core.metrics import Metric

FEATURES: dict[str, dict[str, str]] = {
    "energy": {
        "energy": "It has an energy of x, exp(-E) up to a constant.",
        "score": "It has a score, the gradient of log p in x.",
        "smooth": "Its score has a derivative everywhere, with no kinks.",
        "labels": "It has an energy of x and a class label, and logits.",
        "levels": "It has a score at every noise level of a ladder.",
        "conditionals": "Its coordinates can be drawn exactly, given the others.",
        "annealed": "It has a path from independent bits along which whole layers can be drawn at once.",
        "log_prob": "Its density is normalised, and known.",
    },
    "sampler": {
        "stationary": "It leaves exp(-E) (nearly) invariant, wherever its chains come from.",
        "exact": "One call leaves exp(-E) exactly invariant, at any step size.",
        "coupled": "It can advance two chains together, each by its own law, so that they meet and stay together.",
        "reparameterised": "The end of a chain is a differentiable function of its start, the energy and the noise.",
    },
    "dataset": {
        "continuous": "Its samples are real numbers with a density.",
        "discrete": "Its samples take countably many values.",
        "binary": "Its samples are zeros and ones.",
        "images": "Its samples have shape (C, H, W).",
        "classes": "Each sample has a class label.",
    },
    "law": {
        "log_prob": "Its log density is known.",
        "rsample": "Its samples are differentiable functions of its parameters.",
    },
}
"""The meaning of each feature, by the role of the component that offers it."""

Offers = frozenset[str]
Derive = Callable[[Offers], Offers]
"""Maps the features of a model to those that it keeps once it is conditioned, tethered or in other coordinates."""


class Need(NamedTuple):
    """A feature that a component needs of another one.

    role: the component that must offer it, a key of FEATURES; setting: the setting that causes the need, as
    `key=value`, if the component does not always have it; why: the reason to print instead of the default one.
    """

    role: str
    feature: str
    setting: str = ""
    why: str = ""


def same(offers: Offers) -> Offers:
    """Leave all features as they are."""
    return offers


def keep(*features: str, adds: Iterable[str] = ()) -> Derive:
    """Return a function that keeps only these features, and adds those of `adds`."""
    return lambda offers: (offers & frozenset(features)) | frozenset(adds)


class Child(NamedTuple):
    """A component nested in another component.

    key: the setting that holds it; must: the features that its parent needs of it, each with the reason to print;
    sees: maps the features of the run's model to those of the energy that the child is given; binds: whether its needs
    of other roles (sampler, data set) apply to the run; wiring: arguments that replace those of the run; replaced:
    features that it may need of the data set in vain, for its parent then takes another component in its place.
    """

    key: str
    must: Mapping[str, str] = {}
    sees: Derive = same
    binds: bool = True
    wiring: Mapping[str, Any] = {}
    replaced: Offers = frozenset()


class Part:
    """The base class of all components. It declares what they need and offer before they are built.

    The classmethods take the checked settings, on which their results may depend; by default they do not.
    """

    needs: tuple[Need, ...] = ()
    offers: Offers = frozenset()
    metrics: tuple[Metric, ...] = ()
    """The metrics that it reports. Tables show a metric by its declaration, or by its name if it has none."""
    lacks: Mapping[str, str] = {}
    """By feature that it does not offer: what it does instead, to print where another component needs the feature."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _translate(cls)

    @classmethod
    def needs_of(cls, **settings: Any) -> Iterable[Need]:
        """Return the features that the component needs of others."""
        return cls.needs

    @classmethod
    def offers_of(cls, **settings: Any) -> Offers:
        """Return the features that the component has."""
        return cls.offers

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        """Return how the components nested in this one are used; a nested component without a Child has the
        defaults."""
        return ()

    def found_features(self) -> Offers:
        """Return the features of this object: those declared by the Choice from which a run built it, else by its
        class."""
        return vars(self).get("_offers", type(self).offers)

    def found_needs(self) -> tuple[Need, ...]:
        """Return the needs of this object: those declared by the Choice from which a run built it, else by its
        class."""
        return vars(self).get("_needs", type(self).needs)


_FLAGS = {"kernel": "stationary", "reparameterised": "reparameterised", "has_energy": "energy"}
"""Attributes of classes written for ebm_lab 0.1, and the features that replace them."""


def _translate(cls: type[Part]) -> None:
    """Read the declarations of ebm_lab 0.1: `needs = "levels"`, `kernel`, `reparameterised` and `has_energy`."""
    own = vars(cls)
    if isinstance(own.get("needs"), str):
        cls.needs = (Need("energy", own["needs"]),)
    for flag, feature in _FLAGS.items():
        if flag in own:
            cls.offers = cls.offers | {feature} if own[flag] else cls.offers - {feature}


NON_SMOOTH = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish)
"""Activations whose second derivative is zero almost everywhere: with them the trace term of score matching is lost."""
PLAIN: Offers = frozenset({"energy", "score", "smooth"})
"""The features of a function or module that declares none: those of an energy."""


def features_of(part: object) -> Offers:
    """Return the features of a built component. A component that contains a non-smooth activation is not smooth."""
    if isinstance(part, Part):
        offers = part.found_features()
    else:
        offers = PLAIN if getattr(part, "has_energy", True) else PLAIN - {"energy"}
    kinked = isinstance(part, nn.Module) and any(isinstance(module, NON_SMOOTH) for module in part.modules())
    return offers - {"smooth"} if kinked else offers


def unmet(needs: Iterable[Need], offers: Mapping[str, Offers]) -> list[Need]:
    """Return the needs that `offers`, by role, does not meet.

    Needs of roles that are not in `offers` are not checked.
    """
    return [need for need in needs if need.role in offers and need.feature not in offers[need.role]]
