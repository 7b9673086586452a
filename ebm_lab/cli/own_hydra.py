"""Compose a config without touching the caller's own use of Hydra, and each set of overrides once in a process."""

import copy
import json
import os
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer

SINGLETONS = (GlobalHydra, VersionBase, JobRuntime)
"""Singletons that `initialize_config_dir` sets for the whole process; it rejects a second GlobalHydra."""
ASSEMBLED = "assembled"
"""The option of the group `recipe` that `assembled` adds."""
_one_at_a_time = threading.RLock()
_composed: dict[Hashable, tuple[list[Any], DictConfig]] = {}
"""Configs that this process has composed lately, each with the entries of Hydra's store at that time."""
KEPT = 64


def compose_apart(
    directory: Path, name: str, overrides: Sequence[str], recipe: Mapping[str, Any] | None = None
) -> DictConfig:
    """Compose `name` of the absolute `directory`, with Hydra's own node.

    Hydra's singletons and OmegaConf's resolvers are restored afterwards, so this works within `@hydra.main`, after
    `hydra.initialize` and in several threads. recipe: content of the override `recipe=assembled`. Raises Hydra's and
    OmegaConf's errors.

    These overrides are composed again only if a file of `directory` or Hydra's store has changed.
    """
    with _one_at_a_time:
        known = _situation(directory, name, overrides, recipe)
        then, config = _composed.get(known, ([], None)) if known else ([], None)
        if config is not None and list(map(id, then)) == list(map(id, _entries(ConfigStore.instance().repo))):
            _composed[known] = _composed.pop(known)  # the one used last is dropped last
            again = copy.deepcopy(config)
            again.hydra.runtime.cwd = os.getcwd()
            return again
        instances = Singleton._instances
        theirs = {kind: instances.pop(kind) for kind in SINGLETONS if kind in instances}
        resolvers = dict(BaseContainer._resolvers)
        try:
            with assembled(recipe), initialize_config_dir(str(directory), version_base="1.3"):
                config = compose(name, list(overrides), return_hydra_config=True)
        finally:
            for kind in SINGLETONS:
                instances.pop(kind, None)
            instances.update(theirs)
            BaseContainer._resolvers.update(resolvers)
        if known and not config.hydra.searchpath and not config.hydra.job.env_copy:
            _composed.pop(known, None)
            _composed[known] = [*_entries(ConfigStore.instance().repo)], copy.deepcopy(config)
            while len(_composed) > KEPT:
                del _composed[next(iter(_composed))]
        return config


def _situation(
    directory: Path, name: str, overrides: Sequence[str], recipe: Mapping[str, Any] | None
) -> Hashable | None:
    """Return all that decides a config but Hydra's store; None if other directories or settings may decide it too."""
    if any("hydra" in o.partition("=")[0] for o in overrides):
        return None
    try:
        return str(directory), name, (*overrides,), json.dumps(recipe, default=repr), _files(directory)
    except OSError:
        return None


def _files(directory: str | Path) -> tuple[Hashable, ...]:
    """Return the paths below a directory, with each file's time of change and size."""
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return tuple(
        (entry.path, _files(entry.path))
        if entry.is_dir()
        else (entry.path, entry.stat().st_mtime_ns, entry.stat().st_size)
        for entry in entries
    )


def _entries(node: Any) -> Iterator[Any]:
    """Yield the configs in Hydra's store."""
    for child in node.values():
        if isinstance(child, dict):
            yield from _entries(child)
        else:
            yield child


@contextmanager
def assembled(recipe: Mapping[str, Any] | None) -> Iterator[None]:
    """Let Hydra find `recipe` as the option `recipe=assembled` within the body."""
    if recipe is None:
        yield
        return
    store = ConfigStore.instance()
    store.store(group="recipe", name=ASSEMBLED, node=dict(recipe), package="_global_")
    try:
        yield
    finally:
        store.repo["recipe"].pop(f"{ASSEMBLED}.yaml", None)
