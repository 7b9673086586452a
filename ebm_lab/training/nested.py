"""Objectives within objectives: one may be composed of others, each with its own sampler state."""

from collections.abc import Mapping

from torch import Tensor

from ebm_lab.core.interfaces import Objective


def objectives(objective: Objective) -> dict[str, Objective]:
    """Return the objective and those within it by their module paths; its own path is ''."""
    return {path: m for path, m in objective.named_modules() if isinstance(m, Objective)}


def sampler_states(parts: Mapping[str, Objective]) -> dict[str, Tensor]:
    """Return the sampler states of `parts` by <path>.<name>, or by the name alone for the path ''."""
    return {_key(path, name): v for path, part in parts.items() for name, v in part.sampler_state.items()}


def set_sampler_states(parts: Mapping[str, Objective], states: Mapping[str, Tensor]) -> None:
    """Set the sampler states of `parts` from what `sampler_states` returned."""
    for path, part in parts.items():
        own = {key.rpartition(".")[2]: value for key, value in states.items() if key.rpartition(".")[0] == path}
        part.sampler_state = own


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
