"""The state of a run: everything that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator

from ebm_lab.core.errors import Diverged
from ebm_lab.core.interfaces import Objective
from ebm_lab.core.random import seed_of
from ebm_lab.training import checkpoint
from ebm_lab.training.costs import Counters
from ebm_lab.training.distributed import Processes, all_equal
from ebm_lab.training.early_stopping import EarlyStopping
from ebm_lab.training.ema import EMA
from ebm_lab.training.guard import Guard
from ebm_lab.training.meter import Meter
from ebm_lab.training.nested import objectives, sampler_states
from ebm_lab.training.optimiser import Optimiser


@dataclass(kw_only=True)
class State:
    """Everything that a run has learnt, and that it needs to continue with exactly the same numbers.

    config: the resolved config. data: the record of the run's data, by name. Checkpoints contain both.
    """

    objective: Objective
    optimisers: dict[str, Optimiser]
    ema: EMA
    generator: Generator
    guard: Guard
    config: Mapping[str, Any]
    data: Mapping[str, Any] | None = None
    processes: Processes = field(default_factory=Processes)
    meter: Meter = field(default_factory=Meter)
    costs: Counters = field(default_factory=Counters)
    early_stopping: EarlyStopping | None = None

    @property
    def step(self) -> int:
        """Training steps taken so far."""
        return self.costs.step

    def parts(self) -> dict[str, Any]:
        """Return every part that has a `state_dict`, by its name in the checkpoint."""
        return {
            "objective": self.objective,
            "ema": self.ema,
            "meter": self.meter,
            "guard": self.guard,
            **({} if self.early_stopping is None else {"early_stopping": self.early_stopping}),
            **{f"optimiser/{name}": o for name, o in self.optimisers.items()},
        }

    def content(self) -> dict[str, Any]:
        """Return a checkpoint's content: the shared state, all processes' chains and each process's own state.

        Raises Diverged if the processes' parameters differ.
        """
        if not all_equal(list(self.objective.parameters()), self.processes):
            raise Diverged("the processes' parameters are no longer the same: their gradients were not averaged")
        content = {name: part.state_dict() for name, part in self.parts().items()}
        for name in self.objective.rows:
            content["objective"][name] = self.processes.join_rows(content["objective"][name])
        return content | {
            "scales": checkpoint.scales(self.objective.energy),
            "generator": self.generator.get_state(),
            "counters": vars(self.costs),
            "processes": self.processes.gather(self._own()),
            "config": dict(self.config),
            **({} if self.data is None else {"data": dict(self.data)}),
            "machine": checkpoint.machine(self.generator.device),
        }

    def _own(self) -> dict[str, Any]:
        """Return this process's own state, without its chains; empty if there is only one process."""
        if self.processes.world == 1:
            return {}
        kept = {name: value.cpu() for name, value in sampler_states(objectives(self.objective)).items()}
        meter = self.meter.state_dict()
        meter["sums"] = [x.cpu() for x in meter["sums"]]
        own = {"generator": self.generator.get_state(), "sampler_state": kept, "meter": meter}
        return own | {"counters": vars(self.costs)}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Restore the state that `content` returned. Raises UserError if it does not fit.

        The random stream of a checkpoint from another type of device begins anew, as a function of the run's seed and
        the step.
        """
        checkpoint.check_whole(content, self.optimisers)
        content = dict(content)
        if self.processes.world > 1:
            self._insert_own(content, content["processes"][self.processes.rank])
        for name, part in self.parts().items():
            checkpoint.fill(part, content[name], name)
        checkpoint.set_scales(self.objective.energy, content.get("scales", {}))
        seed = seed_of(self.config["seed"], self.processes.own("objective"), content["counters"].get("step", 0))
        checkpoint.restore_generator(self.generator, content, seed)
        self.costs = Counters(**content["counters"])

    def _insert_own(self, content: dict[str, Any], own: Mapping[str, Any]) -> None:
        """Replace the first process's state in `content` by this process's `own`."""
        device, objective = self.generator.device, dict(content["objective"])
        objective |= {name: self.processes.own_rows(objective[name]) for name in self.objective.rows}
        for key in [key for key in objective if key.endswith("_extra_state")]:
            objective[key] = {}
        for name, value in own["sampler_state"].items():
            path, dot, leaf = name.rpartition(".")
            objective[f"{path}{dot}_extra_state"][leaf] = value.to(device)
        meter = own["meter"] | {"sums": [x.to(device) for x in own["meter"]["sums"]]}
        content |= {"objective": objective, "meter": meter, "generator": own["generator"], "counters": own["counters"]}
