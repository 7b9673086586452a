"""A multilayer perceptron as an energy of many noise levels and of classes: the layers of `noise_mlp`, and a value for
each class (models/labelled_levels.py)."""

from ebm_lab.core.registry import register
from ebm_lab.energies.noise_mlp import NoiseMLP
from ebm_lab.models.labelled_levels import LabelledLevels


@register("energy", "labelled_noise_mlp")
class LabelledNoiseMLP(LabelledLevels, NoiseMLP):
    """Any event shape, flattened, with class labels; the settings of `noise_mlp`."""
