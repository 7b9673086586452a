"""A run that version 0.1.0 made loads, resumes, evaluates and samples as it did there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.tools import sample

MADE = Path(__file__).parents[1] / "fixtures" / "run_of_0.1.0"
"""objective=pcd dataset=array dataset.path=rows.csv energy.hidden=[4] batch_size=8 objective.buffer_size=16 steps=20"""
AT = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
ENERGIES = [0.1667896956205368, 1.2845017910003662]
NLL_OF_30_STEPS = 3.23138


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run beside its data, in the directory in which it was begun: its config names them by a relative path."""
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_it_loads_with_the_energy_that_it_had(run):
    loaded = ebm_lab.load_run(run)
    torch.testing.assert_close(loaded.energy(AT), torch.tensor(ENERGIES), rtol=1e-6, atol=1e-6)
    assert len(loaded.dataset.train) == 48


def test_it_resumes_to_where_it_would_have_come(run):
    """Version 0.1.0 resumed it to this nll; other machines round the ten steps otherwise, by far less than 1e-4."""
    result = ebm_lab.train([f"resume={run}", "steps=30"], quiet=True)
    assert result.status == "finished" and result.summary["nll"] == pytest.approx(NLL_OF_30_STEPS, abs=1e-4)
    assert ebm_lab.load_run(run).dataset.record is not None  # from its first save on it knows its data


def test_it_is_evaluated_and_sampled(run):
    evaluate(run=str(run), evaluation="likelihood", device="cpu")
    record = json.loads((run / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert record["nll"] == pytest.approx(json.loads((run / "summary.json").read_text())["nll"], abs=1e-4)
    sample(run=str(run), n=5, device="cpu")
    assert np.load(run / "samples" / "samples.npy").shape == (5, 2)


def test_settings_that_came_later_keep_an_evaluation_as_it_was(run):
    """The run's config holds the settings of `ood` from before there was a score of refined energies."""
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["evaluation"]["ood"] = {
        **{"name": "ood", "points": 20, "resamples": 20, "levels": 2, "draws": 1},
        **{"sigma": None, "shift": 2.0, "others": []},
    }
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    found = ebm_lab.load_run(run).evaluate("ood").metrics
    assert "ood_auroc_energy_shifted" in found and not [name for name in found if "_refined_" in name]
