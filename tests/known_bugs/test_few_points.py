"""Kind: few, single or equal points, of which a statistic, a fit or a picture does not exist, end in nan or a raw error
instead of a line."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import EvalView
from ebm_lab.evaluation.density import Density
from ebm_lab.evaluation.fisher import gaussian_score
from ebm_lab.runs.assemble import assemble
from tests.evaluation.test_evaluate_all import FAST
from tests.helpers import Points

SHORT = ["steps=2", "logger=none", "threads=1", "sample_steps=4", "compile=off"]
EVERY = (
    "likelihood",
    "ais",
    "ksd",
    "mmd",
    "longrun",
    "histograms",
    "prdc",
    "c2st",
    "sm_loss",
    "chains",
    "density",
    "ood",
)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def strict(file):
    return json.loads(Path(file).read_text(), parse_constant=refuse)


def array(folder, train, held_out, d=2, scaling="standardize"):
    n = train + 2 * held_out
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(n, d)).astype("float32"))
    fraction = held_out / n
    return ["dataset=array", f"dataset.path={folder / 'x.npy'}", f"dataset.val={fraction}", f"dataset.test={fraction}",
            f"dataset.scaling={scaling}"]  # fmt: skip


def reports(overrides, names=EVERY):
    fast = [f"evaluation.{k}={v}" for k, v in FAST.items() if k.split(".")[0] in names]
    trainer, _ = assemble(compose_config([*SHORT, f"evaluation=[{','.join(names)}]", *fast, *overrides]))
    view = trainer.evaluations.view("test", trainer.state.step)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "std|var", UserWarning)  # torch's word for 0 / 0
        return {name: trainer.evaluations.report(name, view) for name in names}


CASES = {
    "one held-out point": (50, 1, 2, []),
    "one held-out point on the line": (50, 1, 1, []),
    "two held-out points": (50, 2, 2, []),
    "two training points": (2, 1, 2, []),
    "one sample": (50, 20, 2, ["samples=1"]),
    "two samples": (50, 20, 2, ["samples=2"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_evaluation_of_few_points_gives_finite_numbers_or_a_reason(case, tmp_path):
    train, held_out, d, more = CASES[case]
    found = reports([*array(tmp_path, train, held_out, d), "objective=dsm", *more])
    for name, report in found.items():
        if isinstance(report, str):
            assert len(report) > 15
        else:
            assert all(map(math.isfinite, report.metrics.values())), name
            assert not any("not finite" in note for note in report.notes), name
    if held_out == 1:
        assert "2 held-out points, and has 1" in found["mmd"] and "2 held-out points, and has 1" in found["ksd"]
    if more == ["samples=1"]:
        assert "2 samples, and has 1" in found["mmd"]


def test_equal_held_out_points_give_no_kernel_a_width(generator):
    data = Points(torch.ones(20, 2))
    from ebm_lab.evaluation.ksd import KSD
    from ebm_lab.evaluation.mmd import MMD

    view = EvalView(lambda x: x.sum(1), data, "test", object(), 20, 3, generator)  # type: ignore[arg-type]
    assert "points are equal" in str(MMD(widths=[1.0], points=100).applies(view))
    assert "points are equal" in str(KSD(widths=[1.0], points=100, bootstraps=10).applies(view))


@pytest.mark.parametrize(
    "rows", [[[0.5, 1.0]], [[0.5, 1.0]] * 5, [[0.5, 1.0], [2.0, 1.0]]], ids=["one", "equal", "flat"]
)
@pytest.mark.parametrize("d", [1, 2])
def test_a_density_is_drawn_around_points_without_an_extent(rows, d, generator):
    data = Points(torch.tensor(rows)[:, :d])
    view = EvalView(lambda x: 0.5 * (x**2).sum(1), data, "test", None, 5, 3, generator)
    assert Density(cells=20)(view).images["density"].shape[0] == 3


@pytest.mark.parametrize("far", [[0.0, 1000.0], [1000.0, 0.0]])
def test_a_density_with_an_outlier_is_a_picture_of_a_sane_size(far, generator):
    data = Points(torch.cat([torch.randn(50, 2, generator=generator), torch.tensor([far])]))
    view = EvalView(lambda x: 0.5 * (x**2).sum(1), data, "test", None, 5, 3, generator)
    assert max(Density(cells=20)(view).images["density"].shape) < 2500


def test_a_singular_covariance_has_no_gaussian_score():
    assert gaussian_score(torch.tensor([[0.0, 1.0], [2.0, 3.0]])) is None
    assert gaussian_score(torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, -1.0]])) is not None


@pytest.mark.parametrize("overrides", [["max_train=1"], ["objective.sigma=0.1", "max_train=1"]], ids=["auto", "given"])
def test_one_training_point_is_refused_in_a_line(overrides, tmp_path):
    choice = ["objective=dsm", "dataset=two_moons", *SHORT, *overrides, f"output_dir={tmp_path}"]
    with pytest.raises(UserError, match="dataset=two_moons: one training point has no spread"):
        ebm_lab.train(choice, quiet=True)
    assert not (tmp_path / "runs").exists()


def test_equal_training_points_are_refused_in_a_line(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((30, 2), dtype="float32"))
    choice = ["objective=dsm", "dataset=array", f"dataset.path={tmp_path / 'x.npy'}", "dataset.scaling=none"]
    with pytest.raises(UserError, match="all training points are equal"):
        ebm_lab.train([*choice, *SHORT, f"output_dir={tmp_path}"], quiet=True)


def test_a_noise_mixture_of_more_components_than_points_is_refused_in_a_line(tmp_path):
    choice = [*array(tmp_path, 3, 1), "objective=nce", "objective.noise=mixture", "objective.components=4"]
    with pytest.raises(UserError, match=r"objective.components=4: .*there are 3; give fewer"):
        ebm_lab.train([*choice, *SHORT, f"output_dir={tmp_path}"], quiet=True)


@pytest.mark.slow
def test_a_run_of_four_points_finishes_with_valid_json_and_can_be_evaluated(tmp_path):
    choice = [
        *array(tmp_path, 2, 1),
        "objective=dsm",
        *SHORT,
        "eval_every=1",
        "batch_size=16",
        f"output_dir={tmp_path}",
    ]
    run = ebm_lab.train(choice, quiet=True)
    summary = strict(run.path / "summary.json")
    assert summary["status"] == "finished" and "mmd2" not in summary and math.isfinite(summary["nll"])
    assert any("evaluation 'mmd' is left out" in line and "held-out" in line for line in summary["said"])
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    evaluate(run=str(run.path), evaluation="mmd,ksd,likelihood,histograms", device="cpu")
    record = strict(run.path / "evaluation" / "evaluation.json")
    assert record["failed"] == {} and sorted(record["left_out"]) == ["histograms", "ksd", "mmd"]
