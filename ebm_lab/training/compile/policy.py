"""When to compile: `auto` compiles only if the run is long enough to recover the compile time.

How long that is depends on the size of a step, of which the numbers in a batch are a fair measure. A clock would know
the machine better, and give other bits another day. `python scripts/benchmark.py only=compile,policy` measures the cost
of either choice: docs/performance.md.
"""

LARGE = 50_000
"""Numbers in a batch, as in 64 images of 28 x 28 pixels."""


def should_compile(wish: str | bool, steps: int, numbers: int, alike: int = 1) -> bool:
    """Decide whether a run compiles its step.

    wish: auto, on or off (true and false, as YAML reads the last two); numbers: in a batch, points times their
    dimension; alike: runs, one after another, whose steps compile to the same code. The first of them pays for it in
    full; the others find it in torch's cache, at a tenth of the cost.
    """
    if wish != "auto":
        return wish in ("on", True)
    enough = 2_000 if numbers >= LARGE else 8_800
    return steps >= enough * (0.1 + 0.9 / alike)
