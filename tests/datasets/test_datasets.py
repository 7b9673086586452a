"""Data sets: their density against an independent integral, and their splits."""

import math

import numpy as np
import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.datasets._splits import split_indices

MOONS = {"name": "two_moons", "noise": 0.15, "train": 20000, "held_out": 10000, "seed": 0}
GAUSSIAN = {"name": "gaussian", "dim": 3, "mean": 1.0, "std_min": 0.5, "std_max": 1.5, "correlation": 0.5}
SIZES = {"train": 20000, "held_out": 1000, "seed": 0}


def array(path, **more):
    return build(
        "dataset",
        {"name": "array", "path": str(path), "key": None, "scaling": "standardize", **UNLABELLED, **FRACTIONS, **more},
    )


FRACTIONS = {"val": 0.1, "test": 0.2, "seed": 0}
UNLABELLED = {"label": None, "classes": None, "space": "auto", "dequantise": False}


def test_two_moons_density_is_a_density_and_is_that_of_its_samples():
    """It integrates to 1 within 1e-4, and a chi-squared test over a grid of cells accepts the samples (99.9 %)."""
    data = build("dataset", MOONS)
    axis = torch.linspace(-4, 4, 401).double()
    nodes = torch.cartesian_prod(axis, axis)
    p = data.log_prob(nodes).exp().view(401, 401)
    assert float(p.sum()) * 0.02**2 == pytest.approx(1.0, abs=1e-4)
    mass = p[:-1, :-1].unfold(0, 20, 20).unfold(1, 20, 20).sum((2, 3)) * 0.02**2
    cells = ((data.train + 4) / 0.4).long()
    counts = torch.zeros(20, 20).index_put_((cells[:, 0], cells[:, 1]), torch.ones(len(cells)), accumulate=True)
    # The summed cells lie half a node from the counted ones: compare well filled cells, at 5 sigma + 20 %.
    big = mass * len(data.train) > 200
    expected = (mass * len(data.train))[big]
    assert ((counts[big] - expected).abs() < 5 * expected.sqrt() + 0.2 * expected).all()


def test_two_moons_log_prob_agrees_with_adaptive_quadrature():
    """To 1e-3 nats, on and off the curves, against scipy's integrator."""
    from scipy.integrate import quad

    data = build("dataset", MOONS)
    points = torch.cat([data.test[:20], torch.tensor([[0.0, 0.0], [2.5, 0.4], [0.0, 1.6]])])
    found = data.log_prob(points)
    for x, log_p in zip(points.double().tolist(), found.tolist(), strict=True):

        def moon_density(t, sign, x=x):
            c = (math.cos(t), math.sin(t)) if sign else (1 - math.cos(t), 0.5 - math.sin(t))
            r2 = (x[0] - 1.5 * (c[0] - 0.5)) ** 2 + (x[1] - 1.5 * (c[1] - 0.25)) ** 2
            return math.exp(-r2 / (2 * 0.15**2)) / (2 * math.pi * 0.15**2) / math.pi / 2

        value = sum(quad(moon_density, 0, math.pi, args=(s,), limit=400, epsabs=0, epsrel=1e-8)[0] for s in (0, 1))
        assert log_p == pytest.approx(math.log(value), abs=1e-3)


def test_two_moons_entropy_is_the_known_one():
    """The expected log-likelihood of these moons is -1.828 nats; 10,000 points give a standard error of 0.008."""
    data = build("dataset", MOONS)
    assert float(data.log_prob(data.test).mean()) == pytest.approx(-1.828, abs=0.03)


def test_gaussian_has_the_covariance_it_names():
    data = build("dataset", {**GAUSSIAN, **SIZES})
    std = torch.tensor([0.5, 1.0, 1.5])
    expected = torch.outer(std, std) * (0.5 + 0.5 * torch.eye(3))
    torch.testing.assert_close(data.train.T.cov(), expected, atol=0.06, rtol=0)
    torch.testing.assert_close(data.train.mean(0), torch.ones(3), atol=0.05, rtol=0)
    entropy = 1.5 * (1 + math.log(2 * math.pi)) + 0.5 * float(expected.logdet())
    assert -float(data.log_prob(data.train).mean()) == pytest.approx(entropy, abs=0.03)


def test_data_do_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    a = build("dataset", MOONS)
    torch.manual_seed(2)
    b = build("dataset", MOONS)
    assert torch.equal(a.train, b.train) and not torch.equal(a.train, build("dataset", {**MOONS, "seed": 1}).train)
    assert not torch.equal(a.val, a.test)


def test_digits_are_real_and_split_without_overlap():
    data = build("dataset", {"name": "digits", "val": 0.15, "test": 0.15, "seed": 0, "classes": None})
    parts = [data.train, data.val, data.test]
    assert sum(map(len, parts)) == 1797 and data.event_shape == (1, 8, 8)
    assert data.train.min() == -1 and data.train.max() == 1
    assert [len(x) for x in parts] == [len(data.labels[s]) for s in ("train", "val", "test")]
    raw = data.transform.inverse(data.train)
    assert torch.equal(raw, raw.round()) and raw.max() == 16
    parts = split_indices(1797, 0.15, 0.15, 0)
    assert len(torch.cat(list(parts.values())).unique()) == 1797


