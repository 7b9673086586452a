"""Your own rows as bits or categories: what is recognised, what has to be asked for, and what is refused."""

import numpy as np
import pytest
import torch
import yaml

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import build
from ebm_lab.runs.checks import check_data
from ebm_lab.runs.run_directory import RunDir
from tests.datasets.test_labelled_tables import SETTINGS, write

G = np.random.default_rng(0)
BITS, THREE = G.integers(0, 2, (60, 4)), np.concatenate([[[0, 1, 2]], G.integers(0, 3, (59, 3))])

GAPS = "0, 1, 2, 3, 4, 5 and 244 more"


def array(folder, rows, **changes):
    np.save(folder / "x.npy", rows)
    values = {**SETTINGS, "val": 0.1, "test": 0.2, "seed": 0, "scaling": "standardize"}
    return build("dataset", {"name": "array", "path": str(folder / "x.npy"), **values, **changes})


def everything(data):
    return torch.cat([data.train, data.val, data.test])


def sorted_rows(x):
    return sorted(map(tuple, torch.as_tensor(x).flatten(1).tolist()))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float64])
@pytest.mark.parametrize("space", ["auto", "binary"])
def test_zeros_and_ones_are_bits_as_they_are(space, dtype, tmp_path):
    data = array(tmp_path, BITS.astype(dtype), space=space)
    assert data.space == "binary" and data.train.dtype == torch.float32
    assert sorted_rows(everything(data)) == sorted_rows(BITS.astype(float))
    assert data.found_features() == {"binary", "discrete"} and data.bounds is None and data.precise is None
    assert data.log_prob(data.val) is None and data.score(data.val) is None
    assert torch.equal(data.transform.inverse(data.val), data.val)
    told = [n for n in data.notes if "dataset.space" in n]
    assert told == (
        ["all values are 0 or 1, so they are bits; dataset.space=continuous takes them as real numbers"]
        if space == "auto"
        else []
    )
    check_data(data, {"dataset": {"name": "array"}})


def test_bits_may_be_real_numbers_if_you_say_so(tmp_path):
    data = array(tmp_path, BITS, space="continuous")
    assert data.space == "continuous" and "continuous" in data.found_features()
    assert float(data.train.mean()) == pytest.approx(0, abs=1e-6)
    assert any("points on a grid" in note for note in data.notes)
    spread = array(tmp_path, BITS, space="auto", dequantise=True)
    assert spread.space == "continuous" and len(spread.train.unique()) > 100


@pytest.mark.parametrize("channels, bounds", [(1, (0.0, 1.0)), (3, (0.0, 1.0)), (2, None)])
def test_black_and_white_pictures_have_bounds(channels, bounds, tmp_path):
    data = array(tmp_path, G.integers(0, 2, (30, channels, 4, 4)))
    assert data.space == "binary" and data.bounds == bounds and data.event_shape == (channels, 4, 4)


@pytest.mark.parametrize(
    "rows, noted",
    [
        (THREE, "all values are whole numbers from 0 to 2, taken as real numbers; dataset.space=categorical takes"),
        (np.arange(160).reshape(-1, 2) % 16, "whole numbers from 0 to 15"),
        (np.arange(170).reshape(-1, 2) % 17, None),
        (THREE + 1, None),
        (THREE * 0.5, None),
        (2 * BITS, None),
    ],
)
def test_other_whole_numbers_stay_real_and_few_are_noted(rows, noted, tmp_path):
    data = array(tmp_path, rows)
    assert data.space == "continuous" and data.train.shape[1:] == rows.shape[1:]
    told = [n for n in data.notes if "dataset.space" in n]
    assert (noted in told[0]) if noted else not told


def test_categories_are_one_hot_along_the_first_axis(tmp_path):
    """(n, *shape) becomes (n, K, *shape), and the largest entry along K is the value."""
    data = array(tmp_path, THREE, space="categorical")
    assert data.space == "categorical" and data.event_shape == (3, 3) and data.bounds is None
    assert bool((everything(data).sum(1) == 1).all())
    assert sorted_rows(everything(data).argmax(1)) == sorted_rows(THREE)
    assert data.found_features() == {"discrete"} and not [n for n in data.notes if "dataset.space" in n]
    grid = array(tmp_path, np.full((20, 5, 6), 250) + np.arange(6), space="categorical")
    assert grid.event_shape == (256, 5, 6)
    assert grid.notes == ["dataset.space=categorical: 256 categories, 0 to 255, and no row holds " + GAPS]
    two = array(tmp_path, BITS, space="categorical")
    assert two.space == "categorical" and two.event_shape == (2, 4)


