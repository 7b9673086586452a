"""The study of anomalies: its detectors against closed forms, its table against counting, one of its runs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from tests.cli.test_presets import script

study = script("anomalies")


def test_detectors_are_their_formulas():
    """Mahalanobis with the maximum-likelihood covariance, the Gaussian with noise, and a sum of Gaussian kernels."""
    g = np.random.default_rng(0)
    z, x = g.normal(size=(80, 3)) @ g.normal(size=(3, 3)), g.normal(size=(7, 3))
    fitted = {name: fit(z)(x) for name, fit in study.detectors(0, 0.5).items()}
    off = x - z.mean(0)
    for name, s in (("Mahalanobis", np.cov(z.T, ddof=0)), ("Gaussian, blurred", np.cov(z.T) + 0.25 * np.eye(3))):
        np.testing.assert_allclose(fitted[name], (off @ np.linalg.inv(s) * off).sum(1), rtol=1e-8)
    square = ((x[:, None] - z) ** 2).sum(2)
    density = np.exp(-square / 2).mean(1) / (2 * math.pi) ** 1.5
    np.testing.assert_allclose(fitted["kernel density, 1"], -np.log(density), rtol=1e-6)
    far = {name: fit(z)(x * 50) for name, fit in study.detectors(0, 0.5).items()}
    for name in fitted:
        assert (far[name] >= fitted[name] - 1e-9).all() and far[name].mean() > fitted[name].mean(), name


def test_the_model_s_scores_of_a_gaussian(monkeypatch):
    """E = |x|^2 / 2: the gradient norm is |x|, the residual's mean over z sigma^2 |x|^2 / d + (1 - sigma^2)^2."""
    monkeypatch.setattr(study, "DRAWS", 20_000)
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    run = SimpleNamespace(energy=lambda x: x.square().sum(1) / 2)
    found = study.model_scores(run, x, 0.5)
    assert found["energy"].tolist() == [0, 12.5] and found["gradient norm"].tolist() == [0, 5]
    wanted = torch.tensor([0.0, 0.25 * 12.5]) + 0.75**2
    torch.testing.assert_close(found["residual"], wanted, atol=0.05, rtol=0)  # four standard errors of the second


ROWS = [
    {
        "dataset": "wine_cultivars",
        "anomaly": c,
        "seed": s,
        "energy": 0.9 + 0.01 * s,
        "one-class SVM": 0.8,
        "forest": 0.7,
    }
    for c in ("class_0", "class_1", "class_2")
    for s in (0, 1)
]


def test_the_table_holds_whole_seeds_and_the_verdict_is_of_paired_differences():
    more = {
        "dataset": "wine_cultivars",
        "anomaly": "class_0",
        "seed": 2,
        "energy": 0.0,
        "one-class SVM": 0,
        "forest": 0,
    }
    page = study.page([*ROWS, more])  # seed 2 lacks two classes
    assert "| **energy** | 0.905 ± 0.005 |" in page and "| one-class SVM | 0.800 ± 0.000 |" in page
    assert "| seeds | 2 |" in page and "digits:" not in page
    assert "- wine: the energy is above the best of the others, one-class SVM: difference +0.105 ± 0.005." in page
    worse = [{**r, "energy": r["energy"] - 0.5} for r in ROWS]
    assert "the energy is below" in study.page(worse)
    level = [{**r, "energy": 0.8 + 0.01 * (r["seed"] - 0.5)} for r in ROWS]
    assert "the energy is level with" in study.page(level)


def test_an_unknown_set_is_one_line(tmp_path):
    with pytest.raises(UserError, match="only=wine: not an option; allowed: breast_cancer, digits, wine_cultivars"):
        study.anomalies(out=str(tmp_path), only="wine")


def test_outside_are_all_rows_of_the_class_left_out():
    for name, kept, anomaly, n in (
        ("digits", [0, 1, 2, 3, 4, 5, 6, 7, 9], 8, 174),
        ("wine_cultivars", ["class_0"], 1, 119),
    ):
        values = {"name": name, "classes": kept, "val": 0.1, "test": 0.3, "seed": 0}
        data = build("dataset", values)
        outside = study.rows_outside(data, values, anomaly)
        assert len(outside) == n
        apart = torch.cdist(outside.flatten(1), torch.cat([data.train, data.val, data.test]).flatten(1))
        assert float(apart.min()) > 0


@pytest.mark.slow
def test_a_run_of_the_study_finds_a_cultivar(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = study.aurocs("wine_cultivars", "class_0", 0)
    assert list(found)[:3] == list(study.OWN) and all(v > 0.9 for v in found.values())
