"""Runs in other coordinates than their data's: equal gaps in all units, answers in raw units, and the map kept with the
weights."""

import math

import numpy as np
import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli import tools
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.tools import sample
from ebm_lab.core.errors import UserError
from ebm_lab.core.maps import Warp
from ebm_lab.core.registry import register
from ebm_lab.datasets._preprocessed import Preprocessed
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.runs.train import train as run_config

QUICK = ["logger=none", "eval_every=1000", "samples=50", "sample_steps=20", "batch_size=128", "device=cpu"]
SMALL = ["energy=mlp", "energy.hidden=[16]"]
FAR = {"kind": "sinh", "unit": 1e3, "offset": 1e5}


class Sinh:
    """u + unit * sinh(2 z), z of the mixture."""

    def __init__(self, law, unit, offset):
        self.law, self.unit, self.offset = law, unit, offset

    def sample(self, n, generator):
        return self.offset + self.unit * torch.sinh(2 * self.law.sample(n, generator))

    def log_prob(self, x):
        y = (x - self.offset) / self.unit
        slope = -0.5 * torch.log1p(y * y) - math.log(2 * self.unit)
        return self.law.log_prob(torch.asinh(y) / 2) + slope.sum(1)


@register("dataset", "shaped")
class Shaped(Synthetic):
    """Two Gaussians in the plane, in any unit and place: round, stretched 1:100 at 45 degrees, or with sinh's tails."""

    def __init__(self, *, unit: float = 1.0, offset: float = 0.0, kind: str = "round", n: int = 2000) -> None:
        turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
        middle, width = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.5, 1.0]).double()
        if kind == "stretched":
            width = torch.tensor([0.5, 0.01]).double()
            middle, width = middle @ turn.T, turn * width
        else:
            width = width.diag()
        size = 1.0 if kind == "sinh" else unit
        covariance = (size**2 * width @ width.T).expand(2, 2, 2)
        place = 0.0 if kind == "sinh" else offset
        law = GaussianMixture(torch.tensor([0.7, 0.3]).double(), size * middle + place, covariances=covariance)
        super().__init__(Sinh(law, unit, offset) if kind == "sinh" else law, "shaped", n, n, 0)


def train(folder, *overrides, **data):
    """A run on a data set that has no YAML."""
    config = compose_config([*QUICK, *SMALL, "dataset=two_moons", f"output_dir={folder}", *overrides])
    return run_config({**config, "dataset": {"name": "shaped", **data}}, quiet=True)


@pytest.mark.parametrize("how", ["standardize", "auto"])
@pytest.mark.parametrize("objective", ["dsm", "nce"])
def test_the_gap_is_the_same_in_all_units(objective, how, tmp_path):
    """The float32 rows differ in their last bits alone; `auto` leaves the first as they are."""
    gaps, raw = [], []
    for unit, offset in ((1.0, 0.0), (1e-5, 0.0), (1e5, 0.0), (1.0, 1e6)):
        run = [f"objective={objective}", f"preprocess={how}", "steps=60", "evaluation=[likelihood]"]
        summary = train(tmp_path, *run, unit=unit, offset=offset).summary
        gaps.append(summary["nll_gap"])
        raw.append(summary.get("nll_raw", summary["nll"]) - 2 * math.log(unit))
    assert max(gaps) - min(gaps) < 1e-3 and max(raw) - min(raw) < 1e-3
    with pytest.raises(UserError, match="float32 rounds their differences away"):
        train(tmp_path, f"objective={objective}", "preprocess=none", "steps=2", "evaluation=[]", offset=1e6)


@pytest.fixture(scope="module")
def warped(tmp_path_factory):
    """A run on heavy-tailed data at a far place, in the coordinates that `auto` chose."""
    told = ["preprocess=auto", "checkpoint_every=20"]
    run = ["objective=dsm", "steps=40", "evaluation=[likelihood,density]"]
    return train(tmp_path_factory.mktemp("warped"), *told, *run, **FAR)


