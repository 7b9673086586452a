"""Interfaces of the components of a run: data set, energy, objective, sampler, evaluation and logger."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

from ebm_lab.core.dataset import Batch as Batch
from ebm_lab.core.dataset import Dataset as Dataset
from ebm_lab.core.dataset import Distribution as Distribution
from ebm_lab.core.dataset import Sampleable as Sampleable
from ebm_lab.core.discrete import Draws
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Derive, Need, Part, same
from ebm_lab.core.functional import EnergyFn, penalty_of, score
from ebm_lab.core.learnt import Coupling, RatioCritic, ScoreCritic
from ebm_lab.core.logger import Logger as Logger
from ebm_lab.core.logger import RunInfo as RunInfo
from ebm_lab.core.metrics import Metric
from ebm_lab.core.model import Model, condition
from ebm_lab.core.settings import wiring_of


class Loss(NamedTuple):
    """The result of an objective. value: 0-d, to call backward on; metrics: 0-d detached tensors, on the device;
    grad_evals: gradients of the energy (in x or in its parameters) that this step took, summed over samples."""

    value: Tensor
    metrics: dict[str, Tensor]
    grad_evals: int


def with_penalty(objective: "Objective", inputs: Any, loss: Loss) -> Loss:
    """Add the energy's penalty on its parameters to a loss; `penalty` is then among the metrics."""
    penalty = penalty_of(objective.energy) if objective.penalises else None
    if penalty is None:
        return loss
    return loss._replace(value=loss.value + penalty, metrics=loss.metrics | {"penalty": penalty.detach()})


class Chain(NamedTuple):
    """The result of a sampler. x: (B, *shape) final states; state: the sampler's state, to pass to its next call;
    metrics: 0-d detached tensors; grad_evals: gradients of the energy in x, summed over chains."""

    x: Tensor
    state: dict[str, Tensor]
    metrics: dict[str, Tensor]
    grad_evals: int


class Turn(NamedTuple):
    """What one training step does. movers: the players that take a step, or None for all; form: the name of the loss,
    for an objective that has several."""

    movers: tuple[str, ...] | None = None
    form: str = ""

    def moves(self, player: str) -> bool:
        """Return whether this player takes a step."""
        return self.movers is None or player in self.movers


ALL_PLAYERS = Turn()


class Sampler(Part, ABC):
    """A sampler: each call advances chains by `steps` steps. A Metropolis test keeps exp(-E / `temperature`)."""

    steps: int
    """Steps per call."""
    temperature: float = 1.0
    reach: float | None = None
    """Steps per call times the square of their size in units of the data's scale; None if the size adapts."""
    needs = (Need("energy", "energy"),)
    offers = frozenset({"stationary"})

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the state before the first call for chains at x (B, *shape).

        Later states have the same keys; {} if the sampler keeps no state.
        """
        return {}

    def start(self, model: EnergyFn) -> Sampleable | None:
        """Return the law from which chains start, or None to leave it to the caller."""
        return None

    def couple(
        self, energy: EnergyFn, x: Tensor, y: Tensor, state: Mapping[str, Tensor], *, generator: Generator
    ) -> tuple[Chain, Tensor]:
        """Advance two coupled chains at x and y (B, *shape) by `steps` steps; samplers with the feature "coupled" can.

        Each moves by the same law, which `state` fixes. Returns the chain from x, with the state for a later call, and
        where the other ended.
        """
        raise UserError(f"sampler '{type(self).__name__}' can't couple chains")

    def total(self, model: EnergyFn) -> int | None:
        """Return the number of steps from noise to a finished sample, or None for the run's `sample_steps`."""
        return None

    @abstractmethod
    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        """Advance the chains x (B, *shape).

        `state` is what `begin` or the last call returned, and the new state has the same keys. The sampler replaces the
        state {} by what `begin` returns.

        Detached from x and from the energy's parameters unless `differentiable`.
        """


class Energy(Part, Model, ABC):
    """E(x) in nats, (B, *shape) -> (B,); low energy is likely."""

    offers = frozenset({"energy", "score", "smooth"})
    base: Distribution | None = None
    """The law that E = -log base + f builds on, where it has one, at its lowest level."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute E(x).

        An energy with labels also takes `y` (B,), and one with noise levels `sigma`, a number or (B,). Both default to
        None, for the marginal -logsumexp(logits(x)) and the lowest level.
        """

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return x -> E(x, y, sigma) at these labels and levels; itself if neither is given."""
        return condition(self, y, sigma)

    def logits(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Compute -E(x, y) of every label, (B, K), for an energy with labels."""
        raise UserError(f"energy '{type(self).__name__}' has no labels")

    def sweep(self, x: Tensor, draws: Draws) -> Tensor:
        """Draw every site of discrete x (B, *shape) once, exactly, given the others; energies with the feature
        "conditionals" can."""
        raise UserError(f"energy '{type(self).__name__}' has no conditional laws to draw from")

    def annealed(self, logits: Tensor, b: float) -> "Energy":
        """Return the energy of p_b, with `sweep`, on a path from independent bits with these logits (d,), E_0 = -log of
        their law, to E_1 = E; energies with the feature "annealed" can."""
        raise UserError(f"energy '{type(self).__name__}' has no path from independent bits")

    def score(self, x: Tensor, create_graph: bool = False) -> Tensor:
        """Return grad_x log p(x) = -grad_x E, (B, *shape) -> (B, *shape). Detached unless `create_graph`."""
        return score(self, x, create_graph)


