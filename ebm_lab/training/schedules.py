"""Learning-rate schedules, as pure functions of the step, so that they have no state to save."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "step"]


def factor(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """Return the factor of the base learning rate at `step` (1 to `steps`).

    Linear warm-up over `warmup` steps, then `constant` (1), `cosine` (1 down to 0) or `step` (1, then 0.1 after 60 %
    and 0.01 after 85 % of the remaining steps).
    """
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if schedule == "step":
        return 1.0 if progress <= 0.6 else 0.1 if progress <= 0.85 else 0.01
    return 1.0
