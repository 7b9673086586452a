"""The law where chains begin: noise that knows nothing of the data but its place and size.

points:  N(mean, scale^2 I)
images:  uniform on the range of pixel values
"""

import torch

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.distributions.elementary import IsotropicGaussian, UniformBox


def start_law(dataset: Dataset) -> Distribution:
    """Return the data set's own start where it names one, else noise of the data's place and size."""
    return noise_like(dataset) if dataset.start is None else dataset.start


def noise_like(dataset: Dataset) -> Distribution:
    """Return noise of the place and size of the training data."""
    if dataset.bounds is None:
        return IsotropicGaussian(dataset.mean, dataset.scale)
    low, high = (torch.full_like(dataset.mean, b) for b in dataset.bounds)
    return UniformBox(low, high)
