"""The law of a point of one noise level given its copy at the next higher level, which recovery likelihood is about.

    p(x | seen) ~ exp(-E(x, low) - |x - seen|^2 / (2 gap^2)),    seen = x + gap z,    gap^2 = high^2 - low^2

for neighbouring levels high > low of the ladder. The second term, the tether, makes this law nearly a Gaussian of std
gap, so that a short chain from `seen` reaches it, however many modes exp(-E) has.

Ruiqi Gao et al., Learning Energy-Based Models by Diffusion Recovery Likelihood, 2021, equation 8,
arXiv:2012.08125.
"""

import torch
from torch import Tensor

from ebm_lab.core.derived import Coordinates, Tethered
from ebm_lab.models.levels import NoiseEnergy


def recovery(model: NoiseEnergy, seen: Tensor, low: Tensor | float, gap: Tensor | float, unit: float) -> Coordinates:
    """Return the energy of p(x | seen) as a function of u, x = seen + (gap / unit) u, for seen (B, *shape).

    low, gap: numbers, or (B,) with a level for each sample. In u the tether is |u|^2 / (2 unit^2), so that a sampler
    whose step is relative to `unit` takes steps relative to the gap at every level.
    """
    gap = torch.as_tensor(gap).to(seen).expand(len(seen))  # one per row, so that rows can be taken together
    return Coordinates(Tethered(model.given(sigma=low), seen, gap), seen, gap / unit)
