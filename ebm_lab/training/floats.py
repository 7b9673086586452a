"""Let the processor take numbers too small for full precision, below 1.2e-38 in float32, as 0.

The gradient of a classifier that is sure of every point consists of such numbers, and many processors compute with them
far more slowly: noise-contrastive estimation on images then spends most of its time on them.
"""

import torch


def flush_denormals() -> bool:
    """Take denormal numbers as 0 in this thread and those that it starts; return whether the processor can."""
    return torch.set_flush_denormal(True)
