"""The nouns of a run: dataset, energy, objective, sampler, evaluation, logger. A run is one choice from each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

from ebm_lab.core.dataset import Batch as Batch
from ebm_lab.core.dataset import Dataset as Dataset
from ebm_lab.core.dataset import Distribution as Distribution
from ebm_lab.core.dataset import Sampleable as Sampleable
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Derive, Need, Part, same
from ebm_lab.core.functional import EnergyFn, score
from ebm_lab.core.logger import Logger as Logger
from ebm_lab.core.logger import RunInfo as RunInfo
from ebm_lab.core.metrics import Metric
from ebm_lab.core.model import Model, condition
from ebm_lab.core.settings import wiring_of


class Loss(NamedTuple):
    """value: 0-d, what backward is called on; metrics: 0-d detached tensors, left on the device; grad_evals: how many
    gradients of the energy of one sample (in x or in its parameters) this step took."""

    value: Tensor
    metrics: dict[str, Tensor]
    grad_evals: int


class Chain(NamedTuple):
    """x: (B, *shape) final states; state: what the sampler adapts, to hand to its next call; metrics: 0-d detached
    tensors; grad_evals: gradients in x of the energy of one sample, summed over chains."""

    x: Tensor
    state: dict[str, Tensor]
    metrics: dict[str, Tensor]
    grad_evals: int


class Turn(NamedTuple):
    """What one training step does. movers: the players that take a step, None: all of them; form: which loss, for an
    objective that has several."""

    movers: tuple[str, ...] | None = None
    form: str = ""


ALL_PLAYERS = Turn()


class Sampler(Part, ABC):
    """Takes chains a number of steps, `steps`, further."""

    steps: int
    """Steps per call."""
    needs = (Need("energy", "energy"),)
    offers = frozenset({"stationary"})

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the state before the first call for chains at x (B, *shape), with the keys that it has ever after;
        {} if the sampler keeps nothing."""
        return {}

    def start(self, model: EnergyFn) -> Sampleable | None:
        """Return the law where chains from noise begin; None leaves it to the caller."""
        return None

    def total(self, model: EnergyFn) -> int | None:
        """Steps from noise to a whole sample; None: as many as the run's `sample_steps`."""
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
        """Advance the chains x (B, *shape); `state` is what `begin` or the last call returned, and the new state has
        the same keys. {} is a state that was not begun, and the sampler begins it here.

        Detached from x and from the energy's parameters unless `differentiable`.
        """


class Energy(Part, Model, ABC):
    """E(x) in nats, (B, *shape) -> (B,); low energy is likely."""

    offers = frozenset({"energy", "score", "smooth"})

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute E(x). An energy with labels takes `y` (B,) too, one with noise levels `sigma`, a number or (B,), each
        None by default: E(x) is then the marginal -logsumexp(logits(x)), and of the lowest level."""

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return x -> E(x, y, sigma), bound to these labels and levels; itself where none is given."""
        return condition(self, y, sigma)

    def logits(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Compute -E(x, y) of every label, (B, K), for an energy with labels."""
        raise UserError(f"energy '{type(self).__name__}' has no labels")

    def sweep(self, x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Draw every coordinate of x (B, *shape) once, exactly given the others: what "conditionals" offers. `draw`
        turns probabilities into values, 0 or 1 each."""
        raise UserError(f"energy '{type(self).__name__}' has no conditional laws to draw from")

    def score(self, x: Tensor, create_graph: bool = False) -> Tensor:
        """Return grad_x log p(x) = -grad_x E, (B, *shape) -> (B, *shape). Detached unless `create_graph`."""
        return score(self, x, create_graph)


class Objective(Part, nn.Module, ABC):
    """What a training step minimises. All that it keeps (energy, replay buffer, ...) is in its `state_dict`."""

    metrics = (Metric("loss", good="lower"), Metric("gap"), Metric("chain_distance"), Metric("acceptance"))
    headline: tuple[str, ...] = ("loss",)
    """The metrics that the progress bar shows."""
    needs = (Need("energy", "energy"),)
    sampler: Sampler | None = None
    """What its chains move by, where it trains with chains."""
    data_noise: float = 0.0
    """Std, in data units, of the Gaussian noise that it adds to the data."""
    needs_float32: str | None = None
    """What it does with differences of energies, in words, where they are too small for bfloat16; None: nothing."""
    rows: tuple[str, ...] = ()
    """Names of buffers with a row for each chain: the processes of a run share them out."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy
        self.resolved: dict[str, float] = {}
        """Settings given as `auto`, with the values chosen from the data."""
        self.notes: list[str] = []
        """Lines for the user, said once at the start of a run."""
        self.sampler_state: dict[str, Tensor] = {}
        """What the sampler adapts, where there is one."""
        self.not_separable: str | None = None
        """What makes the loss no mean over the batch's samples, in words; None: it is one, and a batch may be cut."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "compares" in vars(cls):  # the name of `needs_float32` in older plugins
            cls.needs_float32 = vars(cls)["compares"]

    @property
    def chosen(self) -> dict[str, float]:
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
        """Return which features of the energy are left in what the training sampler is given."""
        return same

    @classmethod
    def modelled(cls, **settings: Any) -> Derive:
        """Return which features of the energy are left in the model that the run evaluates and samples."""
        return same

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """Compute the loss on a batch. An objective with turns takes `forward(batch, turn)` instead."""

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters by player; each player has its own optimiser. `optim` holds the settings of
        all, `optim.players.<name>` those of one."""
        return {"energy": [p for p in self.parameters() if p.requires_grad]}

    def turn(self, step: int) -> Turn:
        """Return who moves in training step `step` (1, 2, ...), and by which loss: from the step and saved state alone,
        so that a resumed run takes the same turns. The trainer freezes, and neither steps nor averages, who stays."""
        return ALL_PLAYERS

    def model(self) -> nn.Module:
        """Return the energy whose law the run claims: what evaluations, samplers and `run.energy` take."""
        return self.energy

    def get_extra_state(self) -> dict[str, Tensor]:
        return self.sampler_state

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.sampler_state = state

    def learnt_log_z(self) -> Tensor | None:
        """The energy's log Z in nats, 0-d, where the objective estimates it."""
        return None

    def learnt_blur(self) -> float:
        """Return the sigma, in data units, of the Gaussian noise by which the law that the loss learns is blurred."""
        return self.data_noise

    def sees_within(self) -> float | None:
        """Return how far the loss compares points, as the std in data units of what moves one to another, for a loss
        that does not see the relative weights of modes which that leaves far apart. None: it sees all weights."""
        return None

    def origin(self) -> Sampleable | None:
        """Return the law where the chains of evaluations begin, if the method says: a second player, say; else None."""
        return None

    def chains(self) -> Tensor | Batch | None:
        """(N, *shape) persistent chains, where the objective keeps any; with their labels as a Batch."""
        return None
