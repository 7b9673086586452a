"""The state of a run: all that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator

from ebm_lab.core.errors import Diverged
from ebm_lab.core.interfaces import Objective
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
    """What a run has learnt so far, and what it needs to go on with the same bits.

    config: the resolved config; data: what the run keeps of its data, by name; both are written beside the state.
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
        """Training steps taken."""
        return self.costs.step

    def parts(self) -> dict[str, Any]:
        """Everything with a `state_dict`, by its name in the checkpoint."""
        return {
            "objective": self.objective,
            "ema": self.ema,
            "meter": self.meter,
            "guard": self.guard,
            **({} if self.early_stopping is None else {"early_stopping": self.early_stopping}),
            **{f"optimiser/{name}": o for name, o in self.optimisers.items()},
        }

    def content(self) -> dict[str, Any]:
        """Return the state of all processes as a checkpoint holds it: what they share once, chains put together, and
        what each has of its own."""
        if not all_equal(list(self.objective.parameters()), self.processes):
            raise Diverged("the processes' parameters are no longer the same: their gradients were not averaged")
        content = {name: part.state_dict() for name, part in self.parts().items()}
        for name in self.objective.rows:
            content["objective"][name] = self.processes.join_rows(content["objective"][name])
        return content | {
            "generator": self.generator.get_state(),
            "counters": vars(self.costs),
            "processes": self.processes.gather(self._own()),
            "config": dict(self.config),
            **({} if self.data is None else {"data": dict(self.data)}),
            "machine": checkpoint.machine(self.generator.device),
        }

    def _own(self) -> dict[str, Any]:
        """What each process has of its own, beside chains; nothing where there is one process."""
        if self.processes.world == 1:
            return {}
        kept = {name: value.cpu() for name, value in sampler_states(objectives(self.objective)).items()}
        meter = self.meter.state_dict()
        meter["sums"] = [x.cpu() for x in meter["sums"]]
        own = {"generator": self.generator.get_state(), "sampler_state": kept, "meter": meter}
        return own | {"counters": vars(self.costs)}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up the state that `content` returned. Raises UserError where it does not fit."""
        checkpoint.check_whole(content, self.optimisers)
        content = dict(content)
        if self.processes.world > 1:
            self._take(content, content["processes"][self.processes.rank])
        for name, part in self.parts().items():
            checkpoint.fill(part, content[name], name)
        self.generator.set_state(content["generator"].cpu())
        self.costs = Counters(**content["counters"])

    def _take(self, content: dict[str, Any], own: Mapping[str, Any]) -> None:
        """Put this process's `own` state in the place of the first one's."""
        device, objective = self.generator.device, dict(content["objective"])
        objective |= {name: self.processes.own_rows(objective[name]) for name in self.objective.rows}
        for key in [key for key in objective if key.endswith("_extra_state")]:
            objective[key] = {}
        for name, value in own["sampler_state"].items():
            path, dot, last = name.rpartition(".")
            objective[f"{path}{dot}_extra_state"][last] = value.to(device)
        meter = own["meter"] | {"sums": [x.to(device) for x in own["meter"]["sums"]]}
        content |= {"objective": objective, "meter": meter, "generator": own["generator"], "counters": own["counters"]}
