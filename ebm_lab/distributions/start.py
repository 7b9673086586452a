"""The law where chains begin: noise that knows nothing of the data but its place and size.

a base:  itself, where the energy has one and the data set names no start of its own
points:  N(mean, scale^2 I)
images:  uniform on the range of pixel values
bits, categories:  independent sites with the frequencies of the data
"""

import torch

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.elementary import IsotropicGaussian, UniformBox
from ebm_lab.distributions.product import product_law


def start_law(dataset: Dataset, energy: object = None) -> Distribution:
    """Return the data set's own start where it names one, else the energy's base, else noise of the data's place and
    size."""
    if dataset.start is not None:
        return dataset.start
    return base_of(energy) or noise_like(dataset)


def noise_like(dataset: Dataset) -> Distribution:
    """Return noise of the place and size of the training data."""
    if dataset.space != "continuous":
        return product_law(dataset)
    if dataset.bounds is None:
        return IsotropicGaussian(dataset.mean, dataset.scale)
    low, high = (torch.full_like(dataset.mean, b) for b in dataset.bounds)
    return UniformBox(low, high)
