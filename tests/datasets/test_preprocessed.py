"""Preprocessed data are the change of variables that they claim, at any offset and scale."""

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.datasets._preprocessed import preprocessed
from ebm_lab.distributions.elementary import Gaussian


class Line(Dataset):
    """A stretched Gaussian in float64, with its law; `positive`: its exponential."""

    def __init__(self, offset=0.0, scale=1.0, positive=False):
        shape = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
        self.law, self.positive = Gaussian(torch.full((2,), offset, dtype=torch.float64), scale**2 * shape), positive
        draws = [self.law.sample(500, torch.Generator().manual_seed(i)) for i in range(3)]
        self.train, self.val, self.test = (x.exp() if positive else x for x in draws)

    def log_prob(self, x):
        return self.law.log_prob(x.log()) - x.log().sum(1) if self.positive else self.law.log_prob(x)


@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (1e8, 1e5), (1e8, 1.0), (1e8, 1e-4), (0.0, 1e-5), (0.0, 1e5)])
@pytest.mark.parametrize("how", ["standardize", "whiten", ["standardize", "whiten"], ["whiten", "asinh"]])
def test_log_prob_is_the_raw_one_less_the_log_determinant(how, offset, scale):
    data = Line(offset, scale)
    new = preprocessed(data, how)
    assert new.train.dtype == torch.float32 and new.train.shape == data.train.shape
    rounding = 1e-6 + 2e-8 * offset / 1e8 / scale  # what float64 leaves of raw data so far from zero, in units of scale
    assert torch.allclose(
        (new.transform.inverse(new.test) - data.test) / scale, torch.zeros(()).double(), atol=30 * rounding
    )
    x = new.test.double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: new.map.inverse(z[None])[0]))(x)
    expected = data.log_prob(new.map.inverse(x)) + torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(new.log_prob(x), expected, rtol=1e-9, atol=1e-9)
    if how == "whiten":
        assert torch.allclose(new.train.double().T.cov(), torch.eye(2).double(), atol=1e-5 + 50 * rounding)


@pytest.mark.parametrize("how", ["log", ["log", "whiten"]])
def test_positive_data_become_the_gaussian_that_they_are_made_of(how):
    data = Line(scale=0.5, positive=True)
    new = preprocessed(data, how)
    if how == "log":
        assert torch.allclose(new.log_prob(new.test).double(), data.law.log_prob(new.test.double()), atol=1e-5)
    step = torch.linspace(-6, 6, 400, dtype=torch.float64)
    mesh = torch.cartesian_prod(step, step) * (1.0 if how != "log" else 0.5)
    area = (float(step[1] - step[0]) * (1.0 if how != "log" else 0.5)) ** 2
    assert abs(float(new.log_prob(mesh).exp().sum()) * area - 1) < 1e-3


def test_data_outside_the_domain_are_refused():
    with pytest.raises(UserError, match="preprocessing 'log': training data lie outside its domain"):
        preprocessed(Line(), "log")
    with pytest.raises(UserError, match="vary too little relative to their size for float64"):
        preprocessed(Line(1e8, 1e-5), "whiten")
    flat = Line()
    flat.train = flat.train[:, :1].repeat(1, 2)
    with pytest.raises(UserError, match="a direction has no spread"):
        preprocessed(flat, "whiten")
