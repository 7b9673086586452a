"""Compose the choices of options once in a process of tests, and set the other values on a copy.

Most runs of the tests make the same choices and differ in numbers and in their directory. Hydra composes the choices
and then sets the values one by one, which is also done here, by Hydra's own function; what it rejects is composed as a
whole, so that the error is Hydra's. `tests/cli/test_composed_once.py` compares the two.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser

from ebm_lab.cli import settle
from ebm_lab.cli.compose import GROUPS
from ebm_lab.cli.own_hydra import compose_apart

VALUE = re.compile(r"\+{0,2}([a-z]\w*)(\.\w+)*=")


def is_value(override):
    """Does this override set a value, and choose no option?"""
    found = VALUE.match(override)
    return found is not None and found[1] != "hydra" and (found[2] is not None or found[1] not in GROUPS)


def compose_quickly(directory, name, overrides, recipe=None):
    """Do what `compose_apart` does."""
    choices, values = [o for o in overrides if not is_value(o)], [o for o in overrides if is_value(o)]
    if not values or any("hydra" in o.partition("=")[0] for o in choices):
        return compose_apart(directory, name, overrides, recipe)
    try:
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(values)
        assert not any(o.is_sweep_override() for o in parsed)
        config = compose_apart(directory, name, choices, recipe)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except Exception:
        return compose_apart(directory, name, overrides, recipe)
    config.hydra.overrides.task = list(overrides)
    form = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        parser.parse_overrides(list(overrides)), form.exclude_keys, form.item_sep, form.kv_sep
    )
    return config


@contextmanager
def composing_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "compose_apart", compose_quickly)
        yield
