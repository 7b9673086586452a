"""Every evaluation on discrete data: it gives numbers or says in one line why not, and the default ones are silent."""

import json
import math
from pathlib import Path

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config, options
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.registry import build, names
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation.ood import OutOfDistribution
from ebm_lab.statistics.prdc import prdc, radii
from tests.evaluation.test_evaluate_all import FAST
from tests.exhaustive import cases
from tests.helpers import Discrete

CONTINUOUS = {"density", "fisher", "flow_likelihood", "ksd", "sm_loss"}
"""Those that need a density or a score of real numbers."""
TINY = ["steps=3", "logger=none", "samples=20", "sample_steps=40", "batch_size=16", "threads=1", "recipe=none"]
SMALL = ["dataset.train=200", "dataset.held_out=100"]
RUNS = {
    "digits": ["dataset=binary_digits", "energy=mlp", "energy.base=bernoulli", "sampler=gwg"],
    "rbm": ["dataset=binary_digits", "energy=rbm", "sampler=block_gibbs"],
    "ising": ["dataset=ising", "dataset.size=[4,4]", "energy=ising", "sampler=gibbs", *SMALL],
    "bars": ["dataset=bars_and_stripes", "dataset.flip=0", "energy=rbm", "sampler=block_gibbs", *SMALL],
    "potts": ["dataset=potts", "dataset.size=[4,4]", "energy=potts", "sampler=gwg", *SMALL],
    "gray": ["dataset=gray_code", "energy=mlp", "sampler=dmala", *SMALL],
    "unsampled": ["dataset=binary_digits", "energy=mlp", "sampler=none", "objective=pseudo_likelihood"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(RUNS, ["digits", "gray", "unsampled"]))
def test_every_evaluation_of_every_kind_of_discrete_run(name, tmp_path):
    """Those that need real numbers are left out with a reason; the default list brings no notes at all."""
    overrides = [*RUNS[name], *TINY, f"output_dir={tmp_path}"]
    run = ebm_lab.train([*(["objective=pcd"] if name != "unsampled" else []), *overrides], quiet=True).path
    evaluate(run=str(run), device="cpu", overrides={f"evaluation.{k}": v for k, v in FAST.items()})
    record = json.loads((Path(run) / "evaluation" / "evaluation.json").read_text())
    assert record["failed"] == {}
    assert sorted([*record["seconds"], *record["left_out"]]) == options("evaluation")
    assert record["left_out"].keys() >= CONTINUOUS
    assert all(len(reason) > 15 for reason in record["left_out"].values())
    evaluate(run=str(run), evaluation="own", device="cpu")
    record = json.loads((Path(run) / "evaluation" / "evaluation.json").read_text())
    assert record["failed"] == {} and record["notes"] == []
    assert any(isinstance(v, float) and math.isfinite(v) for v in record.values()) or name == "unsampled"


def view(data, energy=lambda x: x.flatten(1).sum(1), **more):
    settings = {"sampler": None, "count": 20, "steps": 10, "generator": torch.Generator().manual_seed(0), **more}
    return EvalView(energy, data, "test", start=start_law(data), **settings)


def bits(*shape, n=60):
    return Discrete((torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) < 0.4).float())


@pytest.mark.parametrize("name", sorted(CONTINUOUS))
def test_evaluations_of_real_numbers_say_why_they_are_left_out(name):
    part = names("evaluation")[name]
    data = next(need for need in part.needs if need.role == "dataset")  # type: ignore[attr-defined]
    assert (data.feature, part.needs[0]) == ("continuous", data) and len(data.why) > 30  # type: ignore[attr-defined]
    values = compose_config([f"evaluation=[{name}]"])["evaluation"][name]
    evaluation = build("evaluation", values, f"evaluation.{name}", dataset=bits(1, 4, 4), scale=1.0)
    assert reason_against(evaluation, view(bits(1, 4, 4))) == data.why


@pytest.mark.parametrize("name", ["chains", "longrun"])
def test_chains_of_a_run_without_a_sampler_take_a_kernel_of_bits(name):
    """The states stay bits; which kernel it is, a note says."""
    values = compose_config([f"evaluation=[{name}]", f"evaluation.{name}.chains=4"])["evaluation"][name]
    evaluation = build("evaluation", values, f"evaluation.{name}", dataset=bits(9), scale=1.0)
    seen = []

    def energy(x):
        seen.append(bool(((x == 0) | (x == 1)).all()))
        return x.sum(1)

    report = evaluation(view(bits(9), energy))
    said = f"evaluation.{name}.kernel: MALA moves real numbers, and the data are bits: its place takes gibbs, one sweep"
    assert all(seen) and report.notes[0].startswith(said) and report.metrics
    assert "longrun_states" not in report.images, "bits without a place have no picture"


def test_out_of_distribution_sets_of_bits_are_bits():
    """Uniform and independent sites, no shifted points, and no score that moves x or takes a gradient in it."""
    data = bits(1, 4, 4)
    data.bounds = (0.0, 1.0)
    values = compose_config(["evaluation=[ood]", "evaluation.ood.sigma=0.5"])["evaluation"]["ood"]
    ood = OutOfDistribution(**{**{k: v for k, v in values.items() if k != "name"}, "others": [], "resamples": 5})
    seen = []

    def energy(x):
        seen.append(bool(((x == 0) | (x == 1)).all()) and not x.requires_grad)
        return x.flatten(1).sum(1)

    report = ood(view(data, energy))
    scores = {key.split("_")[2] for key in report.metrics if key.startswith("ood_auroc")}
    sets = {key.split("_")[3] for key in report.metrics if key.startswith("ood_auroc_energy")}
    assert all(seen) and sets == {"uniform", "independent"}
    assert scores == {"energy", "typicality", "intensity", "constant", "nearest"} and "ood_sets" in report.images


def test_points_that_the_law_can_not_have_are_the_least_likely():
    data = bits(1, 4, 4)
    data.log_prob = lambda x: torch.where(x.flatten(1)[:, 0] == 0, 0.0, -torch.inf)  # type: ignore[method-assign]
    values = compose_config(["evaluation=[ood]"])["evaluation"]["ood"]
    ood = OutOfDistribution(**{**{k: v for k, v in values.items() if k != "name"}, "others": [], "resamples": 5})
    metrics = ood(view(data)).metrics
    assert 0 < metrics["ood_auroc_truth_uniform"] < 1


def test_equal_distances_between_bits_are_exactly_equal():
    """200 bits with pairs at equal distances: the k-th neighbour's ball holds all that are as far, on either side. In
    float64 the sums of whole numbers have no rounding."""
    random = bits(200).train
    hamming = (random[:, None] != random).sum(2).double().fill_diagonal_(torch.inf)
    assert torch.equal(radii(random, 5), hamming.kthvalue(5, 1).values.sqrt())
    x = torch.eye(200)[:30]
    found = prdc(x, x.flip(0), 5)
    assert [found["precision"], found["recall"], found["coverage"]] == [1, 1, 1] and found["density"] == 6.0
    repeated = x[:3].repeat(10, 1)
    assert prdc(repeated, repeated[:6], 5)["precision"] == 1, "balls of points that repeat have radius 0"
