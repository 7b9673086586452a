"""Every evaluation meets every kind of run: it gives numbers or says why not, and fails nowhere."""

import json
import math
from pathlib import Path

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import options
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.core import eval_view as views
from ebm_lab.core.eval_view import EvalView
from ebm_lab.distributions.start import start_law
from tests.cli.test_recipes import FOR_BITS
from tests.exhaustive import cases
from tests.helpers import Drift, Points

TINY = ["steps=3", "logger=none", "samples=6", "sample_steps=10", "batch_size=16", "threads=1", "evaluation=[]"]
POINTS = ["dataset=two_moons", "dataset.train=300", "dataset.held_out=100"]
FAST = {
    "ais.temperatures": 20,
    "ais.reverse_moves": 2,
    "ais.cells": 40,
    "smc.temperatures": 5,
    "likelihood.cells": 40,
    "fisher.cells": 40,
    "modes.cells": 40,
    "density.cells": 30,
    "critic.cells": 30,
    "critic.arrows": 8,
    "levels.levels": 2,
    "levels.cells": 30,
    "meeting.moves": 8,
    "longrun.chains": 4,
    "chains.chains": 4,
    "classifier.passes": 2000,
    "conditional.passes": 2000,
    "feature_fid.network.steps": 20,
    "feature_fid.mixture.iterations": 3,
    "feature_fid.mixture.dimensions": 10,
    "inpainting.completions": 2,
    "c2st.points": 60,
    "ksd.points": 60,
    "sm_loss.points": 60,
    "flow_likelihood.points": 20,
    "flow_likelihood.steps": 4,
}
RUNS = [
    *([f"objective={o}", *POINTS] for o in options("objective") if o not in FOR_BITS),
    ["objective=multi_dsm", "energy=score_mlp", "sampler=probability_flow", *POINTS],
    ["objective=dsm", "sampler=none", "dataset=eight_gaussians", "dataset.train=300", "dataset.held_out=100"],
    ["objective=nce", "dataset=mixture_1d", "dataset.train=300", "dataset.held_out=100"],
    ["objective=pcd", "dataset=digits", "dataset.classes=[0,1,2]"],
    ["objective=multi_dsm", "dataset=digits"],
    ["objective=multi_dsm", "energy=score_unet", "energy.channels=[4]", "dataset=digits"],
]


REPRESENTATIVE = (["objective=pcd", *POINTS], *RUNS[-6:-4])
"""Chains in a buffer, a score network that is no density, and a run without a sampler."""


def of_run(overrides):
    return " ".join(x for x in overrides if "train" not in x and "held" not in x)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", cases(RUNS, REPRESENTATIVE, of_run))
def test_every_evaluation_of_every_kind_of_run(overrides, tmp_path):
    run = ebm_lab.train([*overrides, *TINY, f"output_dir={tmp_path}"], quiet=True).path
    evaluate(run=str(run), device="cpu", overrides={f"evaluation.{k}": v for k, v in FAST.items()})
    record = json.loads((Path(run) / "evaluation" / "evaluation.json").read_text())
    assert record["failed"] == {}
    assert sorted([*record["seconds"], *record["left_out"]]) == options("evaluation")
    assert all(len(reason) > 15 for reason in record["left_out"].values())
    assert any(isinstance(v, float) and math.isfinite(v) for v in record.values())


def test_samples_drawn_in_shares_are_those_of_a_sampler_that_sees_each_chain_alone(monkeypatch, generator):
    data = Points(torch.randn(50, 3, generator=generator))

    def film(count):
        own = torch.Generator().manual_seed(0)
        return EvalView(lambda x: x.sum(1), data, "test", Drift(), count, 7, own, start=start_law(data)).trajectory

    whole = film(1300)
    monkeypatch.setattr(views, "NUMBERS", 3)
    shares = film(1300)
    assert [step for step, _ in shares] == [step for step, _ in whole] == [0, 3, 6, 9]
    assert torch.equal(shares[0][1][:500], film(500)[0][1]) and shares[-1][1].shape == (1300, 3)
    torch.testing.assert_close(shares[-1][1], shares[0][1] + 3.0)
