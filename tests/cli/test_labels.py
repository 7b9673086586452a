"""The study of labels: its table and bars against counting, the classifiers beside it, and that its runs compose."""

import sys

import numpy as np
import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from tests.cli.test_presets import script

sys.modules["tables_of_runs"] = script("tables_of_runs")
baselines = sys.modules["labels_baselines"] = script("labels_baselines")
study = script("labels")
RUNS = [(n, g, r) for n, s in study.STUDIES.items() for g in s.groups for r in s.rows]


def row(name, accuracy, seed, **more):
    return {"study": "few", "group": "digits", "row": name, "seed": seed, "accuracy": accuracy, **more}


def test_the_table_holds_means_and_the_number_of_seeds():
    done = [row("pcd", 0.9, 0), row("pcd", 0.94, 1), row("SVC", 0.8, 0)]
    lines = study.LAB.table(done, "few").splitlines()
    assert lines[0] == "| model | accuracy | ECE | CPU-s | seeds |"
    assert lines[2:] == ["| SVC | 0.800 |  |  | 1 |", "| **pcd** | 0.920 |  |  | 2 |"]


def test_a_missed_bar_is_said_and_a_difference_is_of_the_same_seeds():
    alone = [row("cross-entropy alone", 0.85, 0), row("cross-entropy alone", 0.1, 1)]
    good, bad = row("pcd", 0.89, 0), row("dsm", 0.90, 0)
    said = study.LAB.verdicts([*alone, good, bad], "few")
    assert said.startswith("Targets set before the runs: 1 of 2 are met.") and "pcd" not in said
    assert "- dsm: accuracy less that of cross-entropy alone is 0.050, where at least 0.06 was asked for." in said
    assert "Missed" not in study.LAB.verdicts([*alone, good], "few")


def test_every_bar_is_of_a_run_of_the_study():
    for bar in study.BARS:
        own = study.STUDIES[bar.study]
        assert bar.group in own.groups and bar.row in own.rows and bar.metric in own.metrics, bar
        assert bar.over is None or bar.over in own.rows


@pytest.mark.parametrize("name, group, kind", RUNS)
def test_every_run_composes(name, group, kind):
    own = study.STUDIES[name]
    config = compose_config([*own.groups[group].split(), *own.rows[kind].split(), *study.QUIET.split()])
    assert config["objective"]["name"] == "jem" and config["energy"]["name"].startswith("labelled")


def test_few_labels_reach_the_classifiers_beside_the_model():
    """With the labels of two classes only, both are right about these and never about the third."""
    data = build("dataset", {"name": "digits", "classes": [0, 1, 2], "val": 0.15, "test": 0.15, "seed": 0})
    y = data.labels["train"]
    found = baselines.of_few(data, torch.where(y < 2, y, -1), 0)
    share = float((data.labels["test"] < 2).double().mean())
    assert found["SVC"]["accuracy"] == pytest.approx(share, abs=0.02)
    assert found["label spreading"]["accuracy"] == pytest.approx(share, abs=0.02)


def test_inputs_are_pixels_from_0_to_1_and_columns_of_deviation_1():
    digits = build("dataset", {"name": "digits", "classes": None, "val": 0.15, "test": 0.15, "seed": 0})
    x, _ = baselines.splits(digits, "train")
    assert x.min() == 0 and x.max() == 1 and x.shape[1] == 64
    wine = build("dataset", {"name": "wine_cultivars", "classes": None, "val": 0.1, "test": 0.3, "seed": 0})
    x, _ = baselines.splits(wine, "train")
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-6)


def test_an_unknown_study_is_one_line(tmp_path):
    with pytest.raises(UserError, match="only=wine: not an option"):
        study.labels(out=str(tmp_path), only="wine")
