"""A choice: a registered component with checked settings that is not built yet.

A run is checked as a whole before anything is built. A setting annotated `Annotated[Any, Nested("sampler")]` holds a
component of that kind: a Choice holds another Choice under it, which is built before its parent.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Child, Need, Offers, Part
from ebm_lab.core.settings import annotations_of, settings_of, wiring_of


class Nested(NamedTuple):
    """Mark a setting as a component of `kind`."""

    kind: str


def nested_in(component: Callable) -> dict[str, str]:
    """Return the kind of each nested component by the name of its setting."""
    hints = annotations_of(component)
    marks = {name: getattr(hints[name], "__metadata__", ()) for name in settings_of(component)}
    return {name: mark.kind for name, found in marks.items() for mark in found if isinstance(mark, Nested)}


@dataclass(frozen=True)
class Choice:
    """A component chosen by name.

    path: the config key that holds it; cls: the class or function registered under the name; settings: checked values,
    with a Choice for each nested component.
    """

    kind: str
    name: str
    path: str
    cls: Callable
    settings: Mapping[str, Any]

    @property
    def part(self) -> type[Part] | None:
        """The class if it declares its needs and offers; None for a function and for a class written for 0.1."""
        return self.cls if inspect.isclass(self.cls) and issubclass(self.cls, Part) else None

    @property
    def needs(self) -> tuple[Need, ...]:
        """The features that the component needs of others."""
        return tuple(self.part.needs_of(**self.settings)) if self.part else ()

    @property
    def offers(self) -> Offers | None:
        """The features of the component; None if they are unknown until it is built."""
        return frozenset(self.part.offers_of(**self.settings)) if self.part else None

    def children(self) -> dict[str, tuple[Child, "Choice"]]:
        """Return the nested choices by setting, each with the Child that says how this component uses it."""
        declared = {child.key: child for child in (self.part.children_of(**self.settings) if self.part else ())}
        inner = {key: value for key, value in self.settings.items() if isinstance(value, Choice)}
        return {key: (declared.get(key, Child(key)), value) for key, value in inner.items()}

    def walk(self) -> Iterator["Choice"]:
        """Yield this choice, and those nested in it whose needs apply to the run."""
        yield self
        for child, inner in self.children().values():
            if child.binds:
                yield from inner.walk()

    def build(self, **wiring: Any) -> Any:
        """Build the component after its nested ones, and pass it the `wiring` that its constructor asks for; what it
        has a default for may be missing."""
        built = {k: inner.build(**{**wiring, **child.wiring}) for k, (child, inner) in self.children().items()}
        who = f"{self.kind} '{self.name}'"
        optional = {n for n, p in inspect.signature(self.cls).parameters.items() if p.default is not p.empty}
        asked = [n for n in wiring_of(self.cls) if n not in optional or wiring.get(n) is not None]
        given = {name: _wire(name, wiring, who) for name in asked}
        part = self.cls(**given, **{**self.settings, **built})
        if self.part and isinstance(part, self.part):
            vars(part).update(_needs=self.needs, _offers=self.offers)
        return part


def _wire(name: str, wiring: Mapping[str, Any], who: str) -> Any:
    if name not in wiring:
        raise UserError(f"{who} asks for '{name}', which a run does not pass; allowed: {', '.join(sorted(wiring))}")
    if wiring[name] is None:
        raise UserError(f"{who} needs a {name}, and the config has none: choose one with {name}=<option>")
    return wiring[name]
