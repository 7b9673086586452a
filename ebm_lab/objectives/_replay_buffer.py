"""A replay buffer: many Markov chains, a few of which advance at each training step.

Chains return to the slots that they came from, so that none is lost or duplicated. Positions and ages are registered
buffers: they are on the model's device and in its checkpoints.

Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019.
"""

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import per_sample
from ebm_lab.core.interfaces import Sampleable


def new_buffer(law: Sampleable, size: int, batch_size: int, generator: Generator) -> "ReplayBuffer":
    """Return a buffer of `size` chains drawn from `law`. Raises UserError for fewer chains than a batch visits."""
    if size < batch_size:
        raise UserError(f"objective.buffer_size={size}: must be at least batch_size={batch_size}")
    return ReplayBuffer(law.sample(size, generator))


class ReplayBuffer(nn.Module):
    """Persistent chains. `x`: positions, (size, *shape). `age`: sampler steps since the last restart, (size,)."""

    x: Tensor
    age: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x.clone())
        self.register_buffer("age", torch.zeros(len(x), dtype=torch.int64, device=x.device))

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draw the indices of n distinct slots, (n,)."""
        return torch.randperm(len(self.x), generator=generator, device=self.x.device)[:n]

    def restart(self, slots: Tensor, fresh: Tensor, probability: float, generator: Generator) -> Tensor:
        """Restart each of `slots` at its row of `fresh` with this probability; returns positions (n, *shape)."""
        u = torch.empty(len(slots), device=self.x.device).uniform_(generator=generator)
        restarts = u < probability
        self.age[slots] = torch.where(restarts, 0, self.age[slots])
        return torch.where(per_sample(restarts, fresh), fresh, self.x[slots])

    def put(self, slots: Tensor, x: Tensor, steps: int) -> None:
        """Write the chains back to their slots, `steps` older."""
        self.x[slots] = x
        self.age[slots] += steps
