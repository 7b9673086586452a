"""Compose a config without touching the caller's own use of Hydra."""

import threading
from collections.abc import Iterator, Mapping, Sequence
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


def compose_apart(
    directory: Path, name: str, overrides: Sequence[str], recipe: Mapping[str, Any] | None = None
) -> DictConfig:
    """Compose `name` of the absolute `directory`, with Hydra's own node.

    Hydra's singletons and OmegaConf's resolvers are restored afterwards, so this works within `@hydra.main`, after
    `hydra.initialize` and in several threads. recipe: content of the override `recipe=assembled`. Raises Hydra's and
    OmegaConf's errors.
    """
    with _one_at_a_time:
        instances = Singleton._instances
        theirs = {kind: instances.pop(kind) for kind in SINGLETONS if kind in instances}
        resolvers = dict(BaseContainer._resolvers)
        try:
            with assembled(recipe), initialize_config_dir(str(directory), version_base="1.3"):
                return compose(name, list(overrides), return_hydra_config=True)
        finally:
            for kind in SINGLETONS:
                instances.pop(kind, None)
            instances.update(theirs)
            BaseContainer._resolvers.update(resolvers)


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
