"""An objective and the objectives within it: one may be built of others, each with a sampler's state of its own."""

from collections.abc import Mapping

from torch import Tensor

from ebm_lab.core.interfaces import Objective


def objectives(objective: Objective) -> dict[str, Objective]:
    """Return the objective, by the path '', and those within it, by theirs."""
    return {path: m for path, m in objective.named_modules() if isinstance(m, Objective)}


def sampler_states(parts: Mapping[str, Objective]) -> dict[str, Tensor]:
    """Return what the samplers of `parts` adapt, by <path>.<name>, or the name alone for the path ''."""
    return {_key(path, name): v for path, part in parts.items() for name, v in part.sampler_state.items()}


def set_sampler_states(parts: Mapping[str, Objective], states: Mapping[str, Tensor]) -> None:
    """Give `parts` what `sampler_states` returned of them."""
    for path, part in parts.items():
        names = {key.rpartition(".")[2]: value for key, value in states.items() if key.rpartition(".")[0] == path}
        part.sampler_state = names


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
