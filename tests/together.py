"""What two processes do at once, for tests/training/test_distributed.py.

Each is `python -m tests.together <folder>`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Generator
from torch.overrides import TorchFunctionMode

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.distributed import Processes
from ebm_lab.training.gradients import Gradients
from tests.runs.test_resume import OBJECTIVES, ON_BITS, quick, stop_at

BATCH = 64
FIXED = ["sampler.target_acceptance=null"]
UNDIVIDED = ("ksd", "energy_matching")
"""Objectives that compare all points of a batch, which several processes refuse."""
CHAINED = ("mle", "cd", "pcd", "f_ebm", "coopnets", "drl", "cdrl", "jem")
"""Objectives whose chains have the default sampler, which adapts."""
CHOICES = {
    **{
        o: [f"objective={o}", *(["sampler=langevin"] if o in CHAINED else [])] for o in OBJECTIVES if o not in UNDIVIDED
    },
    "pcd of mala": ["objective=pcd", "sampler=mala", *FIXED],
    "mle of hmc": ["objective=mle", "sampler=hmc", *FIXED],
    "cd with its neglected term": [
        *("objective=cd", "sampler=langevin", "objective.neglected_term=1", "objective.neglected_entropy=0")
    ],
    "ssm with three projections": ["objective=ssm", "objective.projections=3"],
    "nce with a mixture": ["objective=nce", "objective.noise=mixture", "objective.noise_ratio=3"],
    "nce of the exponential loss": ["objective=nce", "objective.loss=exponential"],
    "chains with labels": [*("objective=pcd", "energy=labelled_mlp", "objective.conditional=true", "sampler=langevin")],
    **{name: ON_BITS[name] for name in ("objective=pseudo_likelihood", "objective=ed", "sampler=gwg", "sampler=gibbs")},
    "block Gibbs": ON_BITS["sampler=block_gibbs"],
    "dsm in two passes": ["objective=dsm", "accumulate=2"],
    "pcd in two passes": ["objective=pcd", "sampler=langevin", "accumulate=2"],
}
WHOLE = {
    "pcd": ["objective=pcd", "sampler=mala"],
    "nce": ["objective=nce", "accumulate=2"],
    "multi_dsm": ["objective=multi_dsm", "compile=on"],
}
"""Runs from start to end."""


class Recorded(TorchFunctionMode):
    """Keeps every draw from a generator."""

    def __init__(self):
        self.draws = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(a, Generator) for a in (*args, *(kwargs or {}).values())):
            self.draws.append((func.__name__, out.clone()))
        return out


def built(choice, processes=None):
    """The trainer of a choice, in float64."""
    processes = processes or Processes()
    trainer, _ = assemble(compose_config(quick(f"batch_size={BATCH}", *choice)), processes)
    double(trainer, set())
    trainer.gradients = Gradients(trainer.state.objective, processes, "float32")
    return trainer


def double(thing, seen):
    """Turn every float32 tensor that hangs on `thing` into float64, parameters in their place."""
    if id(thing) in seen or not hasattr(thing, "__dict__") or isinstance(thing, type):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.nn.Module):
        thing.double()
        for child in thing.children():
            double(child, seen)
    for name, value in list(vars(thing).items()):
        if (
            isinstance(value, torch.Tensor)
            and not isinstance(value, torch.nn.Parameter)
            and value.dtype == torch.float32
        ):
            object.__setattr__(thing, name, value.double())
        elif type(value).__module__.startswith("ebm_lab"):
            double(value, seen)


def gradients(choice, processes):
    """(gradients by name, draws) of the first step."""
    trainer = built(choice, processes)
    batch = trainer.batches(1)
    with Recorded() as recorded:
        trainer.gradients(batch)
    named = {n: p.grad for n, p in trainer.state.objective.named_parameters() if p.grad is not None}
    return named, recorded.draws


def main(folder):
    processes = Processes.join()
    asked = json.loads((folder / "asked.json").read_text())
    found = {name: gradients(choice, processes) for name, choice in CHOICES.items() if name in asked}
    torch.save(found, folder / f"gradients{processes.rank}.pt")
    for name, choice in ((name, choice) for name, choice in WHOLE.items() if name in asked):
        command = quick("steps=20", *choice)
        ebm_lab.train([*command, f"output_dir={folder / name / 'straight'}"], quiet=True)
        with pytest.MonkeyPatch.context() as patch:
            if processes.rank == 1:
                stop_at(patch, 10)  # within a log window
            stopped = ebm_lab.train([*command, f"output_dir={folder / name / 'stopped'}"], quiet=True)
        assert (stopped.status, stopped.summary["step"]) == ("interrupted", 10)
        ebm_lab.train([f"resume={stopped.path}"], quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