class Objective(Part, nn.Module, ABC):
    """The loss of a training step. Everything it keeps (energy, replay buffer, ...) is in its `state_dict`."""

    metrics = (
        *(Metric("loss", good="lower"), Metric("gap"), Metric("chain_distance"), Metric("acceptance")),
        Metric("base_contrast", good="lower"),
    )
    headline: tuple[str, ...] = ("loss",)
    """The metrics that the progress bar shows."""
    needs = (Need("energy", "energy"),)
    sampler: Sampler | None = None
    """The sampler of its chains, if it trains with chains."""
    data_noise: float = 0.0
    """Std, in data units, of the Gaussian noise that it adds to the data."""
    needs_float32: str | None = None
    """How it uses energy differences that bfloat16 is too coarse for, in words; None: it does not."""
    penalises: bool = True
    """Whether the energy's penalty is added to its loss; not where the loss contains one that does so."""
    validates: bool = False
    """Whether the loss on held-out points tells how good the model is; the loss of a method with chains does not."""
    rows: tuple[str, ...] = ()
    """Names of buffers with one row per chain, which are divided among the processes of a run."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy
        self.resolved: dict[str, float | str] = {}
        """Settings given as `auto`, with the values chosen from the data."""
        self.notes: list[str] = []
        """Lines for the user, printed once at the start of a run."""
        self.sampler_state: dict[str, Tensor] = {}
        """The state of the training sampler, if there is one."""
        self.not_separable: str | None = None
        """Why the loss is not a mean over the batch's samples, in words; None: it is, and a batch may be split."""
        self.register_forward_hook(with_penalty)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "compares" in vars(cls):  # the name of `needs_float32` in older plugins
            cls.needs_float32 = vars(cls)["compares"]

    @property
    def chosen(self) -> dict[str, float | str]:
        """The name of `resolved` in older plugins."""
        return self.resolved

    @property
    def couples(self) -> str | None:
        """The name of `not_separable` in older plugins."""
        return self.not_separable

    @couples.setter
    def couples(self, reason: str | None) -> None:
        self.not_separable = reason

    @classmethod
    def needs_of(cls, **settings: Any) -> Iterable[Need]:
        """Return its `needs`; one that is wired with a sampler trains with chains, which stay at one energy."""
        return (*cls.needs, *([Need("sampler", "stationary")] if "sampler" in wiring_of(cls) else []))

    @classmethod
    def sampled(cls, **settings: Any) -> Derive:
        """Return the features that the energy still has in the form that the training sampler is given."""
        return same

    @classmethod
    def modelled(cls, **settings: Any) -> Derive:
        """Return the features that the energy still has in the model that the run evaluates and samples."""
        return same

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """Compute the loss on a batch. An objective with turns takes `forward(batch, turn)` instead."""

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters by player; each player has its own optimiser.

        `optim` holds the settings of all players, `optim.players.<name>` those of one.
        """
        return {"energy": [p for p in self.parameters() if p.requires_grad]}

    def turn(self, step: int) -> Turn:
        """Return which players move in training step `step` (1, 2, ...), and which loss they minimise.

        It must depend on the step and on saved state alone, so that a resumed run takes the same turns. The trainer
        freezes the other players, and neither steps nor averages them.
        """
        return ALL_PLAYERS

    def model(self) -> nn.Module:
        """Return the energy that the run has learnt, which evaluations, samplers and `run.energy` use."""
        return self.energy

    def get_extra_state(self) -> dict[str, Tensor]:
        return self.sampler_state

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.sampler_state = state

    def learnt_log_z(self) -> Tensor | None:
        """Return log Z of the energy in nats, 0-d, if the objective estimates it, else None."""
        return None

    def learnt_blur(self) -> float:
        """Return the sigma, in data units, of the Gaussian noise by which the law that the loss learns is blurred."""
        return self.data_noise

    def learnt_critic(self) -> ScoreCritic | RatioCritic | None:
        """Return the critic that it trains beside the energy, or None if it trains none."""
        return None

    def coupling(self) -> Coupling | None:
        """Return the coupled chains that it trains with, or None; they leave the state of training as it is."""
        return None

    def trains_levels(self) -> bool:
        """Return whether the loss trains the model at every noise level, and not at the lowest alone."""
        return any((need.role, need.feature) == ("energy", "levels") for need in self.found_needs())

    def sees_within(self) -> float | None:
        """Return the distance over which the loss compares points, as a std in data units, or None.

        A loss that only compares points nearer than this does not see the relative weights of modes further apart.
        None: the loss sees the weights of all modes.
        """
        return None

    def beyond_density(self, batch: Batch) -> Tensor | None:
        """Return the mean loss on held-out points of what the objective learns beside p(x), such as p(y | x), 0-d; None
        if it learns nothing else."""
        return None

    def origin(self) -> Sampleable | None:
        """Return the law from which chains of evaluations start, for example a second player, or None to leave it to
        the sampler or the run."""
        return None

    def chains(self) -> Tensor | Batch | None:
        """Return the persistent chains (N, *shape), as a Batch if they have labels; None if the objective keeps
        none."""
        return None
