"""Measure the error of every objective's gradient in bfloat16.

    error = |g_16 - g_32| / |g_32|

g: the gradient in all parameters on one batch with the same random numbers, after the first steps of the objective's
recipe in float32; medians over ten batches. bfloat16 rounds a number by up to 2^-9 = 0.2 % of it. An objective that
takes differences of energies loses far more: training rejects it, and it is shown here for comparison.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.interfaces import Batch
from ebm_lab.training.gradients import Gradients, Precision
from ebm_lab.training.trainer import Trainer
from scripts.benchmark import ours
from scripts.benchmark.cases import COUNTS, has_chains
from scripts.benchmark.forked import alone

STEPS = {"two_moons": 100, "digits": 30}
BATCHES = 10
LEFT_OUT = {("sm", "digits"): "64 second derivatives a step"}


def errors(compose: ours.Compose, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the errors of every objective on both data sets."""
    records = []
    for dataset in STEPS:
        for objective in COUNTS:
            if (objective, dataset) not in LEFT_OUT:
                records.append(alone(partial(error, compose, objective, dataset)))
                r = records[-1]
                say(f"bfloat16, {objective}, {dataset}: {100 * r['error']:.2g} %{', refused' if r['refused'] else ''}")
    return records


def error(compose: ours.Compose, objective: str, dataset: str) -> dict[str, Any]:
    choice = [f"objective={objective}", f"dataset={dataset}", *(["sampler=langevin"] if has_chains(objective) else [])]
    trainer = ours.build(compose, choice, 1, ours.BASELINE)
    for step in range(1, STEPS[dataset] + 1):
        trainer._train_step(step)
    found = []
    for step in range(STEPS[dataset] + 1, STEPS[dataset] + 1 + BATCHES):
        parts = trainer.batches(step)
        low, full = (gradient(trainer, parts, precision) for precision in ("bfloat16", "float32"))
        found.append(relative(low, full))
    refused = bool(trainer.state.objective.needs_float32)
    return {"objective": objective, "dataset": dataset, "error": median(found), "most": max(found), "refused": refused}


def gradient(trainer: Trainer, parts: Sequence[Batch], precision: Precision) -> Tensor:
    """Compute the flat gradient in all parameters; restore the trainer's state and random numbers."""
    content, stream = deepcopy(trainer.state.objective.state_dict()), trainer.state.generator.get_state()
    Gradients(trainer.state.objective, trainer.state.processes, precision)(parts)
    flat = torch.cat([p.grad.flatten() for p in trainer.state.objective.parameters() if p.grad is not None])
    for p in trainer.state.objective.parameters():
        p.grad = None
    trainer.state.objective.load_state_dict(content)
    trainer.state.generator.set_state(stream)
    return flat


def relative(a: Tensor, b: Tensor) -> float:
    """Compute |a - b| / |b|."""
    return float((a - b).norm() / b.norm())
