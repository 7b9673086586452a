"""What a run says at its start of weights that it will not learn, and at its end of a model worse than trivial."""

import pytest

import ebm_lab
from tests.exhaustive import cases

FAST = ["logger=none", "threads=1", "samples=20", "sample_steps=5", "evaluation=[likelihood]", "compile=off"]


def run(tmp_path, capsys, *overrides):
    result = ebm_lab.train([*FAST, f"output_dir={tmp_path}", *overrides])
    return result, capsys.readouterr()


def test_a_bad_model_finishes_and_is_called_worse_than_a_gaussian(tmp_path, capsys):
    """One step leaves the energy as it was made, an isotropic Gaussian or so; the data are correlated at .95."""
    bad = [
        "dataset=gaussian",
        "energy=mlp",
        "dataset.correlation=0.95",
        "objective=ssm",
        "steps=1",
        "dataset.train=2000",
    ]
    result, out = run(tmp_path, capsys, *bad)
    (line,) = [line for line in result.summary["said"] if "worse than" in line]
    assert result.status == "finished" and line in out.out + out.err
    assert line.startswith("the model is worse than a fitted Gaussian by ")
    assert result.summary["nll_above_gaussian"] == pytest.approx(
        result.summary["nll"] - result.summary["nll_gaussian"], abs=1e-6
    )


def test_four_dimensions_have_a_likelihood_by_default(tmp_path, capsys):
    """By exact samples of the law, for an energy without a formula."""
    result, _ = run(tmp_path, capsys, "dataset=gaussian", "dataset.dim=4", "energy=mlp", "objective=nce", "steps=200")
    assert {"nll", "nll_gap", "nll_gap_se", "log_z_ess", "kl_forward", "kl_reverse"} <= result.summary.keys()
    assert "nll_gap_blur" not in result.summary


BLIND = (
    [(name, True) for name in ("sm", "ssm", "fdssm", "dsm", "dsm_cv", "ksd", "min_velocity", "lsd")]
    + [
        (name, False)
        for name in ("nce", "cnce", "mpf", "ed", "multi_dsm", "mle", "cd", "pcd", "tre", "unbiased_cd", "jem")
    ]
    + [(name, False) for name in ("fce", "f_ebm", "vera", "coopnets", "drl", "cdrl", "dual_sm", "energy_matching")]
)
"""Every objective, and whether it hardly sees the weights of separated modes."""
SHOWN = [("dsm", True), ("ssm", True), ("nce", False), ("pcd", False), ("multi_dsm", False), ("jem", False)]


@pytest.mark.parametrize(("objective", "blind"), cases(BLIND, SHOWN))
def test_objectives_that_do_not_see_the_weights_of_modes_say_so(objective, blind, tmp_path, capsys):
    few = ["dataset=eight_gaussians", "dataset.train=2000", "dataset.held_out=500", "steps=1", "batch_size=16"]
    result, out = run(tmp_path, capsys, f"objective={objective}", *few)
    name = objective.removesuffix("_cv")
    assert (f"objective={name} learns the shape of each and hardly their weights" in out.out + out.err) == blind
    told = [line for line in result.summary["said"] if "are the blur of sigma=" in line]
    assert len(told) == ("nll_gap_blur" in result.summary) <= 1
    assert bool(told) or "dsm" not in objective
