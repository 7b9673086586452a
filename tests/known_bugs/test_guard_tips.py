"""The kind: after trouble the guard names a setting that what was seen does not point at."""

import re

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.runs.advice import advice
from ebm_lab.training.guard import Trouble
from tests.helpers import Points
from tests.training.test_guard_settings import known

RATE = "a smaller optim.lr (now "


def normal(n=500, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def tailed():
    x = normal()
    x[0] = 1000.0
    return x


def config_of(overrides):
    return compose_config(overrides.split() if "dataset=" in overrides else ["dataset=two_moons", *overrides.split()])


def tips(kind, overrides, x=None, chains=False):
    """The tips one by one; each names a setting that the config has."""
    config = config_of(overrides)
    text = advice([Trouble("", kind)], config, chains, None if x is None else Points(x))
    keys = re.findall(r"(?<![\w.])(?:optim|sampler|energy|objective|guard|dataset)\.\w+", text)
    assert all(known(key, config) for key in keys), text
    assert text.startswith("Try ") and text.count(" or ") <= 1
    return re.split(r", | or ", text.removeprefix("Try "))


CASES = {
    # what was seen: (kind, overrides, data, chains, what is named first, whether the learning rate is named)
    "chains that leave where nothing holds them": (
        "chains", "objective=pcd sampler=langevin energy.confine=null", None, True, "energy.confine=2", True
    ),
    "chains that leave where little holds them": (
        "chains", "objective=pcd energy.confine=50", None, True, "a smaller energy.confine (now 50)", True
    ),
    "chains that leave though held": (
        "chains", "objective=pcd sampler=langevin", None, True, "a smaller sampler.step_size (now 0.1)", True
    ),
    "a gap that grows with cold chains": (
        "gap", "objective=mle_short", None, True, "a smaller sampler.step_size", True
    ),
    "acceptance that vanishes at a fixed step": (
        "acceptance", "objective=pcd sampler.target_acceptance=null", None, True, "a smaller sampler.step_size", False
    ),
    "a loss that explodes": ("loss", "objective=dsm objective.sigma=0.1", normal(), False, RATE, True),
    "a loss that explodes with many levels": (
        "loss", "objective=multi_dsm energy.sigma_min=0.1 energy.sigma_max=8", normal(), False, RATE, True
    ),
    "a loss that explodes at a tiny noise level": (
        "loss", "objective=dsm objective.sigma=1e-4", normal(), False, "a larger objective.sigma (now 0.0001)", False
    ),
    "a loss that is nan at a tiny noise level": (
        "finite", "objective=dsm objective.sigma=1e-4", normal(), False, "a larger objective.sigma (now 0.0001)", False
    ),
    "a loss that explodes at a tiny lowest level": (
        "loss",
        "objective=multi_dsm energy.sigma_min=1e-5 energy.sigma_max=8",
        normal(),
        False,
        "a larger energy.sigma_min (now 1e-05)",
        False,
    ),
    "a loss in 1 / length^2 of data of a tiny unit": (
        "loss",
        "dataset=array dataset.path=x.npy dataset.scaling=none objective=ssm",
        1e-5 * normal(),
        False,
        "dataset.scaling=standardize",
        False,
    ),
    "a loss in 1 / length^2 of data of a huge unit": (
        "loss",
        "dataset=array dataset.path=x.npy dataset.scaling=none objective=sm",
        1e5 * normal(),
        False,
        "dataset.scaling=standardize",
        False,
    ),
    "coordinates of widths far apart": (
        "acceptance",
        "dataset=array dataset.path=x.npy dataset.scaling=none objective=pcd",
        normal() * torch.tensor([1.0, 1e5]),
        True,
        "a smaller sampler.step_size",
        False,
    ),
    "a likelihood that is lost where nothing holds the model": (
        "likelihood", "objective=nce energy.confine=null", normal(), False, "energy.confine=2", False
    ),
    "a likelihood that is lost where the model is held too tightly": (
        "likelihood", "objective=ssm energy.confine=0.01", normal(), False, "a larger energy.confine (now 0.01)", False
    ),
    "a likelihood that is lost to heavy tails": (
        "likelihood", "objective=dsm objective.sigma=0.5", tailed(), False, "a larger energy.confine (now 2.0)", False
    ),
    "a likelihood of many levels that is lost to heavy tails": (
        "likelihood",
        "objective=multi_dsm energy.sigma_min=0.1 energy.sigma_max=8",
        tailed(),
        False,
        "a larger energy.sigma_max (now 8)",
        False,
    ),
    "a likelihood that is lost by an objective that sees the data alone": (
        "likelihood", "objective=ssm objective.data_noise=0", normal(), False, "objective.data_noise=0.05", False
    ),
    "a likelihood that is lost although the data are blurred a little": (
        "likelihood",
        "objective=sm objective.data_noise=0.01",
        normal(),
        False,
        "a larger objective.data_noise (now 0.01)",
        False,
    ),
    "a learning rate that is huge, whatever was seen": (
        "likelihood",
        "objective=dsm objective.sigma=1e-3 optim.lr=2",
        normal(),
        False,
        "a smaller optim.lr (now 2)",
        True,
    ),
    "weights of few pairs that explode": (
        "loss", "objective=mpf objective.width_max=3", normal(), False, "a smaller objective.width_max (now 3)", False
    ),
    "nan in half precision": (
        "finite", "objective=dsm objective.sigma=0.1 precision=bfloat16", normal(), False, "precision=float32", True
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind, overrides, x, chains, first, rate", list(CASES.values()), ids=list(CASES))
def test_the_first_tip_is_what_was_seen_points_at(kind, overrides, x, chains, first, rate):
    found = tips(kind, overrides, x, chains)
    assert found[0].startswith(first), found
    assert any(tip.startswith(RATE) for tip in found) == rate, found


def test_more_tips_follow_where_more_is_to_be_seen():
    uneven = normal() * torch.tensor([1.0, 1e5])
    raw = "domain=points dataset=array dataset.path=x.npy dataset.scaling=none objective=pcd"
    assert {"dataset.scaling=standardize", "sampler.mass=diagonal"} <= {*tips("acceptance", raw, uneven, chains=True)}
    assert any(tip.startswith(RATE) for tip in tips("gap", raw, uneven, chains=True)), "a gap is the rate's too"
    fixed = tips("acceptance", "objective=pcd sampler.target_acceptance=null", chains=True)
    assert "sampler.target_acceptance=0.6" in fixed
    cold = tips("gap", "objective=mle_short sampler=langevin", chains=True)
    assert any(tip.startswith("a larger sampler.noise_scale (now ") for tip in cold) and "sampler=mala" in cold


def test_no_tip_for_data_that_are_scaled_or_evenly_wide():
    for name in ("sm", "fdssm", "ksd", "lsd", "min_velocity"):
        assert "dataset.scaling=standardize" in tips(
            "loss", f"dataset=array dataset.path=x.npy dataset.scaling=none objective={name}", 1e-5 * normal()
        )
    assert tips("loss", "objective=ssm", 1e-5 * normal()) == [f"{RATE}0.002)"], "two_moons has no scaling to change"
    scaled = "dataset=array dataset.path=x.npy objective=ssm"
    assert tips("loss", scaled, normal())[0].startswith(RATE)


def test_trouble_that_points_at_nothing_names_the_guard_s_own_limit():
    config = config_of("objective=dsm")
    assert advice([Trouble("", "acceptance")], config, chains=False) == "Try guard.acceptance=null"


def test_a_run_that_is_held_too_tightly_says_so(tmp_path):
    """Confined to a fiftieth of the data: the message of the run itself."""
    np.save(tmp_path / "x.npy", normal(400).numpy())
    result = ebm_lab.train(
        [
            *["dataset=array", f"dataset.path={tmp_path}/x.npy", "objective=dsm", "objective.sigma=0.5", "steps=3"],
            *["energy.hidden=[8]", "energy.confine=0.02", "logger=none", "evaluation=[likelihood]"],
            f"output_dir={tmp_path}",
        ],
        quiet=True,
    )
    assert result.status == "diverged"
    wanted = "Try a larger energy.confine (now 0.02) or a larger objective.sigma (now 0.5)"
    assert result.summary["message"].endswith(wanted)
