"""The picture of a density shows where the chains begin, if the method says: at a generator's samples, for example."""

import torch

from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.evaluation.density import Density
from tests.evaluation.test_evaluation import view
from tests.helpers import Drift, Points


def test_where_chains_begin_is_drawn_beside_where_they_end(generator):
    """A panel more: for chains from noise there are the density, the data and the samples."""
    data, pictures = Points(torch.randn(60, 2, generator=generator).double()), []
    for origin in (None, IsotropicGaussian(torch.ones(2).double(), 0.1)):
        run = view(lambda x: 0.5 * x.square().sum(1), data, sampler=Drift(), steps=3, generator=generator)
        run.origin = origin
        pictures.append(Density(cells=20)(run).images["density"])
    assert pictures[1].shape[2] > 1.2 * pictures[0].shape[2] and pictures[0].shape[1] == pictures[1].shape[1]
