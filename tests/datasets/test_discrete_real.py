"""Real pictures in black and white: digits cut at a grey level, and MNIST with grey levels as probabilities."""

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.training.batches import Batches
from tests.datasets.test_datasets_real import write_idx
from tests.datasets.test_datasets_synthetic import make


def mnist(folder, **changes):
    values = {"root": str(folder), "download": False, "val": 5, "seed": 0, "classes": None, "binarise": "static"}
    return build("dataset", {"name": "binary_mnist", **values, **changes})


@pytest.fixture
def folder(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", n_train=40, n_test=20)
    return tmp_path


@pytest.mark.parametrize("threshold", [1, 8, 16])
def test_binary_digits_are_the_digits_cut_at_a_grey_level(threshold):
    """Row by row, split by split and label by label those of `digits`."""
    data, grey = make("binary_digits", threshold=threshold), make("digits")
    for split in ("train", "val", "test"):
        raw = grey.transform.inverse(getattr(grey, split))
        assert torch.equal(getattr(data, split), (raw >= threshold).float())
        assert torch.equal(data.labels[split], grey.labels[split])
    assert data.space == "binary" and data.bounds == (0.0, 1.0) and data.event_shape == (1, 8, 8)
    assert data.found_features() == {"binary", "discrete", "images", "classes"}
    assert data.log_prob(data.val) is None and data.score(data.val) is None


def test_binary_digits_leave_classes_outside():
    data, grey = make("binary_digits", classes=[0, 1]), make("digits", classes=[0, 1])
    assert torch.equal(data.outside, (grey.transform.inverse(grey.outside) >= 8).float())
    assert set(torch.cat([*data.labels.values()]).tolist()) == {0, 1}


@pytest.mark.parametrize("threshold", [0, 17])
def test_a_threshold_that_is_no_grey_level_is_refused(threshold):
    with pytest.raises(UserError, match=f"dataset.threshold={threshold}: should be"):
        make("binary_digits", threshold=threshold)


def test_binary_mnist_draws_each_pixel_by_its_grey_level(folder):
    """The bits minus the grey levels have mean zero within 4 standard errors in four ranges of grey levels; 0 and 255
    are certain; splits, labels and rows outside are those of `mnist`."""
    values = {"root": str(folder), "download": False, "val": 5, "seed": 0, "classes": [0, 1, 2, 3]}
    data, grey = mnist(folder, classes=[0, 1, 2, 3]), build("dataset", {"name": "mnist", **values})
    parts = [(getattr(data, s), getattr(grey, s)) for s in ("train", "val", "test", "outside")]
    assert all(x.shape == y.shape and x.dtype == torch.float32 for x, y in parts)
    assert all(torch.equal(data.labels[s], grey.labels[s]) for s in data.labels)
    bits, p = torch.cat([x for x, _ in parts]).double(), torch.cat([(y.double() + 1) / 2 for _, y in parts])
    assert bool(((bits == 0) | (bits == 1)).all())
    assert bool((bits[p == 0] == 0).all()) and bool((bits[p > 0.9999] == 1).all())
    for low in (0.0, 0.25, 0.5, 0.75):
        within = (p >= low) & (p < low + 0.25)
        error = (p[within] * (1 - p[within])).sum().sqrt() / int(within.sum())
        assert abs(float((bits - p)[within].mean())) < 4 * error
    assert data.space == "binary" and data.bounds == (0.0, 1.0) and data.bit_probabilities is None
    assert torch.equal(data.transform.inverse(data.val), data.val)


def test_a_row_s_draw_depends_on_the_seed_alone(folder):
    """The same bits whatever the held-out part and the classes; another seed gives others."""

    def rows(data):
        return {tuple(x) for s in ("train", "val", "test") for x in getattr(data, s).flatten(1).tolist()}

    everything = rows(mnist(folder))
    assert rows(mnist(folder, val=11)) == everything and len(everything) == 60
    assert rows(mnist(folder, classes=[2, 5])) < everything
    assert not rows(mnist(folder, seed=1)) & everything
    assert torch.equal(mnist(folder, binarise="dynamic").test, mnist(folder).test)


def test_dynamic_bits_are_drawn_anew_at_each_step_and_alike_in_every_division(folder):
    """Over 400 steps of the whole split a bit's mean is its grey level: within 6 standard errors, for there are 27,000
    bits, where it is far from 0 and 1. The batch of a step is the same for two processes and two parts; static batches
    are rows of the split."""
    data, static = mnist(folder, binarise="dynamic"), mnist(folder)
    assert torch.equal(data.train, static.train)
    assert torch.equal(data.to(torch.device("cpu")).bit_probabilities, data.bit_probabilities)
    whole, p = Batches(data, 35, seed=0), data.bit_probabilities
    mean = torch.zeros_like(p)
    for step in range(1, 401):
        mean[whole.indices(step)] += whole(step)[0].x / 400
    z = (mean - p) / (p * (1 - p) / 400).sqrt()
    assert float(z[(p > 0.1) & (p < 0.9)].abs().max()) < 6
    assert bool((mean[p == 0] == 0).all()) and bool((mean[p == 1] > 0.9999).all())
    one = whole(3)[0]
    assert torch.equal(one.x, Batches(data, 35, seed=0)(3)[0].x) and not torch.equal(one.x, whole(4)[0].x)
    assert torch.equal(one.y, data.labels["train"][whole.indices(3)])
    small = Batches(data, 12, seed=0)(2)[0].x
    shares = [Batches(data, 12, 0, parts=2, share=share, among=2)(2) for share in (0, 1)]
    assert torch.equal(torch.cat([b.x for share in shares for b in share]), small)
    batches = Batches(static, 12, seed=0)
    assert torch.equal(batches(2)[0].x, static.train[batches.indices(2)])
    data.train = data.train[:20]  # max_train
    assert Batches(data, 20, seed=0)(1)[0].x.shape == (20, 1, 28, 28)


def test_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"dataset.root=.*: MNIST is not there"):
        mnist(tmp_path)
