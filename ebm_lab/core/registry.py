"""The registry of components: `register` adds a class, `parse` checks its settings, and `build` instantiates it.

Each kind is a package (`ebm_lab.datasets`, ...), whose modules are imported on first use. A new component takes one
module that registers it and one YAML that holds its values. Plugins are modules that call `register` too.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ebm_lab.core.choice import Choice, nested_in
from ebm_lab.core.errors import NotRegistered, UserError, one_of
from ebm_lab.core.metrics import Table
from ebm_lab.core.settings import check, settings_of

PACKAGES = {
    "objective": "ebm_lab.objectives",
    "dataset": "ebm_lab.datasets",
    "energy": "ebm_lab.energies",
    "sampler": "ebm_lab.samplers",
    "optim": "ebm_lab.training.optim",
    "evaluation": "ebm_lab.evaluation",
    "logger": "ebm_lab.loggers",
}
GROUPS = (*PACKAGES, "guard", "evaluation_sampler")
"""The config keys that hold the settings of a component, or of several by name. All other keys are the run's own."""
_registered: dict[str, dict[str, Callable]] = {kind: {} for kind in PACKAGES}
C = TypeVar("C", bound=Callable)


def register(kind: str, name: str) -> Callable[[C], C]:
    """Register a class (a decorator) under `kind` and `name`.

    Positional parameters of its constructor are wiring (`energy`, `dataset`, ...), keyword-only ones are its settings.
    """
    if kind not in PACKAGES:
        raise one_of("kind", kind, PACKAGES)

    def file(component: C) -> C:
        known = _registered[kind].get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            component.__module__,
            component.__qualname__,
        ):
            raise UserError(f"{kind} '{name}' is registered twice: in {known.__module__} and {component.__module__}")
        _registered[kind][name] = component
        return component

    return file


def names(kind: str) -> dict[str, Callable]:
    """Import the package of `kind` and return all its components, by name."""
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):  # modules that the options of a package share
            importlib.import_module(f"{package.__name__}.{module.name}")
    return _registered[kind]


def metrics() -> Table:
    """Collect the metrics that the registered objectives and evaluations declare."""
    parts = [part for kind in ("objective", "evaluation") for part in names(kind).values() if inspect.isclass(part)]
    return Table(m for part in parts for base in reversed(part.__mro__) for m in vars(base).get("metrics", ()))


def find(kind: str, name: str) -> Callable:
    """Return the component `name` of `kind`, importing the module of that name before the whole package."""
    if name not in _registered[kind]:
        try:
            importlib.import_module(f"{PACKAGES[kind]}.{name}")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(PACKAGES[kind]):
                raise
    if name not in _registered[kind] and name not in names(kind):
        raise NotRegistered(str(one_of(kind, name, _registered[kind])))
    return _registered[kind][name]


def parse(kind: str, values: Mapping[str, Any], prefix: str = "") -> Choice:
    """Check the settings of the component that `values["name"]` names, and of those nested in it, without building it.

    prefix: the config key that holds `values`. Raises UserError with one line for each fault.
    """
    prefix = prefix or kind
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix}={values}: must be the settings of a registered {kind}, including its name")
    settings = dict(values)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{prefix}.name={name}: must be the name of a registered {kind}: {', '.join(names(kind))}")
    component = find(kind, name)
    for key, inner in nested_in(component).items():
        if key in settings:
            settings[key] = parse(inner, settings[key], f"{prefix}.{key}")
    checked = check(component, settings, prefix, lambda key: _having(kind, key))
    return Choice(kind, name, prefix, component, checked)


def build(kind: str, values: Mapping[str, Any], prefix: str = "", **wiring: Any) -> Any:
    """Build the component that `values["name"]` names, with its settings checked and the wiring that it asks for."""
    return parse(kind, values, prefix).build(**wiring)


def _having(kind: str, setting: str) -> list[str]:
    """Return the components of `kind` that have such a setting."""
    return sorted(name for name, component in names(kind).items() if setting in settings_of(component))
