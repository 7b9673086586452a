"""What components can do, and what they ask of each other: features, offers and needs.

A component declares the features that it offers and those that it needs of others. `unmet` is the only place where the
two are compared; `ebm_lab/compatibility.py` calls it for a whole run before anything is built, and an `EvalView` for
the model that it looks at.
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
        "log_prob": "Its density is normalised, and known.",
    },
    "sampler": {
        "stationary": "It leaves exp(-E) (nearly) invariant, wherever its chains come from.",
        "exact": "One call leaves exp(-E) exactly invariant, at any step size.",
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
"""From the features of a model to those that are left once it is conditioned, tethered or put in other coordinates."""


class Need(NamedTuple):
    """A feature that a component asks of another one.

    role: who must offer it, a key of FEATURES; setting: the setting that asks for it, as `key=value`, where not the
    component as such does; why: the reason that a user is given, where the usual one does not say enough.
    """

    role: str
    feature: str
    setting: str = ""
    why: str = ""


def same(offers: Offers) -> Offers:
    """Leave all features as they are."""
    return offers


def keep(*features: str, adds: Iterable[str] = ()) -> Derive:
    """Leave only these features, and add others."""
    return lambda offers: (offers & frozenset(features)) | frozenset(adds)


class Child(NamedTuple):
    """A component inside a component.

    key: the setting that holds it; must: the features that its parent asks of it, each with the reason that a user is
    given; sees: from the features of the run's model to those of the energy that the child is given; binds: whether
    its needs of other roles (sampler, data set) are asked of the run; wiring: what it is given in place of the run's.
    """

    key: str
    must: Mapping[str, str] = {}
    sees: Derive = same
    binds: bool = True
    wiring: Mapping[str, Any] = {}


class Part:
    """The base class of all components: what they need and offer, as classes, before anything is built.

    The classmethods are given the checked settings. They may depend on them; by default they do not.
    """

    needs: tuple[Need, ...] = ()
    offers: Offers = frozenset()
    metrics: tuple[Metric, ...] = ()
    """What it reports: a table shows a metric by its declaration, and one that none declares by its name alone."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _translate(cls)

    @classmethod
    def needs_of(cls, **settings: Any) -> Iterable[Need]:
        """Return what the component asks of others."""
        return cls.needs

    @classmethod
    def offers_of(cls, **settings: Any) -> Offers:
        """Return the features that the component has."""
        return cls.offers

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        """Return how the components nested in this one are used; those that are not named are used as they are."""
        return ()

    def found_features(self) -> Offers:
        """Return the features of this object: what its choice declared where a run built it, else its class."""
        return vars(self).get("_offers", type(self).offers)

    def found_needs(self) -> tuple[Need, ...]:
        """Return the needs of this object: what its choice declared where a run built it, else its class."""
        return vars(self).get("_needs", type(self).needs)


_FLAGS = {"kernel": "stationary", "reparameterised": "reparameterised", "has_energy": "energy"}
"""Attributes of classes written for ebm_lab 0.1, and the features that they have become."""


def _translate(cls: type[Part]) -> None:
    """Read the declarations of ebm_lab 0.1: `needs = "levels"`, `kernel`, `reparameterised` and `has_energy`."""
    own = vars(cls)
    if isinstance(own.get("needs"), str):
        cls.needs = (Need("energy", own["needs"]),)
    for flag, feature in _FLAGS.items():
        if flag in own:
            cls.offers = cls.offers | {feature} if own[flag] else cls.offers - {feature}


NON_SMOOTH = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish)
"""Activations whose second derivative is zero almost everywhere: score matching loses its trace term with them."""
PLAIN: Offers = frozenset({"energy", "score", "smooth"})
"""What a function or module that declares nothing is taken for: an energy."""


def features_of(part: object) -> Offers:
    """Return the features of a built component; one with a non-smooth activation inside is never smooth."""
    if isinstance(part, Part):
        offers = part.found_features()
    else:
        offers = PLAIN if getattr(part, "has_energy", True) else PLAIN - {"energy"}
    kinked = isinstance(part, nn.Module) and any(isinstance(module, NON_SMOOTH) for module in part.modules())
    return offers - {"smooth"} if kinked else offers


def unmet(needs: Iterable[Need], offers: Mapping[str, Offers]) -> list[Need]:
    """Return the needs that are not met by `offers`, by role; a role that is not among them is not asked."""
    return [need for need in needs if need.role in offers and need.feature not in offers[need.role]]
