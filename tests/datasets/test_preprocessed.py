"""Preprocessed data are the change of variables that they claim, at any offset and scale."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.maps import Composed, Warp, parsed, plain
from ebm_lab.core.registry import find
from ebm_lab.core.transforms import Affine
from ebm_lab.datasets._preprocessed import Preprocessed, for_run, gaussian_log_prob, preprocessed, unrounded
from ebm_lab.distributions.blurred import blur_gap, blurred
from ebm_lab.distributions.coordinates import _likelihood, squared_distances, student_scatter
from ebm_lab.distributions.elementary import Gaussian
from ebm_lab.distributions.mixture import GaussianMixture, mixture_of
from tests.datasets.test_datasets_synthetic import make


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


class Drawn(Dataset):
    """Splits of 4,000, 1,000 and 1,000 points that `draw` makes of standard normal z (n, 4), in float64."""

    def __init__(self, draw):
        streams = [torch.Generator().manual_seed(i) for i in range(3)]
        z = [
            torch.randn(n, 4, dtype=torch.float64, generator=g)
            for n, g in zip((4000, 1000, 1000), streams, strict=True)
        ]
        self.train, self.val, self.test = (draw(x) for x in z)


def turned(x, degrees):
    a = math.radians(degrees)
    return x @ torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64)


def stretched(z):
    """Two modes along an axis that is a hundred times as long as the other, at 45 degrees."""
    x = torch.stack([0.5 * z[:, 0] + z[:, 1].sign(), 0.01 * z[:, 2]], 1)
    return turned(x, 45)


def funnel(z):
    v = 3 * z[:, :1]
    return torch.cat([v, (v / 2).exp() * z[:, 1:2]], 1)


def student(z):
    """Two independent coordinates of two degrees of freedom."""
    return torch.cat([z[:, :1] * math.sqrt(2) / z[:, 2:].norm(dim=1, keepdim=True), z[:, 1:2] / chi(z)], 1)


def chi(z):
    u = torch.rand(len(z), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return (-u.log()).sqrt()


def warps(data):
    """The scales of the one warp of a preprocessed data set."""
    (found,) = (part.s for part in data.map.parts if isinstance(part, Warp))
    return found


def test_auto_takes_no_warp_where_none_is_due():
    chosen = for_run(Drawn(stretched), "auto")
    assert not any(isinstance(part, Warp) for part in chosen.map.parts)
    assert "preprocess=auto: whiten (" in chosen.notes[-1] and "no axis gains by a warp" in chosen.notes[-1]
    assert torch.allclose(chosen.train.T.cov(), torch.eye(2), atol=1e-5)
    moons = find("dataset", "two_moons")(train=4000, held_out=1000, noise=0.1, seed=0)
    assert for_run(moons, "auto") is moons and moons.map is None and "left as they are" in moons.notes[-1]
    round_one = for_run(Drawn(lambda z: 1e5 + z[:, :2] * torch.tensor([1.0, 3.0])), "auto")
    assert len(round_one.map.parts) == 1 and isinstance(round_one.map.parts[0], Affine)
    ratio = round_one.train.std(0)[1] / round_one.train.std(0)[0]
    variances = round_one.train.var(0, correction=0)
    assert abs(float(ratio) - 3) < 0.2 and variances.mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("ratio", "chosen"), [(5.0, "left as they are"), (5.6, "standardize")])
def test_auto_evens_out_spreads_that_cost_a_nat(ratio, chosen):
    """One scale for both stds 1 and r costs log((1 + r^2) / 2 r) nats: .956 at 5 and 1.06 at 5.6."""
    data = for_run(Drawn(lambda z: z[:, :2] * torch.tensor([1.0, ratio])), "auto")
    assert f"preprocess=auto: {chosen} (" in data.notes[-1]


def test_data_left_as_they_are_stay_so_to_the_last_bit():
    eight = {"radius": 2.0, "std": 0.2, "train": 4000, "held_out": 1000, "seed": 0}
    given, wide = (find("dataset", "eight_gaussians")(**eight) for _ in range(2))
    assert unrounded(wide).train.dtype == torch.float64
    left = for_run(wide, "auto")
    assert left.train.dtype == torch.float32 and torch.equal(left.train, given.train)
    assert torch.equal(for_run(unrounded(wide), "auto", Composed(())).test, given.test)


@pytest.mark.parametrize("unit", [1.0, 1e5, 1e-5])
def test_auto_warps_the_funnel_s_neck_and_the_tails_of_student_t(unit):
    chosen = for_run(Drawn(lambda z: 7 * unit + unit * funnel(z)), "auto")
    assert bool(warps(chosen)[0].isinf()) and 0.01 < float(warps(chosen)[1]) < 0.06  # in stds of the coordinate
    assert bool((warps(for_run(Drawn(lambda z: unit * student(z)), "auto")) < 2).all())
    aslant = for_run(Drawn(lambda z: unit * turned(funnel(z), 30)), "auto")
    assert "principal axes (" in aslant.notes[-1] or "robust axes (" in aslant.notes[-1]


def test_auto_s_likelihoods_are_those_of_the_fitted_gaussian():
    """The line's numbers for standardize and whiten: the Gaussian of the training moments, diagonal and full."""
    data = Drawn(lambda z: z[:, :2] @ torch.tensor([[3.0, 1.0], [0.0, 2.0]]).double() + 5)
    mean, cov = data.train.mean(0), data.train.T.cov()
    for how, c in (("standardize", cov.diag().diag()), ("whiten", cov)):
        expected = Gaussian(mean, c).log_prob(data.val)
        assert torch.allclose(gaussian_log_prob(preprocessed(data, how).map, data.val), expected, atol=1e-9)
        assert f"{how} {float(expected.mean()):.3f}" in for_run(data, "auto").notes[-1]


