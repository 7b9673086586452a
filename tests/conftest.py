"""One thread and no W&B for every test; a component that a test module registers is known to the tests of that module
alone."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)

import gc
import inspect
from pathlib import Path

import pytest
import torch

from ebm_lab.core import registry
from tests.quick_compose import composing_once

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _choices_composed_once():
    with composing_once():
        yield


_of_tests: dict[tuple[str, str], object] = {}
"""Components that the modules of tests register while they are collected, by kind and name."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Take the components that a collected module registers out of the registry.

    Every process collects all modules: a test of the options that an error line lists would see those of other tests.
    """
    report = yield
    for kind, components in registry._registered.items():
        for name, component in list(components.items()):
            if component.__module__.startswith("tests."):
                _of_tests[kind, name] = components.pop(name)
    return report


def pytest_collection_finish():
    """Leave what the imports and the collection made out of later searches for garbage, each of which took a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _own_components(request):
    """Put those back that the test's module defines or imports."""
    values = [request.module, *vars(request.module).values()]
    visible = {value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) for value in values}
    own = {key: component for key, component in _of_tests.items() if component.__module__ in visible}
    for (kind, name), component in own.items():
        registry._registered[kind][name] = component
    yield
    for kind, name in own:
        registry._registered[kind].pop(name, None)
