"""Tables as users have them: labels, whole numbers, missing values, and rows of a class left out as anomalies."""

import csv
import math

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.tools import sample
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.registry import build
from ebm_lab.datasets._grids import spread, steps_of
from ebm_lab.datasets._preprocessed import preprocessed
from ebm_lab.datasets._splits import split_indices

G = np.random.default_rng(0)
ROWS = G.normal(size=(200, 2)).round(4)
KIND = np.array(["setosa", "versicolor", "virginica", "setosa"] * 50)
TABLE = "length,kind,width\n" + "".join(f"{a},{k},{b}\n" for (a, b), k in zip(ROWS, KIND, strict=True))
SETTINGS = {"key": None, "label": None, "classes": None, "space": "auto", "dequantise": False, "scaling": "none"}
FRACTIONS = {"val": 0.1, "test": 0.2, "seed": 0}


def array(path, **changes):
    return build("dataset", {"name": "array", "path": str(path), **SETTINGS, **FRACTIONS, **changes})


def write(folder, text, name="x.csv"):
    (folder / name).write_text(text)
    return folder / name


def pairs(data):
    """Every row of the splits with its label."""
    x = torch.cat([data.train, data.val, data.test])
    y = torch.cat([data.labels[s] for s in ("train", "val", "test")])
    return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True))


def refused(message, path, **changes):
    with pytest.raises(UserError, match=message) as caught:
        array(path, **changes)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("label", ["kind", 1, -2])
