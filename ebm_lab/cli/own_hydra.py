"""Compose a config by a Hydra of our own, whatever the caller does with Hydra."""

import threading
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer

SINGLETONS = (GlobalHydra, VersionBase, JobRuntime)
"""What `initialize_config_dir` sets for the whole process; it refuses a second GlobalHydra."""
_one_at_a_time = threading.RLock()


def compose_apart(directory: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `name` of the absolute `directory`; Hydra's singletons and OmegaConf's resolvers stay the caller's.

    Works within `@hydra.main`, after `hydra.initialize` and in several threads. Raises Hydra's and OmegaConf's errors.
    """
    with _one_at_a_time:
        instances = Singleton._instances
        theirs = {kind: instances.pop(kind) for kind in SINGLETONS if kind in instances}
        resolvers = dict(BaseContainer._resolvers)
        try:
            with initialize_config_dir(str(directory), version_base="1.3"):
                return compose(name, list(overrides))
        finally:
            for kind in SINGLETONS:
                instances.pop(kind, None)
            instances.update(theirs)
            BaseContainer._resolvers.update(resolvers)