def test_a_warped_run_answers_in_raw_units(warped):
    run = ebm_lab.load_run(warped.path)
    assert isinstance(run.dataset, Preprocessed) and any(isinstance(p, Warp) for p in run.dataset.map.parts)
    raw = run.dataset.transform.inverse(run.dataset.test)
    found = run.log_prob(raw)
    assert -float(found.values.mean()) == pytest.approx(warped.summary["nll_raw"], abs=1e-5)
    truth = run.dataset.dataset.log_prob(raw)
    gap = float((truth - found.values).mean())
    assert gap == pytest.approx(warped.summary["nll_gap"], abs=1e-5)
    x = raw[:20]
    score = run.score(x).double()
    wide = torch.tensor([10.0, 0.0]).double()
    wide, high = torch.stack([wide, wide.flip(0)]), run.energy.double()
    assert high is run.energy
    run.dataset.mean = run.dataset.mean.double()
    slope = torch.stack([(run.log_prob(x + h).values - run.log_prob(x - h).values) / 20 for h in wide], 1)
    torch.testing.assert_close(score, slope, rtol=2e-3, atol=2e-3 * float(slope.abs().max()))


def test_the_raw_density_of_a_warped_run_has_mass_one(warped):
    """By the trapezoid rule in asinh of the raw coordinates, whose slopes are known."""
    run = ebm_lab.load_run(warped.path)
    u = torch.linspace(-14, 14, 701, dtype=torch.float64)
    nodes = torch.cartesian_prod(u, u)
    values = run.log_prob(1e5 + 1e3 * torch.sinh(nodes)).values + (1e3 * torch.cosh(nodes)).log().sum(1)
    assert float(values.exp().sum()) * 0.04**2 == pytest.approx(1, abs=2e-3)


def test_samples_are_saved_in_raw_units_with_and_without_the_data(warped, tmp_path):
    tools.main(sample, [f"run={warped.path}", "n=30", "device=cpu", f"out={tmp_path}"])
    drawn, run = np.load(tmp_path / "samples.npy"), ebm_lab.load_run(warped.path)
    assert drawn.dtype == np.float64 and abs(np.median(drawn) - 1e5) < 5e4
    generator = torch.Generator().manual_seed(0)
    seen = run.sample(30, generator, raw=False)
    run.parts.generator.manual_seed(0)
    assert torch.allclose(run.dataset.transform.forward(run.sample(30, torch.Generator().manual_seed(0))).float(), seen)


def test_a_resumed_run_has_the_bits_of_an_unbroken_one_and_its_map(warped, tmp_path):
    told = ["preprocess=auto", "checkpoint_every=20"]
    run = ["objective=dsm", "evaluation=[likelihood,density]"]
    first = train(tmp_path, *told, *run, "steps=20", **FAR)
    again = ebm_lab.train([f"resume={first.path}", "steps=40"], quiet=True)
    straight = train(tmp_path, *told, *run, "steps=40", **FAR)
    assert again.summary["nll"] == straight.summary["nll"] == warped.summary["nll"]
    one, two = (ebm_lab.load_run(r.path).dataset for r in (again, warped))
    assert torch.equal(one.train, two.train)
    numbers = evaluate(run=str(warped.path), evaluation="likelihood", device="cpu")
    assert numbers is None or "nll" in str(numbers)
    with pytest.raises(UserError, match="preprocess"):
        ebm_lab.train([f"resume={first.path}", "preprocess=whiten"], quiet=True)


def test_the_map_of_the_checkpoint_counts_and_not_a_new_fit(warped, monkeypatch):
    def fit(*args):
        raise AssertionError("a map was fitted again")

    monkeypatch.setattr("ebm_lab.datasets._preprocessed._fit", fit)
    assert ebm_lab.load_run(warped.path).dataset.map.parts


