"""Pictures of discrete data: lattices of categories, bits that stand for points of the plane, filters."""

import pytest
import torch

from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.registry import build
from ebm_lab.distributions.start import start_law
from ebm_lab.energies.rbm import RBM
from ebm_lab.evaluation._shown import PALEST, as_images, as_points, in_plane
from ebm_lab.evaluation.filters import Filters
from ebm_lab.evaluation.samples import Samples
from tests.helpers import Discrete, Drift, Points


def one_hot(*sites, k=3, n=20):
    which = torch.randint(k, (n, *sites), generator=torch.Generator().manual_seed(0))
    return which, torch.nn.functional.one_hot(which, k).movedim(-1, 1).float()


def view(data, samples, energy=lambda x: x.flatten(1).sum(1)):
    seen = EvalView(energy, data, "test", Drift(), len(samples), 10, torch.Generator().manual_seed(1))
    seen.start = start_law(data)
    vars(seen)["trajectory"] = [(0, samples), (1, samples)]
    return seen


def test_a_lattice_of_categories_is_shown_as_grey_levels():
    which, x = one_hot(5, 4)
    shown = as_images(x, Discrete(x, one_hot=True))
    assert shown is not None and torch.equal(shown.pixels[:, 0], which.float())
    assert shown.bounds == pytest.approx((0, PALEST * 2))
    report = Samples(shown=4, frames=2)(view(Discrete(x, one_hot=True), x))
    picture = report.images["samples"]
    assert set(report.images) == {"samples", "chains"}
    greys = {round(255 * level / (PALEST * 2)) for level in (0, 1, 2)}
    assert set(picture.unique().tolist()) == greys | {255}, "three levels and white gaps"


def test_bits_are_shown_as_images_and_vectors_are_not():
    x = (torch.rand(20, 1, 4, 4) < 0.5).float()
    assert as_images(x, Discrete(x)) is not None and as_points(x, Discrete(x)) is None
    flat, (_, vector) = x.flatten(1), one_hot(6)
    for data in (Discrete(flat), Discrete(vector, one_hot=True)):
        assert as_images(data.train, data) is None and as_points(data.train, data) is None
        assert Samples(shown=4, frames=2)(view(data, data.train)).images == {}
    points = torch.randn(20, 2)
    assert as_images(points, Points(points)) is None and as_points(points, Points(points)) is points
    grey = torch.rand(20, 1, 4, 4)
    shown = as_images(grey, Points(grey, bounds=(0.0, 1.0)))
    assert shown is not None and shown.pixels is grey and shown.bounds == (0.0, 1.0)


def test_bits_of_the_plane_are_shown_as_its_points():
    values = {"name": "gray_code", "toy": "two_moons", "bits": 16, "train": 100, "held_out": 200, "seed": 0}
    data = build("dataset", values)
    shown = in_plane(data.test, data)
    assert shown is not None and torch.equal(shown, data.points(data.test))
    report = Samples(shown=4, frames=2)(view(data, data.val))
    assert report.images["samples"].shape[0] == 3 and "chains" not in report.images


def test_filters_are_drawn_from_the_longest_to_the_shortest():
    """Three hidden units; the second is the longest, the first 0.05 of it: it counts as short."""
    data = Discrete((torch.rand(20, 1, 2, 2) < 0.5).float())
    rbm = RBM(data, hidden=3, weight_std=0.1)
    with torch.no_grad():
        rbm.w.copy_(torch.tensor([[0.05, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, -0.5]]))
    evaluation = Filters(shown=2)
    assert reason_against(evaluation, view(data, data.train, rbm)) is None and evaluation.silent
    report = evaluation(view(data, data.train, rbm))
    assert report.metrics == {"filters": 3.0, "filters_short": 1.0}
    picture = report.images["filters"][0]
    side = picture.shape[1] // 2
    first, second = picture[:, :side], picture[:, side:]
    assert int(first[first < 255].float().median()) == 128 and int((first == 255).sum()) > int((second == 255).sum())
    assert int(second.min()) == round(255 * 0.25) and int(first.min()) == 128, "grey is 0, and 1 is white"


def test_who_has_no_filters():
    images = Discrete((torch.rand(20, 1, 2, 2) < 0.5).float())
    line = "the energy has no hidden units with a weight for each pixel, as energy=rbm has"
    assert reason_against(Filters(shown=2), view(images, images.train)) == line
    flat = Discrete(images.train.flatten(1))
    rbm = RBM(flat, hidden=3, weight_std=0.1)
    assert "no images" in str(reason_against(Filters(shown=2), view(flat, flat.train, rbm)))
