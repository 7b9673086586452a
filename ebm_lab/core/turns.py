"""The loss of an objective's turn, whether its `forward` takes turns or a batch alone."""

from functools import cache

from ebm_lab.core.interfaces import Batch, Loss, Objective, Turn
from ebm_lab.core.settings import wiring_of


def takes_turns(objective: Objective) -> bool:
    """Return whether the loss is `forward(batch, turn)`; one that takes only a batch is the same in all turns."""
    return _takes_turns(type(objective))


@cache
def _takes_turns(kind: type[Objective]) -> bool:
    return len(wiring_of(kind.forward)) > 2


def loss_of(objective: Objective, batch: Batch, turn: Turn) -> Loss:
    """Compute the loss of a turn."""
    return objective(batch, turn) if takes_turns(objective) else objective(batch)