def test_labels_stay_with_their_rows_and_are_numbered_in_sorted_order(label, tmp_path):
    data = array(write(tmp_path, TABLE), label=label)
    names = ["setosa", "versicolor", "virginica"]
    assert data.class_names == names and data.column_names == ["length", "width"] and "classes" in features_of(data)
    y = [names.index(k) for k in KIND]
    assert pairs(data) == sorted((*map(float, r), i) for r, i in zip(np.float32(ROWS), y, strict=True))
    (told,) = data.notes
    assert "3 classes, 0 is 'setosa' (100 rows), 1 is 'versicolor' (50 rows)" in told
    for split, n in (("train", 140), ("val", 20), ("test", 40)):
        assert torch.bincount(data.labels[split]).tolist() == [n // 2, n // 4, n // 4]


def test_labels_of_every_kind_and_file_are_the_same(tmp_path):
    """Numbers are sorted as numbers: 2 before 10; bytes, texts, reals and booleans are labels too."""
    wanted = None
    kinds = {
        "integers": np.where(KIND == "setosa", 2, 10),
        "reals": np.where(KIND == "setosa", 2.0, 10.0),
        "texts": np.where(KIND == "setosa", "2", "10"),
        "bytes": np.where(KIND == "setosa", "2", "10").astype("S"),
    }
    for y in kinds.values():
        np.savez(tmp_path / "x.npz", rows=ROWS, y=y)
        data = array(tmp_path / "x.npz", label="y")
        assert data.class_names == ["2", "10"]
        wanted = wanted or pairs(data)
        assert pairs(data) == wanted
    np.save(tmp_path / "x.npy", np.c_[kinds["integers"], ROWS])
    assert pairs(array(tmp_path / "x.npy", label=0)) == wanted
    text = "".join(f"{y},{a},{b}\n" for y, (a, b) in zip(kinds["reals"], ROWS, strict=True))
    assert pairs(array(write(tmp_path, text), label=0)) == wanted
    np.savez(tmp_path / "x.npz", rows=ROWS, y=kinds["integers"] == 2)
    assert array(tmp_path / "x.npz", label="y").class_names == ["False", "True"]


def test_a_label_that_is_none_is_one_line(tmp_path):
    path = write(tmp_path, TABLE)
    refused(
        "dataset.label=kinds: not an option; allowed: kind, length, width; did you mean 'kind'", path, label="kinds"
    )
    refused("dataset.label=3: there are 3 columns, 0 to 2, and -1 is the last", path, label=3)
    numbers = write(tmp_path, "".join(f"{a},{b}\n" for a, b in ROWS), "numbers.csv")
    refused("dataset.label=1: 19. different labels in 200 rows are no classes", numbers, label=1)
    refused("row 1 .line 2. holds 'setosa' in column 2 .'kind'., .*name it by dataset.label", path)
    refused("dataset.classes=.*: needs dataset.label", path, classes=["setosa"])
    refused("dataset.classes=rose: not an option; allowed: setosa", path, label="kind", classes=["setosa", "rose"])
    refused("all 200 rows have the label 'x'", write(tmp_path, "".join(f"{a},x\n" for a, _ in ROWS)), label=1)
    holes = TABLE.replace("versicolor", "", 2).replace("virginica", "NA", 1)
    refused(r"dataset.label=kind: 3 row\(s\) have no label: row\(s\) 2, 3, 6", write(tmp_path, holes), label="kind")
    bare = "".join(f"{a},{b}\n" for a, b in ROWS)
    refused("dataset.label=kind: the columns have no names; give the index", write(tmp_path, bare), label="kind")
    refused("dataset.label=a: 2 columns have this name", write(tmp_path, "a,a,b\n1.5,x,2\n"), label="a")
    np.savez(tmp_path / "x.npz", rows=ROWS, y=KIND[:-1])
    refused(r"dataset.label=y: has shape \(199,\)", tmp_path / "x.npz", label="y")
    refused("dataset.label=z: not an option; allowed: rows, y", tmp_path / "x.npz", label="z")


def test_missing_values_are_refused_with_their_places(tmp_path):
    holes = TABLE.replace(f"{ROWS[3, 0]},", ",", 1).replace(f",{ROWS[6, 1]}\n", ",?\n", 1)
    told = r"2 value\(s\) are missing: row 4 \(line 5\) has no number in column 1 \('length'\), row 7 "
    refused(told + r"\(line 8\) holds '\?' in column 3 \('width'\); fill them in", write(tmp_path, holes), label="kind")
    holes = "a,b\n" + "".join(f"{a},{b}\n" for a, b in np.where(ROWS > 0, ROWS, np.nan))
    refused(rf"{(ROWS <= 0).sum()} value\(s\) are missing: .* and {(ROWS <= 0).sum() - 5} more", write(tmp_path, holes))
    np.save(tmp_path / "x.npy", np.where(ROWS > 2.2, np.nan, ROWS))
    refused(r"row\(s\) hold nan or inf, .* in coordinate\(s\) \[[01]\]; \d value\(s\) in all", tmp_path / "x.npy")


def test_a_class_left_out_lies_outside_and_nowhere_else(tmp_path):
    path = write(tmp_path, TABLE)
    data = array(path, label="kind", classes=["setosa", "virginica"], scaling="standardize")
    assert len(data.outside) == 50 and len(data.train) + len(data.val) + len(data.test) == 150
    raw = data.transform.inverse(data.outside.double()).round(decimals=4)
    assert sorted(raw.tolist()) == sorted(ROWS[KIND == "versicolor"].tolist())
    assert set(data.labels["train"].tolist()) == {0, 2}
    torch.testing.assert_close(data.train.mean(0), torch.zeros(2), atol=1e-6, rtol=0)  # of the rows kept


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_have_the_same_share_of_every_split(seed):
    y = torch.from_numpy(np.random.default_rng(seed).choice(4, 300, p=[0.6, 0.3, 0.09, 0.01]))
    parts = split_indices(300, 0.2, 0.1, seed, y)
    assert len(torch.cat(list(parts.values())).unique()) == 300
    for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        off = torch.bincount(y[parts[split]], minlength=4) - share * torch.bincount(y, minlength=4)
        assert len(parts[split]) == round(300 * share) and float(off.abs().max()) <= 2.5
    assert not torch.equal(
        parts["train"].sort().values, split_indices(300, 0.2, 0.1, seed + 2, y)["train"].sort().values
    )
    single = split_indices(10, 0.2, 0.2, seed, torch.tensor([0] * 9 + [1]))
    assert 9 in single["train"]


def test_grids_are_found_and_named(tmp_path):
    age, smoker, pay = G.integers(18, 65, 200), G.integers(0, 2, 200), 50 * G.integers(20, 60, 200)
    table = np.c_[ROWS[:, 0], age, smoker, pay, np.arange(200)]
    assert steps_of(torch.as_tensor(table)).tolist() == [
        0,
        1,
        1,
        50,
        0,
    ]  # numbers that never repeat are as good as real
    text = "x,age,smoker,pay,y\n" + "".join(
        ",".join(map(str, r)) + "\n" for r in np.c_[table[:, :4], ROWS[:, 1]].tolist()
    )
    (told,) = array(write(tmp_path, text)).notes
    n = len(set(age.tolist()))
    assert f"'age' (whole numbers, {n} values), 'smoker' (0 or 1), 'pay' (" in told and "no density" in told
    (told,) = array(tmp_path / "x.csv", dequantise=True).notes
    assert f"nll_raw less {math.log(50):.4g}," in told
    data = array(tmp_path / "x.csv", dequantise=True, scaling="none")
    x = torch.cat([data.train, data.val, data.test]).double()
    back = x.clone()
    back[:, 1:3], back[:, 3] = x[:, 1:3].round(), 50 * (x[:, 3] / 50).round()
    assert sorted(back[:, 1:4].tolist()) == sorted(table[:, 1:4].tolist())
    assert torch.equal(data.train, array(tmp_path / "x.csv", dequantise=True).train)


def test_spread_numbers_have_the_entropy_of_the_numbers():
    """A die on multiples of 3: uniform on an interval of length 18, whose log density less the log step is -log 6."""
    die = 3.0 * torch.arange(6.0).double().repeat(20_000)[:, None]
    x = spread(die, steps_of(die), seed=0)
    assert torch.equal(3 * (x / 3).round(), die)
    wide = float(x.max() - x.min())
    assert wide == pytest.approx(18, abs=1e-3)
    assert float(x.var()) == pytest.approx(18**2 / 12, rel=0.01)  # 120,000 points: standard error .26 %
    assert math.log(wide) - math.log(3) == pytest.approx(math.log(6), abs=1e-4)


@pytest.mark.slow
def test_a_run_keeps_labels_and_names_through_training_resuming_loading_and_sampling(tmp_path):
    path = write(tmp_path, TABLE)
    words = ["dataset=array", f"dataset.path={path}", "dataset.label=kind", "dataset.classes=[setosa,virginica]"]
    words += ["preprocess=whiten", "objective=dsm", "objective.sigma=0.3", "energy.hidden=[16]", "steps=20"]
    words += ["logger=none", "sample_steps=5", "samples=10", "evaluation=[likelihood,ood]", f"output_dir={tmp_path}"]
    result = ebm_lab.train(words, quiet=True)
    assert result.summary["nll_raw"] - result.summary["nll"] == pytest.approx(
        -float(result.dataset.transform.log_det_at(result.dataset.test).mean()), rel=1e-5
    )
    assert 0 <= result.summary["ood_auroc_energy_outside"] <= 1
    run = ebm_lab.load_run(result.path)
    assert run.dataset.class_names == ["setosa", "versicolor", "virginica"]
    assert torch.equal(run.dataset.labels["test"], result.dataset.labels["test"]) and len(run.dataset.outside) == 50
    again = ebm_lab.train([f"resume={result.path}", "steps=30"], quiet=True)
    assert again.status == "finished"
    x = run.dataset.transform.inverse(run.dataset.test)
    values = run.log_prob(x).values
    assert -float(values.mean()) == pytest.approx(result.summary["nll_raw"], abs=1e-3)
    path.unlink()  # without the data, the run knows their names still
    sample(run=str(result.path), n=7)
    with (result.path / "samples" / "samples.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    assert names == ["length", "width"]
    assert np.array_equal(np.array(rows, float), np.load(result.path / "samples" / "samples.npy"))
    kept = ebm_lab.load_run(result.path, data="kept").dataset
    assert kept.class_names == ["setosa", "versicolor", "virginica"] and kept.column_names == ["length", "width"]


def test_other_coordinates_keep_labels_and_names(tmp_path):
    data = array(write(tmp_path, TABLE), label="kind", classes=["setosa"])
    other = preprocessed(data, "whiten")
    assert other.labels is data.labels and other.class_names == data.class_names
    assert other.column_names == ["length", "width"] and len(other.outside) == 100


@pytest.mark.parametrize(
    "name, counts, d",
    [
        ("wine_cultivars", {"class_0": 59, "class_1": 71, "class_2": 48}, 13),
        ("breast_cancer", {"malignant": 212, "benign": 357}, 30),
    ],
)
def test_the_tables_inside_scikit_learn_leave_out_a_class_as_anomalies(name, counts, d):
    whole = build("dataset", {"name": name, "classes": None, **FRACTIONS})
    rows = torch.cat([whole.train, whole.val, whole.test])
    assert rows.shape == (sum(counts.values()), d) and whole.outside is None and len(whole.column_names) == d
    assert whole.class_names == list(counts) and "classes" in features_of(whole)
    y = torch.cat([whole.labels[s] for s in ("train", "val", "test")])
    assert torch.bincount(y).tolist() == list(counts.values())
    torch.testing.assert_close(whole.train.std(0), torch.ones(d), atol=1e-4, rtol=0)
    first, *others = counts
    data = build("dataset", {"name": name, "classes": others, **FRACTIONS})
    assert len(data.outside) == counts[first] and 0 not in data.labels["train"]
    raw = data.transform.inverse(torch.cat([data.train, data.val, data.test, data.outside]).double())
    wanted = whole.transform.inverse(rows.double())
    torch.testing.assert_close(sorted_by_all(raw), sorted_by_all(wanted), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=f"dataset.classes=nothing: not an option; allowed: {sorted(counts)[0]}"):
        build("dataset", {"name": name, "classes": ["nothing"], **FRACTIONS})


def sorted_by_all(rows):
    """The rows in the order of their sums."""
    return rows[rows.sum(1).argsort()]
