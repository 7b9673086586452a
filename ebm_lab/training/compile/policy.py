"""When to compile: `auto` compiles only if the run is long enough to recover the compile time.

How long that is depends on the size of a step, which is estimated by the count of numbers in a batch, and, for small
steps, on whether it takes gradients in x. The decision does not use a clock, since that could decide otherwise another
day and so change the results. The number of steps from which compiling pays differs from one objective and processor
to another, so that no such rule is right everywhere. `python scripts/benchmark.py only=compile,policy` measures the
cost of either choice: docs/performance.md.
"""

from ebm_lab.core.interfaces import Objective
from ebm_lab.training.nested import objectives

MEDIUM, LARGE = 4_000, 50_000
"""Numbers in a batch, as in 64 images of 8 x 8 and 28 x 28 pixels."""


def should_compile(
    wish: str | bool, steps: int, numbers: int, gradients: bool, alike: int = 1, device: str = "cpu"
) -> bool:
    """Decide whether a run of this many steps compiles its step.

    wish: auto, cached, graphs, on or off (YAML reads the last two as true and false). numbers: numbers in a batch,
    points times dimension. gradients: whether a step takes gradients in x, as chains and losses of the score do. alike:
    count of successive runs whose steps compile to the same code; the first of them takes the whole compile time, the
    others find the code in torch's cache at a tenth of that cost. `cached` decides as if this were one of the others.
    device: type of the run's device; the numbers below were measured on CPUs alone, so that `auto` and `cached` compile
    on no other.
    """
    if wish not in ("auto", "cached"):
        return wish in ("on", "graphs", True)
    if device != "cpu":
        return False
    enough = 1_250 if numbers >= LARGE else 5_000 if numbers >= MEDIUM or not gradients else 8_000
    return steps >= enough * (0.1 + (0.9 / alike if wish == "auto" else 0.0))


def takes_gradients(objective: Objective) -> bool:
    """Return whether a step takes gradients in x: those that compare energies at points that they are given do not."""
    return any(o.sampler is not None or o.needs_float32 is None for o in objectives(objective).values())
