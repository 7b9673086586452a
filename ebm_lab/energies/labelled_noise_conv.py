"""A small convolutional energy of many noise levels and of classes: the layers of `noise_conv`, and a value for each
class (models/labelled_levels.py)."""

from ebm_lab.core.features import Need
from ebm_lab.core.registry import register
from ebm_lab.energies.noise_conv import NoiseConv
from ebm_lab.models.labelled_levels import LabelledLevels


@register("energy", "labelled_noise_conv")
class LabelledNoiseConv(LabelledLevels, NoiseConv):
    """Images (C, H, W) with class labels; the settings of `noise_conv`."""

    needs = (Need("dataset", "images"), Need("dataset", "classes"))