def test_weights_are_taken_over_with_their_coordinates(warped, tmp_path):
    told = ["objective=dsm", "steps=1", "evaluation=[]", f"init_from={warped.path}", "optim.lr=1e-12"]
    other = {**FAR, "unit": 900.0}
    run = train(tmp_path, *told, "preprocess=auto", **other)
    x = warped.dataset.transform.inverse(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    energies = [r.energy(r.dataset.transform.forward(x).float()).detach() for r in (run, warped)]
    torch.testing.assert_close(*energies, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="preprocess=none: the weights of init_from=.* are of preprocess=auto"):
        train(tmp_path, *told, "preprocess=none", **other)


def test_a_run_from_before_the_key_loads_and_none_changes_nothing(tmp_path):
    run = train(tmp_path, "objective=dsm", "preprocess=none", "steps=5", "evaluation=[likelihood]")
    assert "nll_raw" not in run.summary
    file = run.path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config.pop("preprocess") == "none"
    file.write_text(yaml.safe_dump(config))
    path = run.path / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    del content["data"]["map"], content["config"]["preprocess"]
    torch.save(content, path)
    assert type(ebm_lab.load_run(run.path).dataset).__name__ == "Shaped"


def test_wrong_values_are_one_line(tmp_path):
    with pytest.raises(UserError, match="preprocess=twist.*standardize"):
        train(tmp_path, "objective=dsm", "preprocess=twist")
    with pytest.raises(UserError, match="preprocess=whiten: the data are images"):
        ebm_lab.train([*QUICK, "dataset=digits", "objective=dsm", "preprocess=whiten", f"output_dir={tmp_path}"])


def test_a_stretched_mixture_is_learnt_in_a_short_run(tmp_path):
    """A fitted Gaussian is about .1 nats from the truth, and a run without preprocessing more than a nat."""
    run = ["objective=dsm", "preprocess=auto", "steps=600", "evaluation=[likelihood]"]
    gap = train(tmp_path, *run, "energy.hidden=[64,64]", kind="stretched", n=10_000).summary["nll_gap"]
    assert gap < 0.02


def test_a_preprocessed_table_is_sampled_without_its_file(tmp_path):
    """scaling=none keeps what float64 holds of rows a thousand million standard deviations from zero."""
    x = np.random.default_rng(0).multivariate_normal([1e9, 5.0], [[1.0, 3e-4], [3e-4, 1e-6]], 1000)
    np.save(tmp_path / "x.npy", x)
    data = ["dataset=array", f"dataset.path={tmp_path / 'x.npy'}", "dataset.scaling=none", "preprocess=whiten"]
    told = ["objective=dsm", "steps=5", "evaluation=[]", f"output_dir={tmp_path}"]
    run = ebm_lab.train([*QUICK, *SMALL, *data, *told], quiet=True)
    assert torch.allclose(run.dataset.train.T.cov(), torch.eye(2), atol=1e-5)
    whole = ebm_lab.load_run(run.path)
    raw = whole.dataset.transform.inverse(whole.dataset.train).numpy()
    assert np.abs(raw.mean(0) - x.mean(0)).max() < 0.2 and 0.9 < raw[:, 0].std() < 1.1
    tools.main(sample, [f"run={run.path}", "n=20", "device=cpu", f"out={tmp_path / 'a'}"])
    (tmp_path / "x.npy").unlink()
    tools.main(sample, [f"run={run.path}", "n=20", "device=cpu", f"out={tmp_path / 'b'}"])
    kept = ebm_lab.load_run(run.path, data="kept")
    points = torch.from_numpy(raw[:10])
    assert np.array_equal(*(np.load(tmp_path / f / "samples.npy") for f in "ab"))
    assert torch.equal(kept.score(points), whole.score(points))
    with pytest.raises(UserError, match="float32 rounds their differences away"):
        np.save(tmp_path / "x.npy", x)
        ebm_lab.train([*QUICK, *SMALL, *data[:3], "preprocess=none", *told], quiet=True)
    with pytest.raises(UserError, match="holds no squares of that.*preprocess=standardize"):
        train(tmp_path, *told[:3], "preprocess=none", unit=1e-15)
    for how in ("standardize", "auto"):
        assert train(tmp_path, *told[:3], f"preprocess={how}", unit=1e-15).status == "finished"
