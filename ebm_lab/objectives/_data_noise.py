"""Gaussian noise on the data has no meaning on bits and categories."""

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset


def refuse_noise(dataset: Dataset, data_noise: float) -> None:
    """Refuse Gaussian noise on discrete data."""
    if data_noise and dataset.space != "continuous":
        raise UserError(f"objective.data_noise={data_noise:g}: the data are discrete, and must stay so: must be 0")