@pytest.mark.parametrize("how", ["whiten", "principal", "robust"])
def test_whitening_a_known_gaussian_has_the_log_determinant_of_its_covariance(how):
    """E log |det| = -1/2 log det C for any axes along which all is of unit variance and uncorrelated; the robust ones
    are uncorrelated up to the noise of the scatter."""
    data = Drawn(lambda z: z[:, :2] @ torch.tensor([[300.0, 1.0], [0.0, 2.0]]).double())
    new = preprocessed(data, how)
    expected = -0.5 * float(torch.logdet(data.train.T.cov()))
    tolerance = 1e-9 if how != "robust" else 2e-3
    assert float(new.map.log_det_at(new.test).mean()) == pytest.approx(expected, abs=tolerance)


def test_the_robust_scatter_of_student_data_is_its_scale_matrix():
    """Maximum likelihood at the true degrees of freedom: within 5 standard errors, each about sqrt(2 (d + nu + 2) /
    (n (d + nu))) of an entry."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 5, dtype=torch.float64, generator=g)
    shape = torch.tensor([[4.0, 1.2], [1.2, 1.0]]).double()
    x = z[:, :2] @ torch.linalg.cholesky(shape).T / z[:, 2:].square().mean(1, keepdim=True).sqrt()
    found = student_scatter(x)
    error = 5 * math.sqrt(2 * (2 + 3 + 2) / (len(x) * (2 + 3)))
    assert torch.allclose(found, shape, rtol=0, atol=error * 4)
    assert abs(float(found[1, 1]) - 1) < error and abs(float(found[0, 1]) - 1.2) < 2 * error


def test_the_robust_scatter_of_many_dimensions_is_where_the_mean_weight_is_one():
    """The fixed point of plain EM, S = mean w u u'; plain EM itself takes hundreds of steps to it in 100 dimensions."""
    z = torch.randn(2000, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = student_scatter(z)
    middle = z.median(0).values
    for _ in range(50):
        w = 103 / (3 + squared_distances(z, middle, found))
        middle = w @ z / w.sum()
    u = z - middle
    assert float(w.mean()) == pytest.approx(1, abs=1e-6)
    assert float(((w[:, None] * u).mT @ u / len(z) - found).norm()) < 1e-6 * float(found.norm())


@pytest.mark.parametrize("s, unit", [(0.5, 1.0), (1.0, 1e4), (2.0, 1e-4)])
def test_a_warp_undoes_a_sinh(s, unit):
    """Data s sinh(z / s), z normal: log s is found within 5 standard errors by the likelihood's curvature, and the law
    becomes normal."""
    data = Drawn(lambda z: 3 * unit + unit * s * torch.sinh(z[:, :2] / s))
    found = preprocessed(data, "warp").map.parts[0]
    u = (data.train - found.centre) / unit
    sides = [_likelihood(u, torch.full((2,), s * math.exp(h)).double()).mean(0) for h in (-0.1, 0.0, 0.1)]
    error = ((2 * sides[1] - sides[0] - sides[2]) / 0.01 * len(u)).rsqrt()
    assert bool(((found.s / unit / s).log().abs() < 5 * error).all()) and bool((error < 0.1).all())
    exact = Warp(torch.full((2,), 3 * unit).double(), torch.full((2,), s * unit).double())
    z = exact.forward(data.test)
    normal = torch.distributions.Normal(0.0, unit)
    raw = normal.log_prob(z).sum(1) + exact.log_det_at(z)
    y = (data.test - 3 * unit) / (s * unit)
    closed = (
        torch.distributions.Normal(0.0, 1.0).log_prob(s * torch.asinh(y)) - 0.5 * (y * y + 1).log() - math.log(unit)
    )
    assert torch.allclose(raw, closed.sum(1), atol=1e-9)


def test_log_normal_data_are_a_gaussian_behind_an_asinh_of_small_scale():
    """asinh(x / s) is log x + log(2 / s) for x far above s, so log-normal data become normal with that mean."""
    data, s = Line(scale=0.5, positive=True), 1e-6
    new = Preprocessed(data, Composed((Warp(torch.zeros(2).double(), torch.full((2,), s).double()),)))
    expected = data.law.log_prob(new.test.double() / s - math.log(2 / s)) - 2 * math.log(s)
    assert torch.allclose(new.log_prob(new.test.double()), expected, atol=1e-6)


@pytest.mark.parametrize("steps", [["whiten"], ["standardize", "warp", "whiten"], ["principal", "asinh"]])
def test_the_law_the_score_and_the_modes_of_a_mixture_follow(steps):
    weights = dict(weights=[3.0, 1.0], means=[[-4.0, 0.0], [4.0, 300.0]])
    data = find("dataset", "mixture")(**weights, std=1.5, train=2000, held_out=500, seed=0)
    new = preprocessed(data, steps)
    x = new.test.double()
    raw = new.transform.inverse(x)
    assert torch.allclose(new.log_prob(x), data.log_prob(raw) - new.map.log_det_at(x))
    assert torch.allclose(new.law.log_prob(x), new.log_prob(x))
    step = 1e-5 * torch.eye(2).double()
    slope = [(new.log_prob(x + h) - new.log_prob(x - h)) / 2e-5 for h in step]
    assert torch.allclose(new.score(x), torch.stack(slope, 1), rtol=1e-4, atol=1e-4)
    assert torch.allclose(mixture_of(new).responsibilities(x), data.law.responsibilities(raw))
    assert torch.allclose(new.transform.inverse(mixture_of(new).middles), data.law.means)
    a, b = (law.sample(4000, torch.Generator().manual_seed(3)) for law in (new.law, data.law))
    a = new.transform.inverse(a)
    if new.map.is_linear:  # a Gaussian's factor, and so its draws, are others; moments agree to 5 standard errors
        assert bool(((a.mean(0) - b.mean(0)).abs() < 5 * b.std(0) * (2 / 4000) ** 0.5).all())
        assert torch.allclose(a.T.cov(), b.T.cov(), rtol=0.15, atol=0.15)
    else:
        assert torch.allclose(a, b)


def test_images_and_discrete_values_are_left_or_refused():
    class Bits(Line):
        offers = frozenset({"discrete", "binary"})

    images = Line()
    images.bounds = (-1.0, 1.0)
    for data, kind in ((images, "images"), (Bits(), "discrete values")):
        assert for_run(data, "auto") is data
        with pytest.raises(UserError, match=rf"preprocess=whiten: the data are {kind}.*allowed: none, auto"):
            for_run(data, "whiten")
    flat = Line()
    flat.train = flat.train[:, :1].repeat(1, 2)
    with pytest.raises(UserError, match="preprocess=whiten: a direction has no spread"):
        for_run(flat, "whiten")
    assert "preprocess=auto: left as they are (" in for_run(flat, "auto").notes[-1]
    flat.train = torch.ones(10, 2)
    with pytest.raises(UserError, match="preprocess=auto: all training points are equal"):
        for_run(flat, "auto")


def test_a_map_goes_through_a_checkpoint_and_anything_else_is_refused():
    map = preprocessed(Drawn(funnel), ["standardize", "warp", "whiten", "asinh"]).map
    x = Drawn(funnel).test
    assert torch.equal(parsed(plain(map)).forward(x), map.forward(x))
    for wrong in (
        [{"kind": "os"}],
        [{"kind": "linear", "shift": 1, "w": 2}],
        [{"kind": "monotone", "name": "exec"}],
        [3],
    ):
        with pytest.raises(ValueError, match="not the parts of a map"):
            parsed(wrong)


def test_through_a_linear_map_gaussians_remain_gaussians_and_a_blur_has_its_formula(generator):
    """The law in whitened coordinates is a mixture with covariances A S A', its density is that by the change of
    variables, and a blur of it costs what its own covariances say; a warped one has no such formula."""
    data = make("stretched")
    seen = preprocessed(data, "whiten")
    assert type(seen.law) is GaussianMixture
    x = seen.test[:300].double()
    assert torch.allclose(seen.law.log_prob(x), seen.log_prob(x), atol=1e-7)
    sigma = 0.1
    wide = seen.law.covariances + sigma**2 * torch.eye(2).double()
    blurred_law = GaussianMixture(seen.law.weights, seen.law.means, covariances=wide)
    cost = blur_gap(seen, x, sigma, generator)
    assert cost.nats == pytest.approx(float((seen.law.log_prob(x) - blurred_law.log_prob(x)).mean()), abs=1e-6)
    assert cost.nats < 0.2, "in the raw units the same sigma would cost nats"
    warped = preprocessed(make("mixture"), ("standardize", "asinh"))
    assert blurred(warped.law, sigma) is None