def test_labels_and_rows_outside_go_with_discrete_rows(tmp_path):
    text = "a,b,kind\n" + "".join(f"{a},{b},{'xyz'[i % 3]}\n" for i, (a, b) in enumerate(BITS[:, :2]))
    values = {**SETTINGS, "val": 0.1, "test": 0.2, "seed": 0, "path": str(write(tmp_path, text))}
    data = build("dataset", {"name": "array", **values, "label": "kind", "classes": ["x", "y"]})
    assert data.space == "binary" and data.column_names == ["a", "b"] and data.class_names == ["x", "y", "z"]
    assert sorted_rows(data.outside) == sorted_rows(BITS[2::3, :2].astype(float))
    one_hot = build("dataset", {"name": "array", **values, "label": "kind", "space": "categorical", "classes": ["x"]})
    assert one_hot.outside.shape == (40, 2, 2) and one_hot.column_names == ["a", "b"]


@pytest.mark.parametrize(
    "rows, changes, line",
    [
        (
            THREE,
            {"space": "binary"},
            r"dataset.space=binary: .*x.npy holds 2 in row 0 in coordinate.s. .2.; allowed: 0",
        ),
        (BITS - 0.5, {"space": "binary"}, r"dataset.space=binary: .* holds -?0.5 in row 0 .*allowed: 0 and 1"),
        (THREE - 1, {"space": "categorical"}, r"=categorical: .* holds -1 in row 0 .*: whole numbers from 0 to at"),
        (THREE + 0.25, {"space": "categorical"}, r"dataset.space=categorical: .* holds 0.25 in row 0"),
        (THREE * 128, {"space": "categorical"}, r"=categorical: .* holds 256 in row 0 in coordinate.s. .2."),
        (0 * BITS, {"space": "categorical"}, r"dataset.space=categorical: .* holds nothing but 0"),
        (BITS, {"space": "binary", "dequantise": True}, r"dataset.dequantise=true: .*=binary.*allowed: false"),
        (
            THREE,
            {"space": "categorical", "dequantise": True},
            r"dataset.dequantise=true: .*=categorical.*allowed: false",
        ),
        (BITS, {"space": "bits"}, r"dataset.space=bits: should be 'auto', 'continuous', 'binary' or 'categorical'"),
    ],
)
def test_a_mistake_is_one_line(rows, changes, line, tmp_path):
    with pytest.raises(UserError, match=line) as caught:
        array(tmp_path, rows, **changes)
    assert len(str(caught.value).splitlines()) == 1


def test_the_domain_follows_from_the_rows(tmp_path):
    """A perceptron for points, a convolution for pictures; bits have the domain of discrete data, pictures or not."""
    from omegaconf import OmegaConf

    from ebm_lab.cli.settle import look

    for name, rows, domain in (
        ("points", G.normal(size=(50, 3)), "points"),
        ("pictures", G.normal(size=(50, 1, 8, 8)), "images"),
        ("bits", BITS, "discrete"),
        ("black", G.integers(0, 2, (50, 1, 8, 8)), "discrete"),
    ):
        at = tmp_path / f"{name}.npy"
        np.save(at, rows)
        values = {"name": "array", "path": str(at), **SETTINGS, "val": 0.1, "test": 0.1, "seed": 0}
        assert look(OmegaConf.create({"dataset": values})) == domain
        if domain in ("points", "images"):
            config = compose_config(["dataset=array", f"dataset.path={at}", "objective=pcd", "logger=none"])
            assert config["energy"]["name"] == {"points": "mlp", "images": "conv"}[domain]
            assert config["dataset"]["space"] == "auto"


def test_a_run_from_before_the_setting_has_continuous_data(tmp_path):
    """Its rows may have been zeros and ones, and it was trained on real numbers."""
    old = {k: v for k, v in SETTINGS.items() if k != "space"}
    run = RunDir(tmp_path)
    run.config_file.write_text(yaml.safe_dump({"dataset": {"name": "array", "path": "x.npy", **old}}))
    assert run.read_config()["dataset"]["space"] == "continuous"


class Given(Dataset):
    def __init__(self, train, space):
        self.train, self.val, self.test, self.space = train, train[:2], train[:2], space


def test_data_are_checked_by_their_space():
    """A constant bit is no fault; values off the space and equal points are, without advice for real numbers."""
    config = {"dataset": {"name": "given", "scaling": "none"}}
    bits = torch.tensor([[0.0, 1, 1], [1, 1, 0], [0, 1, 0]])
    check_data(Given(bits, "binary"), config)
    check_data(Given(torch.stack([bits, 1 - bits], 1), "categorical"), config)
    for x, space, line in (
        (bits / 2, "binary", "dataset=given: 'train' holds 0.5, and binary data are zeros and ones"),
        (bits * 2, "categorical", "dataset=given: 'train' holds 2, and categorical data are zeros and ones"),
        (torch.stack([bits, bits], 1), "categorical", "dataset=given: 'train' is not one-hot along its first axis"),
        (bits[[0, 0, 0]], "binary", "dataset=given: all training points are equal$"),
    ):
        with pytest.raises(UserError, match=line):
            check_data(Given(x, space), config)
