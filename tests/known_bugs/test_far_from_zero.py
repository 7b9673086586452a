"""Kind: data whose size hides their spread (far from zero, huge, tiny, constant), where a cast to float32 or a division
by a standard deviation loses them without a word."""

import math

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.tools import sample
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.core.transforms import Affine
from tests.runs.test_resume import QUICK

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(600, 2))


def array(folder, rows, **changes):
    np.save(folder / "x.npy", rows)
    plain = {"key": None, "label": None, "classes": None, "dequantise": False, "space": "continuous"}
    values = {**plain, "scaling": "standardize", "val": 0.1, "test": 0.1, "seed": 0, **changes}
    return build("dataset", {"name": "array", "path": str(folder / "x.npy"), **values})


def run(folder, rows, *more):
    np.save(folder / "x.npy", rows)
    points = ["dataset=array", f"dataset.path={folder / 'x.npy'}", "energy=mlp", "energy.hidden=[8]"]
    return ebm_lab.train([*points, *QUICK_DSM, f"output_dir={folder}", *more], quiet=True)


QUICK_DSM = [
    *(o for o in QUICK if not o.startswith(("dataset", "energy"))),
    *("objective=dsm", "steps=2", "batch_size=64", "evaluation=[]"),
]


@pytest.mark.parametrize("far", [0.0, 1.7e9, -1e10])
def test_the_inverse_of_standardised_rows_gives_every_row_back(far, tmp_path):
    """float32 keeps standardised values to 6e-8 of a standard deviation, times at most 4 of them."""
    data = array(tmp_path, NORMAL + far)
    back = torch.cat([data.transform.inverse(getattr(data, s)) for s in ("train", "val", "test")])
    assert back.dtype == torch.float64 and len(back[:, 0].unique()) == 600
    rows = torch.from_numpy(NORMAL + far)
    torch.testing.assert_close(back.sort(0).values, rows.sort(0).values, rtol=0, atol=1e-6 + 1e-15 * abs(far))


def test_samples_of_rows_far_from_zero_are_written_in_float64(tmp_path):
    result = run(tmp_path, NORMAL + 1.7e9, "sample_steps=5")
    sample(run=str(result.path), n=50, device="cpu")
    drawn = np.load(result.path / "samples" / "samples.npy")
    assert drawn.dtype == np.float64 and len(np.unique(drawn[:, 0])) == 50
    assert abs(drawn.mean() - 1.7e9) < 10 and 0.1 < drawn.std() < 10


def test_samples_of_unscaled_rows_are_written_in_float64(tmp_path):
    result = run(tmp_path, NORMAL, "sample_steps=5", "dataset.scaling=none")
    sample(run=str(result.path), n=5, device="cpu")
    assert np.load(result.path / "samples" / "samples.npy").dtype == np.float64


def test_a_float32_transform_keeps_float32_as_images_have_it():
    t = Affine(torch.tensor(127.5), torch.tensor(127.5))
    assert t.inverse(torch.zeros(2, 1, 2, 2)).dtype == torch.float32


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300])
def test_scales_whose_squares_leave_float64_are_standardised_all_the_same(size, tmp_path):
    """std(c x) = c std(x), and log_det(c x) = log_det(x) - d log c."""
    data, plain = array(tmp_path, NORMAL * size), array(tmp_path, NORMAL)
    torch.testing.assert_close(data.train, plain.train, rtol=1e-5, atol=1e-6)
    expected = plain.transform.log_det((2,)) - 2 * math.log(size)
    assert data.transform.log_det((2,)) == pytest.approx(expected, rel=1e-9)


def test_the_standard_deviation_is_that_of_torch_to_the_bit(tmp_path):
    rows = NORMAL * [3.0, 700.0] + [5.0, -20.0]
    data, raw = array(tmp_path, rows), torch.from_numpy(rows)
    train = raw[torch.cdist(data.transform.inverse(data.train), raw).argmin(1)]
    assert torch.equal(data.transform.scale, train.std(0)) and torch.equal(data.transform.shift, train.mean(0))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.full(600, 5.0), r"coordinate\(s\) \[1\] never change"),
        (np.full(600, 0.1), r"coordinate\(s\) \[1\] never change"),
        (1e9 + 1e-7 * NORMAL[:, 0], r"coordinate\(s\) \[1\] vary too little"),
        (2.0**53 + np.arange(600) % 2 * 2, r"coordinate\(s\) \[1\] vary too little"),
        (1e300 + 1e284 * NORMAL[:, 0], r"coordinate\(s\) \[1\] vary too little"),
    ],
)
def test_a_coordinate_without_a_standard_deviation_to_scale_by_is_refused(column, message, tmp_path):
    with pytest.raises(UserError, match=f"dataset.path=.*x.npy: {message}") as refused:
        array(tmp_path, np.stack([NORMAL[:, 1], column], 1))
    assert len(str(refused.value).splitlines()) == 1


def test_one_training_row_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dataset.path=.*: one training row has no standard deviation"):
        array(tmp_path, NORMAL[:3], val=0.3, test=0.3)
    with pytest.raises(UserError, match="dataset=array: one training point has no spread"):
        run(tmp_path, NORMAL[:3], "dataset.scaling=none", "dataset.val=0.3", "dataset.test=0.3")
    with pytest.raises(UserError, match="dataset=array: one training point has no spread"):
        run(tmp_path, NORMAL, "max_train=1")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (NORMAL + 1.7e9, "dataset=array: .*dataset.scaling=none: choose dataset.scaling=standardize"),
        (NORMAL + np.array([0, 1.7e9]), r"coordinate\(s\) \[1\] lie so far .*choose dataset.scaling=standardize"),
        (NORMAL + np.array([1e5, 0]), r"coordinate\(s\) \[0\] lie so far .*choose dataset.scaling=standardize"),
        (NORMAL * 1e-30, "scale is .*e-31?.*choose dataset.scaling=standardize"),
        (NORMAL * 1e30, "scale is .*choose dataset.scaling=standardize"),
        (NORMAL * 1e60, "dataset.scaling=none: .* beyond 3.4e38.*choose dataset.scaling=standardize"),
        (NORMAL * 0 + 3, "all training points are equal"),
    ],
)
def test_unscaled_rows_that_float32_cannot_work_with_are_refused_before_training(rows, message, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        run(tmp_path, rows, "dataset.scaling=none", "preprocess=none")
    assert len(str(refused.value).splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_unscaled_rows_of_ordinary_size_are_taken(tmp_path):
    for rows in (NORMAL + 1e3, NORMAL * 1e-3, NORMAL * 1e4, np.stack([NORMAL[:, 0], np.full(600, 2.0)], 1)):
        assert run(tmp_path, rows, "dataset.scaling=none").status == "finished"


def test_equal_pictures_are_refused(tmp_path):
    from PIL import Image

    for i in range(10):
        Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / f"{i}.png")
    values = ["dataset=image_folder", f"dataset.path={tmp_path}", "dataset.size=8", "dataset.channels=1"]
    with pytest.raises(UserError, match="dataset=image_folder: all training points are equal"):
        ebm_lab.train([*values, "objective=dsm", "logger=none", f"output_dir={tmp_path}"], quiet=True)