def test_array_round_trips_and_keeps_its_log_det(tmp_path):
    """log p_raw(raw) = log p(x) + log_det: for a standard normal x the raw density is N(mean, std^2)."""
    rows = np.random.default_rng(0).normal(5, [1, 10, 100], (500, 3))
    np.save(tmp_path / "x.npy", rows)
    data = array(tmp_path / "x.npy")
    everything = torch.cat([data.train, data.val, data.test])
    assert len(everything) == 500 and len(data.test) == 100
    torch.testing.assert_close(data.train.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.std(0), torch.ones(3), atol=1e-4, rtol=0)
    back = data.transform.inverse(everything.double()).sum(1).sort().values
    torch.testing.assert_close(back, torch.as_tensor(rows).sum(1).sort().values, rtol=1e-5, atol=1e-3)
    x, normal = data.test.double(), torch.distributions.Normal(0.0, 1.0)
    raw_law = torch.distributions.Normal(data.transform.shift, data.transform.scale)
    raw = raw_law.log_prob(data.transform.inverse(x)).sum(1)
    torch.testing.assert_close(raw, normal.log_prob(x).sum(1) + data.transform.log_det((3,)))


def test_array_reads_npz_and_csv(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    np.savez(tmp_path / "one.npz", rows)
    np.savez(tmp_path / "two.npz", a=rows, b=rows[:, :1])
    (tmp_path / "named.csv").write_text("alpha;beta\n" + "\n".join(";".join(map(str, r)) for r in rows))
    (tmp_path / "bare.csv").write_text("\n".join(",".join(map(str, r)) for r in rows))
    expected = array(tmp_path / "one.npz").train
    for data in (array(tmp_path / "two.npz", key="a"), array(tmp_path / "named.csv"), array(tmp_path / "bare.csv")):
        torch.testing.assert_close(data.train, expected)
    with pytest.raises(UserError, match="holds 2 arrays; name one: a, b"):
        array(tmp_path / "two.npz")
    with pytest.raises(UserError, match="dataset.key=c: not an option; allowed: a, b"):
        array(tmp_path / "two.npz", key="c")


def test_array_refuses_what_is_no_data(tmp_path):
    rows = np.ones((50, 2))
    rows[:, 0] = np.arange(50)
    cases = {
        "bad.npy": (np.where(rows == 7, np.nan, rows), "1 row\\(s\\) hold nan or inf, the first is row 7"),
        "flat.npy": (rows, "coordinate\\(s\\) \\[1\\] never change"),
        "few.npy": (rows[:2], "leave a split empty"),
        "none.npy": (rows[:0], "holds no rows"),
    }
    for name, (values, message) in cases.items():
        np.save(tmp_path / name, values)
        with pytest.raises(UserError, match=message):
            array(tmp_path / name)
    (tmp_path / "words.csv").write_text("a,b\n1,x\n")
    with pytest.raises(UserError, match="can't be read as numbers"):
        array(tmp_path / "words.csv")
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(UserError, match="can't read '.txt' files; allowed: .npy, .npz, .csv"):
        array(tmp_path / "x.txt")


def test_classes_split_the_whole_in_two():
    """Every image of the kept classes stays in its own split, every test image of the others is outside, none is in
    both and none is lost."""
    values = {"name": "digits", "val": 0.15, "test": 0.15, "seed": 0}
    whole = build("dataset", {**values, "classes": None})
    kept = build("dataset", {**values, "classes": [7, 0, 3]})
    rest = build("dataset", {**values, "classes": [1, 2, 4, 5, 6, 8, 9]})
    assert whole.outside is None and build("dataset", {**values, "classes": list(range(10))}).outside is None
    for split in ("train", "val", "test"):
        inside = torch.isin(whole.labels[split], torch.tensor([0, 3, 7]))
        assert torch.equal(getattr(kept, split), getattr(whole, split)[inside])
        assert torch.equal(kept.labels[split], whole.labels[split][inside])
        assert sorted(kept.labels[split].unique().tolist()) == [0, 3, 7]
    assert torch.equal(kept.outside, rest.test) and torch.equal(rest.outside, kept.test)
    assert len(kept.outside) + len(kept.test) == len(whole.test)
    rows = torch.cat([kept.train, kept.val, kept.test, kept.outside]).flatten(1)
    assert len(rows) == len(kept.train) + len(kept.val) + len(whole.test)
    assert (
        float(torch.cdist(kept.outside.flatten(1), torch.cat([kept.train, kept.val, kept.test]).flatten(1)).min()) > 0
    )


def test_classes_that_are_none_are_one_line():
    values = {"name": "digits", "val": 0.15, "test": 0.15, "seed": 0}
    for classes, line in (
        ([3, 12], r"dataset.classes=\[3, 12\]: no image has the label 12; allowed: \[0, 1, .*9\]"),
        ([], r"dataset.classes=\[\]: list should have at least 1 item"),
        ([-1], "dataset.classes=.*should be greater than or equal to 0"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            build("dataset", {**values, "classes": classes})
        assert len(str(caught.value).splitlines()) == 1


def test_a_run_from_before_there_were_classes_keeps_all_of_them(tmp_path):
    """Its config lacks the setting, and is read with what it did; one that has it keeps its own."""
    from ebm_lab.runs.run_directory import RunDir

    run = RunDir(tmp_path)
    old = {"name": "digits", "val": 0.15, "test": 0.15, "seed": 0}
    for given, read in ((old, {**old, "classes": None}), ({**old, "classes": [1, 2]}, {**old, "classes": [1, 2]})):
        run.write_config({"dataset": given, "seed": 3})
        config = run.read_config()
        assert config["dataset"] == read and config["seed"] == 3
    run.write_config({"dataset": MOONS})
    assert run.read_config()["dataset"] == MOONS
