"""What an objective has learnt beside its model, for evaluations: a critic, or chains that meet."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Generator, Tensor


class ScoreCritic(NamedTuple):
    """A critic of the model's score.

    f: (B, *shape) -> (B, *shape); gain: the best critic is gain (s_model - s_data), with the scores s = grad_x log p.
    """

    f: Callable[[Tensor], Tensor]
    gain: float


class RatioCritic(NamedTuple):
    """A critic of the model's density.

    h: (B, *shape) -> (B,) in nats; bound: the best critic is log p_data - log p_model, or the nearest value in
    [-bound, bound].
    """

    h: Callable[[Tensor], Tensor]
    bound: float


class Coupling(NamedTuple):
    """Pairs of coupled chains X_t and Y_{t-1}, which begin at X_0 = Y_0 and stay together once they have met.

    times: (x (B, *shape), moves, generator) -> the moves tau = inf{t >= 1: X_t = Y_{t-1}} of pairs from x, (B,), with
    moves + 1 for pairs that are still apart after `moves` moves; burn_in, max_moves: the move whose state training
    uses, and that after which training cuts the chains off.
    """

    times: Callable[[Tensor, int, Generator], Tensor]
    burn_in: int
    max_moves: int
