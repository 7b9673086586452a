"""A choice: a registered component with checked settings that is not built yet.

So a run can be checked as a whole before anything is built. A setting annotated `Annotated[Any, Nested("sampler")]`
holds a component of that kind; in a choice it is a choice again, and it is built before its parent.
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
    """Return the kinds of the components that a component's settings hold, by setting."""
    hints = annotations_of(component)
    marks = {name: getattr(hints[name], "__metadata__", ()) for name in settings_of(component)}
    return {name: mark.kind for name, found in marks.items() for mark in found if isinstance(mark, Nested)}


@dataclass(frozen=True)
class Choice:
    """A component chosen by name. path: the key of the config that holds it; cls: what the registry holds under the
    name; settings: checked values, and choices for the nested components."""

    kind: str
    name: str
    path: str
    cls: Callable
    settings: Mapping[str, Any]

    @property
    def part(self) -> type[Part] | None:
        """The class, where it declares what it needs and offers; None for a function and for a class of 0.1."""
        return self.cls if inspect.isclass(self.cls) and issubclass(self.cls, Part) else None

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the component asks of others."""
        return tuple(self.part.needs_of(**self.settings)) if self.part else ()

    @property
    def offers(self) -> Offers | None:
        """The features of the component; None: unknown until it is built."""
        return frozenset(self.part.offers_of(**self.settings)) if self.part else None

    def children(self) -> dict[str, tuple[Child, "Choice"]]:
        """Return the nested choices by setting, with how this one uses them."""
        declared = {child.key: child for child in (self.part.children_of(**self.settings) if self.part else ())}
        inner = {key: value for key, value in self.settings.items() if isinstance(value, Choice)}
        return {key: (declared.get(key, Child(key)), value) for key, value in inner.items()}

    def walk(self) -> Iterator["Choice"]:
        """Yield this choice and all those nested in it whose needs bind the run."""
        yield self
        for child, inner in self.children().values():
            if child.binds:
                yield from inner.walk()

    def build(self, **wiring: Any) -> Any:
        """Build the component, its nested ones first, with what it asks for among the `wiring`."""
        built = {k: inner.build(**{**wiring, **child.wiring}) for k, (child, inner) in self.children().items()}
        who = f"{self.kind} '{self.name}'"
        given = {name: _wire(name, wiring, who) for name in wiring_of(self.cls)}
        part = self.cls(**given, **{**self.settings, **built})
        if self.part and isinstance(part, self.part):
            vars(part).update(_needs=self.needs, _offers=self.offers)
        return part


def _wire(name: str, wiring: Mapping[str, Any], who: str) -> Any:
    if name not in wiring:
        raise UserError(f"{who} asks for '{name}', which is not among what a run can pass: {', '.join(sorted(wiring))}")
    if wiring[name] is None:
        raise UserError(f"{who} needs a {name}, and the config has none: choose one with {name}=<option>")
    return wiring[name]
